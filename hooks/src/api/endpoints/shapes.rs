//! Endpoints and attempts as JSON. openapi.yaml has the same shapes, and a test compares them.
//!
//! Path and query of URLs, values of headers, texts of templates, bodies and responses may hold secrets: they are shown to
//! whoever has the scope `raw`, and masked for everybody else. The secret of an endpoint is in no shape.

use bugfeed_core::endpoints::policy::{Bar, State};
use bugfeed_core::endpoints::question::Watch;
use bugfeed_core::endpoints::row::Row;
use serde_json::{Map, Value, json};

use crate::api::shapes::{MASK, at, maybe_at};
use crate::client::Address;
use crate::deliver::template::has_placeholder;
use crate::endpoints::cause::{Hidden, cause};
use crate::endpoints::to_second;
use crate::receive::received::RequestId;
use crate::store::endpoints::{AttemptRow, FeedChoice, Settings, Stored};

/// What is said of an endpoint that has nothing amiss.
pub(super) const WELL: &str = "all is well";

/// So many bugs of an endpoint are shown in a list.
const SOME_BUGS: usize = 20;

/// An endpoint, as it is in lists: with a few of its bugs.
pub(super) fn listed(stored: &Stored, is_raw: bool, now_us: i64) -> Value {
    let mut shape = endpoint(stored, is_raw, now_us);
    if let Value::Array(bugs) = &mut shape["bugs"] {
        bugs.truncate(SOME_BUGS);
    }
    shape
}

/// An endpoint.
pub(super) fn endpoint(stored: &Stored, is_raw: bool, now_us: i64) -> Value {
    let (settings, row) = (&stored.settings, &stored.row);
    let (health, policy) = (&row.health, row.policy);
    let headers: Map<String, Value> = match is_raw {
        true => settings.headers.expose().map(|(name, value)| (name.to_owned(), json!(value))).collect(),
        false => settings.headers.masked().map(|(name, value)| (name.to_owned(), json!(value))).collect(),
    };
    let cursors: Map<String, Value> =
        row.lines.iter().map(|line| (line.feed.to_string(), cursor(row, &line.feed))).collect();
    let only = match row.lines.as_slice() {
        [line] => cursor(row, &line.feed),
        _ => Value::Null,
    };
    let old_until_us = settings.previous.as_ref().map(|(_, until_us)| *until_us).filter(|until_us| *until_us > now_us);
    let is_executable = !row.paused && health.is_executable(policy, now_us);
    json!({
        "id": stored.id.as_str(),
        "url": url(&settings.url, is_raw),
        "feeds": feeds(&settings.feeds),
        "bugs": bugs(&row.watch),
        "bug_count": bug_count(&row.watch),
        "policy": policy.as_str(),
        "rate": row.rate,
        "template": template(settings, is_raw),
        "headers": headers,
        "description": settings.description,
        "state": row.state(now_us).as_str(),
        "reason": health.disabled(policy).map(Bar::as_str),
        "says": says(row, now_us),
        "recent_failures": health.recent_failures,
        "backoff_count": health.backoff_count,
        "disabled_until": maybe_at(health.disabled_until_us),
        "next_try": maybe_at(next_try_us(row, now_us)),
        "executable": is_executable,
        "cursors": cursors,
        "cursor": only,
        "orders": row.wishes.len(),
        "old_secret_until": maybe_at(old_until_us),
        "created": at(settings.created_us),
    })
}

/// A URL. Without path and query, where these are not shown.
pub(in crate::api) fn url(text: &str, is_raw: bool) -> String {
    if is_raw {
        return text.to_owned();
    }
    match Address::parse(text) {
        Ok(address) if address.target() == "/" => format!("{}/", address.origin()),
        Ok(address) => format!("{}/{MASK}", address.origin()),
        Err(_) => MASK.to_owned(),
    }
}

pub(super) fn feeds(choice: &FeedChoice) -> Value {
    match choice {
        FeedChoice::All => json!("all"),
        FeedChoice::Named(names) => names.iter().map(|name| json!(&**name)).collect(),
    }
}

fn bugs(watch: &Watch) -> Value {
    match watch {
        Watch::All => json!("all"),
        Watch::Bugs(bugs) => bugs.iter().map(|bug| json!(bug.get())).collect(),
    }
}

/// How many bugs are named; null of all.
pub(super) fn bug_count(watch: &Watch) -> Option<usize> {
    match watch {
        Watch::All => None,
        Watch::Bugs(bugs) => Some(bugs.len()),
    }
}

fn cursor(row: &Row, feed: &str) -> Value {
    row.cursor(feed).map_or(Value::Null, |cursor| json!(cursor.to_string()))
}

/// The name of a chat, or the object.
fn template(settings: &Settings, is_raw: bool) -> Value {
    let Some(text) = &settings.template else { return Value::Null };
    match serde_json::from_str(text) {
        Ok(object) if is_raw => object,
        Ok(object) => without_texts(object),
        Err(_) => json!(text),
    }
}

/// The same with its placeholders, but without other texts.
fn without_texts(value: Value) -> Value {
    match value {
        Value::String(text) if has_placeholder(&text) => json!(text),
        Value::String(_) => json!(MASK),
        Value::Array(list) => list.into_iter().map(without_texts).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, without_texts(value))).collect(),
        other => other,
    }
}

