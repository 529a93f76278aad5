//! Which parts of the process are stuck or dead (pure: no clock, no thread).
//!
//! Goes in: at each look the time, and what each part has shown so far. Comes out: the parts that are in trouble. A part is
//! stuck when its count of beats has not changed for the bound. Time in which nobody looked does not count, apart from
//! [`JUMP_MS`]: a process that was stopped (SIGSTOP), or got no processor, has lost that time with all its parts.

use std::collections::BTreeMap;

/// The most that one look adds to the age of a beat, in milliseconds; twice the time between two looks.
pub(super) const JUMP_MS: u64 = 1000;

/// What a part has shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It has not begun to work.
    NotBegun,
    /// It has beaten so many times.
    Beats(u64),
    /// It has ended, or panicked.
    Ended,
}

/// What is wrong with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It has not beaten for so many milliseconds.
    Silent(u64),
    /// It has ended, and the process goes on.
    Ended,
}

/// Judges parts by their numbers.
#[derive(Debug)]
pub(super) struct Judge {
    bound_ms: u64,
    /// When it looked the last time.
    looked_ms: Option<u64>,
    /// How much time it has seen.
    seen_ms: u64,
    /// The beats of each part, and the seen time at which they changed last.
    last: BTreeMap<u64, (u64, u64)>,
}

impl Judge {
    /// A part without a beat for more than `bound_ms` is stuck.
    pub(super) fn new(bound_ms: u64) -> Judge {
        Judge { bound_ms, looked_ms: None, seen_ms: 0, last: BTreeMap::new() }
    }

    /// Looks at all parts; `now_ms` is the time of a monotonic clock. Returns the numbers of those in trouble.
    pub(super) fn look(&mut self, now_ms: u64, parts: impl IntoIterator<Item = (u64, Sign)>) -> Vec<(u64, Wrong)> {
        let passed_ms = self.looked_ms.map_or(0, |looked_ms| now_ms.saturating_sub(looked_ms));
        self.looked_ms = Some(now_ms);
        self.seen_ms += passed_ms.min(JUMP_MS);
        let (mut wrong, mut last) = (Vec::new(), BTreeMap::new());
        for (part, sign) in parts {
            match sign {
                Sign::NotBegun => {}
                Sign::Ended => wrong.push((part, Wrong::Ended)),
                Sign::Beats(beats) => {
                    let known = self.last.get(&part).copied().filter(|(known, _)| *known == beats);
                    let since_ms = known.map_or(self.seen_ms, |(_, since_ms)| since_ms);
                    let silent_ms = self.seen_ms - since_ms;
                    if silent_ms > self.bound_ms {
                        wrong.push((part, Wrong::Silent(silent_ms)));
                    }
                    last.insert(part, (beats, since_ms));
                }
            }
        }
        self.last = last;
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks each 500 ms from one time to another, at one part that beats so many times; the last answer.
    fn look(judge: &mut Judge, ms: std::ops::RangeInclusive<u64>, sign: Sign) -> Vec<(u64, Wrong)> {
        ms.step_by(500).map(|now_ms| judge.look(now_ms, [(7, sign)])).last().unwrap()
    }

    #[test]
    fn a_part_that_does_not_beat_is_stuck_after_the_bound_and_not_before() {
        let mut judge = Judge::new(10_000);
        assert_eq!(look(&mut judge, 0..=10_000, Sign::Beats(1)), []);
        assert_eq!(look(&mut judge, 10_500..=10_500, Sign::Beats(1)), [(7, Wrong::Silent(10_500))]);
        assert_eq!(look(&mut judge, 11_000..=11_000, Sign::Beats(2)), [], "it beats again");
        assert_eq!(look(&mut judge, 11_500..=21_000, Sign::Beats(2)), []);
        assert_eq!(look(&mut judge, 21_500..=21_500, Sign::Beats(2)), [(7, Wrong::Silent(10_500))]);
    }

    #[test]
    fn one_that_has_not_begun_is_waited_for_and_one_that_ended_is_missed_at_once() {
        let mut judge = Judge::new(1000);
        assert_eq!(look(&mut judge, 0..=60_000, Sign::NotBegun), []);
        assert_eq!(look(&mut judge, 60_500..=60_500, Sign::Beats(1)), []);
        assert_eq!(look(&mut judge, 60_501..=60_501, Sign::Ended), [(7, Wrong::Ended)]);
    }

    /// The process was stopped for ten minutes: no part could beat.
    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let mut judge = Judge::new(10_000);
        assert_eq!(look(&mut judge, 0..=5000, Sign::Beats(3)), []);
        assert_eq!(look(&mut judge, 605_000..=605_000, Sign::Beats(3)), []);
        assert_eq!(look(&mut judge, 605_500..=609_000, Sign::Beats(3)), []);
        assert_eq!(look(&mut judge, 609_500..=609_500, Sign::Beats(3)), [(7, Wrong::Silent(10_500))], "it is stuck");
    }

    /// A clock that was set back, which a monotonic one never is, does no harm.
    #[test]
    fn the_time_never_runs_backwards() {
        let mut judge = Judge::new(10_000);
        assert_eq!(look(&mut judge, 5000..=5000, Sign::Beats(1)), []);
        assert_eq!(look(&mut judge, 0..=10_000, Sign::Beats(1)), []);
        assert_eq!(look(&mut judge, 10_500..=10_500, Sign::Beats(1)), [(7, Wrong::Silent(10_500))]);
    }

    #[test]
    fn parts_that_are_gone_are_forgotten() {
        let mut judge = Judge::new(1000);
        judge.look(0, [(1, Sign::Beats(1)), (2, Sign::Beats(1))]);
        judge.look(500, [(2, Sign::Beats(1))]);
        assert_eq!(judge.last.keys().collect::<Vec<_>>(), [&2]);
    }
}
