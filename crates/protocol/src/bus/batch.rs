//! Several changes in one message. Their numbers follow one another, so that one number stands for all.
//!
//! Why: under load most of what a change costs on its way is paid for each message, not for each change.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BadMessage, BusMessage, Text, cursor, read_bug, read_tag};
use crate::change::{BugId, Change, Numbered, When};
use crate::cursor::{Cursor, Epoch, Tag};

/// The message property `type` of a batch.
pub const BATCH_TYPE: &str = "bugfeed.batch";

/// The largest body of a message that a gateway takes in, in bytes, and that a shim makes. A batch of 500 changes has some
/// 30 KB. A gateway keeps many messages while it reads history, so this bounds its memory.
pub const BODY_MAX: usize = 256 << 10;

/// The most changes of one message that are read.
const CHANGES_MAX: usize = 10_000;

/// The routing key of a batch that is not routed by its bugs.
pub const BATCH_KEY: &str = "batch";

/// One change of a batch, or why it cannot be read. The others of the batch are not affected by it.
pub type Element = Result<BusMessage, BadMessage>;

#[derive(Serialize)]
struct Batch<'a> {
    epoch: &'a Epoch,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Tag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Tag>,
    changes: Changes<'a>,
}

struct Changes<'a>(&'a [Numbered]);

impl Serialize for Changes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|numbered| &numbered.change))
    }
}

/// How many of these changes, from the front, one message can hold, `max` at most: those whose numbers follow one another
/// in one history. At least 1, unless there is none.
pub fn batch_len(changes: &[Numbered], max: usize) -> usize {
    let follows = |pair: &[Numbered]| {
        let (one, next) = (&pair[0].cursor, &pair[1].cursor);
        pair[1].after.is_none() && one.seq + 1 == next.seq && one.tag == next.tag && one.epoch == next.epoch
    };
    let rest = changes.windows(2).take(max.saturating_sub(1)).take_while(|pair| follows(pair)).count();
    changes.len().min(rest + 1)
}

/// The body of a batch. The changes must follow one another, as [`batch_len`] says.
///
/// # Panics
/// When there is no change.
pub fn encode_batch(changes: &[Numbered]) -> Vec<u8> {
    let Numbered { cursor: Cursor { epoch, seq, tag }, after, .. } = &changes[0];
    let mut body = Vec::with_capacity(128 + 48 * changes.len());
    let batch = Batch { epoch, seq: *seq, tag: *tag, after: *after, changes: Changes(changes) };
    serde_json::to_writer(&mut body, &batch).expect("plain structs of numbers and texts always serialise");
    body
}

/// The members of a batch. `C` is what its changes are read as.
#[derive(Deserialize)]
#[serde(bound(deserialize = "C: Deserialize<'de>"))]
struct Fields<'a, C> {
    seq: Option<u64>,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
    #[serde(borrow)]
    tag: Option<Text<'a>>,
    #[serde(borrow)]
    after: Option<Text<'a>>,
    changes: Vec<C>,
}

/// A change as the shim writes it.
#[derive(Deserialize)]
struct Plain {
    bug: BugId,
    when: When,
}

/// Reads a batch. A producer other than the shim may leave the numbers out.
///
/// # Errors
/// When the body is no batch. A single change that cannot be read is an error of that [`Element`] alone; its number is
/// then missing.
pub fn decode_batch(body: &[u8]) -> Result<Vec<Element>, BadMessage> {
    if let Ok(fields) = serde_json::from_slice::<Fields<'_, Plain>>(body) {
        return elements(fields, |Plain { bug, when }| Ok(Change { bug, when }));
    }
    // Each change is read by itself, so that it is known which of them is wrong.
    let fields: Fields<'_, Value> = serde_json::from_slice(body).map_err(|e| BadMessage::NotJson(e.to_string()))?;
    elements(fields, read_change)
}

fn elements<C>(
    fields: Fields<'_, C>,
    read: impl Fn(C) -> Result<Change, BadMessage>,
) -> Result<Vec<Element>, BadMessage> {
    let Fields { seq, epoch, tag, after, changes } = fields;
    if changes.len() > CHANGES_MAX {
        return Err(BadMessage::Shape("more than 10000 changes in one message"));
    }
    let first = match (seq, epoch) {
        (None, None) => None,
        (Some(seq), Some(epoch)) => Some(cursor(seq, &epoch.0, tag.as_ref().map(|tag| &*tag.0))?),
        _ => return Err(BadMessage::Shape("seq and epoch go together")),
    };
    let count = u64::try_from(changes.len()).unwrap_or(u64::MAX);
    let last = first.as_ref().map_or(1, |first| first.seq.saturating_add(count.saturating_sub(1)));
    if first.as_ref().is_some_and(|first| first.seq == 0) || last > BugId::MAX {
        return Err(BadMessage::Shape("a number is not from 1 to 2^63 - 1; numbers start at 1"));
    }
    let mut after = after.map(|after| read_tag(&after.0)).transpose()?;
    let numbered = changes.into_iter().zip(0..).map(|(change, place)| {
        let cursor = first.as_ref().map(|first| Cursor { seq: first.seq + place, ..first.clone() });
        // Only before the first number may another history lie.
        let after = after.take();
        read(change).map(|change| BusMessage { change, cursor, after })
    });
    Ok(numbered.collect())
}

