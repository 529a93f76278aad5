//! What is done besides: retention, keys, senders, and trackers that are asked after an outage.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::alerts::{chat, until_said};
use super::rig::{PLAIN, Place, changes, until};
use super::trackers::{Bugzilla, config, now_us};
use crate::receive::key::{Key, RANDOM_BYTES};
use crate::store::keys::{KeyScopes, StoredKey};
use crate::store::{Options, Store};

#[tokio::test]
async fn what_is_old_is_removed() {
    let place = Place::sqlite().await;
    let mut options = place.options(PLAIN);
    options.work.keep.events_us = 60_000_000;
    options.work.retain_every = Duration::from_millis(50);
    let service = place.start_with(options).await;
    service.post("plain", &changes(&[7], 1)).await;
    service.until_rows("default", 1).await;
    assert_eq!(service.events(7).await.len(), 1);
    service.ahead(120);
    until("it is removed", async || {
        let events = service.events(7).await;
        events.is_empty().then_some(()).ok_or_else(|| format!("{events:?}"))
    })
    .await;
    assert_eq!(service.rows("default").await, [7], "the row of the change table is a public fact");
    service.stop().await;
}

#[tokio::test]
async fn uses_of_keys_are_noted_and_their_end_is_told_once_a_day() {
    let (server, said) = chat().await;
    let place = Place::sqlite().await;
    let store = Store::open(&place.url, Options { works: false, ..Options::default() }).await.unwrap().store;
    let key = Key::generate(&[9; RANDOM_BYTES]);
    let ends_us = (place.clock())() + 73 * 3_600_000_000 + 1_800_000_000;
    let stored = StoredKey {
        id: key.id().to_owned(),
        hash: key.hash(),
        previous: None,
        name: "of a tracker".to_owned(),
        owner: "somebody".to_owned(),
        scopes: KeyScopes::default(),
        created_us: 0,
        expires_us: Some(ends_us),
        used_us: None,
        revoked_us: None,
    };
    store.add_key(&stored).await.unwrap();
    let config = format!("{PLAIN}\n[[notify]]\non = [\"key-expiring\"]\nurl = \"{}\"\n", server.url("/"));
    let service = place.start(&config).await;
    service.post("plain", &changes(&[7], 1)).await;
    let told = until_said(&said, 1).await;
    assert!(told[0].contains(key.id()) && told[0].contains("of somebody expires in 73 hours"), "{told:?}");
    service.stop().await;
    assert!(store.key(place.key.id()).await.unwrap().unwrap().used_us.is_some());
    assert_eq!(store.key(key.id()).await.unwrap().unwrap().used_us, None);
    store.close().await;
}

#[tokio::test]
async fn a_sender_that_was_switched_off_is_told_and_its_tracker_asked() {
    let (chat, said) = chat().await;
    let place = Place::sqlite().await;
    let (_, server) = Bugzilla::start(&place).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "the-key").unwrap();
    let notify = format!("[[notify]]\non = [\"sender\"]\nurl = \"{}\"\n", chat.url("/"));
    let service = place.start(&format!("{}\n{notify}", config(&server, &format!("tracker_key_file = {file:?}")))).await;
    let told = until_said(&said, 1).await;
    assert!(
        told[0].contains("sender (bz)") && told[0].contains("switched off its webhook 3 (ours), and 7"),
        "{told:?}"
    );
    let report = service.health.report();
    assert!(report.lines.iter().any(|line| line.contains("webhook 3")), "{report:?}");
    service.stop().await;
}

#[tokio::test]
async fn after_an_outage_trackers_are_asked_at_once() {
    let place = Place::sqlite().await;
    let (tracker, server) = Bugzilla::start(&place).await;
    let service = place.start(&config(&server, "reconcile = \"24h\"")).await;
    until("the first round", async || {
        server.got().iter().any(|got| got.path() == "/rest/time").then_some(()).ok_or_else(String::new)
    })
    .await;
    service.ahead(400);
    tracker.change(35, now_us() + place.ahead_us.load(Ordering::SeqCst));
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    assert_eq!(service.post("plain", &changes(&[2], 2)).await, ["spooled"]);
    drop(lock);
    let mut rows = service.until_rows("default", 2).await;
    rows.sort_unstable();
    assert_eq!(rows, [2, 35], "a day before the next round is due");
    locking.close().await;
    service.stop().await;
}
