//! The ordinary way, dead letters, reload, pace, matching.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bugfeed_core::hooks::arrival::{Duplicates, Mapping};
use bugfeed_core::hooks::event::{DropReason, ErrorClass, Event, State, Trigger};
use bugfeed_core::hooks::lane::Settings;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When};

use super::rig::{PLAIN, Place, changes, read, until};
use crate::config::HooksConfig;
use crate::receive::identity::Sha256;
use crate::receive::received::{Envelope, ReceivedItem, ReceivedRequest, RequestId};
use crate::store::requests::RequestFilter;
use crate::store::{Options, Rule, Store};

/// A source whose items have their bug at this place.
fn own(bug: &str, rest: &str) -> String {
    format!(
        "[[source]]\nname = \"own\"\nitems = \"/changes\"\nbug = \"{bug}\"\nwhen = \"/when\"\nfeed = \"default\"\n{rest}\n{PLAIN}"
    )
}

#[tokio::test]
async fn a_post_is_a_row_at_once() {
    let place = Place::sqlite().await;
    let mut options = place.options(PLAIN);
    // Nobody looks for what is due by himself.
    options.work.poll = Duration::from_secs(3600);
    let service = place.start_with(options).await;
    service.hooks.opened().await;
    assert_eq!(service.post("plain", &changes(&[7, 8], 1)).await, ["queued", "queued"]);
    assert_eq!(service.until_rows("default", 2).await, [7, 8]);
    let event = service.until_state(7, State::Completed).await;
    assert!(event.row.is_some() && event.event.progress.began_us.is_some());
    assert_eq!(service.post("plain", &changes(&[7], 1)).await, ["duplicate"]);
    assert_eq!(service.post("plain", "{\"changes\":[{\"bug\":7}]}").await, ["queued"], "dated by arrival");
    service.until_rows("default", 3).await;
    // The row can be seen before it is counted.
    until("they were counted", async || {
        let count = service.counter("bugfeed_hooks_completed_total{source=\"plain\"}");
        (count == 3).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    assert!(service.health.report().ready);
    service.stop().await;
}

#[tokio::test]
async fn a_mapping_that_is_mended_empties_the_dead_letters() {
    let service = Place::sqlite().await.start(&own("/ticket", "")).await;
    assert_eq!(service.post("own", &changes(&[1, 2], 1)).await, ["errored", "errored"]);
    // The first mapping stays wrong, so another try fails again.
    service.ahead(61);
    until("they were tried", async || {
        let count = service.counter("bugfeed_hooks_errored_total{source=\"own\",class=\"mapping\"}");
        (count >= 2).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    assert_eq!(service.rows("default").await, [] as [i64; 0]);
    let store = service.hooks.store().unwrap();
    let dead = store.dead_letters(Some("own"), None, 10).await.unwrap();
    assert_eq!(dead.len(), 2);
    assert!(dead[0].reason.as_ref().unwrap().error.contains("bug"), "{:?}", dead[0].reason);
    let begin = Instant::now();
    service.hooks.reload(read(&own("/bug", ""))).unwrap();
    let mut rows = service.until_rows("default", 2).await;
    rows.sort_unstable();
    assert_eq!(rows, [1, 2]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(store.count_dead_letters().await.unwrap(), 0);
    service.stop().await;
}

#[tokio::test]
async fn a_request_that_nothing_could_be_read_of_is_received_again_at_a_reload() {
    let service = Place::sqlite().await.start(&own("/bug", "")).await;
    let told = service.post_json("own", r#"{"list":[{"bug":1},{"bug":2}]}"#).await;
    let replay = format!("bugfeed requests replay {}", told["request"].as_str().unwrap());
    assert!(told["fix"].as_str().unwrap().contains(&replay), "{told}");
    service.post_json("own", r#"{"nothing":1}"#).await;
    let store = service.hooks.store().unwrap();
    assert_eq!(store.count_dead_letters().await.unwrap(), 2);
    // It mends the first, and not the second.
    service.hooks.reload(read(&own("/bug", "").replace("\"/changes\"", "[\"/changes\", \"/list\"]"))).unwrap();
    let mut rows = service.until_rows("default", 2).await;
    rows.sort_unstable();
    assert_eq!(rows, [1, 2]);
    assert_eq!(store.count_dead_letters().await.unwrap(), 1, "the one that came through is no dead letter any more");
    let (requests, next) = {
        let page = store.requests(&RequestFilter::default(), None, 100).await.unwrap();
        (page.requests, page.next)
    };
    assert_eq!((requests.len(), next), (3, None), "what cannot be read still leaves no second request");
    service.stop().await;
}

#[tokio::test]
async fn a_request_that_concerns_no_bug_is_dropped_at_a_reload() {
    let service = Place::sqlite().await.start(&own("/bug", "")).await;
    service.post_json("own", r#"{"list":[{"bug":1}]}"#).await;
    service.post_json("own", r#"{"nothing":1}"#).await;
    let store = service.hooks.store().unwrap();
    assert_eq!(store.count_dead_letters().await.unwrap(), 2);
    let ignores = own("/bug", "[source.on.\"*\"]\nanswer = \"ignored\"\n");
    service.hooks.reload(read(&ignores.replace("\"/changes\"", "[\"/changes\", \"/list\"]"))).unwrap();
    let id = until("it is dropped", async || {
        let dropped = store.in_state(State::Dropped, Some("own"), None, None, 10).await.unwrap();
        dropped.first().copied().ok_or_else(String::new)
    })
    .await;
    assert_eq!(store.event(id).await.unwrap().unwrap().progress.drop, Some(DropReason::Ignored));
    assert_eq!(store.count_dead_letters().await.unwrap(), 1, "the other one cannot be read still");
    let page = store.requests(&RequestFilter::default(), None, 100).await.unwrap();
    assert_eq!(page.requests.len(), 2, "nothing was received once more");
    service.stop().await;
}

#[tokio::test]
async fn what_was_mended_is_recognised_when_it_is_sent_again() {
    let config = |bug: &str| own(bug, "id = \"/id\"");
    let service = Place::sqlite().await.start(&config("/ticket")).await;
    let body = "{\"changes\":[{\"bug\":6,\"id\":\"delivery 1\",\"when\":\"2026-11-26T10:00:00\"}]}";
    assert_eq!(service.post("own", body).await, ["errored"]);
    assert_eq!(service.post("own", body).await, ["errored"], "a repeat of what failed");
    service.hooks.reload(read(&config("/bug"))).unwrap();
    assert_eq!(service.until_rows("default", 1).await, [6]);
    until("both are settled", async || {
        let dead = service.hooks.opened().await.0.count_dead_letters().await.unwrap();
        (dead == 0).then_some(()).ok_or_else(|| dead.to_string())
    })
    .await;
    assert_eq!(service.post("own", body).await, ["duplicate"]);
    assert_eq!(service.rows("default").await, [6]);
    service.stop().await;
}

#[tokio::test]
async fn a_dead_letter_expires() {
    let service = Place::sqlite().await.start(&own("/ticket", "")).await;
    service.post("own", "{\"changes\":[{\"x\":1}]}").await;
    service.ahead(8 * 86_400);
    // The try that was due before its expiry comes first.
    until("it has expired", async || {
        service.hooks.wake();
        let count = service.counter("bugfeed_hooks_expired_total{source=\"own\"}");
        (count == 1).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_source_that_is_not_configured_any_more_waits() {
    let both = own("/ticket", "");
    let service = Place::sqlite().await.start(&both).await;
    service.post("own", &changes(&[5], 1)).await;
    service.hooks.reload(read(PLAIN)).unwrap();
    let store = service.hooks.store().unwrap();
    until("it is disabled", async || {
        let disabled = store.in_state(State::Disabled, Some("own"), None, None, 10).await.unwrap();
        service.ahead(1);
        (disabled.len() == 1).then_some(()).ok_or_else(String::new)
    })
    .await;
    assert!(service.post_json("own", &changes(&[5], 1)).await["error"].is_string(), "it is unknown now");
    service.hooks.reload(read(&own("/bug", ""))).unwrap();
    assert_eq!(service.until_rows("default", 1).await, [5]);
    service.stop().await;
}

#[tokio::test]
async fn a_switch_holds_for_what_comes_and_for_what_waits() {
    use crate::store::notes::Switch;
    let service = Place::sqlite().await.start(PLAIN).await;
    let store = service.hooks.opened().await.0;
    store.set_switch(Switch::Feed, "default", Some(1)).await.unwrap();
    service.hooks.refresh();
    until("it is switched off", async || {
        service.hooks.sources().off().feeds.contains("default").then_some(()).ok_or_else(String::new)
    })
    .await;
    assert_eq!(service.post("plain", &changes(&[3], 1)).await, ["disabled"]);
    store.set_switch(Switch::Feed, "default", None).await.unwrap();
    service.hooks.refresh();
    assert_eq!(service.until_rows("default", 1).await, [3]);
    // Another process that has not heard of it yet stores an event as switched off.
    let other = Store::open(&service.place.url, Options { works: false, ..Options::default() }).await.unwrap().store;
    let off = Rule { settings: Settings { on: false, ..Settings::DEFAULT }, duplicates: Duplicates::ByContent };
    other.set_rules(Arc::new(move |_: &Event| off));
    other.accept(&[&request(4)]).await.unwrap();
    assert_eq!(service.until_rows("default", 2).await, [3, 4]);
    other.close().await;
    service.stop().await;
}

/// A request as another process has received it.
fn request(bug: u64) -> ReceivedRequest {
    let now_us = 1_795_651_200_000_000;
    let item = ReceivedItem {
        index: 0,
        mapping: Mapping::Fits,
        failure: None,
        feed: "default".to_owned(),
        bug: BugId::new(bug),
        when_us: now_us,
        is_dated: true,
        has_wrong_clock: false,
        kind: String::new(),
        project: None,
        delivery: None,
        hash: Sha256::of(&bug.to_le_bytes()),
        is_private: false,
        kept: None,
    };
    let envelope = Envelope {
        id: RequestId::new(now_us, [7; 10]),
        source: "plain".to_owned(),
        received_us: now_us,
        address: "192.0.2.1".parse().unwrap(),
        key_id: None,
        path: "/hooks/plain".to_owned(),
        headers: Vec::new(),
        size: 0,
        body_hash: None,
        body: None,
        status: 200,
    };
    let (trigger, items) = (Trigger::Live, vec![item]);
    ReceivedRequest { envelope, trigger, replays: None, failure: None, items, answered: Vec::new() }
}

#[tokio::test]
async fn a_backlog_is_worked_off_at_its_pace_and_delays_no_live_event() {
    let place = Place::sqlite().await;
    let mut options = place.options(&own("/ticket", ""));
    (options.work.pace_per_second, options.work.pace_burst) = (5, 5);
    // A clock that stands still gives no tokens.
    let now_us = Arc::new(AtomicI64::new((place.clock())()));
    let clock = Arc::clone(&now_us);
    options.clock = Arc::new(move || clock.load(Ordering::SeqCst));
    let service = place.start_with(options).await;
    let store = service.hooks.opened().await.0;
    let bugs: Vec<u64> = (1..=30).collect();
    service.post("own", &changes(&bugs, 1)).await;
    service.hooks.reload(read(&own("/bug", ""))).unwrap();
    let errored = async || store.in_state(State::Errored, None, None, None, 100).await.unwrap().len();
    until("the burst", async || {
        let count = errored().await;
        (count <= 25).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    for bug in 1000..1005 {
        service.post("plain", &changes(&[bug], 1)).await;
        service.until_state(bug, State::Completed).await;
    }
    service.until_rows("default", 10).await;
    assert_eq!(errored().await, 25, "five tokens");
    assert_eq!(service.rows("default").await.len(), 10, "one token for each, to be mapped and announced");
    until("all", async || {
        now_us.fetch_add(1_000_000, Ordering::SeqCst);
        service.hooks.wake();
        let count = service.rows("default").await.len();
        (count == 35).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn events_learn_their_numbers() {
    let service = Place::sqlite().await.start(PLAIN).await;
    service.post("plain", &changes(&[7], 1)).await;
    let event = service.until_state(7, State::Completed).await;
    assert_eq!(event.cursor, None);
    let epoch = Epoch::parse("0123456789abcdef").unwrap();
    let change = Change { bug: event.event.bug.unwrap(), when: event.event.when };
    let recorded = When::from_micros(0).unwrap();
    let numbered = Numbered { change, cursor: Cursor::new(epoch.clone(), 5), after: None, recorded };
    service.hooks.matches().send(("default".into(), vec![numbered])).await.unwrap();
    until("it is matched", async || {
        let cursor = service.events(7).await[0].cursor.clone();
        (cursor == Some((epoch.clone(), 5))).then_some(()).ok_or_else(|| format!("{cursor:?}"))
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_feed_whose_table_is_gone_delays_no_other_and_goes_on_when_it_is_back() {
    let config = own("/bug", "").replace("feed = \"default\"", "feed = \"other\"");
    let service = Place::sqlite().await.start(&config).await;
    let db = service.place.db();
    db.execute("DROP TABLE push_notify_other", &[]).await.unwrap();
    let bugs: Vec<u64> = (1..=300).collect();
    service.post("own", &changes(&bugs, 1)).await;
    service.post("plain", &changes(&[7], 1)).await;
    assert_eq!(service.until_rows("default", 1).await, [7]);
    assert_eq!(service.events(5).await[0].event.progress.state, State::Queued);
    service.hooks.opened().await.0.serve_feed("other", None).await.unwrap();
    assert_eq!(service.until_rows("other", 300).await.len(), 300);
    db.close().await;
    service.stop().await;
}

#[tokio::test]
async fn an_item_that_the_new_mapping_drops_is_dropped() {
    let service = Place::sqlite().await.start(&own("/ticket", "")).await;
    service.post("own", &changes(&[9], 1)).await;
    let drops = own("/bug", "[source.on.\"*\"]\nanswer = \"ignored\"\n");
    service.hooks.reload(read(&drops)).unwrap();
    let store = service.hooks.store().unwrap();
    let id = until("it is dropped", async || {
        let dropped = store.in_state(State::Dropped, Some("own"), None, None, 10).await.unwrap();
        dropped.first().copied().ok_or_else(String::new)
    })
    .await;
    let progress = store.event(id).await.unwrap().unwrap().progress;
    assert_eq!((progress.drop, progress.class), (Some(DropReason::Ignored), Some(ErrorClass::Mapping)));
    service.stop().await;
}

#[tokio::test]
async fn a_broken_configuration_is_refused_at_reload_and_the_old_one_goes_on() {
    let service = Place::sqlite().await.start(PLAIN).await;
    let broken = format!("{PLAIN}[[source]]\nname = \"x\"\npreset = \"plane\"\n");
    let error = HooksConfig::read("hooks.toml", &broken, &|_| Err("no file".to_owned())).unwrap_err().to_string();
    assert!(error.starts_with("hooks.toml:6: source.x.preset: \"plane\" is not known here"), "{error}");
    // One that can be read, but not be followed: there is no list of all issues of GitHub.
    let cannot =
        "[[source]]\nname = \"gh\"\npreset = \"github\"\ntracker = \"https://github.com\"\nreconcile = \"5m\"\n";
    let error = service.hooks.reload(read(cannot)).unwrap_err();
    assert_eq!(error.source_name, "gh");
    assert_eq!(service.post("plain", &changes(&[1], 1)).await, ["queued"]);
    assert_eq!(service.until_rows("default", 1).await, [1]);
    assert!(service.post_json("gh", "{}").await["error"].as_str().unwrap().contains("no source"));
    service.stop().await;
}
