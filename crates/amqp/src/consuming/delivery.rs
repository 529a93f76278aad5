//! A message that the broker delivers, put together from its frames.
//!
//! Goes in: the payloads of a `basic.deliver`, of a content header and of body frames. Comes out: a [`Delivery`]. The bytes
//! of a message are copied once, into one allocation.

use lapin::Error;

use super::wire::{Fields, broken};

/// The largest body that is kept, in bytes. A larger one is passed over as it comes, and delivered without its body. What a
/// header promises is reserved at once, so that a body takes as much memory as it has bytes.
pub const BODY_MAX: u64 = bugfeed_protocol::bus::BODY_MAX as u64;

/// The header of a message that says when its last change was recorded. Publishers put it on a sample of their messages.
pub const RECORDED_US: &str = "bugfeed-recorded-us";
/// The header that says when the message was published.
pub const SENT_US: &str = "bugfeed-sent-us";

/// A message of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    tag: u64,
    timestamp: Option<u64>,
    stream_offset: Option<i64>,
    stamps: [Option<i64>; 2],
    size: u64,
    /// Type, message id and body, one after the other.
    data: Vec<u8>,
    kind: Option<u8>,
    id: u8,
}

impl Delivery {
    /// What it is acknowledged by.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// The property `type`, where it is set (and is a text).
    pub fn kind(&self) -> Option<&str> {
        let size = usize::from(self.kind?);
        self.data.get(..size).and_then(|kind| std::str::from_utf8(kind).ok())
    }

    /// The property `message_id`, or an empty text.
    pub fn message_id(&self) -> &str {
        let begin = usize::from(self.kind.unwrap_or(0));
        let id = self.data.get(begin..begin + usize::from(self.id));
        id.and_then(|id| std::str::from_utf8(id).ok()).unwrap_or("")
    }

    /// The property `timestamp`, in seconds since 1970.
    pub fn timestamp(&self) -> Option<u64> {
        self.timestamp
    }

    /// Where it lies in a stream.
    pub fn stream_offset(&self) -> Option<i64> {
        self.stream_offset
    }

    /// The headers [`RECORDED_US`] and [`SENT_US`], in microseconds since 1970, where the message has them.
    pub fn stamps(&self) -> [Option<i64>; 2] {
        self.stamps
    }

    /// The body; empty if it is too large ([`Delivery::too_large`]).
    pub fn body(&self) -> &[u8] {
        self.data.get(usize::from(self.kind.unwrap_or(0)) + usize::from(self.id)..).unwrap_or(&[])
    }

    /// The size of a body that is larger than [`BODY_MAX`], and was passed over.
    pub fn too_large(&self) -> Option<u64> {
        (self.size > BODY_MAX).then_some(self.size)
    }

    /// Bytes that it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.data.capacity() + size_of::<Delivery>()
    }
}

/// A delivery of which more is to come.
#[derive(Debug)]
pub(super) struct Arriving {
    delivery: Delivery,
    /// Bytes of the body that have not come; none before the header has.
    missing: Option<u64>,
}

impl Arriving {
    /// Begins with the arguments of `basic.deliver`.
    pub(super) fn begin(mut arguments: Fields<'_>) -> Result<Arriving, Error> {
        let tag = arguments.short().and_then(|_consumer| arguments.u64());
        let tag = tag.ok_or_else(|| broken("a delivery without a tag"))?;
        Ok(Arriving { delivery: Delivery { tag, ..Delivery::default() }, missing: None })
    }

