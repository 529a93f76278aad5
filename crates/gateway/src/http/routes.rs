//! The client listener: every path, and the upgrade to WebSocket.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::task::TaskTracker;

use super::demo::Demo;
use super::listen::Takeover;
use super::origins::Origins;
use super::page::{About, Depth};
use super::{page, poll, query, sse};
use crate::events::Events;
use crate::feed::Feed;

/// The feed at `/`.
pub const DEFAULT_FEED: &str = "default";

/// Names that paths of the gateway's own use, now or soon, and feeds may not have.
pub const RESERVED: [&str; 7] = ["api", "changes", "demo", "hooks", "metrics", "page", "sse"];

/// What the routes need.
#[derive(Clone, Debug)]
pub struct Site {
    /// By name.
    pub feeds: Arc<BTreeMap<String, Arc<Feed>>>,
    /// The button, in the all-in-one.
    pub demo: Option<Demo>,
    /// Where the page's links lead, by feed.
    pub trackers: Arc<BTreeMap<String, String>>,
    /// Which sites' pages may use the feeds.
    pub origins: Origins,
    /// Counts what is refused.
    pub events: Arc<Events>,
    /// Told of connections that were taken over.
    pub tracker: TaskTracker,
}

/// All paths of the client listener.
pub fn router(site: Site) -> Router {
    // What pages of other sites use.
    let shared = Router::new()
        .route("/client.js", get(page::client_js))
        .route("/client-fallback.js", get(page::client_fallback_js))
        .route("/client-shared.js", get(page::client_shared_js))
        .route("/client-queue.js", get(page::client_queue_js))
        .route("/sse", get(default_sse).post(default_sse))
        .route("/changes", get(default_changes).post(default_changes))
        .route("/{feed}/sse", get(named_sse).post(named_sse))
        .route("/{feed}/changes", get(named_changes).post(named_changes))
        // Pages that have a wrong address shall see that it is.
        .fallback(unknown_path)
        // Within the layer, which answers what browsers ask beforehand with OPTIONS.
        .method_not_allowed_fallback(wrong_method)
        .layer(site.origins.cors());
    Router::new()
        .merge(shared)
        .route("/", get(root))
        .route("/page.json", get(about))
        .route("/page/{file}", get(page::file))
        .route("/demo/touch", post(touch))
        .route("/{feed}", get(named))
        .route("/{feed}/", get(named))
        .method_not_allowed_fallback(wrong_method)
        .with_state(site)
}

async fn root(State(site): State<Site>, Extension(takeover): Extension<Takeover>, request: Request) -> Response {
    feed(&site, DEFAULT_FEED, Depth::Root, &takeover, &request)
}

async fn named(
    State(site): State<Site>,
    Path(name): Path<String>,
    Extension(takeover): Extension<Takeover>,
    request: Request,
) -> Response {
    let slash = request.uri().path().ends_with('/');
    if site.feeds.contains_key(&name) && !slash && !wants_websocket(request.headers()) {
        // Relative, because a proxy may have taken a path off in front; and with what is asked for behind the path.
        let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
        return Redirect::temporary(&format!("{name}/{query}")).into_response();
    }
    feed(&site, &name, Depth::Feed, &takeover, &request)
}

fn feed(site: &Site, name: &str, depth: Depth, takeover: &Takeover, request: &Request) -> Response {
    match site.feeds.get(name) {
        None => no_such_feed(site),
        Some(feed) if wants_websocket(request.headers()) => upgrade(site, feed, takeover, request),
        Some(_) => page::html(depth),
    }
}

async fn default_sse(State(site): State<Site>, Extension(takeover): Extension<Takeover>, request: Request) -> Response {
    event_stream(&site, DEFAULT_FEED, &takeover, request).await
}

async fn named_sse(
    State(site): State<Site>,
    Path(name): Path<String>,
    Extension(takeover): Extension<Takeover>,
    request: Request,
) -> Response {
    event_stream(&site, &name, &takeover, request).await
}

async fn event_stream(site: &Site, name: &str, takeover: &Takeover, request: Request) -> Response {
    match site.feeds.get(name) {
        None => no_such_feed(site),
        Some(feed) => sse::serve(feed, &site.tracker, takeover, request).await,
    }
}

