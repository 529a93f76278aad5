//! What all sessions of a process may take together, whichever feed and shard they are of.
//!
//! Goes in: how much somebody wants more. Comes out: whether there is room. Whoever asks when there is none is the one that
//! has to go: nobody else is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound, and how much of it is taken.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: AtomicUsize,
}

impl Budget {
    /// A bound of which nothing is taken.
    pub fn new(limit: usize) -> Budget {
        Budget { limit, taken: AtomicUsize::new(0) }
    }

    /// Takes so much more. Whether there was room; where there was not, nothing is taken.
    pub fn take(&self, more: usize) -> bool {
        let taken = |taken: usize| taken.checked_add(more).filter(|&taken| taken <= self.limit);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Gives back what was taken.
    pub fn give(&self, back: usize) {
        self.taken.fetch_sub(back, Ordering::Relaxed);
    }

    /// How much is taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Default for Budget {
    /// No bound at all.
    fn default() -> Budget {
        Budget::new(usize::MAX)
    }
}

/// What one holder has taken of a budget; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    /// A share of nothing yet.
    pub fn of(budget: &Arc<Budget>) -> Share {
        Share { budget: Arc::clone(budget), held: 0 }
    }

    /// Makes it as large as this, if it is not already. Whether there was room.
    pub fn grow_to(&mut self, size: usize) -> bool {
        let more = size.saturating_sub(self.held);
        let has_room = more == 0 || self.budget.take(more);
        if has_room {
            self.held += more;
        }
        has_room
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give(self.held);
    }
}

/// The budgets of a process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Bytes of messages and forms that were begun and have not come to their end.
    pub message_bytes: Arc<Budget>,
    /// Bugs that sessions watch, each counted once for each session.
    pub subscriptions: Arc<Budget>,
}

/// 256 of the largest messages at a time.
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// About 700 MB.
const SUBSCRIPTIONS: usize = 20_000_000;

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets {
            message_bytes: Arc::new(Budget::new(MESSAGE_BYTES)),
            subscriptions: Arc::new(Budget::new(SUBSCRIPTIONS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_too_much_gets_nothing_and_takes_nothing() {
        let budget = Arc::new(Budget::new(10));
        let mut first = Share::of(&budget);
        let mut second = Share::of(&budget);
        assert!(first.grow_to(6) && first.grow_to(4) && second.grow_to(4));
        assert!(!second.grow_to(5) && !second.grow_to(usize::MAX));
        assert_eq!(budget.taken(), 10);
        drop(first);
        assert_eq!(budget.taken(), 4);
        assert!(second.grow_to(10));
        drop(second);
        assert_eq!(budget.taken(), 0);
    }
}
