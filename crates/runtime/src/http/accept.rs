//! A bound port and its accept loop.
//!
//! Goes in: an address. Comes out: connections, each with a place among those that the listener may have at a time. Who finds no
//! place is told so. It reads nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Shared, connection};
use super::hijack::Peer;
use super::hosts::Hosts;
use super::parting::{leave, turn_away};
use super::tls::ServerTls;
use crate::throttle::Throttle;
use crate::usage::bind_advice;

/// A port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (--{option}): {source}; {}", bind_advice(source))]
pub struct BindError {
    option: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Bounds on a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenLimits {
    /// Connections at a time; further ones are answered 503.
    pub connections: usize,
    /// How long a peer may take to send a request's head.
    pub handshake_timeout: Duration,
    /// The kernel's send buffer of a connection, in bytes. It bounds the kernel memory that a stalled client uses.
    pub send_buffer_bytes: usize,
    /// A connection is dead after this long without an acknowledgement from the peer's kernel (TCP_USER_TIMEOUT).
    pub unacknowledged_timeout: Duration,
    /// How long an answer that has begun may still take when the listener stops.
    pub grace: Duration,
}

/// Told of connections that are not served.
pub trait ConnectionEvents: Send + Sync {
    /// Accepting a connection failed. Peers can cause this, so most failures are `quiet`: they are counted, not logged.
    fn accept_failed(&self, error: &std::io::Error, quiet: bool);
    /// A connection was turned away, for this reason.
    fn turned_away(&self, reason: &'static str);
}

/// Binds with a listen backlog of 4096. With tokio's default of 1024 or less, thousands of clients that come back at
/// once (thundering herd) would each wait for a retransmission.
///
/// # Errors
/// If the port cannot be bound; the error names the option and the address.
pub fn bind(option: &'static str, address: SocketAddr, send_buffer_bytes: usize) -> Result<TcpListener, BindError> {
    let bind = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Accepted connections inherit this size.
        socket.set_send_buffer_size(send_buffer_bytes)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| BindError { option, address, source })
}

/// Serves `router` on `listener` until `stop`, whatever host is asked. Each request has a [`Hijack`] and a [`Peer`] in its
/// extensions.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ListenLimits,
    events: Arc<dyn ConnectionEvents>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    serve_behind(listener, router, Front::default(), limits, events, tracker, stop).await;
}

/// How a listener meets its clients.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// The hosts that are served; requests for others are refused (421).
    pub hosts: Hosts,
    /// The server's side of TLS; without it, bytes travel as they are.
    pub tls: Option<ServerTls>,
}

/// The same, behind this front.
pub async fn serve_behind(
    listener: TcpListener,
    router: Router,
    front: Front,
    limits: ListenLimits,
    events: Arc<dyn ConnectionEvents>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let shared = Shared { router, front, limits, events: Arc::clone(&events), stop: stop.clone() };
    let permits = Arc::new(Semaphore::new(limits.connections));
    let failures = Throttle::once_a_minute();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                events.accept_failed(&error, failures.is_quiet());
                // The process is out of files or memory: accepting again at once would only be a busy loop.
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(100)) => continue,
                    () = stop.cancelled() => return,
                }
            }
        };
        prepare(&stream, &limits);
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => {
                tracker.spawn(connection(stream, Peer(peer), permit, shared.clone()));
            }
            Err(_) => {
                events.turned_away("full");
                // Without the handshake, which would cost more than the refusal saves, nothing can be said over TLS.
                match &shared.front.tls {
                    Some(_) => drop(tracker.spawn(leave(stream))),
                    None => drop(tracker.spawn(turn_away(stream))),
                }
            }
        }
    }
}

fn prepare(stream: &TcpStream, limits: &ListenLimits) {
    let socket = socket2::SockRef::from(stream);
    // An error here means that the peer has left already, which the first read will find.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(limits.unacknowledged_timeout));
}
