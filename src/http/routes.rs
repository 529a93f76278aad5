//! The client listener: every path, and the upgrade to WebSocket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_util::task::TaskTracker;

use super::demo::Demo;
use super::listen::Permit;
use super::page;
use crate::events::Events;
use crate::hub::{Feed, Handover};

/// The feed at `/`.
pub const DEFAULT_FEED: &str = "default";

/// Names that paths of the gateway's own use, now or soon, and feeds may not have.
pub const RESERVED: [&str; 7] = ["api", "changes", "demo", "hooks", "metrics", "page", "sse"];

/// How long writing the answer to a handshake may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the routes need.
#[derive(Clone, Debug)]
pub struct Site {
    /// By name.
    pub feeds: Arc<BTreeMap<String, Arc<Feed>>>,
    /// The button, in the all-in-one.
    pub demo: Option<Demo>,
    /// Counts what is refused.
    pub events: Arc<Events>,
    /// Told of connections that were taken over.
    pub tracker: TaskTracker,
}

/// All paths of the client listener.
pub fn router(site: Site) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/client.js", get(page::client_js))
        .route("/page.json", get(about))
        .route("/page/{file}", get(page::file))
        .route("/demo/touch", post(touch))
        .route("/{feed}", get(named))
        .route("/{feed}/", get(named))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(site)
}

async fn root(State(site): State<Site>, Extension(permit): Extension<Permit>, request: Request) -> Response {
    feed(&site, DEFAULT_FEED, &permit, request)
}

async fn named(
    State(site): State<Site>,
    Path(name): Path<String>,
    Extension(permit): Extension<Permit>,
    request: Request,
) -> Response {
    let slash = request.uri().path().ends_with('/');
    if site.feeds.contains_key(&name) && !slash && !wants_websocket(request.headers()) {
        return Redirect::temporary(&format!("/{name}/")).into_response();
    }
    feed(&site, &name, &permit, request)
}

fn feed(site: &Site, name: &str, permit: &Permit, request: Request) -> Response {
    match site.feeds.get(name) {
        None => no_such_feed(site),
        Some(feed) if wants_websocket(request.headers()) => upgrade(site, feed, permit, request),
        Some(_) => page::html(),
    }
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("websocket")))
}

/// Answers the handshake, and hands the connection to the feed once the answer is written.
fn upgrade(site: &Site, feed: &Arc<Feed>, permit: &Permit, mut request: Request) -> Response {
    let mut head = Request::builder().method(request.method()).uri(request.uri()).version(request.version());
    if let Some(headers) = head.headers_mut() {
        headers.clone_from(request.headers());
    }
    let answer = head.body(()).ok().and_then(|head| create_response_with_body(&head, Body::empty).ok());
    // A body would have to be read before the connection could be taken over, and might never come.
    let answer = answer.filter(|_| request.body().is_end_stream());
    // A handshake that fails may be tried again on the same connection: it keeps its permit.
    let permit = answer.as_ref().and_then(|_| permit.0.lock().expect("nobody panics holding it").take());
    let (Some(answer), Some(permit)) = (answer, permit) else {
        site.events.turned_away("bad_handshake");
        let text = "Not a WebSocket handshake: it needs GET, HTTP/1.1, Connection: Upgrade, \
            Sec-WebSocket-Key, Sec-WebSocket-Version: 13, and no body\n";
        return (StatusCode::BAD_REQUEST, [(header::SEC_WEBSOCKET_VERSION, "13")], text).into_response();
    };
    let (feed, tracker) = (Arc::clone(feed), site.tracker.clone());
    site.tracker.spawn(async move {
        let upgrading = tokio::time::timeout(UPGRADE_TIMEOUT, hyper::upgrade::on(&mut request));
        let Ok(Ok(upgraded)) = upgrading.await else { return };
        // The raw stream, not hyper's wrapper: the shard writes to it without waiting.
        if let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() {
            let handover = Handover { stream: parts.io.into_inner(), rest: parts.read_buf, permit };
            feed.attach(handover, &tracker);
        }
    });
    answer
}

fn no_such_feed(site: &Site) -> Response {
    let feeds: Vec<String> =
        site.feeds.keys().map(|name| if name == DEFAULT_FEED { "/".to_owned() } else { format!("/{name}/") }).collect();
    (StatusCode::NOT_FOUND, format!("There is no feed here. Feeds: {}\n", feeds.join(", "))).into_response()
}

async fn unknown_path(State(site): State<Site>) -> Response {
    no_such_feed(&site)
}

async fn wrong_method(method: Method) -> Response {
    let text =
        format!("{method} is not allowed here. Connect with a WebSocket client, or open this page in a browser\n");
    (StatusCode::METHOD_NOT_ALLOWED, text).into_response()
}

async fn about(State(site): State<Site>) -> Response {
    page::about(site.demo.is_some())
}

async fn touch(State(site): State<Site>, request: Request) -> Response {
    match &site.demo {
        Some(demo) => demo.touch(request).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
