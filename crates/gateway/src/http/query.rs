//! What a client of the HTTP fallback (SSE, long-poll) asks for.
//!
//! Goes in: a request with its parameters in the query, or, if they are too long for a URL, in a form in the body.
//! Comes out: the commands that a WebSocket client would send, or an answer that says what is wrong.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_protocol::client::{Command, HEARTBEAT_S, Resume, WhichBugs, errors};
use bugfeed_protocol::{BugId, Cursor, When};
use bugfeed_runtime::json_line::JsonLine;
use futures::StreamExt as _;

use crate::feed::Feed;
use bugfeed_core::budget::Share;
use bugfeed_runtime::http::ClientAddress;
use bugfeed_runtime::http::body::declares_more_than;

/// Separates the cursor from a mark in the text of a cursor; only this gateway reads the mark.
pub const MARK: char = '~';

/// How long a long-poll may wait, in seconds: many proxies give up on an answer after 60.
pub const MAX_WAIT_S: u64 = 60;

/// The parameters, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The bugs to watch.
    pub bugs: WhichBugs,
    /// From which time on to catch up, if there is no cursor.
    pub since: Option<When>,
    /// Up to where the client has been sent everything.
    pub resume: Option<Resume>,
    /// The mark behind the cursor, if there is one: see [`Feed::mark`].
    pub mark: Option<String>,
    /// How often a heartbeat is wanted, in seconds.
    pub heartbeat_s: Option<u64>,
    /// How long an answer may wait for a change.
    pub wait: Duration,
}

impl Query {
    /// The command that subscribes to these bugs.
    pub fn subscribe(&self) -> Command {
        Command::Subscribe { bugs: self.bugs.clone(), since: self.since, resume: self.resume.clone() }
    }
}

/// Reads the parameters of a request for `feed`.
///
/// # Errors
/// The HTTP answer to give: it says what is wrong.
pub async fn read(feed: &Feed, request: Request) -> Result<Query, Box<Response>> {
    let (head, body) = request.into_parts();
    let form = match head.method {
        Method::POST => Some(form(feed, body, ClientAddress::of(&head.extensions)).await?),
        _ => None,
    };
    let query = head.uri.query().unwrap_or_default().as_bytes();
    let form = form.as_ref().map_or(&[][..], |(form, _)| form);
    let pairs = form_urlencoded::parse(query).chain(form_urlencoded::parse(form));
    let pairs = pairs.map(|(name, value)| (name.into_owned(), value.into_owned()));
    let mut attempts = Attempts::default();
    for seen in head.headers.get_all("last-event-id") {
        attempts.header.add(&String::from_utf8_lossy(seen.as_bytes()));
    }
    let query = parse(pairs, feed.max_bugs(), attempts).map_err(|error| refuse(StatusCode::BAD_REQUEST, &error))?;
    if query.bugs.is_all() && !feed.allows_all() {
        return Err(refuse(StatusCode::BAD_REQUEST, errors::ALL_NOT_ALLOWED));
    }
    Ok(query)
}

/// Reads a form, within the bounds that a message over WebSocket has.
async fn form(feed: &Feed, body: Body, from: Option<IpAddr>) -> Result<(Vec<u8>, Share), Box<Response>> {
    let too_long = || refuse(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long");
    if declares_more_than(&body, feed.message_bytes()) {
        // Nothing of it is asked for (`100 Continue`).
        return Err(too_long());
    }
    let mut share = feed.share();
    let reading = async {
        let (mut form, mut pieces) = (Vec::new(), body.into_data_stream());
        while let Some(piece) = pieces.next().await {
            let broken = |_| refuse(StatusCode::BAD_REQUEST, "the form broke off, or its chunks cannot be read");
            let piece = piece.map_err(broken)?;
            if form.len() + piece.len() > feed.message_bytes() {
                return Err(too_long());
            }
            if !share.grow_to(form.len() + piece.len()) {
                feed.turned_away("no_room", from);
                return Err(no_room());
            }
            // The pieces are copied into one buffer, because each of many small pieces would take far more memory than
            // it holds.
            form.extend_from_slice(&piece);
        }
        Ok(form)
    };
    match tokio::time::timeout(feed.message_timeout(), reading).await {
        Ok(form) => Ok((form?, share)),
        Err(_) => {
            feed.turned_away("unfinished", from);
            Err(refuse(StatusCode::REQUEST_TIMEOUT, "the form did not arrive in time"))
        }
    }
}

fn no_room() -> Box<Response> {
    let refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, "this gateway has no room for more; try again later");
    Box::new(([(header::RETRY_AFTER, "5")], *refusal).into_response())
}

