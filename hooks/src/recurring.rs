//! What those parts of the hooks share that log, count and warn.
//!
//! Goes in: what happened. Comes out: warnings in readiness, and whether a line of the log is due. It writes no line itself,
//! because each has a text and an event of its own.

use bugfeed_runtime::health::Health;
use bugfeed_runtime::throttle::Throttle;

/// The value of a gauge. A count that is too large for it is the largest one there is.
pub(crate) fn gauge(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Trouble that comes and goes: a warning in readiness for as long as it lasts, and a line of the log each minute.
#[derive(Debug)]
pub(crate) struct Recurring {
    health: Health,
    part: &'static str,
    lines: Throttle,
}

impl Recurring {
    /// None now. `part` is the name in the answer of `/readyz`.
    pub(crate) fn new(health: Health, part: &'static str) -> Recurring {
        Recurring { health, part, lines: Throttle::once_a_minute() }
    }

    /// There is trouble, and `text` says in readiness which. Returns whether a line of the log is due.
    #[must_use]
    pub(crate) fn comes(&self, text: String) -> bool {
        self.health.warn(self.part, text);
        !self.lines.is_quiet()
    }

    /// There is none any more. When it comes again, that is logged at once.
    pub(crate) fn goes(&self) {
        self.lines.reset();
        self.health.calm(self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_a_warning_while_it_lasts_and_is_logged_when_it_comes() {
        let health = Health::new();
        let store = Recurring::new(health.clone(), "store");
        assert_eq!([store.comes("away".to_owned()), store.comes("still away".to_owned())], [true, false]);
        assert!(health.report().lines.iter().any(|line| line.contains("still away")));
        store.goes();
        assert!(!health.report().lines.iter().any(|line| line.contains("away")));
        assert!(store.comes("away again".to_owned()));
    }

    #[test]
    fn gauges_do_not_overflow() {
        assert_eq!([gauge(7_usize), gauge(u64::MAX)], [7, i64::MAX]);
    }
}
