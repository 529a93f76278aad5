//! Reading from a WebSocket peer.
//!
//! tungstenite reads (frames, masks, fragments, UTF-8, limits); what it would write is thrown away, since the shard
//! answers pings and closes itself. A reader takes about 1.5 KB, so one that is between two messages is let go of:
//! nothing is in it that the next one would need. [`Boundary`] knows when that is.

use std::io;
use std::task::{Context, Poll, ready};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::conn::Conn;

/// Most messages of clients fit.
const BUFFER: usize = 1024;

/// What is needed while a peer's message comes in.
#[derive(Debug)]
pub(super) struct Reader {
    context: WebSocketContext,
    boundary: Boundary,
}

impl Reader {
    /// Reads messages of at most so many bytes; `rest` was read already.
    pub(super) fn new(rest: &[u8], message_bytes: usize) -> Reader {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .max_message_size(Some(message_bytes))
            .max_frame_size(Some(message_bytes));
        let mut boundary = Boundary::default();
        boundary.follow(rest);
        Reader { context: WebSocketContext::from_partially_read(rest.to_vec(), Role::Server, Some(config)), boundary }
    }

    /// The next message. When it is pending, `conn`'s socket wakes the task, unless [`Reader::is_idle`]: then only a
    /// new call of this, or of the socket's own `poll_read_ready`, sees to that.
    pub(super) fn poll(&mut self, conn: &Conn, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            match self.context.read(&mut ReadSide { conn, boundary: &mut self.boundary }) {
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.is_idle() {
                        return Poll::Pending;
                    }
                    if let Err(error) = ready!(conn.stream().poll_read_ready(cx)) {
                        return Poll::Ready(Err(Error::Io(error)));
                    }
                }
                other => return Poll::Ready(other),
            }
        }
    }

    /// Whether nothing was read that has not been given out.
    pub(super) fn is_idle(&self) -> bool {
        self.boundary.is_between_messages()
    }
}

/// The socket as tungstenite sees it.
struct ReadSide<'a> {
    conn: &'a Conn,
    boundary: &'a mut Boundary,
}

impl io::Read for ReadSide<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.conn.stream().try_read(buf)?;
        self.conn.heard();
        self.boundary.follow(&buf[..read]);
        Ok(read)
    }
}

impl io::Write for ReadSide<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Follows the bytes of a peer from frame to frame (RFC 6455 §5.2), to know whether the last one ended a message. It
/// judges nothing: where the bytes are no frames, tungstenite says so and the connection ends.
#[derive(Debug, Default)]
struct Boundary {
    /// The part of a frame's header that has come, of at most 14 bytes.
    header: [u8; 14],
    held: usize,
    /// Bytes of the frame's payload still to come.
    payload: u64,
    /// A message was begun and its last frame has not come.
    fragmented: bool,
}

impl Boundary {
    fn is_between_messages(&self) -> bool {
        self.held == 0 && self.payload == 0 && !self.fragmented
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        loop {
            let skip = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= skip as u64;
            bytes = &bytes[skip..];
            let Some((&first, rest)) = bytes.split_first() else { return };
            self.header[self.held] = first;
            self.held += 1;
            bytes = rest;
            if let Some(payload) = self.frame() {
                self.payload = payload;
                self.held = 0;
                let (last, control) = (self.header[0] & 0x80 != 0, self.header[0] & 0x08 != 0);
                if !control {
                    self.fragmented = !last;
                }
            }
        }
    }

    /// The length of the payload, once the header is whole.
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
    use rand::{Rng as _, SeedableRng as _};
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;

    /// Frames as clients send them, cut anywhere: between two messages exactly at the end of each message.
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
                boundary.follow(&bytes[at..next]);
                at = next;
                assert_eq!(boundary.is_between_messages(), ends.contains(&at), "seed {seed}, byte {at}");
            }
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
