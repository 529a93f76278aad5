//! Follows the bytes of a WebSocket peer from frame to frame (RFC 6455 §5.2).
//!
//! Goes in: bytes, cut anywhere. Comes out: whether the last one ended a message, how much of an unfinished message has
//! arrived, the code of a close frame, and the first frame whose head is against the RFC. It never looks at what is in a
//! message.

/// How many frames a message may have before its last one. Libraries send a command in one frame, or in frames of some
/// kilobytes each.
pub(super) const FRAGMENTS: u32 = 1024;

const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
/// The longest payload of a control frame.
const LONGEST_CONTROL: u8 = 125;

/// Where in the frames of a peer its bytes have got to.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// The part of a frame's header that has arrived, at most 14 bytes; `held` of them are valid.
    header: [u8; 14],
    held: usize,
    /// Bytes of the frame's payload still to come.
    payload: u64,
    /// A message has begun and its last frame has not arrived.
    fragmented: bool,
    /// The current frame is a control frame, which is not part of a message.
    control: bool,
    /// Frames of the current message, without its last. The count stops growing once it is over the limit.
    fragments: u32,
    /// Bytes of the current message.
    unfinished: usize,
    closing: Option<Closing>,
    breach: Option<&'static str>,
}

/// The beginning of a close frame's payload: its code.
#[derive(Debug)]
struct Closing {
    mask: [u8; 4],
    code: [u8; 2],
    held: usize,
}

impl Boundary {
    /// Whether every frame that has begun is complete, and ended a message or stands beside messages.
    pub(super) fn is_between_messages(&self) -> bool {
        self.held == 0 && self.payload == 0 && !self.fragmented
    }

    /// Whether a message has begun and its last frame has not arrived.
    pub(super) fn is_within_fragments(&self) -> bool {
        self.fragmented
    }

    /// Frames of the current message, without its last.
    pub(super) fn fragments(&self) -> u32 {
        self.fragments
    }

