//! A bound port and its accept loop.
//!
//! Goes in: an address. Comes out: connections, each with a place among those that the listener may have at a time, and what is
//! known of whose they are. Who finds no place is told so. It reads nothing but PROXY headers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bugfeed_core::admission::{AdmissionLimits, Client, Refusal};
use bugfeed_core::client_address::proxy_header::Source;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clients::{ClientRules, Origin};
use super::connection::{Shared, connection};
use super::hijack::Peer;
use super::hosts::Hosts;
use super::parting::{leave, refuse_header, say_no};
use super::places::{Place, Places};
use super::proxied::{self, NoHeader};
use super::tls::ServerTls;
use crate::health::Health;
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
    /// A connection or a request was turned away, for this reason; `from` is its client, as far as that is known.
    fn turned_away(&self, reason: &'static str, from: Option<IpAddr>);
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

/// Serves `router` on `listener` until `stop`, whatever host is asked. Each request has a [`Hijack`](super::Hijack), a [`Peer`]
/// and a [`ClientAddress`](super::ClientAddress) in its extensions.
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
    /// Bounds on new connections, and on those of one client; `connections` in it counts for nothing.
    pub admission: AdmissionLimits,
    /// How the listener learns whose connections they are.
    pub clients: ClientRules,
    /// Where it is said that places get scarce, and under which name.
    pub health: Option<(Health, &'static str)>,
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
    let places = Places::new(AdmissionLimits { connections: limits.connections, ..front.admission });
    if let Some((health, part)) = &front.health {
        let places = Arc::clone(&places);
        health.watch(part, move || places.warning());
    }
    let shared = Shared::new(router, front, limits, Arc::clone(&events), stop.clone());
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
        let origin = shared.clients.origin(peer);
        let client = if let Origin::Client(address) = origin { Some(address) } else { None };
        match places.connect(client.map(Client::of)) {
            Ok(place) if origin == Origin::Wrapped => {
                tracker.spawn(wrapped(stream, Peer(peer), place, shared.clone()));
            }
            Ok(place) => {
                tracker.spawn(connection(stream, (Peer(peer), origin), place, shared.clone()));
            }
            Err(refusal) => {
                if let Some(farewell) = turn_away(stream, refusal, client, &shared) {
                    tracker.spawn(farewell);
                }
            }
        }
    }
}

/// Serves a connection that begins with a PROXY header.
async fn wrapped(mut stream: TcpStream, peer: Peer, mut place: Place, shared: Shared) {
    let reading = Box::pin(proxied::read(&mut stream, shared.limits.handshake_timeout));
    let Some(source) = shared.stop.run_until_cancelled(reading).await else { return };
    let (peer, origin) = match source {
        // It has looked whether somebody is here.
        Err(NoHeader::Gone { silent: true }) => return,
        Err(reason) => {
            shared.events.turned_away("proxy_header", Some(peer.0.ip()));
            return Box::pin(refuse_header(stream, reason)).await;
        }
        Ok(Source::Proxy) => (peer, Origin::Unknown),
        // Nobody may take it for the proxy's own.
        Ok(Source::Unknown) => (Peer(SocketAddr::from(([0, 0, 0, 0], 0))), Origin::Unknown),
        Ok(Source::Client(source)) => (Peer(source), shared.clients.behind(source)),
    };
    if let Origin::Client(address) = origin {
        match place.places().join(Client::of(address)) {
            Ok(held) => place.hold(held),
            Err(refusal) => {
                drop(place);
                if let Some(farewell) = turn_away(stream, refusal, Some(address), &shared) {
                    Box::pin(farewell).await;
                }
                return;
            }
        }
    }
    connection(stream, (peer, origin), place, shared).await;
}

/// Turns a connection away, and counts it. Comes out: its answer, which the caller carries out; or nothing, if so many are being
/// answered already that it was closed at once.
pub(crate) fn turn_away(
    stream: TcpStream,
    refusal: Refusal,
    from: Option<IpAddr>,
    shared: &Shared,
) -> Option<impl Future<Output = ()> + use<>> {
    shared.events.turned_away(refusal.reason.kind(), from);
    let permit = Arc::clone(&shared.farewells).try_acquire_owned().ok()?;
    let speaks_tls = shared.front.tls.is_some();
    Some(async move {
        // Without the handshake, which would cost more than the refusal saves, nothing can be said over TLS.
        if speaks_tls {
            leave(stream).await;
        } else {
            say_no(stream, refusal).await;
        }
        drop(permit);
    })
}

pub(crate) fn prepare(stream: &TcpStream, limits: &ListenLimits) {
    let socket = socket2::SockRef::from(stream);
    // An error here means that the peer has left already, which the first read will find.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(limits.unacknowledged_timeout));
}
