//! The bugfeed gateway, as a library: `main.rs` is the command line, `app.rs` puts the parts together.

pub mod core;
