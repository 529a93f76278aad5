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
    let complaints = health.complaints();
    if complaints.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", complaints.join("\n"))).into_response()
}

fn metrics(events: &Events) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], events.page()).into_response()
}
