//! The receiver: what trackers and scripts POST to.
//!
//! Goes in: HTTP requests. Comes out: requests that are authenticated, mapped and durable before they are answered. It
//! never decides what becomes of an event, never asks a tracker, and has no database: it calls an [`Intake`].
//!
//! | path | |
//! |---|---|
//! | `POST /hooks/SOURCE` | |
//! | `POST /public/webhook/SOURCE` | the same |
//! | `POST /hooks/SOURCE/KEY`, `/public/webhook/SOURCE/KEY`, `/h/SOURCE/KEY` | where the source says `path_key = true` |
//!
//! The files: `flow.rs` is the way of one request; `head.rs` reads its head, `access.rs` and `keys.rs` say who sent it,
//! `places.rs` reads its body, `judge.rs` (with `decode.rs`, `items.rs`) makes its items, `desk.rs` gives it to the store
//! or to the spool and `replay.rs` brings it back from there, `answer.rs` tells the sender. `rate.rs` bounds what goes to
//! quarantine, `hush.rs` what is logged of it, and `recheck.rs` brings it back from there.

mod access;
mod answer;
mod decode;
mod desk;
mod events;
mod flow;
mod head;
mod hush;
mod intake;
mod items;
mod judge;
mod keys;
mod limits;
mod places;
mod rate;
mod recheck;
mod replay;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bugfeed_protocol::When;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::events::ReceiverEvents;
pub use self::intake::{Answering, Intake, StoreAway};
pub use self::keys::{KeyError, KeyRow, KeyTable};
pub use self::limits::ReceiverLimits;
pub use self::recheck::{Trust, recheck};

use self::desk::Desk;
use self::places::Places;
use self::rate::Rate;
use crate::config::HooksConfig;
use crate::receive::spool::Spool;

/// What a receiver is made of.
pub struct ReceiverParts {
    /// The sources.
    pub config: Arc<HooksConfig>,
    /// The store.
    pub intake: Arc<dyn Intake>,
    /// The keys, which the caller reads from the store.
    pub keys: KeyTable,
    /// Takes requests while the store is away.
    pub spool: Spool,
    /// Where files of arriving bodies are made: the spool's folder.
    pub body_folder: PathBuf,
    /// The bounds.
    pub limits: ReceiverLimits,
    /// Counts and logs.
    pub events: Arc<ReceiverEvents>,
    /// Tracks what still works on a request after its sender hung up.
    pub tracker: TaskTracker,
    /// Cancelled when the process is to end.
    pub stop: CancellationToken,
}

/// The receiver. A clone is another handle of the same one.
#[derive(Clone)]
pub struct Receiver(Arc<Inner>);

struct Inner {
    desk: Desk,
    places: Places,
    rate: Rate,
    limits: ReceiverLimits,
    events: Arc<ReceiverEvents>,
    tracker: TaskTracker,
    /// Microseconds since 1970.
    clock: fn() -> i64,
}

impl Receiver {
    /// A receiver. The caller serves [`Receiver::routes`] and runs [`Receiver::replay_spool`].
    pub fn new(parts: ReceiverParts) -> Receiver {
        let ReceiverParts { config, intake, keys, spool, body_folder, limits, events, tracker, stop } = parts;
        events.configured(&config);
        let desk = Desk::new(intake, spool, keys, config, Arc::clone(&events), &limits);
        let places = Places::new(limits, body_folder, stop);
        let clock = || When::from_system_time(SystemTime::now()).as_micros();
        Receiver(Arc::new(Inner { desk, places, rate: Rate::new(&limits), limits, events, tracker, clock }))
    }

    /// The paths at which requests come in.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/hooks/{*rest}", any(receive))
            .route("/h/{*rest}", any(receive))
            .route("/public/webhook/{*rest}", any(receive))
            .with_state(self.clone())
    }

    /// Goes by another configuration from now on. Requests that are being worked on go by the old one.
    pub fn reload(&self, config: Arc<HooksConfig>) {
        self.0.events.configured(&config);
        *self.0.desk.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Hands the store what is spooled, whenever it can be reached. Never ends by itself; the caller stops it by dropping
    /// it. Run it once.
    pub async fn replay_spool(&self) {
        self.0.desk.replay().await;
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receiver")
    }
}

async fn receive(State(Receiver(inner)): State<Receiver>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return wrong_method();
    }
    inner.receive(parts, body).await
}

fn wrong_method() -> Response {
    let text = "{\"error\":\"only POST is received here\",\"fix\":\"choose POST in the sender's webhook\"}\n";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::ALLOW, HeaderValue::from_static("POST")),
        // A body was not read.
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    (StatusCode::METHOD_NOT_ALLOWED, headers, text).into_response()
}
