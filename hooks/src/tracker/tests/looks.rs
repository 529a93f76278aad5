//! Looks at one bug: what each tracker says, word for word, and what it means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::hooks::event::ErrorClass;
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_protocol::BugId;

use super::{NOON_US, TestClock, asker, source};
use crate::test_server::{Reply, Server};
use crate::tracker::Found;

const WITHIN: Duration = Duration::from_secs(20);

fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

/// The project that follows the tracker's address, for those that have any.
pub(super) fn path_of(preset: &str) -> &'static str {
    match preset {
        "github" | "gitlab" | "gitea" => "/o/r",
        _ => "",
    }
}

/// Asks a tracker that answers so for bug 35. Returns what was found, what was asked, and whether the tracker recovered.
async fn look(preset: &str, status: u16, headers: &'static str, body: &'static str) -> (Found, String, bool) {
    let server = Server::start(move |_| Reply::full(status, headers, body)).await;
    let source = source(preset, &format!("tracker = \"{}\"", server.url(path_of(preset))));
    let asker = asker(&source, &TestClock::noon());
    let found = asker.look("default", bug(35), NOON_US, WITHIN).await;
    let recovered = tokio::select! {
        biased;
        () = asker.recovered() => true,
        () = std::future::ready(()) => false,
    };
    (found, server.got()[0].target.clone(), recovered)
}

const JSON: &str = "Content-Type: application/json\r\n";
const BASIC: &str = "Content-Type: application/json\r\nWWW-Authenticate: Basic realm=\"Redmine API\"\r\n";

