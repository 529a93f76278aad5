//! Binding a port and serving HTTP/1.1 on it, within bounds.
//!
//! Goes in: an address. Comes out: requests for a router. What a peer may waste is bounded: connections, the time to
//! send a request's head, the size of the head.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Events;

/// A port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (--{option}): {source}; is another program using the port? Choose another address")]
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

/// Serves `router` on `listener` until `stop`; each connection's permit is in its requests' extensions, for whoever
/// takes the connection over.
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
        let stream = match accepted {
            Ok((stream, _)) => stream,
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
                tracker.spawn(connection(stream, permit, router.clone(), limits, stop.clone()));
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

/// Says that there is no room. Reads on until the peer closes, or the answer might be lost to a reset.
async fn turn_away(mut stream: TcpStream) {
    let text = "This gateway is full; try again later\n";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let turning = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut scratch = [0; 512];
        while stream.read(&mut scratch).await? > 0 {}
        std::io::Result::Ok(())
    };
    // However it ends, the peer was told.
    let _ = tokio::time::timeout(Duration::from_secs(1), turning).await;
}

/// Counts a connection as long as it lives; taken out by the request that upgrades.
#[derive(Clone, Debug)]
pub struct Permit(pub Arc<std::sync::Mutex<Option<OwnedSemaphorePermit>>>);

async fn connection(
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    router: Router,
    limits: ListenLimits,
    stop: CancellationToken,
) {
    let permit = Permit(Arc::new(std::sync::Mutex::new(Some(permit))));
    let service = TowerToHyperService::new(router.layer(axum::Extension(permit)));
    let serve = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serve = Box::pin(serve);
    // How it ended is the peer's business: a reset, a timeout, or nothing.
    tokio::select! {
        _ = &mut serve => return,
        () = stop.cancelled() => {}
    }
    // A connection between two requests ends at once.
    serve.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.grace, serve).await;
}
