//! The messages that a batch of changes becomes.
//!
//! Goes in: numbered changes, in order. Comes out: messages, in order, each with one or several changes. Pure: sends
//! nothing.

use bugfeed_amqp::consuming::{RECORDED_US, SENT_US};
use bugfeed_protocol::bus::{BATCH_KEY, BATCH_TYPE, BODY_MAX, Format, batch_len, encode, encode_batch};
use bugfeed_protocol::{Numbered, When};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};

use super::options::{AmqpOptions, BatchOptions};

/// The most bytes that one change takes in a batch's body, and in the header `CC`: a bug number has up to 19 digits, a date
/// up to 26 characters.
const CHANGE_BYTES: usize = 96;
/// What a batch needs beside its changes.
const HEAD_BYTES: usize = 1024;
/// Most keys of a message: the broker sends them to consumers in one frame, and some take no more than 16 KiB.
const KEYS: usize = 500;

/// How changes may be put together on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Most changes in one message.
    pub(super) changes: usize,
}

impl Room {
    /// `keeps_all`: a queue takes every message, whatever its key. Where that is not certain, each change goes alone: a
    /// message of several is confirmed when one of its keys leads to a queue, which says nothing of the others.
    pub(super) fn of(options: &AmqpOptions, keeps_all: bool, frame_max: usize) -> Room {
        // RabbitMQ takes properties only in one frame; 0 means no bound.
        let frame_max = if frame_max == 0 { 131_072 } else { frame_max };
        let fit = frame_max.min(BODY_MAX).saturating_sub(HEAD_BYTES) / CHANGE_BYTES;
        let together = keeps_all && options.format == Format::Native;
        let keys = if options.batch.keys { KEYS } else { usize::MAX };
        Room { changes: if together { options.batch.max.min(fit).min(keys).max(1) } else { 1 } }
    }
}

/// A message that is ready to be sent.
#[derive(Debug)]
pub struct Message {
    /// How many changes it holds.
    pub changes: usize,
    /// The number of the last one.
    pub last: u64,
    /// When that was recorded.
    pub recorded: When,
    /// The routing key.
    pub key: String,
    /// Its properties.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
}

/// The messages of a batch, in order.
pub(super) fn messages<'a>(
    batch: &'a [Numbered],
    options: &'a AmqpOptions,
    room: Room,
) -> impl Iterator<Item = Message> + 'a {
    let single = |one: &Numbered| encode(one, options.format, &options.exchange);
    split(batch, room.changes, options.batch.keys, single)
}

/// The messages of a batch in the native format, in order, for a broker with frames of the usual size (128 KiB).
pub fn native(batch: &[Numbered], together: BatchOptions) -> impl Iterator<Item = Message> + '_ {
    split(batch, together.max.clamp(1, KEYS), together.keys, |one| encode(one, Format::Native, ""))
}

/// Splits a batch into messages of up to `max` changes. `single`: the body of a change that goes alone.
fn split<'a>(
    mut batch: &'a [Numbered],
    max: usize,
    keys: bool,
    single: impl Fn(&Numbered) -> Vec<u8> + 'a,
) -> impl Iterator<Item = Message> + 'a {
    std::iter::from_fn(move || {
        let (together, rest) = batch.split_at(batch_len(batch, max));
        batch = rest;
        match together {
            [] => None,
            [one] => Some(Message {
                changes: 1,
                last: one.cursor.seq,
                recorded: one.recorded,
                key: one.change.bug.to_string(),
                properties: properties(one),
                body: single(one),
            }),
            several => Some(several_together(several, keys)),
        }
    })
}

fn several_together(changes: &[Numbered], keys: bool) -> Message {
    let last = &changes[changes.len() - 1];
    let mut properties = properties(last).with_type(BATCH_TYPE.into());
    let mut key = BATCH_KEY.to_owned();
    if keys {
        let mut bugs: Vec<u64> = changes.iter().map(|numbered| numbered.change.bug.get()).collect();
        bugs.sort_unstable();
        bugs.dedup();
        let mut bugs = bugs.iter().map(u64::to_string);
        key = bugs.next().unwrap_or(key);
        let further: FieldArray = bugs.map(|bug| AMQPValue::LongString(bug.into())).collect::<Vec<_>>().into();
        let mut headers = FieldTable::default();
        headers.insert("CC".into(), AMQPValue::FieldArray(further));
        properties = properties.with_headers(headers);
    }
    let (last, recorded) = (last.cursor.seq, last.recorded);
    Message { changes: changes.len(), last, recorded, key, properties, body: encode_batch(changes) }
}

fn properties(last: &Numbered) -> BasicProperties {
    // Rounded up: a stream reader that starts "from this second on" must not begin after it. Of several changes it is that of
    // the last: who asks for what was recorded since a moment must not miss any of them.
    let recorded_s = last.recorded.as_micros().unsigned_abs().div_ceil(1_000_000);
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(last.cursor.number().into())
        .with_timestamp(recorded_s)
        .with_app_id("bugfeed".into())
}

