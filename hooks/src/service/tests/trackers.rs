//! Verification and reconciling, with a Bugzilla in the test process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bugfeed_core::hooks::event::{DropReason, ErrorClass, LinkKind, State, Trigger};
use bugfeed_protocol::When;
use serde_json::json;

use super::rig::{PLAIN, Place, Service, until};
use crate::test_server::{Got, Reply, Server};

/// What the tracker says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Works,
    Fails,
    Hangs,
}

/// A Bugzilla with these bugs, and when each last changed.
#[derive(Clone)]
pub(super) struct Bugzilla {
    mood: Arc<Mutex<Mood>>,
    bugs: Arc<Mutex<BTreeMap<u64, i64>>>,
    ahead_us: Arc<std::sync::atomic::AtomicI64>,
}

pub(super) fn now_us() -> i64 {
    When::from_system_time(SystemTime::now()).as_micros()
}

fn stamp(us: i64) -> String {
    let text = When::from_micros(us - us.rem_euclid(1_000_000)).unwrap().to_string();
    format!("{text}Z")
}

impl Bugzilla {
    pub(super) async fn start(place: &Place) -> (Bugzilla, Server) {
        let tracker = Bugzilla {
            mood: Arc::new(Mutex::new(Mood::Works)),
            bugs: Arc::default(),
            ahead_us: Arc::clone(&place.ahead_us),
        };
        let answering = tracker.clone();
        (tracker, Server::start(move |got| answering.answer(got)).await)
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(super) fn change(&self, bug: u64, at_us: i64) {
        self.bugs.lock().unwrap().insert(bug, at_us);
    }

    fn answer(&self, got: &Got) -> Reply {
        match *self.mood.lock().unwrap() {
            Mood::Works => {}
            Mood::Fails => return Reply::html(500),
            Mood::Hangs => return Reply::Hang(Vec::new()),
        }
        let bugs = self.bugs.lock().unwrap();
        let show = |(bug, at_us): (&u64, &i64)| json!({"id": bug, "last_change_time": stamp(*at_us), "product": "P"});
        if got.path() == "/rest/time" {
            let now_us = now_us() + self.ahead_us.load(std::sync::atomic::Ordering::SeqCst);
            return Reply::json(200, &json!({"db_time": stamp(now_us)}));
        }
        if got.path() == "/rest/webhooks/list" {
            let url = "https://bf.example.org/hooks/bz";
            return Reply::json(
                200,
                &json!({"webhooks": [{"id": 3, "name": "ours", "url": url, "enabled": false, "errors": 7}]}),
            );
        }
        if let Some(number) = got.path().strip_prefix("/rest/bug/") {
            let number: u64 = number.parse().unwrap();
            return match bugs.get_key_value(&number) {
                Some(found) => Reply::json(200, &json!({"bugs": [show(found)], "faults": []})),
                None => Reply::json(404, &json!({"error": true, "code": 101, "message": "no such bug"})),
            };
        }
        let since = got.query("last_change_time").unwrap();
        let since_us = crate::receive::date::read_text(&since, &jiff::tz::TimeZone::UTC).unwrap().as_micros();
        let changed: Vec<_> = bugs.iter().filter(|(_, at_us)| **at_us >= since_us).map(show).collect();
        Reply::json(200, &json!({"bugs": changed}))
    }
}

pub(super) fn config(server: &Server, rest: &str) -> String {
    let url = server.url("");
    format!("[[source]]\nname = \"bz\"\npreset = \"bugzilla\"\ntracker = \"{url}\"\n{rest}\n{PLAIN}")
}

/// What Bugzilla posts of a bug that changed at this second of the last hour.
fn edit(bug: u64, second: i64) -> String {
    edit_at(bug, now_us() - 3600 * 1_000_000 + second * 1_000_000, second)
}

fn edit_at(bug: u64, at_us: i64, second: i64) -> String {
    let time = stamp(at_us);
    json!({
        "event": {"routing_key": "bug.modify:status", "target": "bug", "action": "modify", "time": time,
            "user": {"id": 1}, "changes": [{"field": "status", "removed": "a", "added": second.to_string()}]},
        "bug": {"id": bug, "is_private": false, "product": "P"},
    })
    .to_string()
}

#[tokio::test]
async fn a_bug_is_announced_once_the_tracker_shows_it() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    tracker.change(7, now_us());
    let service = place.start(&config(&server, "verify = true")).await;
    assert_eq!(service.post("bz", &edit(7, 1)).await, ["queued"]);
    assert_eq!(service.post("bz", &edit(8, 1)).await, ["queued"]);
    assert_eq!(service.until_rows("default", 1).await, [7]);
    let hidden = service.until_state(8, State::Errored).await;
    assert_eq!(hidden.event.progress.class, Some(ErrorClass::Tracker));
    service.ahead(61);
    let dropped = service.until_state(8, State::Dropped).await;
    assert_eq!(dropped.event.progress.drop, Some(DropReason::Unknown));
    assert_eq!(service.rows("default").await, [7]);
    assert_eq!(service.counter("bugfeed_hooks_asked_total{source=\"bz\",answer=\"visible\"}"), 1);
    service.stop().await;
}

