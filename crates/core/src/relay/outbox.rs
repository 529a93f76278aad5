//! The outbox hands changes that the poller has just recorded to the outlet, so that the outlet need not read them back
//! from the ledger.
//!
//! Goes in: committed changes, the last number of the ledger, and the number up to which the outlet may publish. Comes
//! out: the changes that follow a given number, if the outbox has them. It is only a cache of the ledger: changes that
//! do not fit are left out, and the outlet reads them from the ledger, as it reads everything that a former holder of
//! the lease recorded. Pure.

use std::collections::VecDeque;

use bugfeed_protocol::Numbered;

/// The most changes that wait here; each takes about 50 bytes.
const MAX: usize = 20_000;

/// The memory between the poller and the outlet of one tenure.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// Changes with consecutive numbers.
    changes: VecDeque<Numbered>,
    /// The last number that the ledger is known to have given.
    head: u64,
    /// The last number that the outlet may publish.
    limit: u64,
    /// The poller has ended, so nothing more will be recorded.
    closed: bool,
}

/// What [`Outbox::take`] knows of the changes after a number.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// These changes follow. They are no longer in the outbox.
    Here(Vec<Numbered>),
    /// Changes follow, but the outbox does not have the next one: read the ledger.
    InLedger,
    /// No change follows, as far as is known.
    None,
}

impl Outbox {
    /// Notes that the ledger has given numbers up to `head`.
    pub fn head(&mut self, head: u64) {
        self.head = self.head.max(head);
    }

    /// Sets the last number that the outlet may publish. Before the first call it may publish nothing. Returns whether
    /// the number differs from the one before.
    pub fn limit(&mut self, seq: u64) -> bool {
        std::mem::replace(&mut self.limit, seq) != seq
    }

    /// Lowers the limit to the last number that is known now: what is recorded from here on must not be published
    /// before [`Outbox::limit`] allows it.
    pub fn hold(&mut self) {
        self.limit = self.limit.min(self.head);
    }

    /// How many changes after number `after` may be published now, at most `limit`.
    pub fn allowed(&self, after: u64, limit: usize) -> usize {
        limit.min(usize::try_from(self.limit.saturating_sub(after)).unwrap_or(usize::MAX))
    }

    /// Notes that nothing more will be recorded.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing more will be recorded.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Adds committed changes, which have consecutive numbers.
    pub fn put(&mut self, changes: Vec<Numbered>) {
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return };
        self.head = self.head.max(last.cursor.seq);
        let follows = self.changes.back().is_none_or(|last| last.cursor.seq + 1 == first.cursor.seq);
        if !follows {
            // Numbers are missing between the changes in the outbox and these. The outbox must have no hole, so the
            // older changes are dropped; the outlet reads them from the ledger, with those that are missing.
            self.changes.clear();
        }
        let room = MAX.saturating_sub(self.changes.len());
        if changes.len() <= room {
            self.changes.extend(changes);
        }
    }

    /// Takes up to `limit` changes that follow number `after`.
    pub fn take(&mut self, after: u64, limit: usize) -> Next {
        while self.changes.front().is_some_and(|change| change.cursor.seq <= after) {
            self.changes.pop_front();
        }
        if self.changes.front().is_some_and(|change| change.cursor.seq == after + 1) {
            let count = limit.min(self.changes.len());
            return Next::Here(self.changes.drain(..count).collect());
        }
        if self.head > after { Next::InLedger } else { Next::None }
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
        let mut outbox = Outbox::default();
        assert_eq!(outbox.take(0, 10), Next::None);
        outbox.head(3);
        assert_eq!(outbox.take(0, 10), Next::InLedger, "recorded by a former holder");
        assert_eq!(outbox.take(3, 10), Next::None);
        outbox.put(changes(4..=6));
        assert_eq!(outbox.take(1, 10), Next::InLedger, "2 and 3 come first");
        assert_eq!(outbox.take(3, 2), Next::Here(changes(4..=5)));
        assert_eq!(outbox.take(3, 2), Next::InLedger, "taken, but not published: read again");
        assert_eq!(outbox.take(5, 2), Next::Here(changes(6..=6)));
        assert_eq!(outbox.take(6, 2), Next::None);
        // A commit whose answer was lost: 7 is in the ledger, and only 8 is put into the outbox.
        outbox.put(changes(8..=8));
        assert_eq!(outbox.take(6, 2), Next::InLedger);
        assert_eq!(outbox.take(7, 2), Next::Here(changes(8..=8)));
        outbox.put(changes(9..=9));
        outbox.put(changes(11..=12));
        assert_eq!(outbox.take(8, 9), Next::InLedger, "what is here has no hole");
        assert_eq!(outbox.take(10, 9), Next::Here(changes(11..=12)));
    }

    #[test]
    fn the_outlet_goes_no_further_than_it_may() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.allowed(0, 10), 0, "not before anything is said");
        outbox.limit(7);
        assert_eq!(
            [outbox.allowed(0, 10), outbox.allowed(0, 3), outbox.allowed(7, 3), outbox.allowed(9, 3)],
            [7, 3, 0, 0]
        );
        outbox.limit(u64::MAX);
        assert_eq!(outbox.allowed(9, 3), 3);
        outbox.head(11);
        outbox.hold();
        assert_eq!(outbox.allowed(9, 3), 2, "what was allowed stays so");
        outbox.put(changes(12..=12));
        assert_eq!(outbox.allowed(11, 3), 0);
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_ledger() {
        let mut outbox = Outbox::default();
        let max = MAX as u64;
        outbox.put(changes(1..=max));
        outbox.put(changes(max + 1..=max + 2));
        let Next::Here(all) = outbox.take(0, usize::MAX) else { panic!("nothing here") };
        assert_eq!(all.len(), MAX);
        assert_eq!(outbox.take(max, 10), Next::InLedger);
        outbox.put(changes(max + 3..=max + 4));
        assert_eq!(outbox.take(max, 10), Next::InLedger);
        assert_eq!(outbox.take(max + 2, 10), Next::Here(changes(max + 3..=max + 4)));
    }
}
