//! The client listener: every path, and the upgrade to WebSocket.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use tokio_util::task::TaskTracker;

use super::access::{self, Offered, Shown};
use super::demo::Demo;
use super::origins::Origins;
use super::page::{About, Depth};
use super::{handshake, page, poll, query, sse};
use crate::events::Events;
use crate::feed::Feed;
pub use bugfeed_protocol::feed_name::DEFAULT_FEED;
use bugfeed_protocol::token::SUBPROTOCOL;
use bugfeed_runtime::http::{ClientAddress, ConnectionEvents as _, Hijack};

/// What is said to who looks for webhooks, or their API, at a path where they are not.
#[derive(Clone, Copy, Debug)]
pub struct WebhookPlaces {
    /// Where webhooks are received, in a few words.
    pub receiver: &'static str,
    /// The port of the API: the admin port.
    pub admin_port: u16,
}

/// What all routes share.
#[derive(Clone, Debug)]
pub struct AppState {
    /// The feeds, by name.
    pub feeds: Arc<BTreeMap<String, Arc<Feed>>>,
    /// The demo button; only in the all-in-one.
    pub demo: Option<Demo>,
    /// Where the page's links lead, by feed.
    pub trackers: Arc<BTreeMap<String, String>>,
    /// Which sites' pages may use the feeds.
    pub origins: Origins,
    /// Where webhooks and their API are, if this process receives some: for who asks at a wrong place.
    pub webhooks: Option<WebhookPlaces>,
    /// Counts what is refused.
    pub events: Arc<Events>,
    /// Tracks the tasks of hijacked connections.
    pub tracker: TaskTracker,
}

/// All paths of the client listener.
pub fn router(state: AppState) -> Router {
    // These routes may be used by pages of other sites.
    let shared = Router::new()
        .route("/client.js", get(page::client_js))
        .route("/client-fallback.js", get(page::client_fallback_js))
        .route("/client-shared.js", get(page::client_shared_js))
        .route("/client-queue.js", get(page::client_queue_js))
        .route("/client-token.js", get(page::client_token_js))
        .route("/sse", get(default_sse).post(default_sse))
        .route("/changes", get(default_changes).post(default_changes))
        .route("/ticket", post(default_ticket))
        .route("/{feed}/ticket", post(named_ticket))
        .route("/{feed}/sse", get(named_sse).post(named_sse))
        .route("/{feed}/changes", get(named_changes).post(named_changes))
        // CORS applies to this answer too, so that a page with a wrong address can read that it is wrong.
        .fallback(unknown_path)
        // This fallback is inside the CORS layer, which itself answers preflights (OPTIONS).
        .method_not_allowed_fallback(wrong_method)
        .layer(state.origins.cors());
    Router::new()
        .merge(shared)
        .route("/", get(root))
        .route("/page.json", get(about))
        .route("/page/{file}", get(page::file))
        .route("/demo/touch", post(touch))
        .route("/{feed}", get(named))
        .route("/{feed}/", get(named))
        .method_not_allowed_fallback(wrong_method)
        .with_state(state)
}

async fn root(State(state): State<AppState>, Extension(hijack): Extension<Hijack>, request: Request) -> Response {
    feed(&state, DEFAULT_FEED, Depth::Root, &hijack, request).await
}

async fn named(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Extension(hijack): Extension<Hijack>,
    request: Request,
) -> Response {
    let slash = request.uri().path().ends_with('/');
    if state.feeds.contains_key(&name) && !slash && !handshake::is_wanted(request.headers()) {
        // The redirect is relative, because a proxy in front may have removed a prefix of the path. It keeps the query.
        let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
        return Redirect::temporary(&format!("{name}/{query}")).into_response();
    }
    feed(&state, &name, Depth::Feed, &hijack, request).await
}

async fn feed(state: &AppState, name: &str, depth: Depth, hijack: &Hijack, request: Request) -> Response {
    match state.feeds.get(name) {
        None => no_such_feed(state, request.method(), request.uri().path()),
        Some(feed) if handshake::is_wanted(request.headers()) => upgrade(state, feed, hijack, request).await,
        Some(_) => page::html(depth),
    }
}

async fn default_sse(
    State(state): State<AppState>,
    Extension(hijack): Extension<Hijack>,
    request: Request,
) -> Response {
    event_stream(&state, DEFAULT_FEED, &hijack, request).await
}

async fn named_sse(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Extension(hijack): Extension<Hijack>,
    request: Request,
) -> Response {
    event_stream(&state, &name, &hijack, request).await
}

async fn event_stream(state: &AppState, name: &str, hijack: &Hijack, request: Request) -> Response {
    match state.feeds.get(name) {
        None => no_such_feed(state, request.method(), request.uri().path()),
        Some(feed) => sse::serve(feed, &state.tracker, hijack, request).await,
    }
}

async fn default_changes(State(state): State<AppState>, request: Request) -> Response {
    changes(&state, DEFAULT_FEED, request).await
}

async fn named_changes(State(state): State<AppState>, Path(name): Path<String>, request: Request) -> Response {
    changes(&state, &name, request).await
}

