//! The plan: who watches what, and which bug each update is about. Every process computes the same plan from a few
//! numbers.

use bugfeed_protocol::{BugId, Change, When};
use serde::{Deserialize, Serialize};

/// 2026-01-01T00:00:00 in microseconds. Update `i` has a date `i` microseconds later, so that a receiver can tell from
/// the frame alone which update it is, whatever server carried it.
const BASE_MICROS: i64 = 1_767_225_600_000_000;

/// The number of an update. In each run of the program, updates are counted from 1.
pub type Index = u32;

/// SplitMix64 by Steele, Lea and Flood: evenly distributed, and the same on every machine.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn below(bits: u64, bound: u32) -> u32 {
    u32::try_from((u128::from(bits) * u128::from(bound)) >> 64).expect("less than the bound")
}

/// What each client watches: `each` different bugs of 1 to `bugs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Bugs of one client.
    pub each: u32,
    /// Bugs in total.
    pub bugs: u32,
}

impl Watch {
    /// The bugs of one client, ascending.
    pub fn of(&self, client: u32) -> Vec<u32> {
        let each = self.each.min(self.bugs) as usize;
        if each == self.bugs as usize {
            return (1..=self.bugs).collect();
        }
        let mut bugs = Vec::with_capacity(each);
        let mut state = mix(u64::from(client) << 32 | 1);
        while bugs.len() < each {
            for _ in bugs.len()..each {
                state = mix(state);
                bugs.push(1 + below(state, self.bugs));
            }
            bugs.sort_unstable();
            bugs.dedup();
        }
        bugs
    }
}

/// The updates of one measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// The first update's number.
    pub first: Index,
    /// How many there are.
    pub count: u32,
    /// The lowest bug that changes.
    pub from_bug: u32,
    /// How many bugs, from there on, change.
    pub bugs: u32,
    /// The bug of the last update, if that matters.
    pub last_bug: Option<u32>,
    /// So many updates, one after the other, have one date, as what a tracker writes within a second has. Their bugs
    /// differ.
    pub dated_together: u32,
}

/// A prime number. Bugs of updates that share a date are this far apart, and so differ, unless the number of bugs is a
/// multiple of it.
const APART: u64 = 1_000_003;

impl Phase {
    /// The bug of an update.
    pub fn bug(&self, index: Index) -> u32 {
        match self.last_bug {
            Some(bug) if index + 1 == self.end() => bug,
            _ if self.dated_together > 1 => {
                let first = self.first_dated_as(index);
                let steps = mix(u64::from(first)) % u64::from(self.bugs) + u64::from(index - first) * APART;
                self.from_bug + u32::try_from(steps % u64::from(self.bugs)).expect("less than the number of bugs")
            }
            _ => self.from_bug + below(mix(u64::from(index)), self.bugs),
        }
    }

    /// The first update with the same date.
    fn first_dated_as(&self, index: Index) -> Index {
        index - (index - self.first) % self.dated_together.max(1)
    }

    /// Which update of this bug has the date of that update, which is the first with its date.
    pub fn of_bug_dated_as(&self, bug: u32, first: Index) -> Option<Index> {
        if self.dated_together <= 1 || !self.indices().contains(&first) {
            return Some(first);
        }
        (first..self.end().min(first + self.dated_together)).find(|index| self.bug(*index) == bug)
    }

    /// The number after the last update's.
    pub fn end(&self) -> Index {
        self.first + self.count
    }

    /// The numbers of all updates.
    pub fn indices(&self) -> std::ops::Range<Index> {
        self.first..self.end()
    }

    /// The update as a change.
    pub fn change(&self, index: Index) -> Change {
        change(self.bug(index), self.first_dated_as(index))
    }
}

/// Update `index`, of this bug.
pub fn change(bug: u32, index: Index) -> Change {
    let bug = BugId::new(u64::from(bug)).expect("bugs start at 1");
    let when = When::from_micros(BASE_MICROS + i64::from(index)).expect("within a few days of 2026");
    Change { bug, when }
}

/// The number of the update with this date; `None` for a date that was not made by [`change`].
pub fn index_of(when: &[u8]) -> Option<Index> {
    let time = when.strip_prefix(b"2026-01-01T")?;
    let (clock, fraction) = time.split_at_checked(8)?;
    let two = |at: usize| -> Option<u64> { digits(clock.get(at..at + 2)?) };
    let seconds = two(0)? * 3600 + two(3)? * 60 + two(6)?;
    let micros = match fraction {
        [] => 0,
        [b'.', rest @ ..] if (1..=6).contains(&rest.len()) => {
            digits(rest)? * 10_u64.pow(6 - u32::try_from(rest.len()).ok()?)
        }
        _ => return None,
    };
    Index::try_from(seconds * 1_000_000 + micros).ok()
}

/// A number in decimal digits.
pub fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_known_by_its_date() {
        for index in [1, 10, 999_999, 1_000_000, 1_000_001, 3_599_999_999, u32::MAX] {
            let text = change(7, index).when.to_string();
            assert_eq!(index_of(text.as_bytes()), Some(index), "{text}");
        }
        for other in ["2025-01-01T00:00:00", "2026-01-01T00:00", "2026-01-01T00:00:00.", "2026-01-01T00:00:00Z", ""] {
            assert_eq!(index_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn clients_watch_different_bugs_as_many_as_asked_for() {
        let watch = Watch { each: 20, bugs: 100 };
        for client in 0..100 {
            let bugs = watch.of(client);
            assert_eq!(bugs.len(), 20);
            assert!(bugs.is_sorted_by(|a, b| a < b) && bugs[0] >= 1 && bugs[19] <= 100, "{bugs:?}");
        }
        assert_ne!(watch.of(1), watch.of(2));
        assert_eq!(Watch { each: 3, bugs: 3 }.of(9), [1, 2, 3]);
    }

    #[test]
    fn the_last_update_may_have_a_bug_of_its_own() {
        let phase = Phase { first: 5, count: 100, from_bug: 1000, bugs: 10, last_bug: Some(3), dated_together: 1 };
        assert_eq!(phase.bug(104), 3);
        assert!(phase.indices().take(99).all(|index| (1000..1010).contains(&phase.bug(index))));
    }

    #[test]
    fn updates_with_one_date_are_told_apart_by_their_bugs() {
        let phase = Phase { first: 7, count: 1001, from_bug: 1, bugs: 500, last_bug: None, dated_together: 100 };
        for index in phase.indices() {
            let change = phase.change(index);
            let first = index_of(change.when.to_string().as_bytes()).unwrap();
            assert_eq!(first, 7 + (index - 7) / 100 * 100);
            assert_eq!(phase.of_bug_dated_as(phase.bug(index), first), Some(index));
        }
        assert_eq!(phase.of_bug_dated_as(501, 7), None);
        assert_eq!(phase.of_bug_dated_as(3, 5), Some(5), "an update of an earlier phase");
    }
}
