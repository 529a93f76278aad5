//! The admin port: is the process alive, can it do its work, what has it counted.
//!
//! Goes in: a bound listener, a router. Comes out: answers, from a thread and a runtime of its own, so that a process that is
//! overloaded, stuck, or out of descriptors still says so. `/livez`, `/readyz`, `/status` and
//! `/metrics` never wait for another runtime.
//!
//! | file | what |
//! |---|---|
//! | `answers.rs` | `/livez`, `/readyz`, `/status`: text, JSON, a page |
//! | `listener.rs` | accepts, and serves each connection |
//! | `places.rs` | which connection gives way when all places are taken |
//! | `reserve.rs` | descriptors for when the process has no others |
//! | `beside.rs` | handlers that run on the process's own runtime |

mod answers;
mod beside;
mod listener;
mod places;
mod reserve;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use self::answers::Facts;
use self::answers::{Whose, wants_json};
pub use self::beside::on_this_runtime;
use self::listener::Port;
use crate::health::Health;
use crate::http::{ConnectionEvents, Hosts, ListenLimits};
use crate::metrics::{CONTENT_TYPE, Metrics, Register};

/// Bounds on the admin port: an orchestrator and a few scrapers use it. A connection on which nothing is asked for
/// `handshake_timeout` is closed, and earlier if its place is needed.
pub const LIMITS: ListenLimits = ListenLimits {
    connections: 64,
    handshake_timeout: Duration::from_secs(10),
    send_buffer_bytes: 64 * 1024,
    unacknowledged_timeout: Duration::from_secs(30),
    grace: Duration::from_secs(1),
};

/// How long [`AdminServer::stop`] waits.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// What the admin port itself counts. A clone shares the same counters.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    evicted: Counter,
}

impl Register for Counted {
    fn register(&self, registry: &mut Registry) {
        let help = "Idle connections of the admin port that gave way to new ones";
        registry.register("admin_connections_evicted", help, self.evicted.clone());
    }
}

/// What the admin port is made of.
pub struct AdminParts {
    /// Where it listens.
    pub listener: TcpListener,
    /// What it answers: [`router`], and what the process's role has merged into it.
    pub router: Router,
    /// The hosts of the process. Addresses and `localhost` are served too, because probes ask by them.
    pub hosts: Hosts,
    /// Told of connections that are not served.
    pub events: Arc<dyn ConnectionEvents>,
    /// What it counts.
    pub counted: Counted,
}

/// The running admin port. If it is dropped, it ends by itself.
#[derive(Debug)]
pub struct AdminServer {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Serves on a thread of its own. The watchdog of `health` watches it.
    ///
    /// # Errors
    /// When there can be no thread, or no runtime.
    pub fn start(parts: AdminParts, health: &Health) -> std::io::Result<AdminServer> {
        let AdminParts { listener, router, hosts, events, counted } = parts;
        let listener = listener.into_std()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let port = Port { listener, router, hosts: hosts.with_addresses(), events, counted };
        let (stop, (done, ended)) = (CancellationToken::new(), oneshot::channel());
        let (pulse, stopped) = (health.watchdog().pulse("admin port"), stop.clone());
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            runtime.block_on(pulse.keep(listener::serve(port, stopped)));
            runtime.shutdown_background();
            // An error means that nobody waits.
            let _ = done.send(());
        })?;
        Ok(AdminServer { stop, ended, thread: Some(thread) })
    }

    /// Ends it: answers that have begun may take a second. A thread that does not end in time ends with the process.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(STOP_WITHIN, &mut self.ended).await.is_ok();
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            // It has nothing left to do. A panic was told.
            let _ = thread.join();
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the port answers about the process.
pub struct About {
    /// The process's role, in a word or two.
    pub role: &'static str,
    /// How it is.
    pub health: Health,
    /// What it counts.
    pub metrics: Metrics,
    /// What else is here, and what somebody may be looking for is where: said of unknown paths.
    pub elsewhere: String,
    /// What the role adds to `/status`.
    pub facts: Option<Facts>,
}

/// `GET /livez`, `/readyz`, `/status` and `/metrics`.
pub fn router(about: About) -> Router {
    let About { role, health, metrics, elsewhere, facts } = about;
    let unknown = format!("This is the admin port: /livez, /readyz, /status, /metrics{elsewhere}\n");
    let whose = Whose { health: health.clone(), role, facts, begun: SystemTime::now() };
    let watched = health.clone();
    Router::new()
        .route("/livez", get(move |request: Request| async move { answers::alive(&watched, wants_json(&request)) }))
        .route("/readyz", get(move |request: Request| async move { answers::ready(&health, wants_json(&request)) }))
        .route("/status", get(move |request: Request| async move { answers::status(&whose, wants_json(&request)) }))
        .route("/metrics", get(move || async move { page(&metrics) }))
        .fallback(move || async move { (StatusCode::NOT_FOUND, unknown) })
}

fn page(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.page()).into_response()
}

#[cfg(test)]
mod tests;
