//! Why a tracker's answer is none, in words for people; and the parts of an answer that all trackers share.
//!
//! Goes in: a response or a fault. Comes out: JSON of the expected form, a time, or a [`Trouble`]. Nothing of a body is
//! repeated in a trouble, except the tracker's own message, cut and without control characters.

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::breaker::Answer;
use bugfeed_core::hooks::event::ErrorClass;
use bugfeed_protocol::When;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Fault, Response};

/// A tracker that wishes not to be asked, without saying for how long, is left alone for so long.
const LATER_US: i64 = 60 * SECOND_US;
/// At most so many characters of a tracker's message are repeated.
const LONGEST_MESSAGE: usize = 200;

/// Why nothing was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whose fault it is: `tracker`, or `ours` where a name cannot be looked up.
    pub class: ErrorClass,
    /// What happened and, where somebody can do something, what to do; a sentence without full stop.
    pub reason: String,
    /// What the circuit breaker is told.
    pub answer: Answer,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Trouble {}

impl Trouble {
    /// The tracker does not do what it should.
    pub(super) fn fault(reason: impl Into<String>) -> Trouble {
        Trouble { class: ErrorClass::Tracker, reason: reason.into(), answer: Answer::Fault }
    }

    /// The tracker works, but this question has no answer.
    pub(super) fn refused(reason: impl Into<String>) -> Trouble {
        Trouble { answer: Answer::Fine, ..Trouble::fault(reason) }
    }

    /// The tracker wishes not to be asked for so long, in microseconds.
    pub(super) fn later(wish_us: Option<i64>, reason: impl Into<String>) -> Trouble {
        Trouble { answer: Answer::Later(wish_us.unwrap_or(LATER_US)), ..Trouble::fault(reason) }
    }

    /// Something on this machine.
    pub(super) fn ours(reason: impl Into<String>) -> Trouble {
        Trouble { class: ErrorClass::Ours, ..Trouble::refused(reason) }
    }

    pub(super) fn of_fault(fault: &Fault) -> Trouble {
        let class = if fault.is_ours() { ErrorClass::Ours } else { ErrorClass::Tracker };
        Trouble { class, ..Trouble::fault(fault.to_string()) }
    }

    /// What a response means that is none of those that the tracker's own rules explain.
    pub(super) fn of_response(response: &Response, now_us: i64) -> Trouble {
        let status = response.status.as_u16();
        let message = message(response).map(|message| format!(": {message}")).unwrap_or_default();
        let wish_us = response.retry_after_us(now_us);
        let is_limit = rate_limit_us(response, now_us).is_some() || message.to_ascii_lowercase().contains("rate limit");
        match status {
            429 => Trouble::later(wish_us.or(rate_limit_us(response, now_us)), "the tracker is asked too often (429)"),
            400 | 403 if is_limit => {
                let wish_us = wish_us.or(rate_limit_us(response, now_us));
                Trouble::later(wish_us, format!("the tracker is asked too often ({status}{message})"))
            }
            408 | 425 => Trouble::fault(format!("the tracker gave up ({status})")),
            503 if wish_us.is_some() => Trouble::later(wish_us, "the tracker is away for a while (503)"),
            500.. => Trouble::fault(format!("the tracker failed ({status}{message})")),
            300..=399 => Trouble::fault(format!(
                "the tracker redirects to {}; set tracker to the address to which it leads",
                redirect(response)
            )),
            401 | 403 => Trouble::fault(format!("the tracker shows nothing without a login ({status}{message})")),
            _ => Trouble::fault(format!(
                "the tracker's answer is not that of its API ({status}, {}{message}); is tracker its address?",
                content_type(response)
            )),
        }
    }
}

/// Reads JSON of this form.
pub(super) fn json<T: DeserializeOwned>(response: &Response) -> Result<T, Trouble> {
    serde_json::from_slice(&response.body).map_err(|error| {
        let what = content_type(response);
        match error.classify() {
            // serde's own message would repeat what the tracker sent.
            serde_json::error::Category::Data => {
                let (line, column) = (error.line(), error.column());
                Trouble::fault(format!("the tracker's JSON has another form (line {line}, column {column})"))
            }
            _ => Trouble::fault(format!("the tracker's answer is no JSON ({what}); is tracker its address?")),
        }
    })
}

/// The response's JSON, if it is an object. For answers that explain an error.
pub(super) fn object(response: &Response) -> Option<Value> {
    // An explanation is short. What is longer is none.
    let value: Value = serde_json::from_slice(response.body.get(..16 * 1024).unwrap_or(&response.body)).ok()?;
    value.is_object().then_some(value)
}

