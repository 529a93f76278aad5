//! Follows the bytes of an HTTP/1.1 connection from request to request, to notice one that has both `Content-Length` and
//! `Transfer-Encoding`.
//!
//! Goes in: the bytes that hyper reads. Comes out: whether the request that hyper has just read has both headers. hyper
//! does not say so, because it removes the first. It judges nothing else: what is no HTTP, hyper refuses. Where it cannot
//! follow, it stops looking, and nothing is refused for it; hyper then goes by `Transfer-Encoding`, and closes, as RFC 9112
//! allows.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::Wire;

/// So many bytes of a line are looked at. It is enough for a name that matters with any number that a length can be.
const LINE: usize = 48;

/// Which of a connection's requests has both headers. Shared by the connection's bytes, and by what answers its requests.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// The request that has both, counting from 1; 0 if there is none. No request can follow it.
    both: AtomicU64,
    /// Requests that hyper has read.
    read: AtomicU64,
}

impl Framing {
    /// Called for each request that hyper has read: whether it has both headers.
    pub(super) fn next_has_both(&self) -> bool {
        let number = self.read.fetch_add(1, Ordering::Relaxed) + 1;
        self.both.load(Ordering::Relaxed) == number
    }
}

/// A connection whose incoming bytes are followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) stream: Wire,
    heads: Heads,
    framing: Arc<Framing>,
}

impl Followed {
    pub(super) fn new(stream: Wire, framing: Arc<Framing>) -> Followed {
        Followed { stream, heads: Heads::default(), framing }
    }
}

impl AsyncRead for Followed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.heads.follow(&buf.filled()[before..]);
        if let Some(both) = self.heads.both {
            self.framing.both.store(both, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Followed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the next bytes are part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// The first line of a request, or empty lines before it.
    #[default]
    First,
    /// A header, or the empty line after the headers.
    Header,
    /// A body of so many more bytes.
    Body(u64),
    /// The size of a chunk.
    Size,
    /// A chunk of so many more bytes.
    Chunk(u64),
    /// The end of line after a chunk.
    AfterChunk,
    /// A trailer, or the empty line after them.
    Trailer,
    /// Nothing that can be followed.
    Lost,
}

/// Where in the requests of a connection its bytes have got to.
#[derive(Debug)]
struct Heads {
    part: Part,
    /// The beginning of the current line in lower case, without blanks. `held` bytes are valid.
    line: [u8; LINE],
    held: usize,
    /// The current request is this one, counting from 1.
    number: u64,
    length: Option<u64>,
    has_transfer: bool,
    both: Option<u64>,
}

impl Default for Heads {
    fn default() -> Heads {
        Heads { part: Part::First, line: [0; LINE], held: 0, number: 1, length: None, has_transfer: false, both: None }
    }
}

impl Heads {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.part {
                Part::Lost => return,
                Part::Body(left) => {
                    let (left, bytes) = skip(left, bytes);
                    self.part = if left == 0 { self.next_request() } else { Part::Body(left) };
                    bytes
                }
                Part::Chunk(left) => {
                    let (left, bytes) = skip(left, bytes);
                    self.part = if left == 0 { Part::AfterChunk } else { Part::Chunk(left) };
                    bytes
                }
                Part::First | Part::Header | Part::Size | Part::AfterChunk | Part::Trailer => {
                    let end = bytes.iter().position(|&byte| byte == b'\n');
                    self.hold(&bytes[..end.unwrap_or(bytes.len())]);
                    match end {
                        Some(end) => {
                            self.part = self.line();
                            self.held = 0;
                            &bytes[end + 1..]
                        }
                        None => return,
                    }
                }
            };
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
            let Some(place) = self.line.get_mut(self.held) else { return };
            *place = byte.to_ascii_lowercase();
            self.held += 1;
        }
    }

    /// What follows the line that has just ended.
    fn line(&mut self) -> Part {
        let line = &self.line[..self.held];
        match self.part {
            Part::First if line.is_empty() => Part::First,
            Part::First => Part::Header,
            Part::Header if line.is_empty() => self.end_of_head(),
            Part::Header => {
                if line.starts_with(b"transfer-encoding:") {
                    self.has_transfer = true;
                } else if let Some(digits) = line.strip_prefix(b"content-length:") {
                    // A length that hyper cannot read either ends the connection.
                    self.length = Some(number(digits, 10).unwrap_or(u64::MAX));
                }
                Part::Header
            }
            Part::Size => match number(line.split(|&byte| byte == b';').next().unwrap_or_default(), 16) {
                Some(0) => Part::Trailer,
                Some(size) => Part::Chunk(size),
                None => Part::Lost,
            },
            Part::AfterChunk => Part::Size,
            Part::Trailer if line.is_empty() => self.next_request(),
            Part::Trailer => Part::Trailer,
            Part::Body(_) | Part::Chunk(_) | Part::Lost => Part::Lost,
        }
    }

    fn end_of_head(&mut self) -> Part {
        match (self.has_transfer, self.length) {
            (true, Some(_)) => {
                self.both = Some(self.number);
                Part::Lost
            }
            (true, None) => Part::Size,
            (false, Some(length @ 1..)) => Part::Body(length),
            (false, _) => self.next_request(),
        }
    }

    fn next_request(&mut self) -> Part {
        (self.length, self.has_transfer) = (None, false);
        self.number += 1;
        Part::First
    }
}

/// Takes up to so many bytes away. Returns how many are still to come, and the bytes after them.
fn skip(left: u64, bytes: &[u8]) -> (u64, &[u8]) {
    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (left - skipped as u64, &bytes[skipped..])
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // `from_str_radix` would take a sign.
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "POST /c HTTP/1.1\r\nHost: x\r\ncontent-LENGTH : 4\r\nTransfer-Encoding:\tchunked\r\n\r\n";

    #[test]
    fn the_request_with_both_is_known_wherever_the_bytes_are_cut() {
        for before in [
            "",
            "\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\nTransfer-Encoding: x\r\n",
            "POST / HTTP/1.1\nHost: x\nContent-Length:0\n\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n13;x=y\r\nContent-Length: 7\r\n\r\n2\r\n\r\n\r\n0\r\nx: y\r\n\r\n",
            "GET /?content-length:1 HTTP/1.1\r\nx-transfer-encoding: chunked\r\nX: content-length: 5\r\n\r\n",
        ] {
            let requests = 1 + u64::from(!before.trim().is_empty());
            let bytes = format!("{before}{BOTH}0\r\n\r\nGET / HTTP/1.1\r\n\r\n").into_bytes();
            for cut in 0..bytes.len() {
                let mut heads = Heads::default();
                heads.follow(&bytes[..cut]);
                assert_eq!(heads.both.is_some(), cut >= before.len() + BOTH.len(), "{before:?}, {cut}");
                heads.follow(&bytes[cut..]);
                assert_eq!(heads.both, Some(requests), "{before:?}, {cut}");
            }
        }
    }

    #[test]
    fn what_cannot_be_followed_is_let_be() {
        for bytes in [
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnothing\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n12345",
        ] {
            let mut heads = Heads::default();
            heads.follow(bytes.as_bytes());
            heads.follow(BOTH.as_bytes());
            assert_eq!(heads.both, None, "{bytes}");
        }
    }

    #[test]
    fn only_the_request_itself_is_told() {
        let framing = Framing::default();
        framing.both.store(2, Ordering::Relaxed);
        assert_eq!([framing.next_has_both(), framing.next_has_both(), framing.next_has_both()], [false, true, false]);
    }
}
