//! Bytes to frames and back.
//!
//! Goes in: bytes of the broker, which may be cut or wrong anywhere. Comes out: a frame that lies in those bytes, the fields
//! of a frame's payload, or an error that says what is wrong. Copies nothing, and never reads beyond what a length allows.

use std::io;

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use lapin::Error;

/// The last byte of each frame.
const FRAME_END: u8 = 0xce;
/// What a frame needs beside its payload: type, channel, size, end.
pub(super) const FRAME_BYTES: usize = 8;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    Header,
    Body,
    Heartbeat,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) channel: u16,
    pub(super) payload: &'a [u8],
}

/// An error for bytes that no AMQP broker sends.
pub(super) fn broken(what: &str) -> Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("this is not how AMQP 0-9-1 speaks: {what}")).into()
}

/// The frame at the beginning of `bytes`, and how many bytes it takes; none while it is not complete.
///
/// # Errors
/// If no frame can begin like this, or one is larger than `frame_max` allows.
pub(super) fn first_frame(bytes: &[u8], frame_max: usize) -> Result<Option<(Frame<'_>, usize)>, Error> {
    let mut head = Fields(bytes);
    let Some(kind) = head.u8() else { return Ok(None) };
    let kind = match kind {
        1 => Kind::Method,
        2 => Kind::Header,
        3 => Kind::Body,
        8 => Kind::Heartbeat,
        b'A' => return Err(broken("the broker wants another version")),
        _ => return Err(broken("a frame of an unknown type")),
    };
    let (Some(channel), Some(size)) = (head.u16(), head.u32()) else { return Ok(None) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > frame_max.saturating_sub(FRAME_BYTES) {
        return Err(broken("a frame that is larger than was agreed"));
    }
    let (Some(payload), Some(end)) = (head.take(size), head.u8()) else { return Ok(None) };
    if end != FRAME_END {
        return Err(broken("a frame without its end"));
    }
    Ok(Some((Frame { kind, channel, payload }, size + FRAME_BYTES)))
}

/// Appends a frame.
///
/// # Errors
/// If a text in it is longer than AMQP allows.
pub(super) fn write_frame(out: &mut Vec<u8>, frame: &AMQPFrame) -> Result<(), Error> {
    let before = out.len();
    let context = WriteContext { write: std::mem::take(out), position: 0 };
    match gen_frame(frame)(context) {
        Ok(written) => {
            *out = written.write;
            Ok(())
        }
        // What was waiting there is lost, and the connection with it.
        Err(error) => {
            Err(io::Error::other(format!("a frame after {before} bytes cannot be written: {error:?}")).into())
        }
    }
}

/// The fields of a payload, one after the other. Each is `None` when the payload ends before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text of up to 255 bytes.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let size = self.u8()?;
        self.take(size.into())
    }

    /// A long text, a table or an array.
    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let size = self.u32()?;
        self.take(usize::try_from(size).ok()?)
    }

    /// Passes over a value of a table; its type comes first. What is nested in it is not looked at, so that no depth of
    /// nesting costs anything. `None` if the type is not known, too.
    fn skip_value(&mut self, kind: u8) -> Option<()> {
        match kind {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.take(1).map(drop),
            b's' | b'U' | b'u' => self.take(2).map(drop),
            b'I' | b'i' | b'f' => self.take(4).map(drop),
            b'D' => self.take(5).map(drop),
            b'l' | b'L' | b'd' | b'T' => self.take(8).map(drop),
            b'S' | b'A' | b'F' | b'x' => self.long().map(drop),
            _ => None,
        }
    }

    /// The whole numbers of these names in a table; of several of one name the first.
    pub(super) fn numbers_in_table<const N: usize>(mut self, names: [&[u8]; N]) -> [Option<i64>; N] {
        let mut numbers = [None; N];
        while numbers.contains(&None) && self.next_number(names, &mut numbers).is_some() {}
        numbers
    }

    fn next_number<const N: usize>(&mut self, names: [&[u8]; N], numbers: &mut [Option<i64>; N]) -> Option<()> {
        let name = self.short()?;
        let kind = self.u8()?;
        match names.iter().position(|wanted| *wanted == name).filter(|_| matches!(kind, b'l' | b'L')) {
            Some(at) => {
                let number = self.array().map(i64::from_be_bytes)?;
                numbers[at].get_or_insert(number);
                Some(())
            }
            None => self.skip_value(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_where_they_end() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &AMQPFrame::Body(7, b"abc".to_vec())).unwrap();
        write_frame(&mut bytes, &AMQPFrame::Heartbeat).unwrap();
        for cut in 0..11 {
            assert_eq!(first_frame(&bytes[..cut], 4096).unwrap(), None, "{cut}");
        }
        let (frame, size) = first_frame(&bytes, 4096).unwrap().unwrap();
        assert_eq!((frame, size), (Frame { kind: Kind::Body, channel: 7, payload: b"abc" }, 11));
        let (frame, size) = first_frame(&bytes[11..], 4096).unwrap().unwrap();
        assert_eq!((frame, size), (Frame { kind: Kind::Heartbeat, channel: 0, payload: b"" }, 8));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let text = |bytes: &[u8]| first_frame(bytes, 4096).unwrap_err().to_string();
        assert!(text(b"AMQP\0\0\x09\x01").contains("another version"), "{}", text(b"AMQP"));
        assert!(text(b"HTTP/1.1 400").contains("unknown type"));
        assert!(text(&[3, 0, 1, 0, 0, 0x10, 0]).contains("larger than was agreed"));
        assert!(text(&[3, 0, 1, 0xff, 0xff, 0xff, 0xff]).contains("larger than was agreed"));
        assert!(text(&[8, 0, 0, 0, 0, 0, 0, 1]).contains("without its end"));
    }

    #[test]
    fn a_number_is_found_behind_values_of_every_type() {
        use lapin::types::{AMQPValue, FieldTable};
        let mut table = FieldTable::default();
        table.insert("a".into(), AMQPValue::LongString("x".into()));
        table.insert("b".into(), AMQPValue::Boolean(true));
        table.insert("c".into(), AMQPValue::FieldArray(vec![AMQPValue::ShortInt(1)].into()));
        table.insert("d".into(), AMQPValue::Double(0.5));
        table.insert("e".into(), AMQPValue::Void);
        table.insert("f".into(), AMQPValue::Timestamp(1));
        table.insert("g".into(), AMQPValue::LongUInt(1));
        table.insert("x-stream-offset".into(), AMQPValue::LongLongInt(-42));
        let properties = lapin::BasicProperties::default().with_headers(table);
        let header = amq_protocol::frame::AMQPContentHeader { class_id: 60, body_size: 0, properties };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &AMQPFrame::Header(1, header)).unwrap();
        let (frame, _) = first_frame(&bytes, 4096).unwrap().unwrap();
        let table = Fields(&frame.payload[14..]).long().unwrap();
        let numbers = |table| Fields(table).numbers_in_table([&b"other"[..], b"x-stream-offset"]);
        assert_eq!(numbers(table), [None, Some(-42)]);
        for cut in 0..table.len() {
            assert_eq!(numbers(&table[..cut]), [None, None]);
        }
    }
}
