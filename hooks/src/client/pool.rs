//! Connections that are kept for the next request to the same server.
//!
//! The youngest one is used first, so that those that are not needed grow old and are closed. Bounded for each server and
//! in all; whoever brings one too many makes the oldest one go. Never hands out a connection that is known to be closed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::dial::Stream;
use super::{Fault, Origin};

/// One end of a connection: where requests are put in.
pub(super) type Sender = http1::SendRequest<Full<Bytes>>;

#[derive(Debug)]
pub(super) struct Pool {
    idle: Duration,
    in_all: usize,
    per_server: usize,
    kept: Mutex<HashMap<Origin, Vec<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    sender: Sender,
    since: Instant,
}

impl Kept {
    fn is_good(&self, idle: Duration) -> bool {
        self.since.elapsed() < idle && !self.sender.is_closed()
    }
}

impl Pool {
    pub(super) fn new(idle: Duration, in_all: usize, per_server: usize) -> Pool {
        Pool { idle, in_all, per_server, kept: Mutex::new(HashMap::new()) }
    }

    pub(super) fn take(&self, origin: &Origin) -> Option<Sender> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = kept.get_mut(origin)?;
        let mut found = None;
        while let Some(last) = of_server.pop() {
            if last.is_good(self.idle) {
                found = Some(last.sender);
                break;
            }
        }
        if of_server.is_empty() {
            kept.remove(origin);
        }
        found
    }

    pub(super) fn put(&self, origin: &Origin, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = kept.entry(origin.clone()).or_default();
        of_server.push(Kept { sender, since: Instant::now() });
        if of_server.len() > self.per_server {
            of_server.remove(0);
        }
        if kept.values().map(Vec::len).sum::<usize>() > self.in_all {
            self.make_room(&mut kept);
        }
    }

    /// Closes what is too old; if nothing is, the oldest one.
    fn make_room(&self, kept: &mut HashMap<Origin, Vec<Kept>>) {
        for of_server in kept.values_mut() {
            of_server.retain(|kept| kept.is_good(self.idle));
        }
        if kept.values().map(Vec::len).sum::<usize>() > self.in_all {
            let oldest = kept.iter().filter_map(|(origin, list)| Some((list.first()?.since, origin.clone())));
            if let Some((_, origin)) = oldest.min_by_key(|(since, _)| *since) {
                kept.entry(origin).or_default().remove(0);
            }
        }
        kept.retain(|_, of_server| !of_server.is_empty());
    }

    /// How many connections are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }
}

/// Begins HTTP/1.1 on a stream. A task drives the connection, and ends with it.
pub(super) async fn handshake(stream: Stream, longest_head: usize) -> Result<Sender, Fault> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(longest_head);
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| Fault::of_hyper(&error))?;
    // What goes wrong is told to the request that is under way.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}
