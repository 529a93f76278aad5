//! Log lines: how they look, and which there are.
//!
//! Goes in: a format, and `RUST_LOG`. Comes out: lines on standard error.

use clap::ValueEnum;

/// Log filter directives for libraries whose own lines would repeat what this module says, once per attempt.
const QUIET_LIBRARIES: &str = "lapin=off,sqlx=error";

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
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("info,{QUIET_LIBRARIES}"));
    // Where everything is traced, the broker's library would write the login into the log, byte by byte.
    let quiet = "lapin=off".parse().expect("a directive");
    let filter = tracing_subscriber::EnvFilter::new(directives).add_directive(quiet);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start in one process (tests) keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
