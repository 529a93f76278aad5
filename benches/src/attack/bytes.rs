//! What attackers send, as bytes: frames that no decent client would send, requests that do not end.

use std::fmt::Display;

use crate::ws::{opcode, push_masked};

/// A frame's first byte says that no further frame of the message follows.
const FIN: u8 = 0x80;
/// Blocks that are sent over and over have about this size, so that a small frame does not cost a write of its own.
const BLOCK: usize = 64 * 1024;

/// A whole text message.
pub(super) fn text(payload: &[u8]) -> Vec<u8> {
    frame(opcode::TEXT, payload)
}

/// A whole frame of this kind.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    push_masked(&mut out, opcode, payload);
    out
}

/// A frame after which others of the same message follow.
pub(super) fn unfinished(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = frame(opcode, payload);
    out[0] &= !FIN;
    out
}

/// A message in frames of one byte.
pub(super) fn in_single_bytes(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() * 7);
    for (at, byte) in message.chunks(1).enumerate() {
        let kind = if at == 0 { opcode::TEXT } else { opcode::CONTINUATION };
        out.extend(if at + 1 == message.len() { frame(kind, byte) } else { unfinished(kind, byte) });
    }
    out
}

/// A text message whose head promises `promised` bytes, of which only `len` come.
pub(super) fn cut_short(promised: usize, len: usize) -> Vec<u8> {
    let mut out = text(&vec![b' '; promised]);
    out.truncate(out.len() - promised + len);
    out
}

/// The same bytes again and again, to one block.
pub(super) fn tiled(bytes: &[u8]) -> Vec<u8> {
    bytes.repeat((BLOCK / bytes.len().max(1)).max(1))
}

/// Numbers from `first` on, with commas between them.
pub(super) fn numbers(first: u64, count: u64) -> String {
    (first..first + count).map(|number| number.to_string()).collect::<Vec<_>>().join(",")
}

/// A GET request.
pub(super) fn get(host: &str, path: impl Display) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A form that is POSTed to `/changes`, of which only `len` bytes come.
pub(super) fn form(host: &str, promised: usize, len: usize) -> Vec<u8> {
    let mut out = format!(
        "POST /changes HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: \
         {promised}\r\n\r\n"
    )
    .into_bytes();
    let body = "bugs=".bytes().chain("1234567,".bytes().cycle()).take(promised.saturating_sub(1)).chain([b'1']);
    out.extend(body.take(len));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws;

    /// The frames of a client, without their masks: opcode, whether it is the last one, payload.
    fn read(mut bytes: &[u8]) -> Vec<(u8, bool, Vec<u8>)> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let mut head = bytes.to_vec();
            assert_eq!(head[1] & 0x80, 0x80, "a client's frames have a mask");
            head[1] &= 0x7F;
            let found = ws::frame(&head).unwrap().unwrap();
            let (mask, payload) = bytes[found.start..found.end + 4].split_at(4);
            let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            frames.push((found.opcode, bytes[0] & FIN != 0, payload));
            bytes = &bytes[found.end + 4..];
        }
        frames
    }

    #[test]
    fn a_message_in_single_bytes_is_still_that_message() {
        let frames = read(&in_single_bytes(b"{\"a\":1}"));
        assert_eq!(frames.len(), 7);
        assert_eq!(frames[0], (opcode::TEXT, false, b"{".to_vec()));
        assert_eq!(frames[6], (opcode::CONTINUATION, true, b"}".to_vec()));
        let joined: Vec<u8> = frames.into_iter().flat_map(|(_, _, payload)| payload).collect();
        assert_eq!(joined, b"{\"a\":1}");
    }

    #[test]
    fn what_is_cut_short_promises_more() {
        assert_eq!(cut_short(1000, 10).len(), text(&[0; 1000]).len() - 990);
        let whole = form("h", 100, 100);
        assert!(whole.ends_with(b",1") || whole.ends_with(b"1"));
        assert_eq!(form("h", 100, 40).len(), whole.len() - 60);
    }

    #[test]
    fn blocks_hold_whole_messages() {
        assert_eq!(tiled(b"abc").len(), BLOCK / 3 * 3);
        assert_eq!(tiled(&vec![0; BLOCK + 1]).len(), BLOCK + 1);
        assert_eq!(numbers(8, 3), "8,9,10");
    }
}
