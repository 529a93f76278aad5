//! The admin port: is the process alive, can it do its work, what has it counted.
//!
//! Goes in: a bound listener, a router. Comes out: answers, from a thread and a runtime of its own, so that a process that is
//! overloaded, stuck, or out of descriptors still says so. `/livez`, `/readyz` and `/metrics` never wait for another runtime.
//!
//! | file | what |
//! |---|---|
//! | `listener.rs` | accepts, and serves each connection |
//! | `places.rs` | which connection gives way when all places are taken |
//! | `reserve.rs` | descriptors for when the process has no others |
//! | `beside.rs` | handlers that run on the process's own runtime |

mod beside;
mod listener;
mod places;
mod reserve;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

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

/// `GET /livez`, `/readyz` and `/metrics`.
pub fn router(health: Health, metrics: Metrics) -> Router {
    router_with(health, metrics, "")
}

/// The same; `elsewhere` is said of other paths: what else is here, and what somebody may be looking for is where.
pub fn router_with(health: Health, metrics: Metrics, elsewhere: &str) -> Router {
    let unknown = format!("This is the admin port: /livez, /readyz, /metrics{elsewhere}\n");
    let watched = health.clone();
    Router::new()
        .route("/livez", get(move || async move { alive(&watched) }))
        .route("/readyz", get(move || async move { ready(&health) }))
        .route("/metrics", get(move || async move { page(&metrics) }))
        .fallback(move || async move { (StatusCode::NOT_FOUND, unknown) })
}

fn alive(health: &Health) -> Response {
    let troubles = health.watchdog().look();
    if troubles.is_empty() {
        return "alive\n".into_response();
    }
    let lines: String = troubles.iter().map(|trouble| format!("{}: {}\n", trouble.part, trouble.reason)).collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("stuck\n{lines}")).into_response()
}

fn ready(health: &Health) -> Response {
    let report = health.report();
    let (status, word) =
        if report.ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    let lines: String = report.lines.iter().map(|line| format!("{line}\n")).collect();
    (status, format!("{word}\n{lines}")).into_response()
}

fn page(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.page()).into_response()
}

#[cfg(test)]
mod tests;
