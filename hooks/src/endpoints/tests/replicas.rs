//! Several executors on one store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::rig::{Place, bugs, number, told, until};
use crate::endpoints::EndpointsOptions;
use crate::store::endpoints::EndpointId;
use crate::store::leases::SILENCE;
use crate::test_server::{Reply, Server};

/// How many requests of each path are in flight, and the most that there were.
#[derive(Default)]
struct Flights(Mutex<HashMap<String, (usize, usize)>>);

fn options(place: &Place) -> EndpointsOptions {
    EndpointsOptions { is_alone: false, within: Duration::from_secs(1), ..place.options() }
}

/// Endpoints that all watch bug 1.
async fn endpoints(place: &Place, server: &Server, number: usize) -> Vec<EndpointId> {
    let mut ids = Vec::new();
    for at in 0..number {
        ids.push(place.endpoint(&server.url(&format!("/{at}")), bugs(&[1])).await);
    }
    ids
}

async fn until_cursors(place: &Place, ids: &[EndpointId], seq: u64) {
    for id in ids {
        place.until_cursor(id, seq).await;
    }
}

#[tokio::test]
async fn two_executors_share_the_endpoints_and_when_one_dies_the_other_takes_over() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let place = Place::new().await;
    let ids = endpoints(&place, &server, 40).await;
    let first = place.start_with(options(&place));
    for id in &ids {
        place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    }
    let second = place.start_with(options(&place));
    // The terms of rows that the second one has written are higher.
    let terms = async || {
        let mut terms = Vec::new();
        for id in &ids {
            terms.push(place.row(id).await.applied.term);
        }
        terms
    };
    let before = terms().await;
    let mut seq = 0;
    until("both serve", async || {
        seq = place.feed.change(1);
        until_cursors(&place, &ids, seq).await;
        let now = terms().await;
        let moved = now.iter().zip(&before).filter(|(now, before)| now > before).count();
        (moved >= ids.len() / 4).then_some(())
    })
    .await;
    // The second one dies.
    drop(second);
    seq = place.feed.change(1);
    until_cursors(&place, &ids, seq).await;
    let mut by_path: HashMap<String, Vec<u64>> = HashMap::new();
    for got in server.got() {
        by_path.entry(got.target.clone()).or_default().push(number(&got));
    }
    assert_eq!(by_path.len(), ids.len());
    for (path, numbers) in by_path {
        assert!(numbers.is_sorted(), "{path}: {numbers:?}");
        let mut once = numbers.clone();
        once.dedup();
        // What died in the middle may have been sent and not stored.
        assert!(numbers.len() <= once.len() + 1, "{path}: {numbers:?}");
    }
    first.stop().await;
}

#[tokio::test]
async fn two_executors_never_send_to_the_same_endpoint_at_once() {
    let flights = Arc::new(Flights::default());
    let server = Server::start({
        let flights = Arc::clone(&flights);
        move |got| {
            let mut all = flights.0.lock().unwrap();
            let flight = all.entry(got.target.clone()).or_default();
            flight.0 += 1;
            flight.1 = flight.1.max(flight.0);
            let (flights, path) = (Arc::clone(&flights), got.target.clone());
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
            tokio::spawn(async move {
                // A little less than it takes until the answer is there.
                tokio::time::sleep(Duration::from_millis(25)).await;
                flights.0.lock().unwrap().get_mut(&path).unwrap().0 -= 1;
            });
            Reply::Later(Duration::from_millis(30), answer)
        }
    })
    .await;
    let place = Place::new().await;
    let ids = endpoints(&place, &server, 20).await;
    let first = place.start_with(options(&place));
    for id in &ids {
        place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    }
    // One comes, goes in order, and comes again, while changes flow.
    for _ in 0..2 {
        let other = place.start_with(options(&place));
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let seq = place.feed.change(1);
            until_cursors(&place, &ids, seq).await;
        }
        other.stop().await;
        let seq = place.feed.change(1);
        until_cursors(&place, &ids, seq).await;
    }
    first.stop().await;
    for (path, (_, most)) in flights.0.lock().unwrap().iter() {
        assert_eq!(*most, 1, "{path}");
    }
}

#[tokio::test]
async fn a_request_is_given_up_when_the_lease_is_lost_and_counts_nothing() {
    let (server, place) = (Server::start(slow_once()).await, Place::new().await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let within = Duration::from_secs(8);
    let options = EndpointsOptions { within, ..options(&place) };
    let endpoints = place.start_with(options);
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    until("a request", async || (server.got().len() == 1).then_some(())).await;
    // Another process takes all leases, and dies at once.
    let (db, begun) = (place.db(), Instant::now());
    let taken = "UPDATE hooks_leases SET term = term + 1, holder = 'another' WHERE name LIKE 'endpoints-%'";
    db.execute(taken, &[]).await.unwrap();
    db.close().await;
    until("it is sent again", async || (server.got().len() == 2).then_some(())).await;
    // It was silent for so long, and then a request of it might still have been in flight.
    assert!(begun.elapsed() >= SILENCE + within, "{:?}", begun.elapsed());
    place.until_cursor(&id, 1).await;
    assert_eq!(server.got().len(), 2);
    assert_eq!(told(&server.got()[1]), [1]);
    // The first attempt ended nowhere.
    assert_eq!(place.attempts(&id).await.len(), 1);
    assert!(!place.subjects().contains(&"endpoint.recovered"));
    endpoints.stop().await;
}

/// Never answers the first request, and all others at once.
fn slow_once() -> impl Fn(&crate::test_server::Got) -> Reply + Send + Sync + 'static {
    let count = std::sync::atomic::AtomicUsize::new(0);
    move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Reply::Hang(Vec::new()),
        _ => Reply::full(200, "", ""),
    }
}
