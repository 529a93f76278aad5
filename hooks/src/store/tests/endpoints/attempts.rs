//! The log of attempts.

use bugfeed_core::hooks::event::Trigger;
use bugfeed_protocol::feed_name::LONGEST;

use super::super::rig::{NOON_US, Rig, count};
use super::{attempt, id};
use crate::store::endpoints::{AttemptRow, EndpointId, Save, SaveQueue, Saved};
use crate::store::retention::Keep;
use crate::store::{Bounds, Options, Store};

const DAY_MS: i64 = 86_400_000;
const DAY_US: i64 = 1000 * DAY_MS;

fn log(endpoint: &EndpointId, attempts: Vec<AttemptRow>) -> Save {
    Save { id: endpoint.clone(), row: None, partition: endpoint.partition(), term: 0, attempts }
}

async fn write(store: &Store, attempts: Vec<AttemptRow>) {
    let saves = [log(&attempts[0].endpoint.clone(), attempts)];
    assert_eq!(store.save_endpoints(&saves).await.unwrap(), [Saved::Stored]);
}

async fn retain(store: &Store, keep: Keep, now_us: i64) -> u64 {
    let (mut run, mut removed) = (store.begin_retention(keep, now_us).await.unwrap(), 0);
    for _ in 0..1000 {
        let step = store.retain(&mut run).await.unwrap();
        removed += step.rows;
        if step.is_done {
            return removed;
        }
    }
    panic!("retention does not end");
}

pub(in crate::store::tests) async fn pages(rig: &Rig) {
    let store = &rig.store;
    let failed = AttemptRow {
        feed: None,
        trigger: Trigger::Manual,
        status: None,
        fault: Some("connect".to_owned()),
        error: Some("é".repeat(1001)),
        response: "\u{1f41b}'\\".to_owned(),
        counts: false,
        request: format!("{{\"text\":\"{}\"}}", "'\\é\u{1f41b}\n".repeat(1500)),
        content_type: "application/json; charset=utf-8".to_owned(),
        ..attempt(&id(1), 0)
    };
    let mut all = vec![failed.clone()];
    all.extend((1..=400).map(|ms| attempt(&id(1), ms)));
    write(store, all.clone()).await;
    write(store, vec![attempt(&id(2), 5)]).await;
    let want = AttemptRow { error: Some("é".repeat(1000)), ..failed.clone() };
    assert_eq!(store.attempt(failed.id).await.unwrap(), Some(want.clone()));
    assert_eq!(store.attempt(5).await.unwrap(), None);
    all[0] = want;
    all.sort_by_key(|attempt| std::cmp::Reverse(attempt.id));
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.attempts(&id(1), after, 150).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        found.extend(page);
    }
    assert_eq!(found, all);
    assert_eq!(store.attempts(&id(2), None, 10).await.unwrap().len(), 1);
    // No feed may have a longer name. If one had, it would not hold up what is stored together with this.
    let of_feed = |feed: &str| AttemptRow { feed: Some(feed.to_owned()), ..attempt(&id(4), 1) };
    write(store, vec![of_feed(&"f".repeat(LONGEST)), of_feed(&"é".repeat(LONGEST + 6))]).await;
    let mut feeds: Vec<_> = store.attempts(&id(4), None, 10).await.unwrap().into_iter().map(|row| row.feed).collect();
    feeds.sort_unstable();
    assert_eq!(feeds, ["f", "é"].map(|letter| Some(letter.repeat(LONGEST))));
    assert!(store.attempts(&id(3), None, 10).await.unwrap().is_empty());
}

pub(in crate::store::tests) async fn they_go_by_time(rig: &Rig) {
    let store = &rig.store;
    let days: Vec<AttemptRow> = (0..10)
        .flat_map(|day| (0..70).map(move |n| (day, n)))
        .map(|(day, n)| attempt(&id(1), day * DAY_MS + n))
        .collect();
    write(store, days).await;
    // Of an endpoint that is gone: they go by the same rule.
    write(store, vec![attempt(&id(2), 0), attempt(&id(2), 9 * DAY_MS)]).await;
    assert_eq!(retain(store, Keep::default(), NOON_US + 7 * DAY_US).await, 0, "not yet");
    assert_eq!(retain(store, Keep::default(), NOON_US + 9 * DAY_US + 1_000_000).await, 3 * 70 + 1);
    assert_eq!(count(store, "hooks_attempts").await, 7 * 70 + 1);
    let keep = Keep { attempts_us: DAY_US, ..Keep::default() };
    retain(store, keep, NOON_US + 10 * DAY_US + 1_000_000).await;
    assert_eq!(count(store, "hooks_attempts").await, 0);
}

pub(in crate::store::tests) async fn they_go_by_size(rig: &Rig) {
    let bounds = Bounds { attempt_bytes: 1_000_000, ..Bounds::default() };
    let store = rig.with(Options { works: false, bounds, ..Options::default() }).await;
    let large = |ms| AttemptRow { request: "x".repeat(10_000), ..attempt(&id(1), ms) };
    // Another process has written most of them.
    write(&rig.store, (0..90).map(large).collect()).await;
    let queue = SaveQueue::start(store.clone());
    for ms in 90..200 {
        assert_eq!(queue.save(log(&id(1), vec![large(ms)])).await.unwrap(), Saved::Stored);
    }
    // The queue removes the oldest after its last transaction; when it takes the next save, it has done so.
    queue.save(log(&id(2), vec![])).await.unwrap();
    let known = store.attempt_bytes();
    let bytes = store.count_attempts().await.unwrap();
    assert!((700_000..=1_020_000).contains(&bytes), "{bytes}");
    assert_eq!(known, bytes, "what went was counted as it was");
    let kept = store.attempts(&id(1), None, 1000).await.unwrap();
    assert_eq!(kept[0].begun_us, NOON_US + 199_000, "the newest stay");
    let oldest_us = kept.last().unwrap().begun_us;
    assert_eq!(kept.len() as i64, (NOON_US + 199_000 - oldest_us) / 1000 + 1, "the oldest went, in order");
    // What other processes write is found by retention.
    write(&rig.store, (200..300).map(large).collect()).await;
    retain(&store, Keep::default(), NOON_US).await;
    let bytes = store.count_attempts().await.unwrap();
    assert!((860_000..=1_000_000).contains(&bytes), "{bytes}");
    assert_eq!(store.attempt_bytes(), bytes);
    store.close().await;
}
