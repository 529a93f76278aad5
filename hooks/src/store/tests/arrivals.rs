//! Requests arrive.

use std::sync::Arc;

use bugfeed_core::hooks::arrival::Duplicates;
use bugfeed_core::hooks::event::{DropReason, ErrorClass, Event, Link, LinkKind, State, Trigger, WhenOrigin};
use bugfeed_core::hooks::lane::Settings;
use tokio_util::sync::CancellationToken;

use super::rig::{NOON_US, Rig, SECOND_US, failed, item};
use crate::receive::received::{AnsweredItem, ReceivedItem};
use crate::store::Rule;
use crate::store::intake::intake;

pub(super) async fn an_item_becomes_an_event_and_is_read_back(rig: &Rig) {
    let private = ReceivedItem { is_private: true, ..item(2, 1, "d") };
    let undated = ReceivedItem { is_dated: false, has_wrong_clock: true, ..item(3, 2, "") };
    let mut request = rig.request(vec![item(1, 0, "d"), private, undated, failed("e", Some("{}"))]);
    request.answered.push(AnsweredItem { index: 9, is_connected: true, kind: "ping".into(), delivery: None });
    let accepted = rig.store.accept(&[&request]).await.unwrap().pop().unwrap();
    let states: Vec<State> = accepted.items.iter().map(|item| item.state).collect();
    assert_eq!(states, [State::Queued, State::Dropped, State::Queued, State::Errored]);
    assert_eq!(accepted.items[1].dropped, Some(DropReason::Private));
    assert!(accepted.items[3].is_retryable);
    for (received, told) in request.items.iter().zip(&accepted.items) {
        let stored = rig.stored(told.event).await;
        let mut want = request.event(received, received.kept.is_some());
        (want.expires_us, want.progress) = (stored.event.expires_us, stored.event.progress.clone());
        assert_eq!(stored.event, want);
        assert_eq!((stored.item, stored.request()), (received.index, request.envelope.id));
        assert_eq!(stored.has_wrong_clock, received.has_wrong_clock);
        assert_eq!((stored.row, stored.cursor.clone()), (None, None));
    }
    let errored = rig.store.detail(accepted.items[3].event).await.unwrap().unwrap();
    assert_eq!(errored.stored.event.progress.class, Some(ErrorClass::Mapping));
    assert_eq!(errored.reason.unwrap().error, "no bug");
    assert_eq!(rig.store.kept(accepted.items[3].event).await.unwrap(), request.items[3].kept);
    assert_eq!(rig.stored(accepted.items[2].event).await.event.origin, WhenOrigin::Arrival);
    let stored = rig.store.request(request.envelope.id).await.unwrap().unwrap();
    assert_eq!((stored.envelope, stored.items, stored.connected), (request.envelope, 4, 1));
}

/// Where an equal time is a repeat, also at two processes at once.
pub(super) async fn an_equal_time_at_once_at_two_stores(rig: &Rig) {
    let other = rig.other().await;
    for store in [&rig.store, &other] {
        let rule = Rule { settings: Settings::DEFAULT, duplicates: Duplicates::ByTime };
        store.set_rules(Arc::new(move |_: &Event| rule));
    }
    for bug in 1..=40 {
        let (one, two) = (rig.request(vec![item(bug, 0, "a")]), rig.request(vec![item(bug, 0, "b")]));
        let (requests_one, requests_two) = ([&one], [&two]);
        let told = tokio::join!(rig.store.accept(&requests_one), other.accept(&requests_two));
        let mut states = [told.0.unwrap()[0].items[0].state, told.1.unwrap()[0].items[0].state];
        states.sort_unstable();
        assert_eq!(states, [State::Queued, State::Duplicate], "bug {bug}");
    }
    other.close().await;
}

pub(super) async fn repeats_are_linked(rig: &Rig) {
    let first = rig.arrive(item(1, 0, "d")).await;
    let other_body = ReceivedItem { hash: item(9, 9, "x").hash, ..item(1, 0, "d") };
    let same_time = item(1, 0, "another");
    for (repeat, state, kind) in [
        (item(1, 0, "d"), State::Duplicate, LinkKind::DuplicateOf),
        (other_body, State::Queued, LinkKind::SameDeliveryAs),
        (same_time, State::Queued, LinkKind::SameTimeAs),
    ] {
        let request = rig.request(vec![repeat]);
        let told = rig.store.accept(&[&request]).await.unwrap().pop().unwrap().items.pop().unwrap();
        assert_eq!((told.state, told.links.len(), told.links[0].kind), (state, 1, kind));
        let detail = rig.store.detail(told.event).await.unwrap().unwrap();
        assert_eq!(detail.links, told.links);
        if kind != LinkKind::SameTimeAs {
            assert_eq!(told.links[0], Link { kind, to: first });
        }
    }
    let linked = rig.store.detail(first).await.unwrap().unwrap().linked_by;
    assert!(linked.iter().any(|(_, kind)| *kind == LinkKind::DuplicateOf), "{linked:?}");
    // Without a delivery id, an equal content is a repeat.
    let first = rig.arrive(item(5, 0, "")).await;
    let repeat = rig.arrive(item(5, 0, "")).await;
    assert_eq!((rig.state(first).await, rig.state(repeat).await), (State::Queued, State::Duplicate));
    // A replay by hand is a new event.
    let mut replay = rig.request(vec![item(5, 0, "")]);
    replay.trigger = Trigger::Replay;
    let original = rig.stored(first).await.request();
    replay.replays = Some(original);
    let told = rig.store.accept(&[&replay]).await.unwrap().pop().unwrap().items.pop().unwrap();
    assert_eq!((told.state, told.links[0].to), (State::Queued, first));
}

