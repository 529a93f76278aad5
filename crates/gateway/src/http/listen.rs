//! Binding a port and serving HTTP/1.1 on it, within bounds.
//!
//! Goes in: an address. Comes out: requests for a router. What a peer may waste is bounded: connections, the time to
//! send a request's head, the size of the head.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderName, HeaderValue};
use bugfeed_runtime::usage::bind_advice;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Events;
use crate::feed::Handover;

/// In every answer, so that clients know the gateway's own word from that of a proxy.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("bugfeed-version");

/// A connection that ends is read from for at most this long.
const LINGER: Duration = Duration::from_secs(1);

/// A port could not be had.
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
    /// The kernel's send buffer of a connection, in bytes; it bounds what a stalled client holds.
    pub send_buffer_bytes: usize,
    /// After this long without an acknowledgement from the peer's kernel a connection is dead (TCP_USER_TIMEOUT).
    pub unacknowledged_timeout: Duration,
    /// How long an answer that is under way may go on when the listener stops.
    pub grace: Duration,
}

/// Binds with a backlog that takes a stampede: with tokio's default of 1024 or less, thousands of clients that come
/// back at once wait for a retransmission each.
///
/// # Errors
/// Names the option and the address.
pub fn bind(option: &'static str, address: SocketAddr, send_buffer_bytes: usize) -> Result<TcpListener, BindError> {
    let bind = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Connections inherit it.
        socket.set_send_buffer_size(send_buffer_bytes)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| BindError { option, address, source })
}

/// Serves `router` on `listener` until `stop`; a [`Takeover`] is in the extensions of each request.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ListenLimits,
    events: Arc<Events>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let quiet = said.is_some_and(|said| said.elapsed() < Duration::from_secs(60));
                events.accept_failed(&error, quiet);
                if !quiet {
                    said = Some(Instant::now());
                }
                // Out of files or memory: accepting at once again would only spin.
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(100)) => continue,
                    () = stop.cancelled() => return,
                }
            }
        };
        prepare(&stream, &limits);
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => {
                let stop = stop.clone();
                tracker.spawn(connection(stream, Peer(peer), permit, router.clone(), limits, stop));
            }
            Err(_) => {
                events.turned_away("full");
                tracker.spawn(turn_away(stream));
            }
        }
    }
}

fn prepare(stream: &TcpStream, limits: &ListenLimits) {
    let socket = socket2::SockRef::from(stream);
    // Failing here means that the peer is already gone, which the first read will tell.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(limits.unacknowledged_timeout));
}

/// Says that there is no room.
async fn turn_away(mut stream: TcpStream) {
    let text = "{\"error\":\"this gateway is full; try again later\"}";
    // Pages of any site may read it: it says nothing that they could not find out.
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: application/json\r\nConnection: close\r\n\
         {VERSION_HEADER}: {}\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: \
         {VERSION_HEADER}, retry-after\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n{text}",
        bugfeed_runtime::VERSION,
        text.len()
    );
    // There is room for it in a new connection; an error means that the peer is gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    part(&mut stream).await;
}

/// Says that nothing more comes, and reads on for a moment, until the peer closes: what it still sends would be answered
/// with a reset, which would keep it from writing all of a request that was refused, and might overtake the refusal.
async fn part(stream: &mut TcpStream) {
    let parting = async {
        stream.shutdown().await?;
        let mut scratch = [0; 4096];
        while stream.read(&mut scratch).await? > 0 {}
        std::io::Result::Ok(())
    };
    // However it ends, the peer was told.
    let _ = tokio::time::timeout(LINGER, parting).await;
}

/// In each request's extensions: who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// In each request's extensions: the way to keep its connection once the answer is written. The answer must be the last
/// one: a 101, or one that says that it ends with the connection.
#[derive(Clone, Default)]
pub struct Takeover(Arc<Mutex<Option<Then>>>);

type Then = Box<dyn FnOnce(Handover) + Send>;

impl std::fmt::Debug for Takeover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Takeover")
    }
}

impl Takeover {
    /// Does `then` with the connection. Where the answer cannot be written, `then` is dropped.
    pub fn when_answered(&self, then: impl FnOnce(Handover) + Send + 'static) {
        *self.0.lock().expect("nobody panics holding it") = Some(Box::new(then));
    }
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    permit: OwnedSemaphorePermit,
    router: Router,
    limits: ListenLimits,
    stop: CancellationToken,
) {
    let takeover = Takeover::default();
    // A layer of the router would be a router of its own for each connection, of some 10 KB.
    let (router, given) = (TowerToHyperService::new(router), takeover.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(given.clone());
        request.extensions_mut().insert(peer);
        let answering = router.call(request);
        // Boxed, since a connection that is to be taken apart may not be pinned to its place.
        Box::pin(async move {
            let mut answer = answering.await?;
            answer.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(bugfeed_runtime::VERSION));
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
            // A connection between two requests ends at once.
            Pin::new(&mut *http).graceful_shutdown();
            let ending = tokio::time::timeout(limits.grace, poll_fn(|cx| http.poll_without_shutdown(cx)));
            let Ok(ended) = ending.await else { return };
            ended
        }
    };
    let mut parts = http.into_parts();
    let then = takeover.0.lock().expect("nobody panics holding it").take();
    match then.filter(|_| ended.is_ok()) {
        Some(then) => then(Handover { stream: parts.io.into_inner(), rest: parts.read_buf, permit }),
        // How it ended is the peer's business: a reset, a timeout, or nothing.
        // Who was between two requests, most of those that are left then, has nothing more to see.
        None if stop.is_cancelled() => drop(parts.io.inner_mut().shutdown().await),
        // Boxed: a connection that waits for its answer shall not hold room for it.
        None => Box::pin(part(parts.io.inner_mut())).await,
    }
}
