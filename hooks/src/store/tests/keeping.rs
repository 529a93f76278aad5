//! What is kept, and what goes.

use bugfeed_core::hooks::event::{EventId, State};

use super::rig::{NOON_US, Rig, SECOND_US, count, envelope, failed, item};
use crate::receive::received::{Failure, Proof, Quarantined, QuarantinedRequest, Share};
use crate::store::events::Range;
use crate::store::prune::{PruneCount, PruneFilter, PruneRun};
use crate::store::retention::Keep;
use crate::store::{Bounds, Options, Store};

const DAY_US: i64 = 86_400 * SECOND_US;

fn suspect(at_us: i64, share: Share, address: &str, body: &str) -> QuarantinedRequest {
    let mut envelope = envelope(at_us);
    envelope.address = address.parse().unwrap();
    envelope.body = Some(body.to_owned().into());
    QuarantinedRequest {
        envelope,
        share,
        failure: Failure { error: "the key is not known".to_owned(), fix: "make one".to_owned() },
        proof: Proof { key: None, signature: vec![("x-sig".to_owned(), "00".to_owned())] },
    }
}

pub(super) async fn quarantine_has_shares(rig: &Rig) {
    let bounds = Bounds { quarantined: 4, quarantined_of_sender: 2, quarantined_bytes: 4000, ..Bounds::default() };
    let store = rig.with(Options { works: false, bounds, ..Options::default() }).await;
    let put = async |request: &QuarantinedRequest| store.quarantine(request).await.unwrap();
    let first = suspect(NOON_US, Share::KnownSource, "192.0.2.1", "a");
    assert_eq!(put(&first).await, Quarantined::Kept);
    assert_eq!(put(&first).await, Quarantined::Kept, "handed over again");
    assert_eq!(put(&suspect(NOON_US, Share::KnownSource, "192.0.2.1", "b")).await, Quarantined::Kept);
    assert_eq!(put(&suspect(NOON_US, Share::KnownSource, "192.0.2.1", "c")).await, Quarantined::Full, "of one sender");
    for address in ["192.0.2.2", "2001:db8::1"] {
        assert_eq!(put(&suspect(NOON_US, Share::KnownSource, address, "d")).await, Quarantined::Kept);
    }
    assert_eq!(put(&suspect(NOON_US, Share::KnownSource, "192.0.2.9", "e")).await, Quarantined::Full);
    let large = "x".repeat(2000);
    assert_eq!(put(&suspect(NOON_US, Share::KnownSender, "192.0.2.9", &large)).await, Quarantined::Full, "bytes");
    assert_eq!(put(&suspect(NOON_US, Share::KnownSender, "192.0.2.9", "f")).await, Quarantined::Kept);
    assert_eq!(put(&suspect(NOON_US, Share::UnknownSource, "192.0.2.9", "g")).await, Quarantined::Kept);
    let held = store.quarantine_held().await.unwrap();
    let counts: Vec<(Share, u64)> = held.iter().map(|held| (held.share, held.requests)).collect();
    assert_eq!(counts, [(Share::KnownSender, 1), (Share::KnownSource, 4), (Share::UnknownSource, 1)]);
    assert_eq!(store.quarantined(first.envelope.id).await.unwrap(), Some(first.clone()));
    let filter = crate::store::requests::RequestFilter {
        state: Some(crate::store::requests::RequestState::Quarantined),
        ..Default::default()
    };
    assert_eq!(store.requests(&filter, None, 100).await.unwrap().requests.len(), 6);
    assert!(store.leave_quarantine(first.envelope.id).await.unwrap());
    assert!(!store.leave_quarantine(first.envelope.id).await.unwrap());
    assert_eq!(store.quarantined(first.envelope.id).await.unwrap(), None);
    assert_eq!(store.body(first.envelope.id).await.unwrap(), None);
    run_retention(&store, Keep { quarantine_us: DAY_US, ..Keep::default() }, NOON_US + 2 * DAY_US).await;
    assert_eq!(store.quarantine_held().await.unwrap(), []);
    assert_eq!(count(&store, "hooks_requests").await, 0);
    store.close().await;
}

