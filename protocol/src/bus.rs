//! The message a change travels in on the bus (AMQP): the native form, and the older envelope.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::{BugId, Change, Numbered, When};
use crate::cursor::{Cursor, Epoch};

/// How a shim writes messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `{"bug":…,"when":…,"seq":…,"epoch":…}`
    #[default]
    Native,
    /// `{"payload":{"id":…,"delta_ts":…},"_meta":{…}}`, what consumers of the 2014 exchange
    /// `exchange/bugzilla/simple` read. The number goes into `_meta`, where they ignore it.
    Pulse,
}

/// A message as a gateway reads it. A producer other than the shim may leave the number out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusMessage {
    /// The change.
    pub change: Change,
    /// Its number, if the producer gave one.
    pub cursor: Option<Cursor>,
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
}

#[derive(Serialize)]
struct Native<'a> {
    bug: BugId,
    when: When,
    seq: u64,
    epoch: &'a Epoch,
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
}

/// The body of a change's message. `exchange` is where it goes, for the envelope's `_meta`.
pub fn encode(numbered: &Numbered, format: Format, exchange: &str) -> Vec<u8> {
    let Change { bug, when } = numbered.change;
    let Cursor { epoch, seq } = &numbered.cursor;
    let encoded = match format {
        Format::Native => serde_json::to_vec(&Native { bug, when, seq: *seq, epoch }),
        Format::Pulse => serde_json::to_vec(&Pulse {
            payload: PulsePayload { id: bug, delta_ts: when },
            _meta: PulseMeta {
                exchange,
                routing_key: bug.to_string(),
                sent: numbered.recorded,
                serializer: "json",
                seq: *seq,
                epoch,
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
    payload: Option<Box<Incoming<'a>>>,
    #[serde(rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    seq: Option<u64>,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
}

/// A text that is copied only where it has escapes; an `Option<Cow>` always would be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a message of either form.
///
/// # Errors
/// Says what is wrong with a message that is neither; nothing in it is trusted before it is checked.
pub fn decode(body: &[u8]) -> Result<BusMessage, BadMessage> {
    let incoming: Incoming<'_> = serde_json::from_slice(body).map_err(|e| BadMessage::NotJson(e.to_string()))?;
    let (inner, seq, epoch) = match incoming.payload {
        Some(payload) => match incoming.meta {
            Some(meta) => (*payload, meta.seq, meta.epoch),
            None => (*payload, None, None),
        },
        None => {
            let Incoming { bug, when, seq, epoch, .. } = incoming;
            (Incoming { bug, when, seq: None, epoch: None, payload: None, meta: None }, seq, epoch)
        }
    };
    let bug = match inner.bug {
        Some(Value::Number(number)) => number.as_u64().and_then(BugId::new),
        Some(Value::String(text)) => BugId::parse(&text),
        Some(_) => None,
        None => return Err(BadMessage::Shape("no bug number")),
    };
    let bug = bug.ok_or(BadMessage::Shape("the bug number is not a whole number from 1 to 2^63 - 1"))?;
    let when = When::parse_utc(&inner.when.ok_or(BadMessage::Shape("no date"))?.0)?;
    let cursor = match (seq, epoch) {
        (None, None) => None,
        (Some(seq), Some(epoch)) if (1..=BugId::MAX).contains(&seq) => {
            let epoch =
                Epoch::parse(&epoch.0).ok_or(BadMessage::Shape("the epoch is not 1 to 64 letters or digits"))?;
            Some(Cursor { epoch, seq })
        }
        (Some(_), Some(_)) => return Err(BadMessage::Shape("seq is not from 1 to 2^63 - 1; numbers start at 1")),
        _ => return Err(BadMessage::Shape("seq and epoch go together")),
    };
    Ok(BusMessage { change: Change { bug, when }, cursor })
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