pub(super) async fn the_same_delivery_twice_in_one_transaction(rig: &Rig) {
    let requests = [rig.request(vec![item(1, 0, "d")]), rig.request(vec![item(1, 0, "d"), item(1, 0, "d")])];
    let told = rig.store.accept(&requests.each_ref()).await.unwrap();
    let states: Vec<State> = told.iter().flat_map(|told| &told.items).map(|item| item.state).collect();
    // Index 1 of a delivery is another item than index 0.
    assert_eq!(states, [State::Queued, State::Duplicate, State::Queued]);
    let twice = rig.request(vec![item(2, 0, "e")]);
    let told = rig.store.accept(&[&twice, &twice]).await.unwrap();
    assert_eq!(told[0], told[1]);
    assert_eq!(rig.count("hooks_events WHERE bug = 2").await, 1);
}

pub(super) async fn the_same_delivery_at_once_at_two_stores(rig: &Rig) {
    let other = rig.other().await;
    for round in 0..10_i64 {
        let delivery = format!("round {round}");
        let (one, two) = (rig.request(vec![item(1, round, &delivery)]), rig.request(vec![item(1, round, &delivery)]));
        let (one, two) = ([&one], [&two]);
        let (one, two) = tokio::join!(rig.store.accept(&one), other.accept(&two));
        let mut states = [one.unwrap()[0].items[0].state, two.unwrap()[0].items[0].state];
        states.sort_unstable();
        assert_eq!(states, [State::Queued, State::Duplicate], "{delivery}");
    }
    other.close().await;
}

pub(super) async fn a_request_that_is_handed_over_again_is_answered_as_before(rig: &Rig) {
    rig.arrive(item(1, 0, "d")).await;
    let request = rig.request(vec![item(1, 0, "d"), item(2, 0, "d"), failed("x", Some("{}")), item(3, 0, "")]);
    let first = rig.store.accept(&[&request]).await.unwrap();
    rig.work(NOON_US + SECOND_US).await;
    let new = rig.request(vec![item(4, 0, "")]);
    let again = rig.store.accept(&[&request, &new]).await.unwrap();
    assert_eq!(again[0], first[0]);
    assert_eq!(again[1].items[0].state, State::Queued);
    assert_eq!(rig.count("hooks_events").await, 6);
}

pub(super) async fn many_requests_share_a_transaction(rig: &Rig) {
    let (intake, task) = intake(&rig.store);
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    let accepted = (0..300).map(|n| intake.accept(Arc::new(rig.request(vec![item(n % 7 + 1, 0, &n.to_string())]))));
    for told in futures::future::join_all(accepted).await {
        assert_eq!(told.unwrap().items[0].state, State::Queued);
    }
    assert_eq!(rig.count("hooks_events").await, 300);
    // What was handed over before the stop is still committed.
    let last = tokio::spawn({
        let (intake, request) = (intake.clone(), Arc::new(rig.request(vec![item(1, 9, "last")])));
        async move { intake.accept(request).await }
    });
    assert!(last.await.unwrap().is_ok());
    stop.cancel();
    task.await.unwrap();
    assert!(intake.accept(Arc::new(rig.request(vec![item(1, 9, "late")]))).await.is_err());
}

pub(super) async fn odd_texts(rig: &Rig) {
    for (n, text) in (0..).zip(["it's \\ ?", "é\n😀", "a\0b", "\"; DROP TABLE hooks_events; --", "%_", " d ", "D", "d"])
    {
        let odd = ReceivedItem { kind: text.to_owned(), ..item(1, n, text) };
        let mut request = rig.request(vec![odd]);
        request.envelope.headers = vec![("X-Odd".to_owned(), text.to_owned())];
        request.envelope.path = "x".repeat(500);
        let told = rig.store.accept(&[&request]).await.unwrap().pop().unwrap().items.pop().unwrap();
        assert_eq!(told.state, State::Queued, "{text:?}");
        let stored = rig.stored(told.event).await.event;
        let want = text.replace('\0', "\u{fffd}");
        assert_eq!((&*stored.kind, &*stored.delivery.unwrap().id), (&*want, &*want));
        // A repeat is known, whatever the database makes of such a text.
        let again = rig.request(vec![request.items[0].clone()]);
        let told = rig.store.accept(&[&again]).await.unwrap().pop().unwrap().items.pop().unwrap();
        assert_eq!(told.state, State::Duplicate, "{text:?}");
    }
}
