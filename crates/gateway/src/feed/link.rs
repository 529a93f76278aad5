//! What a shard writes to: a WebSocket client's socket, or the line of a client that is served over plain HTTP.

use std::io;
use std::sync::Arc;

use super::conn::Conn;
use super::line::Line;
use bugfeed_core::shard::Peer;
use bugfeed_core::subscriptions::Slot;

/// One of the two.
#[derive(Debug)]
pub enum Link {
    /// A WebSocket client.
    Socket(Arc<Conn>),
    /// A client served over plain HTTP.
    Line(Arc<Line>),
}

impl Peer for Link {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Socket(conn) => conn.try_write(bytes),
            Link::Line(line) => line.try_write(bytes),
        }
    }

    fn attached(&self, slot: Slot) {
        match self {
            Link::Socket(conn) => conn.attached(slot),
            Link::Line(line) => line.attached(slot),
        }
    }

    fn want_writable(&self) {
        match self {
            Link::Socket(conn) => conn.want_writable(),
            Link::Line(line) => line.want_writable(),
        }
    }

    fn ready(&self) {
        match self {
            Link::Socket(conn) => conn.ready(),
            Link::Line(line) => line.ready(),
        }
    }

    fn end(&self) {
        match self {
            Link::Socket(conn) => conn.end(),
            Link::Line(line) => line.end(),
        }
    }

    fn heard_ms(&self) -> u64 {
        match self {
            Link::Socket(conn) => conn.heard_ms(),
            Link::Line(line) => line.heard_ms(),
        }
    }

    fn begun_ms(&self) -> Option<u64> {
        match self {
            Link::Socket(conn) => conn.begun_ms(),
            Link::Line(line) => line.begun_ms(),
        }
    }
}
