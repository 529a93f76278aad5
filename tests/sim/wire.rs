//! A socket: what the gateway wrote and the client has not read yet, and what the two ends tell each other.
//!
//! Goes in: bytes of a shard, texts of a client. Comes out: frames. Its room is bounded, as a kernel's buffers are.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bugfeed_core::replay::Pos;
use bugfeed_core::shard::Peer;
use bugfeed_core::subscriptions::Slot;
use bugfeed_protocol::Cursor;

#[derive(Debug, Default)]
pub struct Wire {
    /// Bytes that the socket still takes.
    pub room: Cell<usize>,
    /// Written, not yet read.
    pub bytes: RefCell<VecDeque<u8>>,
    /// Commands on their way to the gateway.
    pub commands: RefCell<VecDeque<String>>,
    pub slot: Cell<Option<Slot>>,
    pub wants: Cell<bool>,
    pub ready: Cell<bool>,
    /// The shard ended the session.
    pub ended: Cell<bool>,
    /// The client is gone.
    pub gone: Cell<bool>,
    /// The gateway is gone.
    pub cut: Cell<bool>,
    /// Writes fail.
    pub broken: Cell<bool>,
    /// The session lagged at least once: conflation is allowed.
    pub lagged: Cell<bool>,
    /// The client is ahead of the pod, and said so then.
    pub ahead: RefCell<Option<(Cursor, u64)>>,
    /// What the client has seen elsewhere did not come in time.
    pub may_gap: Cell<bool>,
    /// The session watches all bugs, or did.
    pub all: Cell<bool>,
    /// How far its shard was when it began to be sent what it has yet to be sent.
    pub behind: Cell<Option<Pos>>,
    /// Each subscribe that was handed to the shard.
    pub asked: RefCell<VecDeque<Asked>>,
}

/// How things were when a subscribe was handed to its shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The gateway could tell what came after its cursor.
    pub can_tell: bool,
    /// The position up to which nothing is sent again.
    pub sent: Pos,
    /// How often the pod could not tell any more what comes next: what could be told then may not be told now.
    pub loses: u32,
}

/// The shard's end.
#[derive(Debug)]
pub struct End(pub Rc<Wire>);

impl Peer for End {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.broken.get() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let takes = bytes.len().min(self.0.room.get());
        if takes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.room.set(self.0.room.get() - takes);
        self.0.bytes.borrow_mut().extend(&bytes[..takes]);
        Ok(takes)
    }
    fn attached(&self, slot: Slot) {
        self.0.slot.set(Some(slot));
        self.0.ready.set(true);
    }
    fn want_writable(&self) {
        self.0.wants.set(true);
        self.0.lagged.set(true);
    }
    fn ready(&self) {
        self.0.ready.set(true);
    }
    fn end(&self) {
        self.0.ended.set(true);
    }
    fn heard_ms(&self) -> u64 {
        // Every client answers pings.
        u64::MAX
    }
}

/// One whole frame from the beginning of `bytes`, if there is one: its text, or none where it was a ping or a close.
pub fn take_frame(bytes: &mut VecDeque<u8>) -> Option<Frame> {
    let (first, second) = (*bytes.front()?, *bytes.get(1)?);
    let (head, len) = match second {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => {
            let mut len = 0;
            for at in 2..10 {
                len = len << 8 | usize::from(*bytes.get(at)?);
            }
            (10, len)
        }
        len => (2, usize::from(len)),
    };
    if bytes.len() < head + len {
        return None;
    }
    bytes.drain(..head);
    let payload: Vec<u8> = bytes.drain(..len).collect();
    Some(match first {
        0x81 => Frame::Text(String::from_utf8(payload).expect("texts are UTF-8")),
        0x88 => Frame::Close,
        0x89 => Frame::Ping,
        other => panic!("a frame starts with {other:#x}"),
    })
}

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Ping,
    Close,
}
