//! What the intake has just recorded, for the outlet: so that it need not be read back from the ledger.
//!
//! Goes in: committed changes, the last number of the ledger, and how far the outlet may go. Comes out: the changes that
//! follow a number, when they are here. A shortcut and nothing else: what does not fit is left out, and read from the ledger like everything that a
//! former holder of the lease recorded. Pure.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bugfeed_protocol::Numbered;

/// Changes that wait here at most; about 50 bytes each.
const MAX: usize = 20_000;

#[derive(Debug, Default)]
struct Inner {
    /// Contiguous.
    changes: VecDeque<Numbered>,
    /// The last number that the ledger is known to have given.
    head: u64,
    /// The outlet may go up to here.
    limit: u64,
}

/// What is said about the changes after a number.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// These follow.
    Here(Vec<Numbered>),
    /// The ledger has them.
    InLedger,
    /// The ledger has none, as far as is known.
    None,
}

/// Between the two loops of one term.
#[derive(Debug, Default)]
pub(super) struct Handoff(Mutex<Inner>);

impl Handoff {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger has given numbers up to here.
    pub(super) fn head(&self, head: u64) {
        let mut inner = self.inner();
        inner.head = inner.head.max(head);
    }

    /// The outlet may publish up to here, and nothing after it until this is said again. At first it may publish nothing.
    /// Returns whether that is news.
    pub(super) fn limit(&self, seq: u64) -> bool {
        std::mem::replace(&mut self.inner().limit, seq) != seq
    }

    /// The outlet may publish nothing that is not known yet.
    pub(super) fn hold(&self) {
        let mut inner = self.inner();
        inner.limit = inner.limit.min(inner.head);
    }

    /// How many of `limit` changes after a number may be published now.
    pub(super) fn allowed(&self, after: u64, limit: usize) -> usize {
        limit.min(usize::try_from(self.inner().limit.saturating_sub(after)).unwrap_or(usize::MAX))
    }

    /// These are committed.
    pub(super) fn put(&self, changes: Vec<Numbered>) {
        let mut inner = self.inner();
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return };
        inner.head = inner.head.max(last.cursor.seq);
        let follows = inner.changes.back().is_none_or(|last| last.cursor.seq + 1 == first.cursor.seq);
        if !follows {
            // Those before it were left out or are only in the ledger; it is read up to here.
            inner.changes.clear();
        }
        let room = MAX.saturating_sub(inner.changes.len());
        if changes.len() <= room {
            inner.changes.extend(changes);
        }
    }

    /// Up to `limit` changes that follow number `after`.
    pub(super) fn take(&self, after: u64, limit: usize) -> Next {
        let mut inner = self.inner();
        while inner.changes.front().is_some_and(|change| change.cursor.seq <= after) {
            inner.changes.pop_front();
        }
        if inner.changes.front().is_some_and(|change| change.cursor.seq == after + 1) {
            let count = limit.min(inner.changes.len());
            return Next::Here(inner.changes.drain(..count).collect());
        }
        if inner.head > after { Next::InLedger } else { Next::None }
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};

    use super::*;

    fn changes(seqs: std::ops::RangeInclusive<u64>) -> Vec<Numbered> {
        let one = |seq| Numbered {
            change: Change { bug: BugId::new(1).unwrap(), when: When::MIN },
            cursor: Cursor::new(Epoch::from_random(1), seq),
            after: None,
            recorded: When::MIN,
        };
        seqs.map(one).collect()
    }

    #[test]
    fn what_follows_is_here_or_in_the_ledger() {
        let handoff = Handoff::default();
        assert_eq!(handoff.take(0, 10), Next::None);
        handoff.head(3);
        assert_eq!(handoff.take(0, 10), Next::InLedger, "recorded by a former holder");
        assert_eq!(handoff.take(3, 10), Next::None);
        handoff.put(changes(4..=6));
        assert_eq!(handoff.take(1, 10), Next::InLedger, "2 and 3 come first");
        assert_eq!(handoff.take(3, 2), Next::Here(changes(4..=5)));
        assert_eq!(handoff.take(3, 2), Next::InLedger, "taken, but not published: read again");
        assert_eq!(handoff.take(5, 2), Next::Here(changes(6..=6)));
        assert_eq!(handoff.take(6, 2), Next::None);
        // A commit without an answer: 7 is in the ledger, and only 8 comes this way.
        handoff.put(changes(8..=8));
        assert_eq!(handoff.take(6, 2), Next::InLedger);
        assert_eq!(handoff.take(7, 2), Next::Here(changes(8..=8)));
        handoff.put(changes(9..=9));
        handoff.put(changes(11..=12));
        assert_eq!(handoff.take(8, 9), Next::InLedger, "what is here has no hole");
        assert_eq!(handoff.take(10, 9), Next::Here(changes(11..=12)));
    }

    #[test]
    fn the_outlet_goes_no_further_than_it_may() {
        let handoff = Handoff::default();
        assert_eq!(handoff.allowed(0, 10), 0, "not before anything is said");
        handoff.limit(7);
        assert_eq!(
            [handoff.allowed(0, 10), handoff.allowed(0, 3), handoff.allowed(7, 3), handoff.allowed(9, 3)],
            [7, 3, 0, 0]
        );
        handoff.limit(u64::MAX);
        assert_eq!(handoff.allowed(9, 3), 3);
        handoff.head(11);
        handoff.hold();
        assert_eq!(handoff.allowed(9, 3), 2, "what was allowed stays so");
        handoff.put(changes(12..=12));
        assert_eq!(handoff.allowed(11, 3), 0);
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_ledger() {
        let handoff = Handoff::default();
        let max = MAX as u64;
        handoff.put(changes(1..=max));
        handoff.put(changes(max + 1..=max + 2));
        let Next::Here(all) = handoff.take(0, usize::MAX) else { panic!("nothing here") };
        assert_eq!(all.len(), MAX);
        assert_eq!(handoff.take(max, 10), Next::InLedger);
        handoff.put(changes(max + 3..=max + 4));
        assert_eq!(handoff.take(max, 10), Next::InLedger);
        assert_eq!(handoff.take(max + 2, 10), Next::Here(changes(max + 3..=max + 4)));
    }
}
