//! The bot in Node: it asks the tracker about each change, also about those that came while it, or the tracker, was dead.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use bugfeed_testbed::{Proc, Run, eventually};

use super::site::{Mood, Site};
use super::tools::{example, node};
use crate::browser::servers::Server;
use crate::support::SOON;

/// A tracker with a REST API that knows all bugs, if its mood is good.
async fn tracker(mood: &Mood) -> Site {
    let mood = mood.clone();
    let bug = async move |Path(bug): Path<u64>| {
        let status = mood.ask(&bug.to_string());
        let knows = serde_json::json!({ "bugs": [{ "summary": format!("crash {bug}"), "status": "NEW" }] });
        let refuses = serde_json::json!({ "error": true, "code": 102, "message": "You are not authorized" });
        match status {
            StatusCode::OK => axum::Json(knows).into_response(),
            StatusCode::UNAUTHORIZED => (status, axum::Json(refuses)).into_response(),
            // A proxy in its place.
            _ => (status, "<h1>nginx</h1>").into_response(),
        }
    };
    Site::start(Router::new().route("/rest/bug/{bug}", get(bug))).await
}

#[tokio::test]
async fn asks_the_tracker_about_every_change_whoever_dies() {
    let Some(node) = node() else { return };
    let server = Server::start(&[]).await;
    let mood = Mood::good();
    let tracker = tracker(&mood).await;
    let dir = tempfile::tempdir().unwrap();
    let cursor = dir.path().join("cursor");
    let start = async || -> Proc {
        let bot = Run::new(&node)
            .arg(example("node-bot/bot.mjs"))
            .args(["1", "2", "3"])
            .env("FEED", server.url("/").replace("http", "ws"))
            .env("TRACKER", tracker.url("/"))
            .env("CURSOR", &cursor)
            .spawn()
            .unwrap();
        eventually(SOON, "a cursor", async || cursor.exists()).await.unwrap();
        bot
    };
    let mut first = start().await;
    mood.once(StatusCode::SERVICE_UNAVAILABLE);
    server.touch(&["1", "--when", "2014-04-03T21:13:45"]).await;
    first.wait_for_line("bug 1: 503 Service Unavailable; asking again", SOON).await.unwrap();
    let line = first.wait_for_line("bug 1 changed", SOON).await.unwrap();
    assert_eq!(line, "bug 1 changed at 2014-04-03T21:13:45: NEW: crash 1");
    mood.once(StatusCode::NOT_FOUND);
    server.touch(&["1", "--when", "2014-04-03T21:13:46"]).await;
    first.wait_for_line("bug 1: 404 Not Found; asking again", SOON).await.unwrap();
    first.wait_for_line("bug 1 changed at 2014-04-03T21:13:46: NEW: crash 1", SOON).await.unwrap();
    mood.once(StatusCode::UNAUTHORIZED);
    server.touch(&["1"]).await;
    first.wait_for_line("not for us (401)", SOON).await.unwrap();

    mood.always(StatusCode::BAD_GATEWAY);
    server.touch(&["2"]).await;
    first.wait_for_line("bug 2: 502", SOON).await.unwrap();
    first.kill9();
    server.touch(&["3"]).await;
    mood.always(StatusCode::OK);
    let mut second = start().await;
    second.wait_for_line("NEW: crash 2", SOON).await.unwrap();
    second.wait_for_line("NEW: crash 3", SOON).await.unwrap();
    assert!(!second.output().contains("bug 1"), "again: {}", second.output());
    second.stop(SOON).await.unwrap();

    // After a gap all bugs are looked at.
    std::fs::write(&cursor, "of-another-ledger.5").unwrap();
    let mut third = start().await;
    for bug in [1, 2, 3] {
        third.wait_for_line(format!("bug {bug} may have changed: NEW: crash {bug}").as_str(), SOON).await.unwrap();
    }
}
