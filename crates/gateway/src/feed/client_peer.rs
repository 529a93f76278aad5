//! What a shard writes to: a WebSocket client's socket, or the buffer of a client of the HTTP fallback.

use std::io;
use std::sync::Arc;

use super::buffered_peer::BufferedPeer;
use super::connection::Connection;
use bugfeed_core::shard::Peer;
use bugfeed_core::subscriptions::Slot;

/// Where a shard writes the messages of one session.
#[derive(Debug)]
pub enum ClientPeer {
    /// A WebSocket client.
    Socket(Arc<Connection>),
    /// A client of the HTTP fallback (SSE, long-poll).
    Buffered(Arc<BufferedPeer>),
}

impl Peer for ClientPeer {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientPeer::Socket(conn) => conn.try_write(bytes),
            ClientPeer::Buffered(buffer) => buffer.try_write(bytes),
        }
    }

    fn attached(&self, slot: Slot) {
        match self {
            ClientPeer::Socket(conn) => conn.attached(slot),
            ClientPeer::Buffered(buffer) => buffer.attached(slot),
        }
    }

    fn want_writable(&self) {
        match self {
            ClientPeer::Socket(conn) => conn.want_writable(),
            ClientPeer::Buffered(buffer) => buffer.want_writable(),
        }
    }

    fn ready(&self) {
        match self {
            ClientPeer::Socket(conn) => conn.ready(),
            ClientPeer::Buffered(buffer) => buffer.ready(),
        }
    }

    fn end(&self) {
        match self {
            ClientPeer::Socket(conn) => conn.end(),
            ClientPeer::Buffered(buffer) => buffer.end(),
        }
    }

    fn heard_ms(&self) -> u64 {
        match self {
            ClientPeer::Socket(conn) => conn.heard_ms(),
            ClientPeer::Buffered(buffer) => buffer.heard_ms(),
        }
    }

    fn is_buffered(&self) -> bool {
        matches!(self, ClientPeer::Buffered(_))
    }

    fn begun_ms(&self) -> Option<u64> {
        match self {
            ClientPeer::Socket(conn) => conn.begun_ms(),
            ClientPeer::Buffered(buffer) => buffer.begun_ms(),
        }
    }
}
