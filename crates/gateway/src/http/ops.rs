//! The admin listener: is the process alive, can it do its work, what has it counted.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::events::Events;
use crate::health::Health;

/// `GET /livez`, `/readyz` and `/metrics`.
pub fn router(health: Health, events: Arc<Events>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { ready(&health) }))
        .route("/metrics", get(move || async move { metrics(&events) }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "This is the admin port: /livez, /readyz, /metrics\n") })
}

fn ready(health: &Health) -> Response {
    let report = health.report();
    let (status, word) =
        if report.ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    let lines: String = report.lines.iter().map(|line| format!("{line}\n")).collect();
    (status, format!("{word}\n{lines}")).into_response()
}

fn metrics(events: &Events) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], events.page()).into_response()
}
