//! The store is away while requests are sent.

use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::row::Row;

use super::rig::{Place, bugs, number, settings, told, until};
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