async fn default_changes(State(site): State<Site>, request: Request) -> Response {
    changes(&site, DEFAULT_FEED, request).await
}

async fn named_changes(State(site): State<Site>, Path(name): Path<String>, request: Request) -> Response {
    changes(&site, &name, request).await
}

async fn changes(site: &Site, name: &str, request: Request) -> Response {
    match site.feeds.get(name) {
        None => no_such_feed(site),
        Some(feed) => poll::serve(feed, &site.tracker, request).await,
    }
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("websocket")))
}

/// The answer to a handshake (RFC 6455, 4.2); none where it is none, or of a protocol that is not spoken.
fn accept(request: &Request) -> Option<Response> {
    let headers = request.headers();
    let upgrade = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let upgrade = upgrade.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    // The drafts hybi-07 to 10, which the original server took too, have the frames of RFC 6455. The key is not looked
    // into (libraries of that time made short ones), only returned with the proof that it was read.
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?;
    let spoken = ["13", "8", "7"].iter().any(|spoken| version == spoken);
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if !(request.method() == Method::GET && request.version() >= Version::HTTP_11 && upgrade && spoken) {
        return None;
    }
    let answer = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes())),
    ];
    Some((StatusCode::SWITCHING_PROTOCOLS, answer).into_response())
}

/// Answers the handshake, and hands the connection to the feed once the answer is written.
fn upgrade(site: &Site, feed: &Arc<Feed>, takeover: &Takeover, request: &Request) -> Response {
    if !site.origins.allow(request.headers()) {
        site.events.turned_away("origin");
        return *query::refuse(StatusCode::FORBIDDEN, "pages of this site may not connect (--allow-origin)");
    }
    let answer = accept(request);
    // A body would have to be read before the connection could be taken over, and might never come.
    let Some(answer) = answer.filter(|_| request.body().is_end_stream()) else {
        site.events.turned_away("bad_handshake");
        let text = "not a WebSocket handshake: it needs GET, HTTP/1.1, Connection: Upgrade, \
            Sec-WebSocket-Key, Sec-WebSocket-Version: 13, and no body";
        let refusal = *query::refuse(StatusCode::BAD_REQUEST, text);
        return ([(header::SEC_WEBSOCKET_VERSION, "13")], refusal).into_response();
    };
    if feed.is_shut() {
        site.events.turned_away("not_ready");
        return query::not_ready();
    }
    let (feed, tracker) = (Arc::clone(feed), site.tracker.clone());
    // The raw stream, not hyper's wrapper: the shard writes to it without waiting.
    takeover.when_answered(move |handover| feed.attach(handover, &tracker));
    answer
}

fn feeds_are(site: &Site) -> String {
    let feeds: Vec<String> =
        site.feeds.keys().map(|name| if name == DEFAULT_FEED { "/".to_owned() } else { format!("/{name}/") }).collect();
    format!("there is no feed here; feeds: {}", feeds.join(", "))
}

fn no_such_feed(site: &Site) -> Response {
    *query::refuse(StatusCode::NOT_FOUND, &feeds_are(site))
}

async fn unknown_path(State(site): State<Site>) -> Response {
    no_such_feed(&site)
}

async fn wrong_method(method: Method) -> Response {
    let text = format!(
        "{method} is not allowed here; connect with a WebSocket client, or open this page in a browser; \
        see also /sse?bugs=1234 and /changes?bugs=1234"
    );
    *query::refuse(StatusCode::METHOD_NOT_ALLOWED, &text)
}

async fn about(State(site): State<Site>, request: Request) -> Response {
    let command = page::is_here(request.headers()).then(bugfeed_runtime::usage::program);
    let demo = site.demo.is_some_and(|demo| demo.is_for(&request));
    page::about(&About { demo, trackers: &site.trackers, command })
}

async fn touch(State(site): State<Site>, request: Request) -> Response {
    match &site.demo {
        Some(demo) => demo.touch(request).await,
        None => *query::refuse(StatusCode::NOT_FOUND, "this gateway has no demo tracker"),
    }
}
