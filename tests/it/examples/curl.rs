//! The loop around curl: after an answer that is not from a gateway, it asks again, and keeps its cursor.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use bugfeed_testbed::{Run, eventually, skipped, tool};

use super::site::Site;
use super::tools::example;
use crate::support::SOON;

#[tokio::test]
async fn a_proxys_page_does_not_begin_anew() {
    if tool("curl").is_err() {
        return skipped("curl is not installed");
    }
    let change = r#"{"changes":[{"bug":1,"when":"2014-04-03T21:13:45"}],"cursor":"E.5.5c0ffee1"}"#;
    let answers = VecDeque::from([
        (200, change),
        (200, "<html>\n<title>Down for maintenance</title>"),
        (404, "nothing here"),
        (200, r#"{"changes":[],"replay":"complete","cursor":"E.6.5c0ffee1"}"#),
    ]);
    let state = Arc::new(Mutex::new((answers, Vec::new())));
    let shared = Arc::clone(&state);
    let changes = async move |RawQuery(query): RawQuery| {
        let answer = {
            let mut state = shared.lock().unwrap();
            let query = query.unwrap_or_default();
            let cursor = query.split('&').find_map(|part| part.strip_prefix("cursor=")).unwrap_or("none").to_owned();
            state.1.push(cursor);
            state.0.pop_front()
        };
        match answer {
            Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
            None => std::future::pending().await,
        }
    };
    let site = Site::start(Router::new().route("/changes", get(changes))).await;
    let dir = tempfile::tempdir().unwrap();
    let (poll, file) = (example("curl/poll.sh"), dir.path().join("cursor"));
    let mut proc = Run::new("sh").arg(poll).args([&site.url("/"), "1"]).arg(&file).spawn().unwrap();
    let asked = || state.lock().unwrap().1.clone();
    eventually(SOON, "all were asked", async || if asked().len() == 5 { Ok(()) } else { Err(asked()) }).await.unwrap();
    assert_eq!(asked(), ["none", "E.5.5c0ffee1", "E.5.5c0ffee1", "E.5.5c0ffee1", "E.6.5c0ffee1"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "E.6.5c0ffee1\n");
    let output = proc.output();
    assert!(output.contains("no answer of a gateway: nothing here; trying again in 2 s"), "{output}");
    assert_eq!(output.lines().filter(|line| line.starts_with('{')).collect::<Vec<_>>(), [change]);
    proc.kill9();
}
