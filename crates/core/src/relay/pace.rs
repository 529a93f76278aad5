//! When to look again: at once when rows begin to come, in steps while they keep coming, then less and less often.
//!
//! Goes in: whether the last read found rows, and how long it took. Comes out: a pause. Pure: knows no clock.

/// The first pause after rows have stopped coming.
const FIRST_MS: u64 = 5;
/// An idle table whose database answers at once is looked at so many times in the longest pause.
const QUICK: u64 = 6;
/// The shortest pause between two looks at an idle table, unless the longest one is shorter still.
const QUICK_MIN_MS: u64 = 20;
/// The pause is at least so many times as long as the look before took, so that looking takes at most a small part of the
/// time of a database that is slow, far away, or has much to read.
const PAUSES: u64 = 20;
/// How far apart looks begin while rows keep coming. What comes in between is recorded in one transaction and goes out in one
/// message, which costs a small part of what as many single ones would.
const GATHER_MS: u64 = 15;
/// So many looks in a row that found something mean that rows keep coming.
const STEADY: u32 = 3;

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Some,
    /// As much as one look may find: there is more.
    Full,
}

/// The pause before the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// None at all.
    None,
    /// Until something tells that rows have come, and this many milliseconds at most.
    Wait(u64),
    /// This many milliseconds: rows are coming.
    Gather(u64),
}

/// The polling schedule.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    longest_ms: u64,
    /// The longest pause while the database answers at once.
    quick_ms: u64,
    next_ms: u64,
    /// So many looks in a row have found something.
    found: u32,
}

impl Pace {
    pub(super) fn new(longest_ms: u64) -> Pace {
        let quick_ms = (longest_ms / QUICK).max(QUICK_MIN_MS.min(longest_ms));
        Pace { longest_ms, quick_ms, next_ms: FIRST_MS.min(longest_ms), found: 0 }
    }

    /// The pause before the next look. `took_ms`: how long ago the last one began.
    pub(super) fn after(&mut self, found: Found, took_ms: u64) -> Pause {
        if found == Found::Nothing {
            let idle_ms = took_ms.saturating_mul(PAUSES).clamp(self.quick_ms, self.longest_ms);
            let pause_ms = self.next_ms.min(idle_ms);
            self.next_ms = (self.next_ms * 2).min(self.longest_ms);
            self.found = 0;
            return Pause::Wait(pause_ms);
        }
        self.next_ms = FIRST_MS.min(self.longest_ms);
        self.found = self.found.saturating_add(1);
        match GATHER_MS.min(self.longest_ms).saturating_sub(took_ms) {
            pause_ms if pause_ms > 0 && found == Found::Some && self.found >= STEADY => Pause::Gather(pause_ms),
            _ => Pause::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(longest_ms: u64, steps: &[(Found, u64, Pause)]) {
        let mut pace = Pace::new(longest_ms);
        for (step, (found, took_ms, want)) in steps.iter().enumerate() {
            assert_eq!(pace.after(*found, *took_ms), *want, "step {step}");
        }
    }

    #[test]
    fn at_once_when_rows_come_then_doubling_to_a_part_of_the_interval() {
        let idle = |ms| (Found::Nothing, 1, Pause::Wait(ms));
        let one = (Found::Some, 1, Pause::None);
        check(250, &[idle(5), idle(10), idle(20), idle(40), idle(41)]);
        check(250, &[one, one, idle(5), idle(10), one, idle(5)]);
        check(60_000, &[5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000, 10_000].map(idle));
        check(50, &[idle(5), idle(10), idle(20), idle(20)]);
        check(3, &[idle(3), idle(3)]);
        check(0, &[idle(0), idle(0)]);
    }

    #[test]
    fn a_slow_database_is_asked_less_often() {
        let idle = |took_ms, ms| (Found::Nothing, took_ms, Pause::Wait(ms));
        let slow = |ms| idle(100, ms);
        check(250, &[slow(5), slow(10), slow(20), slow(40), slow(80), slow(160), slow(250), slow(250)]);
        check(250, &[idle(3, 5), idle(3, 10), idle(3, 20), idle(3, 40), idle(3, 60), idle(3, 60), idle(9, 180)]);
        // One slow look makes one pause longer.
        check(
            250,
            &[idle(0, 5), idle(0, 10), idle(0, 20), idle(0, 40), idle(0, 41), idle(0, 41), idle(4, 80), idle(0, 41)],
        );
        check(250, &[idle(u64::MAX, 5), idle(u64::MAX, 10)]);
    }

    #[test]
    fn changes_gather_only_while_they_keep_coming() {
        let one = |took_ms, pause| (Found::Some, took_ms, pause);
        let full = (Found::Full, 1, Pause::None);
        let idle = (Found::Nothing, 1, Pause::Wait(5));
        check(250, &[one(1, Pause::None), one(1, Pause::None), one(1, Pause::Gather(14)), one(4, Pause::Gather(11))]);
        check(250, &[one(1, Pause::None), idle, one(1, Pause::None), idle, one(1, Pause::None), idle]);
        check(250, &[full, full, full, full, one(1, Pause::Gather(14)), one(15, Pause::None), one(30, Pause::None)]);
        // Whoever wants rows to be looked for more often does not wait longer.
        check(3, &[full, full, one(1, Pause::Gather(2))]);
    }
}
