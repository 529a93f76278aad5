//! What a catch-up for all bugs of a feed finds, a page at a time.
//!
//! Goes in: after which position, and how large a page may be. Comes out: changes, oldest first, and the position up to
//! which nothing more is to be found. A feed may have millions of changes, so neither the memory of a page nor the time
//! that it takes may depend on how many follow it. (One pass over the newest-change table is the exception: it is needed
//! where changes are asked for that have left the ring.)

use std::collections::{BinaryHeap, HashMap};

use bugfeed_protocol::{BugId, Change, When};

use super::{Found, Pos, Replay};
use crate::ring::{Ring, recorded_from};

/// What a catch-up for all bugs asks for: as [`Wanted`](super::Wanted), but for the bugs.
#[derive(Clone, Copy, Debug)]
pub struct WantedOfAll {
    /// Of the changes in the ring, only those after this position.
    pub after: Pos,
    /// Of the changes that have left the ring, only those after this position.
    pub after_old: Pos,
    /// Only changes up to and including this position.
    pub upto: Pos,
    /// The time, if the question was by time. It decides about changes that have left the ring.
    pub since: Option<When>,
    /// Of each bug, only the newest change up to `upto`.
    pub newest_only: bool,
}

/// How large a page may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize {
    /// Changes that are found.
    pub found: usize,
    /// Positions of the ring that are looked at.
    pub seen: u64,
}

/// The newest change up to some position, of the bugs that have changed again after it. Each is looked for once.
type Newest = HashMap<BugId, Option<Pos>, foldhash::fast::FixedState>;

impl Replay {
    /// Appends a page of what `wanted` asks for to `found`, oldest first: every change that is in the ring, or only the
    /// newest of each bug; and before them, for bugs whose changes have all left the ring, the newest one. Returns the
    /// position up to which everything is found. Where that is less than `wanted.upto`, the next page begins after it.
    /// (It may be where this page began, if the ring was trimmed meanwhile.)
    pub fn page(&self, wanted: &WantedOfAll, size: PageSize, found: &mut Vec<Found>) -> Pos {
        let start = self.start();
        if wanted.after_old + 1 < start
            && let Some(last) = self.old_page(wanted, start, size.found, found)
        {
            return last;
        }
        self.ring_page(wanted, start, size, found)
    }

    /// The changes of a page that have left the ring, which begins at `start`. If there are more than the page may have,
    /// the position of the last that it has.
    fn old_page(&self, wanted: &WantedOfAll, start: Pos, at_most: usize, found: &mut Vec<Found>) -> Option<Pos> {
        let mut oldest: BinaryHeap<(Pos, BugId, When)> = BinaryHeap::new();
        let mut is_cut = false;
        self.count(self.newest.len() as u64);
        for entry in &self.newest {
            let pos = entry.pos.get();
            if pos >= start || pos <= wanted.after_old || pos > wanted.upto {
                continue;
            }
            let newest = entry.get();
            let in_time = |since| newest.when >= since || recorded_from(newest.arrived_s, since);
            if pos <= wanted.after && !wanted.since.is_none_or(in_time) {
                continue;
            }
            if oldest.len() >= at_most {
                is_cut = true;
                if oldest.peek().is_none_or(|(last, ..)| *last < pos) {
                    continue;
                }
                oldest.pop();
            }
            if let Some(bug) = BugId::new(entry.key().get()) {
                oldest.push((pos, bug, newest.when));
            }
        }
        let oldest = oldest.into_sorted_vec();
        let last = oldest.last().map(|&(pos, ..)| pos);
        found.extend(oldest.into_iter().map(|(pos, bug, when)| Found { pos, change: Change { bug, when } }));
        last.filter(|_| is_cut)
    }

