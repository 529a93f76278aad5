//! Endpoints with a template: several messages for a backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bugfeed_core::endpoints::orders::{Order, Recovery};
use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::Watch;
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::hooks::event::Trigger;

use super::rig::{Place, json, settings, until};
use crate::endpoints::Endpoints;
use crate::store::endpoints::{EndpointId, Settings};
use crate::test_server::{Got, Reply, Server};

fn text(got: &Got) -> String {
    json(got)["text"].as_str().unwrap().to_owned()
}

async fn chat(place: &Place, server: &Server) -> EndpointId {
    let settings = Settings { template: Some("slack".to_owned()), ..settings(&server.url("/")) };
    place.endpoint_with(settings, Row::new(Policy::Off, Watch::All, ["kde".into()])).await
}

/// A backlog of bugs 1 to this number.
async fn backlog(place: &Place, id: &EndpointId, number: u64) {
    let endpoints = place.start();
    place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    endpoints.stop().await;
    for bug in 1..=number {
        place.feed.change(bug);
    }
}

#[tokio::test]
async fn of_a_backlog_ten_changes_are_told_and_then_how_many_more() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = chat(&place, &server).await;
    backlog(&place, &id, 14).await;
    let endpoints = place.start();
    place.until_cursor(&id, 14).await;
    let texts: Vec<String> = server.got().iter().map(text).collect();
    assert_eq!(texts.len(), 11, "{texts:?}");
    assert!(texts[0].starts_with("Bug 1 changed at ") && texts[0].ends_with(": https://bugs.example.org/1"));
    assert!(texts[9].starts_with("Bug 10 ") && texts[10] == "4 more bugs of kde changed", "{texts:?}");
    let mut ids: Vec<String> = server.got().iter().map(|got| got.header("webhook-id").unwrap().to_owned()).collect();
    assert!(ids[0].starts_with(&format!("{id}-epoch-kde-1-14-")) && ids[0].ends_with("-1"), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 11);
    let attempts = place.attempts(&id).await;
    assert_eq!(attempts.iter().map(|attempt| attempt.counts).filter(|counts| *counts).count(), 1);
    assert_eq!(attempts.len(), 11);
    endpoints.stop().await;
}

/// Each message is a request, so the rate holds for each of them; that the others have to wait is no failure.
#[tokio::test]
async fn the_messages_of_a_backlog_keep_the_rate() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let settings = Settings { template: Some("slack".to_owned()), ..settings(&server.url("/")) };
    let mut row = Row::new(Policy::Classic, Watch::All, ["kde".into()]);
    row.rate = Some(5);
    let id = place.endpoint_with(settings, row).await;
    backlog(&place, &id, 14).await;
    let endpoints = place.start();
    place.until_cursor(&id, 14).await;
    let texts: Vec<String> = server.got().iter().map(text).collect();
    assert_eq!(texts.len(), 11, "{texts:?}");
    assert!(texts[9].starts_with("Bug 10 ") && texts[10] == "4 more bugs of kde changed", "{texts:?}");
    let attempts = place.attempts(&id).await;
    let mut begun_us: Vec<i64> = attempts.iter().map(|attempt| attempt.begun_us).collect();
    begun_us.sort_unstable();
    for (number, at_us) in (0..).zip(&begun_us) {
        let earliest_us = begun_us[0] + (number - 4) * 200_000;
        assert!(*at_us >= earliest_us - 50_000, "message {number} came too early: {begun_us:?}");
    }
    assert!(attempts.iter().all(|attempt| attempt.trigger != Trigger::Retry), "nothing has failed");
    endpoints.stop().await;
}

/// A chat that says after some messages that they are too many fails for the first time with each of them, not once more.
#[tokio::test]
async fn what_a_chat_took_before_it_failed_counts_as_success() {
    let number = Arc::new(AtomicI64::new(0));
    let server = Server::start({
        let number = Arc::clone(&number);
        move |_| Reply::full(if number.fetch_add(1, Ordering::SeqCst) % 3 == 2 { 503 } else { 200 }, "", "")
    })
    .await;
    let place = Place::new().await;
    let id = chat(&place, &server).await;
    backlog(&place, &id, 5).await;
    let endpoints = place.start();
    place.until_row(&id, "it has failed", |row| row.health.backoff_count == 1).await;
    place.ahead_us.store(11_000_000, Ordering::SeqCst);
    until("it has failed again", async || {
        let row = place.row(&id).await;
        (server.got().len() == 6 && row.health.disabled_until_us.is_some()).then_some(row.health.backoff_count)
    })
    .await;
    assert_eq!(place.row(&id).await.health.backoff_count, 1);
    endpoints.stop().await;
}

