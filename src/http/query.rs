//! What a client served over plain HTTP asks for.
//!
//! Goes in: a request whose parameters are in the query, or, where they are too long for a URL, in a form in the body.
//! Comes out: the commands that a WebSocket client would send, or an answer that says what is wrong.

use std::time::Duration;

use axum::Json;
use axum::body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_protocol::client::{Command, HEARTBEAT_S, Resume, errors};
use bugfeed_protocol::{BugId, Cursor, When};

use crate::hub::Feed;

/// How long the body of a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a long-poll may wait, in seconds: many proxies give up on an answer after 60.
pub const MAX_WAIT_S: u64 = 60;

/// The parameters, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Query {
    /// Ascending, each once.
    pub bugs: Vec<BugId>,
    /// Where there is no cursor.
    pub since: Option<When>,
    /// What the client has been sent already.
    pub resume: Option<Resume>,
    /// How often a heartbeat is wanted, in seconds.
    pub heartbeat_s: Option<u64>,
    /// How long an answer may wait for a change.
    pub wait: Duration,
}

impl Query {
    /// The command that subscribes.
    pub fn subscribe(&self) -> Command {
        Command::Subscribe { bugs: self.bugs.clone(), since: self.since, resume: self.resume.clone() }
    }
}

/// Reads the parameters of a request for `feed`.
///
/// # Errors
/// The answer to give.
pub async fn read(feed: &Feed, request: Request) -> Result<Query, Box<Response>> {
    let (head, body) = request.into_parts();
    let bytes = if head.method == Method::POST {
        let reading = tokio::time::timeout(BODY_TIMEOUT, body::to_bytes(body, feed.message_bytes()));
        match reading.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long, or broke off")),
            Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the form did not arrive in time")),
        }
    } else {
        body::Bytes::new()
    };
    let query = head.uri.query().unwrap_or_default().as_bytes();
    let pairs = form_urlencoded::parse(query).chain(form_urlencoded::parse(&bytes));
    let mut query = parse(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())), feed.max_bugs())
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, &error))?;
    // EventSource comes back with the URL it had, and tells what it has seen meanwhile.
    if let Some(seen) = head.headers.get("last-event-id").filter(|seen| !seen.is_empty()) {
        query.resume = Some(resume(seen.to_str().unwrap_or_default()));
    }
    Ok(query)
}

/// An answer that says what is wrong.
pub fn refuse(status: StatusCode, error: &str) -> Box<Response> {
    let body = Json(serde_json::json!({ "error": error }));
    Box::new((status, [(header::CACHE_CONTROL, "no-store")], body).into_response())
}

/// The answer to a client that comes before the feed is current for the first time.
pub fn not_ready() -> Response {
    let refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, "not ready yet: reading history; try again");
    ([(header::RETRY_AFTER, "2")], *refusal).into_response()
}

fn resume(text: &str) -> Resume {
    Cursor::parse(text).map_or(Resume::Unreadable, Resume::From)
}

/// Parameters that are not known are ignored; of one that is given twice the last one counts, but lists of bugs add up.
fn parse(pairs: impl Iterator<Item = (String, String)>, max_bugs: usize) -> Result<Query, String> {
    let mut bugs = None;
    let mut query = Query { bugs: Vec::new(), since: None, resume: None, heartbeat_s: None, wait: Duration::ZERO };
    for (name, value) in pairs {
        let value = value.trim();
        match name.as_str() {
            "bugs" => read_bugs(value, bugs.get_or_insert_default())?,
            "since" if value.is_empty() => query.since = None,
            "since" => query.since = Some(When::parse_utc(value).map_err(|_| errors::INVALID_SINCE)?),
            "cursor" => query.resume = (!value.is_empty()).then(|| resume(value)),
            "heartbeat" => {
                let seconds: u64 = value.parse().map_err(|_| errors::INVALID_HEARTBEAT)?;
                query.heartbeat_s = Some(seconds.clamp(*HEARTBEAT_S.start(), *HEARTBEAT_S.end()));
            }
            "wait" => {
                let seconds = value.parse().ok().filter(|&seconds| seconds <= MAX_WAIT_S);
                let wrong = || format!("invalid wait; must be a number of seconds from 0 to {MAX_WAIT_S}");
                query.wait = Duration::from_secs(seconds.ok_or_else(wrong)?);
            }
            _ => {}
        }
    }
    query.bugs = bugs.ok_or_else(|| format!("{}, such as ?bugs=1234,5678", errors::MISSING_BUGS))?;
    query.bugs.sort_unstable();
    query.bugs.dedup();
    if query.bugs.len() > max_bugs {
        return Err(format!("{}: {} bugs, at most {max_bugs}", errors::TOO_MANY, query.bugs.len()));
    }
    Ok(query)
}

fn read_bugs(text: &str, bugs: &mut Vec<BugId>) -> Result<(), String> {
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let bug = part.parse().map_err(|_| {
            let part: String = part.chars().take(40).collect();
            format!("{}: '{part}'", errors::INVALID_BUG)
        })?;
        bugs.push(bug);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, String> {
        let pairs = form_urlencoded::parse(text.as_bytes());
        parse(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())), 5)
    }

    fn bugs(numbers: &[u64]) -> Vec<BugId> {
        numbers.iter().map(|&number| BugId::new(number).unwrap()).collect()
    }

    #[test]
    fn parameters_that_are_understood() {
        let plain = |numbers: &[u64]| Query {
            bugs: bugs(numbers),
            since: None,
            resume: None,
            heartbeat_s: None,
            wait: Duration::ZERO,
        };
        let cursor = Cursor::parse("E.42").unwrap();
        for (text, want) in [
            ("bugs=1234,5678", plain(&[1234, 5678])),
            ("bugs=5678%2C1234&x=y", plain(&[1234, 5678])),
            ("bugs=2,+1,,2,&bugs=3", plain(&[1, 2, 3])),
            ("bugs=", plain(&[])),
            ("bugs=1&cursor=&since=", plain(&[1])),
            ("bugs=1&cursor=E.42", Query { resume: Some(Resume::From(cursor)), ..plain(&[1]) }),
            ("bugs=1&cursor=unknown", Query { resume: Some(Resume::Unreadable), ..plain(&[1]) }),
            ("bugs=1&since=2014-04-03", Query { since: When::parse_utc("2014-04-03").ok(), ..plain(&[1]) }),
            (
                "bugs=1&wait=30&heartbeat=0",
                Query { wait: Duration::from_secs(30), heartbeat_s: Some(1), ..plain(&[1]) },
            ),
        ] {
            assert_eq!(query(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn parameters_that_are_refused_with_what_would_be_right() {
        for (text, want) in [
            ("", "missing mandatory arg: 'bugs', such as ?bugs=1234,5678"),
            ("bug=1", "missing mandatory arg: 'bugs', such as ?bugs=1234,5678"),
            ("bugs=1,x", "invalid bug id; must be integer: 'x'"),
            ("bugs=-1", "invalid bug id; must be integer: '-1'"),
            ("bugs=0", "invalid bug id; must be integer: '0'"),
            ("bugs=1,2,3,4,5,6", "too many subscriptions: 6 bugs, at most 5"),
            ("bugs=1&wait=61", "invalid wait; must be a number of seconds from 0 to 60"),
            ("bugs=1&wait=soon", "invalid wait; must be a number of seconds from 0 to 60"),
            ("bugs=1&heartbeat=often", errors::INVALID_HEARTBEAT),
            ("bugs=1&since=soon", errors::INVALID_SINCE),
        ] {
            assert_eq!(query(text), Err(want.to_owned()), "{text}");
        }
    }
}
