//! What each request carries about its connection: who is at its other end, and how to take it from the HTTP server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::wire::Wire;

/// In each request's extensions: the address at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A connection that was taken from the HTTP server after its last answer.
#[derive(Debug)]
pub struct Hijacked {
    /// The connection.
    pub stream: Wire,
    /// Bytes that were read from it already.
    pub rest: Bytes,
    /// Its place among the listener's connections, which is free again when this is dropped.
    pub permit: OwnedSemaphorePermit,
}

/// In each request's extensions: takes the connection from the HTTP server once the answer is written (hijack, as in
/// Go's `http.Hijacker`). The answer must be the connection's last one: a 101, or one that ends with the connection.
#[derive(Clone, Default)]
pub struct Hijack(Arc<Mutex<Option<Then>>>);

type Then = Box<dyn FnOnce(Hijacked) + Send>;

impl std::fmt::Debug for Hijack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hijack")
    }
}

impl Hijack {
    /// Calls `then` with the connection after the answer was written. If the answer cannot be written, `then` is
    /// dropped.
    pub fn when_answered(&self, then: impl FnOnce(Hijacked) + Send + 'static) {
        *self.0.lock().expect("nobody panics holding it") = Some(Box::new(then));
    }

    /// Takes what was to be called.
    pub(super) fn take(&self) -> Option<Then> {
        self.0.lock().expect("nobody panics holding it").take()
    }
}