/// The value of a header or parameter that says where to resume. It may be given more than once.
#[derive(Debug, Default)]
enum ResumeValue {
    #[default]
    Absent,
    /// The same text each time; perhaps empty.
    Text(String),
    /// Texts that differ.
    Contradiction,
}

impl ResumeValue {
    fn add(&mut self, text: &str) {
        let text = text.trim();
        *self = match std::mem::take(self) {
            ResumeValue::Absent => ResumeValue::Text(text.to_owned()),
            ResumeValue::Text(before) if before == text => ResumeValue::Text(before),
            ResumeValue::Text(_) | ResumeValue::Contradiction => ResumeValue::Contradiction,
        };
    }
}

/// Where a request asks to resume. A value that looks like an attempt to resume and cannot be read must not start
/// afresh silently: it is answered with a gap.
#[derive(Debug, Default)]
struct Attempts {
    /// `Last-Event-ID`: when EventSource reconnects, it uses the same URL again, and sends in this header the last id
    /// that it has seen.
    header: ResumeValue,
    /// `lastEventId`: libraries that replace EventSource, where a browser has none, put the id into the URL.
    parameter: ResumeValue,
    /// `cursor`: for clients that store the cursor themselves.
    cursor: ResumeValue,
}

impl Attempts {
    /// The attempt that a parameter with this name belongs to, however it is spelt: `cursor[]`, `last-event-id`,
    /// `evs_last_event_id`.
    fn named(&mut self, name: &str) -> Option<&mut ResumeValue> {
        match name {
            "cursor" => Some(&mut self.cursor),
            _ if name.ends_with("lasteventid") => Some(&mut self.parameter),
            _ => None,
        }
    }

    /// The first attempt that has a value, and the mark in it.
    fn resume(self) -> (Option<Resume>, Option<String>) {
        let mut tried = false;
        for value in [self.header, self.parameter, self.cursor] {
            match value {
                ResumeValue::Text(text) if !text.is_empty() => return resume(&text),
                ResumeValue::Contradiction => return (Some(Resume::Unreadable), None),
                ResumeValue::Text(_) => tried = true,
                ResumeValue::Absent => {}
            }
        }
        (tried.then_some(Resume::Unreadable), None)
    }
}

/// A parameter's name without the brackets, separators and capitals that frameworks and people add to it.
fn normalised(name: &str) -> String {
    let name = name.split('[').next().unwrap_or_default();
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// An answer with this status and `{"error": …}`, which says what is wrong.
pub fn refuse(status: StatusCode, error: &str) -> Box<Response> {
    let body = JsonLine(serde_json::json!({ "error": error }));
    Box::new((status, [(header::CACHE_CONTROL, "no-store")], body).into_response())
}

/// The answer (503) to a client that comes before the feed is current for the first time.
pub fn not_ready() -> Response {
    let refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, "not ready yet: reading history; try again");
    ([(header::RETRY_AFTER, "2")], *refusal).into_response()
}

fn resume(text: &str) -> (Option<Resume>, Option<String>) {
    let (cursor, mark) = match text.rsplit_once(MARK) {
        Some((cursor, mark)) => (cursor, Some(mark.to_owned())),
        None => (text, None),
    };
    (Some(Cursor::parse(cursor).map_or(Resume::Unreadable, Resume::From)), mark)
}

