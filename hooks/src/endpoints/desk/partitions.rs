//! Which partitions this process serves.
//!
//! Goes in: rounds of the leases. Comes out: what is loaded, what is let go, and whether a request may be begun now. It goes by
//! the monotonic clock, so no setting of a clock makes two processes send to the same endpoint.

use std::time::Instant;

use bugfeed_core::endpoints::endpoint::Input;
use bugfeed_core::subscriptions::Slot;

use super::{Desk, Word};
use crate::store::endpoints::Stored;
use crate::store::endpoints::leases::{FENCE, Round, Taken};

/// A partition that is held.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) term: u64,
    /// All its rows were read.
    pub(super) is_loaded: bool,
    /// Rows that people have changed, until then.
    pub(super) early: Vec<Stored>,
    /// Nothing is sent before: the holder before may have a request in flight.
    opens: Instant,
    /// Requests and writes under way.
    busy: usize,
    /// Others should have it.
    gives: bool,
    /// The lease was not renewed in time, and planners know that.
    is_stale: bool,
}

impl Partition {
    fn new(term: u64, opens: Instant) -> Partition {
        Partition { term, is_loaded: false, early: Vec::new(), opens, busy: 0, gives: false, is_stale: false }
    }
}

impl Desk {
    /// What a round of the leases did.
    pub(super) fn round(&mut self, round: Round) {
        let now = Instant::now();
        self.shown = Some(round.begun);
        let gone: Vec<u16> = self.partitions.keys().copied().filter(|held| !round.held.contains_key(held)).collect();
        for partition in round.lost.iter().copied().chain(gone) {
            self.lose(partition);
        }
        for Taken { partition, term, waits } in round.taken {
            self.lose(partition);
            let waits = waits && !self.parts.options.is_alone;
            // A request of the holder before lasts no longer than one of this process.
            let opens = if waits { now + self.parts.options.within } else { now };
            self.partitions.insert(partition, Partition::new(term, opens));
        }
        for partition in round.give {
            if let Some(held) = self.partitions.get_mut(&partition) {
                held.gives = true;
            }
            let term = self.term(partition);
            self.busy(partition, term, 0);
        }
        let stale = self.partitions.iter().filter(|(_, held)| held.is_stale).map(|(partition, _)| *partition);
        let renewed: Vec<u16> = stale.filter(|&partition| self.may_begin(partition)).collect();
        for partition in renewed {
            if let Some(held) = self.partitions.get_mut(&partition) {
                held.is_stale = false;
            }
            for slot in self.slots_of(partition) {
                self.step(slot, Input::Renewed(i64::MAX));
            }
        }
    }

    /// Requests of a partition's endpoints are aborted, because it is another's.
    fn lose(&mut self, partition: u16) {
        if self.partitions.remove(&partition).is_some() {
            for slot in self.slots_of(partition) {
                self.forget(slot);
            }
        }
    }

    /// The term under which a partition is held; 0 if it is not.
    pub(super) fn term(&self, partition: u16) -> u64 {
        self.partitions.get(&partition).map_or(0, |held| held.term)
    }

    /// Whether a request may be begun now.
    fn may_begin(&self, partition: u16) -> bool {
        let now = Instant::now();
        let fresh = self.shown.is_some_and(|shown| now.saturating_duration_since(shown) < FENCE);
        fresh && self.partitions.get(&partition).is_some_and(|held| !held.gives && held.opens <= now)
    }

    /// Whether a request of this endpoint may be begun now.
    pub(super) fn may_send(&mut self, slot: Slot) -> bool {
        let Some(partition) = self.served(slot).map(|served| served.partition) else { return false };
        if self.may_begin(partition) {
            return true;
        }
        if let Some(held) = self.partitions.get_mut(&partition) {
            held.is_stale = true;
        }
        false
    }

    /// A request or write was begun (1) or has ended (-1). A partition of which nothing is under way any more is let go, if
    /// others should have it.
    pub(super) fn busy(&mut self, partition: u16, term: u64, change: isize) {
        let Some(held) = self.partitions.get_mut(&partition).filter(|held| held.term == term) else { return };
        held.busy = held.busy.saturating_add_signed(change);
        if held.gives && held.busy == 0 {
            self.lose(partition);
            self.say(Word::Release(vec![partition]));
        }
    }
}
