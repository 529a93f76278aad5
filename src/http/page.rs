//! The live page, compiled in.

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn asset(kind: &'static str, body: &'static str) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, CSP),
    ];
    (headers, body).into_response()
}

/// The page itself, the same for every feed.
pub fn html() -> Response {
    asset("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// Its style.
pub async fn css() -> Response {
    asset("text/css; charset=utf-8", include_str!("page/page.css"))
}

/// Its script.
pub async fn js() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

/// The client library, for the live page and for any other.
pub async fn client_js() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../clients/js/bugfeed.js"))
}

/// Its other ways to a gateway, which it asks for where WebSocket does not pass.
pub async fn client_fallback_js() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../clients/js/client-fallback.js"))
}

/// The script's pure part, which has tests of its own.
pub async fn lib_js() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("page/lib.js"))
}
