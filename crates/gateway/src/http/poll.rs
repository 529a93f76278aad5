//! `GET /changes` (long-poll): what changed since a cursor, at once or as soon as something changes; for curl and cron.
//!
//! Goes in: a query. Comes out: one JSON object. Each request is a session of its own, which ends with the answer; the
//! next request begins at the cursor in the answer.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use bugfeed_protocol::client::{Command, HEARTBEAT_S, Resume, WhichBugs};
use bugfeed_protocol::{BugId, Change, Cursor, When};
use bugfeed_runtime::json_line::JsonLine;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::access::{self, Shown};
use super::query::{self, Query};
use crate::feed::{Feed, Messages};
use bugfeed_core::input::AHEAD_MS;

/// An answer is full with this many changes; its cursor says where the next request goes on.
const FULL: usize = 1000;

/// A client may have a cursor that is ahead of this gateway. It is told of a gap only after this time: a little longer
/// than a session itself waits before it decides that.
const AHEAD: Duration = Duration::from_millis(AHEAD_MS + 1_000);

/// How long an answer that has only late changes waits for others. Late changes do not advance the cursor, so without
/// the wait a client would be sent the same changes again as fast as it can ask.
const LATE: Duration = Duration::from_secs(5);

/// How long a session may take to answer its first commands.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers a request.
pub async fn serve(feed: &Feed, tracker: &TaskTracker, request: Request) -> Response {
    let head_only = request.method() == Method::HEAD;
    let shown = Shown::by(&request, false);
    let peer = shown.peer();
    let pass = match shown.admit(feed).await {
        Ok(pass) => pass,
        Err(refusal) => return *refusal,
    };
    let mut query = match query::read(feed, request).await {
        Ok(query) => query,
        Err(refusal) => return *refusal,
    };
    if let Err(refusal) = access::check_bugs(feed, pass.as_ref(), &query.bugs, peer) {
        return *refusal;
    }
    if head_only {
        // It is answered as GET is, and hyper leaves the body out. Nobody waits for a change whose text is not sent.
        query.wait = Duration::ZERO;
    }
    if feed.is_shut() {
        return query::not_ready();
    }
    let mark = feed.mark();
    // The client sent this gateway's current mark. It got the mark in an earlier answer, at a time when the gateway
    // knew no number; the new request begins where that answer ended.
    let has_current_mark = query.mark.as_deref() == Some(&mark);
    let asked = if has_current_mark { query.resume.take() } else { query.resume.clone() };
    // The reply to the last command shows that everything before it has arrived, and tells the session's cursor.
    let commands =
        [Command::Hello { heartbeat_s: *HEARTBEAT_S.end(), token: None }, query.subscribe(), ask_for_cursor()];
    let messages = feed.open_with(pass, commands, tracker);
    let mut poll = Poll {
        messages,
        feed,
        mark,
        has_current_mark,
        answer: Answer::default(),
        head: None,
        open_cursor_requests: 1,
        subscribed: false,
        session_ended: false,
    };
    let ending = poll.collect(&query).await;
    poll.respond(ending, asked.as_ref())
}

/// A command that changes nothing; its reply tells the session's cursor.
fn ask_for_cursor() -> Command {
    Command::Unsubscribe { bugs: WhichBugs::These(Vec::new()) }
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    changes: Vec<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// Only with a gap that was told to many clients: the time over which they spread their questions to the tracker,
    /// in milliseconds (against a thundering herd).
    #[serde(skip_serializing_if = "Option::is_none")]
    spread_ms: Option<u64>,
    /// "paused" while nothing can arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    cursor: Option<String>,
}

/// The ways in which a long-poll ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The session ended before it had replied to subscribe: the gateway has no room, or stops. The answer is a 503.
    NotSubscribed,
    /// The session ended later: the gateway stops, or the session did not reply within [`REPLY_TIMEOUT`]. The answer
    /// holds what came until then, and the connection is closed, so that the next request can reach another gateway.
    SessionEnded,
    /// There is news: changes (at most [`FULL`], or a few more), or a gap with a cursor.
    News,
    /// The wait is over and there is no news. The answer tells only the cursor.
    NoNews,
}

struct Poll<'a> {
    messages: Messages,
    feed: &'a Feed,
    /// The feed's mark, taken before the session began or when it was last told of a gap.
    mark: String,
    /// The client sent the feed's current mark: an earlier answer has told it already what it may have missed.
    has_current_mark: bool,
    answer: Answer,
    /// The head of the feed when the session began.
    head: Option<String>,
    /// How many requests for the session's cursor ([`ask_for_cursor`]) have no reply yet.
    open_cursor_requests: usize,
    /// The reply to subscribe has arrived.
    subscribed: bool,
    /// No further message will come: the session has ended, or did not reply in time, or the gateway said goodbye.
    session_ended: bool,
}

