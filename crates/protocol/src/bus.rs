//! The messages on the bus (AMQP): a change, in the native form or the older envelope; several changes; the head of a feed.

mod batch;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::{BugId, Change, Numbered, When};
use crate::cursor::{Cursor, Epoch, Tag};

pub use batch::{BATCH_KEY, BATCH_TYPE, BODY_MAX, Element, batch_len, decode_batch, encode_batch};

/// How a shim writes messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `{"bug":…,"when":…,"seq":…,"epoch":…,"tag":…}`
    #[default]
    Native,
    /// `{"payload":{"id":…,"delta_ts":…},"_meta":{…}}`: the form that consumers of the 2014 exchange
    /// `exchange/bugzilla/simple` read. The number goes into `_meta`, where those consumers ignore it.
    Pulse,
}

/// A message as a gateway reads it. A producer other than the shim may leave the number out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusMessage {
    /// The change.
    pub change: Change,
    /// Its number, if the producer gave one.
    pub cursor: Option<Cursor>,
    /// The lineage tag of the number before it, if that tag differs from its own.
    pub after: Option<Tag>,
}

impl BusMessage {
    /// The lineage tag of the number before this one; `None` if the message does not tell it.
    pub fn tag_before(&self) -> Option<Tag> {
        self.after.or(self.cursor.as_ref()?.tag)
    }
}

impl From<Numbered> for BusMessage {
    fn from(Numbered { change, cursor, after, .. }: Numbered) -> BusMessage {
        BusMessage { change, cursor: Some(cursor), after }
    }
}

/// Why a message was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// Neither the native form nor the envelope.
    #[error(
        "{0}; expected {{\"bug\":…,\"when\":…,\"seq\":…,\"epoch\":…}} or {{\"payload\":{{\"id\":…,\"delta_ts\":…}}}}"
    )]
    Shape(&'static str),
    /// A date that cannot be read.
    #[error("{0}")]
    When(#[from] crate::change::BadWhen),
    /// A message that is not even taken into memory.
    #[error("a message of {size} bytes; the largest that is read has {max}")]
    TooLarge {
        /// Its size, in bytes.
        size: u64,
        /// The largest, in bytes.
        max: u64,
    },
    /// A message property `type` that this version does not know.
    #[error(
        "messages of type '{0}' are not known to this version; update it (until then their changes are told as a gap)"
    )]
    UnknownType(String),
}

#[derive(Serialize)]
struct Native<'a> {
    bug: BugId,
    when: When,
    seq: u64,
    epoch: &'a Epoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Tag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Tag>,
}

#[derive(Serialize)]
struct Pulse<'a> {
    payload: PulsePayload,
    _meta: PulseMeta<'a>,
}

#[derive(Serialize)]
struct PulsePayload {
    id: BugId,
    delta_ts: When,
}

#[derive(Serialize)]
struct PulseMeta<'a> {
    exchange: &'a str,
    routing_key: String,
    sent: When,
    serializer: &'a str,
    seq: u64,
    epoch: &'a Epoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Tag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Tag>,
}

/// The body of a change's message. `exchange` is the exchange that it is published to; the envelope names it in
/// `_meta`.
pub fn encode(numbered: &Numbered, format: Format, exchange: &str) -> Vec<u8> {
    let Change { bug, when } = numbered.change;
    let (Cursor { epoch, seq, tag }, after) = (&numbered.cursor, numbered.after);
    let encoded = match format {
        Format::Native => serde_json::to_vec(&Native { bug, when, seq: *seq, epoch, tag: *tag, after }),
        Format::Pulse => serde_json::to_vec(&Pulse {
            payload: PulsePayload { id: bug, delta_ts: when },
            _meta: PulseMeta {
                exchange,
                routing_key: bug.to_string(),
                sent: numbered.recorded,
                serializer: "json",
                seq: *seq,
                epoch,
                tag: *tag,
                after,
            },
        }),
    };
    encoded.expect("plain structs of numbers and texts always serialise")
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(alias = "id")]
    bug: Option<Value>,
    #[serde(alias = "delta_ts", borrow)]
    when: Option<Text<'a>>,
    seq: Option<u64>,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
    #[serde(borrow)]
    tag: Option<Text<'a>>,
    #[serde(borrow)]
    after: Option<Text<'a>>,
    payload: Option<Box<Incoming<'a>>>,
    #[serde(rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    seq: Option<u64>,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
    #[serde(borrow)]
    tag: Option<Text<'a>>,
    #[serde(borrow)]
    after: Option<Text<'a>>,
}

