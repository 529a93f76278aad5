//! When to look again: at once while rows keep coming, then less and less often.
//!
//! Goes in: whether the last look found something. Comes out: a pause. Pure: knows no clock.

use std::time::Duration;

/// The first pause after rows stopped coming.
const FIRST: Duration = Duration::from_millis(5);

/// The polling schedule.
#[derive(Debug)]
pub(crate) struct Pace {
    longest: Duration,
    next: Duration,
}

impl Pace {
    pub(crate) fn new(longest: Duration) -> Pace {
        Pace { longest, next: FIRST.min(longest) }
    }

    /// The pause before the next look; `None` for none at all.
    pub(crate) fn after(&mut self, found: bool) -> Option<Duration> {
        if found {
            self.next = FIRST.min(self.longest);
            return None;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(self.longest);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_while_rows_come_then_doubling_to_the_interval() {
        let check = |longest: u64, steps: &[(bool, Option<u64>)]| {
            let mut pace = Pace::new(Duration::from_millis(longest));
            for (step, (found, want)) in steps.iter().enumerate() {
                assert_eq!(pace.after(*found), want.map(Duration::from_millis), "step {step}");
            }
        };
        let idle = |ms| (false, Some(ms));
        let busy = (true, None);
        check(250, &[idle(5), idle(10), idle(20), idle(40), idle(80), idle(160), idle(250), idle(250)]);
        check(250, &[busy, busy, idle(5), idle(10), busy, idle(5)]);
        check(3, &[idle(3), idle(3)]);
    }
}
