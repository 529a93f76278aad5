//! Receivers that call: `ready` and `changes`.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderValue, Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugfeed_core::endpoints::policy::{Policy, State};
use bugfeed_core::endpoints::question::{Since, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::{BugId, Cursor, When};
use hyper::header::HeaderName;
use serde_json::Value;
use tokio::net::TcpListener;

use super::rig::{Place, bugs, secret, settings};
use crate::client::{Address, Client, Options, Request};
use crate::deliver::sign::SigningSecret;
use crate::endpoints::{Endpoints, has_after, knows, newest};
use crate::test_server::{Reply, Server};

/// Calls, signed with this secret.
async fn call(endpoints: &Endpoints, method: Method, target: &str, secret: &SigningSecret) -> (StatusCode, Value) {
    let seconds = When::from_system_time(SystemTime::now()).as_micros() / 1_000_000;
    let id = format!("call-{:x}", rand::random::<u64>());
    let signed = format!("{id}.{seconds}.{method} {target}.");
    let signature = format!("v1,{}", STANDARD.encode(ring::hmac::sign(secret.key(), signed.as_bytes())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = Address::parse(&format!("http://{}{target}", listener.local_addr().unwrap())).unwrap();
    let routes = endpoints.routes();
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    let mut request = Request { method, within: Duration::from_secs(40), ..Request::get(to) };
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", seconds.to_string()), ("webhook-signature", signature)]
    {
        request = request.with(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
    }
    let response = Client::new(Options::default()).send(request).await.unwrap();
    serving.abort();
    assert!(response.body.ends_with(b"\n"), "people read answers in a terminal");
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

#[tokio::test]
async fn ready_ends_a_cool_down_with_one_probe() {
    let (well, is_well) = tokio::sync::watch::channel(false);
    let server = Server::start(move |_| Reply::full(if *is_well.borrow() { 200 } else { 500 }, "", "")).await;
    let place = Place::new().await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    place.until_row(&id, "it cools down", |row| row.health.backoff_count == 1).await;
    let target = format!("/endpoints/{id}/ready");
    let (status, body) = call(&endpoints, Method::POST, &target, &secret(1)).await;
    assert_eq!((status, &body["state"]), (StatusCode::OK, &"cooling".into()));
    // Too early: the next step is earned.
    place.until_row(&id, "it cools down longer", |row| row.health.backoff_count == 2).await;
    well.send_replace(true);
    call(&endpoints, Method::POST, &target, &secret(1)).await;
    place.until_cursor(&id, 1).await;
    assert!(place.row(&id).await.health.is_clean());
    assert_eq!(server.got().len(), 3);
    endpoints.stop().await;
}

#[tokio::test]
async fn a_stranger_learns_nothing() {
    let place = Place::new().await;
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let unknown = crate::store::endpoints::EndpointId::new([7; 13]);
    let mut answers = Vec::new();
    for name in [id.as_str(), unknown.as_str(), "ep_x"] {
        let begun = std::time::Instant::now();
        let answer = call(&endpoints, Method::POST, &format!("/endpoints/{name}/ready"), &secret(9)).await;
        assert_eq!(answer.0, StatusCode::UNAUTHORIZED);
        assert!(begun.elapsed() >= Duration::from_millis(20));
        answers.push(answer);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert!(place.row(&id).await.wishes.is_empty());
    endpoints.stop().await;
}

#[tokio::test]
async fn changes_answers_as_a_long_poll_and_moves_nothing() {
    let place = Place::new().await;
    let server = Server::start(|_| Reply::full(500, "", "")).await;
    let row = Row::new(Policy::Off, bugs(&[1, 2]), ["kde".into()]);
    let id = place.endpoint_with(settings(&server.url("/")), row).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let ask = async |query: &str| {
        let (status, body) =
            call(&endpoints, Method::GET, &format!("/endpoints/{id}/changes{query}"), &secret(1)).await;
        assert_eq!(status, StatusCode::OK, "{query}: {body}");
        body
    };
    let head = ask("").await;
    assert_eq!((&head["changes"], &head["cursor"]), (&serde_json::json!([]), &"epoch-kde.0".into()));
    for bug in [1, 2, 1, 3] {
        place.feed.change(bug);
    }
    let all = ask("?cursor=epoch-kde.0").await;
    assert_eq!((&all["replay"], &all["cursor"]), (&"latest".into(), &"epoch-kde.3".into()));
    let told = all["changes"].as_array().unwrap().iter().map(|it| (it["bug"].as_u64(), it["cursor"].as_str()));
    assert_eq!(told.collect::<Vec<_>>(), [(Some(2), Some("epoch-kde.2")), (Some(1), Some("epoch-kde.3"))]);
    let some = ask("?cursor=epoch-kde.2&feed=kde").await;
    assert_eq!((&some["replay"], some["changes"].as_array().unwrap().len()), (&"complete".into(), 1));
    assert_eq!(ask("?cursor=unknown").await["replay"], "gap");
    assert_eq!(ask("?cursor=other.7").await["replay"], "gap");
    // One that waits hears of a change at once.
    let (waiting, ()) = tokio::join!(ask("?cursor=epoch-kde.4&wait=30"), async {
        tokio::task::yield_now().await;
        place.feed.change(2);
    });
    assert_eq!(waiting["changes"][0]["bug"], 2);
    for query in ["?cursor=.", "?wait=61", "?feed=gnome", "?bugs=1"] {
        let (status, _) = call(&endpoints, Method::GET, &format!("/endpoints/{id}/changes{query}"), &secret(1)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
    // The same question, as the API asks it for `bugfeed bug`.
    let has_after =
        |bug, seq| has_after(&*place.feed, BugId::new(bug).unwrap(), &Since::Cursor(place.feed.cursor(seq)));
    assert_eq!([has_after(1, 2), has_after(1, 3), has_after(9, 0)], [Some(true), Some(false), Some(false)]);
    let newest = |bug| newest(&*place.feed, BugId::new(bug).unwrap()).map(|told| told.cursor);
    assert_eq!([newest(1), newest(9)], [Some(place.feed.cursor(3)), None]);
    assert_eq!(
        ["epoch-kde.2", "other.7"].map(|text| knows(&*place.feed, &Cursor::parse(text).unwrap())),
        [Some(true), Some(false)]
    );
    place.feed.set_current(false);
    assert_eq!([has_after(1, 2), has_after(1, 77)], [None, None]);
    let row = place.row(&id).await;
    assert_eq!(row.cursor("kde").unwrap().seq, 0);
    assert_ne!(row.state(0), State::Disabled);
    endpoints.stop().await;
}

/// A cursor of a replica that has more: its number is waited for, and if it does not come, that is a gap.
#[tokio::test]
async fn a_cursor_that_is_ahead_is_waited_for() {
    let place = Place::new().await;
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.feed.change(1);
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some_and(|cursor| cursor.seq == 1)).await;
    let ask = async |seq: u64| {
        let target = format!("/endpoints/{id}/changes?cursor={}&wait=30", place.feed.cursor(seq));
        let (status, body) = call(&endpoints, Method::GET, &target, &secret(1)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    };
    let (comes, never, ()) = tokio::join!(ask(2), ask(9), async {
        tokio::task::yield_now().await;
        place.feed.change(2);
        place.feed.change(1);
    });
    assert_eq!((&comes["replay"], &comes["cursor"]), (&"complete".into(), &"epoch-kde.3".into()), "{comes}");
    assert_eq!(comes["changes"].as_array().unwrap().len(), 1);
    assert_eq!((&never["replay"], &never["cursor"]), (&"gap".into(), &"epoch-kde.3".into()), "{never}");
    endpoints.stop().await;
}

#[tokio::test]
async fn a_long_answer_says_that_there_is_more() {
    let place = Place::new().await;
    let server = Server::start(|_| Reply::full(500, "", "")).await;
    let row = Row::new(Policy::Off, Watch::All, ["kde".into()]);
    let id = place.endpoint_with(settings(&server.url("/")), row).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    (1..=1001).for_each(|bug| {
        place.feed.change(bug);
    });
    let ask = async |cursor: &str| {
        let target = format!("/endpoints/{id}/changes?cursor={cursor}");
        call(&endpoints, Method::GET, &target, &secret(1)).await.1
    };
    let first = ask("epoch-kde.0").await;
    assert_eq!((first["changes"].as_array().unwrap().len(), &first["more"]), (1000, &true.into()));
    let rest = ask(first["cursor"].as_str().unwrap()).await;
    assert_eq!((rest["changes"].as_array().unwrap().len(), &rest["more"]), (1, &Value::Null));
    assert_eq!(rest["changes"][0]["bug"], 1001);
    endpoints.stop().await;
}
