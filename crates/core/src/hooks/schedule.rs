//! When a dead letter is tried again, and when it expires.
//!
//! Goes in: how many tries of the schedule have failed, and the time of the last one. Comes out: the next time, exact to
//! the microsecond: there is no jitter, because the pace of the source spreads a backlog.

use super::SECOND_US;
use super::event::words;
use std::fmt;

/// An event is tried for so long: seven days, in microseconds.
pub const LIFETIME_US: i64 = 7 * 24 * 3600 * SECOND_US;
/// How long after a failure of class `ours` an event is tried again, in microseconds. It is short because what failed is
/// ours, and because such a failure says nothing of the event.
pub const OURS_RETRY_US: i64 = 30 * SECOND_US;
/// The longest time from a failure to the next try, in microseconds. A stored time that lies further ahead than this is
/// from a clock that was wrong.
pub const LONGEST_US: i64 = 12 * 3600 * SECOND_US;

words! {
    /// The schedule of a source: `retry = "current"`.
    Schedule {
        /// After 1, 5 and 30 minutes and 2 hours, then every 12 hours.
        Current = "current",
        /// Every 12 hours.
        Classic = "classic",
    }
}

impl Schedule {
    /// How long after the failure with this number (from 1) the next try is, in microseconds.
    pub const fn delay_us(self, failures: u32) -> i64 {
        let minutes = match (self, failures) {
            (Schedule::Classic, _) => 720,
            (Schedule::Current, 0 | 1) => 1,
            (Schedule::Current, 2) => 5,
            (Schedule::Current, 3) => 30,
            (Schedule::Current, 4) => 120,
            (Schedule::Current, _) => 720,
        };
        minutes * 60 * SECOND_US
    }
}

/// When an event expires: seven days from its own time, or from its receipt if its own time was further back than that.
/// A time ahead of the receipt (clocks differ) counts as the receipt.
pub fn expires_us(when_us: i64, received_us: i64) -> i64 {
    let from = if received_us.saturating_sub(when_us) > LIFETIME_US { received_us } else { when_us.min(received_us) };
    from.saturating_add(LIFETIME_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_exact_to_the_second_over_sixty_days() {
        let begin = std::time::Instant::now();
        for (schedule, first) in [(Schedule::Current, &[60, 360, 2160, 9360][..]), (Schedule::Classic, &[][..])] {
            let (mut now_us, mut failures, mut tries) = (0, 0, Vec::new());
            while now_us <= 60 * 86_400 * SECOND_US {
                failures += 1;
                now_us += schedule.delay_us(failures);
                tries.push(now_us / SECOND_US);
            }
            assert_eq!(tries[..first.len()], *first);
            let mut want = first.last().copied().unwrap_or(0);
            for second in &tries[first.len()..] {
                want += 43_200;
                assert_eq!(*second, want, "{schedule}");
            }
            assert!(tries.len() >= 120, "{schedule}: {}", tries.len());
        }
        assert!(begin.elapsed().as_secs_f64() < 1.0);
    }

    #[test]
    fn expiry_counts_from_the_events_own_time_unless_that_is_long_ago() {
        assert_eq!(expires_us(1000, 5000), 1000 + LIFETIME_US);
        assert_eq!(expires_us(1000, 1000 + LIFETIME_US), 1000 + LIFETIME_US);
        assert_eq!(expires_us(1000, 1001 + LIFETIME_US), 1001 + 2 * LIFETIME_US);
        assert_eq!(expires_us(9000, 5000), 5000 + LIFETIME_US);
    }
}
