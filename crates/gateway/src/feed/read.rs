//! Reading from a WebSocket peer.
//!
//! tungstenite does the reading (frames, masks, fragments, UTF-8, limits). What it wants to write is thrown away,
//! because the shard itself answers pings and closes. A reader takes about 1.5 KB, so it is dropped between two
//! messages; it then holds nothing that the next message needs. [`Boundary`] knows when that is.
//!
//! A peer may send as fast as it likes, and its bytes may never become a complete message. Therefore three things are
//! bounded: how much is read in one turn, the fragments of a message, and the memory of all unfinished messages
//! together.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use bugfeed_core::budget::{Budget, Share};
use tokio::net::TcpStream;

/// The size of one read, in bytes. Most messages of clients fit.
const BUFFER: usize = 1024;

/// How many reads (of at most [`BUFFER`] bytes) a connection does in one turn, before the other tasks of its thread
/// run: enough for some 2,700 of the smallest frames.
pub(super) const READS: u32 = 16;

/// How many frames a message may have before its last one. Libraries send a command in one frame, or in frames of some
/// kilobytes each.
const FRAGMENTS: u32 = 1024;

/// Memory of a reader without its message, in bytes.
const READER: usize = 2560;

/// Why nothing more is read from a peer.
#[derive(Debug)]
pub(super) enum Fault {
    /// tungstenite reports an error.
    Error(Error),
    /// A message has more than [`FRAGMENTS`] frames.
    Fragments,
    /// The memory budget for unfinished messages is used up.
    NoRoom,
}

/// Reads one message of a peer.
#[derive(Debug)]
pub(super) struct Reader {
    context: WebSocketContext,
    boundary: Boundary,
    /// The memory that the message takes from the budget, as soon as the rest of it has to be waited for.
    share: Share,
}

impl Reader {
    /// A reader of messages of at most `message_bytes`. Incomplete messages take memory from the budget `unfinished`.
    /// `rest` holds bytes that were read already.
    pub(super) fn new(rest: &[u8], message_bytes: usize, unfinished: &Arc<Budget>) -> Reader {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .max_message_size(Some(message_bytes))
            .max_frame_size(Some(message_bytes));
        let mut boundary = Boundary::default();
        boundary.follow(rest);
        let context = WebSocketContext::from_partially_read(rest.to_vec(), Role::Server, Some(config));
        Reader { context, boundary, share: Share::of(unfinished) }
    }

    /// The next message. At most `reads` reads are done, and `reads` is counted down; `heard` is called after each read
    /// that brought something. When the result is pending, the socket wakes the task, with two exceptions: no reads are
    /// left, or [`Reader::is_idle`]. Then the caller must call this again, or the socket's own `poll_read_ready`.
    pub(super) fn poll(
        &mut self,
        socket: &TcpStream,
        heard: &dyn Fn(),
        reads: &mut u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Message, Fault>> {
        loop {
            match self.context.read(&mut ReadSide { socket, heard, boundary: &mut self.boundary, reads }) {
                Err(_) if self.boundary.fragments > FRAGMENTS => return Poll::Ready(Err(Fault::Fragments)),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.is_idle() {
                        return Poll::Pending;
                    }
                    if !self.share.grow_to(READER + self.boundary.unfinished) {
                        return Poll::Ready(Err(Fault::NoRoom));
                    }
                    if *reads == 0 {
                        return Poll::Pending;
                    }
                    if let Err(error) = ready!(socket.poll_read_ready(cx)) {
                        return Poll::Ready(Err(Fault::Error(Error::Io(error))));
                    }
                }
                Err(error) => return Poll::Ready(Err(Fault::Error(error))),
                Ok(message) => return Poll::Ready(Ok(message)),
            }
        }
    }

    /// Whether every byte that was read has been returned as part of a message.
    pub(super) fn is_idle(&self) -> bool {
        self.boundary.is_between_messages()
    }

    /// Whether a message has begun and its last frame has not arrived.
    pub(super) fn is_within_fragments(&self) -> bool {
        self.boundary.fragmented
    }
}

/// The socket as tungstenite sees it.
struct ReadSide<'a> {
    socket: &'a TcpStream,
    heard: &'a dyn Fn(),
    boundary: &'a mut Boundary,
    reads: &'a mut u32,
}

impl io::Read for ReadSide<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.boundary.fragments > FRAGMENTS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(left) = self.reads.checked_sub(1) else { return Err(io::ErrorKind::WouldBlock.into()) };
        *self.reads = left;
        let read = self.socket.try_read(buf)?;
        (self.heard)();
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

/// Follows the bytes of a peer from frame to frame (RFC 6455 §5.2), to know whether the last byte ended a message. It
/// does not judge the bytes: if they are no frames, tungstenite reports that, and the connection ends.
#[derive(Debug, Default)]
struct Boundary {
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
}

impl Boundary {
    fn is_between_messages(&self) -> bool {
        self.held == 0 && self.payload == 0 && !self.fragmented
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        loop {
            let skip = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= skip as u64;
            if !self.control {
                self.unfinished = self.unfinished.saturating_add(skip);
            }
            bytes = &bytes[skip..];
            if self.is_between_messages() {
                self.unfinished = 0;
                self.fragments = if self.fragments > FRAGMENTS { self.fragments } else { 0 };
            }
            let Some((&first, rest)) = bytes.split_first() else { return };
            self.header[self.held] = first;
            self.held += 1;
            bytes = rest;
            if let Some(payload) = self.frame() {
                self.payload = payload;
                self.held = 0;
                let (last, control) = (self.header[0] & 0x80 != 0, self.header[0] & 0x08 != 0);
                self.control = control;
                if !control {
                    self.fragmented = !last;
                    self.fragments = self.fragments.saturating_add(u32::from(!last));
                }
            }
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
