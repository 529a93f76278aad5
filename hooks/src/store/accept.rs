//! TODO
use bugfeed_core::hooks::{arrival::Duplicates, lane::Settings};
/// Rule
#[derive(Clone, Copy, Debug)]
pub struct Rule { /// s
 pub settings: Settings, /// d
 pub duplicates: Duplicates }