/// What the tracker says about an error.
fn message(response: &Response) -> Option<String> {
    let object = object(response)?;
    let text = ["message", "error_description", "error"].iter().find_map(|name| object.get(name)?.as_str())?;
    let text: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect();
    (!text.is_empty()).then_some(text)
}

/// The media type, for people.
fn content_type(response: &Response) -> String {
    let found = response.header("content-type").and_then(|value| value.split(';').next()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/+-.".contains(c);
    if found.is_empty() || found.len() > 60 || !found.chars().all(plain) {
        return "of no known type".to_owned();
    }
    found.to_owned()
}

/// Where a redirect leads, without path and query.
fn redirect(response: &Response) -> String {
    let location = response.header("location").unwrap_or_default();
    match crate::client::Address::parse(location) {
        Ok(address) => address.origin().to_string(),
        Err(_) => "another path".to_owned(),
    }
}

/// How long a used up limit lasts, as `X-RateLimit-Reset` (GitHub, Gitea) or `RateLimit-Reset` (GitLab) says: seconds since
/// 1970.
fn rate_limit_us(response: &Response, now_us: i64) -> Option<i64> {
    let header = |name: &str| response.header(name).and_then(|text| text.trim().parse::<i64>().ok());
    let remaining = header("x-ratelimit-remaining").or_else(|| header("ratelimit-remaining"))?;
    if remaining > 0 {
        return None;
    }
    let reset = header("x-ratelimit-reset").or_else(|| header("ratelimit-reset"))?;
    let from_us = response.date().map_or(now_us, When::as_micros);
    Some(reset.checked_mul(SECOND_US)?.saturating_sub(from_us).max(SECOND_US))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::StatusCode;
    use hyper::header::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn response(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Response {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        Response { status, headers, body: Bytes::from_static(body.as_bytes()), is_cut: false, redirects: 0 }
    }

    #[test]
    fn wishes() {
        let now_us = 784_111_777 * SECOND_US; // Sun, 06 Nov 1994 08:49:37 GMT
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (status, headers, want) in [
            (429, &[][..], Answer::Later(60 * SECOND_US)),
            (429, &[("retry-after", "120")], Answer::Later(120 * SECOND_US)),
            (429, &[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")], Answer::Later(60 * SECOND_US)),
            (429, &[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], Answer::Later(0)),
            (429, &[("retry-after", "soon")], Answer::Later(60 * SECOND_US)),
            (503, &[("retry-after", "5")], Answer::Later(5 * SECOND_US)),
            (503, &[], Answer::Fault),
            (
                403,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "784111877"), date],
                Answer::Later(100 * SECOND_US),
            ),
            (403, &[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", "784111877")], Answer::Fault),
            (500, &[], Answer::Fault),
            (302, &[("location", "https://example.org/login?secret")], Answer::Fault),
        ] {
            assert_eq!(
                Trouble::of_response(&response(status, headers, ""), now_us).answer,
                want,
                "{status} {headers:?}"
            );
        }
        let limit = response(400, &[], r#"{"error":true,"message":"Rate limit exceeded"}"#);
        assert_eq!(Trouble::of_response(&limit, now_us).answer, Answer::Later(60 * SECOND_US));
    }

    #[test]
    fn reasons_repeat_no_body_but_the_message() {
        let html = response(404, &[("content-type", "text/html; charset=utf-8")], "<p>secret</p>");
        let reason = Trouble::of_response(&html, 0).reason;
        assert_eq!(reason, "the tracker's answer is not that of its API (404, text/html); is tracker its address?");
        let message = response(500, &[], "{\"message\":\"no\\nspace\",\"trace\":\"secret\"}");
        assert_eq!(Trouble::of_response(&message, 0).reason, "the tracker failed (500: nospace)");
        let redirect = response(301, &[("location", "https://new.example/login?secret")], "");
        let reason = Trouble::of_response(&redirect, 0).reason;
        assert!(reason.contains("https://new.example;") && !reason.contains("secret"), "{reason}");
    }

    #[test]
    fn the_servers_time() {
        let date = response(200, &[("date", "Sun, 06 Nov 1994 08:49:37 GMT")], "");
        assert_eq!(date.date().unwrap().to_string(), "1994-11-06T08:49:37");
        assert_eq!(response(200, &[("date", "yesterday")], "").date(), None);
    }
}
