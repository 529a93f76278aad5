//! Endpoints: made, listed, shown with and without what is masked.

use bugfeed_core::endpoints::policy::{Outcome, Policy};
use bugfeed_core::endpoints::question::{Since, Told, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_hooks::deliver::sign::SigningSecret;
use bugfeed_hooks::store::endpoints::{EndpointId, FeedChoice, Stored};
use bugfeed_hooks::store::tokens::{Scope, Token};
use bugfeed_protocol::{BugId, Change, Cursor, Numbered, When};
use hyper::Method;
use serde_json::{Value, json};

use crate::support::{NOON_US, Rig, SECOND_US, item};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// In the places where secrets are kept; none of it may be shown without the scope `raw`.
pub const HIDDEN: [&str; 4] = ["hidden-path", "hidden-query", "hidden-value", "hidden-text"];

/// A body with a secret in each place that can hold one.
pub fn body() -> Value {
    json!({
        "url": "https://bot.example.org:8443/hidden-path?token=hidden-query",
        "bugs": [1234, 5678],
        "headers": { "X-Api-Key": "hidden-value" },
        "template": { "text": "Bug {bug}", "channel": "hidden-text" },
    })
}

impl Rig {
    /// Makes an endpoint, and says its identifier.
    pub async fn endpoint(&self, body: Value) -> EndpointId {
        let made = self.post("/endpoints", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        EndpointId::parse(made.body["id"].as_str().unwrap()).unwrap()
    }

    pub async fn stored(&self, id: &EndpointId) -> Stored {
        self.store.endpoint(id).await.unwrap().unwrap()
    }

    /// Changes a row as its planner would.
    pub async fn plan(&self, id: &EndpointId, mut change: impl FnMut(&mut Row) + Send) {
        let change = |_: &mut _, row: &mut Row| {
            change(row);
            row.version += 1;
            Ok::<(), ()>(())
        };
        self.store.change_endpoint(id, None, change).await.unwrap();
    }

    /// A change got this number on the bus.
    pub async fn number(&self, feed: &str, cursor: &str, bug: u64, when_us: i64) {
        let when = When::from_micros(when_us).unwrap();
        let (change, cursor) = (Change { bug: BugId::new(bug).unwrap(), when }, Cursor::parse(cursor).unwrap());
        self.store.match_changes(feed, &[Numbered { change, cursor, after: None, recorded: when }]).await.unwrap();
    }

    pub async fn patch(&self, id: &EndpointId, body: Value) -> crate::support::Answer {
        self.call(&self.token, Method::PATCH, &format!("/endpoints/{id}"), &body.to_string()).await
    }
}

pub fn fail(row: &mut Row, outcome: Outcome, times: usize) {
    for _ in 0..times {
        row.health.count(row.policy, outcome, NOON_US + 3600 * SECOND_US);
    }
}

pub fn shows_nothing_hidden(text: &str) {
    for hidden in HIDDEN {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    assert!(!text.contains("whsec_"), "{text}");
}

#[tokio::test]
async fn an_endpoint_is_made_and_its_secret_is_shown_once() {
    let rig = Rig::start().await;
    let made = rig.post("/endpoints", body()).await;
    assert_eq!(made.status, 201);
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    assert!(SigningSecret::parse(&secret).is_ok());
    let id = EndpointId::parse(made.body["id"].as_str().unwrap()).unwrap();
    assert_eq!(rig.told(), [format!("endpoint {id}")]);
    let stored = rig.stored(&id).await;
    assert_eq!((stored.settings.secret.expose(), stored.settings.previous.is_none()), (secret.as_str(), true));
    assert_eq!(stored.settings.url, "https://bot.example.org:8443/hidden-path?token=hidden-query");
    assert_eq!(stored.settings.headers.expose().collect::<Vec<_>>(), [("x-api-key", "hidden-value")]);
    assert_eq!(stored.settings.feeds, FeedChoice::Named(vec!["default".into()]));
    assert_eq!((stored.row.policy, stored.row.rate), (Policy::Classic, None));
    assert!(matches!(&stored.row.watch, Watch::Bugs(bugs) if bugs.len() == 2));
    let since = &stored.row.lines[0].since;
    assert!(matches!(since, Since::Time(at) if at.as_micros() >= NOON_US), "it begins now: {since:?}");
    for path in [format!("/endpoints/{id}"), "/endpoints".to_owned(), "/audit".to_owned()] {
        assert!(!rig.get(&path).await.good().to_string().contains(&secret), "{path}");
    }
    assert_eq!(rig.audited().await, [format!("{} first endpoints.create {id}", rig.token.id())]);
    let log = rig.get("/audit").await.good();
    shows_nothing_hidden(&log.to_string());
    let detail = &log["deeds"][0]["detail"];
    assert_eq!((&detail["url"], &detail["bugs"]), (&json!("https://bot.example.org:8443/…"), &json!(2)));
    assert_eq!((&detail["headers"], &detail["template"]), (&json!(["x-api-key"]), &json!("own")));

    let given = json!({ "url": "https://h.example/", "bugs": "all", "feeds": "all", "secret": SECRET, "policy": "off",
        "rate": 5, "template": "slack", "description": " build bot " });
    let given = rig.post("/endpoints", given).await.good();
    assert_eq!((&given["secret"], &given["url"]), (&json!(SECRET), &json!("https://h.example/")));
    assert_eq!((&given["feeds"], &given["bugs"], &given["bug_count"]), (&json!("all"), &json!("all"), &Value::Null));
    assert_eq!((&given["policy"], &given["rate"], &given["template"]), (&json!("off"), &json!(5), &json!("slack")));
    assert_eq!(given["description"], "build bot");
    assert_eq!(given["cursors"], json!({ "default": null, "kde": null }));
}

#[tokio::test]
async fn what_is_wrong_with_an_endpoint_is_said_and_nothing_is_made() {
    let rig = Rig::start().await;
    let with = |member: &str, value: Value| {
        let mut body = json!({ "url": "https://h.example/", "bugs": "all" });
        body[member] = value;
        body
    };
    let many: Vec<u64> = (1..=10_001).collect();
    for (body, want, fix) in [
        (json!({ "bugs": "all" }), "url: the endpoint has no URL", "https://"),
        (json!({ "url": "https://h.example/" }), "bugs: nothing is said", "\"all\""),
        (with("url", json!("http://127.0.0.1:9000/hidden-path")), "url: 127.0.0.1 is", "--allow-network 127.0.0.0/8"),
        (with("url", json!("http://0x7f.1/hidden-path")), "url: 127.0.0.1 is", "--allow-network 127.0.0.0/8"),
        (with("url", json!("https://[fd00::7]/hidden-path")), "url: fd00::7 is", "--allow-network fd00::7/128"),
        (with("url", json!("https://10.1.2.3/hidden-path")), "url: 10.1.2.3 is", "--allow-network 10.1.2.3/32"),
        (with("url", json!("https://me:hidden-value@h.example/")), "name or password", "Authorization"),
        (with("url", json!("ftp://h.example/hidden-path")), "url: a URL begins with", "https://"),
        (with("url", json!("https://h.example/\r\nhidden-path")), "url: the URL holds a blank", "https://"),
        (with("bugs", json!([])), "bugs: the list is empty", "1234"),
        (with("bugs", json!([0])), "bugs: '0' is wrong", "whole numbers"),
        (with("bugs", json!("some")), "bugs: 'some' is wrong", "all"),
        (with("bugs", json!(many)), "bugs: 10001 are too many", "at most 10000"),
        (with("feeds", json!([])), "feeds: the list is empty", "default, kde"),
        (with("feeds", json!(["gnome"])), "feeds: there is no feed 'gnome'", "default, kde"),
        (with("feeds", json!(5)), "feeds: this is no list", "default, kde"),
        (with("policy", json!("strict")), "policy: 'strict'", "classic, current, off"),
        (with("rate", json!(0)), "rate: '0'", "1 to 10000"),
        (with("template", json!("irc")), "template: 'irc'", "slack, mattermost, matrix, teams, discord"),
        (with("template", json!({ "text": "{buq}" })), "placeholder {buq} is unknown", "slack"),
        (with("template", json!(["{bug}"])), "template: this is neither", "slack"),
        (with("headers", json!({ "Host": "hidden-value" })), "headers: the header host cannot be set", "X-Api-Key"),
        (with("headers", json!({ "X-A": "hidden-value\r\nX-B: c" })), "headers: the value of x-a holds", "X-Api-Key"),
        (with("headers", json!({ "X-A": 5 })), "headers: the value of X-A is no text", "text"),
        (with("headers", json!({ "webhook-id": "hidden-value" })), "cannot be set", "X-Api-Key"),
        (with("description", json!("x".repeat(501))), "description", "500"),
        (with("description", json!("a\nb")), "description", "one line"),
        (with("secret", json!("whsec_aGlkZGVuLXZhbHVl")), "secret: a secret has 24 to 64 bytes", "leave it out"),
        (with("secret", json!("hidden-value")), "secret: a secret begins with whsec_", "leave it out"),
        (with("events", json!("all")), "unknown member `events`", "the members are: url, feeds, bugs"),
    ] {
        for path in ["/endpoints", "/endpoints/preview"] {
            let answer = rig.post(path, body.clone()).await;
            answer.refused(400, want);
            let said = answer.body["fix"].as_str().unwrap();
            assert!(said.contains(fix), "{want}: no '{fix}' in: {said}");
            assert!(!answer.body.to_string().contains("hidden"), "{answer:?}");
        }
    }
    assert_eq!(rig.get("/endpoints").await.good(), json!({ "endpoints": [], "next": null }));
    assert_eq!((rig.audited().await, rig.told()), (vec![], vec![]));
}

#[tokio::test]
async fn endpoints_are_listed_in_pages_and_by_filters() {
    let rig = Rig::start().await;
    let mut made = Vec::new();
    for number in 1..=5 {
        let feed = if number == 5 { json!(["kde"]) } else { json!(["default"]) };
        let body = json!({ "url": format!("https://h{number}.example/"), "bugs": [number], "feeds": feed });
        made.insert(0, rig.endpoint(body).await.to_string());
    }
    let all = json!({ "url": "https://all.example/", "bugs": "all", "feeds": "all" });
    made.insert(0, rig.endpoint(all).await.to_string());
    let ids = |page: &Value| -> Vec<String> {
        page["endpoints"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let (mut found, mut path) = (Vec::new(), "/endpoints?limit=4".to_owned());
    loop {
        let page = rig.get(&path).await.good();
        found.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => path = format!("/endpoints?limit=4&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, made, "newest first");
    let listed = async |query: &str| ids(&rig.get(&format!("/endpoints?{query}")).await.good());
    assert_eq!(listed("bug=3").await, [made[0].clone(), made[3].clone()], "those of all bugs, too");
    assert_eq!(listed("feed=kde").await, [made[0].clone(), made[1].clone()], "those of all feeds, too");
    let id = EndpointId::parse(&made[2]).unwrap();
    rig.plan(&id, |row| fail(row, Outcome::Gone, 1)).await;
    assert_eq!(listed("state=disabled").await, [made[2].clone()]);
    assert_eq!(listed("state=active&bug=4").await, [made[0].clone()]);
    rig.get("/endpoints?state=broken").await.refused(400, "state: 'broken'");
    rig.get("/endpoints?bug=x").await.refused(400, "bug: 'x'");
    rig.get("/endpoints?after=none").await.refused(400, "after: 'none'");
    rig.get("/endpoints?after=ep_aaaaaaaaaaaaaaaaaaaa").await.refused(400, "after: 'ep_aaaa");
    let counts = rig.get("/overview").await.good()["endpoints"].clone();
    assert_eq!(counts, json!({ "active": 5, "cooling": 0, "disabled": 1, "paused": 0 }));
    // Of many bugs a list shows some.
    let bugs: Vec<u64> = (1..=100).collect();
    let id = rig.endpoint(json!({ "url": "https://many.example/", "bugs": bugs })).await;
    let first = rig.get("/endpoints?limit=1").await.good()["endpoints"][0].clone();
    assert_eq!((first["bugs"].as_array().unwrap().len(), &first["bug_count"]), (20, &json!(100)));
    assert_eq!(rig.get(&format!("/endpoints/{id}")).await.good()["bugs"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn only_the_scope_raw_shows_what_may_be_secret() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let (read, raw) = (rig.token_with(&[Scope::Read]).await, rig.token_with(&[Scope::Read, Scope::Raw]).await);
    let get = async |token: &Token, path: &str| rig.call(token, Method::GET, path, "").await.good().to_string();
    for path in [format!("/endpoints/{id}"), "/endpoints".to_owned(), "/bugs/1234".to_owned()] {
        let masked = get(&read, &path).await;
        shows_nothing_hidden(&masked);
        assert!(masked.contains("https://bot.example.org:8443/…"), "{masked}");
        assert!(get(&raw, &path).await.contains("hidden-path?token=hidden-query"), "{path}");
    }
    let masked = get(&read, &format!("/endpoints/{id}")).await;
    assert!(masked.contains("x-api-key") && masked.contains("Bug {bug}"), "{masked}");
    let shown = get(&raw, &format!("/endpoints/{id}")).await;
    assert!(HIDDEN.iter().all(|hidden| shown.contains(hidden)) && !shown.contains("whsec_"), "{shown}");
    // What is written is masked in its answer for who may not read it.
    let write = rig.token_with(&[Scope::Write]).await;
    let path = format!("/endpoints/{id}");
    for (method, path, sent) in [
        (Method::PATCH, path.clone(), json!({ "description": "x" })),
        (Method::POST, format!("{path}/pause"), json!({})),
        (Method::POST, format!("{path}/recover"), json!({ "cursor": "E.5" })),
        (Method::DELETE, path.clone(), json!({})),
    ] {
        let answer = rig.call(&write, method, &path, &sent.to_string()).await.good();
        shows_nothing_hidden(&answer.to_string());
    }
}

#[tokio::test]
async fn reading_and_writing_need_their_scopes() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let before = rig.stored(&id).await.row;
    rig.told();
    let (read, write) = (rig.token_with(&[Scope::Read]).await, rig.token_with(&[Scope::Write]).await);
    let attempt = "01a1ee56-5e7b-7fff-bfff-ffff7fffffff";
    let (mut reads, mut writes) = (0, 0);
    for path in bugfeed_hooks::api::paths() {
        if !path.contains("endpoints") && !path.contains("attempts") {
            continue;
        }
        let name = if path.contains("/attempts/{id}") { attempt } else { id.as_str() };
        let path = path.trim_start_matches("/api").replace("{id}", name);
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
            let is_read = method == Method::GET;
            let (token, lacks) = if is_read { (&write, "scope read") } else { (&read, "scope write") };
            let answer = rig.call(token, method, &path, "{}").await;
            if answer.status != 405 {
                answer.refused(403, lacks);
                *(if is_read { &mut reads } else { &mut writes }) += 1;
            }
        }
    }
    assert_eq!((reads, writes), (4, 12), "every path was asked");
    assert_eq!(rig.stored(&id).await.row, before);
    assert_eq!((rig.audited().await.len(), rig.told()), (1, vec![]));
}

#[tokio::test]
async fn a_bug_tells_who_is_told_of_it() {
    let rig = Rig::start().await;
    let (behind, there) = (rig.endpoint(body()).await, rig.endpoint(body()).await);
    rig.endpoint(json!({ "url": "https://other.example/", "bugs": [9] })).await;
    let cursor = |row: &mut Row, text: &str| row.lines[0].since = Since::Cursor(Cursor::parse(text).unwrap());
    rig.plan(&behind, |row| cursor(row, "E.4")).await;
    rig.plan(&there, |row| cursor(row, "E.5")).await;
    let told = rig.get("/bugs/1234").await.good();
    assert_eq!((told["endpoints"].as_array().unwrap().len(), &told["endpoints"][0]["has"]), (2, &Value::Null));
    assert_eq!(told["endpoints"][0]["says"], "has what was published up to E.5; more cannot be told now");
    assert_eq!(told["newest"], json!([]));
    // The feed knows of changes that no webhook brought.
    for (has_after, has, says) in
        [(false, true, "has all that is published, up to E.5"), (true, false, "has it not yet: ")]
    {
        *rig.told.has_after.lock().unwrap() = Some(has_after);
        let told = &rig.get("/bugs/1234").await.good()["endpoints"][0];
        assert_eq!(told["has"], has);
        assert!(told["says"].as_str().unwrap().starts_with(says), "{told}");
    }
    *rig.told.has_after.lock().unwrap() = Some(false);
    rig.arrive(item(1234, 0, "a")).await;
    let told = &rig.get("/bugs/1234").await.good()["endpoints"][0];
    let no_number = "a change that a webhook brought has no number yet; has all that is published, up to E.5";
    assert_eq!((&told["has"], &told["says"]), (&Value::Null, &json!(no_number)));
    rig.work(NOON_US + SECOND_US).await;
    rig.number("default", "E.5", 1234, NOON_US).await;
    let of = async |id: &EndpointId| {
        let told = rig.get("/bugs/1234?feed=default").await.good();
        let all = told["endpoints"].as_array().unwrap();
        let one = all.iter().find(|one| one["endpoint"] == id.as_str()).unwrap();
        (one["has"].clone(), one["says"].as_str().unwrap().to_owned())
    };
    assert_eq!(of(&there).await, (json!(true), "has it".to_owned()));
    // A row of the change table was newer than what the webhook brought.
    *rig.told.has_after.lock().unwrap() = Some(true);
    assert_eq!(of(&there).await.0, json!(false));
    *rig.told.has_after.lock().unwrap() = None;
    assert_eq!(of(&there).await.0, Value::Null, "the feed cannot tell");
    assert_eq!(of(&behind).await.0, json!(false));
    // A higher number of another ledger proves nothing.
    rig.plan(&there, |row| cursor(row, "F.9")).await;
    assert_ne!(of(&there).await.0, json!(true));
    rig.plan(&there, |row| cursor(row, "E.5")).await;
    let when = When::from_micros(NOON_US).unwrap();
    let change = Change { bug: BugId::new(1234).unwrap(), when };
    *rig.told.newest.lock().unwrap() = Some(Told { change, cursor: Cursor::parse("E.7").unwrap() });
    let newest = rig.get("/bugs/1234?feed=default").await.good()["newest"].take();
    assert_eq!(newest, json!([{ "feed": "default", "when": "2026-11-26T12:00:00", "cursor": "E.7" }]));
    assert_eq!(of(&there).await.0, json!(false), "the feed knows a newer one");
    *rig.told.feeds.lock().unwrap() = Some(vec!["other".to_owned()]);
    assert!(of(&there).await.1.contains("the feed default is not served here"));
    let other = rig.get("/bugs/1234?feed=kde").await.good();
    assert_eq!(other["endpoints"], json!([]));
}

#[tokio::test]
async fn an_endpoint_of_a_feed_that_is_not_served_says_so() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    rig.get("/endpoints?feed=nope").await.refused(400, "feed: there is no feed 'nope'");
    assert_eq!(rig.get("/endpoints?feed=kde").await.good()["endpoints"], json!([]));
    *rig.told.feeds.lock().unwrap() = Some(vec!["kde".to_owned()]);
    let want = "the feed default is not served here";
    for path in [format!("/endpoints/{id}"), "/endpoints?feed=default".to_owned()] {
        assert!(rig.get(&path).await.good().to_string().contains(want), "{path}");
    }
    for (order, said) in [("test", json!({ "wait": 0 })), ("recover", json!({ "since": "2026-11-26T12:00:00" }))] {
        let told = rig.post(&format!("/endpoints/{id}/{order}"), said).await.good();
        assert!(told.to_string().contains(want), "{order}: {told}");
    }
}

#[tokio::test]
async fn what_a_person_may_not_expect_is_a_warning() {
    let rig = Rig::start().await;
    let warnings = |answer: &Value| answer["warnings"].to_string();
    let made = rig.post("/endpoints", json!({ "url": "http://localhost:9/", "bugs": "all" })).await.good();
    assert!(warnings(&made).contains("localhost leads to") && warnings(&made).contains("--allow-network"), "{made}");
    let id = EndpointId::parse(made["id"].as_str().unwrap()).unwrap();
    *rig.told.knows.lock().unwrap() = Some(false);
    let told = rig.post(&format!("/endpoints/{id}/recover"), json!({ "cursor": "other.5" })).await.good();
    assert!(warnings(&told).contains("does not know this cursor"), "{told}");
    *rig.told.knows.lock().unwrap() = Some(true);
    rig.plan(&id, |row| row.paused = true).await;
    let told = rig.post(&format!("/endpoints/{id}/recover"), json!({ "cursor": "E.5" })).await.good();
    assert!(warnings(&told).contains("it is paused") && !warnings(&told).contains("cursor"), "{told}");
}
