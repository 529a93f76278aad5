//! The replay cache of one feed: a ring of recent changes, and the newest change of every bug.
//!
//! Goes in: changes in the order they were ingested, from the one [`Recorder`]. Comes out: which changes of given bugs
//! lie after a position. Never blocks the recorder: entries are written once into fixed blocks and then published by
//! an atomic length; readers take no lock but the block list's, which the recorder takes once per block.
//!
//! A *position* ([`Pos`]) is the place of a change in this cache, dense from 1. It means nothing outside the process.
//!
//! Each entry knows how far back the previous change of the same bug lies. So the cost of a catch-up depends only on
//! the bugs asked for and the changes found, and not on what other bugs did.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bugfeed_protocol::{BugId, Change, Cursor, Tag, When};
use dashmap::DashMap;

use super::packed_u64::PackedU64;
use super::position_map::{Continuity, PositionMap};
pub use super::ring::Pos;
use super::ring::{Entry, Ring, Tail, recorded_from};

/// How much a replay cache keeps.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    /// The most changes in the ring.
    pub max: u64,
    /// The largest age of a change in the ring, since it was recorded, in seconds.
    pub age_s: u32,
    /// The most bugs in the newest-change table. Beyond it the bugs that changed longest ago are forgotten, an eighth
    /// at a time.
    pub bugs: usize,
}

impl Default for ReplayLimits {
    fn default() -> Self {
        ReplayLimits { max: 1_000_000, age_s: 24 * 3600, bugs: 2_000_000 }
    }
}

/// One change found by a catch-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its position.
    pub pos: Pos,
    /// The change itself.
    pub change: Change,
}

/// The newest change of one bug.
#[derive(Clone, Copy, Debug)]
struct Newest {
    pos: Pos,
    when: When,
    arrived_s: u32,
}

/// [`Newest`] as the table holds it: an entry takes 28 bytes instead of 32.
#[derive(Clone, Copy, Debug)]
struct PackedNewest {
    pos: PackedU64,
    when: PackedU64,
    arrived_s: u32,
}

impl PackedNewest {
    fn new(newest: Newest) -> PackedNewest {
        let when = PackedU64::new(newest.when.as_micros().cast_unsigned());
        PackedNewest { pos: PackedU64::new(newest.pos), when, arrived_s: newest.arrived_s }
    }

    fn get(self) -> Newest {
        let when = When::from_micros(self.when.get().cast_signed());
        let when = when.expect("only valid dates are recorded");
        Newest { pos: self.pos.get(), when, arrived_s: self.arrived_s }
    }
}

impl Newest {
    fn of(self, bug: BugId) -> Found {
        Found { pos: self.pos, change: Change { bug, when: self.when } }
    }
}

/// What a catch-up asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The bugs.
    pub bugs: &'a [BugId],
    /// Of the changes in the ring, only those after this position.
    pub after: Pos,
    /// Of the changes that have left the ring, only those after this position. A question by time begins with 0 here,
    /// because `since` decides about them.
    pub after_old: Pos,
    /// Only changes up to and including this position.
    pub upto: Pos,
    /// The time, if the question was by time; [`Replay::before`] turned it into `after`. It decides about changes that
    /// have left the ring.
    pub since: Option<When>,
    /// If more changes than this are found, only the newest of each bug counts.
    pub limit: usize,
}

impl Wanted<'_> {
    /// Whether a bug's newest change is asked for, given that it has left the ring.
    fn wants_old(&self, newest: Newest) -> bool {
        let in_time = |since| newest.when >= since || recorded_from(newest.arrived_s, since);
        let asked = newest.pos > self.after || newest.pos > self.after_old && self.since.is_none_or(in_time);
        asked && newest.pos <= self.upto
    }
}

/// The shared, readable side of a replay cache.
#[derive(Debug)]
pub struct Replay {
    ring: Ring,
    newest: DashMap<PackedU64, PackedNewest, foldhash::fast::FixedState>,
    /// Changes up to here may be missing from the newest-change table.
    floor: AtomicU64,
    numbering: RwLock<PositionMap>,
    limits: ReplayLimits,
    /// How many entries of the ring and of the table were looked at: what searches cost.
    #[cfg(test)]
    pub(crate) looks: AtomicU64,
}

