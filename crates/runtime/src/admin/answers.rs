//! What the admin port says of the process's health: as text for people and probes, as JSON for programs, and the page
//! `/status`.
//!
//! Goes in: health, and facts about the process. Comes out: answers. Everything that others may have written is escaped, and
//! the page loads nothing.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_protocol::When;
use serde_json::{Value, json};

use crate::health::{FeedState, Health};

/// The page may load nothing, be framed by nobody, and send nothing.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What a role tells of itself on `/status`: an object, or nothing.
pub type Facts = Arc<dyn Fn() -> Value + Send + Sync>;

/// Who answers.
#[derive(Clone)]
pub(super) struct Whose {
    pub(super) health: Health,
    pub(super) role: &'static str,
    pub(super) facts: Option<Facts>,
    pub(super) begun: SystemTime,
}

/// Whether JSON is asked for: by `?format=json`, or by a header `Accept` that names it.
pub(super) fn wants_json(request: &Request) -> bool {
    let by_query = request.uri().query().is_some_and(|query| query.split('&').any(|one| one == "format=json"));
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    by_query || accept.is_some_and(|accept| accept.split(',').any(|one| one.trim().starts_with("application/json")))
}

/// The answer of `/livez`.
pub(super) fn alive(health: &Health, json: bool) -> Response {
    let troubles = health.watchdog().look();
    let status = if troubles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if json {
        let stuck = troubles.iter().map(|trouble| json!({ "part": trouble.part, "reason": trouble.reason }));
        return object(status, &json!({ "alive": troubles.is_empty(), "stuck": stuck.collect::<Vec<_>>() }));
    }
    let lines = troubles.iter().map(|trouble| format!("{}: {}", trouble.part, trouble.reason));
    text(status, if troubles.is_empty() { "alive" } else { "stuck" }, lines)
}

/// The answer of `/readyz`.
pub(super) fn ready(health: &Health, json: bool) -> Response {
    let report = health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if json {
        return object(status, &json!({ "ready": report.ready, "reasons": report.lines }));
    }
    text(status, if report.ready { "ready" } else { "not ready" }, report.lines.into_iter())
}

/// The answer of `/status`.
pub(super) fn status(whose: &Whose, json: bool) -> Response {
    let facts = facts(whose);
    if json {
        return object(StatusCode::OK, &facts);
    }
    let mut page =
        String::from("<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><title>bugfeed</title><h1>bugfeed ");
    escape(&mut page, whose.role);
    page.push_str("</h1>");
    show(&mut page, &facts);
    page.push_str("</html>\n");
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, page).into_response()
}

fn text(status: StatusCode, word: &str, lines: impl Iterator<Item = String>) -> Response {
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    (status, format!("{word}\n{lines}")).into_response()
}

fn object(status: StatusCode, value: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, format!("{value}\n")).into_response()
}

fn facts(Whose { health, role, facts, begun }: &Whose) -> Value {
    let report = health.report();
    let troubles = health.watchdog().look();
    let stuck: Vec<String> = troubles.iter().map(|one| format!("{}: {}", one.part, one.reason)).collect();
    let mut told = json!({
        "role": role,
        "version": crate::VERSION,
        "begun": moment(*begun),
        "uptime_s": begun.elapsed().unwrap_or(Duration::ZERO).as_secs(),
        "alive": stuck.is_empty(),
        "stuck": stuck,
        "ready": report.ready,
        "reasons": report.lines,
        "feeds": feeds(health),
        "incidents": incidents(health),
    });
    if let (Some(Value::Object(more)), Value::Object(told)) = (facts.as_ref().map(|facts| facts()), &mut told) {
        told.extend(more);
    }
    told
}

fn feeds(health: &Health) -> Vec<Value> {
    let feed = |feed: crate::health::FeedReport| {
        let (state, reason) = match feed.state {
            FeedState::Up => ("up", None),
            FeedState::Starting(reason) => ("starting", Some(reason)),
            FeedState::Down(reason) => ("down", Some(reason)),
        };
        json!({ "feed": feed.name, "state": state, "since": moment(feed.since), "reason": reason, "notes": feed.notes })
    };
    health.feeds().into_iter().map(feed).collect()
}

fn incidents(health: &Health) -> Vec<Value> {
    let told = health.incidents();
    told.into_iter().map(|one| json!({ "at": moment(one.at), "part": one.part, "what": one.text })).collect()
}

fn moment(time: SystemTime) -> String {
    When::from_system_time(time).to_string()
}

/// A value as HTML: objects as tables, lists as lists.
fn show(page: &mut String, value: &Value) {
    match value {
        Value::Object(members) => {
            page.push_str("<table>");
            for (name, value) in members {
                page.push_str("<tr><th align=\"left\" valign=\"top\">");
                escape(page, name);
                page.push_str("</th><td>");
                show(page, value);
                page.push_str("</td></tr>");
            }
            page.push_str("</table>");
        }
        Value::Array(values) => {
            page.push_str("<ul>");
            for value in values {
                page.push_str("<li>");
                show(page, value);
                page.push_str("</li>");
            }
            page.push_str("</ul>");
        }
        Value::String(text) => escape(page, text),
        Value::Null => {}
        other => escape(page, &other.to_string()),
    }
}

fn escape(page: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '"' | '\'' => drop(write!(page, "&#{};", u32::from(letter))),
            letter => page.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};

    use super::*;

    async fn body(answer: Response) -> String {
        String::from_utf8(to_bytes(answer.into_body(), 100_000).await.unwrap().to_vec()).unwrap()
    }

    #[test]
    fn json_is_answered_to_who_asks_for_it() {
        let asks = |uri: &str, accept: Option<&str>| {
            let request = Request::builder().uri(uri);
            let request = accept.into_iter().fold(request, |request, accept| request.header("accept", accept));
            wants_json(&request.body(Body::empty()).unwrap())
        };
        assert!(asks("/readyz?format=json", None) && asks("/readyz", Some("text/html, application/json;q=0.9")));
        assert!(!asks("/readyz", None) && !asks("/readyz?format=text", Some("*/*")));
    }

    #[tokio::test]
    async fn reasons_are_told_as_json_too() {
        let health = Health::new();
        health.down("bus", "gone");
        let answer = ready(&health, true);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body(answer).await, "{\"ready\":false,\"reasons\":[\"bus: gone\"]}\n");
        drop(health.watchdog().pulse("shard 0"));
        let answer = alive(&health, true);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let want = "{\"alive\":false,\"stuck\":[{\"part\":\"shard 0\",\"reason\":\"dead: it has ended\"}]}\n";
        assert_eq!(body(answer).await, want);
    }

    #[tokio::test]
    async fn the_page_escapes_what_others_wrote_and_loads_nothing() {
        let health = Health::new();
        let _feed = health.feed("kde");
        health.down("bus", "<script>alert('x')</script>");
        let facts: Facts = Arc::new(|| json!({ "clients": 7 }));
        let whose = Whose { health, role: "gateway", facts: Some(facts), begun: SystemTime::now() };
        let answer = status(&whose, false);
        assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let page = body(answer).await;
        assert!(page.contains("&#60;script&#62;alert(&#39;x&#39;)"), "{page}");
        assert!(!page.contains("<script") && !page.contains("http"), "{page}");
        let told: Value = serde_json::from_str(&body(status(&whose, true)).await).unwrap();
        assert_eq!(
            (&told["role"], &told["clients"], &told["feeds"][0]["state"]),
            (&json!("gateway"), &json!(7), &json!("starting"))
        );
        assert_eq!(told["incidents"][0]["part"], "bus");
    }
}