/// Unknown parameters are ignored. If one is given twice, the last one counts, but lists of bugs are joined.
fn parse(
    pairs: impl Iterator<Item = (String, String)>,
    max_bugs: usize,
    mut attempts: Attempts,
) -> Result<Query, String> {
    let mut named: Option<Named> = None;
    let mut query = Query::default();
    for (name, value) in pairs {
        let (name, value) = (normalised(&name), value.trim());
        if let Some(attempt) = attempts.named(&name) {
            attempt.add(value);
            continue;
        }
        match name.as_str() {
            "bugs" => named.get_or_insert_default().read(value)?,
            "since" if value.is_empty() => query.since = None,
            "since" => query.since = Some(When::parse_utc(value).map_err(|_| errors::INVALID_SINCE)?),
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
    (query.resume, query.mark) = attempts.resume();
    let named = named.ok_or_else(|| format!("{}, such as ?bugs=1234,5678", errors::MISSING_BUGS))?;
    query.bugs = named.which(max_bugs)?;
    Ok(query)
}

/// The bugs that the parameters name.
#[derive(Debug, Default)]
struct Named {
    bugs: Vec<BugId>,
    all: bool,
}

impl Named {
    fn read(&mut self, text: &str) -> Result<(), String> {
        for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
            if part == "all" {
                self.all = true;
                continue;
            }
            let bug = part.parse().map_err(|_| {
                let part: String = part.chars().take(40).collect();
                format!("{}: '{part}'", errors::INVALID_BUG)
            })?;
            self.bugs.push(bug);
        }
        Ok(())
    }

    fn which(self, max_bugs: usize) -> Result<WhichBugs, String> {
        let Named { mut bugs, all } = self;
        if all && bugs.is_empty() {
            return Ok(WhichBugs::All);
        }
        if all {
            return Err(format!("{}: 'all' stands alone, as ?bugs=all", errors::INVALID_BUG));
        }
        bugs.sort_unstable();
        bugs.dedup();
        if bugs.len() > max_bugs {
            return Err(format!("{}: {} bugs, at most {max_bugs}", errors::TOO_MANY, bugs.len()));
        }
        Ok(WhichBugs::These(bugs))
    }
}

#[cfg(test)]
mod tests {
    use axum::body;

    use super::*;

    fn query(text: &str) -> Result<Query, String> {
        let pairs = form_urlencoded::parse(text.as_bytes());
        parse(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())), 5, Attempts::default())
    }

    fn bugs(numbers: &[u64]) -> WhichBugs {
        WhichBugs::These(numbers.iter().map(|&number| BugId::new(number).unwrap()).collect())
    }

    #[test]
    fn parameters_that_are_understood() {
        let only = |numbers: &[u64]| Query { bugs: bugs(numbers), ..Query::default() };
        let cursor = Cursor::parse("E.42").unwrap();
        for (text, want) in [
            ("bugs=1234,5678", only(&[1234, 5678])),
            ("bugs=5678%2C1234&x=y", only(&[1234, 5678])),
            ("bugs=2,+1,,2,&bugs=3", only(&[1, 2, 3])),
            ("bugs=", only(&[])),
            ("bugs=all", Query { bugs: WhichBugs::All, ..Query::default() }),
            ("bugs=&bugs=+all+,", Query { bugs: WhichBugs::All, ..Query::default() }),
            ("bugs=1&since=", only(&[1])),
            ("bugs=1&cursor=E.42", Query { resume: Some(Resume::From(cursor)), ..only(&[1]) }),
            ("bugs=1&cursor=unknown", Query { resume: Some(Resume::Unreadable), ..only(&[1]) }),
            ("bugs=1&since=2014-04-03", Query { since: When::parse_utc("2014-04-03").ok(), ..only(&[1]) }),
            ("bugs=1&wait=30&heartbeat=0", Query { wait: Duration::from_secs(30), heartbeat_s: Some(1), ..only(&[1]) }),
        ] {
            assert_eq!(query(text), Ok(want), "{text}");
        }
    }

    /// An attempt that can be read resumes; one that cannot be read is a gap, not a fresh start.
    #[test]
    fn every_attempt_to_resume_is_one() {
        let from = |text: &str| Some(Resume::From(Cursor::parse(text).unwrap()));
        let gap = Some(Resume::Unreadable);
        for (header, text, want) in [
            (&[][..], "", None),
            (&[], "x=E.1&precursor=E.1", None),
            (&[], "cursor=E.1", from("E.1")),
            (&[], "cursor=+E.1+", from("E.1")),
            (&[], "cursor=E.1&cursor=E.1", from("E.1")),
            (&[], "lastEventId=E.2", from("E.2")),
            (&[], "cursor=E.1&lastEventId=E.2", from("E.2")),
            (&[], "lastEventId=E.2&cursor=E.1", from("E.2")),
            (&[], "cursor=E.1&lastEventId=", from("E.1")),
            (&[], "last-event-id=E.2", from("E.2")),
            (&[], "last_event_id=E.2", from("E.2")),
            (&[], "evs_last_event_id=E.2&evs_preamble", from("E.2")),
            (&[], "cursor[]=E.1", from("E.1")),
            (&[], "Cursor=E.1", from("E.1")),
            (&["E.3"], "cursor=E.1&lastEventId=E.2", from("E.3")),
            (&["E.3", "E.3"], "", from("E.3")),
            (&[""], "cursor=E.1", from("E.1")),
            (&["unknown"], "cursor=E.1", gap.clone()),
            (&["E.3", "E.4"], "cursor=E.1", gap.clone()),
            (&["\u{fffd}"], "cursor=E.1", gap.clone()),
            (&[""], "", gap.clone()),
            (&[], "cursor=", gap.clone()),
            (&[], "cursor", gap.clone()),
            (&[], "cursor[]=", gap.clone()),
            (&[], "cursor=E.1&cursor=E.2", gap.clone()),
            (&[], "cursor[0]=E.1&cursor[1]=E.2", gap.clone()),
            (&[], "lastEventId=", gap.clone()),
            (&[], "lastEventId=7&cursor=E.1", gap.clone()),
            (&[], "cursor=null&since=2014-04-03", gap.clone()),
            (&[], "cursor=%FF%FE", gap),
        ] {
            let mut attempts = Attempts::default();
            header.iter().for_each(|value| attempts.header.add(value));
            let pairs = form_urlencoded::parse(text.as_bytes()).chain(form_urlencoded::parse(b"bugs=1"));
            let pairs = pairs.map(|(name, value)| (name.into_owned(), value.into_owned()));
            assert_eq!(parse(pairs, 5, attempts).unwrap().resume, want, "{header:?} {text}");
        }
    }

    /// A form has the same bounds as a WebSocket message.
    #[tokio::test]
    async fn forms_are_bounded_in_time_and_together() {
        use std::sync::Arc;

        use crate::feed::{Clock, FeedOptions, feed};
        use bugfeed_core::budget::{Budget, Budgets};
        use bugfeed_core::input::SessionLimits;

        let budget = Arc::new(Budget::new(100));
        let options = FeedOptions {
            session: SessionLimits { message_timeout_ms: 20, ..SessionLimits::default() },
            budgets: Budgets { message_bytes: Arc::clone(&budget), ..Budgets::default() },
            ..FeedOptions::with_shards(1)
        };
        let events = Arc::new(crate::events::Events::new());
        let feed = feed("default", &options, Clock::start(), &events).feed;
        let post = async |body: Body| {
            let request = Request::post("/changes").body(body).unwrap();
            read(&feed, request).await.map_err(|refusal| refusal.status().as_u16()).map(|query| query.bugs)
        };
        let begun = || futures::stream::once(async { Ok::<_, std::io::Error>(body::Bytes::from_static(b"bugs=1")) });
        assert_eq!(post(Body::from_stream(begun())).await, Ok(bugs(&[1])));
        let never = begun().chain(futures::stream::pending());
        assert_eq!(post(Body::from_stream(never)).await, Err(408));
        assert_eq!(post(Body::from(format!("bugs={}", "1,".repeat(50)))).await, Err(503));
        assert_eq!(budget.taken(), 0);
        for kind in ["unfinished", "no_room"] {
            let line = format!("bugfeed_connections_refused_total{{kind=\"{kind}\"}} 1");
            assert!(
                crate::events::page(&events).lines().any(|found| found == line),
                "{}",
                crate::events::page(&events)
            );
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
            ("bugs=all,1", "invalid bug id; must be integer: 'all' stands alone, as ?bugs=all"),
            ("bugs=1&bugs=all", "invalid bug id; must be integer: 'all' stands alone, as ?bugs=all"),
            ("bugs=All", "invalid bug id; must be integer: 'All'"),
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