pub(super) async fn bodies_are_bounded(rig: &Rig) {
    let bounds = Bounds { body_bytes: 1_000_000, ..Bounds::default() };
    let store = rig.with(Options { works: false, bounds, ..Options::default() }).await;
    let mut ids = Vec::new();
    for n in 0..5_u8 {
        let mut request = rig.request(vec![failed(&n.to_string(), None)]);
        request.envelope.body = Some(vec![n; 300_000].into());
        store.accept(&[&request]).await.unwrap();
        ids.push(request.envelope.id);
    }
    assert_eq!(store.body_bytes(), 900_000);
    assert_eq!(store.body(ids[1]).await.unwrap(), None, "the oldest went");
    for n in 2..5_u8 {
        assert_eq!(store.body(ids[usize::from(n)]).await.unwrap(), Some(vec![n; 300_000]));
    }
    let mut request = rig.request(vec![failed("empty", None)]);
    request.envelope.body = Some(bytes::Bytes::new());
    let mut large = rig.request(vec![failed("large", None)]);
    large.envelope.body = Some(vec![1; 1_000_001].into());
    store.accept(&[&request, &large]).await.unwrap();
    assert_eq!(store.body(request.envelope.id).await.unwrap(), Some(Vec::new()));
    assert_eq!(store.body(large.envelope.id).await.unwrap(), None, "never more than the bound");
    run_retention(&store, Keep { bodies_us: DAY_US, ..Keep::default() }, NOON_US + 2 * DAY_US).await;
    assert_eq!((store.body_bytes(), count(&store, "hooks_bodies").await), (0, 0));
    assert_eq!(count(&store, "hooks_requests").await, 7);
    store.close().await;
}

pub(super) async fn items_are_kept_within_bounds(rig: &Rig) {
    let bounds = Bounds { kept_items: 3, kept_bytes: 100, ..Bounds::default() };
    let store = rig.with(Options { works: false, bounds, ..Options::default() }).await;
    let long = "x".repeat(50);
    let request = rig.request(vec![
        failed("1", Some("{}")),
        failed("2", Some(&long)),
        failed("3", Some("{}")),
        failed("4", Some("{}")),
        failed("5", None),
    ]);
    let told = store.accept(&[&request]).await.unwrap().pop().unwrap();
    let kept: Vec<bool> = told.items.iter().map(|item| item.is_retryable).collect();
    assert_eq!(kept, [true, true, true, false, false]);
    let again = rig.request(vec![failed("6", Some("{}"))]);
    assert!(!store.accept(&[&again]).await.unwrap()[0].items[0].is_retryable, "no room");
    assert_eq!(store.kept_held().await.unwrap(), [("s".to_owned(), 3, 96)]);
    // What expired goes.
    run_retention(&store, Keep::default(), NOON_US + 8 * DAY_US).await;
    assert_eq!(count(&store, "hooks_kept").await, 0);
    store.close().await;
}

/// Items that are as large as they may be, and have many signs that a statement writes as two.
pub(super) async fn many_large_items_are_kept(rig: &Rig) {
    let item = format!("\"{}\"", "\\\"".repeat(125_000));
    let request = rig.request((0..60).map(|n| failed(&n.to_string(), Some(&item))).collect());
    let told = rig.store.accept(&[&request]).await.unwrap().pop().unwrap();
    assert!(told.items.iter().all(|item| item.is_retryable));
    assert_eq!(rig.store.kept(told.items[59].event).await.unwrap(), request.items[59].kept);
}

async fn run_retention(store: &Store, keep: Keep, now_us: i64) -> u64 {
    let mut run = store.begin_retention(keep, now_us).await.unwrap();
    let mut removed = 0;
    for _ in 0..10_000 {
        let step = store.retain(&mut run).await.unwrap();
        removed += step.rows;
        if step.is_done {
            return removed;
        }
    }
    panic!("retention does not end");
}

pub(super) async fn retention_removes_what_is_old(rig: &Rig) {
    for n in 0..300_u64 {
        rig.arrive(item(n / 2 % 40 + 1, 0, &(n / 2).to_string())).await;
    }
    let waiting = rig.arrive(failed("x", Some("{}"))).await;
    rig.work(NOON_US + SECOND_US).await;
    let keep = Keep { events_us: DAY_US, ..Keep::default() };
    assert_eq!(run_retention(&rig.store, keep, NOON_US + DAY_US).await, 0, "not yet");
    // The first 100 requests came within the first 100 ms.
    let removed = run_retention(&rig.store, keep, NOON_US + DAY_US + 100_000).await;
    assert_eq!((removed, rig.count("hooks_events").await), (200, 201));
    run_retention(&rig.store, keep, NOON_US + 3 * DAY_US).await;
    assert_eq!(rig.state(waiting).await, State::Errored, "what waits never goes");
    assert_eq!((rig.count("hooks_events").await, rig.count("hooks_requests").await), (1, 1));
    assert_eq!((rig.count("hooks_lines").await, rig.count("hooks_links").await), (1, 0));
    assert_eq!(rig.rows().await.len() as i64, 150, "the change table is the shim's");
    // A delivery that was forgotten is a new event.
    let again = rig.arrive(item(1, 0, "0")).await;
    assert_eq!(rig.state(again).await, State::Queued);
}

