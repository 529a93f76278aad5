//! Binding a port and serving HTTP/1.1 on it, within bounds.
//!
//! Goes in: an address. Comes out: requests for a router. A peer's use of resources is bounded: the number of
//! connections, the time to send a request's head, the size of the head. Requests that no path may see are refused here:
//! those that name no host or one that is not served, and those whose end another program may see elsewhere.

pub mod body;
mod framing;
mod hosts;
mod rules;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use bytes::Bytes;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::framing::{Followed, Framing};
pub use self::hosts::{HostName, Hosts};
use crate::throttle::Throttle;
use crate::usage::bind_advice;

/// A header of every answer. By it, clients tell an answer of the gateway itself from one of a proxy.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("bugfeed-version");

/// The longest time for which a connection is still read from while it is closed.
const LINGER: Duration = Duration::from_secs(1);

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
    serve_hosts(listener, router, Hosts::default(), limits, events, tracker, stop).await;
}

/// The same; requests for other hosts are refused (421).
pub async fn serve_hosts(
    listener: TcpListener,
    router: Router,
    hosts: Hosts,
    limits: ListenLimits,
    events: Arc<dyn ConnectionEvents>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let shared = Shared { router, hosts, limits, events: Arc::clone(&events), stop: stop.clone() };
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
                tracker.spawn(turn_away(stream));
            }
        }
    }
}

pub(crate) fn prepare(stream: &TcpStream, limits: &ListenLimits) {
    let socket = socket2::SockRef::from(stream);
    // An error here means that the peer has left already, which the first read will find.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(limits.unacknowledged_timeout));
}

/// Answers 503: there is no room for this connection.
pub(crate) async fn turn_away(mut stream: TcpStream) {
    let text = "{\"error\":\"this gateway is full; try again later\"}";
    // Pages of any site may read this answer, because it tells them nothing secret.
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: application/json\r\nConnection: close\r\n\
         {VERSION_HEADER}: {}\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: \
         {VERSION_HEADER}, retry-after\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
        crate::VERSION,
        text.len()
    );
    // A new connection's buffer has room for the answer; an error means that the peer has left.
    let _ = stream.write_all(answer.as_bytes()).await;
    linger_close(&mut stream).await;
}

/// Ends a connection. To a peer that has begun a request and not ended its head in time, it says so first.
async fn part(stream: &mut TcpStream, is_late: bool) {
    if is_late {
        let text = "{\"error\":\"the head of the request did not arrive in time\",\"fix\":\"send it again\"}";
        let answer = format!(
            "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n\
             {VERSION_HEADER}: {}\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
            crate::VERSION,
            text.len()
        );
        // An error means that the peer has left; one that takes nothing is not waited for.
        let _ = tokio::time::timeout(LINGER, stream.write_all(answer.as_bytes())).await;
    }
    linger_close(stream).await;
}

/// Closes politely: sends FIN, then reads for a moment until the peer closes. Why: bytes that arrive after a plain
/// close are answered with a reset. The reset would stop a peer that is still writing its refused request, and might
/// overtake the refusal.
async fn linger_close(stream: &mut TcpStream) {
    let parting = async {
        stream.shutdown().await?;
        let mut scratch = [0; 4096];
        while stream.read(&mut scratch).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The peer has been answered, so errors and the timeout do not matter.
    let _ = tokio::time::timeout(LINGER, parting).await;
}

/// In each request's extensions: the address at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A connection that was taken from the HTTP server after its last answer.
#[derive(Debug)]
pub struct Hijacked {
    /// The connection.
    pub stream: TcpStream,
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
}

/// What all connections of a listener share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) router: Router,
    pub(crate) hosts: Hosts,
    pub(crate) limits: ListenLimits,
    pub(crate) events: Arc<dyn ConnectionEvents>,
    pub(crate) stop: CancellationToken,
}

/// Serves a connection until it ends.
pub(crate) async fn connection(stream: TcpStream, peer: Peer, permit: OwnedSemaphorePermit, shared: Shared) {
    let Shared { router, hosts, limits, events, stop } = shared;
    let (hijack, framing) = (Hijack::default(), Arc::new(Framing::default()));
    let stream = Followed::new(stream, Arc::clone(&framing));
    // The extensions are set here and not by a layer of the router, because that would make a copy of the router for
    // each connection, of some 10 KB.
    let (router, given) = (TowerToHyperService::new(router), hijack.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let looked = rules::look_at(&request, framing.next_has_both(), &hosts);
        let answering = looked.map(|()| {
            request.extensions_mut().insert(given.clone());
            request.extensions_mut().insert(peer);
            router.call(request)
        });
        if let Err(refusal) = &answering {
            events.turned_away(refusal.kind);
        }
        // Boxed (and so `Unpin`), because a pinned connection could not be taken apart.
        Box::pin(async move {
            let mut answer = match answering {
                Ok(answering) => answering.await?,
                Err(refusal) => refusal.respond(),
            };
            answer.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(crate::VERSION));
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                // A browser does not make a page or a script of what says that it is none.
                answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        })
    });
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = Box::new(http);
    let ended = tokio::select! {
        ended = poll_fn(|cx| http.poll_without_shutdown(cx)) => Some(ended),
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // This ends a connection that is between two requests at once.
            Pin::new(&mut *http).graceful_shutdown();
            let ending = tokio::time::timeout(limits.grace, poll_fn(|cx| http.poll_without_shutdown(cx)));
            let Ok(ended) = ending.await else { return };
            ended
        }
    };
    let mut parts = http.into_parts();
    let then = hijack.0.lock().expect("nobody panics holding it").take();
    match then.filter(|_| ended.is_ok()) {
        Some(then) => then(Hijacked { stream: parts.io.into_inner().stream, rest: parts.read_buf, permit }),
        // How the connection ended (a reset, a timeout, a close) does not matter. When the listener stops, most of the
        // remaining connections are between two requests: they have no answer to receive, so no linger is needed.
        None if stop.is_cancelled() => drop(parts.io.inner_mut().stream.shutdown().await),
        // Boxed, so that a connection that waits for its answer does not reserve memory for this future.
        None => {
            let is_late = ended.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty();
            Box::pin(part(&mut parts.io.inner_mut().stream, is_late)).await;
        }
    }
}