/// The one writer of a replay cache.
#[derive(Debug)]
pub struct Recorder {
    replay: Arc<Replay>,
    tail: Tail,
    /// The number that would just continue what was recorded last. To record that number needs no lock.
    next_cursor: Option<Cursor>,
    last_arrived_s: u32,
}

/// Where the cursor of a client that resumes lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorPlace {
    /// The client has everything up to this position, and all changes after it are in the ring.
    InRing(Pos),
    /// The client has everything up to this position. Of the changes after it, only the newest of each bug is known.
    BeforeRing(Pos),
    /// The client has seen numbers that have not come here yet.
    Ahead,
    /// It is unknown what the client missed.
    Unknown,
}

/// An empty cache: its writer, and the side that readers share.
pub fn replay(limits: ReplayLimits) -> (Recorder, Arc<Replay>) {
    let (tail, ring) = Ring::new();
    let replay = Arc::new(Replay {
        ring,
        newest: DashMap::with_hasher(foldhash::fast::FixedState::default()),
        floor: AtomicU64::new(0),
        numbering: RwLock::default(),
        limits,
        #[cfg(test)]
        looks: AtomicU64::new(0),
    });
    (Recorder { replay: Arc::clone(&replay), tail, next_cursor: None, last_arrived_s: 0 }, replay)
}

impl Recorder {
    /// Records a change and returns its position. `recorded` is when the ledger (or, for a producer without one, this
    /// gateway) first had the change. `cursor` is its number, `before` the lineage tag of the number before it, if that
    /// is known. `continuity` says how it continues the changes before.
    pub fn record(
        &mut self,
        change: Change,
        recorded: When,
        cursor: &Cursor,
        before: Option<Tag>,
        continuity: Continuity,
    ) -> Pos {
        let pos = self.tail.next;
        if continuity != Continuity::Next || self.next_cursor.as_ref() != Some(cursor) {
            let mut numbering = self.numbering();
            numbering.record(pos, cursor, before, continuity);
            let first_known = numbering.first_known().unwrap_or(pos);
            drop(numbering);
            // A change in the ring must have a known number, so the ring is trimmed to where numbers are known.
            if self.replay.start() < first_known {
                self.trim_to(first_known);
            }
        }
        if continuity == Continuity::Late {
            // The next change begins a run, whatever its number is.
            self.next_cursor = None;
        } else {
            let next = self.next_cursor.get_or_insert_with(|| cursor.clone());
            if next.epoch != cursor.epoch {
                next.epoch = cursor.epoch.clone();
            }
            (next.seq, next.tag) = (cursor.seq.saturating_add(1), cursor.tag);
        }
        let seconds = (recorded.as_micros() + 999_999) / 1_000_000;
        let arrived_s = u32::try_from(seconds).unwrap_or(u32::MAX).max(self.last_arrived_s);
        let newest = Newest { pos, when: change.when, arrived_s };
        let before = self.replay.newest_of(change.bug).map(|newest| newest.pos);
        let back = before.and_then(|before| u32::try_from(pos - before).ok()).unwrap_or(0);

        // The entry is written to the ring first: a reader that finds the position in the table must be able to read
        // the entry.
        self.tail.push(&self.replay.ring, Entry { change, back, arrived_s });
        self.replay.newest.insert(PackedU64::from(change.bug), PackedNewest::new(newest));

        self.last_arrived_s = arrived_s;
        if pos - self.replay.start() >= self.replay.limits.max {
            self.trim_to(pos + 1 - self.replay.limits.max);
        }
        if self.replay.newest.len() > self.replay.limits.bugs && pos.is_multiple_of(64) {
            self.forget_oldest_bugs();
        }
        pos
    }

    /// The cache that is written.
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// Trims the changes that have become too old off the ring.
    pub fn tick(&mut self, now: When) {
        let now_s = now.as_micros() / 1_000_000;
        let oldest = u32::try_from(now_s - i64::from(self.replay.limits.age_s)).unwrap_or(0);
        let mut start = self.replay.start();
        while start < self.tail.next {
            let block = self.replay.ring.block(start).expect("the ring's start is in a block");
            if block.arrived_s(start) >= oldest {
                break;
            }
            start += 1;
        }
        self.trim_to(start);
    }

