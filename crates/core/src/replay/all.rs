//! What a catch-up for all bugs of a feed finds, a page at a time.
//!
//! Goes in: after which position, and how large a page may be. Comes out: changes, oldest first, and the position up to
//! which nothing more is to be found. A feed may have millions of changes, so neither the memory of a page nor the time
//! that it takes may depend on how many follow it. (One pass over the newest-change table is the exception: it is needed
//! where changes are asked for that have left the ring.)

use std::collections::{BinaryHeap, HashMap};

use bugfeed_protocol::{BugId, Change, When};

use super::{Found, Newest, Pos, Replay};
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
type NewestBefore = HashMap<BugId, Option<Pos>, foldhash::fast::FixedState>;

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
        let (mut pos, mut newest) = (from + 1, NewestBefore::default());
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
        (pos - 1).min(wanted.upto)
    }

    /// Appends the oldest of the changes that `wanted` asks for with `newest_only`: of each bug the newest up to
    /// `wanted.upto`. Returns the position up to which everything is found, as [`Replay::page`] does.
    ///
    /// It looks at `size.seen` positions of the ring at most, which suffice where most bugs changed once. Otherwise, and where
    /// changes are asked for that have left the ring, it passes once over the newest-change table. So a million changes of a
    /// thousand bugs cost what a thousand cost.
    pub fn newest_page(&self, wanted: &WantedOfAll, size: PageSize, found: &mut Vec<Found>) -> Pos {
        let (start, mut wanted) = (self.start(), *wanted);
        if wanted.after_old + 1 >= start {
            let searched = self.ring_page(&wanted, start, size, found);
            if searched >= wanted.upto || found.len() >= size.found {
                return searched;
            }
            (wanted.after, wanted.after_old) = (wanted.after.max(searched), searched);
        }
        self.table_page(&wanted, start, size.found, found).unwrap_or(wanted.upto)
    }

    /// The rest of such a page, from the newest-change table. If there are more than the page may have, the position of
    /// the last that it has.
    fn table_page(&self, wanted: &WantedOfAll, start: Pos, at_most: usize, found: &mut Vec<Found>) -> Option<Pos> {
        let at_most = at_most.saturating_sub(found.len()).max(1);
        let mut oldest: BinaryHeap<(Pos, BugId, When)> = BinaryHeap::new();
        let mut is_cut = false;
        for entry in &self.newest {
            let pos = entry.pos.get();
            if pos <= wanted.after_old {
                continue;
            }
            let Some(bug) = BugId::new(entry.key().get()) else { continue };
            let Some(newest) = self.wanted_of(wanted, start, bug, entry.get()) else { continue };
            if oldest.len() >= at_most {
                is_cut = true;
                if oldest.peek().is_none_or(|(last, ..)| *last < newest.pos) {
                    continue;
                }
                oldest.pop();
            }
            oldest.push((newest.pos, bug, newest.change.when));
        }
        let oldest = oldest.into_sorted_vec();
        let last = oldest.last().map(|&(pos, ..)| pos);
        found.extend(oldest.into_iter().map(|(pos, bug, when)| Found { pos, change: Change { bug, when } }));
        last.filter(|_| is_cut)
    }

    /// The newest change of a bug up to `wanted.upto`, if it is asked for; `newest` is what the table has of it.
    fn wanted_of(&self, wanted: &WantedOfAll, start: Pos, bug: BugId, newest: Newest) -> Option<Found> {
        if newest.pos > wanted.upto {
            let before = self.back_to(newest.pos, wanted.upto)?;
            return (before.pos > wanted.after.max(wanted.after_old)).then_some(before);
        }
        let in_time = |since| newest.when >= since || recorded_from(newest.arrived_s, since);
        let is_old = newest.pos < start && wanted.since.is_none_or(in_time);
        let asked = newest.pos > wanted.after_old && (newest.pos > wanted.after || is_old);
        asked.then(|| newest.of(bug))
    }

    /// The position of the last of all changes that `wanted` asks for with `newest_only` that came late.
    pub fn last_late_newest(&self, wanted: &WantedOfAll) -> Option<Pos> {
        let (start, mut upto) = (self.start(), wanted.upto);
        let (ring, mut newest) = (wanted.after.max(start - 1), NewestBefore::default());
        // Late changes are rare, so mostly there is none.
        while let Some(pos) = self.last_late_in(ring, upto) {
            let bug = self.ring.block(pos).map(|block| block.change(pos).bug);
            if bug.is_none_or(|bug| self.is_newest(pos, bug, wanted.upto, &mut newest)) {
                return Some(pos);
            }
            upto = pos - 1;
        }
        self.last_late_in(wanted.after_old, wanted.upto.min(start - 1))?;
        let old = self.newest.iter().filter(|entry| entry.pos.get() < start && entry.pos.get() <= wanted.upto);
        let asked = old.filter_map(|entry| {
            let bug = BugId::new(entry.key().get())?;
            self.wanted_of(wanted, start, bug, entry.get())
        });
        asked.map(|found| found.pos).filter(|&pos| self.is_late(pos)).max()
    }

    /// Whether a bug has more than one change after `after` and up to `upto`. True also where the ring does not show it any
    /// more.
    pub fn is_any_left_out(&self, after: Pos, upto: Pos) -> bool {
        if after + 1 < self.start() {
            return true;
        }
        let mut pos = after + 1;
        while pos <= upto {
            let Some(block) = self.ring.block(pos) else { return true };
            let end = Ring::end_of_block(pos).min(upto);
            let has_earlier = |pos: Pos| match u64::from(block.back(pos)) {
                0 => false,
                back => pos - back > after,
            };
            if (pos..=end).any(has_earlier) {
                return true;
            }
            pos = end + 1;
        }
        after + 1 < self.start()
    }

    /// Whether a change of the ring is the newest of its bug up to `upto`.
    fn is_newest(&self, pos: Pos, bug: BugId, upto: Pos, newest: &mut NewestBefore) -> bool {
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
mod tests;