fn read_change(value: Value) -> Result<Change, BadMessage> {
    let Value::Object(mut members) = value else { return Err(BadMessage::Shape("a change is no object")) };
    let mut member = |one: &str, other: &str| members.remove(one).or_else(|| members.remove(other));
    let bug = read_bug(member("bug", "id"))?;
    match member("when", "delta_ts") {
        Some(Value::String(when)) => Ok(Change { bug, when: When::parse_utc(&when)? }),
        _ => Err(BadMessage::Shape("no date")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(text: &str) -> Numbered {
        let (number, after) = text.split_once(" after ").unwrap_or((text, ""));
        let cursor = Cursor::parse(number).unwrap();
        let change = Change { bug: BugId::new(cursor.seq).unwrap(), when: When::MIN };
        Numbered { change, cursor, after: Tag::parse(after), recorded: When::MIN }
    }

    #[test]
    fn what_does_not_follow_goes_into_another_message() {
        let check = |texts: &[&str], max: usize, want: usize| {
            let changes: Vec<Numbered> = texts.iter().map(|text| numbered(text)).collect();
            assert_eq!(batch_len(&changes, max), want, "{texts:?}, {max} at most");
            if want > 0 {
                let read: Vec<BusMessage> =
                    decode_batch(&encode_batch(&changes[..want])).unwrap().into_iter().map(Result::unwrap).collect();
                let sent: Vec<BusMessage> = changes[..want].iter().cloned().map(BusMessage::from).collect();
                assert_eq!(read, sent, "{texts:?}");
            }
        };
        check(&[], 10, 0);
        check(&["E.1"], 10, 1);
        check(&["E.1", "E.2", "E.3"], 10, 3);
        check(&["E.1", "E.2", "E.3"], 2, 2);
        check(&["E.1", "E.2", "E.3"], 0, 1);
        check(&["E.1", "E.3"], 10, 1);
        check(&["E.1", "F.2"], 10, 1);
        check(&["E.1.a", "E.2.a", "E.3.b after a"], 10, 2);
        check(&["E.3.b after a", "E.4.b"], 10, 2);
        check(&["E.1", "E.2.a"], 10, 1);
    }

    #[test]
    fn one_bad_change_costs_only_itself() {
        let body = r#"{"epoch":"E","seq":7,"changes":[{"bug":1,"when":"2014-04-03"},{"bug":0,"when":"2014-04-03"},
            {"bug":"3","delta_ts":"2014-04-03 10:00:00"},7,{"bug":5},{"bug":6,"when":"never"},{"id":7,"when":"2014-04-03"}]}"#;
        let said: Vec<String> = decode_batch(body.as_bytes())
            .unwrap()
            .into_iter()
            .map(|element| match element {
                Ok(message) => format!("{} {}", message.cursor.unwrap(), message.change.bug),
                Err(error) => error.to_string(),
            })
            .collect();
        for (said, want) in
            said.iter().zip(["E.7 1", "whole number", "E.9 3", "no object", "no date", "not a date", "E.13 7"])
        {
            assert!(said.contains(want), "{said}, not {want}");
        }
    }

    #[test]
    fn what_is_no_batch_is_refused_with_its_reason() {
        for (body, want) in [
            ("", "not JSON"),
            ("[]", "not JSON"),
            ("{}", "changes"),
            (r#"{"changes":7}"#, "expected a sequence"),
            (&format!(r#"{{"changes":[{}0]}}"#, "0,".repeat(10_000)), "more than 10000"),
            (r#"{"changes":[],"seq":1}"#, "go together"),
            (r#"{"changes":[],"seq":0,"epoch":"E"}"#, "start at 1"),
            (r#"{"changes":[],"seq":1,"epoch":"a.b"}"#, "epoch"),
            (r#"{"changes":[{"bug":1,"when":"2014-04-03"},{}],"seq":9223372036854775807,"epoch":"E"}"#, "2^63"),
        ] {
            let error = decode_batch(body.as_bytes()).expect_err(body).to_string();
            assert!(error.contains(want), "{body}: {error}");
        }
    }
}
