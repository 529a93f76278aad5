//! The queue between the core and the application: items that wait, the item that the application has in hand, and the
//! cursor that may be stored.
//!
//! In: deliveries of the core, and the application's requests for the next item. Out: one item at a time, and the
//! cursor up to which everything is dealt with. The queue is bounded: beyond a limit, only the newest change of each
//! bug is kept (conflation).

use std::collections::{BTreeSet, HashSet, VecDeque};

use bugfeed_protocol::BugId;

use crate::core::Delivery;
use crate::{Error, Event};

/// How many items may wait for a slow reader; twice the number of watched bugs (of a feed of all: of those that changed) may
/// wait in addition.
const MAX_WAITING: usize = 10_000;

type Item = Result<Event, Error>;

/// The queue of one feed.
#[derive(Debug, Default)]
pub(crate) struct DeliveryQueue {
    waiting: VecDeque<Delivery>,
    /// Whether the application has an item and has not asked for the next one.
    in_hand: bool,
    /// The cursor of the item in hand.
    in_hand_cursor: Option<String>,
    /// The newest cursor up to which everything was dealt with; empty again once it was taken to be stored.
    dealt: Option<String>,
    /// How many items the last conflation left. A feed of all bugs may have any number of them.
    left: usize,
}

impl DeliveryQueue {
    /// Adds a delivery of the core.
    pub(crate) fn put(&mut self, delivery: Delivery, bugs: usize) {
        self.waiting.push_back(delivery);
        if !self.in_hand {
            self.pass_cursors();
        }
        if self.waiting.len() == 1 {
            self.left = 0;
        }
        if self.waiting.len() > MAX_WAITING + 2 * bugs.max(self.left) {
            self.conflate();
            self.left = self.waiting.len();
        }
    }

    /// Adds an error of storing, unless the application has not read an earlier one yet.
    pub(crate) fn put_save_error(&mut self, error: Error) {
        let is_known = self.waiting.iter().any(|delivery| matches!(delivery.item, Some(Err(Error::Save(_)))));
        if !is_known {
            self.waiting.push_front(Delivery { item: Some(Err(error)), cursor: None });
        }
    }

    /// Takes the next item. This also says that the item before it is dealt with.
    pub(crate) fn take(&mut self) -> Option<Item> {
        self.dealt_with();
        let Delivery { item, cursor } = self.waiting.pop_front()?;
        self.in_hand = true;
        self.in_hand_cursor = cursor;
        item
    }

    /// The cursor of the item in hand, if it has one.
    pub(crate) fn in_hand_cursor(&self) -> Option<&str> {
        self.in_hand_cursor.as_deref()
    }

    /// The item in hand is dealt with, and so are the cursors without an item that follow it.
    pub(crate) fn dealt_with(&mut self) {
        self.in_hand = false;
        let cursor = self.in_hand_cursor.take();
        self.dealt = cursor.or(self.dealt.take());
        self.pass_cursors();
    }

    /// Takes the cursor to store.
    pub(crate) fn take_dealt(&mut self) -> Option<String> {
        self.dealt.take()
    }

    /// Whether there is a cursor to store.
    pub(crate) fn has_dealt(&self) -> bool {
        self.dealt.is_some()
    }