/// When a failing endpoint is sent to again at the latest.
fn next_try_us(row: &Row, now_us: i64) -> Option<i64> {
    let health = &row.health;
    match row.state(now_us) {
        State::Cooling => health.disabled_until_us,
        State::Active => health.again_us.filter(|again_us| *again_us > now_us),
        State::Disabled | State::Paused => None,
    }
}

/// How an endpoint is, in a sentence.
pub(super) fn says(row: &Row, now_us: i64) -> String {
    let health = &row.health;
    let time = |us: Option<i64>| us.map_or(String::new(), to_second);
    match (row.state(now_us), health.disabled(row.policy)) {
        (State::Paused, _) => "a person has paused it: `bugfeed endpoints resume` lets it go on".to_owned(),
        (State::Disabled, Some(Bar::Gone)) => "it answered 410 (gone): enable it if that was a mistake".to_owned(),
        (State::Disabled, Some(Bar::Forbidden)) => {
            "nothing may be sent to the address in its URL: change the URL, or allow the network, then enable it"
                .to_owned()
        }
        (State::Disabled, Some(Bar::Nameless)) => {
            "its name has had no permitted address for 24 h: mend the name, then enable it".to_owned()
        }
        (State::Disabled, _) => {
            format!("{} failures: mend the receiver, then test or enable it", health.recent_failures)
        }
        (State::Cooling, _) => format!("it failed, and is tried again after {}", time(health.disabled_until_us)),
        (State::Active, _) if health.again_us.is_some_and(|again_us| again_us > now_us) => {
            format!("the last attempt failed; the next one is with the next change, or after {}", time(health.again_us))
        }
        (State::Active, _) if !health.is_clean() => "the last attempt failed; the next one is due".to_owned(),
        (State::Active, _) => WELL.to_owned(),
    }
}

/// An attempt.
/// `hidden`: the secrets of its endpoint, as far as they are known.
pub(super) fn attempt(row: &AttemptRow, is_raw: bool, hidden: Option<&Hidden>) -> Value {
    let error = match hidden {
        Some(hidden) => cause(row, hidden),
        None => row.error.clone(),
    };
    json!({
        "id": RequestId(row.id).to_string(),
        "endpoint": row.endpoint.as_str(),
        "direction": "outbound",
        "feed": row.feed,
        "trigger": row.trigger.as_str(),
        "begun": at(row.begun_us),
        "took_ms": row.took_us / 1000,
        "ok": is_success(row),
        "status": row.status,
        "fault": row.fault,
        "error": error,
        "response": text(&row.response, is_raw),
        "webhook_id": row.webhook_id,
        "counts": row.counts,
    })
}

/// An attempt with what was sent.
pub(super) fn attempt_detail(row: &AttemptRow, is_raw: bool, hidden: Option<&Hidden>) -> Value {
    let mut shape = attempt(row, is_raw, hidden);
    shape["content_type"] = json!(row.content_type);
    shape["request"] = json!(text(&row.request, is_raw));
    shape
}

pub(super) fn is_success(row: &AttemptRow) -> bool {
    row.status.is_some_and(|status| (200..300).contains(&status))
}

fn text(text: &str, is_raw: bool) -> &str {
    if is_raw || text.is_empty() { text } else { MASK }
}

#[cfg(test)]
mod tests {
    use bugfeed_core::endpoints::policy::{Health, Outcome, Policy};

    use super::*;

    #[test]
    fn urls_show_their_server() {
        for (text, want) in [
            ("https://h.example", "https://h.example/"),
            ("https://h.example:8443/", "https://h.example:8443/"),
            ("https://h.example/hooks/s3cret", "https://h.example/…"),
            ("http://[::1]:80/?token=s3cret", "http://[::1]/…"),
            ("s3cret", "…"),
        ] {
            assert_eq!(url(text, false), want);
            assert_eq!(url(text, true), text);
        }
    }

    #[test]
    fn a_template_shows_its_placeholders_and_no_other_text() {
        let value = json!({ "text": "Bug {bug}", "token": "s3cret{", "list": ["{s3cret}", 1, null] });
        assert_eq!(without_texts(value), json!({ "text": "Bug {bug}", "token": "…", "list": ["…", 1, null] }));
    }

    #[test]
    fn each_state_is_said_in_words() {
        let row = |policy, paused, outcomes: &[Outcome]| {
            let mut row = Row::new(policy, Watch::All, ["default".into()]);
            row.paused = paused;
            let mut health = Health::default();
            for outcome in outcomes {
                health.count(policy, *outcome, 1_000_000);
            }
            row.health = health;
            says(&row, 2_000_000)
        };
        for (paused, outcomes, want) in [
            (false, &[][..], "all is well"),
            (true, &[], "paused"),
            (false, &[Outcome::Refused], "with the next change, or after 1970-01-01 01:00:01 UTC"),
            (false, &[Outcome::Refused; 4], "4 failures"),
            (false, &[Outcome::Fault], "tried again after 1970-01-01 00:10:01 UTC"),
            (false, &[Outcome::Gone], "410"),
            (false, &[Outcome::Forbidden], "allow the network"),
        ] {
            let told = row(Policy::Classic, paused, outcomes);
            assert!(told.contains(want), "{outcomes:?}: {told}");
        }
    }
}
