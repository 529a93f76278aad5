//! Endpoints: the executor that delivers changes to them.
//!
//! Goes in: rows of endpoints, leases, feeds, the time. Comes out: requests, rows in their next state, log lines, alerts.
//! It decides nothing about an endpoint: what is sent, and what follows from an outcome, say the planners of
//! [`bugfeed_core::endpoints`]. One task owns them all; requests, reading and writing are done around it, so nothing that a
//! receiver or the store does makes an endpoint wait for another one. It may be killed at any moment: what is not stored was
//! not accepted, and is sent again by whoever takes over.
//!
//! | file | what |
//! |---|---|
//! | `desk.rs`, `desk/` | the task that owns the planners: their inputs, and what they say |
//! | `feeds.rs` | what is asked of feeds, and who has news |
//! | `around.rs` | leases, reading of rows |
//! | `request.rs`, `content.rs`, `target.rs` | one attempt: what is sent, where to, what came of it |
//! | `callers.rs` | receivers that call |
//! | `events.rs`, `cause.rs` | what is logged, counted and told; why an attempt failed |

mod around;
mod callers;
pub(crate) mod cause;
mod content;
mod desk;
mod events;
mod feeds;
mod request;
mod target;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use bugfeed_core::endpoints::question::{Answer, Ask, Bound};
use bugfeed_core::endpoints::schedule::Limits;
use bugfeed_protocol::{BugId, When};
use bugfeed_runtime::watchdog::Watchdog;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::around::Around;
use self::callers::Calls;
use self::desk::Desk;
pub(crate) use self::events::to_second;
pub use self::events::{EndpointEvents, Raise};
pub(crate) use self::feeds::{begin, has_after, knows, newest};
use crate::client;
use crate::deliver::address::Rules;
use crate::deliver::send::Sender;
use crate::deliver::template::Link;
use crate::store::Store;
use crate::tracker::Clock;

/// A feed, as endpoints are served from it. Nothing here waits.
pub trait FeedTap: Send + Sync {
    /// Its name.
    fn name(&self) -> &Arc<str>;

