//! What every process of bugfeed has, whatever its role: logs, signals, and the texts of its command line.
//!
//! Knows no tracker, no broker, no client, and no role.

pub mod logging;
pub mod signals;
pub mod usage;
pub mod values;

/// The version of this build, as `--version` and the version command tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
