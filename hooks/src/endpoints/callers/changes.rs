//! `GET /endpoints/ID/changes`: what is asked for, and the body of the answer.
//!
//! Goes in: a query, and what a feed answers. Comes out: a question, and JSON as `GET /changes` of a gateway has it, with the
//! feed, and with each change the cursor that a POSTed body has. Golden files: `hooks/golden/deliver/changes*.txt`.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bugfeed_core::endpoints::orders;
use bugfeed_core::endpoints::question::{Answer, Batch, Since};
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::{BugId, Cursor, When};
use serde::Serialize;

use super::Refusal;

/// The longest time to wait for changes, in seconds.
const LONGEST_WAIT_S: u64 = 60;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Since when; the head if there is none.
    pub(super) since: Option<Since>,
    pub(super) feed: Option<String>,
    pub(super) wait: Duration,
}

impl Query {
    pub(super) fn read(query: &str) -> Result<Query, Refusal> {
        let mut read = Query { since: None, feed: None, wait: Duration::ZERO };
        let refuse = |text: &str| Refusal::of(StatusCode::BAD_REQUEST, text);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "cursor" if value == "unknown" => read.since = Some(Since::Unknown),
                "cursor" => {
                    let cursor = Cursor::parse(&value);
                    read.since = Some(Since::Cursor(cursor.ok_or_else(|| refuse("invalid cursor"))?));
                }
                "feed" => read.feed = Some(value.into_owned()),
                "wait" => {
                    let seconds = value.parse().ok().filter(|seconds| *seconds <= LONGEST_WAIT_S);
                    let wrong = || refuse("invalid wait; must be a number of seconds from 0 to 60");
                    read.wait = Duration::from_secs(seconds.ok_or_else(wrong)?);
                }
                _ => return Err(refuse("unknown parameter; allowed are cursor, feed and wait")),
            }
        }
        Ok(read)
    }

    /// The feed of this endpoint that is meant.
    pub(super) fn feed_of(&self, row: &Row) -> Result<Arc<str>, Refusal> {
        let feeds: Vec<&Arc<str>> = row.lines.iter().map(|line| &line.feed).collect();
        let refuse = |text: String| Err(Refusal(StatusCode::BAD_REQUEST, text));
        match (self.feed.as_deref(), feeds.as_slice()) {
            (Some(named), feeds) => match feeds.iter().find(|feed| &****feed == named) {
                Some(feed) => Ok(Arc::clone(feed)),
                None => refuse(orders::Refused::NoSuchFeed.to_string()),
            },
            (None, [feed]) => Ok(Arc::clone(feed)),
            (None, []) => refuse(orders::Refused::NoSuchFeed.to_string()),
            (None, _) => refuse(format!("{}, as in feed=NAME", orders::Refused::WhichFeed)),
        }
    }
}

/// The body of an answer.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    changes: Vec<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    cursor: String,
    feed: &'a str,
}

/// A change as it stands in a POSTed body.
#[derive(Debug, Serialize)]
struct Told {
    bug: BugId,
    when: When,
    cursor: String,
}

impl<'a> Body<'a> {
    /// What a feed answers to a query.
    pub(super) fn of(feed: &'a str, query: &Query, answer: Answer) -> Body<'a> {
        let asked = match &query.since {
            Some(Since::Cursor(cursor)) => cursor.to_string(),
            _ => "unknown".to_owned(),
        };
        let empty = Body { changes: Vec::new(), replay: None, more: false, state: None, cursor: asked, feed };
        match answer {
            Answer::Changes(Batch { changes, more, left_out, cursor, .. }) => {
                let told = changes.iter().map(|told| Told {
                    bug: told.change.bug,
                    when: told.change.when,
                    cursor: told.cursor.to_string(),
                });
                let verdict = if left_out { "latest" } else { "complete" };
                let replay = query.since.is_some().then_some(verdict);
                Body { changes: told.collect(), replay, more, cursor: cursor.to_string(), ..empty }
            }
            Answer::Gap(cursor, _) => Body { replay: Some("gap"), cursor: cursor.to_string(), ..empty },
            Answer::Ahead(_) => empty,
            Answer::NotYet(_) => Body { state: Some("paused"), ..empty },
        }
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_core::endpoints::question::{Ask, Bound, Watch, answer};
    use bugfeed_core::replay::{ReplayLimits, replay};
    use bugfeed_core::sequencer::Sequencer;
    use bugfeed_protocol::bus::BusMessage;
    use bugfeed_protocol::{Change, Epoch, Tag};

    use super::*;

    fn cursor(seq: u64) -> Cursor {
        Cursor::new(Epoch::from_random(0xfeed), seq).tagged(Some(Tag::from_random(0xbeef)))
    }

    /// Exact bytes: the first line is the request, the second the answer to it.
    #[test]
    fn answers_have_these_bytes() {
        let (recorder, replay) = replay(ReplayLimits::default());
        let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
        sequencer.go_on_after(&cursor(86));
        for (bug, seq, when) in [(1, 87, "2026-11-26T12:00:00.5"), (1234, 88, "2026-11-26T12:00:00")] {
            let change = Change { bug: BugId::new(bug).unwrap(), when: when.parse().unwrap() };
            sequencer.accept_gap(&BusMessage { change, cursor: Some(cursor(seq)), after: None }, None, change.when);
        }
        let watch = Watch::All;
        let mut differing = Vec::new();
        for (name, since) in [("changes", cursor(86)), ("changes-gap", cursor(12))] {
            let asked = format!("feed=kde&cursor={since}");
            let query = Query::read(&asked).unwrap();
            let ask = Ask {
                watch: &watch,
                since: query.since.as_ref().unwrap(),
                place: None,
                bound: Bound { entries: 1000, bytes: usize::MAX },
            };
            let body = serde_json::to_string(&Body::of("kde", &query, answer(&replay, &ask))).unwrap();
            let is = format!("GET /endpoints/ep_1/changes?{asked}\n{body}\n");
            let golden = format!("{}/golden/deliver/{name}.txt", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("BUGFEED_GOLDEN").is_some_and(|word| word == "write") {
                std::fs::write(&golden, &is).unwrap();
            } else if std::fs::read_to_string(&golden).unwrap_or_default() != is {
                differing.push(format!("{golden}\n{is}"));
            }
        }
        assert!(differing.is_empty(), "BUGFEED_GOLDEN=write writes these anew:\n{}", differing.join("\n"));
    }
}
