//! One connection as HTTP/1.1: its requests go to the router.
//!
//! Goes in: an accepted connection that has a place. Comes out: requests, with a [`Hijack`], a [`Peer`] and a [`ClientAddress`]
//! in their extensions. Those that no path may see are refused here, and those of clients that ask too much.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use bugfeed_core::admission::{self, Client};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::accept::{ConnectionEvents, Front, ListenLimits};
use super::clients::{ClientAddress, Clients, Origin};
use super::framing::{Followed, Framing};
use super::hijack::{Hijack, Hijacked, Peer, Wanted};
use super::parting::{part, speak_tls};
use super::places::{Held, Place, Places};
use super::rules::Refusal;
use super::tls::{NotTls, ServerTls};
use super::wire::Wire;
use super::{VERSION_HEADER, rules};

/// So many connections at a time are told why they are turned away. In a flood, others are closed without a word.
const FAREWELLS: usize = 256;

/// What all connections of a listener share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(super) router: Router,
    pub(super) front: Front,
    pub(super) limits: ListenLimits,
    pub(super) events: Arc<dyn ConnectionEvents>,
    pub(crate) clients: Arc<Clients>,
    /// One for each connection that is being told why it is turned away.
    pub(super) farewells: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(
        router: Router,
        front: Front,
        limits: ListenLimits,
        events: Arc<dyn ConnectionEvents>,
        stop: CancellationToken,
    ) -> Shared {
        let (clients, farewells) = (Clients::new(front.clients.clone()), Arc::new(Semaphore::new(FAREWELLS)));
        Shared { router, front, limits, events, clients, farewells, stop }
    }

    /// The same with another router.
    pub(crate) fn with(&self, router: Router) -> Shared {
        Shared { router, ..self.clone() }
    }
}

/// Serves one connection, until it ends or a request takes it from the HTTP server. Here the bytes of a socket become HTTP.
pub(crate) async fn connection(stream: TcpStream, (peer, origin): (Peer, Origin), place: Place, shared: Shared) {
    let Some(wire) = encrypted(stream, known(origin), place.places(), &shared).await else { return };
    serve(wire, (peer, origin), place, shared).await;
}

/// The connection after its TLS handshake, where this listener speaks TLS; `None` if there is nobody to serve.
async fn encrypted(stream: TcpStream, from: Option<IpAddr>, places: &Places, shared: &Shared) -> Option<Wire> {
    let Some(tls) = &shared.front.tls else { return Some(Wire::from(stream)) };
    // Boxed, so that what follows does not reserve memory for the handshake's future.
    Box::pin(shake_hands(stream, tls.clone(), (from, places), shared)).await
}

async fn shake_hands(
    stream: TcpStream,
    tls: ServerTls,
    (from, places): (Option<IpAddr>, &Places),
    shared: &Shared,
) -> Option<Wire> {
    let shaking = tokio::time::timeout(shared.limits.handshake_timeout, tls.accept(stream));
    let activity = Activity::new();
    tokio::pin!(shaking);
    let shaken = loop {
        tokio::select! {
            shaken = &mut shaking => break shaken,
            () = shared.stop.cancelled() => return None,
            () = places.get_scarce() => if activity.idle() == Idle::Silent {
                shared.events.turned_away("silent", from);
                return None;
            },
        }
    };
    match shaken {
        Ok(Ok(wire)) => Some(wire),
        Ok(Err(NotTls::Plain(stream))) => {
            shared.events.turned_away("not_tls", from);
            speak_tls(stream).await;
            None
        }
        Ok(Err(NotTls::Handshake(_))) | Err(_) => {
            shared.events.turned_away("tls_handshake", from);
            None
        }
    }
}

