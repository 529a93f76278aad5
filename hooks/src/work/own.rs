//! Which events this process has received itself, as opposed to another one that works on the same store.
//!
//! Goes in: identifiers of requests. Comes out: whether an event came with one of them. Bounded: the oldest are forgotten
//! first. What is forgotten is treated as another process's event, which costs a moment or a question, never correctness.

use std::collections::{BTreeSet, VecDeque};

use bugfeed_core::hooks::event::EventId;

use crate::receive::mapped::MAX_ITEMS;
use crate::receive::received::RequestId;

/// So many requests are remembered: about as many as come within a few seconds at the highest rate.
const MOST: usize = 20_000;

/// The newest requests that this process has received.
#[derive(Debug, Default)]
pub(super) struct Own {
    ids: BTreeSet<RequestId>,
    in_order: VecDeque<RequestId>,
}

impl Own {
    /// A request is in the store.
    pub(super) fn add(&mut self, id: RequestId) {
        if !self.ids.insert(id) {
            return;
        }
        self.in_order.push_back(id);
        if self.in_order.len() > MOST
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// Whether the event came with one of them. Identifiers of events follow that of their request.
    pub(super) fn has(&self, event: EventId) -> bool {
        let request = self.ids.range(..RequestId(event.0)).next_back();
        request.is_some_and(|request| event.0 - request.0 <= MAX_ITEMS as u128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_own_requests_are_known_and_the_oldest_forgotten() {
        let mut own = Own::default();
        let id = |number: usize| RequestId::new(1_795_000_000_000_000 + 1000 * i64::try_from(number).unwrap(), [7; 10]);
        for number in 0..3 * MOST {
            own.add(id(number));
            own.add(id(number));
        }
        assert_eq!((own.ids.len(), own.in_order.len()), (MOST, MOST));
        let last = 3 * MOST - 1;
        for item in [0, 499] {
            assert!(own.has(id(last).event(item)) && own.has(id(2 * MOST).event(item)));
        }
        assert!(!own.has(EventId(id(last).0)), "a request is no event");
        assert!(!own.has(id(0).event(0)), "forgotten");
        assert!(!own.has(id(last + 1).event(0)), "another's");
    }
}
