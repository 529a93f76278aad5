//! What the API really says, written down in `answers.json`: a test of the documents compares openapi.yaml with it.
//!
//! `BUGFEED_BLESS=1` writes the file anew.

use hyper::Method;
use regex_lite::Regex;
use serde_json::{Value, json};

use bugfeed_core::hooks::event::Trigger;
use bugfeed_hooks::receive::received::{Proof, RequestId};
use bugfeed_hooks::store::endpoints::{AttemptRow, EndpointId};
use bugfeed_hooks::store::tokens::Scope;

use crate::endpoints_sent::attempt;
use crate::support::{NOON_US, Rig, SECOND_US, failed, item, suspect};

/// Every path of the API stands in openapi.yaml, and no other one.
#[test]
fn every_path_is_documented() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.yaml");
    let text = std::fs::read_to_string(root).unwrap();
    let is_path = |line: &&str| line.starts_with("  /api/");
    let mut documented: Vec<&str> =
        text.lines().filter(is_path).map(|line| line.trim().trim_end_matches(':')).collect();
    documented.sort_unstable();
    let mut paths = bugfeed_hooks::api::paths();
    paths.sort_unstable();
    assert_eq!(documented, paths);
}

/// Asks, and notes what was answered.
struct Notes<'a> {
    rig: &'a Rig,
    noted: Vec<Value>,
}

impl Notes<'_> {
    /// `path` is as documented; `name` stands in it for what is in braces.
    async fn ask(&mut self, method: Method, path: &str, name: &str, query: &str, body: Value) -> Value {
        let open = path.find('{').map(|start| (start, path.find('}').unwrap() + 1));
        let real = open.map_or(path.to_owned(), |(start, end)| format!("{}{name}{}", &path[..start], &path[end..]));
        let sent = if body.is_null() { String::new() } else { body.to_string() };
        let real = format!("{}{query}", real.trim_start_matches("/api"));
        let answer = self.rig.call(&self.rig.token, method.clone(), &real, &sent).await;
        let noted = json!({
            "method": method.as_str().to_lowercase(), "path": path, "query": query, "body": mask(&body),
            "status": answer.status, "answer": mask(&answer.body),
        });
        self.noted.push(noted);
        answer.body
    }

    async fn get(&mut self, path: &str, name: &str, query: &str) -> Value {
        self.ask(Method::GET, path, name, query, Value::Null).await
    }

    async fn post(&mut self, path: &str, name: &str, body: Value) -> Value {
        self.ask(Method::POST, path, name, "", body).await
    }
}