/// A text that is copied only if it contains escapes. (serde would always copy an `Option<Cow>`.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn cursor(seq: u64, epoch: &str, tag: Option<&str>) -> Result<Cursor, BadMessage> {
    let epoch = Epoch::parse(epoch).ok_or(BadMessage::Shape("the epoch is not 1 to 64 letters or digits"))?;
    Ok(Cursor { epoch, seq, tag: tag.map(read_tag).transpose()? })
}

fn read_tag(text: &str) -> Result<Tag, BadMessage> {
    Tag::parse(text).ok_or(BadMessage::Shape("a tag is 1 to 16 lowercase hexadecimal digits, not 0"))
}

/// The message property `type` of a head.
pub const HEAD_TYPE: &str = "bugfeed.head";

/// The fanout exchange on which a feed's publisher says its head. It is separate from the feed's own exchange, so that
/// consumers of changes, the history and durable queues never get a head.
pub fn head_exchange(exchange: &str) -> String {
    format!("{exchange}.head")
}

/// The head of a feed: its publisher says every few seconds how far it is. A gateway learns three things from it: that
/// messages of the publisher arrive, whether it has received everything, and whether another publisher is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Everything up to here is confirmed by the broker. The number is 0 if nothing was published yet.
    pub cursor: Cursor,
    /// Time from one head to the next, in milliseconds.
    pub interval_ms: u64,
    /// What the publisher waits for, while it has nothing to publish because of that: "change table" or "ledger".
    pub paused: Option<String>,
    /// When it was said, by the clock of the publisher; `None` from publishers that do not tell.
    pub sent: Option<When>,
}

#[derive(Serialize, Deserialize)]
struct HeadFields<'a> {
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<Cow<'a, str>>,
    interval_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<Cow<'a, str>>,
    /// Microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent_us: Option<i64>,
}

/// The body of a head's message.
pub fn encode_head(head: &Head) -> Vec<u8> {
    let Cursor { epoch, seq, tag } = &head.cursor;
    let fields = HeadFields {
        epoch: epoch.as_str().into(),
        seq: *seq,
        tag: tag.map(|tag| tag.to_string().into()),
        interval_ms: head.interval_ms,
        paused: head.paused.as_deref().map(Cow::from),
        sent_us: head.sent.map(When::as_micros),
    };
    serde_json::to_vec(&fields).expect("plain structs of numbers and texts always serialise")
}

/// The longest reason of a pause, in characters; a longer one is cut.
const PAUSED_MAX: usize = 100;

/// Reads a head. Unknown members are ignored.
///
/// # Errors
/// If the body is no head; the error says what is wrong.
pub fn decode_head(body: &[u8]) -> Result<Head, BadMessage> {
    let fields: HeadFields<'_> = serde_json::from_slice(body).map_err(|e| BadMessage::NotJson(e.to_string()))?;
    if fields.seq > BugId::MAX {
        return Err(BadMessage::Shape("seq is not from 0 to 2^63 - 1"));
    }
    let cursor = cursor(fields.seq, &fields.epoch, fields.tag.as_deref())?;
    // The interval is limited to between 0.1 s and an hour, so that a wait for the next head always ends, and never
    // becomes a busy loop.
    let interval_ms = fields.interval_ms.clamp(100, 3_600_000);
    let paused = fields.paused.map(|paused| paused.chars().take(PAUSED_MAX).collect());
    Ok(Head { cursor, interval_ms, paused, sent: fields.sent_us.and_then(When::from_micros) })
}