#[tokio::test]
async fn what_a_chat_took_of_an_attempt_that_failed_is_not_told_again() {
    let failing = Arc::new(AtomicI64::new(3));
    let server = Server::start({
        let failing = Arc::clone(&failing);
        // The third request fails.
        move |_| Reply::full(if failing.fetch_sub(1, Ordering::SeqCst) == 1 { 503 } else { 200 }, "", "")
    })
    .await;
    let place = Place::new().await;
    let id = chat(&place, &server).await;
    backlog(&place, &id, 5).await;
    let endpoints = place.start();
    place.until_row(&id, "it has failed", |row| row.health.backoff_count == 1).await;
    place.ahead_us.store(11_000_000, Ordering::SeqCst);
    place.until_cursor(&id, 5).await;
    let bugs: Vec<String> = server.got().iter().map(|got| text(got).split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(bugs, ["1", "2", "3", "3", "4", "5"]);
    let got = server.got();
    assert_eq!(got[2].header("webhook-id"), got[3].header("webhook-id"));
    endpoints.stop().await;
}

/// A receiver whose third request fails.
async fn third_fails() -> Server {
    let count = AtomicI64::new(0);
    Server::start(move |_| Reply::full(if count.fetch_add(1, Ordering::SeqCst) == 2 { 503 } else { 200 }, "", "")).await
}

/// A chat that has taken two of four changes, and refused the third.
async fn a_part_was_taken(place: &Place, server: &Server) -> (EndpointId, Endpoints) {
    let id = chat(place, server).await;
    backlog(place, &id, 4).await;
    let endpoints = place.start();
    place.until_row(&id, "it has failed", |row| row.health.backoff_count == 1).await;
    (id, endpoints)
}

/// A test that succeeds says nothing of what it was told before.
#[tokio::test]
async fn after_a_test_a_chat_is_told_only_what_it_has_not_taken() {
    let (server, place) = (third_fails().await, Place::new().await);
    let (id, endpoints) = a_part_was_taken(&place, &server).await;
    // It ends the cool-down.
    place.order(&id, Order::Test).await;
    place.until_cursor(&id, 4).await;
    let words: Vec<String> = server.got().iter().map(|got| text(got)[..5].to_owned()).collect();
    assert_eq!(words, ["Bug 1", "Bug 2", "Bug 3", "A tes", "Bug 3", "Bug 4"]);
    endpoints.stop().await;
}

/// What a person orders is told as a whole, although a part of it was taken before.
#[tokio::test]
async fn after_a_recovery_by_hand_a_chat_is_told_all_again() {
    let (server, place) = (third_fails().await, Place::new().await);
    let (id, endpoints) = a_part_was_taken(&place, &server).await;
    let to = Recovery::Cursor(place.feed.cursor(0));
    place.order(&id, Order::Recover { feed: None, to }).await;
    place.ahead_us.store(11_000_000, Ordering::SeqCst);
    place.until_cursor(&id, 4).await;
    let bugs: Vec<String> = server.got().iter().map(|got| text(got).split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(bugs, ["1", "2", "3", "1", "2", "3", "4"]);
    endpoints.stop().await;
}

#[tokio::test]
async fn a_gap_and_a_test_are_told_in_words() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = chat(&place, &server).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.order(&id, Order::Test).await;
    until("a test", async || (server.got().len() == 1).then_some(())).await;
    place.feed.change(1);
    place.until_cursor(&id, 1).await;
    place.feed.miss();
    place.feed.change(2);
    until("a gap", async || server.got().iter().any(|got| text(got).contains("may be missing")).then_some(())).await;
    assert!(text(&server.got()[0]).starts_with("A test by bugfeed"));
    endpoints.stop().await;
}
