//! Verification and reconciling, with a Bugzilla in the test process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bugfeed_core::hooks::event::{DropReason, ErrorClass, State, Trigger};
use bugfeed_protocol::When;
use serde_json::json;

use super::rig::{PLAIN, Place, Service, until};
use crate::test_server::{Got, Reply, Server};

/// What the tracker says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Works,
    Fails,
    Hangs,
}

/// A Bugzilla with these bugs, and when each last changed.
#[derive(Clone)]
struct Bugzilla {
    mood: Arc<Mutex<Mood>>,
    bugs: Arc<Mutex<BTreeMap<u64, i64>>>,
    ahead_us: Arc<std::sync::atomic::AtomicI64>,
}

fn now_us() -> i64 {
    When::from_system_time(SystemTime::now()).as_micros()
}

fn stamp(us: i64) -> String {
    let text = When::from_micros(us - us.rem_euclid(1_000_000)).unwrap().to_string();
    format!("{text}Z")
}

impl Bugzilla {
    async fn start(place: &Place) -> (Bugzilla, Server) {
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

    fn change(&self, bug: u64, at_us: i64) {
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

fn config(server: &Server, rest: &str) -> String {
    let url = server.url("");
    format!("[[source]]\nname = \"bz\"\npreset = \"bugzilla\"\ntracker = \"{url}\"\n{rest}\n{PLAIN}")
}

/// What Bugzilla posts of a bug that changed at this second of today.
fn edit(bug: u64, second: i64) -> String {
    let time = stamp(now_us() - 3600 * 1_000_000 + second * 1_000_000);
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
        service.hooks.reconcile("bz");
        let rows = service.rows("default").await;
        (rows == [35]).then_some(()).ok_or_else(|| format!("{rows:?}"))
    })
    .await;
    let event = service.until_state(35, State::Completed).await;
    assert_eq!(event.event.progress.trigger, Trigger::Reconcile);
    // It counts as missed once the usual latency is over.
    service.ahead(400);
    until("it is counted", async || {
        service.hooks.reconcile("bz");
        let count = service.counter("bugfeed_hooks_missed_total{source=\"bz\"}");
        (count == 1).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    assert_eq!(service.rows("default").await, [35], "inserted once");
    service.stop().await;
}