/// Reads a message in either form.
///
/// # Errors
/// If the message has neither form; the error says what is wrong. Every value is checked before it is used.
pub fn decode(body: &[u8]) -> Result<BusMessage, BadMessage> {
    let incoming: Incoming<'_> = serde_json::from_slice(body).map_err(|e| BadMessage::NotJson(e.to_string()))?;
    let (inner, number) = match incoming.payload {
        Some(payload) => match incoming.meta {
            Some(Meta { seq, epoch, tag, after }) => (*payload, (seq, epoch, tag, after)),
            None => (*payload, (None, None, None, None)),
        },
        None => {
            let Incoming { bug, when, seq, epoch, tag, after, .. } = incoming;
            let inner =
                Incoming { bug, when, seq: None, epoch: None, tag: None, after: None, payload: None, meta: None };
            (inner, (seq, epoch, tag, after))
        }
    };
    let bug = read_bug(inner.bug)?;
    let when = When::parse_utc(&inner.when.ok_or(BadMessage::Shape("no date"))?.0)?;
    let (seq, epoch, tag, after) = number;
    let cursor = match (seq, epoch) {
        (None, None) => None,
        (Some(seq), Some(_)) if !(1..=BugId::MAX).contains(&seq) => {
            return Err(BadMessage::Shape("seq is not from 1 to 2^63 - 1; numbers start at 1"));
        }
        (Some(seq), Some(epoch)) => Some(cursor(seq, &epoch.0, tag.as_ref().map(|tag| &*tag.0))?),
        _ => return Err(BadMessage::Shape("seq and epoch go together")),
    };
    let after = after.map(|after| read_tag(&after.0)).transpose()?;
    Ok(BusMessage { change: Change { bug, when }, cursor, after })
}

fn read_bug(value: Option<Value>) -> Result<BugId, BadMessage> {
    let bug = match value {
        Some(Value::Number(number)) => number.as_u64().and_then(BugId::new),
        Some(Value::String(text)) => BugId::parse(&text),
        Some(_) => None,
        None => return Err(BadMessage::Shape("no bug number")),
    };
    bug.ok_or(BadMessage::Shape("the bug number is not a whole number from 1 to 2^63 - 1"))
}

/// The message property `type` of a marker: a message that a reader of history publishes into the stream, to know where
/// the stream ended when the reading began.
pub const MARKER_TYPE: &str = "bugfeed.marker";

/// What a message of the bus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// One change.
    Change(BusMessage),
    /// Several changes, each of which may be unreadable.
    Batch(Vec<Element>),
    /// A publisher says how far it is.
    Head(Head),
    /// A marker in the stream of history.
    Marker,
}

/// Reads any message of the bus: its property `type`, if it has one, and its body.
///
/// # Errors
/// When the message cannot be read, or is of a type that begins with `bugfeed.` and is not known: a version that comes
/// later may write such messages.
pub fn read(kind: Option<&str>, body: &[u8]) -> Result<Message, BadMessage> {
    match kind {
        Some(BATCH_TYPE) => decode_batch(body).map(Message::Batch),
        Some(HEAD_TYPE) => decode_head(body).map(Message::Head),
        Some(MARKER_TYPE) => Ok(Message::Marker),
        Some(kind) if kind.starts_with("bugfeed.") => Err(BadMessage::UnknownType(kind.chars().take(40).collect())),
        _ => decode(body).map(Message::Change),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_change_is_refused_with_its_reason() {
        for (body, want) in [
            ("", "not JSON"),
            ("null", "not JSON"),
            ("[]", "not JSON"),
            ("{}", "no bug number"),
            (r#"{"bug":1}"#, "no date"),
            (r#"{"bug":0,"when":"2014-04-03"}"#, "whole number"),
            (r#"{"bug":1.5,"when":"2014-04-03"}"#, "whole number"),
            (r#"{"bug":1,"when":"never"}"#, "not a date"),
            (r#"{"bug":1,"when":"2014-04-03","seq":1}"#, "go together"),
            (r#"{"bug":1,"when":"2014-04-03","seq":0,"epoch":"E"}"#, "start at 1"),
            (r#"{"bug":1,"when":"2014-04-03","seq":1,"epoch":"a.b"}"#, "epoch"),
            (r#"{"bug":1,"when":"2014-04-03","seq":1,"epoch":"E","tag":"x"}"#, "a tag is"),
            (r#"{"payload":{}}"#, "no bug number"),
            (r#"{"payload":{"payload":{"id":1,"delta_ts":"2014-04-03"}}}"#, "no bug number"),
        ] {
            let error = decode(body.as_bytes()).expect_err(body).to_string();
            assert!(error.contains(want), "{body}: {error}");
        }
    }

    #[test]
    fn numbers_are_optional_and_unknown_members_ignored() {
        let bare = decode(br#"{"bug":7,"when":"2014-04-03T21:13:45","x":[1]}"#).unwrap();
        assert_eq!((bare.change.bug.get(), bare.cursor), (7, None));
        let pulse = decode(br#"{"payload":{"id":"7","delta_ts":"2014-04-03 21:13:45"},"_meta":{"count":3}}"#).unwrap();
        assert_eq!((pulse.change, pulse.cursor), (bare.change, None));
    }
}
