//! Reading: pages, filters, the way of a bug.

use bugfeed_core::hooks::event::{ErrorClass, EventId, State};
use bugfeed_core::hooks::orders::{Order, Refusal};
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When};

use super::rig::{NOON_US, Rig, SECOND_US, failed, item, look};
use crate::receive::received::ReceivedItem;
use crate::store::dead::Ordered;
use crate::store::events::{EventFilter, Range};
use crate::store::requests::{RequestFilter, RequestState};

/// All pages of so many events, together.
async fn all_pages(rig: &Rig, filter: &EventFilter, limit: usize) -> Vec<EventId> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = rig.store.list_events(filter, after, limit).await.unwrap();
        assert!(page.events.len() <= limit);
        found.extend(page.events.iter().map(|stored| stored.event.id));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

pub(super) async fn pages_and_filters(rig: &Rig) {
    rig.store.serve_feed("g", None).await.unwrap();
    let mut of_g = Vec::new();
    for n in 0..50_u64 {
        let feed = if n % 5 == 0 { "g" } else { "f" };
        let one = ReceivedItem { feed: feed.to_owned(), ..item(n % 3 + 1, -n.cast_signed(), &n.to_string()) };
        let id = rig.arrive(one).await;
        if feed == "g" {
            of_g.push(id);
        }
    }
    let errored = rig.arrive(failed("x", None)).await;
    let mut all: Vec<EventId> = rig.all().await.iter().map(|stored| stored.event.id).collect();
    all.reverse();
    let none = EventFilter::default();
    assert_eq!(all_pages(rig, &none, 7).await, all);
    assert_eq!(all_pages(rig, &none, 51).await, all);
    of_g.reverse();
    assert_eq!(all_pages(rig, &EventFilter { feed: Some("g".into()), ..none.clone() }, 3).await, of_g);
    let by_state = |state| EventFilter { state: Some(state), ..EventFilter::default() };
    assert_eq!(all_pages(rig, &by_state(State::Errored), 5).await, [errored]);
    assert_eq!(all_pages(rig, &by_state(State::Queued), 6).await, all[1..]);
    assert_eq!(all_pages(rig, &by_state(State::Completed), 6).await, []);
    rig.work(NOON_US + SECOND_US).await;
    let completed = all_pages(rig, &by_state(State::Completed), 6).await;
    assert!(!completed.is_empty() && completed.is_sorted_by(|a, b| a > b));
    let source = |name: &str| EventFilter { source: Some(name.to_owned()), ..EventFilter::default() };
    assert_eq!(all_pages(rig, &source("s"), 20).await, all);
    assert_eq!(all_pages(rig, &source("other"), 20).await, []);
    let both = EventFilter { state: Some(State::Errored), ..source("s") };
    assert_eq!(all_pages(rig, &both, 20).await, [errored]);
    // A bug's events are in the order of their times, whichever feed they are of.
    let of_bug = EventFilter { bug: BugId::new(2), ..EventFilter::default() };
    let found = all_pages(rig, &of_bug, 4).await;
    assert_eq!(found.len(), 17);
    let mut times = Vec::new();
    for id in &found {
        times.push(rig.stored(*id).await.event.when);
    }
    assert!(times.is_sorted_by(|a, b| a >= b));
    let of_bug_and_feed = EventFilter { feed: Some("g".into()), state: Some(State::Completed), ..of_bug };
    assert!(all_pages(rig, &of_bug_and_feed, 2).await.iter().all(|id| of_g.contains(id)));
    // By receipt, to the millisecond.
    let range = Range { from_us: Some(NOON_US + 10_000), to_us: Some(NOON_US + 20_000) };
    let found = all_pages(rig, &EventFilter { range, ..EventFilter::default() }, 3).await;
    assert_eq!(found, all[31..41]);
}

pub(super) async fn requests_are_listed(rig: &Rig) {
    let mut ids = Vec::new();
    for n in 0..9 {
        let items = match n % 3 {
            0 => vec![item(1, n, "")],
            1 => vec![item(1, n, ""), failed(&n.to_string(), None)],
            _ => vec![failed(&n.to_string(), None)],
        };
        let mut request = rig.request(items);
        request.envelope.key_id = Some(format!("key{}", n % 2));
        rig.store.accept(&[&request]).await.unwrap();
        ids.push(request.envelope.id);
    }
    ids.reverse();
    let list = async |filter: RequestFilter| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = rig.store.requests(&filter, after, 2).await.unwrap();
            found.extend(page.requests.into_iter().map(|request| (request.envelope.id, request.state)));
            match page.next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    };
    let found: Vec<_> = list(RequestFilter::default()).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, ids);
    for state in [RequestState::Ok, RequestState::Partly, RequestState::Error] {
        let found = list(RequestFilter { state: Some(state), source: Some("s".into()), ..Default::default() }).await;
        assert!(found.len() == 3 && found.iter().all(|(_, found)| *found == state), "{found:?}");
    }
    let found = list(RequestFilter { key_id: Some("key1".into()), ..Default::default() }).await;
    assert_eq!(found.len(), 4);
    let events = rig.store.events_of(ids[1]).await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(rig.store.last_request("s").await.unwrap(), Some(NOON_US + 8000));
    assert_eq!(rig.store.last_request("other").await.unwrap(), None);
    // What was found at the tracker, or received again by a person, was not sent.
    let mut found = rig.request(vec![item(1, 90, "found")]);
    found.envelope.path = crate::store::known::RECONCILED.to_owned();
    let mut again = rig.request(vec![item(1, 91, "again")]);
    again.replays = Some(ids[0]);
    rig.store.accept(&[&found, &again]).await.unwrap();
    assert_eq!(rig.store.last_request("s").await.unwrap(), Some(NOON_US + 8000));
    assert_eq!(rig.store.last_taken("s").await.unwrap(), Some(NOON_US + 8000));
    let traffic = rig.store.traffic("s").await.unwrap();
    assert_eq!((traffic.last_us, traffic.taken_us), (Some(NOON_US + 8000), Some(NOON_US + 8000)));
}

