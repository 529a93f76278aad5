//! When to read the change table again: at once while rows keep coming, then less and less often.
//!
//! Goes in: whether the last read found rows. Comes out: a pause. Pure: knows no clock.

/// The first pause after rows have stopped coming.
const FIRST_MS: u64 = 5;

/// The polling schedule.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    longest_ms: u64,
    next_ms: u64,
}

impl Pace {
    pub(super) fn new(longest_ms: u64) -> Pace {
        Pace { longest_ms, next_ms: FIRST_MS.min(longest_ms) }
    }

    /// The pause before the next read, in milliseconds; `None` to read again at once.
    pub(super) fn after(&mut self, found: bool) -> Option<u64> {
        if found {
            self.next_ms = FIRST_MS.min(self.longest_ms);
            return None;
        }
        let pause_ms = self.next_ms;
        self.next_ms = (self.next_ms * 2).min(self.longest_ms);
        Some(pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_while_rows_come_then_doubling_to_the_interval() {
        let check = |longest_ms: u64, steps: &[(bool, Option<u64>)]| {
            let mut pace = Pace::new(longest_ms);
            for (step, (found, want)) in steps.iter().enumerate() {
                assert_eq!(pace.after(*found), *want, "step {step}");
            }
        };
        let idle = |ms| (false, Some(ms));
        let busy = (true, None);
        check(250, &[idle(5), idle(10), idle(20), idle(40), idle(80), idle(160), idle(250), idle(250)]);
        check(250, &[busy, busy, idle(5), idle(10), busy, idle(5)]);
        check(3, &[idle(3), idle(3)]);
    }
}