    /// The changes of a page that are in the ring, which begins at `start`. Returns the position up to which it was
    /// looked at.
    fn ring_page(&self, wanted: &WantedOfAll, start: Pos, size: PageSize, found: &mut Vec<Found>) -> Pos {
        let from = wanted.after.max(wanted.after_old).max(start - 1);
        let end = wanted.upto.min(from.saturating_add(size.seen));
        let (mut pos, mut newest) = (from + 1, Newest::default());
        while pos <= end && found.len() < size.found {
            // A block that was trimmed meanwhile: the next page finds its bugs in the newest-change table.
            let Some(block) = self.ring.block(pos) else { break };
            let last = Ring::end_of_block(pos).min(end);
            while pos <= last && found.len() < size.found {
                let change = block.change(pos);
                if !wanted.newest_only || self.is_newest(pos, change.bug, wanted.upto, &mut newest) {
                    found.push(Found { pos, change });
                }
                pos += 1;
            }
        }
        self.count(pos - 1 - from);
        (pos - 1).min(wanted.upto)
    }

    /// Whether a change of the ring is the newest of its bug up to `upto`.
    fn is_newest(&self, pos: Pos, bug: BugId, upto: Pos, newest: &mut Newest) -> bool {
        match self.newest_of(bug) {
            // The table has just forgotten the bug.
            None => true,
            Some(last) if last.pos <= upto => last.pos == pos,
            Some(last) => {
                let found = newest.entry(bug).or_insert_with(|| self.back_to(last.pos, upto).map(|found| found.pos));
                // Where the ring was trimmed meanwhile, one too many is sent.
                found.is_none_or(|found| found == pos)
            }
        }
    }

    /// [`Replay::newest_is_lost`] for all bugs.
    pub fn newest_of_any_is_lost(&self, upto: Pos) -> bool {
        let (start, head) = (self.start(), self.head());
        if self.last_late_in(upto, head).is_none() {
            return false;
        }
        if self.last_late_in(upto, start.saturating_sub(1)).is_some() {
            // It has left the ring itself, so its bug is not known.
            return true;
        }
        let beyond = start.max(upto + 1)..=head;
        let mut bugs: Vec<BugId> = beyond.filter_map(|pos| Some(self.ring.block(pos)?.change(pos).bug)).collect();
        bugs.sort_unstable();
        bugs.dedup();
        self.newest_is_lost(&bugs, upto)
    }