    fn trim_to(&mut self, start: Pos) {
        self.replay.ring.trim_to(start);
    }

    fn forget_oldest_bugs(&mut self) {
        let mut all: Vec<Pos> = self.replay.newest.iter().map(|newest| newest.pos.get()).collect();
        let keep = self.replay.limits.bugs - self.replay.limits.bugs / 8;
        let Some(last_dropped) = all.len().checked_sub(keep + 1) else { return };
        let (_, &mut threshold, _) = all.select_nth_unstable(last_dropped);
        self.replay.floor.fetch_max(threshold, Ordering::AcqRel);
        self.replay.newest.retain(|_, newest| newest.pos.get() > threshold);
        // Changes in the ring are found through the table, so the ring must not reach below the floor.
        if self.replay.start() <= threshold {
            self.trim_to(threshold + 1);
        }
    }
}

impl Replay {
    /// The newest position; everything up to it can be read.
    pub fn head(&self) -> Pos {
        self.ring.head()
    }

    /// The first position still in the ring (head + 1 where the ring is empty).
    pub fn start(&self) -> Pos {
        self.ring.start()
    }

    /// Bugs whose newest change lies at or before this position may have been forgotten altogether, because there were
    /// more bugs than the table holds.
    pub fn floor(&self) -> Pos {
        self.floor.load(Ordering::Acquire)
    }

    /// Counts entries that are looked at.
    #[inline]
    fn count(&self, looks: u64) {
        #[cfg(test)]
        self.looks.fetch_add(looks, Ordering::Relaxed);
        #[cfg(not(test))]
        let _ = looks;
    }

    fn newest_of(&self, bug: BugId) -> Option<Newest> {
        self.count(1);
        self.newest.get(&PackedU64::from(bug)).map(|packed| packed.get())
    }

    /// How many bugs the newest-change table holds.
    pub fn bugs(&self) -> usize {
        self.newest.len()
    }

    /// The position before the first change in the ring that has a date from `since` on, or was recorded from `since`
    /// on. A client that knows everything up to `since` may lack all changes after that position.
    ///
    /// All later changes count, whatever their date: a transaction that commits late brings an older date after a newer
    /// one, and a client that stored the newer date must still get it.
    pub fn before(&self, since: When) -> Pos {
        self.before_from(self.start(), since)
    }

    /// [`Replay::before`], from a beginning of the ring that may have been trimmed since it was read.
    fn before_from(&self, start: Pos, since: When) -> Pos {
        let head = self.head();
        let mut pos = start;
        while pos <= head {
            let Some(block) = self.ring.block(pos) else {
                // The block was trimmed meanwhile, so the search goes on at the ring's new beginning.
                pos = self.start().max(pos + 1);
                continue;
            };
            let end = Ring::end_of_block(pos).min(head);
            if (block.max_when_reaches(since) || block.reaches(end, since))
                && let Some(found) = (pos..=end).find(|&p| block.reaches(p, since))
            {
                return found - 1;
            }
            pos = end + 1;
        }
        head
    }

    /// Appends what `wanted` asks for to `found`, oldest first: every change that is in the ring and, for a bug whose
    /// changes have all left the ring, its newest one. If that is more than `wanted.limit`, only the newest change of
    /// each bug is appended. Returns whether that was so.
    pub fn every(&self, wanted: &Wanted<'_>, found: &mut Vec<Found>) -> bool {
        let from = found.len();
        let start = self.start();
        let fits = wanted.bugs.iter().all(|&bug| {
            if let Some(newest) = self.newest_of(bug) {
                // The ring may be trimmed while this runs, or may have been since `after` was determined.
                let in_ring = newest.pos >= start && self.chain(newest.pos, wanted, start, found);
                if !in_ring && wanted.wants_old(newest) {
                    found.push(newest.of(bug));
                }
            }
            found.len() - from <= wanted.limit
        });
        if !fits {
            found.truncate(from);
            for &bug in wanted.bugs {
                let Some(newest) = self.newest_of(bug) else { continue };
                if newest.pos > wanted.upto {
                    found.extend(self.back_to(newest.pos, wanted.upto).filter(|found| found.pos > wanted.after));
                } else if wanted.wants_old(newest) && (newest.pos > wanted.after || newest.pos < start) {
                    found.push(newest.of(bug));
                }
            }
        }
        found[from..].sort_unstable_by_key(|found| found.pos);
        !fits
    }