#[tokio::test]
async fn what_each_tracker_says() {
    use Outcome::{NotVisible, Private, Visible};
    for (preset, status, headers, body, want) in [
        (
            "bugzilla",
            200,
            JSON,
            r#"{"bugs":[{"id":35,"last_change_time":"2026-11-26T10:00:00Z","product":"P"}],"faults":[]}"#,
            Visible,
        ),
        (
            "bugzilla",
            401,
            JSON,
            r#"{"error":true,"code":102,"message":"You are not authorized to access bug #35."}"#,
            NotVisible,
        ),
        ("bugzilla", 404, JSON, r#"{"error":true,"code":101,"message":"Bug #35 does not exist."}"#, NotVisible),
        ("bugzilla", 200, JSON, r#"{"error":true,"code":"102","message":"…"}"#, NotVisible),
        ("bugzilla", 200, JSON, r#"{"bugs":[],"faults":[{"id":"35","faultCode":102,"faultString":"…"}]}"#, NotVisible),
        ("github", 200, JSON, r#"{"id":1,"number":35,"updated_at":"2026-11-26T10:00:00Z","title":"x"}"#, Visible),
        ("github", 404, JSON, r#"{"message":"Not Found","documentation_url":"…","status":"404"}"#, NotVisible),
        ("github", 410, JSON, r#"{"message":"This issue was deleted","documentation_url":"…"}"#, NotVisible),
        (
            "gitlab",
            200,
            JSON,
            r#"{"id":9,"iid":35,"updated_at":"2026-11-26T10:00:00.123Z","confidential":false}"#,
            Visible,
        ),
        (
            "gitlab",
            200,
            JSON,
            r#"{"id":9,"iid":35,"updated_at":"2026-11-26T10:00:00.123Z","confidential":true}"#,
            Private,
        ),
        ("gitlab", 200, JSON, r#"{"id":9,"iid":35,"updated_at":"2026-11-26T10:00:00.123Z"}"#, Private),
        ("gitlab", 404, JSON, r#"{"message":"404 Project Not Found"}"#, NotVisible),
        ("gitea", 200, JSON, r#"{"id":9,"number":35,"updated_at":"2026-11-26T11:00:00+01:00"}"#, Visible),
        (
            "gitea",
            404,
            JSON,
            r#"{"message":"issue does not exist [id: 0, repo_id: 1, index: 35]","url":"…"}"#,
            NotVisible,
        ),
        (
            "redmine",
            200,
            JSON,
            r#"{"issue":{"id":35,"project":{"id":1,"name":"Pub"},"is_private":false,"updated_on":"2026-11-26T10:00:00Z"}}"#,
            Visible,
        ),
        ("redmine", 200, JSON, r#"{"issue":{"id":35,"is_private":true,"updated_on":"2026-11-26T10:00:00Z"}}"#, Private),
        ("redmine", 401, BASIC, "", NotVisible),
        ("redmine", 404, JSON, "", NotVisible),
    ] {
        let (found, _, recovered) = look(preset, status, headers, body).await;
        assert_eq!(found.outcome, want, "{preset} {status} {body}: {:?}", found.reason);
        let changed = found.changed.map(|changed| changed.to_string()[..19].to_owned());
        assert_eq!(changed.as_deref(), (want == Visible).then_some("2026-11-26T10:00:00"), "{preset} {body}");
        assert!(recovered, "the first success");
    }
}

#[tokio::test]
async fn what_is_asked() {
    for (preset, want) in [
        ("bugzilla", "/rest/bug/35?include_fields=id,last_change_time,product"),
        ("github", "/api/v3/repos/o/r/issues/35"),
        ("gitlab", "/api/v4/projects/o%2Fr/issues/35"),
        ("gitea", "/api/v1/repos/o/r/issues/35"),
        ("redmine", "/issues/35.json"),
    ] {
        assert_eq!(look(preset, 500, "", "").await.1, want);
    }
}

#[tokio::test]
async fn what_is_no_answer_about_the_bug() {
    const HTML: &str = "Content-Type: text/html\r\n";
    for (preset, status, headers, body, want) in [
        (
            "bugzilla",
            401,
            JSON,
            r#"{"error":true,"code":410,"message":"You must log in."}"#,
            "shows nothing without a login",
        ),
        ("bugzilla", 400, JSON, r#"{"error":true,"code":32000,"message":"x"}"#, "is not that of its API (400"),
        ("bugzilla", 429, HTML, "<h1>Too Many Requests</h1>", "asked too often (429)"),
        ("bugzilla", 404, HTML, "<h1>Not Found</h1>", "is tracker its address?"),
        ("bugzilla", 200, JSON, r#"{"bugs":[],"faults":[]}"#, "asked for bug 35 and sent 0"),
        (
            "bugzilla",
            200,
            JSON,
            r#"{"bugs":[{"id":36,"last_change_time":"2026-11-26T10:00:00Z"}]}"#,
            "answered with another one",
        ),
        ("bugzilla", 200, JSON, r#"{"bugs":[{"id":35}]}"#, "does not say when bug 35 last changed"),
        ("github", 404, HTML, "<h1>Not Found</h1>", "is tracker its address?"),
        ("github", 403, "X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 1795694500\r\n", "{}", "asked too often (403"),
        (
            "github",
            403,
            JSON,
            r#"{"message":"Resource not accessible"}"#,
            "without a login (403: Resource not accessible)",
        ),
        ("gitlab", 404, JSON, r#"{"error":"404 Not Found"}"#, "is not that of its API (404"),
        (
            "gitea",
            200,
            JSON,
            r#"{"id":35,"number":"35","updated_at":"2026-11-26T10:00:00Z"}"#,
            "answered with another one",
        ),
        ("redmine", 404, HTML, "", "is tracker its address?"),
        ("redmine", 401, HTML, "<form action=login>", "without a login (401)"),
        ("redmine", 422, JSON, r#"{"errors":["Updated is invalid"]}"#, "is not that of its API (422"),
    ] {
        let (found, _, recovered) = look(preset, status, headers, body).await;
        let reason = found.reason.unwrap_or_default();
        assert_eq!(found.outcome, Outcome::Failed(ErrorClass::Tracker), "{preset} {status} {body}");
        assert!(reason.contains(want), "{preset} {status} {body}: {reason}");
        assert!(!recovered);
    }
}

#[tokio::test]
async fn an_issue_that_was_moved_is_not_visible_here() {
    let server = Server::start(|got| match got.path() {
        "/api/v3/repos/o/r/issues/35" => Reply::full(301, "Location: /api/v3/repositories/7/issues/8\r\n", "{}"),
        "/api/v3/repos/o/r/issues/36" => Reply::full(301, "Location: /api/v3/repositories/7/issues/36\r\n", "{}"),
        path => {
            let number: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
            Reply::json(200, &serde_json::json!({"number": number, "updated_at": "2026-11-26T10:00:00Z"}))
        }
    })
    .await;
    let asker = asker(&source("github", &format!("tracker = \"{}\"", server.url("/o/r"))), &TestClock::noon());
    assert_eq!(asker.look("default", bug(35), NOON_US, WITHIN).await.outcome, Outcome::NotVisible);
    assert_eq!(asker.look("default", bug(36), NOON_US, WITHIN).await.outcome, Outcome::Visible, "renamed only");
}

#[tokio::test]
async fn one_look_serves_all_that_was_received_before_it() {
    let server = Server::start(|got| {
        let id: u64 = got.path().rsplit('/').next().unwrap().parse().unwrap();
        match id {
            35 => Reply::json(200, &serde_json::json!({"bugs":[{"id":35,"last_change_time":"2026-11-26T10:00:00Z"}]})),
            _ => Reply::json(404, &serde_json::json!({"error":true,"code":101})),
        }
    })
    .await;
    let clock = TestClock::noon();
    let asker = Arc::new(asker(&source("bugzilla", &format!("tracker = \"{}\"", server.url(""))), &clock));
    let look = |number, received| {
        let asker = Arc::clone(&asker);
        async move { asker.look("default", bug(number), received, WITHIN).await.outcome }
    };
    let (one, two, three) = tokio::join!(look(35, NOON_US), look(35, NOON_US - 1), look(35, NOON_US));
    assert_eq!([one, two, three], [Outcome::Visible, Outcome::Visible, Outcome::Visible]);
    assert_eq!(server.got().len(), 1, "one question for three");
    clock.advance(1);
    look(35, clock.now_us()).await;
    assert_eq!(server.got().len(), 2, "received later");
    look(36, NOON_US).await;
    look(36, NOON_US).await;
    assert_eq!(server.got().len(), 4, "that it is not visible is asked again");
}

#[tokio::test]
async fn a_tracker_that_changes_its_mind_is_believed_each_time() {
    let server = Server::start(|got| {
        let reply = match got.connection % 2 {
            0 => Reply::json(404, &serde_json::json!({"message": "404 Not found"})),
            _ => Reply::json(
                200,
                &serde_json::json!({"iid": 35, "updated_at": "2026-11-26T10:00:00.0Z", "confidential": false}),
            ),
        };
        let Reply::Bytes(bytes) = reply else { panic!() };
        Reply::Last(bytes)
    })
    .await;
    let clock = TestClock::noon();
    let asker = asker(&source("gitlab", &format!("tracker = \"{}\"", server.url("/o/r"))), &clock);
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        clock.advance(61);
        outcomes.push(asker.look("default", bug(35), clock.now_us(), WITHIN).await.outcome);
    }
    use Outcome::{NotVisible, Visible};
    assert_eq!(outcomes, [NotVisible, Visible, NotVisible, Visible]);
}

#[tokio::test]
async fn a_key_is_never_shown_for_a_look() {
    let server = Server::start(|_| Reply::full(500, "", "")).await;
    let members = format!(
        "tracker = \"{}\"\ntracker_key_file = \"/nonexistent/key\"\nreconcile_as_key = true\nreconcile = \"5m\"\nverify = true",
        server.url("")
    );
    let source = source("bugzilla", &members);
    assert_eq!(source.tracker_key_file, Some(PathBuf::from("/nonexistent/key")));
    let asker = asker(&source, &TestClock::noon());
    asker.look("default", bug(35), NOON_US, WITHIN).await;
    assert_eq!(server.got().len(), 1, "the file was not even read");
    assert_eq!(server.got()[0].header("x-bugzilla-api-key"), None);
}

#[tokio::test]
async fn the_senders_own_list() {
    let body = r#"{"webhooks":[
        {"id":1,"creator":"a@b","name":"mine","url":"https://bf.example.org/hooks/s","event":"create","product":"Any",
         "component":"Any","enabled":true,"errors":0},
        {"id":2,"name":"off","url":"https://bf.example.org/h/s/bf_secret_key","enabled":false,"errors":"17"},
        {"id":3,"name":"elsewhere","url":"https://other.example.org/","enabled":1,"errors":3}]}"#;
    let server = Server::start(move |got| match got.header("x-bugzilla-api-key") {
        Some("the-key") => Reply::full(200, "", body),
        _ => Reply::full(400, "", r#"{"error":true,"code":306,"message":"The API key you specified is invalid."}"#),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let members = format!("tracker = \"{}\"\ntracker_key_file = {file:?}", server.url(""));
    let asker = asker(&source("bugzilla", &members), &TestClock::noon());
    let reason = asker.sender_hooks().await.unwrap_err().reason;
    assert!(reason.contains("cannot be used"), "{reason}");
    std::fs::write(&file, "wrong").unwrap();
    let reason = asker.sender_hooks().await.unwrap_err().reason;
    assert_eq!(reason, "the tracker refuses the key in tracker_key_file, or has no webhooks");
    std::fs::write(&file, "the-key\n").unwrap();
    let hooks = asker.sender_hooks().await.unwrap();
    let hooks: Vec<_> = hooks.iter().map(|hook| (hook.id, hook.name.as_str(), hook.enabled, hook.backlog)).collect();
    assert_eq!(hooks, [(1, "mine", true, 0), (2, "off", false, 17)]);
    assert_eq!(server.got()[0].target, "/rest/webhooks/list");
}