    /// The last position after `after`, up to `upto`, whose change came late.
    pub fn last_late_in(&self, after: Pos, upto: Pos) -> Option<Pos> {
        self.numbering.read().expect("nobody panics holding it").last_late_in(after, upto)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::position_map::Continuity;
    use crate::replay::{Recorder, ReplayLimits, replay};
    use bugfeed_protocol::Cursor;

    fn at(seconds: i64) -> When {
        When::from_micros(seconds * 1_000_000).unwrap()
    }

    fn record(recorder: &mut Recorder, bug: u64, second: i64) {
        let number = Cursor::new(bugfeed_protocol::Epoch::parse("E").unwrap(), recorder.tail.next);
        let change = Change { bug: BugId::new(bug).unwrap(), when: at(second) };
        recorder.record(change, at(second), &number, None, Continuity::Next);
    }

    /// All pages of a question, joined.
    fn pages(replay: &Replay, mut wanted: WantedOfAll, size: PageSize) -> Vec<(Pos, u64)> {
        let mut all = Vec::new();
        loop {
            let mut found = Vec::new();
            let searched = replay.page(&wanted, size, &mut found);
            assert!(found.len() <= size.found && found.is_sorted_by(|one, next| one.pos < next.pos));
            assert!(searched > wanted.after_old || searched == wanted.upto, "no page without progress");
            assert!(found.iter().all(|found| found.pos > wanted.after_old && found.pos <= searched));
            all.extend(found.iter().map(|found| (found.pos, found.change.bug.get())));
            if searched >= wanted.upto {
                return all;
            }
            (wanted.after, wanted.after_old) = (wanted.after.max(searched), searched);
        }
    }

    /// Pages of any size, before the ring and in it, against a plain list of all changes.
    #[test]
    fn pages_together_are_what_was_asked_for() {
        for seed in 0..300 {
            let random = &mut SmallRng::seed_from_u64(seed);
            let limits = ReplayLimits { max: random.random_range(1..60), ..ReplayLimits::default() };
            let (mut recorder, replay) = replay(limits);
            let mut changes = Vec::new();
            let bugs = random.random_range(1..30);
            for pos in 1..=random.random_range(1..120_u64) {
                let bug = random.random_range(1..=bugs);
                record(&mut recorder, bug, i64::try_from(pos).unwrap());
                changes.push((pos, bug));
            }
            let head = replay.head();
            let after = random.random_range(0..=head);
            let upto = random.random_range(after..=head);
            let newest_only = random.random_bool(0.5);
            let mut newest = BTreeMap::new();
            let mut newest_of_all = BTreeMap::new();
            for &(pos, bug) in &changes {
                if pos <= upto {
                    newest.insert(bug, pos);
                }
                newest_of_all.insert(bug, pos);
            }
            let want: Vec<(Pos, u64)> = changes
                .iter()
                .copied()
                .filter(|&(pos, bug)| {
                    let asked = pos > after && pos <= upto;
                    let old = pos < replay.start();
                    // Of what has left the ring, only a bug's very newest change is known.
                    asked && if old { newest_of_all[&bug] == pos } else { !newest_only || newest[&bug] == pos }
                })
                .collect();
            let wanted = WantedOfAll { after, after_old: after, upto, since: None, newest_only };
            let size = PageSize { found: random.random_range(1..20), seen: random.random_range(1..40) };
            assert_eq!(pages(&replay, wanted, size), want, "seed {seed}");
        }
    }

    #[test]
    fn a_time_before_the_ring_finds_the_newest_of_bugs_that_have_left_it() {
        let (mut recorder, replay) = replay(ReplayLimits { max: 2, ..ReplayLimits::default() });
        for (bug, second) in [(1, 10), (2, 20), (3, 30), (1, 40), (4, 50)] {
            record(&mut recorder, bug, second);
        }
        let ask = |second| {
            let after = replay.before(at(second));
            let wanted = WantedOfAll { after, after_old: 0, upto: 5, since: Some(at(second)), newest_only: false };
            pages(&replay, wanted, PageSize { found: 1, seen: 1 })
        };
        assert_eq!(ask(0), [(2, 2), (3, 3), (4, 1), (5, 4)]);
        assert_eq!(ask(25), [(3, 3), (4, 1), (5, 4)]);
        assert_eq!(ask(45), [(5, 4)]);
        assert_eq!(ask(60), []);
    }

    #[test]
    fn a_late_change_that_hides_another_is_noticed() {
        let (mut recorder, replay) = replay(ReplayLimits { max: 2, ..ReplayLimits::default() });
        let number = |seq: &str| Cursor::parse(seq).unwrap();
        let mut record = |bug: u64, seq: &str, continuity| {
            let change = Change { bug: BugId::new(bug).unwrap(), when: at(1) };
            recorder.record(change, at(1), &number(seq), None, continuity);
        };
        record(1, "E.8", Continuity::Next);
        record(2, "E.10", Continuity::Broken);
        assert!(!replay.newest_of_any_is_lost(2));
        record(1, "E.9", Continuity::Late);
        assert!(replay.newest_of_any_is_lost(2), "bug 1 has position 1, which has left the ring");
        assert_eq!(
            [(0, 3), (0, 2), (3, 3)].map(|(after, upto)| replay.last_late_in(after, upto)),
            [Some(3), None, None]
        );
        record(3, "E.11", Continuity::Next);
        record(3, "E.12", Continuity::Next);
        assert!(replay.newest_of_any_is_lost(2), "the late one has left it too");
        assert!(!replay.newest_of_any_is_lost(3));
    }
}
