//! Options of every role: when a part of the process counts as stuck.

use std::time::Duration;

use bugfeed_runtime::watchdog::STUCK_AFTER;
use clap::Args;

/// When a part of the process counts as stuck.
#[derive(Clone, Copy, Debug, Args)]
pub struct WatchdogArgs {
    /// An essential part of this process that gives no sign of life for this long is stuck, in ms: /livez then answers 503
    #[arg(long, env = "BUGFEED_STUCK_AFTER_MS", default_value_t = millis_of(STUCK_AFTER), value_parser = clap::value_parser!(u64).range(3000..=3_600_000), hide_short_help = true)]
    pub stuck_after_ms: u64,
}

const fn millis_of(time: Duration) -> u64 {
    time.as_secs() * 1000
}

impl WatchdogArgs {
    /// The time.
    pub fn stuck_after(&self) -> Duration {
        Duration::from_millis(self.stuck_after_ms)
    }
}
