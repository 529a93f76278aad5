//! What people do to an endpoint while a request to it is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::When;
use tokio::sync::watch;

use super::rig::{Place, bugs, is_signed, secret, settings, told, until};
use crate::endpoints::EndpointsOptions;
use crate::store::endpoints::EndpointId;
use crate::test_server::{Reply, Server};

/// A receiver that answers its first request after this time, and all others at once.
async fn slow_once(pause: Duration) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Later(pause, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => Reply::full(200, "", ""),
    })
    .await
}

/// Waits until the first request is in flight.
async fn in_flight(place: &Place, id: &EndpointId, server: &Server) {
    place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    until("a request", async || (server.got().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn one_that_is_deleted_is_sent_nothing_more_and_its_row_goes() {
    let (place, server) = (Place::new().await, slow_once(Duration::from_secs(600)).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    in_flight(&place, &id, &server).await;
    place.order(&id, Order::Delete).await;
    (endpoints.nudge())();
    let rows = std::slice::from_ref(&id);
    until("the row is gone", async || place.store.endpoint_rows(rows).await.unwrap().is_empty().then_some(())).await;
    place.feed.change(1);
    // Another one shows that the change was seen.
    let other = place.endpoint(&server.url("/other"), bugs(&[1])).await;
    place.until_row(&other, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    place.until_cursor(&other, 3).await;
    assert_eq!(server.got().iter().filter(|got| got.path() == "/").count(), 1);
    endpoints.stop().await;
}

/// Nobody waits for its answer any more.
#[tokio::test]
async fn the_request_of_one_that_is_deleted_is_given_up() {
    let (place, server) = (Place::new().await, slow_once(Duration::from_secs(600)).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let patience = Duration::from_secs(600);
    let endpoints = place.start_with(EndpointsOptions { within: patience, stop_grace: patience, ..place.options() });
    in_flight(&place, &id, &server).await;
    place.order(&id, Order::Delete).await;
    let rows = std::slice::from_ref(&id);
    until("the row is gone", async || place.store.endpoint_rows(rows).await.unwrap().is_empty().then_some(())).await;
    // An orderly stop waits for what is in flight, and nothing is.
    tokio::time::timeout(Duration::from_secs(60), endpoints.stop()).await.unwrap();
}

#[tokio::test]
async fn one_that_was_deleted_while_nobody_served_it_goes() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    place.order(&id, Order::Delete).await;
    let endpoints = place.start();
    let rows = std::slice::from_ref(&id);
    until("the row is gone", async || place.store.endpoint_rows(rows).await.unwrap().is_empty().then_some(())).await;
    endpoints.stop().await;
}

#[tokio::test]
async fn other_bugs_are_heard_of_at_once() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.order(&id, Order::Watch(bugs(&[2]))).await;
    // What it is sent next shows that the order was heard.
    place.order(&id, Order::Test).await;
    until("a test", async || (server.got().len() == 1).then_some(())).await;
    place.feed.change(2);
    until("the other bug", async || (server.got().len() == 2).then_some(())).await;
    assert_eq!(told(&server.got()[1]), [2]);
    assert_eq!(place.subjects(), [""; 0], "it was not disabled, so nobody has enabled it");
    endpoints.stop().await;
}

/// An identifier that belongs to another endpoint's attempt sends nothing of that one.
#[tokio::test]
async fn what_another_endpoint_was_sent_is_not_sent_again() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let other = place.endpoint(&server.url("/other"), bugs(&[2])).await;
    let endpoints = place.start();
    for id in [&id, &other] {
        place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    }
    place.feed.change(1);
    place.until_cursor(&id, 1).await;
    let attempt = place.attempts(&id).await.remove(0).id;
    place.order(&other, Order::Redeliver { attempt }).await;
    let attempts =
        until("an attempt", async || Some(place.attempts(&other).await).filter(|attempts| !attempts.is_empty())).await;
    assert!(attempts[0].error.as_deref().unwrap().contains("not kept"), "{attempts:?}");
    assert_eq!(server.got().len(), 1);
    endpoints.stop().await;
}

#[tokio::test]
async fn another_url_is_sent_anew_what_the_old_one_was_sent() {
    let (place, server) = (Place::new().await, slow_once(Duration::from_millis(500)).await);
    let id = place.endpoint(&server.url("/old"), bugs(&[1])).await;
    let endpoints = place.start();
    in_flight(&place, &id, &server).await;
    let url = server.url("/new");
    let changed = place.store.change_endpoint(&id, None, |settings, row| {
        settings.url.clone_from(&url);
        carry_out(row, &Order::Url)
    });
    changed.await.unwrap();
    place.until_cursor(&id, 1).await;
    let got = server.got();
    assert_eq!(got.iter().map(|got| got.path()).collect::<Vec<_>>(), ["/old", "/new"]);
    assert_eq!(told(&got[1]), [1]);
    endpoints.stop().await;
}

#[tokio::test]
async fn a_secret_that_is_rotated_while_a_request_is_in_flight_signs_the_next_one_with_both() {
    let (place, server) = (Place::new().await, slow_once(Duration::from_millis(300)).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    in_flight(&place, &id, &server).await;
    let until_us = When::from_system_time(std::time::SystemTime::now()).as_micros() + 3_600_000_000;
    let changed = place.store.change_endpoint(&id, None, |settings, row| {
        let old = std::mem::replace(&mut settings.secret, secret(2));
        settings.previous = Some((old, until_us));
        row.version += 1;
        Ok::<(), ()>(())
    });
    changed.await.unwrap();
    (endpoints.nudge())();
    place.until_cursor(&id, 1).await;
    until("both sign", async || {
        place.feed.change(1);
        let last = server.got().pop()?;
        (is_signed(&last, &secret(1)) && is_signed(&last, &secret(2))).then_some(())
    })
    .await;
    assert!(is_signed(&server.got()[0], &secret(1)) && !is_signed(&server.got()[0], &secret(2)));
    endpoints.stop().await;
}

#[tokio::test]
async fn one_that_is_disabled_is_enabled_by_hand_and_gets_its_backlog() {
    let (well, is_well) = watch::channel(false);
    let server = Server::start(move |_| Reply::full(if *is_well.borrow() { 200 } else { 403 }, "", "")).await;
    let place = Place::new().await;
    let row = Row::new(Policy::Classic, bugs(&[1, 2]), ["kde".into()]);
    let id = place.endpoint_with(settings(&server.url("/")), row).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    for failures in 1..=4 {
        place.feed.change(1);
        place.until_row(&id, "one more refusal", |row| row.health.recent_failures >= failures).await;
    }
    place.feed.change(2);
    well.send_replace(true);
    place.order(&id, Order::Enable).await;
    place.until_cursor(&id, 5).await;
    assert_eq!(server.got().len(), 5 + usize::from(told(server.got().last().unwrap()) == [2]));
    let subjects = place.subjects();
    assert_eq!(subjects, ["endpoint.warning", "endpoint.warning", "endpoint.disabled", "endpoint.enabled"]);
    // A word that [[notify]] does not know reaches nobody.
    let known = |subject: &str| crate::config::notify::SUBJECTS.contains(&subject);
    assert!(["endpoint.recovered", "endpoint.cooling"].into_iter().all(known));
    assert!(subjects.iter().all(|subject| known(subject)), "{subjects:?}");
    endpoints.stop().await;
}

#[tokio::test]
async fn a_stop_in_order_waits_for_a_request_in_flight() {
    let (place, server) = (Arc::new(Place::new().await), slow_once(Duration::from_millis(300)).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    in_flight(&place, &id, &server).await;
    endpoints.stop().await;
    assert_eq!(place.row(&id).await.cursor("kde").unwrap().seq, 1);
    // What takes longer than the grace is given up, and counts nothing.
    let (server, place) = (slow_once(Duration::from_secs(600)).await, Place::new().await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    in_flight(&place, &id, &server).await;
    endpoints.stop().await;
    assert!(place.row(&id).await.health.is_clean());
    let endpoints = place.start();
    place.until_cursor(&id, 1).await;
    endpoints.stop().await;
}

#[tokio::test]
async fn an_order_whose_request_was_given_up_is_carried_out_by_the_next_process() {
    let (place, server) = (Place::new().await, slow_once(Duration::from_secs(600)).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let options = EndpointsOptions { within: Duration::from_secs(600), ..place.options() };
    let endpoints = place.start_with(options);
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.order(&id, Order::Test).await;
    until("a test", async || (server.got().len() == 1).then_some(())).await;
    endpoints.stop().await;
    assert_eq!(place.row(&id).await.wishes.len(), 1);
    let endpoints = place.start();
    place.until_row(&id, "it is tested", |row| row.wishes.is_empty()).await;
    assert_eq!(server.got().len(), 2);
    endpoints.stop().await;
}
