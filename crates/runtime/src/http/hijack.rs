//! What each request carries about its connection: who is at its other end, and how to take it from the HTTP server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::places::{Held, Place};
use super::wire::Wire;

/// In each request's extensions: the address at the other end of the connection, or the one that a PROXY header puts there.
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
    pub permit: Place,
}

/// In each request's extensions: takes the connection from the HTTP server once the answer is written (hijack, as in
/// Go's `http.Hijacker`). The answer must be the connection's last one: a 101, or one that ends with the connection.
#[derive(Clone, Default)]
pub struct Hijack(Arc<Mutex<Wanted>>);

type Then = Box<dyn FnOnce(Hijacked) + Send>;

/// What happens to a connection after its last answer.
#[derive(Default)]
pub(super) struct Wanted {
    /// What is called with it.
    pub(super) then: Option<Then>,
    /// The place of the client whose request this was.
    pub(super) held: Option<Held>,
}

impl std::fmt::Debug for Hijack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hijack")
    }
}

impl Hijack {
    /// Calls `then` with the connection after the answer was written. If the answer cannot be written, `then` is
    /// dropped.
    pub fn when_answered(&self, then: impl FnOnce(Hijacked) + Send + 'static) {
        self.lock().then = Some(Box::new(then));
    }

    /// The request was answered: its client's place is kept if the connection is wanted, and free again if not.
    pub(super) fn answered(&self, held: Option<Held>) {
        let mut wanted = self.lock();
        if wanted.then.is_some() {
            wanted.held = held;
        }
    }

    /// Takes what was wanted.
    pub(super) fn take(&self) -> Wanted {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.0.lock().expect("nobody panics holding it")
    }
}
