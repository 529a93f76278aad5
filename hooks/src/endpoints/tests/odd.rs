//! Receivers that do what they should not.

use std::time::Duration;

use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::row::Row;

use super::rig::{Place, bugs, settings, until};
use crate::endpoints::EndpointsOptions;
use crate::store::endpoints::EndpointId;
use crate::test_server::{Reply, Server};

/// What a receiver does, and what the log says of it: a status, or the class of a fault; and whether it counts as a failure.
fn odd() -> Vec<(&'static str, Reply, Option<u16>, Option<&'static str>)> {
    let bytes = |text: &str| Reply::Last(text.as_bytes().to_vec());
    vec![
        ("hangs", Reply::Hang(Vec::new()), None, Some("timeout")),
        (
            "hangs-in-body",
            Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab".to_vec()),
            None,
            Some("timeout-body"),
        ),
        ("closes", Reply::Close, None, Some("closed")),
        ("closes-in-body", bytes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"), None, Some("closed")),
        ("garbage", bytes("220 mail.example.org ESMTP\r\n"), None, Some("protocol")),
        ("early-hints", bytes("HTTP/1.1 103 Early Hints\r\n\r\n"), None, Some("closed")),
        ("redirects", Reply::full(302, "Location: http://127.0.0.1:1/\r\n", ""), Some(302), None),
        ("refuses", Reply::full(404, "", "no"), Some(404), None),
        ("breaks", Reply::full(500, "", "oops"), Some(500), None),
        ("goes", Reply::full(410, "", ""), Some(410), None),
    ]
}

fn quick(place: &Place) -> EndpointsOptions {
    EndpointsOptions { within: Duration::from_millis(500), ..place.options() }
}

async fn until_attempts(place: &Place, id: &EndpointId, number: usize) {
    until("attempts", async || (place.attempts(id).await.len() >= number).then_some(())).await;
}

#[tokio::test]
async fn each_odd_answer_is_counted_once_and_delays_nobody() {
    let server = Server::start(|got| {
        let name = got.path().trim_start_matches('/').to_owned();
        odd()
            .into_iter()
            .find(|(odd, ..)| *odd == name)
            .map_or_else(|| Reply::full(204, "", ""), |(_, reply, ..)| reply)
    })
    .await;
    let place = Place::new().await;
    let endpoints = place.start_with(quick(&place));
    let good = place.endpoint(&server.url("/good"), bugs(&[1])).await;
    let mut ids = Vec::new();
    for (name, ..) in odd() {
        ids.push(place.endpoint(&server.url(&format!("/{name}")), bugs(&[1])).await);
    }
    for id in ids.iter().chain([&good]) {
        place.until_row(id, "it has begun", |row| row.cursor("kde").is_some()).await;
    }
    place.feed.change(1);
    place.until_cursor(&good, 1).await;
    for (id, (name, _, status, fault)) in ids.iter().zip(odd()) {
        until_attempts(&place, id, 1).await;
        let attempts = place.attempts(id).await;
        let [attempt] = &attempts[..] else { panic!("{name}: {attempts:?}") };
        assert_eq!((attempt.status, attempt.fault.as_deref()), (status, fault), "{name}: {attempt:?}");
        assert!(attempt.counts);
        let row = place.row(id).await;
        let counted = (row.health.recent_failures, row.health.backoff_count);
        let wanted = match status {
            Some(404) => (1, 0),
            Some(410) => (0, 0),
            _ => (0, 1),
        };
        assert_eq!(counted, wanted, "{name}: {:?}", row.health);
        assert_eq!(row.cursor("kde").unwrap().seq, 0, "{name}");
    }
    // The good one is not delayed by those that hang.
    place.feed.change(1);
    place.until_cursor(&good, 2).await;
    endpoints.stop().await;
    assert!(place.subjects().contains(&"endpoint.disabled") && place.subjects().contains(&"endpoint.cooling"));
}

#[tokio::test]
async fn of_a_flood_only_the_beginning_is_read_and_it_is_taken() {
    let server = Server::start(|_| Reply::Flood(100 * 1024 * 1024)).await;
    let place = Place::new().await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    place.until_cursor(&id, 1).await;
    let attempts = place.attempts(&id).await;
    assert_eq!(attempts[0].status, Some(200));
    assert!(attempts[0].response.len() <= 2_100, "{}", attempts[0].response.len());
    endpoints.stop().await;
}

#[tokio::test]
async fn what_failed_is_sent_again_with_the_same_identifier_and_body() {
    let server = Server::start({
        let count = std::sync::atomic::AtomicUsize::new(0);
        move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::full(500, "", ""),
            _ => Reply::full(200, "", ""),
        }
    })
    .await;
    let place = Place::new().await;
    let row = Row::new(Policy::Off, bugs(&[1, 2]), ["kde".into()]);
    let id = place.endpoint_with(settings(&server.url("/")), row).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    until_attempts(&place, &id, 1).await;
    // Another bug changes meanwhile: it follows in a request of its own.
    place.feed.change(2);
    place.ahead_us.store(11_000_000, std::sync::atomic::Ordering::SeqCst);
    place.until_cursor(&id, 2).await;
    let got = server.got();
    assert_eq!(got.len(), 3, "{got:?}");
    assert_eq!((&got[0].body, got[0].header("webhook-id")), (&got[1].body, got[1].header("webhook-id")));
    assert_eq!(super::rig::told(&got[2]), [2]);
    assert!(place.subjects().ends_with(&["endpoint.recovered"]), "{:?}", place.subjects());
    endpoints.stop().await;
}

#[tokio::test]
async fn a_forbidden_address_is_never_connected_to() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let place = Place::new().await;
    let mut options = place.options();
    options.rules.allowed.clear();
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start_with(options);
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    place.until_row(&id, "it is disabled", |row| row.health.disabled(row.policy).is_some()).await;
    assert!(server.got().is_empty());
    let attempts = place.attempts(&id).await;
    assert!(attempts[0].error.as_deref().unwrap().contains("--allow-network 127.0.0.0/8"), "{attempts:?}");
    endpoints.stop().await;
}

#[tokio::test]
async fn our_own_routes_as_an_endpoint_end_as_a_refusal() {
    let place = Place::new().await;
    let endpoints = place.start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = endpoints.routes();
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    let id = EndpointId::new(rand::random());
    let settings = settings(&format!("http://{address}/endpoints/{id}/ready"));
    let row = Row::new(Policy::Classic, bugs(&[1]), ["kde".into()]);
    place.store.create_endpoint(&id, &settings, &row, None).await.unwrap();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    for _ in 0..4 {
        place.feed.change(1);
        let failures = place.row(&id).await.health.recent_failures;
        place.until_row(&id, "one more refusal", |row| row.health.recent_failures > failures).await;
    }
    let attempts = place.attempts(&id).await;
    assert_eq!(attempts.iter().map(|attempt| attempt.status).collect::<Vec<_>>(), [Some(401); 4]);
    assert!(place.row(&id).await.wishes.is_empty());
    serving.abort();
    endpoints.stop().await;
}
