//! One connection as HTTP/1.1: its requests go to the router.
//!
//! Goes in: an accepted connection. Comes out: requests, with a [`Hijack`] and a [`Peer`] in their extensions. Those that
//! no path may see are refused here.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::accept::{ConnectionEvents, Front, ListenLimits};
use super::framing::{Followed, Framing};
use super::hijack::{Hijack, Hijacked, Peer};
use super::parting::{part, speak_tls};
use super::tls::{NotTls, ServerTls};
use super::wire::Wire;
use super::{VERSION_HEADER, rules};

/// What all connections of a listener share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) front: Front,
    pub(super) limits: ListenLimits,
    pub(super) events: Arc<dyn ConnectionEvents>,
    pub(super) stop: CancellationToken,
}

/// Serves one connection, until it ends or a request takes it from the HTTP server. Here the bytes of a socket become HTTP.
pub(super) async fn connection(stream: TcpStream, peer: Peer, permit: OwnedSemaphorePermit, shared: Shared) {
    let Some(wire) = encrypted(stream, &shared).await else { return };
    serve(wire, peer, permit, shared).await;
}

/// The connection after its TLS handshake, where this listener speaks TLS; `None` if there is nobody to serve.
async fn encrypted(stream: TcpStream, shared: &Shared) -> Option<Wire> {
    let Some(tls) = &shared.front.tls else { return Some(Wire::from(stream)) };
    // Boxed, so that what follows does not reserve memory for the handshake's future.
    Box::pin(shake_hands(stream, tls.clone(), shared)).await
}

async fn shake_hands(stream: TcpStream, tls: ServerTls, shared: &Shared) -> Option<Wire> {
    let shaking = tokio::time::timeout(shared.limits.handshake_timeout, tls.accept(stream));
    let shaken = tokio::select! {
        shaken = shaking => shaken,
        () = shared.stop.cancelled() => return None,
    };
    match shaken {
        Ok(Ok(wire)) => Some(wire),
        Ok(Err(NotTls::Plain(stream))) => {
            shared.events.turned_away("not_tls");
            speak_tls(stream).await;
            None
        }
        Ok(Err(NotTls::Handshake(_))) | Err(_) => {
            shared.events.turned_away("tls_handshake");
            None
        }
    }
}

async fn serve(stream: Wire, peer: Peer, permit: OwnedSemaphorePermit, shared: Shared) {
    let Shared { router, front, limits, events, stop } = shared;
    let (hijack, framing) = (Hijack::default(), Arc::new(Framing::default()));
    let stream = Followed::new(stream, Arc::clone(&framing));
    // The extensions are set here and not by a layer of the router, because that would make a copy of the router for
    // each connection, of some 10 KB.
    let (router, given) = (TowerToHyperService::new(router), hijack.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let looked = rules::look_at(&request, framing.next_has_both(), &front.hosts);
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
    let then = hijack.take();
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