/// The same without what differs from run to run.
fn mask(value: &Value) -> Value {
    let mut text = value.to_string();
    for (pattern, with) in [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "01a1ee56-5e7b-7fff-bfff-ffff7fffffff"),
        (r"bf_[a-z0-9]{6}_[a-z0-9]{22}", "bf_abcdef_ghijkmnpqrstuvwxyz2345"),
        (r"bt_[a-z0-9]{6}_[a-z0-9]{32}", "bt_abcdef_ghijkmnpqrstuvwxyz23456789abcdef"),
        (r"2026-11-26T1[34]:[0-9:.]*", "2026-11-26T13:00:00"),
        (r"ep_[a-z2-7]{20}", "ep_abcdefghijklmnopqrst"),
        (r"(ep_[a-z2-7]{20}-[0-9a-zA-Z-]*)-[0-9a-f]{12}", "$1-0123456789ab"),
        (r"whsec_[A-Za-z0-9+/]{43}=", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        (r"v1,[A-Za-z0-9+/]{43}=", "v1,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        (r#"\["webhook-timestamp","\d+"\]"#, "[\"webhook-timestamp\",\"1795698000\"]"),
        (r"/[^ ]*/hooks\.db", "/data/hooks.db"),
        (r#""id":"[a-z0-9]{6}""#, "\"id\":\"abcdef\""),
        (r#""who":"[a-z0-9]{6} "#, "\"who\":\"abcdef "),
        (r#""subject":"[a-z0-9]{6}""#, "\"subject\":\"abcdef\""),
        (r"(token|key) [a-z0-9]{6}\b", "$1 abcdef"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    serde_json::from_str(&text).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}

async fn keys_and_tokens(notes: &mut Notes<'_>) {
    let body = json!({ "name": "build", "owner": "me", "scopes": { "sources": ["plain"] }, "expires": "2027-01-01" });
    let key = text(&notes.post("/api/keys", "", body).await["id"]);
    notes.get("/api/keys", "", "?limit=10&state=active").await;
    let change = json!({ "owner": "you", "scopes": { "feeds": ["kde"] }, "expires": null });
    notes.ask(Method::PATCH, "/api/keys/{id}", &key, "", change).await;
    notes.post("/api/keys/{id}/rotate", &key, json!({ "overlap_hours": 1 })).await;
    notes.ask(Method::DELETE, "/api/keys/{id}", &key, "", Value::Null).await;
    notes.post("/api/keys/{id}/rotate", &key, Value::Null).await;
    notes.post("/api/keys", "", json!({})).await;
    notes.ask(Method::DELETE, "/api/keys/{id}", "none", "", Value::Null).await;
    let token = notes.post("/api/tokens", "", json!({ "name": "dashboard", "scopes": ["read"] })).await;
    notes.get("/api/tokens", "", "").await;
    notes.ask(Method::DELETE, "/api/tokens/{id}", &text(&token["id"]), "", Value::Null).await;
}

async fn events_and_requests(notes: &mut Notes<'_>) {
    let rig = notes.rig;
    let done = rig.arrive(item(1234, 0, "a")).await;
    rig.work(NOON_US + SECOND_US).await;
    rig.arrive(item(1234, 0, "a")).await;
    let dead = rig.arrive(failed("b")).await.to_string();
    let other = rig.arrive(failed("c")).await.to_string();
    let mut kept = rig.request(vec![item(5, 0, "")]);
    kept.envelope.body = Some("{\"changes\":[{\"bug\":5}]}".into());
    rig.store.accept(&[&kept]).await.unwrap();
    let refused = suspect(NOON_US + SECOND_US, "{\"changes\":[]}", Proof::default());
    rig.store.quarantine(&refused).await.unwrap();
    notes.get("/api/events", "", "?limit=2&source=plain").await;
    notes.get("/api/events/{id}", &done.to_string(), "").await;
    notes.get("/api/events/{id}", &dead, "").await;
    notes.get("/api/dead-letters", "", "").await;
    notes.get("/api/dead-letters/export", "", "?limit=1").await;
    notes.post("/api/events/{id}/release", &dead, Value::Null).await;
    notes.post("/api/events/{id}/retry", &dead, Value::Null).await;
    notes.post("/api/events/{id}/drop", &dead, Value::Null).await;
    notes.post("/api/events/{id}/drop", &dead, Value::Null).await;
    notes.post("/api/events/retry", "", json!({ "source": "plain", "dry_run": true })).await;
    notes.post("/api/events/drop", "", json!({ "state": "errored" })).await;
    assert!(!other.is_empty());
    notes.get("/api/bugs/{bug}", "1234", "?feed=default").await;
    notes.get("/api/requests", "", "?state=quarantined").await;
    notes.get("/api/requests/{id}", &kept.envelope.id.to_string(), "?body=true").await;
    notes.get("/api/requests/{id}", &refused.envelope.id.to_string(), "").await;
    notes.post("/api/requests/{id}/replay", &kept.envelope.id.to_string(), Value::Null).await;
    notes.post("/api/requests/{id}/replay", &refused.envelope.id.to_string(), json!({ "trust": false })).await;
    notes.post("/api/prune", "", json!({ "source": "plain", "dry_run": true })).await;
    notes.post("/api/prune", "", json!({ "source": "plain", "dry_run": false })).await;
}

async fn endpoints(notes: &mut Notes<'_>) {
    let rig = notes.rig;
    let body = json!({
        "url": "https://bot.example.org/hook?x=1", "bugs": [1234, 5678], "feeds": ["default"], "policy": "current", "rate": 5,
        "template": { "text": "Bug {bug}" }, "headers": { "X-Api-Key": "k" }, "description": "build bot",
    });
    let id = text(&notes.post("/api/endpoints", "", body).await["id"]);
    let all = json!({ "url": "https://chat.example.org/", "bugs": "all", "feeds": "all", "template": "slack" });
    notes.post("/api/endpoints", "", all).await;
    notes.post("/api/endpoints", "", json!({ "url": "http://127.0.0.1/", "bugs": "all" })).await;
    notes.post("/api/endpoints/preview", "", json!({ "url": "https://bot.example.org/", "bugs": [1234] })).await;
    notes.get("/api/endpoints", "", "?state=active&feed=default&bug=1234").await;
    notes.get("/api/endpoints/{id}", &id, "").await;
    notes.get("/api/endpoints/{id}", "none", "").await;
    let change = json!({ "bugs": [1234], "template": null, "headers": { "X-Api-Key": null } });
    notes.ask(Method::PATCH, "/api/endpoints/{id}", &id, "", change).await;
    for order in ["enable", "reset", "pause", "resume"] {
        notes.post(&format!("/api/endpoints/{{id}}/{order}"), &id, Value::Null).await;
    }
    notes.post("/api/endpoints/{id}/rotate", &id, json!({ "overlap_hours": 1 })).await;
    notes.post("/api/endpoints/{id}/recover", &id, json!({ "cursor": "E.5", "feed": "default" })).await;
    let endpoint = EndpointId::parse(&id).unwrap();
    let sent = attempt(&endpoint, NOON_US, Trigger::Live, &format!("{id}-E-4-5-0123456789ab"));
    rig.attempted(AttemptRow {
        status: None,
        fault: Some("refused".into()),
        error: Some("nobody".into()),
        ..sent.clone()
    })
    .await;
    notes.post("/api/endpoints/{id}/test", &id, json!({ "wait": 0 })).await;
    rig.attempted(attempt(&endpoint, NOON_US + SECOND_US, Trigger::Manual, &format!("{id}-E-test-5-0123456789ab-g3")))
        .await;
    notes.post("/api/endpoints/{id}/test", &id, json!({ "wait": 0 })).await;
    notes.get("/api/endpoints/{id}/attempts", &id, "?limit=2").await;
    let attempt = RequestId(sent.id).to_string();
    notes.get("/api/attempts/{id}", &attempt, "").await;
    notes.post("/api/attempts/{id}/redeliver", &attempt, json!({ "wait": 0 })).await;
    notes.ask(Method::DELETE, "/api/endpoints/{id}", &id, "", Value::Null).await;
}

#[tokio::test]
async fn the_answers_are_those_that_the_documents_are_checked_with() {
    let rig = Rig::start().await;
    let mut notes = Notes { rig: &rig, noted: Vec::new() };
    keys_and_tokens(&mut notes).await;
    endpoints(&mut notes).await;
    events_and_requests(&mut notes).await;
    notes.post("/api/sources/{name}/disable", "plain", Value::Null).await;
    notes.get("/api/sources", "", "").await;
    notes.post("/api/sources/{name}/enable", "plain", Value::Null).await;
    notes.post("/api/sources/{name}/reconcile", "tracked", Value::Null).await;
    notes.post("/api/sources/{name}/test", "tracked", Value::Null).await;
    notes.post("/api/feeds/{name}/disable", "kde", Value::Null).await;
    notes.post("/api/feeds/{name}/enable", "kde", Value::Null).await;
    notes.post("/api/mapping/try", "", json!({ "source": "plain", "request": "{\"changes\":[{\"bug\":5}]}" })).await;
    notes.get("/api/overview", "", "").await;
    notes.get("/api/audit", "", "?limit=3").await;
    let read = rig.token_with(&[Scope::Read]).await;
    rig.call(&read, Method::POST, "/prune", "").await.refused(403, "write");
    let asked: Vec<&str> = notes.noted.iter().map(|note| note["path"].as_str().unwrap()).collect();
    let missing: Vec<_> =
        bugfeed_hooks::api::paths().into_iter().filter(|path| !asked.contains(&path.as_str())).collect();
    assert_eq!(missing, [""; 0], "every path is asked");
    let want = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/answers.json");
    let got = serde_json::to_string_pretty(&notes.noted).unwrap() + "\n";
    if std::env::var_os("BUGFEED_BLESS").is_some() {
        std::fs::write(want, &got).unwrap();
    }
    let want = std::fs::read_to_string(want).unwrap_or_default();
    assert!(got == want, "the answers differ from tests/api/answers.json; BUGFEED_BLESS=1 writes it anew");
}
