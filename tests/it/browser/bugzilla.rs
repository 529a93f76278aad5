//! A tracker with as much of Bugzilla's REST API as the page asks for. In: what it is to answer. Out: what it was asked.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running tracker; gone when dropped.
pub struct Bugzilla {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

/// What somebody did to each bug, whenever it is asked about.
#[derive(Clone, Copy)]
pub enum Answers {
    /// A summary with markup in it, a changed status for odd bugs, a comment for even ones.
    Well,
    /// 500, with the permission to read it.
    Failing,
    /// All of it, but without permission for other sites' pages.
    NotForOthers,
}

impl Bugzilla {
    pub async fn start(answers: Answers) -> Bugzilla {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let answer = async move |request: Request| {
            log.lock().unwrap().push(request.uri().to_string());
            assert!(request.headers().get(header::COOKIE).is_none(), "a cookie for another site's question");
            respond(answers, &request)
        };
        let router = Router::new().fallback(answer);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Bugzilla { address, asked, serving }
    }

    /// The template for its bugs.
    pub fn template(&self) -> String {
        format!("http://{}/show_bug.cgi?id={{bug}}", self.address)
    }

    /// Where a bug is.
    pub fn link(&self, bug: u64) -> String {
        format!("http://{}/show_bug.cgi?id={bug}", self.address)
    }

    pub fn host(&self) -> &str {
        &self.address
    }

    /// The paths and queries it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Bugzilla {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn respond(answers: Answers, request: &Request) -> Response {
    let mut headers = HeaderMap::new();
    if !matches!(answers, Answers::NotForOthers) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".parse().unwrap());
    }
    if matches!(answers, Answers::Failing) {
        return (StatusCode::INTERNAL_SERVER_ERROR, headers, "out of order").into_response();
    }
    let query = request.uri().query().unwrap_or("");
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    let path: Vec<&str> = request.uri().path().split('/').collect();
    let answer = match path[..] {
        ["", "rest", "bug"] => summaries(value("id").unwrap()),
        ["", "rest", "bug", id, "history"] => history(id, value("new_since").unwrap()),
        ["", "rest", "bug", id, "comment"] => comments(id, value("new_since").unwrap()),
        _ => return (StatusCode::NOT_FOUND, headers).into_response(),
    };
    (headers, axum::Json(answer)).into_response()
}

fn summaries(ids: &str) -> Value {
    let bug = |id: &str| {
        let id: u64 = id.parse().unwrap();
        json!({ "id": id, "summary": format!("<b>Crash</b> number {id}"), "status": "RESOLVED", "resolution": "FIXED" })
    };
    json!({ "bugs": ids.split(',').map(bug).collect::<Vec<_>>() })
}

/// Something happened one second after what was asked for, as the page asks for one second more.
fn after(since: &str) -> String {
    let since: jiff::Timestamp = since.parse().unwrap();
    (since + jiff::SignedDuration::from_secs(1)).to_string()
}

fn history(id: &str, since: &str) -> Value {
    let id: u64 = id.parse().unwrap();
    let change = json!({ "field_name": "status", "removed": "NEW", "added": "RESOLVED" });
    let entry = json!({ "when": after(since), "who": "developer@example.org", "changes": [change] });
    json!({ "bugs": [{ "id": id, "history": if id % 2 == 1 { vec![entry] } else { vec![] } }] })
}

fn comments(id: &str, since: &str) -> Value {
    let comment = json!({ "creator": "reporter@example.org", "time": after(since), "text": "Me <i>too</i>" });
    json!({ "bugs": { id: { "comments": [comment] } } })
}