/// The same properties, with the exact times: gateways measure with them how long changes take.
pub(super) fn with_times(properties: BasicProperties, recorded: When, sent: When) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    for (name, when) in [(RECORDED_US, recorded), (SENT_US, sent)] {
        headers.insert(name.into(), AMQPValue::LongLongInt(when.as_micros()));
    }
    properties.with_headers(headers)
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, Change, Cursor};

    use super::*;

    fn changes(numbers: &[(&str, u64)]) -> Vec<Numbered> {
        let change = |bug| Change { bug: BugId::new(bug).unwrap(), when: When::MIN };
        let numbered = |(number, bug): &(&str, u64)| Numbered {
            change: change(*bug),
            cursor: Cursor::parse(number).unwrap(),
            after: None,
            recorded: When::from_micros(i64::try_from(*bug).unwrap() * 1_000_001).unwrap(),
        };
        numbers.iter().map(numbered).collect()
    }

    fn options(batch: BatchOptions, format: Format) -> AmqpOptions {
        let url = bugfeed_amqp::parse_url("amqp://127.0.0.1").unwrap();
        AmqpOptions { url, exchange: "x".to_owned(), format, batch, history: None }
    }

    /// Each message as its key, the further keys, its id and its number of changes.
    fn shown(changes: &[Numbered], options: &AmqpOptions, room: Room) -> Vec<String> {
        let show = |message: Message| {
            let headers = message.properties.headers().clone().unwrap_or_default();
            let further = match headers.inner().get("CC") {
                Some(AMQPValue::FieldArray(keys)) => keys
                    .as_slice()
                    .iter()
                    .map(|key| key.as_long_string().unwrap().to_string())
                    .collect::<Vec<_>>()
                    .join(","),
                _ => String::new(),
            };
            let id = message.properties.message_id().as_ref().unwrap().to_string();
            let second = message.properties.timestamp().unwrap();
            format!("{}+{further} {id} {} @{second}", message.key, message.changes)
        };
        messages(changes, options, room).map(show).collect()
    }

    #[test]
    fn what_follows_goes_together() {
        let options = |max, keys| options(BatchOptions { max, keys }, Format::Native);
        let room = |options: &AmqpOptions| Room::of(options, true, 131_072);
        let four = changes(&[("E.1", 7), ("E.2", 5), ("E.3", 7), ("E.5", 8)]);
        let all = options(500, true);
        assert_eq!(shown(&four, &all, room(&all)), ["5+7 E.3 3 @8", "8+ E.5 1 @9"]);
        let two = options(2, false);
        assert_eq!(shown(&four, &two, room(&two)), ["batch+ E.2 2 @6", "7+ E.3 1 @8", "8+ E.5 1 @9"]);
        assert_eq!(shown(&[], &all, room(&all)), [""; 0]);
    }

    #[test]
    fn changes_go_alone_where_nothing_else_is_certain() {
        let native = options(BatchOptions::default(), Format::Native);
        let pulse = options(BatchOptions::default(), Format::Pulse);
        let room = |options: &AmqpOptions, keeps_all, frame_max| Room::of(options, keeps_all, frame_max).changes;
        assert_eq!(room(&native, true, 0), 500);
        assert_eq!(room(&native, true, 4096), 32);
        assert_eq!(room(&native, true, 65_536), 500);
        for (keys, want) in [(true, 500), (false, 1354)] {
            let options = options(BatchOptions { max: 9000, keys }, Format::Native);
            assert_eq!(room(&options, true, 131_072), want, "keys: {keys}");
        }
        assert_eq!(room(&native, true, 1), 1);
        assert_eq!(room(&native, false, 0), 1, "the keys of a batch could lead to one consumer alone");
        assert_eq!(room(&pulse, true, 0), 1, "consumers of the older envelope read one change a message");
    }

    #[test]
    fn the_largest_changes_fit() {
        let number = |seq| format!("{}.{seq}.ffffffffffffffff", "E".repeat(64));
        let longest = When::from_micros(When::MAX.as_micros() - 1).unwrap();
        let batch: Vec<Numbered> = (0..32)
            .map(|place| Numbered {
                change: Change { bug: BugId::new(BugId::MAX - place).unwrap(), when: longest },
                cursor: Cursor::parse(&number(BugId::MAX - 40 + place)).unwrap(),
                after: None,
                recorded: longest,
            })
            .collect();
        let options = options(BatchOptions::default(), Format::Native);
        let all: Vec<Message> = messages(&batch, &options, Room::of(&options, true, 4096)).collect();
        assert_eq!(all.len(), 1);
        // A further key takes a byte for its type, four for its length, and its digits.
        assert!(all[0].body.len() + 32 * (5 + 19) < 4096, "{}", all[0].body.len());
    }
}
