//! Whose bugs a change concerns, of all endpoints of one feed.
//!
//! Goes in: an endpoint's slot and what it watches. Comes out: the slots to wake for a change. Those who watch all bugs
//! stand in a list of their own.

use bugfeed_protocol::BugId;

use super::question::Watch;
use crate::subscriptions::{Slot, Subscriptions};

/// The index of one feed.
#[derive(Debug, Default)]
pub struct Interest {
    bugs: Subscriptions,
    all: Vec<Slot>,
}

impl Interest {
    /// Adds an endpoint. A slot is added once, and removed with the same watch.
    pub fn add(&mut self, slot: Slot, watch: &Watch) {
        match watch {
            Watch::All => self.all.push(slot),
            Watch::Bugs(bugs) => bugs.iter().for_each(|&bug| self.bugs.add(bug, slot)),
        }
    }

    /// Removes an endpoint.
    pub fn remove(&mut self, slot: Slot, watch: &Watch) {
        match watch {
            Watch::All => self.all.retain(|&other| other != slot),
            Watch::Bugs(bugs) => bugs.iter().for_each(|&bug| self.bugs.remove(bug, slot)),
        }
    }

    /// The endpoints that a change of this bug concerns.
    pub fn concerned(&self, bug: BugId) -> impl Iterator<Item = Slot> + '_ {
        self.bugs.watchers(bug).iter().chain(&self.all).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_concerns_those_who_watch_its_bug_or_all() {
        let bug = |number| BugId::new(number).unwrap();
        let some = Watch::Bugs([bug(1), bug(2)].into());
        let mut interest = Interest::default();
        interest.add(7, &some);
        interest.add(8, &Watch::All);
        assert_eq!(interest.concerned(bug(1)).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(interest.concerned(bug(3)).collect::<Vec<_>>(), [8]);
        interest.remove(8, &Watch::All);
        interest.remove(7, &some);
        assert_eq!(interest.concerned(bug(1)).count(), 0);
    }
}
