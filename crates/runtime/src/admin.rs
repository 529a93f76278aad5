//! The admin listener: is the process alive, can it do its work, what has it counted.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::Health;
use crate::http::{self, ConnectionEvents, Front, Hosts, ListenLimits};
use crate::metrics::{CONTENT_TYPE, Metrics};

/// Bounds on the admin port: an orchestrator and a few scrapers use it.
pub const LIMITS: ListenLimits = ListenLimits {
    connections: 64,
    handshake_timeout: Duration::from_secs(10),
    send_buffer_bytes: 64 * 1024,
    unacknowledged_timeout: Duration::from_secs(30),
    grace: Duration::from_secs(1),
};

/// Serves the admin port until `stop`; `tracker` tracks its connections.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    events: Arc<dyn ConnectionEvents>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    serve_with(listener, router(health, metrics), Hosts::default(), events, tracker, stop).await;
}

/// The same for a [`router`] into which the process's role has merged paths of its own. `hosts` are those of the process;
/// addresses and `localhost` are served too, because probes ask by them.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    hosts: Hosts,
    events: Arc<dyn ConnectionEvents>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let front = Front { hosts: hosts.with_addresses(), ..Front::default() };
    http::serve_behind(listener, router, front, LIMITS, events, tracker, stop).await;
}

/// `GET /livez`, `/readyz` and `/metrics`.
pub fn router(health: Health, metrics: Metrics) -> Router {
    router_with(health, metrics, "")
}

/// The same; `elsewhere` is said of other paths: what else is here, and what somebody may be looking for is where.
pub fn router_with(health: Health, metrics: Metrics, elsewhere: &str) -> Router {
    let unknown = format!("This is the admin port: /livez, /readyz, /metrics{elsewhere}\n");
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { ready(&health) }))
        .route("/metrics", get(move || async move { page(&metrics) }))
        .fallback(move || async move { (StatusCode::NOT_FOUND, unknown) })
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
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_wrong() {
        let health = Health::new();
        assert_eq!(ready(&health).status(), StatusCode::OK);
        health.down("bus", "connection refused");
        assert_eq!(ready(&health).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
