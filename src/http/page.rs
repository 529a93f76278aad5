//! The live page, compiled in: one document for all feeds, its style and its modules below `/page/`, the client library
//! that it is built on, and what it asks about this gateway.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::query;

/// Scripts from here only. `connect-src`: the gateway (named by scheme for browsers whose 'self' means no WebSocket),
/// and whatever tracker the person chooses, by TLS or on the person's own machine.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self' ws: wss: https: http://127.0.0.1:* http://localhost:*; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// What is served below `/page/`: name, type, content.
const FILES: [(&str, &str, &str); 12] = [
    ("page.css", CSS, include_str!("page/page.css")),
    ("console.js", JS, include_str!("page/console.js")),
    ("demo.js", JS, include_str!("page/demo.js")),
    ("dom.js", JS, include_str!("page/dom.js")),
    ("lib.js", JS, include_str!("page/lib.js")),
    ("line.js", JS, include_str!("page/line.js")),
    ("links.js", JS, include_str!("page/links.js")),
    ("main.js", JS, include_str!("page/main.js")),
    ("memory.js", JS, include_str!("page/memory.js")),
    ("timeline.js", JS, include_str!("page/timeline.js")),
    ("tracker.js", JS, include_str!("page/tracker.js")),
    ("watch.js", JS, include_str!("page/watch.js")),
];

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

/// `GET /page/{file}`: its style and its modules.
pub async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, body)) => asset(kind, body),
        None => *query::refuse(StatusCode::NOT_FOUND, "the page has no such file"),
    }
}

/// `GET /client.js`: the client library, for the live page and for any other.
pub async fn client_js() -> Response {
    asset(JS, include_str!("../../clients/js/bugfeed.js"))
}

/// `GET /client-fallback.js`: what the client library loads where WebSocket does not pass.
pub async fn client_fallback_js() -> Response {
    asset(JS, include_str!("../../clients/js/client-fallback.js"))
}

/// `GET /page.json`: what the page needs to know about the gateway that serves it.
pub fn about(demo: bool, trackers: &BTreeMap<String, String>) -> Response {
    Json(serde_json::json!({ "demo": demo, "trackers": trackers })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that is not compiled in would only be missed in a browser.
    #[test]
    fn every_file_that_the_page_asks_for_is_served() {
        let served =
            |path: &str| path == "/client.js" || FILES.iter().any(|(name, ..)| path == format!("/page/{name}"));
        let html = include_str!("page/index.html");
        let mut asked: Vec<String> = html
            .split("href=\"/")
            .chain(html.split("src=\"/"))
            .filter_map(quoted)
            .map(|path| format!("/{path}"))
            .collect();
        for (_, _, body) in FILES {
            asked.extend(body.split("from \"./").skip(1).filter_map(quoted).map(|name| format!("/page/{name}")));
        }
        asked.retain(|path| path.ends_with(".js") || path.ends_with(".css"));
        assert!(asked.len() > FILES.len(), "{asked:?}");
        for path in asked {
            assert!(served(&path), "{path}");
        }
    }

    fn quoted(text: &str) -> Option<&str> {
        text.split_once('"').map(|(path, _)| path)
    }
}
