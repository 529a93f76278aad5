//! The bugfeed gateway, as a library: `main.rs` is the command line, `app.rs` puts the parts together.

pub mod app;
pub mod bus;
pub mod cli;
pub mod core;
pub mod events;
pub mod health;
pub mod http;
pub mod hub;
pub mod watch;
pub mod welcome;

/// The version of this build, as the version command and `--version` tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
