//! Connections that are kept for the next request to the same server.
//!
//! Of HTTP/1.1, one request has a connection for itself; of HTTP/2, several share one. The youngest connection is used
//! first, so that those that are not needed grow old and are closed. Bounded for each server and in all; whoever brings one
//! too many makes the oldest one go. Never hands out a connection that is known to be closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::dial::Stream;
use super::{Fault, Origin};

/// So many requests share a connection of HTTP/2. Fewer than servers usually allow, so that requests that hang do not
/// make others wait for the server's permission.
const MOST_SHARING: usize = 32;
/// Of HTTP/2, a server may send so many bytes of a body before anybody wants to read them.
const WINDOW: u32 = 32 * 1024;

/// One end of a connection: where requests are put in.
#[derive(Debug)]
pub(super) enum Sender {
    Own(http1::SendRequest<Full<Bytes>>),
    Shared(Shared),
}

/// One end of a connection of HTTP/2.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Tells connections apart, and counts who has this one: the pool and each request.
    users: Arc<()>,
}

impl Sender {
    /// Begins HTTP on a stream. A task drives the connection, and ends with it.
    pub(super) async fn begin(stream: Stream, is_http2: bool, longest_head: usize) -> Result<Sender, Fault> {
        let io = TokioIo::new(stream);
        // What goes wrong on a connection is told to the requests that are under way.
        if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let longest_head = u32::try_from(longest_head).unwrap_or(u32::MAX);
            builder.initial_stream_window_size(WINDOW).max_header_list_size(longest_head);
            let (sender, connection) = builder.handshake(io).await.map_err(|error| Fault::of_hyper(&error))?;
            tokio::spawn(async move { connection.await.ok() });
            return Ok(Sender::Shared(Shared { sender, users: Arc::new(()) }));
        }
        let mut builder = http1::Builder::new();
        builder.max_buf_size(longest_head);
        let (sender, connection) = builder.handshake(io).await.map_err(|error| Fault::of_hyper(&error))?;
        tokio::spawn(async move { connection.await.ok() });
        Ok(Sender::Own(sender))
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Sender::Shared(_))
    }

    fn is_closed(&self) -> bool {
        match self {
            Sender::Own(sender) => sender.is_closed(),
            Sender::Shared(shared) => shared.sender.is_closed(),
        }
    }

    /// Waits until a request can be put in.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Sender::Own(sender) => sender.ready().await,
            Sender::Shared(shared) => shared.sender.ready().await,
        }
    }

    pub(super) async fn send(
        &mut self,
        request: hyper::Request<Full<Bytes>>,
    ) -> hyper::Result<hyper::Response<Incoming>> {
        match self {
            Sender::Own(sender) => sender.send_request(request).await,
            Sender::Shared(shared) => shared.sender.send_request(request).await,
        }
    }

    fn is_same(&self, other: &Sender) -> bool {
        match (self, other) {
            (Sender::Shared(one), Sender::Shared(other)) => Arc::ptr_eq(&one.users, &other.users),
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Pool {
    idle: Duration,
    in_all: usize,
    per_server: usize,
    kept: Mutex<State>,
}

#[derive(Debug)]
struct State {
    of: HashMap<Origin, Vec<Kept>>,
    number: usize,
    swept: Instant,
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

    /// The connection for one more request, if it is not only for another one.
    fn share(&mut self) -> Option<Sender> {
        let Sender::Shared(shared) = &self.sender else { return None };
        // The pool itself is a user.
        if Arc::strong_count(&shared.users) > MOST_SHARING {
            return None;
        }
        self.since = Instant::now();
        Some(Sender::Shared(shared.clone()))
    }
}

impl Pool {
    pub(super) fn new(idle: Duration, in_all: usize, per_server: usize) -> Pool {
        let state = State { of: HashMap::new(), number: 0, swept: Instant::now() };
        Pool { idle, in_all, per_server, kept: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, origin: &Origin) -> Option<Sender> {
        let mut state = self.state();
        let State { of, number, .. } = &mut *state;
        let of_server = of.get_mut(origin)?;
        let mut found = None;
        for index in (0..of_server.len()).rev() {
            let kept = &mut of_server[index];
            if !kept.is_good(self.idle) {
                of_server.remove(index);
                *number -= 1;
                continue;
            }
            if !kept.sender.is_http2() {
                found = Some(of_server.remove(index).sender);
                *number -= 1;
                break;
            }
            found = kept.share();
            if found.is_some() {
                break;
            }
        }
        if of_server.is_empty() {
            of.remove(origin);
        }
        found
    }

    pub(super) fn put(&self, origin: &Origin, sender: Sender) {
        let mut state = self.state();
        if sender.is_closed() {
            return;
        }
        let now = Instant::now();
        let is_time_to_sweep = now.duration_since(state.swept) > self.idle;
        let State { of, number, swept } = &mut *state;
        if !of.contains_key(origin) {
            of.insert(origin.clone(), Vec::new());
        }
        let of_server = of.get_mut(origin).expect("it was just put there if it was not");
        if let Some(kept) = of_server.iter_mut().find(|kept| kept.sender.is_same(&sender)) {
            kept.since = now;
        } else {
            of_server.push(Kept { sender, since: now });
            *number += 1;
        }
        if of_server.len() > self.per_server {
            of_server.remove(0);
            *number -= 1;
        }
        if is_time_to_sweep || *number > self.in_all {
            *swept = now;
            *number = make_room(of, self.idle, self.in_all);
        }
    }

    /// No further request gets this connection, because it may be dead without saying so.
    pub(super) fn forget(&self, origin: &Origin, sender: &Sender) {
        let mut state = self.state();
        let State { of, number, .. } = &mut *state;
        let Some(of_server) = of.get_mut(origin) else { return };
        let before = of_server.len();
        of_server.retain(|kept| !kept.sender.is_same(sender));
        *number -= before - of_server.len();
        if of_server.is_empty() {
            of.remove(origin);
        }
    }

    /// How many connections are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let state = self.state();
        assert_eq!(state.number, state.of.values().map(Vec::len).sum::<usize>());
        state.number
    }
}

/// Closes what is too old; if there are still too many, the oldest one. Returns how many there are.
fn make_room(of: &mut HashMap<Origin, Vec<Kept>>, idle: Duration, in_all: usize) -> usize {
    for of_server in of.values_mut() {
        of_server.retain(|kept| kept.is_good(idle));
    }
    let mut number = of.values().map(Vec::len).sum();
    if number > in_all {
        let oldest = of.iter().filter_map(|(origin, list)| Some((list.first()?.since, origin.clone())));
        if let Some((_, origin)) = oldest.min_by_key(|(since, _)| *since)
            && let Some(of_server) = of.get_mut(&origin)
        {
            of_server.remove(0);
            number -= 1;
        }
    }
    of.retain(|_, of_server| !of_server.is_empty());
    number
}