    /// Takes the content header in. Whether the delivery is complete.
    pub(super) fn header(&mut self, payload: &[u8]) -> Result<bool, Error> {
        let mut fields = Fields(payload);
        let size = fields.take(4).and_then(|_class_and_weight| fields.u64());
        let (Some(size), None) = (size, self.missing) else { return Err(broken("a header where none belongs")) };
        let delivery = &mut self.delivery;
        (delivery.size, self.missing) = (size, Some(size));
        // Who publishes writes the properties. What cannot be read of them is left out: it must not end the connection.
        let read = properties(fields).unwrap_or_default();
        (delivery.timestamp, delivery.stream_offset) = (read.timestamp, read.stream_offset);
        delivery.stamps = read.stamps;
        let (kind, id) = (read.kind.unwrap_or_default(), read.message_id);
        delivery.kind = read.kind.map(|kind| u8::try_from(kind.len()).unwrap_or(0));
        delivery.id = u8::try_from(id.len()).unwrap_or(0);
        let body = if size > BODY_MAX { 0 } else { usize::try_from(size).unwrap_or(0) };
        delivery.data.reserve_exact(kind.len() + id.len() + body);
        delivery.data.extend_from_slice(kind);
        delivery.data.extend_from_slice(id);
        Ok(size == 0)
    }

    /// Takes a piece of the body in. Whether the delivery is complete.
    pub(super) fn body(&mut self, payload: &[u8]) -> Result<bool, Error> {
        let size = payload.len() as u64;
        let missing = self.missing.and_then(|missing| missing.checked_sub(size));
        self.missing = Some(missing.ok_or_else(|| broken("a body where none belongs"))?);
        if self.delivery.size <= BODY_MAX {
            self.delivery.data.extend_from_slice(payload);
        }
        Ok(self.missing == Some(0))
    }

    /// The whole delivery.
    pub(super) fn end(self) -> Delivery {
        self.delivery
    }
}

/// The properties that somebody asks for.
#[derive(Default)]
struct Properties<'a> {
    kind: Option<&'a [u8]>,
    message_id: &'a [u8],
    timestamp: Option<u64>,
    stream_offset: Option<i64>,
    stamps: [Option<i64>; 2],
}

