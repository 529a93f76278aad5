//! The client's side of WebSocket, as far as a load generator needs it: the request, masked frames, and finding the
//! server's frames in a buffer.

use anyhow::{Result, bail};

/// Opcodes of RFC 6455.
pub mod opcode {
    /// A further frame of the current message.
    pub const CONTINUATION: u8 = 0;
    /// A text message.
    pub const TEXT: u8 = 1;
    /// A binary message.
    pub const BINARY: u8 = 2;
    /// Close.
    pub const CLOSE: u8 = 8;
    /// Ping.
    pub const PING: u8 = 9;
    /// Pong.
    pub const PONG: u8 = 10;
}

/// The handshake's request. Every client uses the same key, because nothing here needs protection from caching proxies.
pub fn request(host: &str, path: &str, protocol: Option<&str>) -> Vec<u8> {
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    if let Some(protocol) = protocol {
        text += &format!("Sec-WebSocket-Protocol: {protocol}\r\n");
    }
    text += "\r\n";
    text.into_bytes()
}

/// Where the handshake's answer ends; `None` while it is incomplete.
///
/// # Errors
/// When it is not "101 Switching Protocols".
pub fn answer_end(buffer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
        if buffer.len() > 16_384 {
            bail!("the answer to the handshake does not end");
        }
        return Ok(None);
    };
    if !buffer.starts_with(b"HTTP/1.1 101") {
        let line = buffer.split(|&byte| byte == b'\r').next().unwrap_or_default();
        bail!("the server refuses the handshake: {}", String::from_utf8_lossy(line));
    }
    Ok(Some(end + 4))
}

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Appends a whole, masked frame.
pub fn push_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ 0..=125), _) => out.push(0x80 | len),
        (_, Ok(len)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A frame of the server within a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The frame's opcode.
    pub opcode: u8,
    /// Where its payload begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// The first frame in the buffer; `None` while it is incomplete.
///
/// # Errors
/// When the bytes are no frame of a server.
pub fn frame(buffer: &[u8]) -> Result<Option<Frame>> {
    let [first, second, rest @ ..] = buffer else { return Ok(None) };
    if second & 0x80 != 0 || first & 0x70 != 0 {
        bail!("not a server's frame: it begins with {first:#x} {second:#x}");
    }
    let (start, len) = match second {
        126 => match rest {
            [a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => match usize::try_from(u64::from_be_bytes(*bytes)) {
                Ok(len) if len <= 1 << 28 => (10, len),
                _ => bail!("a frame larger than 256 MiB"),
            },
            None => return Ok(None),
        },
        &len => (2, usize::from(len)),
    };
    let end = start + len;
    Ok((buffer.len() >= end).then_some(Frame { opcode: first & 0xF, start, end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_once_they_are_all_there() {
        for len in [0, 5, 125, 126, 65_535, 65_536] {
            let mut masked = Vec::new();
            push_masked(&mut masked, opcode::TEXT, &vec![b'x'; len]);
            // The frame as a server would send it: the same, without the mask.
            let head = masked.len() - len - 4;
            let mut server = masked[..head].to_vec();
            server[1] &= 0x7F;
            server.extend(vec![b'x'; len]);
            for cut in [0, 1, head - 1, server.len() - 1] {
                assert_eq!(frame(&server[..cut]).unwrap(), None, "{len} {cut}");
            }
            let want = Frame { opcode: opcode::TEXT, start: head, end: server.len() };
            assert_eq!(frame(&server).unwrap(), Some(want));
        }
        assert!(frame(&[0x81, 0x80]).is_err());
    }

    #[test]
    fn answers() {
        assert_eq!(answer_end(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n").unwrap(), None);
        assert_eq!(answer_end(b"HTTP/1.1 101 x\r\n\r\n\x81").unwrap(), Some(18));
        assert!(answer_end(b"HTTP/1.1 503 full\r\n\r\n").unwrap_err().to_string().contains("503 full"));
    }
}