#[tokio::test]
async fn an_orderly_stop_during_a_question_counts_as_nothing() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    tracker.change(7, now_us());
    tracker.set(Mood::Hangs);
    let config = config(&server, "verify = true");
    for round in 0..4 {
        let service = place.start(&config).await;
        if round == 0 {
            service.post("bz", &edit(7, 1)).await;
        }
        let asked = service.until_state(7, State::Processing).await.event.progress;
        assert_eq!((asked.leases_lost, asked.attempts), (0, 0), "round {round}");
        service.stop().await;
        // Whatever lease it had is over.
        place.ahead_us.fetch_add(61_000_000, std::sync::atomic::Ordering::SeqCst);
    }
    tracker.set(Mood::Works);
    let service = place.start(&config).await;
    assert_eq!(service.until_rows("default", 1).await, [7]);
    let done = service.until_state(7, State::Completed).await.event.progress;
    assert_eq!((done.leases_lost, done.attempts), (0, 0));
    service.stop().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_is_our_fault_and_not_the_events() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    tracker.change(7, now_us());
    let service = place.start(&config(&server, "verify = true")).await;
    let db = place.db();
    db.execute("DROP TABLE push_notify_default", &[]).await.unwrap();
    service.post("bz", &edit(7, 1)).await;
    let failed = service.until_state(7, State::Errored).await.event.progress;
    assert_eq!((failed.class, failed.attempts, failed.leases_lost), (Some(ErrorClass::Ours), 0, 0));
    service.hooks.opened().await.0.serve_feed("default", None).await.unwrap();
    service.ahead(31);
    assert_eq!(service.until_rows("default", 1).await, [7]);
    db.close().await;
    service.stop().await;
}

