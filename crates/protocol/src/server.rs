//! Messages as the gateway sends them, one JSON text frame each.

use std::io::Write as _;

use serde::Serialize;

use crate::change::{BugId, Change, When};
use crate::client::Refusal;
use crate::cursor::Cursor;
use crate::plain_datetime;

/// The gateway's verdict on a resume: what is known about the changes since the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is missing: every change of these bugs since the cursor follows.
    Complete,
    /// The newest change of each of these bugs that changed since the cursor follows.
    Latest,
    /// Changes may be missing: treat all of these bugs as changed.
    Gap,
}

/// Limits that a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bugs a session may watch.
    pub subscriptions: usize,
    /// The largest message of a client, in bytes.
    pub message_bytes: usize,
}

/// A reply to a command.
#[derive(Clone, Debug)]
pub enum Reply<'a> {
    /// To subscribe and unsubscribe in the classic protocol, and to subscriptions: all bugs the session now has.
    Bugs {
        /// The command answered.
        command: &'a str,
        /// All current subscriptions to single bugs, ascending.
        bugs: &'a [BugId],
        /// Whether the session also has all bugs.
        all: bool,
    },
    /// To hello.
    Hello {
        /// The gateway's version.
        version: &'a str,
        /// The feed's name.
        feed: &'a str,
        /// How often a heartbeat comes, in seconds.
        heartbeat_s: u64,
        /// The feed's newest cursor; `None` if there is none yet.
        cursor: Option<&'a Cursor>,
        /// The session's limits.
        limits: Limits,
        /// When the session's token expires, if it has one that does.
        expires: Option<When>,
    },
    /// To subscribe and unsubscribe, in the modern protocol.
    Count {
        /// The command answered.
        command: &'a str,
        /// How many subscriptions the session now has; all bugs count as one.
        count: usize,
        /// Whether the session has all bugs.
        all: bool,
        /// The verdict on a resume.
        replay: Option<Verdict>,
        /// The cursor after which updates follow.
        cursor: Option<&'a Cursor>,
    },
    /// To version.
    Version(&'a str),
    /// To a command that was refused.
    Refused(&'a Refusal),
    /// To a command that the session's token does not allow.
    Denied {
        /// The command answered.
        command: &'a str,
        /// What is not allowed.
        error: &'a str,
    },
}

#[derive(Default, Serialize)]
struct Fields<'a> {
    command: Option<&'a str>,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bugs: Option<&'a [BugId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<Verdict>,
    /// Shown as null where the gateway has no cursor to give.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Option<&'a Cursor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<When>,
}

impl Reply<'_> {
    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        let empty = Fields { result: "ok", ..Fields::default() };
        let fields = match *self {
            Reply::Bugs { command, bugs, all } => Fields { command: Some(command), bugs: Some(bugs), all, ..empty },
            Reply::Hello { version, feed, heartbeat_s, cursor, limits, expires } => Fields {
                command: Some("hello"),
                version: Some(version),
                feed: Some(feed),
                heartbeat: Some(heartbeat_s),
                cursor: Some(cursor),
                limits: Some(limits),
                expires,
                ..empty
            },
            Reply::Count { command, count, all, replay, cursor } => {
                Fields { command: Some(command), count: Some(count), all, replay, cursor: Some(cursor), ..empty }
            }
            Reply::Version(version) => Fields { command: Some("version"), version: Some(version), ..empty },
            Reply::Refused(refusal) => {
                Fields { command: refusal.command.as_deref(), result: "error", error: Some(refusal.error), ..empty }
            }
            Reply::Denied { command, error } => {
                Fields { command: Some(command), result: "error", error: Some(error), ..empty }
            }
        };
        // An estimate by the longest part, the list of bugs.
        let mut text = Vec::with_capacity(128 + fields.bugs.map_or(0, |bugs| bugs.len() * 8));
        serde_json::to_writer(&mut text, &fields).expect("plain structs of numbers and texts always serialise");
        text
    }
}

