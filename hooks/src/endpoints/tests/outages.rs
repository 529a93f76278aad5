//! The store is away while requests are sent, or the clock is set.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::When;

use super::rig::{Place, bugs, number, settings, told, until};
use crate::store::endpoints::leases::FENCE;
use crate::test_server::{Reply, Server};

#[tokio::test]
async fn what_was_taken_while_the_store_was_away_is_stored_when_it_is_back_and_nothing_is_lost() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let place = Place::new().await;
    let id = place.endpoint(&server.url("/"), bugs(&[1, 2])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    place.feed.change(1);
    until("a request", async || (server.got().len() == 1).then_some(())).await;
    // As long as its outcome is not stored, nothing else is sent.
    place.feed.change(2);
    until("a warning", async || place.health.report().lines.iter().any(|line| line.contains("wait")).then_some(()))
        .await;
    assert_eq!(server.got().len(), 1);
    drop(lock);
    place.until_cursor(&id, 2).await;
    locking.close().await;
    let got = server.got();
    assert_eq!(got.iter().flat_map(told).collect::<Vec<_>>(), [1, 2]);
    assert!(got.iter().map(number).is_sorted());
    assert_eq!(place.attempts(&id).await.len(), 2);
    until("all is well", async || place.health.report().lines.is_empty().then_some(())).await;
    endpoints.stop().await;
}

#[tokio::test]
async fn a_failure_while_the_store_is_away_is_counted_once() {
    let server = Server::start(|_| Reply::full(500, "", "")).await;
    let place = Place::new().await;
    let row = Row::new(Policy::Classic, bugs(&[1]), ["kde".into()]);
    let id = place.endpoint_with(settings(&server.url("/")), row).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    place.feed.change(1);
    until("a warning", async || place.health.report().lines.iter().any(|line| line.contains("wait")).then_some(()))
        .await;
    drop(lock);
    let row = place.until_row(&id, "it is counted", |row| row.health.backoff_count > 0).await;
    locking.close().await;
    assert_eq!(row.health.backoff_count, 1);
    assert_eq!(place.attempts(&id).await.len(), 1);
    assert_eq!(server.got().len(), 1);
    endpoints.stop().await;
}

/// The log has an attempt whose first write failed.
#[tokio::test]
async fn what_could_not_be_written_into_the_log_is_written_later() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let place = Place::new().await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let db = place.db();
    db.execute("ALTER TABLE hooks_attempts RENAME TO hooks_away", &[]).await.unwrap();
    place.feed.change(1);
    until("a warning", async || place.health.report().lines.iter().any(|line| line.contains("wait")).then_some(()))
        .await;
    db.execute("ALTER TABLE hooks_away RENAME TO hooks_attempts", &[]).await.unwrap();
    db.close().await;
    place.until_cursor(&id, 1).await;
    assert_eq!((place.attempts(&id).await.len(), server.got().len()), (1, 1));
    endpoints.stop().await;
}

/// A process that could not show that it lives begins nothing: another one may have its endpoints by now.
#[tokio::test]
async fn nothing_is_begun_once_the_lease_may_be_anothers() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let place = Place::new().await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    let begun = Instant::now();
    until("the fence", async || (begun.elapsed() > FENCE).then_some(())).await;
    place.feed.change(1);
    let early = tokio::time::timeout(Duration::from_millis(500), async {
        until("a request", async || (!server.got().is_empty()).then_some(())).await;
    });
    assert!(early.await.is_err(), "{:?}", server.got());
    drop(lock);
    locking.close().await;
    place.until_cursor(&id, 1).await;
    assert_eq!(server.got().len(), 1);
    endpoints.stop().await;
}

/// What was to be looked at in a moment lies days ahead once the clock is right again.
#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_an_endpoint() {
    const DAY_US: i64 = 86_400_000_000;
    let server = Server::start(|_| Reply::full(500, "", "")).await;
    let place = Place::new().await;
    place.ahead_us.store(3 * DAY_US, Ordering::SeqCst);
    let row = Row::new(Policy::Off, bugs(&[1]), ["kde".into()]);
    let id = place.endpoint_with(settings(&server.url("/")), row).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    place.until_row(&id, "it cools down", |row| row.health.backoff_count == 1).await;
    place.ahead_us.store(0, Ordering::SeqCst);
    let latest_us = When::from_system_time(SystemTime::now()).as_micros() + DAY_US * 3 / 2;
    let is_mended = |row: &Row| row.health.disabled_until_us.is_some_and(|until_us| until_us < latest_us);
    place.until_row(&id, "the cool-down is no longer than a day", is_mended).await;
    endpoints.stop().await;
}
