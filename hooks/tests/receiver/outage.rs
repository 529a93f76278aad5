//! The store away, full spools, restarts, and what comes twice.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::hooks::event::{LinkKind, State};
use bugfeed_hooks::receive::http::{KeyRow, ReceiverLimits};
use bugfeed_hooks::receive::received::Share;
use futures::future::join_all;
use tempfile::TempDir;

use crate::store::Mode;
use crate::support::{Options, Rig, key, row};

fn away() -> Options {
    Options { mode: Mode::Away, ..Options::default() }
}

fn bug(number: u64) -> String {
    format!(r#"{{"changes":[{{"bug":{number},"when":"2026-11-26T10:00:00Z"}}]}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_requests_are_spooled_and_then_replayed_in_order() {
    let rig = Rig::with(away()).await;
    let mut ids = Vec::new();
    for number in 1..=20 {
        let answer = rig.post("/hooks/plain", bug(number)).await;
        answer.is(200, "ok", &["spooled"]);
        ids.push(answer.json()["items"][0]["event"].as_str().unwrap().to_owned());
    }
    let broken = rig.post("/hooks/plain", r#"{"bug":"x"}"#).await;
    broken.is(200, "error", &["errored"]);
    rig.post_with("/hooks/plain", &[], bug(99)).await.is(200, "error", &[]);
    let report = rig.health.report();
    assert!(report.ready && report.lines[0].contains("connection refused"), "{report:?}");
    assert_eq!(rig.counter("bugfeed_hooks_spool_requests"), 22);

    rig.store.set(Mode::Up);
    rig.store.wait_for(|rows| rows.requests.len() == 21 && rows.quarantine.len() == 1).await;
    rig.store.rows(|rows| {
        let stored: Vec<String> = rows.events.iter().map(|event| event.id.to_string()).collect();
        assert_eq!(stored[..20], ids, "the same events, in the same order");
        assert_eq!(rows.events[20].progress.state, State::Errored);
        assert!(rows.requests[20].envelope.body.is_some() && rows.quarantine[0].envelope.body.is_some());
    });
    // The next one goes to the store.
    loop {
        let answer = rig.post("/hooks/plain", bug(30)).await;
        if answer.states().1 != ["spooled"] {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_waited_for_once() {
    let limits = ReceiverLimits { store_wait: Duration::from_millis(50), ..ReceiverLimits::default() };
    let rig = Rig::with(Options { mode: Mode::Hangs, limits, replays: false, ..Options::default() }).await;
    rig.post("/hooks/plain", bug(1)).await.is(200, "ok", &["spooled"]);
    // From now on, nothing waits.
    let begin = std::time::Instant::now();
    for number in 2..=100 {
        rig.post("/hooks/plain", bug(number)).await.is(200, "ok", &["spooled"]);
    }
    assert!(begin.elapsed() < Duration::from_millis(99 * 50), "each waited for the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_had_already_is_not_stored_twice() {
    let limits = ReceiverLimits { store_wait: Duration::from_millis(200), ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, ..away() }).await;
    rig.post("/hooks/plain", bug(1)).await.is(200, "ok", &["spooled"]);
    rig.store.set(Mode::Up);
    rig.store.wait_for(|rows| rows.requests.len() == 1).await;
    // The same request once more, as after a crash between the store's commit and the removal of the file.
    let request = rig.store.rows(|rows| Arc::clone(&rows.requests[0]));
    let again = bugfeed_hooks::receive::http::Intake::accept(&*rig.store, request).await.unwrap();
    assert_eq!(again.items[0].state, State::Queued);
    assert_eq!(rig.store.rows(|rows| rows.events.len()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_spool_is_full_the_answer_is_503() {
    let rig = Rig::with(Options { spool_bytes: 100_000, ..away() }).await;
    let mut taken = 0;
    let full = loop {
        let answer = rig.post("/hooks/plain", bug(taken + 1)).await;
        if answer.status == 503 {
            break answer;
        }
        answer.is(200, "ok", &["spooled"]);
        taken += 1;
    };
    assert!(taken > 20, "{taken}");
    full.is(503, "error", &[]);
    assert_eq!(full.header("retry-after"), Some("30"));
    assert!(!rig.health.report().ready);
    assert_eq!(rig.counter(r#"bugfeed_hooks_requests_total{source="plain",result="lost"}"#), 1);
    rig.store.set(Mode::Up);
    rig.store.wait_for(|rows| rows.requests.len() as u64 == taken).await;
    loop {
        let answer = rig.post("/hooks/plain", bug(5000)).await;
        if answer.status == 200 && answer.states().1 == ["queued"] {
            break;
        }
    }
    while !rig.health.report().ready {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_vouches_for_leaves_room_in_the_spool() {
    let rig = Rig::with(Options { spool_bytes: 200_000, replays: false, ..away() }).await;
    let body = format!(r#"{{"bug":1,"x":"{}"}}"#, "y".repeat(5000));
    while rig.post_with("/hooks/plain", &[], &body).await.status == 200 {}
    assert!(rig.spool.bytes() <= 50_000, "{}", rig.spool.bytes());
    rig.post("/hooks/plain", bug(1)).await.is(200, "ok", &["spooled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_leads_to_503_and_later_to_the_spool_again() {
    let rig = Rig::with(Options { replays: false, ..away() }).await;
    let moved = rig.folder.path().with_extension("moved");
    std::fs::rename(rig.folder.path(), &moved).unwrap();
    rig.post("/hooks/plain", bug(1)).await.is(503, "error", &[]);
    rig.post_with("/hooks/plain", &[], bug(1)).await.is(503, "error", &[]);
    std::fs::rename(&moved, rig.folder.path()).unwrap();
    rig.post("/hooks/plain", bug(2)).await.is(200, "ok", &["spooled"]);
    assert_eq!(rig.spool.records(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_process_spooled_is_replayed() {
    let folder = Arc::new(TempDir::new().unwrap());
    let rig = Rig::in_folder(Options { replays: false, ..away() }, Arc::clone(&folder)).await;
    for number in 1..=3 {
        rig.post("/hooks/plain", bug(number)).await.is(200, "ok", &["spooled"]);
    }
    let Rig { receiver, spool, stop, tracker, .. } = rig;
    stop.cancel();
    drop((receiver, spool));
    tracker.close();
    tracker.wait().await;
    let rig = Rig::in_folder(Options::default(), folder).await;
    rig.store.wait_for(|rows| rows.requests.len() == 3).await;
    rig.post("/hooks/plain", bug(4)).await.is(200, "ok", &["queued"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_keys_are_read_requests_are_spooled_and_checked_later() {
    let rig = Rig::with(Options { has_keys: false, ..Options::default() }).await;
    let (red_only, unknown) = (key(2), key(3));
    let from = |key: &bugfeed_hooks::receive::key::Key| format!("Bearer {}", key.expose());
    let good = rig.post("/hooks/plain", bug(1)).await;
    good.is(200, "ok", &["spooled"]);
    let body = r#"{"changes":[{"bug":2,"project":"red"},{"bug":3,"project":"blue"}]}"#;
    let answer = rig.post_with("/hooks/projects", &[("Authorization", &from(&red_only))], body).await;
    answer.is(200, "ok", &["spooled", "spooled"]);
    let answer = rig.post_with("/hooks/plain", &[("Authorization", &from(&unknown))], bug(4)).await;
    answer.is(200, "ok", &["spooled"]);
    // What has not even the form of a key is refused at once.
    rig.post_with("/hooks/plain", &[], bug(5)).await.is(200, "error", &[]);
    assert_eq!(rig.store.rows(|rows| rows.requests.len()), 0);

    let feeds = Some(vec!["red-feed".to_owned()]);
    rig.keys.replace(vec![row(&rig.key), KeyRow { feeds, ..row(&red_only) }]);
    rig.store.wait_for(|rows| rows.requests.len() == 2 && rows.quarantine.len() == 2).await;
    rig.store.rows(|rows| {
        let states: Vec<State> = rows.events.iter().map(|event| event.progress.state).collect();
        assert_eq!(states, [State::Queued, State::Queued, State::Dropped]);
        assert!(rows.requests.iter().all(|request| request.envelope.body.is_none()), "it is no more needed");
        let request = rows.quarantine.iter().find(|request| request.envelope.key_id.is_some()).unwrap();
        assert_eq!((request.share, request.envelope.body.is_some()), (Share::KnownSource, true));
        let texts = format!("{:?}{:?}", rows.requests, rows.quarantine);
        assert!([&red_only, &unknown, &rig.key].iter().all(|key| !texts.contains(key.expose())));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_that_the_store_never_takes_does_not_hold_up_the_others() {
    let ms = Duration::from_millis;
    let limits = ReceiverLimits { retry_first: ms(5), retry_longest: ms(20), ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, ..away() }).await;
    for number in 1..=3 {
        rig.post("/hooks/plain", bug(number)).await.is(200, "ok", &["spooled"]);
    }
    rig.store.set(Mode::Refuses(2));
    // The third may be behind the second: what was spooled after the replay had begun is in the next piece.
    rig.store.wait_for(|rows| !rows.requests.is_empty()).await;
    // While nobody else sends, it may as well be the store: it is tried again and again. Others show that it is not.
    let begin = std::time::Instant::now();
    let mut number = 10;
    while rig.aside() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is never set aside");
        rig.post("/hooks/plain", bug(number)).await;
        number += 1;
    }
    rig.spool_is_empty().await;
    assert_eq!(rig.aside(), 1);
    rig.store.wait_for(|rows| rows.requests.len() as u64 == 2 + number - 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_takes_no_more_in_the_middle_of_a_replay_is_not_set_aside() {
    let ms = Duration::from_millis;
    let limits = ReceiverLimits { retry_first: ms(1), retry_longest: ms(2), ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, ..away() }).await;
    for number in 1..=3 {
        rig.post("/hooks/plain", bug(number)).await.is(200, "ok", &["spooled"]);
    }
    // It takes one or two of three, and is away then, for many tries.
    rig.store.set(Mode::Refuses(2));
    rig.store.wait_for(|rows| !rows.requests.is_empty()).await;
    rig.store.set(Mode::Away);
    for number in 10..100 {
        rig.post("/hooks/plain", bug(number)).await.is(200, "ok", &["spooled"]);
    }
    rig.store.set(Mode::Up);
    rig.store.wait_for(|rows| rows.requests.len() == 93).await;
    assert_eq!(rig.aside(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_delivery_twice_at_once_is_one_event() {
    let rig = Rig::new().await;
    let body = r#"{"changes":[{"id":"d1","bug":7,"when":"2026-11-26T10:00:00Z"}]}"#;
    let answers = join_all((0..20).map(|_| rig.post("/hooks/plain", body))).await;
    let states: Vec<String> = answers.iter().flat_map(|answer| answer.states().1).collect();
    assert_eq!(states.iter().filter(|state| *state == "queued").count(), 1, "{states:?}");
    assert_eq!(states.iter().filter(|state| *state == "duplicate").count(), 19, "{states:?}");
    let first = rig.store.rows(|rows| rows.events[0].id.to_string());
    let links =
        answers.iter().filter_map(|answer| answer.json()["items"][0]["duplicate_of"].as_str().map(str::to_owned));
    assert!(links.collect::<Vec<_>>().iter().all(|link| *link == first));
    // The same id with another content: both are kept.
    let other = rig.post("/hooks/plain", body.replace("10:00", "10:01")).await;
    other.is(200, "ok", &["queued"]);
    assert_eq!(other.json()["items"][0]["same_delivery_as"], first.as_str());
    assert!(rig.store.rows(|rows| rows.links.iter().any(|(_, link)| link.kind == LinkKind::SameDeliveryAs)));
}

impl Rig {
    /// How many requests were set aside.
    fn aside(&self) -> usize {
        let names = std::fs::read_dir(self.folder.path()).unwrap().map(|file| file.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("aside-")).count()
    }

    async fn spool_is_empty(&self) {
        let waiting = async {
            while !self.spool.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("the spool was never empty");
    }
}