    /// What it answers: [`Answer::NotYet`] while it is not current, or while it is being found out whether changes were
    /// missed; otherwise what [`bugfeed_core::endpoints::question::answer`] says.
    fn ask(&self, ask: &Ask<'_>) -> Answer;

    /// A number that rises with each recorded change, when the feed becomes current, and when continuity is lost: whoever
    /// sees it rise, looks.
    fn seen(&self) -> watch::Receiver<u64>;

    /// The bugs of the changes that were recorded after this position, and the position of the newest one. `None`: so many,
    /// or continuity was lost since, that everybody has news; the position is then that of [`FeedTap::head`].
    fn bugs_since(&self, pos: u64) -> Option<(Vec<BugId>, u64)>;

    /// The position of the newest recorded change.
    fn head(&self) -> u64;

    /// Where people read about a bug of it, if that is known.
    fn link(&self) -> Option<&Link>;
}

/// The feeds of a process. Another list may be sent at any time; a feed that is in both goes on.
pub type Taps = watch::Receiver<Vec<Arc<dyn FeedTap>>>;

/// How endpoints are served.
#[derive(Clone)]
pub struct EndpointsOptions {
    /// Where requests may go.
    pub rules: Rules,
    /// How receivers are reached.
    pub client: client::Options,
    /// How many requests may be in flight.
    pub limits: Limits,
    /// How much one request may hold.
    pub bound: Bound,
    /// How long a request may take in all; not more than 15 s.
    pub within: Duration,
    /// How often rows are looked for that people have changed on other replicas.
    pub poll: Duration,
    /// How long an orderly stop waits for requests in flight.
    pub stop_grace: Duration,
    /// No other process works on the store, and none did so a moment ago: partitions are taken at once.
    pub is_alone: bool,
    /// The time, in microseconds since 1970.
    pub clock: Clock,
}

impl Default for EndpointsOptions {
    fn default() -> EndpointsOptions {
        EndpointsOptions {
            rules: Rules::default(),
            client: client::Options { idle_in_all: 2048, ..client::Options::default() },
            limits: Limits::default(),
            bound: Bound::default(),
            within: crate::deliver::send::WITHIN,
            poll: Duration::from_secs(1),
            stop_grace: Duration::from_secs(5),
            is_alone: false,
            clock: Arc::new(|| When::from_system_time(SystemTime::now()).as_micros()),
        }
    }
}

impl fmt::Debug for EndpointsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointsOptions")
            .field("rules", &self.rules)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What the executor is made of, besides a store and feeds.
#[derive(Clone)]
pub struct EndpointsParts {
    /// How endpoints are served.
    pub options: EndpointsOptions,
    /// Its counters.
    pub events: Arc<EndpointEvents>,
    /// Who is told.
    pub raise: Raise,
    /// What watches whether it lives.
    pub watchdog: Watchdog,
}

/// The running executor. Dropping it is as a crash; [`Endpoints::stop`] ends it in order.
pub struct Endpoints {
    routes: Router,
    nudged: Arc<Notify>,
    any: watch::Receiver<bool>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Endpoints {
    /// Begins once the store is there; [`std::future::ready`] for one that is open.
    pub fn start(opened: impl Future<Output = Store> + Send + 'static, taps: Taps, parts: EndpointsParts) -> Endpoints {
        let (nudged, any, stop) = (Arc::<Notify>::default(), watch::Sender::new(false), CancellationToken::new());
        let store = watch::Sender::new(None);
        let calls = Calls::new(store.subscribe(), taps.clone(), Arc::clone(&nudged), Arc::clone(&parts.options.clock));
        let mut tasks = JoinSet::new();
        let (seen, now, stopping) = (any.subscribe(), Arc::clone(&nudged), stop.clone());
        let pulse = parts.watchdog.pulse("endpoints");
        tasks.spawn(pulse.keep(async move {
            let Some(opened) = stopping.run_until_cancelled(opened).await else { return };
            store.send_replace(Some(opened.clone()));
            run(opened, taps, parts, (now, any), stopping).await;
        }));
        Endpoints { routes: callers::routes(calls), nudged, any: seen, stop, tasks }
    }

    /// What receivers call: `POST /endpoints/ID/ready` and `GET /endpoints/ID/changes`. To be served on the clients' port.
    pub fn routes(&self) -> Router {
        self.routes.clone()
    }

    /// Somebody has changed, made or deleted an endpoint in this process: call the function, and it is read at once.
    pub fn nudge(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let nudged = Arc::clone(&self.nudged);
        move || nudged.notify_one()
    }

    /// Turns true once the store has an endpoint: from then on, feeds are needed.
    pub fn has_any(&self) -> watch::Receiver<bool> {
        self.any.clone()
    }

    /// Ends in order: no new requests; those in flight get a few seconds; rows are stored and partitions released. The store
    /// must be open until then.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// So many pieces of news wait for the desk.
const NEWS: usize = 16;

async fn run(
    store: Store,
    taps: Taps,
    parts: EndpointsParts,
    (nudged, any): (Arc<Notify>, watch::Sender<bool>),
    stop: CancellationToken,
) {
    let (news, heard) = mpsc::channel(NEWS);
    let (say, words) = mpsc::unbounded_channel();
    let events = Arc::clone(&parts.events);
    let desk = Desk::new(store.clone(), parts.clone(), say);
    let around = Around { store, parts, news, nudged, any };
    tokio::join!(desk.run(heard, taps, stop.clone()), around.run(words, stop));
    events.stopped();
}

/// A time of the clock. One that no date can have is that of a clock that is wrong: then signatures are refused anyway.
fn when(us: i64) -> When {
    When::from_micros(us).unwrap_or_else(|| When::from_system_time(SystemTime::UNIX_EPOCH))
}

/// Sends requests of endpoints.
fn sender(options: &EndpointsOptions) -> Sender {
    Sender::new(options.client.clone(), options.rules.clone()).within(options.within)
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoints")
    }
}