async fn serve(stream: Wire, (peer, origin): (Peer, Origin), mut place: Place, shared: Shared) {
    let Shared { router, front, limits, events, clients, farewells: _, stop } = shared;
    let (hijack, framing, activity) = (Hijack::default(), Arc::new(Framing::default()), Arc::new(Activity::new()));
    let stream = Followed::new(stream, Arc::clone(&framing));
    let gate = Gate { origin, clients, places: Arc::clone(place.places()), activity: Arc::clone(&activity) };
    // The extensions are set here and not by a layer of the router, because that would make a copy of the router for
    // each connection, of some 10 KB.
    let (router, given, told) = (TowerToHyperService::new(router), hijack.clone(), Arc::clone(&events));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let client = gate.clients.of_request(gate.origin, request.headers());
        let admitted = gate.admit(client).map_err(Refusal::from);
        let has_both = framing.next_has_both();
        let looked = admitted.and_then(|held| rules::look_at(&request, has_both, &front.hosts).map(|()| held));
        let answering = looked.map(|held| {
            request.extensions_mut().insert(given.clone());
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(ClientAddress(client));
            (router.call(request), held)
        });
        if let Err(refusal) = &answering {
            told.turned_away(refusal.kind, client);
        }
        let (given, activity) = (given.clone(), Arc::clone(&gate.activity));
        // Boxed (and so `Unpin`), because a pinned connection could not be taken apart.
        Box::pin(async move {
            let mut answer = match answering {
                Ok((answering, held)) => {
                    let answer = answering.await?;
                    given.answered(held);
                    answer
                }
                Err(refusal) => refusal.respond(),
            };
            activity.rest();
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
    let ended = loop {
        tokio::select! {
            ended = poll_fn(|cx| http.poll_without_shutdown(cx)) => break Some(ended),
            () = stop.cancelled() => break None,
            () = place.places().get_scarce() => match activity.idle() {
                Idle::No => {}
                Idle::BetweenRequests => Pin::new(&mut *http).graceful_shutdown(),
                Idle::Silent => return events.turned_away("silent", known(origin)),
            },
        }
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
    let Wanted { then, held } = hijack.take();
    match then.filter(|_| ended.is_ok()) {
        Some(then) => {
            held.into_iter().for_each(|held| place.hold(held));
            then(Hijacked { stream: parts.io.into_inner().stream, rest: parts.read_buf, permit: place });
        }
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

/// The client of a connection, if the connection tells it.
fn known(origin: Origin) -> Option<IpAddr> {
    if let Origin::Client(address) = origin { Some(address) } else { None }
}

/// What stands before each request of a connection.
struct Gate {
    origin: Origin,
    clients: Arc<Clients>,
    places: Arc<Places>,
    activity: Arc<Activity>,
}

impl Gate {
    /// Whether a request of this client may be answered. A client that only its request tells takes a place for it.
    fn admit(&self, client: Option<IpAddr>) -> Result<Option<Held>, admission::Refusal> {
        let is_first = self.activity.begin();
        match (self.origin, client.map(Client::of)) {
            (_, None) => Ok(None),
            (Origin::Forwarded(_), Some(client)) => self.places.join(client).map(Some),
            // The connection itself was counted.
            (_, Some(_)) if is_first => Ok(None),
            (_, Some(client)) => self.places.ask(client).map(|()| None),
        }
    }
}

/// Whether anything happens on a connection.
struct Activity {
    began: Instant,
    requests: AtomicU32,
    /// Since when nothing has happened, in ms after `began`; `BUSY` while a request is being answered.
    rests_since_ms: AtomicU32,
}

const BUSY: u32 = u32::MAX;

/// How long nothing must have happened on a connection for it to make room for others.
const RESTED_MS: u32 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    No,
    /// Its requests were answered, and no other has begun to arrive.
    BetweenRequests,
    /// No request came, or none that was complete.
    Silent,
}

impl Activity {
    fn new() -> Activity {
        Activity { began: Instant::now(), requests: AtomicU32::new(0), rests_since_ms: AtomicU32::new(0) }
    }

    /// A request begins; whether it is the first.
    fn begin(&self) -> bool {
        self.rests_since_ms.store(BUSY, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// The request is answered.
    fn rest(&self) {
        self.rests_since_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn idle(&self) -> Idle {
        let since_ms = self.rests_since_ms.load(Ordering::Relaxed);
        if since_ms == BUSY || self.now_ms().saturating_sub(since_ms) < RESTED_MS {
            Idle::No
        } else if self.requests.load(Ordering::Relaxed) > 0 {
            Idle::BetweenRequests
        } else {
            Idle::Silent
        }
    }

    fn now_ms(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_millis()).unwrap_or(BUSY - 1)
    }
}
