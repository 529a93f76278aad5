//! Trackers that are slow, broken, or lie: whatever they send is an error with a reason, and soon they are asked no more.

use std::time::Duration;

use bugfeed_core::hooks::event::ErrorClass;
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_core::hooks::reconcile::Question;
use bugfeed_protocol::{BugId, When};

use super::looks::path_of;
use super::{NOON_US, SECOND_US, TestClock, asker, source};
use crate::test_server::{Reply, Server};

const PRESETS: [&str; 5] = ["bugzilla", "github", "gitlab", "gitea", "redmine"];

fn replies() -> Vec<(&'static str, Reply)> {
    let json = |body: &str| Reply::full(200, "Content-Type: application/json\r\n", body);
    let deep = "[".repeat(100_000);
    vec![
        ("a page", Reply::html(200)),
        ("a page about an error", Reply::html(404)),
        ("a page about too many requests", Reply::html(429)),
        ("a failure", Reply::html(500)),
        ("nothing", json("")),
        ("half of it", json("{\"bugs\":[{\"id\":35,")),
        ("null", json("null")),
        ("a number", json("35")),
        ("a text", json("\"secret-word\"")),
        ("an empty object", json("{}")),
        ("other types", json(r#"{"bugs":{"id":35},"issue":[1],"issues":{},"number":{"x":"secret-word"},"iid":[35]}"#)),
        ("a list of nonsense", json("[1,2,3]")),
        ("a list of objects of nonsense", json(r#"[{"number":-1,"iid":1.5,"updated_at":"secret-word"}]"#)),
        ("deep nesting", json(&deep)),
        ("bytes", Reply::full(200, "", "\u{0}\u{1}\u{2}")),
        ("another protocol", Reply::Last(b"220 mail.example.org ESMTP\r\n".to_vec())),
        ("nothing at all", Reply::Close),
        ("a login page elsewhere", Reply::full(302, "Location: https://sso.example.org/?secret-word\r\n", "")),
        ("itself", Reply::full(302, "Location: ?again\r\n", "")),
    ]
}

#[tokio::test]
async fn no_lie_is_an_answer() {
    for preset in PRESETS {
        for (what, reply) in replies() {
            let server = Server::start(move |_| reply.clone()).await;
            let asker =
                asker(&source(preset, &format!("tracker = \"{}\"", server.url(path_of(preset)))), &TestClock::noon());
            let bug = BugId::new(35).unwrap();
            let found = asker.look("default", bug, NOON_US, Duration::from_secs(20)).await;
            assert_eq!(found.outcome, Outcome::Failed(ErrorClass::Tracker), "{preset}: {what}");
            let reason = found.reason.unwrap();
            assert!(!reason.contains("secret-word") && reason.len() < 400, "{preset}: {what}: {reason}");

            let question = Question { since: When::from_micros(NOON_US), after: None, page: 1 };
            let scope = asker.tracker().scopes()[0].clone();
            let trouble = asker.changed(&scope, &question).await.expect_err(&format!("{preset}: {what}"));
            assert!(!trouble.reason.contains("secret-word"), "{preset}: {what}: {trouble}");
        }
    }
}

#[tokio::test]
async fn lists_that_lie() {
    let old = r#"{"number":7,"iid":7,"id":7,"last_change_time":"2020-01-01T00:00:00Z","updated_at":"2020-01-01T00:00:00Z","updated_on":"2020-01-01T00:00:00Z"}"#;
    let unsorted = r#"{"number":9,"iid":9,"id":9,"last_change_time":"2026-11-26T13:00:00Z","updated_at":"2026-11-26T13:00:00Z","updated_on":"2026-11-26T13:00:00Z"},
        {"number":8,"iid":8,"id":8,"last_change_time":"2026-11-26T12:30:00Z","updated_at":"2026-11-26T12:30:00Z","updated_on":"2026-11-26T12:30:00Z"}"#;
    let many = vec![unsorted.split(",\n").next().unwrap(); 1001].join(",");
    for (preset, items, want) in [
        ("bugzilla", old, "sent bug 7 of 2020-01-01"),
        ("github", old, "sent bug 7 of 2020-01-01"),
        ("redmine", old, "sent bug 7 of 2020-01-01"),
        ("bugzilla", unsorted, "not sorted"),
        ("github", unsorted, "not sorted"),
        ("gitlab", unsorted, "not sorted"),
        ("redmine", unsorted, "not sorted"),
        ("bugzilla", many.as_str(), "asked for 1000 bugs and sent 1001"),
        ("gitea", many.as_str(), "asked for 50 bugs and sent 1001"),
    ] {
        let body = match preset {
            "bugzilla" => format!("{{\"bugs\":[{items}]}}"),
            "redmine" => format!("{{\"issues\":[{items}]}}"),
            _ => format!("[{items}]"),
        };
        let server = Server::start(move |got| match got.path() {
            "/rest/time" => Reply::full(200, "", r#"{"db_time":"2026-11-26T12:00:00Z"}"#),
            _ => Reply::full(200, "", &body),
        })
        .await;
        let asker =
            asker(&source(preset, &format!("tracker = \"{}\"", server.url(path_of(preset)))), &TestClock::noon());
        let question = Question { since: When::from_micros(NOON_US), after: None, page: 1 };
        let scope = asker.tracker().scopes()[0].clone();
        let trouble = asker.changed(&scope, &question).await.unwrap_err();
        assert!(trouble.reason.contains(want), "{preset}: {trouble}");
    }
}

#[tokio::test]
async fn a_slow_tracker_is_given_up_in_time() {
    let server = Server::start(|_| Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec())).await;
    let asker = asker(&source("bugzilla", &format!("tracker = \"{}\"", server.url(""))), &TestClock::noon());
    let found = asker.look("default", BugId::new(35).unwrap(), NOON_US, Duration::from_millis(50)).await;
    assert_eq!(found.outcome, Outcome::Failed(ErrorClass::Tracker));
    assert!(found.reason.unwrap().contains("within 0.05 s"));
    for _ in 0..4 {
        asker.look("default", BugId::new(35).unwrap(), NOON_US, Duration::from_millis(50)).await;
    }
    assert!(asker.breaker().is_open(), "those are faults");
}

#[tokio::test]
async fn a_tracker_that_is_away_is_asked_ever_more_rarely() {
    let server = Server::start(|_| Reply::html(500)).await;
    let clock = TestClock::noon();
    let asker = asker(&source("redmine", &format!("tracker = \"{}\"", server.url(""))), &clock);
    for number in 1..=300 {
        clock.advance(1);
        asker.look("default", BugId::new(number).unwrap(), clock.now_us(), Duration::from_secs(20)).await;
    }
    // Five faults open it; then after 10, 20, 40, 60, 60, 60 s.
    assert_eq!(server.got().len(), 5 + 6);
    let found = asker.look("default", BugId::new(1).unwrap(), clock.now_us(), Duration::from_secs(20)).await;
    assert!(found.reason.unwrap().contains("not asked just now"));
}

#[tokio::test]
async fn a_wish_is_granted() {
    let server = Server::start(|_| Reply::full(429, "Retry-After: 120\r\n", "")).await;
    let clock = TestClock::noon();
    let asker = asker(&source("gitea", &format!("tracker = \"{}\"", server.url("/o/r"))), &clock);
    let bug = BugId::new(35).unwrap();
    asker.look("default", bug, NOON_US, Duration::from_secs(20)).await;
    assert_eq!(asker.breaker().ask_from(clock.now_us()), NOON_US + 120 * SECOND_US);
    clock.advance(119);
    asker.look("default", bug, NOON_US, Duration::from_secs(20)).await;
    assert_eq!(server.got().len(), 1);
    clock.advance(1);
    asker.look("default", bug, NOON_US, Duration::from_secs(20)).await;
    assert_eq!(server.got().len(), 2);
}

#[tokio::test]
async fn a_name_that_cannot_be_looked_up_is_our_fault() {
    let asker = asker(&source("bugzilla", "tracker = \"http://bugs.invalid\""), &TestClock::noon());
    let found = asker.look("default", BugId::new(35).unwrap(), NOON_US, Duration::from_secs(20)).await;
    assert_eq!(found.outcome, Outcome::Failed(ErrorClass::Ours), "{:?}", found.reason);
}
