//! Bounds on what all sessions of a process use together, whichever feed and shard they belong to.
//!
//! Goes in: how much more a session wants. Comes out: whether there is room. If there is none, only the session that
//! asks is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound, and how much of it is taken.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: AtomicUsize,
}

impl Budget {
    /// A budget with this bound, of which nothing is taken.
    pub fn new(limit: usize) -> Budget {
        Budget { limit, taken: AtomicUsize::new(0) }
    }

    /// Takes `more` of the budget. Returns whether there was room; if not, nothing is taken.
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

/// What one holder has taken of a budget. Dropping it gives that back.
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

    /// Makes the share at least this large. Returns whether there was room; if not, the share stays as it is.
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
    /// Bytes of messages and forms that were begun and are not complete yet.
    pub message_bytes: Arc<Budget>,
    /// Bugs that sessions watch; a bug counts once for each session that watches it.
    pub subscriptions: Arc<Budget>,
    /// Sessions that watch all bugs.
    pub all: Arc<Budget>,
}

/// Room for 256 messages of the largest size.
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// About 700 MB of memory.
const SUBSCRIPTIONS: usize = 20_000_000;

/// About 20 MB of memory, if all of them lag.
pub const SESSIONS_WITH_ALL: u32 = 100;

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets {
            message_bytes: Arc::new(Budget::new(MESSAGE_BYTES)),
            subscriptions: Arc::new(Budget::new(SUBSCRIPTIONS)),
            all: Arc::new(Budget::new(SESSIONS_WITH_ALL as usize)),
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