async fn changes(state: &AppState, name: &str, request: Request) -> Response {
    match state.feeds.get(name) {
        None => no_such_feed(state, request.method(), request.uri().path()),
        Some(feed) => poll::serve(feed, &state.tracker, request).await,
    }
}

async fn default_ticket(State(state): State<AppState>, request: Request) -> Response {
    ticket(&state, DEFAULT_FEED, request).await
}

async fn named_ticket(State(state): State<AppState>, Path(name): Path<String>, request: Request) -> Response {
    ticket(&state, &name, request).await
}

async fn ticket(state: &AppState, name: &str, request: Request) -> Response {
    match state.feeds.get(name) {
        None => no_such_feed(state, request.method(), request.uri().path()),
        Some(feed) => access::ticket(feed, request).await,
    }
}

/// Answers the handshake, and hands the connection to the feed once the answer is written.
async fn upgrade(state: &AppState, feed: &Arc<Feed>, hijack: &Hijack, request: Request) -> Response {
    let from = ClientAddress::of(request.extensions());
    if !state.origins.allow(request.headers()) {
        state.events.turned_away("origin", from);
        return *query::refuse(StatusCode::FORBIDDEN, "pages of this site may not connect (--allow-origin)");
    }
    let offered = Offered::read(request.headers());
    let (mut answer, offered) =
        match handshake::accept(&request).and_then(|answer| Ok((answer, handshake::with(offered)?))) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                state.events.turned_away("bad_handshake", from);
                return *refusal;
            }
        };
    if offered.ours {
        // A browser gives up where it has offered subprotocols and none is selected. The token is never repeated.
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    if feed.is_shut() {
        state.events.turned_away("not_ready", from);
        return query::not_ready();
    }
    let shown = Shown::by(&request, false).or_offered(offered);
    drop(request);
    let pass = match shown.admit_socket(feed).await {
        Ok(pass) => pass,
        Err(refusal) => return *refusal,
    };
    let (feed, tracker) = (Arc::clone(feed), state.tracker.clone());
    // The feed gets the raw stream instead of hyper's wrapper, because the shard writes to it without waiting.
    hijack.when_answered(move |hijacked| feed.attach(hijacked, pass, &tracker));
    answer
}

fn feeds_are(state: &AppState) -> String {
    if state.feeds.values().any(|feed| feed.gatekeeper().is_some()) {
        // Who has no token is not told what there is.
        return "there is no feed here".to_owned();
    }
    let feeds: Vec<String> = state
        .feeds
        .keys()
        .map(|name| if name == DEFAULT_FEED { "/".to_owned() } else { format!("/{name}/") })
        .collect();
    format!("there is no feed here; feeds: {}", feeds.join(", "))
}

fn no_such_feed(state: &AppState, method: &Method, path: &str) -> Response {
    let text = feeds_are(state) + &webhooks_are(state, method, path);
    *query::refuse(StatusCode::NOT_FOUND, &text)
}

/// Where webhooks or their API are, if that is what somebody seems to look for here; otherwise nothing.
fn webhooks_are(state: &AppState, method: &Method, path: &str) -> String {
    let first = path.split('/').nth(1).unwrap_or_default().to_ascii_lowercase();
    // No feed has this name, so nobody looks for another thing there.
    if first == "endpoints" {
        return "; POST /endpoints/ID/ready and GET /endpoints/ID/changes are on the port of bugfeed hooks for senders \
                (its --listen), or on this port of bugfeed serve"
            .to_owned();
    }
    let Some(places) = state.webhooks else { return String::new() };
    // A client's own POST ends with one of these words.
    let is_client = path.ends_with("/changes") || path.ends_with("/sse");
    if first == "api" {
        format!("; the API is on the admin port, {} (--admin-listen)", places.admin_port)
    } else if first.starts_with("hook") || first.starts_with("webhook") || (*method == Method::POST && !is_client) {
        format!("; webhooks: {}", places.receiver)
    } else {
        String::new()
    }
}

async fn unknown_path(State(state): State<AppState>, method: Method, uri: Uri) -> Response {
    no_such_feed(&state, &method, uri.path())
}

async fn wrong_method(State(state): State<AppState>, method: Method, uri: Uri) -> Response {
    // HEAD is answered as GET is.
    let method = if method == Method::HEAD { Method::GET } else { method };
    let text = format!(
        "{method} is not allowed here; connect with a WebSocket client, or open this page in a browser; \
        see also /sse?bugs=1234 and /changes?bugs=1234{}",
        webhooks_are(&state, &method, uri.path())
    );
    *query::refuse(StatusCode::METHOD_NOT_ALLOWED, &text)
}

async fn about(State(state): State<AppState>, request: Request) -> Response {
    let command = page::is_here(request.headers()).then(bugfeed_runtime::usage::program);
    let demo = state.demo.is_some_and(|demo| demo.is_for(&request));
    page::about(&About { demo, trackers: &state.trackers, command })
}

async fn touch(State(state): State<AppState>, request: Request) -> Response {
    match &state.demo {
        Some(demo) => demo.touch(request).await,
        None => *query::refuse(StatusCode::NOT_FOUND, "this gateway has no demo tracker"),
    }
}