/// Appends the classic update message: `{"command":"update","bug":1234,"when":"2014-04-03T21:13:45"}`.
pub fn write_update(out: &mut Vec<u8>, change: Change) {
    // Put together by hand: formatting through `fmt` takes several times as long.
    out.extend_from_slice(br#"{"command":"update","bug":"#);
    out.extend_from_slice(itoa::Buffer::new().format(change.bug.get()).as_bytes());
    out.extend_from_slice(br#","when":""#);
    let mut room = [0; plain_datetime::LONGEST];
    out.extend_from_slice(plain_datetime::write(change.when.as_micros(), &mut room).as_bytes());
    out.extend_from_slice(br#""}"#);
}

/// Appends the modern update message: the classic one with a cursor.
pub fn write_update_with_cursor(out: &mut Vec<u8>, change: Change, cursor: &Cursor) {
    write_update(out, change);
    out.pop();
    write!(out, r#","cursor":"{cursor}"}}"#).expect("writing to a Vec cannot fail");
}

/// Whether changes can arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedState {
    /// They can.
    Live,
    /// Nothing can arrive at the moment, because the gateway receives no changes. Changes of this time are sent later,
    /// or told as a gap.
    Paused,
}

/// A message of the modern protocol that is no reply.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// The connection is alive, and everything up to the cursor has been sent.
    Heartbeat {
        /// Everything up to here has been sent.
        cursor: Option<&'a Cursor>,
        /// Said only while the feed is paused.
        paused: bool,
    },
    /// The gateway lost continuity: treat all bugs as changed. The updates that follow are those after the cursor.
    Gap {
        /// Where the session goes on.
        cursor: Option<&'a Cursor>,
        /// The time over which clients should spread their questions to the tracker, in milliseconds; left out of the
        /// message if it is 0.
        spread_ms: u64,
    },
    /// Whether changes can arrive has changed.
    Feed {
        /// Whether they can.
        state: FeedState,
        /// Since when.
        since: When,
    },
    /// The gateway stops; a close frame follows.
    GoAway {
        /// How long to wait before reconnecting, in milliseconds.
        retry_after_ms: u64,
        /// Everything up to here has been sent.
        cursor: Option<&'a Cursor>,
    },
    /// The session ends because of its token; said where no close frame can be seen.
    TokenOver {
        /// Why, in a few words.
        reason: &'a str,
        /// Everything up to here has been sent.
        cursor: Option<&'a Cursor>,
    },
}

#[derive(Default, Serialize)]
struct NoticeFields<'a> {
    command: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// Shown as null where the gateway has no cursor to give.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Option<&'a Cursor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<FeedState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<When>,
}

impl Notice<'_> {
    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        let empty = NoticeFields::default();
        let fields = match *self {
            Notice::Heartbeat { cursor, paused } => NoticeFields {
                command: "heartbeat",
                cursor: Some(cursor),
                state: paused.then_some(FeedState::Paused),
                ..empty
            },
            Notice::Gap { cursor, spread_ms } => NoticeFields {
                command: "gap",
                cursor: Some(cursor),
                spread_ms: (spread_ms > 0).then_some(spread_ms),
                ..empty
            },
            Notice::Feed { state, since } => {
                NoticeFields { command: "feed", state: Some(state), since: Some(since), ..empty }
            }
            Notice::GoAway { retry_after_ms, cursor } => {
                NoticeFields { command: "goaway", retry_after_ms: Some(retry_after_ms), cursor: Some(cursor), ..empty }
            }
            Notice::TokenOver { reason, cursor } => NoticeFields {
                command: "goaway",
                reason: Some(reason),
                retry_after_ms: Some(0),
                cursor: Some(cursor),
                ..empty
            },
        };
        serde_json::to_vec(&fields).expect("plain structs of numbers and texts always serialise")
    }
}