#[derive(Deserialize)]
struct Message {
    command: String,
    bug: Option<BugId>,
    when: Option<When>,
    cursor: Option<String>,
    replay: Option<String>,
    retry_after_ms: Option<u64>,
    spread_ms: Option<u64>,
    state: Option<String>,
    /// Why the session ends, where its token is the reason.
    reason: Option<String>,
}

impl Poll<'_> {
    /// Takes messages until the answer is complete. Returns why it is complete.
    async fn collect(&mut self, query: &Query) -> Ending {
        let begun = Instant::now();
        // First, everything that is available already.
        self.catch_up(query).await;
        if !self.answer.changes.is_empty() && !self.has_moved(query) {
            // There are only late changes.
            let until = begun + query.wait.min(LATE);
            while !self.session_ended && !self.has_moved(query) && self.take(until).await {}
            self.update_cursor(query).await;
        }
        let wait = if self.is_ahead(query) { query.wait.max(AHEAD) } else { query.wait };
        while !self.session_ended && !self.has_news() && self.take(begun + wait).await {}
        if !self.session_ended && !self.has_news() {
            self.update_cursor(query).await;
            return self.ending();
        }
        // Also take the messages that have arrived together with the news.
        while !self.is_complete(query) && self.take(Instant::now()).await {}
        self.ending()
    }

    fn ending(&self) -> Ending {
        match (self.subscribed, self.session_ended) {
            (false, _) => Ending::NotSubscribed,
            (true, true) => Ending::SessionEnded,
            (true, false) if self.has_news() => Ending::News,
            (true, false) => Ending::NoNews,
        }
    }

    /// Asks for the session's cursor again: changes of other bugs have advanced it meanwhile.
    async fn update_cursor(&mut self, query: &Query) {
        self.messages.ask(ask_for_cursor());
        self.open_cursor_requests += 1;
        self.catch_up(query).await;
    }

    /// Takes messages until the session has replied to every request for its cursor.
    async fn catch_up(&mut self, query: &Query) {
        let until = Instant::now() + REPLY_TIMEOUT;
        while self.open_cursor_requests > 0 && !self.is_complete(query) {
            self.session_ended |= !self.take(until).await;
        }
    }

    /// Whether the answer tells the client something that it must act on.
    fn has_news(&self) -> bool {
        // A gap without a cursor is not worth an answer yet: the client would ask again and be told the same gap. It
        // waits for the first number.
        let gap = self.answer.replay.as_deref() == Some("gap") && self.answer.cursor.is_some();
        !self.answer.changes.is_empty() || gap
    }

    /// Whether the client has seen changes, on another gateway, that have not reached this one.
    fn is_ahead(&self, query: &Query) -> bool {
        let Some(Resume::From(asked)) = &query.resume else { return false };
        let head = self.head.as_deref().and_then(Cursor::parse);
        self.answer.replay.as_deref() == Some("complete")
            && head.is_none_or(|head| head.epoch != asked.epoch || head.seq < asked.seq)
    }

    /// Whether nothing more can be added to the answer: it is full, or the session has ended. A full answer also waits
    /// until its cursor has moved; otherwise the next answer would be the same.
    fn is_complete(&mut self, query: &Query) -> bool {
        self.answer.more = self.answer.changes.len() >= FULL && self.has_moved(query);
        self.session_ended || self.answer.more
    }

    /// Whether the answer's cursor differs from the one that the client has.
    fn has_moved(&self, query: &Query) -> bool {
        match &query.resume {
            Some(Resume::From(asked)) => self.answer.cursor.as_deref() != Some(&asked.to_string()),
            _ => true,
        }
    }

    /// Takes one message. Returns false if none arrives until `until`.
    async fn take(&mut self, until: Instant) -> bool {
        let text = match timeout_at(until, self.messages.next()).await {
            Err(_) => return false,
            Ok(text) => text,
        };
        let message = text.and_then(|text| serde_json::from_slice::<Message>(&text).ok());
        let Some(message) = message else {
            self.session_ended = true;
            return false;
        };
        match (message.command.as_str(), message.bug, message.when) {
            ("hello", ..) => {
                self.head = message.cursor;
                return true;
            }
            ("subscribe", ..) => {
                self.subscribed = true;
                self.answer.replay = match &message.cursor {
                    // There is still no number, so nothing has arrived since the last answer.
                    None if self.has_current_mark => Some("complete".to_owned()),
                    Some(_) if self.has_current_mark => Some("gap".to_owned()),
                    _ => message.replay,
                };
            }
            ("update", Some(bug), Some(when)) => self.answer.changes.push(Change { bug, when }),
            ("gap", ..) => {
                self.answer.replay = Some("gap".to_owned());
                self.answer.spread_ms = message.spread_ms;
                self.mark = self.feed.mark();
            }
            ("unsubscribe", ..) => self.open_cursor_requests -= 1,
            ("feed", ..) => self.answer.state = (message.state.as_deref() == Some("paused")).then_some("paused"),
            ("goaway", ..) => {
                self.session_ended = true;
                // Whoever needs another token may come at once.
                self.answer.retry_after_ms = message.retry_after_ms.filter(|_| message.reason.is_none());
            }
            _ => {}
        }
        self.answer.cursor = message.cursor.or(self.answer.cursor.take());
        true
    }

    /// Builds the HTTP answer. `asked` is where the client wanted to resume.
    fn respond(mut self, ending: Ending, asked: Option<&Resume>) -> Response {
        if ending == Ending::NotSubscribed {
            let text = "this gateway is full or going away; try again";
            let refusal = query::refuse(StatusCode::SERVICE_UNAVAILABLE, text);
            return ([(header::RETRY_AFTER, "1"), (header::CONNECTION, "close")], *refusal).into_response();
        }
        if self.answer.cursor.is_none() {
            // No number is known yet. A client that has a cursor keeps it; one that has none gets "unknown", so that it
            // does not start afresh without being told of a gap. The mark is added once the client knows of its gap (a
            // client that starts afresh has none), so that the next answer does not tell the gap again.
            let cursor = match asked {
                Some(Resume::From(cursor)) => cursor.to_string(),
                _ => "unknown".to_owned(),
            };
            let knows = self.has_current_mark || asked.is_none() || self.answer.replay.as_deref() == Some("gap");
            self.answer.cursor = Some(if knows { format!("{cursor}{}{}", query::MARK, self.mark) } else { cursor });
        }
        let close = (ending == Ending::SessionEnded).then_some([(header::CONNECTION, "close")]);
        let close = AppendHeaders(close.into_iter().flatten());
        ([(header::CACHE_CONTROL, "no-store")], close, JsonLine(&self.answer)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{self, Body};
    use bugfeed_core::bus::{Arrival, Event};
    use bugfeed_protocol::bus::BusMessage;
    use serde_json::{Value, json};

    use super::*;
    use crate::feed::{FeedOptions, current_feed, current_feed_of};

    /// A late change does not advance the cursor, so a client that asks again is sent it again, and would ask again at
    /// once.
    #[tokio::test]
    async fn a_change_that_came_late_is_not_told_over_and_over() {
        let (feed, mut ingest) = current_feed(1).await;
        let when = When::parse_utc("2014-04-03T21:13:45").unwrap();
        let message = |bug, number: &str| {
            let change = Change { bug: BugId::new(bug).unwrap(), when };
            BusMessage { change, cursor: Cursor::parse(number), after: None }
        };
        for (bug, number) in [(9, "E.1"), (9, "E.3"), (1, "E.2")] {
            ingest.take_change(message(bug, number), None).await;
        }
        let tracker = TaskTracker::new();
        let ask = async |wait: u64| -> Value {
            let request =
                Request::get(format!("/changes?bugs=1,2&cursor=E.3&wait={wait}")).body(Body::empty()).unwrap();
            let response = serve(&feed, &tracker, request).await;
            serde_json::from_slice(&body::to_bytes(response.into_body(), 10_000).await.unwrap()).unwrap()
        };
        let late = json!({"bug": 1, "when": when});
        let at_once = ask(0).await;
        assert_eq!(at_once, json!({"changes": [late], "replay": "complete", "cursor": "E.3"}));
        let going_on = async {
            // Long enough for an answer to be given.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            ingest.take_change(message(2, "E.4"), None).await;
        };
        let (answer, ()) = tokio::join!(ask(60), going_on);
        assert_eq!(answer["changes"], json!([late, {"bug": 2, "when": when}]));
        assert_eq!(answer["cursor"], "E.4");
    }

    /// A client that polls while no number is known is told of a gap once, and again only when there is something new
    /// to tell.
    #[tokio::test]
    async fn a_gap_that_is_no_news_is_not_told_again() {
        let (feed, mut ingest) = current_feed(2).await;
        let tracker = TaskTracker::new();
        let ask = async |query: String| -> (Value, String) {
            let request = Request::get(format!("/changes?bugs=1{query}")).body(Body::empty()).unwrap();
            let response = serve(&feed, &tracker, request).await;
            let answer: Value =
                serde_json::from_slice(&body::to_bytes(response.into_body(), 10_000).await.unwrap()).unwrap();
            (answer["replay"].clone(), answer["cursor"].as_str().unwrap().to_owned())
        };
        let (replay, fresh) = ask(String::new()).await;
        assert_eq!(replay, Value::Null);
        assert!(fresh.starts_with("unknown"), "{fresh}");
        let (replay, told) = ask("&cursor=unknown".to_owned()).await;
        assert_eq!(replay, "gap", "it may be of another gateway");
        for cursor in [&fresh, &told] {
            let (replay, again) = ask(format!("&cursor={cursor}")).await;
            assert_eq!((replay, &again), (json!("complete"), cursor), "nothing has happened since");
        }
        // Continuity breaks between two requests: a change may have passed unseen.
        ingest.reconnect().await;
        let (replay, told) = ask(format!("&cursor={told}")).await;
        assert_eq!(replay, "gap");
        assert_eq!(ask(format!("&cursor={told}")).await, (json!("complete"), told.clone()));
        let change = Change { bug: BugId::new(9).unwrap(), when: When::parse_utc("2014-04-03").unwrap() };
        let message = BusMessage { change, cursor: Cursor::parse("E.7"), after: None };
        ingest.take_change(message, None).await;
        let (replay, known) = ask(format!("&cursor={told}")).await;
        assert_eq!((replay, &*known), (json!("gap"), "E.7"));
        assert_eq!(ask(format!("&cursor={known}")).await.0, "complete");
    }

    /// Whoever polls for all bugs is answered a thousand changes at a time, and goes on where the last answer ended.
    #[tokio::test]
    async fn answers_about_all_bugs_follow_one_another() {
        let mut options = FeedOptions::with_shards(1);
        (options.session.all, options.session.page) = (true, 300);
        let (feed, mut ingest) = current_feed_of(&options).await;
        let when = When::parse_utc("2014-04-03").unwrap();
        let arrival = |number| {
            let change = Change { bug: BugId::new(number).unwrap(), when };
            let cursor = Cursor::parse(&format!("E.{number}"));
            Arrival { message: BusMessage { change, cursor, after: None }, recorded: None }
        };
        ingest.take(Event::Batch((1..=2500).map(arrival).collect(), None)).await;
        let tracker = TaskTracker::new();
        let (mut cursor, mut bugs, mut answers) = ("E.1".to_owned(), Vec::new(), 0);
        loop {
            let request = Request::get(format!("/changes?bugs=all&cursor={cursor}")).body(Body::empty()).unwrap();
            let body = serve(&feed, &tracker, request).await.into_body();
            let answer: Value = serde_json::from_slice(&body::to_bytes(body, 1_000_000).await.unwrap()).unwrap();
            assert_eq!(answer["replay"], "complete");
            bugs.extend(answer["changes"].as_array().unwrap().iter().map(|change| change["bug"].as_u64().unwrap()));
            answer["cursor"].as_str().unwrap().clone_into(&mut cursor);
            answers += 1;
            if answer["more"] != true {
                break;
            }
        }
        assert!(bugs.into_iter().eq(2..=2500), "each once, in order");
        assert_eq!((answers, cursor.as_str()), (3, "E.2500"));
    }

    /// As many clients may poll as listen, and after a gap all of them ask the tracker.
    #[tokio::test]
    async fn a_gap_told_to_many_says_over_how_long_they_ask() {
        let (feed, mut ingest) = current_feed(1).await;
        let change = Change { bug: BugId::new(9).unwrap(), when: When::parse_utc("2014-04-03").unwrap() };
        let message = BusMessage { change, cursor: Cursor::parse("E.1"), after: None };
        ingest.take_change(message, None).await;
        let tracker = TaskTracker::new();
        let others: Vec<Messages> = (0..100).map(|_| feed.open([Command::Version], &tracker)).collect();
        let asking = async {
            let request = Request::get("/changes?bugs=1&cursor=E.1&wait=60").body(Body::empty()).unwrap();
            let body = serve(&feed, &tracker, request).await.into_body();
            serde_json::from_slice::<Value>(&body::to_bytes(body, 10_000).await.unwrap()).unwrap()
        };
        let losing = async {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            ingest.reconnect().await;
        };
        let (answer, ()) = tokio::join!(asking, losing);
        assert_eq!(answer["replay"], "gap");
        assert!(answer["spread_ms"].as_u64().is_some_and(|ms| ms >= 2000), "{answer}");
        drop(others);
    }
}
