//! WebSocket frames as a server writes them (RFC 6455 §5.2): unfragmented, unmasked, complete in one buffer.
//!
//! The library tokio-tungstenite reads frames, unmasks them and checks the rules of the protocol. Frames are written
//! here, because one encoded update is shared by all its receivers.

use bugfeed_protocol::close::Close;
use bugfeed_protocol::{Change, Cursor, server};

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

fn push(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(u8::try_from(short).expect("at most 125")),
        len => match u16::try_from(len) {
            Ok(len) => {
                out.push(126);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                out.push(127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        },
    }
    out.extend_from_slice(payload);
}

/// Appends a text frame.
pub fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    push(out, TEXT, text);
}

/// Appends a classic update.
pub fn push_update(out: &mut Vec<u8>, change: Change) {
    let start = out.len();
    out.extend_from_slice(&[0x80 | TEXT, 0]);
    server::write_update(out, change);
    let len = out.len() - start - 2;
    // The longest update, a 19-digit bug and microseconds, takes 91 bytes.
    out[start + 1] = u8::try_from(len).ok().filter(|&len| len <= 125).expect("an update is at most 125 bytes");
}

/// Appends a modern update.
pub fn push_update_with_cursor(out: &mut Vec<u8>, change: Change, cursor: &Cursor) {
    let mut text = Vec::with_capacity(160);
    server::write_update_with_cursor(&mut text, change, cursor);
    push_text(out, &text);
}

/// An empty ping.
pub const PING_FRAME: [u8; 2] = [0x80 | PING, 0];

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 2);
    push(&mut out, PONG, &payload[..payload.len().min(125)]);
    out
}

/// A close frame.
pub fn close(close: Close) -> Vec<u8> {
    let mut payload = close.code().to_be_bytes().to_vec();
    payload.extend_from_slice(close.reason().as_bytes());
    let mut out = Vec::with_capacity(payload.len() + 2);
    push(&mut out, CLOSE, &payload);
    out
}

/// Splits the first frame off bytes that the functions above wrote. Returns the frame's text (`None` for a ping, a pong
/// or a close frame) and its length in bytes; `None` as long as the frame is not complete.
pub fn split(bytes: &[u8]) -> Option<(Option<&[u8]>, usize)> {
    let (&opcode, &short) = (bytes.first()?, bytes.get(1)?);
    let (head, len): (usize, usize) = match short {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).unwrap_or(usize::MAX)),
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(head..head.saturating_add(len))?;
    Some(((opcode & 0x0F == TEXT).then_some(payload), head + len))
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, When};
    use tungstenite::protocol::CloseFrame;
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

    use super::*;

    /// The bytes that tungstenite would write.
    fn theirs(frame: &Frame) -> Vec<u8> {
        let mut out = Vec::new();
        frame.clone().format(&mut out).unwrap();
        out
    }

    #[test]
    fn the_same_bytes_as_a_library_writes() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let text = vec![b'x'; len];
            let mut ours = Vec::new();
            push_text(&mut ours, &text);
            assert_eq!(ours, theirs(&Frame::message(text, OpCode::Data(Data::Text), true)), "{len}");
        }
        assert_eq!(PING_FRAME.to_vec(), theirs(&Frame::ping(Vec::new())));
        assert_eq!(pong(b"are you there"), theirs(&Frame::pong(b"are you there".to_vec())));
        for reason in Close::ALL {
            assert!(reason.reason().len() <= 123);
            let frame = CloseFrame { code: CloseCode::from(reason.code()), reason: reason.reason().into() };
            assert_eq!(close(reason), theirs(&Frame::close(Some(frame))), "{reason:?}");
        }
    }

    #[test]
    fn what_was_written_can_be_split_again_once_it_is_whole() {
        let texts: Vec<Vec<u8>> = [0, 1, 125, 126, 65_535, 65_536].map(|len| vec![b'x'; len]).into();
        let mut bytes = PING_FRAME.to_vec();
        let mut want = vec![None];
        for text in &texts {
            push_text(&mut bytes, text);
            want.push(Some(&text[..]));
        }
        bytes.extend(close(Close::Restart));
        want.push(None);
        let (mut rest, mut got) = (&bytes[..], Vec::new());
        while let Some((text, len)) = split(rest) {
            assert!(split(&rest[..len - 1]).is_none(), "not whole");
            got.push(text);
            rest = &rest[len..];
        }
        assert!(rest.is_empty() && got == want);
    }

    #[test]
    fn the_longest_update_fits_a_short_frame() {
        let change = Change { bug: BugId::new(BugId::MAX).unwrap(), when: When::MAX };
        let mut out = Vec::new();
        push_update(&mut out, change);
        let mut whole = Vec::new();
        server::write_update(&mut whole, change);
        let mut want = Vec::new();
        push_text(&mut want, &whole);
        assert_eq!(out, want);
    }
}