    /// Drops all items that wait.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    fn pass_cursors(&mut self) {
        while self.waiting.front().is_some_and(|delivery| delivery.item.is_none()) {
            let cursor = self.waiting.pop_front().and_then(|delivery| delivery.cursor);
            self.dealt = cursor.or(self.dealt.take());
        }
    }

    /// Conflation: drops what a later item replaces. A dropped change is always followed by a newer change of its bug,
    /// which lies behind all cursors between the two. So a client that resumes from one of these cursors is sent the
    /// newer change again.
    fn conflate(&mut self) {
        self.merge_gaps();
        let (mut changed, mut kinds) = (HashSet::new(), HashSet::new());
        let mut kept = VecDeque::new();
        while let Some(delivery) = self.waiting.pop_back() {
            let is_newest = match &delivery.item {
                Some(Ok(Event::Change(change))) => changed.insert(change.bug),
                // Gaps and errors are all kept.
                Some(Ok(Event::Gap(_) | Event::GapOfAll) | Err(_)) => true,
                Some(Ok(event)) => kinds.insert(Some(std::mem::discriminant(event))),
                None => kinds.insert(None),
            };
            if is_newest {
                kept.push_front(delivery);
            }
        }
        self.waiting = kept;
    }

    /// Joins all gaps into the first one. The application asks the tracker when it gets that one, which is after the
    /// last gap happened.
    fn merge_gaps(&mut self) {
        let mut all = BTreeSet::new();
        let mut first: Option<usize> = None;
        let mut is_of_all = false;
        for (place, delivery) in self.waiting.iter_mut().enumerate() {
            if let Some(Ok(Event::GapOfAll)) = &delivery.item
                && std::mem::replace(&mut is_of_all, true)
            {
                delivery.item = None;
            }
            if let Some(Ok(Event::Gap(bugs))) = &delivery.item {
                all.extend(bugs.iter().copied());
                if first.is_some() {
                    delivery.item = None;
                } else {
                    first = Some(place);
                }
            }
        }
        if let Some(first) = first {
            self.waiting[first].item = Some(Ok(Event::Gap(all.into_iter().collect::<Vec<BugId>>())));
        }
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{Change, When};

    use super::*;
    use crate::State;

    fn bug(number: u64) -> BugId {
        BugId::new(number).unwrap()
    }

    fn change(number: u64, second: u64) -> Event {
        let when = When::from_micros(i64::try_from(second).unwrap() * 1_000_000).unwrap();
        Event::Change(Change { bug: bug(number), when })
    }

    fn put(delivery_queue: &mut DeliveryQueue, event: Option<Event>, cursor: Option<u64>) {
        let cursor = cursor.map(|seq| format!("E.{seq}"));
        delivery_queue.put(Delivery { item: event.map(Ok), cursor }, 2);
    }

    fn next(delivery_queue: &mut DeliveryQueue) -> Option<Event> {
        delivery_queue.take().map(Result::unwrap)
    }

    #[test]
    fn a_cursor_may_be_stored_when_the_next_item_is_asked_for() {
        let mut delivery_queue = DeliveryQueue::default();
        put(&mut delivery_queue, None, Some(1));
        assert_eq!(delivery_queue.take_dealt().as_deref(), Some("E.1"), "nothing is being dealt with");
        put(&mut delivery_queue, Some(change(1, 1)), Some(5));
        put(&mut delivery_queue, None, Some(6));
        put(&mut delivery_queue, Some(change(2, 1)), Some(7));
        assert_eq!(delivery_queue.take_dealt(), None, "bug 1 has not been handed out");
        assert_eq!(next(&mut delivery_queue), Some(change(1, 1)));
        put(&mut delivery_queue, None, Some(8));
        assert_eq!(delivery_queue.take_dealt(), None, "bug 1 is being dealt with");
        assert_eq!(next(&mut delivery_queue), Some(change(2, 1)));
        assert_eq!(delivery_queue.take_dealt().as_deref(), Some("E.6"), "bug 2 is being dealt with");
        assert_eq!(next(&mut delivery_queue), None);
        assert_eq!(delivery_queue.take_dealt().as_deref(), Some("E.8"));
        assert_eq!(delivery_queue.take_dealt(), None, "once");
    }

    #[test]
    fn a_slow_reader_gets_the_newest_change_of_each_bug() {
        let mut delivery_queue = DeliveryQueue::default();
        put(&mut delivery_queue, Some(Event::Gap(vec![bug(1)])), Some(1));
        for seq in 2..=30_001 {
            put(&mut delivery_queue, Some(change(1 + seq % 2, seq)), Some(seq));
            if seq % 1000 == 0 {
                put(&mut delivery_queue, Some(Event::State(State::Open)), None);
                put(&mut delivery_queue, None, Some(seq));
            }
        }
        put(&mut delivery_queue, Some(Event::Gap(vec![bug(2)])), Some(30_002));
        assert!(delivery_queue.waiting.len() <= MAX_WAITING + 4, "{}", delivery_queue.waiting.len());
        delivery_queue.conflate();
        assert_eq!(
            next(&mut delivery_queue),
            Some(Event::Gap(vec![bug(1), bug(2)])),
            "told before anything after it is stored"
        );
        let rest: Vec<Event> = std::iter::from_fn(|| next(&mut delivery_queue)).collect();
        let changes: Vec<&Event> = rest.iter().filter(|event| matches!(event, Event::Change(_))).collect();
        assert_eq!(changes, [&change(1, 30_000), &change(2, 30_001)], "in order");
        assert_eq!(rest.len(), 3, "and one state: {rest:?}");
        assert_eq!(delivery_queue.take_dealt().as_deref(), Some("E.30002"));
    }

    #[test]
    fn a_cursor_never_overtakes_a_change_that_was_not_dealt_with() {
        // Whichever changes are kept: the cursor of a reader that stops anywhere lies before the newest change of every
        // bug that it has not read.
        let mut delivery_queue = DeliveryQueue::default();
        let newest: Vec<u64> = (0..3).map(|bug| 20_997 + bug).collect();
        for seq in 0..21_000 {
            put(&mut delivery_queue, Some(change(1 + seq % 3, seq)), Some(seq));
        }
        let mut seen: Vec<Event> = Vec::new();
        while let Some(event) = next(&mut delivery_queue) {
            if let Some(stored) = delivery_queue.take_dealt() {
                let stored: u64 = stored.strip_prefix("E.").unwrap().parse().unwrap();
                for &seq in newest.iter().filter(|&&seq| seq <= stored) {
                    assert!(seen.contains(&change(1 + seq % 3, seq)), "{seq} is claimed by {stored}");
                }
            }
            seen.push(event);
            // The last ten events include the newest change of each bug.
            let skip = seen.len().saturating_sub(10);
            seen.drain(..skip);
        }
        assert!(newest.iter().all(|&seq| seen.contains(&change(1 + seq % 3, seq))));
    }

    #[test]
    fn failures_to_store_do_not_pile_up() {
        let mut delivery_queue = DeliveryQueue::default();
        for _ in 0..3 {
            delivery_queue.put_save_error(Error::Save(std::io::Error::other("full")));
        }
        assert!(matches!(delivery_queue.take(), Some(Err(Error::Save(_)))));
        assert!(delivery_queue.take().is_none());
    }
}