pub(super) async fn retention_removes_what_is_too_much(rig: &Rig) {
    for n in 0..200_u64 {
        rig.arrive(item(n + 1, 0, "d")).await;
    }
    rig.work(NOON_US + SECOND_US).await;
    let keep = Keep { events: 50, ..Keep::default() };
    assert_eq!(run_retention(&rig.store, keep, NOON_US + 60 * SECOND_US).await, 0, "nothing of the last hour");
    // The first 100 are too old as well; they count as gone.
    let keep = Keep { events_us: 7200 * SECOND_US - 100_000, ..keep };
    run_retention(&rig.store, keep, NOON_US + 7200 * SECOND_US).await;
    assert_eq!((rig.count("hooks_events").await, rig.count("hooks_requests").await), (50, 50));
    let left: Vec<EventId> = rig.all().await.iter().map(|stored| stored.event.id).collect();
    assert!(
        rig.store.detail(left[0]).await.unwrap().unwrap().stored.event.bug.unwrap().get() == 151,
        "the oldest went"
    );
}

pub(super) async fn retention_under_load(rig: &Rig) {
    for n in 0..400_u64 {
        rig.arrive(item(n % 50 + 1, n.cast_signed(), "old")).await;
    }
    rig.work(NOON_US + 3600 * SECOND_US).await;
    let now_us = NOON_US + 2 * DAY_US;
    let keep = Keep { events_us: DAY_US, ..Keep::default() };
    let load = async {
        for n in 0..200 {
            let at_us = now_us + n * 1000;
            let request = super::rig::request_at(at_us, vec![item(1, n, &format!("new {n}"))]);
            rig.store.accept(&[&request]).await.unwrap();
        }
    };
    let (removed, ()) = tokio::join!(run_retention(&rig.store, keep, now_us), load);
    assert!(removed >= 400, "{removed}");
    assert_eq!(rig.count("hooks_events").await, 200);
    rig.work(now_us + 3600 * SECOND_US).await;
    assert_eq!(rig.rows().await.len(), 600);
}

pub(super) async fn pruning(rig: &Rig) {
    let done = rig.arrive(item(1, 0, "done")).await;
    rig.work(NOON_US + SECOND_US).await;
    let mut bad = rig.request(vec![item(2, 0, "bad"), failed("bad", Some("{\"secret\":1}"))]);
    bad.envelope.key_id = Some("stolen".to_owned());
    bad.envelope.body = Some("body".to_owned().into());
    rig.store.accept(&[&bad]).await.unwrap();
    let filter = PruneFilter { key_id: Some("stolen".to_owned()), ..PruneFilter::default() };
    let (mut run, mut counted) = (PruneRun::new(filter.clone()), PruneCount::default());
    while !run.is_done {
        rig.store.count_prune(&mut run, &mut counted).await.unwrap();
    }
    assert_eq!(counted.requests, 1);
    assert_eq!(counted.events, [(State::Queued, 1), (State::Errored, 1)].into());
    assert_eq!(rig.state(bad.envelope.id.event(0)).await, State::Queued, "a dry run");
    let mut run = PruneRun::new(filter);
    let pruned = rig.store.prune(&mut run, NOON_US + 2 * SECOND_US).await.unwrap();
    assert!(run.is_done);
    assert_eq!((pruned.canceled, pruned.erased, pruned.left), (2, 0, 0));
    for item in 0..2 {
        let detail = rig.store.detail(bad.envelope.id.event(item)).await.unwrap().unwrap();
        assert_eq!((detail.stored.event.progress.state, detail.reason, detail.is_kept), (State::Canceled, None, false));
        assert_eq!(&*detail.stored.event.kind, "");
        assert_eq!(detail.lines.last().unwrap().after, Some(State::Canceled));
    }
    assert_eq!(rig.store.body(bad.envelope.id).await.unwrap(), None);
    assert_eq!(rig.store.request(bad.envelope.id).await.unwrap().unwrap().envelope.headers, []);
    assert_eq!(&*rig.stored(done).await.event.kind, "edit", "others are left alone");
    // What was announced stays announced; its log is erased.
    let range = Range { from_us: Some(NOON_US), to_us: Some(NOON_US + SECOND_US) };
    let mut run = PruneRun::new(PruneFilter { range, ..PruneFilter::default() });
    let pruned = rig.store.prune(&mut run, NOON_US + 3 * SECOND_US).await.unwrap();
    assert_eq!((pruned.canceled, pruned.erased), (0, 3));
    let stored = rig.stored(done).await;
    assert_eq!((&*stored.event.kind, stored.event.progress.state), ("", State::Completed));
    assert_eq!(rig.rows().await.len(), 1);
    // A repeat of a pruned delivery is still known.
    let repeat = rig.arrive(item(1, 0, "done")).await;
    assert_eq!(rig.state(repeat).await, State::Duplicate);
}
