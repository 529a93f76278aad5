//! Reading from a WebSocket peer.
//!
//! tungstenite does the reading (frames, masks, fragments, UTF-8, limits). What it wants to write is thrown away,
//! because the shard itself answers pings and closes. A reader takes about 1.5 KB, so it is dropped between two
//! messages; it then holds nothing that the next message needs. [`Boundary`] knows when that is. It also judges the heads
//! of frames, because tungstenite takes some that RFC 6455 forbids, and waits for the payload of others before it refuses
//! them.
//!
//! A peer may send as fast as it likes, and its bytes may never become a complete message. Therefore three things are
//! bounded: how much is read in one turn, the fragments of a message, and the memory of all unfinished messages
//! together.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::boundary::{Boundary, FRAGMENTS};
use bugfeed_core::budget::{Budget, Share};
use bugfeed_runtime::http::Wire;

/// The size of one read, in bytes. Most messages of clients fit.
const BUFFER: usize = 1024;

/// How many reads (of at most [`BUFFER`] bytes) a connection does in one turn, before the other tasks of its thread
/// run: enough for some 2,700 of the smallest frames.
pub(super) const READS: u32 = 16;

/// Memory of a reader without its message, in bytes.
const READER: usize = 2560;

/// Why nothing more is read from a peer.
#[derive(Debug)]
pub(super) enum Fault {
    /// tungstenite reports an error.
    Error(Error),
    /// The head of a frame is against RFC 6455; the text says how.
    Frame(&'static str),
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
        let good = boundary.follow(rest);
        let context = WebSocketContext::from_partially_read(rest[..good].to_vec(), Role::Server, Some(config));
        Reader { context, boundary, share: Share::of(unfinished) }
    }

    /// The next message. At most `reads` reads are done, and `reads` is counted down; `heard` is called after each read
    /// that brought something. When the result is pending, the socket wakes the task, with two exceptions: no reads are
    /// left, or [`Reader::is_idle`]. Then the caller must call this again, or the socket's own `poll_read_ready`.
    pub(super) fn poll(
        &mut self,
        socket: &Wire,
        heard: &dyn Fn(),
        reads: &mut u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Message, Fault>> {
        loop {
            match self.context.read(&mut ReadSide { socket, heard, boundary: &mut self.boundary, reads }) {
                // Only `ReadSide` gives this error, once everything before the fault was dealt with.
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    let fault = self.boundary.breach().map_or(Fault::Fragments, Fault::Frame);
                    return Poll::Ready(Err(fault));
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.is_idle() {
                        return Poll::Pending;
                    }
                    if !self.share.grow_to(READER + self.boundary.unfinished()) {
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
        self.boundary.is_within_fragments()
    }

    /// The code in the close frame that came last, if it has one.
    pub(super) fn close_code(&self) -> Option<u16> {
        self.boundary.close_code()
    }
}

/// The socket as tungstenite sees it.
struct ReadSide<'a> {
    socket: &'a Wire,
    heard: &'a dyn Fn(),
    boundary: &'a mut Boundary,
    reads: &'a mut u32,
}

impl io::Read for ReadSide<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.boundary.breach().is_some() || self.boundary.fragments() > FRAGMENTS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(left) = self.reads.checked_sub(1) else { return Err(io::ErrorKind::WouldBlock.into()) };
        *self.reads = left;
        let read = self.socket.try_read(buf)?;
        (self.heard)();
        match self.boundary.follow(&buf[..read]) {
            // Zero bytes would mean the end of the stream.
            0 if read > 0 => Err(io::ErrorKind::InvalidData.into()),
            good => Ok(good),
        }
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