#[tokio::test]
async fn of_a_bug_that_became_private_nothing_is_announced_where_the_tracker_is_asked() {
    let (_, server) = Bugzilla::start(&Place::sqlite().await).await;
    // Bugzilla sends two messages: the old bug, still public, and a number. The tracker shows neither any more.
    let time = stamp(now_us() - 10_000_000);
    let event = |changes: serde_json::Value| {
        json!({"routing_key": "bug.modify:is_private", "target": "bug", "action": "modify", "time": time,
            "user": {"id": 1}, "changes": changes})
    };
    let public = json!({
        "event": event(json!([{"field": "is_private", "removed": "0", "added": "1"}])),
        "bug": {"id": 5, "is_private": false, "product": "P"},
    });
    let private = json!({"event": event(json!([])), "bug": {"id": 5, "is_private": true}});
    for (rest, bugs) in [("verify = true", &[][..]), ("", &[5])] {
        let place = Place::sqlite().await;
        let service = place.start(&config(&server, rest)).await;
        assert_eq!(service.post("bz", &public.to_string()).await, ["queued"], "{rest}");
        assert_eq!(service.post("bz", &private.to_string()).await, ["dropped"], "{rest}");
        if bugs.is_empty() {
            until("the first look", async || {
                let asked = service.counter("bugfeed_hooks_asked_total{source=\"bz\",answer=\"not_visible\"}");
                (asked == 1).then_some(()).ok_or_else(|| asked.to_string())
            })
            .await;
            service.ahead(61);
        }
        until("both are settled", async || {
            let events = service.events(5).await;
            let settled = events.len() == 2 && events.iter().all(|stored| stored.event.progress.state.is_terminal());
            settled.then_some(()).ok_or_else(|| format!("{events:?}"))
        })
        .await;
        assert_eq!(service.rows("default").await, bugs, "{rest}");
        service.stop().await;
    }
}

#[tokio::test]
async fn a_webhook_that_comes_after_the_reconciler_is_announced_and_was_not_missed() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    let service = place.start(&config(&server, "reconcile = \"5m\"")).await;
    until("the first round", async || {
        server.got().iter().any(|got| got.path() == "/rest/time").then_some(()).ok_or_else(String::new)
    })
    .await;
    service.ahead(400);
    // By the tracker's clock, no time has passed: the receiver believes no time that is far ahead of its own.
    let at_us = now_us();
    tracker.change(35, at_us);
    until("it is found", async || {
        service.hooks.desk().reconcile("bz").await.unwrap();
        let rows = service.rows("default").await;
        (rows == [35]).then_some(()).ok_or_else(|| format!("{rows:?}"))
    })
    .await;
    // The webhook of the same change was only late. It may say more than the list, so it is announced as well.
    assert_eq!(service.post("bz", &edit_at(35, at_us, 0)).await, ["queued"]);
    assert_eq!(service.until_rows("default", 2).await, [35, 35]);
    let events = service.events(35).await;
    let late = events.iter().find(|stored| stored.event.progress.trigger == Trigger::Live).unwrap();
    let links = service.hooks.opened().await.0.detail(late.event.id).await.unwrap().unwrap().links;
    assert!(links.iter().any(|link| link.kind == LinkKind::SameTimeAs), "{links:?}");
    // Another one is missed, so that it is seen that the verdicts are given.
    tracker.change(36, now_us() + place.ahead_us.load(std::sync::atomic::Ordering::SeqCst));
    until("the other one is found", async || {
        service.ahead(1);
        service.hooks.desk().reconcile("bz").await.unwrap();
        let rows = service.rows("default").await;
        (rows == [35, 35, 36]).then_some(()).ok_or_else(|| format!("{rows:?}"))
    })
    .await;
    service.ahead(400);
    until("it is counted", async || {
        service.hooks.desk().reconcile("bz").await.unwrap();
        let count = service.counter("bugfeed_hooks_missed_total{source=\"bz\"}");
        (count >= 1).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    assert_eq!(service.counter("bugfeed_hooks_missed_total{source=\"bz\"}"), 1, "only the one without a webhook");
    service.stop().await;
}

#[tokio::test]
async fn a_chain_empties_when_the_tracker_works_again() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    tracker.change(7, now_us());
    tracker.set(Mood::Fails);
    let service = place.start(&config(&server, "verify = true")).await;
    service.post("bz", &edit(7, 1)).await;
    service.until_state(7, State::Errored).await;
    service.post("bz", &edit(7, 2)).await;
    service.post("bz", &edit(7, 3)).await;
    until("they wait", async || {
        let events = service.events(7).await;
        let blocked = events.iter().filter(|stored| stored.event.progress.blocked_by.is_some()).count();
        (blocked == 2).then_some(()).ok_or_else(|| format!("{events:?}"))
    })
    .await;
    // A live event of another source is not held up.
    service.post("plain", "{\"changes\":[{\"bug\":1}]}").await;
    assert_eq!(service.until_rows("default", 1).await, [1]);
    tracker.set(Mood::Works);
    // A probe finds that out, long before the schedule's next try.
    let begin = std::time::Instant::now();
    service.ahead(31);
    assert_eq!(service.until_rows("default", 4).await, [1, 7, 7, 7]);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    let rows: Vec<_> = service.events(7).await.iter().map(|stored| stored.row.unwrap()).collect();
    assert!(rows.is_sorted_by(|newer, older| newer > older), "in order: {rows:?}");
    service.stop().await;
}

