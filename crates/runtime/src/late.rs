//! Paths whose answers come from a part of the process that is ready later than the listener.
//!
//! Goes in: paths, and later a router. Comes out: that router's answers, and until then 503 with a reason. A part that is
//! ready once stays so.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use crate::http::{Hijack, Peer};

/// A router that is known later. A clone is another handle of the same one.
#[derive(Clone, Debug)]
pub struct Late {
    known: Arc<OnceLock<Router>>,
    /// What is said until then: the text of a JSON object's member `error`, without quotes and backslashes.
    reason: &'static str,
}

impl Late {
    /// Nothing is known yet. `reason` says so, in words without quotes.
    pub fn new(reason: &'static str) -> Late {
        Late { known: Arc::default(), reason }
    }

    /// From now on this router answers. Only the first one counts.
    pub fn set(&self, router: Router) {
        // An error means that there is one already.
        let _ = self.known.set(router);
    }

    /// Hands requests to these paths on.
    pub fn routes(&self, paths: &[&str]) -> Router {
        let add = |router: Router<Late>, path: &&str| router.route(path, any(answer));
        paths.iter().fold(Router::new(), add).with_state(self.clone())
    }
}

async fn answer(State(late): State<Late>, request: Request) -> Response {
    let Some(router) = late.known.get() else { return not_yet(late.reason) };
    match TowerToHyperService::new(router.clone()).call(without_parameters(request)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The request as it came: the parameters of this router's path would be taken for those of the other one's.
fn without_parameters(request: Request) -> Request {
    let (mut parts, body) = request.into_parts();
    let (hijack, peer) = (parts.extensions.remove::<Hijack>(), parts.extensions.remove::<Peer>());
    parts.extensions.clear();
    if let Some(hijack) = hijack {
        parts.extensions.insert(hijack);
    }
    if let Some(peer) = peer {
        parts.extensions.insert(peer);
    }
    Request::from_parts(parts, body)
}

fn not_yet(reason: &str) -> Response {
    let body =
        format!("{{\"error\":\"{reason}\",\"fix\":\"try again in a moment; /readyz of the admin port says more\"}}\n");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::RETRY_AFTER, HeaderValue::from_static("5")),
        // A body was not read.
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Path;
    use axum::routing::get;

    use super::*;

    async fn asked(router: &Router, path: &str) -> StatusCode {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        TowerToHyperService::new(router.clone()).call(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn the_router_answers_once_it_is_known() {
        let late = Late::new("not yet");
        let router = late.routes(&["/api/{*rest}"]);
        assert_eq!(asked(&router, "/api/keys/7").await, StatusCode::SERVICE_UNAVAILABLE);
        let one = |Path(id): Path<u64>| async move { if id == 7 { StatusCode::OK } else { StatusCode::GONE } };
        late.set(Router::new().route("/api/keys/{id}", get(one)));
        assert_eq!(asked(&router, "/api/keys/7").await, StatusCode::OK);
        assert_eq!(asked(&router, "/api/other").await, StatusCode::NOT_FOUND);
    }
}