fn numbered(epoch: &str, seq: u64, bug: u64, second: i64) -> Numbered {
    let when = When::from_micros(NOON_US + second * SECOND_US).unwrap();
    let cursor = Cursor::new(Epoch::parse(epoch).unwrap(), seq);
    Numbered { change: Change { bug: BugId::new(bug).unwrap(), when }, cursor, after: None, recorded: when }
}

pub(super) async fn the_way_of_a_bug_to_its_number(rig: &Rig) {
    let first = rig.arrive(item(1, 0, "a")).await;
    let second = rig.arrive(item(1, 0, "b")).await;
    let third = rig.arrive(item(2, 5, "c")).await;
    rig.work(NOON_US + SECOND_US).await;
    assert_eq!(rig.store.matched_to("f").await.unwrap(), None);
    // A change that no event has brought is passed over.
    let changes = [numbered("e", 1, 1, 0), numbered("e", 2, 9, 9), numbered("e", 3, 2, 5), numbered("e", 4, 1, 0)];
    assert_eq!(rig.store.match_changes("f", &changes[..2]).await.unwrap(), 1);
    assert_eq!(rig.store.match_changes("f", &changes).await.unwrap(), 2, "what was matched is passed over");
    assert_eq!(rig.store.match_changes("f", &changes).await.unwrap(), 0);
    assert_eq!(rig.store.matched_to("f").await.unwrap(), Some(changes[3].cursor.clone()));
    let number = async |id| rig.stored(id).await.cursor.map(|(epoch, seq)| (epoch.to_string(), seq));
    assert_eq!(number(first).await, Some(("e".to_owned(), 1)), "equal ones in the order of their rows");
    assert_eq!(number(second).await, Some(("e".to_owned(), 4)));
    assert_eq!(number(third).await, Some(("e".to_owned(), 3)));
    // A new epoch is another numbering.
    let fourth = rig.arrive(item(3, 0, "d")).await;
    rig.work(NOON_US + SECOND_US).await;
    assert_eq!(rig.store.match_changes("f", &[numbered("e2", 1, 3, 0)]).await.unwrap(), 1);
    assert_eq!(number(fourth).await, Some(("e2".to_owned(), 1)));
    assert_eq!(number(first).await, Some(("e".to_owned(), 1)), "a number that is known stays");
    let way = rig.store.way(BugId::new(1).unwrap(), None, 10).await.unwrap();
    assert_eq!(way.len(), 2);
    assert!(way.iter().all(|step| step.stored.row.is_some() && step.stored.cursor.is_some()));
}

pub(super) async fn orders_about_many(rig: &Rig) {
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(rig.arrive(failed(&n.to_string(), (n > 0).then_some("{}"))).await);
    }
    let now_us = NOON_US + SECOND_US;
    let found = rig.store.in_state(State::Errored, Some("s"), None, None, 3).await.unwrap();
    assert_eq!(found, ids[..3]);
    let found = rig.store.in_state(State::Errored, None, Some("f"), Some(ids[2]), 100).await.unwrap();
    assert_eq!(found, ids[3..]);
    let refused = rig.store.order(ids[0], Order::Retry, now_us).await.unwrap();
    assert_eq!(refused, Ordered::Refused(Refusal::NotRetryable));
    assert_eq!(rig.store.order(EventId(7), Order::Retry, now_us).await.unwrap(), Ordered::NoEvent);
    let count = rig.store.order_all(&ids, Order::Mended(ErrorClass::Mapping), now_us).await.unwrap();
    assert_eq!(count, 4);
    assert_eq!(rig.store.due_lanes(&look(now_us), true, 10).await.unwrap().len(), 4);
    assert_eq!(rig.store.order(ids[1], Order::Drop, now_us).await.unwrap(), Ordered::Done);
    assert_eq!(rig.state(ids[1]).await, State::Dropped);
    assert!(rig.store.kept(ids[1]).await.unwrap().is_none(), "what is ended is not kept");
    assert!(rig.store.kept(ids[2]).await.unwrap().is_some());
}
