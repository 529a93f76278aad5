//! A tracker: what was changed in it, and its REST API, which tells the truth.
//!
//! Goes in: edits. Comes out: the journal of all of them; what Bugzilla's `/rest/bug` and GitHub's list of issues say. A
//! tracker's dates have whole seconds.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use bugfeed_protocol::When;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The repository of the tracker that is like GitHub.
pub const REPOSITORY: &str = "octo/hello";

/// One change.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    pub bug: u64,
    pub when: When,
    /// When it was made, by our clock.
    pub at: Instant,
}

#[derive(Debug, Default)]
struct Truth {
    edits: Vec<Edit>,
    newest: BTreeMap<u64, When>,
    /// How often it was asked what changed.
    asked: u64,
}

impl Truth {
    /// The bugs that changed since then, with the date of their newest change.
    fn changed(&mut self, since: When) -> Vec<(u64, When)> {
        self.asked += 1;
        self.newest.iter().filter(|(_, when)| **when >= since).map(|(bug, when)| (*bug, *when)).collect()
    }
}

type Shared = Arc<Mutex<Truth>>;

/// The tracker; its API ends when it is dropped.
pub struct Tracker {
    pub address: SocketAddr,
    truth: Shared,
    serving: AbortHandle,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Tracker {
    pub async fn start() -> Tracker {
        let truth = Shared::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/rest/time", get(time))
            .route("/rest/bug", get(bugs))
            .route("/rest/bug/{id}", get(bug))
            .route(&format!("/api/v3/repos/{REPOSITORY}/issues"), get(issues))
            .with_state(Arc::clone(&truth));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Tracker { address, truth, serving }
    }

    /// A bug changes now.
    pub fn edit(&self, bug: u64) -> Edit {
        let mut truth = self.truth.lock().unwrap();
        let edit = Edit { bug, when: now(), at: Instant::now() };
        truth.edits.push(edit);
        let newest = truth.newest.entry(bug).or_insert(edit.when);
        *newest = edit.when.max(*newest);
        edit
    }

    /// How often it was asked what changed, pages counted one by one.
    pub fn asked(&self) -> u64 {
        self.truth.lock().unwrap().asked
    }

    /// All changes, in their order.
    pub fn edits(&self) -> Vec<Edit> {
        self.truth.lock().unwrap().edits.clone()
    }
}

/// Now, in whole seconds.
fn now() -> When {
    let micros = When::from_system_time(SystemTime::now()).as_micros();
    When::from_micros(micros - micros.rem_euclid(1_000_000)).unwrap()
}

fn since(query: &HashMap<String, String>, name: &str) -> When {
    When::parse_utc(query[name].trim_end_matches('Z')).unwrap()
}

fn number(query: &HashMap<String, String>, name: &str) -> usize {
    query[name].parse().unwrap()
}

async fn time() -> Json<Value> {
    let now = format!("{}Z", now());
    Json(json!({ "db_time": now, "web_time": now }))
}

async fn bugs(State(truth): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    assert_eq!((query["order"].as_str(), query.contains_key("include_fields")), ("bug_id", true), "{query:?}");
    let after = query.get("v1").map_or(0, |number| number.parse().unwrap());
    let changed = truth.lock().unwrap().changed(since(&query, "last_change_time"));
    let shown = changed.into_iter().filter(|(bug, _)| *bug > after).take(number(&query, "limit"));
    Json(json!({ "bugs": shown.map(show).collect::<Vec<_>>() }))
}

async fn bug(State(truth): State<Shared>, Path(id): Path<u64>) -> (StatusCode, Json<Value>) {
    match truth.lock().unwrap().newest.get(&id) {
        Some(when) => (StatusCode::OK, Json(json!({ "bugs": [show((id, *when))], "faults": [] }))),
        None => (StatusCode::NOT_FOUND, Json(json!({ "error": true, "code": 101, "message": "no such bug" }))),
    }
}

fn show((bug, when): (u64, When)) -> Value {
    json!({ "id": bug, "last_change_time": format!("{when}Z"), "product": "P" })
}

async fn issues(State(truth): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let asked = ["state", "sort", "direction"].map(|name| query[name].as_str());
    assert_eq!(asked, ["all", "updated", "asc"]);
    let mut changed = truth.lock().unwrap().changed(since(&query, "since"));
    changed.sort_by_key(|(bug, when)| (*when, *bug));
    let (page, size) = (number(&query, "page"), number(&query, "per_page"));
    let shown = changed.into_iter().skip((page - 1) * size).take(size);
    let shown = shown.map(|(bug, when)| json!({ "id": bug + 1000, "number": bug, "updated_at": format!("{when}Z") }));
    Json(Value::Array(shown.collect()))
}
