//! Log lines: their format, and which of them are written.
//!
//! Goes in: a format, and `RUST_LOG`. Comes out: lines on standard error.

use bugfeed_protocol::log_event::LogEvent;
use clap::ValueEnum;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::log_filter::{self, LogFilter};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging to stderr.
pub fn init_logging(format: LogFormat) {
    let rust_log = std::env::var("RUST_LOG").ok();
    let LogFilter { targets, left_out } = LogFilter::new(rust_log.as_deref());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // If logging is started twice in one process (tests), the first settings stay.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    if !left_out.is_empty() {
        tracing::warn!(target: log_filter::TARGET, event = %LogEvent::LogDirectiveLeftOut, "{left_out}");
    }
}
