//! The live page, compiled in: one document for all feeds, its style and modules below `/page/`, the client library
//! that it uses, and the facts about this gateway that it asks for.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugfeed_runtime::json_line::JsonLine;
use serde::Serialize;

use super::query;

/// The page may load scripts from this gateway only. `connect-src` allows the gateway (named by scheme, for browsers
/// whose 'self' does not include WebSocket), and any tracker that the person chooses, by TLS or on the person's own
/// machine.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self' ws: wss: https: http://127.0.0.1:* http://localhost:*; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// What is served below `/page/`: name, type, content.
const FILES: [(&str, &str, &str); 14] = [
    ("page.css", CSS, include_str!("page/page.css")),
    ("console.js", JS, include_str!("page/console.js")),
    ("demo.js", JS, include_str!("page/demo.js")),
    ("dom.js", JS, include_str!("page/dom.js")),
    ("logic.js", JS, include_str!("page/logic.js")),
    ("transport_tap.js", JS, include_str!("page/transport_tap.js")),
    ("links.js", JS, include_str!("page/links.js")),
    ("main.js", JS, include_str!("page/main.js")),
    ("resume_store.js", JS, include_str!("page/resume_store.js")),
    ("sign.js", JS, include_str!("page/sign.js")),
    ("timeline.js", JS, include_str!("page/timeline.js")),
    ("token.js", JS, include_str!("page/token.js")),
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

/// How deep below the gateway's own path the page is served. The page uses relative addresses, because a proxy in front
/// may have removed a prefix (`/bugfeed/`) that the gateway does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// `/`
    Root,
    /// `/NAME/`
    Feed,
}

const HTML: &str = include_str!("page/index.html");
/// Placeholder in the page's text, replaced by the relative path to the gateway's root.
const ROOT: &str = "{root}";

/// The page itself. It differs only by its depth, and is otherwise the same for every feed.
pub fn html(depth: Depth) -> Response {
    static PAGES: LazyLock<[String; 2]> = LazyLock::new(|| ["./", "../"].map(|root| HTML.replace(ROOT, root)));
    let [root, feed] = &*PAGES;
    asset("text/html; charset=utf-8", if depth == Depth::Root { root } else { feed })
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
    asset(JS, include_str!("../../../../clients/js/bugfeed.js"))
}

/// `GET /client-fallback.js`: what the client library loads where WebSocket does not pass.
pub async fn client_fallback_js() -> Response {
    asset(JS, include_str!("../../../../clients/js/client-fallback.js"))
}

/// `GET /client-shared.js`: what `client-fallback.js` loads in pages, so that all pages of a browser share one
/// connection.
pub async fn client_shared_js() -> Response {
    asset(JS, include_str!("../../../../clients/js/client-shared.js"))
}

/// `GET /client-queue.js`: what the client library loads when events must wait until the application has handled those
/// before them.
pub async fn client_queue_js() -> Response {
    asset(JS, include_str!("../../../../clients/js/client-queue.js"))
}

/// `GET /client-token.js`: what the client library loads where a page or a bot gives it a token.
pub async fn client_token_js() -> Response {
    asset(JS, include_str!("../../../../clients/js/client-token.js"))
}

/// What the page needs to know about the gateway that serves it.
#[derive(Debug, Serialize)]
pub struct About<'a> {
    /// Whether it has a demo tracker.
    pub demo: bool,
    /// The address of a bug in its tracker, by feed.
    pub trackers: &'a BTreeMap<String, String>,
    /// The command that started this gateway, quoted for a shell; only told to people at this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// `GET /page.json`
pub fn about(about: &About<'_>) -> Response {
    JsonLine(about).into_response()
}

/// Whether the request names this machine as its host, so that a person here probably asks. It only decides which texts
/// are shown; it grants no permission.
pub fn is_here(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    host.is_some_and(|host| matches!(host.host(), "localhost" | "127.0.0.1" | "[::1]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that is missing in the program would be noticed only in a browser.
    #[test]
    fn every_file_that_the_page_asks_for_is_served() {
        let served =
            |path: &str| path == "/client.js" || FILES.iter().any(|(name, ..)| path == format!("/page/{name}"));
        let mut asked: Vec<String> =
            HTML.split("=\"{root}").skip(1).filter_map(quoted).map(|path| format!("/{path}")).collect();
        for (_, _, body) in FILES {
            asked.extend(body.split("from \"./").skip(1).filter_map(quoted).map(|name| format!("/page/{name}")));
        }
        asked.retain(|path| path.ends_with(".js") || path.ends_with(".css"));
        assert!(asked.len() > FILES.len(), "{asked:?}");
        for path in asked {
            assert!(served(&path), "{path}");
        }
    }

    /// Where a proxy serves the gateway below a path, an address that begins with a slash leads outside of that path.
    #[test]
    fn nothing_is_asked_for_by_a_path_from_the_root() {
        let library = [("bugfeed.js", JS, include_str!("../../../../clients/js/bugfeed.js"))];
        let more = [("client-fallback.js", JS, include_str!("../../../../clients/js/client-fallback.js"))];
        for (name, _, body) in FILES.into_iter().chain([("index.html", "", HTML)]).chain(library).chain(more) {
            for (number, line) in body.lines().enumerate() {
                let asks = ["from ", "import(", "fetch(", "href=", "src=", "url(", "new URL("];
                let absolute =
                    asks.iter().any(|ask| ["\"/", "'/", "`/"].iter().any(|it| line.contains(&format!("{ask}{it}"))));
                assert!(!absolute, "{name}:{}: {line}", number + 1);
            }
        }
    }

    fn quoted(text: &str) -> Option<&str> {
        text.split_once('"').map(|(path, _)| path)
    }
}
