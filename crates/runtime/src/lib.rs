//! What every process of bugfeed has, whatever its role: logs, signals, a bounded HTTP listener, the admin port with
//! health, watchdog and metrics, and the errors and help of its command line.
//!
//! Knows no tracker, no broker, no client, and no role.

pub mod admin;
pub mod findings;
pub mod health;
pub mod http;
pub mod json_line;
pub mod late;
mod log_filter;
pub mod logging;
pub mod metrics;
pub mod signals;
pub mod throttle;
pub mod usage;
pub mod values;
pub mod watchdog;

/// The version of this build, as `--version` and the version command tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