/// Reads the properties; `None` where they are cut.
fn properties(mut fields: Fields<'_>) -> Option<Properties<'_>> {
    let mut read = Properties::default();
    let flags = fields.u16()?;
    if flags & 1 != 0 {
        // Further words of flags: AMQP 0-9-1 has no property for them.
        return None;
    }
    let has = |bit: u16| flags & (1 << bit) != 0;
    if has(15) {
        fields.short()?;
    }
    if has(14) {
        fields.short()?;
    }
    if has(13) {
        let names = [&b"x-stream-offset"[..], RECORDED_US.as_bytes(), SENT_US.as_bytes()];
        let [offset, recorded, sent] = Fields(fields.long()?).numbers_in_table(names);
        (read.stream_offset, read.stamps) = (offset, [recorded, sent]);
    }
    // Delivery mode and priority are bytes; then correlation id, reply to and expiration.
    fields.take(usize::from(has(12)) + usize::from(has(11)))?;
    for bit in [10, 9, 8] {
        if has(bit) {
            fields.short()?;
        }
    }
    if has(7) {
        read.message_id = fields.short()?;
    }
    if has(6) {
        read.timestamp = Some(fields.u64()?);
    }
    if has(5) {
        read.kind = Some(fields.short()?);
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::{AMQPValue, FieldTable};

    use super::super::wire::{first_frame, write_frame};
    use super::*;
    use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};

    fn header(properties: BasicProperties, body_size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size, properties }))
            .unwrap();
        first_frame(&bytes, 1 << 20).unwrap().unwrap().0.payload.to_vec()
    }

    fn deliver() -> Arriving {
        Arriving::begin(Fields(b"\x03ctg\0\0\0\0\0\0\x01\x02\x01\x01x\x01k")).unwrap()
    }

    #[test]
    fn all_that_is_asked_for_is_read() {
        let mut table = FieldTable::default();
        table.insert("CC".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("8".into())].into()));
        table.insert("x-stream-offset".into(), AMQPValue::LongLongInt(77));
        table.insert(RECORDED_US.into(), AMQPValue::LongLongInt(1_700_000_000_000_001));
        table.insert(SENT_US.into(), AMQPValue::LongLongInt(1_700_000_000_000_002));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_headers(table)
            .with_delivery_mode(2)
            .with_priority(1)
            .with_correlation_id("c".into())
            .with_reply_to("r".into())
            .with_expiration("9".into())
            .with_message_id("E.5".into())
            .with_timestamp(1_700_000_000)
            .with_type("bugfeed.head".into())
            .with_user_id("u".into())
            .with_app_id("a".into());
        let mut arriving = deliver();
        assert!(!arriving.header(&header(properties, 7)).unwrap());
        assert!(!arriving.body(b"{\"a\"").unwrap());
        assert!(arriving.body(b":1}").unwrap());
        let delivery = arriving.end();
        assert_eq!((delivery.tag(), delivery.kind(), delivery.message_id()), (258, Some("bugfeed.head"), "E.5"));
        assert_eq!((delivery.timestamp(), delivery.stream_offset()), (Some(1_700_000_000), Some(77)));
        assert_eq!(delivery.stamps(), [Some(1_700_000_000_000_001), Some(1_700_000_000_000_002)]);
        assert_eq!((delivery.body(), delivery.too_large()), (&b"{\"a\":1}"[..], None));
    }

    #[test]
    fn what_a_publisher_wrote_wrongly_ends_nothing() {
        let whole = header(BasicProperties::default().with_message_id("E.5".into()).with_timestamp(5), 0);
        for cut in 12..whole.len() {
            let mut arriving = deliver();
            assert!(arriving.header(&whole[..cut]).unwrap(), "{cut}");
            let delivery = arriving.end();
            assert_eq!((delivery.message_id(), delivery.timestamp(), delivery.body()), ("", None, &b""[..]));
        }
        // A table of tables of tables: as deep as a frame can hold.
        let mut table = Vec::new();
        for _ in 0..5_000 {
            table = [&[1, b'a', b'F'][..], &u32::try_from(table.len()).unwrap().to_be_bytes(), &table].concat();
        }
        let size = u32::try_from(table.len()).unwrap().to_be_bytes();
        let payload = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0][..], &size, &table].concat();
        let mut arriving = deliver();
        assert!(arriving.header(&payload).unwrap());
        assert_eq!(arriving.end().stream_offset(), None);
    }

    #[test]
    fn a_body_that_is_too_large_is_passed_over() {
        let mut arriving = deliver();
        let size = BODY_MAX + 10;
        assert!(!arriving.header(&header(BasicProperties::default().with_type("t".into()), size)).unwrap());
        let piece = vec![b'x'; 1 << 16];
        let mut left = size;
        loop {
            let now = left.min(1 << 16);
            left -= now;
            let done = arriving.body(&piece[..usize::try_from(now).unwrap()]).unwrap();
            assert_eq!(done, left == 0);
            if done {
                break;
            }
        }
        let delivery = arriving.end();
        assert!(delivery.bytes() < 1000, "{}", delivery.bytes());
        assert_eq!((delivery.too_large(), delivery.body(), delivery.kind()), (Some(size), &b""[..], Some("t")));
    }

    #[test]
    fn frames_in_another_order_are_refused() {
        assert!(Arriving::begin(Fields(b"\x03ctg\0\0")).is_err());
        assert!(deliver().body(b"x").is_err(), "no header before it");
        let mut arriving = deliver();
        assert!(!arriving.header(&header(BasicProperties::default(), 2)).unwrap());
        assert!(arriving.header(&header(BasicProperties::default(), 2)).is_err(), "two headers");
        assert!(arriving.body(b"xyz").is_err(), "more than was said");
        // What a header promises costs no more than what may be kept.
        let mut arriving = deliver();
        assert!(!arriving.header(&header(BasicProperties::default(), u64::MAX)).unwrap());
        assert!(arriving.delivery.bytes() < 1_000);
        let mut arriving = deliver();
        assert!(!arriving.header(&header(BasicProperties::default(), BODY_MAX)).unwrap());
        assert!(arriving.delivery.bytes() < 300_000);
    }
}
