//! A receiver that takes long, while much changes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bugfeed_core::endpoints::orders::Order;
use bugfeed_core::endpoints::question::Watch;
use bugfeed_protocol::When;
use bugfeed_runtime::metrics::Metrics;

use super::rig::{Feed, Place, bugs, json, told, until};
use crate::endpoints::{Endpoints, EndpointsOptions, EndpointsParts, FeedTap};
use crate::test_server::{Reply, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_of_one_second_keeps_a_backlog_of_at_most_one_entry_of_each_bug() {
    const BUGS: u64 = 200;
    let server = Server::start(|_| {
        Reply::Later(Duration::from_secs(1), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec())
    })
    .await;
    let place = Place::new().await;
    let id = place.endpoint(&server.url("/"), Watch::All).await;
    let endpoints = place.start_with(EndpointsOptions { within: Duration::from_secs(5), ..place.options() });
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let (begun, mut number) = (Instant::now(), 0);
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while begun.elapsed() < Duration::from_secs(4) {
        pace.tick().await;
        for _ in 0..10 {
            place.feed.change(number % BUGS + 1);
            number += 1;
        }
    }
    place.until_cursor(&id, number).await;
    let now_us = When::from_system_time(SystemTime::now()).as_micros();
    let got = server.got();
    for got in &got[1..] {
        let bugs = told(got);
        let each: HashSet<u64> = bugs.iter().copied().collect();
        assert!(bugs.len() as u64 <= BUGS && each.len() == bugs.len(), "{bugs:?}");
        for change in json(got)["changes"].as_array().unwrap() {
            let when: When = change["when"].as_str().unwrap().parse().unwrap();
            assert!(now_us - when.as_micros() < 30_000_000);
        }
    }
    // Each request has all bugs, so nothing is ever older than two requests.
    assert!(got.len() <= 12, "{}", got.len());
    endpoints.stop().await;
}

#[tokio::test]
async fn receivers_that_hang_leave_room_for_others() {
    let hanging = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let hanging = Arc::clone(&hanging);
        move |got| match got.path() {
            "/hangs" => {
                hanging.fetch_add(1, Ordering::SeqCst);
                Reply::Hang(Vec::new())
            }
            _ => Reply::full(200, "", ""),
        }
    })
    .await;
    let place = Place::new().await;
    let mut options = EndpointsOptions { within: Duration::from_secs(2), ..place.options() };
    (options.limits.places, options.limits.of_host) = (16, 16);
    let endpoints = place.start_with(options);
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(place.endpoint(&server.url("/hangs"), bugs(&[1])).await);
    }
    let good = place.endpoint(&server.url("/good"), bugs(&[1])).await;
    place.until_row(&good, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    place.until_cursor(&good, 1).await;
    for id in &ids {
        place.until_row(id, "it has failed", |row| row.health.backoff_count == 1).await;
    }
    // Those that failed are all ready now, and hold a quarter of the places at most.
    for id in &ids {
        place.order(id, Order::Ready).await;
    }
    until("some hang again", async || (hanging.load(Ordering::SeqCst) > 40).then_some(())).await;
    let seq = place.feed.change(1);
    place.until_cursor(&good, seq).await;
    let again = hanging.load(Ordering::SeqCst) - 40;
    assert!(again < 20, "{again} of them had their turn before the one that is well");
    endpoints.stop().await;
}

/// The number of a gauge on the page of metrics.
fn gauge(parts: &EndpointsParts, name: &str) -> i64 {
    let page = Metrics::of(&[&*parts.events]).page();
    let line =
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{page}"));
    line.parse().unwrap()
}

/// The lag is that of what is owed and not taken. A test that failed is not owed, nor is what another feed has.
#[tokio::test]
async fn who_is_owed_something_is_counted_and_nobody_else() {
    let server = Server::start(|got| match got.path() {
        "/slow" => Reply::Later(Duration::from_secs(4), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => Reply::full(500, "", ""),
    })
    .await;
    let (place, gnome) = (Place::new().await, Feed::new("gnome"));
    place.taps.send_modify(|taps| taps.push(Arc::clone(&gnome) as Arc<dyn FeedTap>));
    let slow = place.endpoint(&server.url("/slow"), bugs(&[1])).await;
    let tested = place.endpoint(&server.url("/fails"), bugs(&[2])).await;
    let quiet = place.endpoint(&server.url("/quiet"), bugs(&[3])).await;
    let parts = place.parts(EndpointsOptions { within: Duration::from_secs(60), ..place.options() });
    let endpoints = Endpoints::start(std::future::ready(place.store.clone()), place.taps.subscribe(), parts.clone());
    for id in [&slow, &tested, &quiet] {
        place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    }
    place.order(&tested, Order::Test).await;
    until("the test has failed", async || (place.attempts(&tested).await.len() == 1).then_some(())).await;
    gnome.change(1);
    gnome.miss();
    gnome.change(1);
    place.feed.change(1);
    until("a request", async || server.got().iter().any(|got| got.path() == "/slow").then_some(())).await;
    place.ahead_us.store(100_000_000, Ordering::SeqCst);
    let lag = || gauge(&parts, "bugfeed_endpoint_lag_seconds");
    until("it is counted", async || (lag() >= 100).then_some(())).await;
    assert_eq!(gauge(&parts, "bugfeed_endpoint_waiting"), 0, "one is owed something, and is being sent it");
    place.until_cursor(&slow, 1).await;
    until("nothing is owed", async || (lag() == 0).then_some(())).await;
    endpoints.stop().await;
}