#[tokio::test]
async fn while_the_breaker_is_open_events_wait_and_are_not_tried() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    tracker.set(Mood::Fails);
    let service = place.start(&config(&server, "verify = true")).await;
    for bug in 1..=5 {
        service.post("bz", &edit(bug, 1)).await;
        service.until_state(bug, State::Errored).await;
    }
    // Five faults in a row.
    service.post("bz", &edit(50, 1)).await;
    let progress = until("it is put off", async || {
        let progress = service.events(50).await[0].event.progress.clone();
        let is_put_off = progress.due_us.is_some_and(|due_us| due_us > now_us());
        is_put_off.then_some(progress.clone()).ok_or_else(|| format!("{progress:?}"))
    })
    .await;
    assert_eq!((progress.state, progress.attempts), (State::Queued, 0));
    assert!(service.health.report().lines.iter().any(|line| line.contains("its tracker does not answer")));
    service.stop().await;
}

#[tokio::test]
async fn a_tracker_that_hangs_delays_no_other_source() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    tracker.set(Mood::Hangs);
    let service = place.start(&config(&server, "verify = true")).await;
    for bug in 1..=60 {
        service.post("bz", &edit(bug, 1)).await;
    }
    service.post("plain", "{\"changes\":[{\"bug\":1000}]}").await;
    assert_eq!(service.until_rows("default", 1).await, [1000]);
    let store = service.hooks.opened().await.0;
    let processing = store.in_state(State::Processing, Some("bz"), None, None, 100).await.unwrap();
    assert!(processing.len() <= 8, "{}", processing.len());
    service.stop().await;
}

#[tokio::test]
async fn what_no_webhook_brought_is_found_at_the_tracker() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    let service = place.start(&config(&server, "reconcile = \"5m\"")).await;
    until("the first round", async || {
        server.got().iter().any(|got| got.path() == "/rest/time").then_some(()).ok_or_else(String::new)
    })
    .await;
    // One change came by webhook, one did not.
    let at = |service: &Service| now_us() + service.place.ahead_us.load(std::sync::atomic::Ordering::SeqCst);
    service.ahead(400);
    tracker.change(35, at(&service));
    until("it is found", async || {
        service.hooks.desk().reconcile("bz").await.unwrap();
        let rows = service.rows("default").await;
        (rows == [35]).then_some(()).ok_or_else(|| format!("{rows:?}"))
    })
    .await;
    let event = service.until_state(35, State::Completed).await;
    assert_eq!(event.event.progress.trigger, Trigger::Reconcile);
    let store = service.hooks.opened().await.0;
    until("a restart goes on from here", async || {
        let marks = store.notes_like("mark bz ").await.unwrap();
        (marks.len() == 1).then_some(()).ok_or_else(|| format!("{marks:?}"))
    })
    .await;
    drop(store);
    // It counts as missed once the usual latency is over.
    service.ahead(400);
    until("it is counted", async || {
        service.hooks.desk().reconcile("bz").await.unwrap();
        let count = service.counter("bugfeed_hooks_missed_total{source=\"bz\"}");
        (count == 1).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    assert_eq!(service.rows("default").await, [35], "inserted once");
    service.stop().await;
}