    /// Appends one bug's changes to `found`, from its newest one back, until there are more than the limit. Returns
    /// false if the newest one itself has left the ring.
    fn chain(&self, newest: Pos, wanted: &Wanted<'_>, start: Pos, found: &mut Vec<Found>) -> bool {
        let most = found.len() + wanted.limit;
        let mut pos = newest;
        while pos > wanted.after && pos >= start && found.len() <= most {
            let Some(block) = self.ring.block(pos) else { return pos != newest };
            if pos <= wanted.upto {
                found.push(Found { pos, change: block.change(pos) });
            }
            match block.back(pos) {
                0 => break,
                back => pos -= u64::from(back),
            }
        }
        true
    }

    /// The newest change of each of `bugs` that lies after `after` and up to `upto`, oldest first.
    ///
    /// A change beyond `upto` is still on its way to the session, and does not replace the bug's change before it. Why:
    /// it may have come late, with a low number, and a cursor that the session is told before it would then claim both.
    pub fn newest(&self, bugs: &[BugId], after: Pos, upto: Pos, found: &mut Vec<Found>) {
        let from = found.len();
        for &bug in bugs {
            match self.newest_of(bug) {
                Some(newest) if newest.pos > upto => {
                    found.extend(self.back_to(newest.pos, upto).filter(|found| found.pos > after));
                }
                Some(newest) if newest.pos > after => found.push(newest.of(bug)),
                _ => {}
            }
        }
        found[from..].sort_unstable_by_key(|found| found.pos);
    }

    /// The bugs of all changes after `after`, each once, ascending.
    pub fn bugs_after(&self, after: Pos) -> Vec<BugId> {
        let (start, head) = (self.start(), self.head());
        self.count(head.saturating_sub(after));
        let recent = after + 1 >= start && head.saturating_sub(after) <= self.newest.len() as u64;
        let mut bugs: Vec<BugId> = match recent {
            // A position whose block was trimmed meanwhile belongs to a bug that the table still has.
            true => (after + 1..=head).filter_map(|pos| Some(self.ring.block(pos)?.change(pos).bug)).collect(),
            false => self.table_after(after),
        };
        if recent && self.start() > after + 1 {
            bugs = self.table_after(after);
        }
        bugs.sort_unstable();
        bugs.dedup();
        bugs
    }

    fn table_after(&self, after: Pos) -> Vec<BugId> {
        let bugs = self.newest.iter().filter(|entry| entry.pos.get() > after);
        bugs.filter_map(|entry| BugId::new(entry.key().get())).collect()
    }

    /// Whether each of these changes, which are the newest of their bugs, is the only one of its bug after `after`. False
    /// also where the ring does not show it any more.
    pub fn are_all_after(&self, found: &[Found], after: Pos) -> bool {
        let only = |found: &Found| self.back_from(found.pos).is_none_or(|before| before <= after);
        found.iter().all(only) && after + 1 >= self.start()
    }

    /// Follows one bug's changes back from `pos` to the last one up to `upto`; `None` if that one has left the ring.
    fn back_to(&self, mut pos: Pos, upto: Pos) -> Option<Found> {
        let start = self.start();
        while pos >= start {
            if pos <= upto {
                return Some(Found { pos, change: self.ring.block(pos)?.change(pos) });
            }
            pos = self.back_from(pos)?;
        }
        None
    }

    /// The position of the change before this one of the same bug, if the ring has it.
    fn back_from(&self, pos: Pos) -> Option<Pos> {
        match self.ring.block(pos)?.back(pos) {
            0 => None,
            back => Some(pos - u64::from(back)),
        }
    }
}

mod all;
pub use all::{PageSize, WantedOfAll};

mod cursors;
mod figures;

#[cfg(test)]
mod tests;