    /// Bytes of the current message that have arrived.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// What the first frame with a wrong head does against RFC 6455. Nothing after it is followed.
    pub(super) fn breach(&self) -> Option<&'static str> {
        self.breach
    }

    /// The code in the close frame that came last.
    pub(super) fn close_code(&self) -> Option<u16> {
        self.closing.as_ref().filter(|closing| closing.held == 2).map(|closing| u16::from_be_bytes(closing.code))
    }

    /// Follows these bytes. Returns how many of them stand before a [`breach`](Self::breach): all of them if there is none.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        loop {
            if self.breach.is_some() {
                return bytes.len() - rest.len();
            }
            let skip = usize::try_from(self.payload).unwrap_or(usize::MAX).min(rest.len());
            self.payload -= skip as u64;
            if self.control {
                self.read_code(&rest[..skip]);
            } else {
                self.unfinished = self.unfinished.saturating_add(skip);
            }
            rest = &rest[skip..];
            if self.is_between_messages() {
                self.unfinished = 0;
                self.fragments = if self.fragments > FRAGMENTS { self.fragments } else { 0 };
            }
            let Some((&next, after)) = rest.split_first() else { return bytes.len() };
            self.header[self.held] = next;
            self.held += 1;
            self.breach = self.judge();
            if self.breach.is_none() {
                rest = after;
                self.end_header();
            }
        }
    }

    /// If the header is complete, begins with the payload.
    fn end_header(&mut self) {
        let Some(payload) = self.frame() else { return };
        self.payload = payload;
        let (last, opcode) = (self.header[0] & 0x80 != 0, self.header[0] & 0x0F);
        self.control = opcode & 0x08 != 0;
        if self.control {
            let mask = self.header[..self.held].last_chunk().copied().unwrap_or_default();
            self.closing = (opcode == CLOSE).then_some(Closing { mask, code: [0; 2], held: 0 });
        } else {
            self.fragmented = !last;
            self.fragments = self.fragments.saturating_add(u32::from(!last));
        }
        self.held = 0;
    }

    fn read_code(&mut self, payload: &[u8]) {
        let Some(closing) = &mut self.closing else { return };
        for byte in payload {
            if closing.held < 2 {
                closing.code[closing.held] = byte ^ closing.mask[closing.held];
                closing.held += 1;
            }
        }
    }

    /// What is wrong with as much of the header as has arrived. It is called after each byte of it.
    fn judge(&self) -> Option<&'static str> {
        let first = self.header[0];
        let (last, opcode) = (first & 0x80 != 0, first & 0x0F);
        let control = opcode & 0x08 != 0;
        match self.header[1..self.held] {
            [] => match opcode {
                _ if first & 0x70 != 0 => Some("a reserved bit is set"),
                0x3..=0x7 | 0xB..=0xF => Some("a reserved opcode"),
                _ if control && !last => Some("a control frame in pieces"),
                CONTINUATION if !self.fragmented => Some("a continuation of nothing"),
                0x1 | 0x2 if self.fragmented => Some("a message within another one"),
                _ => None,
            },
            [second] => match second {
                0..=0x7F => Some("a frame without a mask"),
                _ if control && second & 0x7F > LONGEST_CONTROL => Some("a control frame of over 125 bytes"),
                _ => None,
            },
            // RFC 6455 §5.2: the length must be written in the shortest way, and its highest bit is 0.
            [254, high, low] if u16::from_be_bytes([high, low]) < 126 => Some("a length that is not the shortest"),
            [255, high] if high & 0x80 != 0 => Some("a length of over 63 bits"),
            [255, 0, 0, 0, 0, 0, 0, _, _] => Some("a length that is not the shortest"),
            _ => None,
        }
    }

    /// The length of the payload; `None` until the header is complete.
    fn frame(&self) -> Option<u64> {
        let header = &self.header[..self.held];
        let (short, mask) = match header {
            [_, second, ..] => (second & 0x7F, if second & 0x80 != 0 { 4 } else { 0 }),
            _ => return None,
        };
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if header.len() < 2 + extended + mask {
            return None;
        }
        let long = header[2..2 + extended].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        Some(if extended == 0 { u64::from(short) } else { long })
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;

    /// Frames as clients send them, cut at any byte: the reader is between two messages exactly at the end of each
    /// message.
    #[test]
    fn the_ends_of_messages_are_known_wherever_the_bytes_are_cut() {
        for seed in 0..300 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            let mut within = false;
            for _ in 0..random.random_range(1..12) {
                let len = [0, 5, 125, 126, 127, 65_535, 65_536][random.random_range(0..7)];
                let control = random.random_bool(0.3);
                let last = control || random.random_bool(0.6);
                let data = if within { Data::Continue } else { Data::Text };
                let mut frame = match control {
                    true => Frame::ping(vec![b'x'; len.min(125)]),
                    false => Frame::message(vec![b'x'; len], OpCode::Data(data), last),
                };
                frame.header_mut().mask = Some(random.random());
                frame.format(&mut bytes).unwrap();
                within = if control { within } else { !last };
                if !within {
                    ends.push(bytes.len());
                }
            }
            let mut boundary = Boundary::default();
            let mut at = 0;
            while at < bytes.len() {
                let most = if random.random_bool(0.5) { 4 } else { 100_000 };
                let next = (at + random.random_range(1..most)).min(bytes.len());
                assert_eq!(boundary.follow(&bytes[at..next]), next - at);
                assert_eq!(boundary.breach(), None, "seed {seed}, byte {at}");
                at = next;
                assert_eq!(boundary.is_between_messages(), ends.contains(&at), "seed {seed}, byte {at}");
            }
        }
    }

    /// A frame with a zero mask, of which the head is given.
    fn frame(head: &[u8], payload: &[u8]) -> Vec<u8> {
        [head, &[0; 4], payload].concat()
    }

    /// Each is noticed at the first byte that shows it, wherever the bytes are cut, and what came before it is good.
    #[test]
    fn heads_against_the_rfc_are_noticed_at_once() {
        let good = frame(&[0x81, 0x82], b"{}");
        let begun = frame(&[0x01, 0x81], b"{");
        for (before, head, at) in [
            (&good, &[0xC1][..], 1),
            (&good, &[0xA1], 1),
            (&good, &[0x91], 1),
            (&good, &[0x83], 1),
            (&good, &[0x87], 1),
            (&good, &[0x8B], 1),
            (&good, &[0x8F], 1),
            (&good, &[0x09], 1),
            (&good, &[0x08], 1),
            (&good, &[0x80], 1),
            (&good, &[0x00], 1),
            (&begun, &[0x81], 1),
            (&begun, &[0x02], 1),
            (&good, &[0x81, 0x02], 2),
            (&good, &[0x89, 0x00], 2),
            (&good, &[0x89, 0xFE], 2),
            (&good, &[0x88, 0xFF], 2),
            (&good, &[0x81, 0xFE, 0, 125], 4),
            (&good, &[0x81, 0xFE, 0, 0], 4),
            (&good, &[0x81, 0xFF, 0x80], 3),
            (&good, &[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], 10),
        ] {
            let bytes = [&before[..], &frame(head, &[0; 200])].concat();
            for cut in 1..bytes.len() {
                let mut boundary = Boundary::default();
                let mut followed = boundary.follow(&bytes[..cut]);
                assert_eq!(boundary.breach().is_some(), cut >= before.len() + at, "{head:x?}, {cut}");
                if boundary.breach().is_none() {
                    followed += boundary.follow(&bytes[cut..]);
                }
                assert_eq!((followed, boundary.breach().is_some()), (before.len() + at - 1, true), "{head:x?}, {cut}");
                assert_eq!(boundary.follow(&good), 0, "nothing after it");
            }
        }
    }

    #[test]
    fn the_shortest_lengths_are_good() {
        for len in [126_u64, 127, 65_535, 65_536, 1 << 40, (1 << 63) - 1] {
            let head = match u16::try_from(len) {
                Ok(len) => [&[0x82, 0xFE][..], &len.to_be_bytes()].concat(),
                Err(_) => [&[0x82, 0xFF][..], &len.to_be_bytes()].concat(),
            };
            let mut boundary = Boundary::default();
            boundary.follow(&frame(&head, b""));
            assert_eq!((boundary.breach(), boundary.payload), (None, len));
        }
    }

    #[test]
    fn the_code_of_a_close_frame_is_unmasked_wherever_it_is_cut() {
        let with_code = [0x88, 0x84, 7, 8, 9, 10, 0x03 ^ 7, 0xE8 ^ 8, b'o' ^ 9, b'k' ^ 10];
        for cut in 0..with_code.len() {
            let mut boundary = Boundary::default();
            boundary.follow(&frame(&[0x89, 0x82], b"xy"));
            boundary.follow(&with_code[..cut]);
            boundary.follow(&with_code[cut..]);
            assert_eq!(boundary.close_code(), Some(1000), "{cut}");
        }
        for empty in [&[][..], &[3]] {
            let mut boundary = Boundary::default();
            boundary.follow(&frame(&[0x88, 0x80 | u8::try_from(empty.len()).unwrap()], empty));
            assert_eq!(boundary.close_code(), None);
        }
    }

    #[test]
    fn no_bytes_are_too_strange() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..2000 {
            let mut boundary = Boundary::default();
            for _ in 0..10 {
                let bytes: Vec<u8> = (0..random.random_range(0..40)).map(|_| random.random()).collect();
                boundary.follow(&bytes);
            }
        }
    }
}
