//! The API of hooks, below `/api` on the admin listener: who may send, what was received, what became of it, and what a
//! person can do about it. The commands and the console are built on it.
//!
//! Goes in: HTTP requests with `Authorization: Bearer TOKEN`. Comes out: JSON; of each refusal
//! `{"error":…,"fix":…}` with a status that fits. It decides nothing about events and endpoints (that is
//! [`bugfeed_core::hooks::orders`], [`bugfeed_core::endpoints::orders`]), talks to no tracker (that is [`Service`]), and shows
//! no secret, except a key, token or signing secret once, in the answer that makes it.
//!
//! | part | what |
//! |---|---|
//! | `call`, `access`, `params`, `error` | each request: its token, its parameters, its body; refusals |
//! | `shapes` | rows of the store as JSON |
//! | `keys`, `tokens` | who may send, who may ask |
//! | `requests`, `events`, `orders`, `dead`, `prune`, `way` | what came, and what became of it |
//! | `sources`, `config_view` | the configuration as it was read, switches, questions to trackers |
//! | `endpoints` | where changes are POSTed to, and what came of it |
//! | `mapping` | what a captured request would become |
//! | `overview`, `audit` | the system, and who did what |
//! | [`service`] | what the process around the API does for it |
//! | [`first_token`] | the first token, and the file that it is in |
//!
//! **Every write is in the audit log**, with the identifier and the name of the token. The line is written before the deed
//! or together with it, so that no deed is without one.

mod access;
mod audit;
mod call;
pub mod client;
mod config_view;
mod dead;
mod endpoints;
mod error;
mod events;
pub mod first_token;
mod keys;
mod mapping;
mod orders;
mod overview;
mod params;
mod prune;
mod requests;
pub mod service;
mod shapes;
mod sources;
mod tokens;
mod way;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::Router;
use axum::routing::{MethodRouter, delete, get, patch, post};
use bugfeed_protocol::When;

pub use self::service::{Check, Service};
pub use self::sources::switch_on;

use crate::store::Store;

/// The API. A clone is another handle of the same one.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    store: Store,
    service: Arc<dyn Service>,
    /// Microseconds since 1970.
    clock: fn() -> i64,
    /// When the use of each token was last noted.
    noted: Mutex<HashMap<String, i64>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("store", &self.0.store).finish_non_exhaustive()
    }
}

impl Api {
    /// The API over this store.
    pub fn new(store: Store, service: Arc<dyn Service>) -> Api {
        let clock = || When::from_system_time(SystemTime::now()).as_micros();
        Api::with_clock(store, service, clock)
    }

    /// The same with another clock, which tells microseconds since 1970.
    pub fn with_clock(store: Store, service: Arc<dyn Service>, clock: fn() -> i64) -> Api {
        Api(Arc::new(Inner { store, service, clock, noted: Mutex::default() }))
    }

    /// Everything below `/api`, to be merged into the router of the admin listener.
    pub fn routes(&self) -> Router {
        let mut inner = Router::new();
        for (path, methods) in table() {
            inner = inner.route(path, methods);
        }
        let inner = inner.method_not_allowed_fallback(error::wrong_method).fallback(error::no_path);
        Router::new().nest("/api", inner.with_state(self.clone()))
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    fn service(&self) -> &dyn Service {
        &*self.0.service
    }

    fn now_us(&self) -> i64 {
        (self.0.clock)()
    }
}

/// Every path below `/api`. openapi.yaml has the same.
fn table() -> Vec<(&'static str, MethodRouter<Api>)> {
    vec![
        ("/overview", get(overview::overview)),
        ("/audit", get(audit::list)),
        ("/keys", get(keys::list).post(keys::create)),
        ("/keys/{id}", patch(keys::change).delete(keys::revoke)),
        ("/keys/{id}/rotate", post(keys::rotate)),
        ("/tokens", get(tokens::list).post(tokens::create)),
        ("/tokens/{id}", delete(tokens::remove)),
        ("/requests", get(requests::list)),
        ("/requests/{id}", get(requests::one)),
        ("/requests/{id}/replay", post(requests::replay)),
        ("/events", get(events::list)),
        ("/events/{id}", get(events::one)),
        ("/events/{id}/retry", post(orders::retry)),
        ("/events/{id}/drop", post(orders::drop_one)),
        ("/events/{id}/release", post(orders::release)),
        ("/events/retry", post(orders::retry_many)),
        ("/events/drop", post(orders::drop_many)),
        ("/dead-letters", get(dead::list)),
        ("/dead-letters/export", get(dead::export)),
        ("/prune", post(prune::prune)),
        ("/sources", get(sources::list)),
        ("/sources/{name}/disable", post(sources::disable_source)),
        ("/sources/{name}/enable", post(sources::enable_source)),
        ("/sources/{name}/reconcile", post(sources::reconcile)),
        ("/sources/{name}/test", post(sources::test)),
        ("/feeds/{name}/disable", post(sources::disable_feed)),
        ("/feeds/{name}/enable", post(sources::enable_feed)),
        ("/endpoints", get(endpoints::list).post(endpoints::create)),
        ("/endpoints/preview", post(endpoints::preview::preview)),
        ("/endpoints/{id}", get(endpoints::one).patch(endpoints::change).delete(endpoints::remove)),
        ("/endpoints/{id}/test", post(endpoints::orders::test)),
        ("/endpoints/{id}/enable", post(endpoints::orders::enable)),
        ("/endpoints/{id}/reset", post(endpoints::orders::reset)),
        ("/endpoints/{id}/pause", post(endpoints::orders::pause)),
        ("/endpoints/{id}/resume", post(endpoints::orders::resume)),
        ("/endpoints/{id}/rotate", post(endpoints::orders::rotate)),
        ("/endpoints/{id}/recover", post(endpoints::orders::recover)),
        ("/endpoints/{id}/attempts", get(endpoints::attempts::list)),
        ("/attempts/{id}", get(endpoints::attempts::one)),
        ("/attempts/{id}/redeliver", post(endpoints::attempts::redeliver)),
        ("/bugs/{bug}", get(way::way)),
        ("/mapping/try", post(mapping::try_out)),
    ]
}

/// The paths of the API, for a test that compares them with the documents.
pub fn paths() -> Vec<String> {
    table().into_iter().map(|(path, _)| format!("/api{path}")).collect()
}
