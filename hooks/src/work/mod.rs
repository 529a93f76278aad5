//! The executor: carries out what the planners of [`bugfeed_core::hooks`] decide, against the store and the trackers.
//!
//! Goes in: what is due in the store, answers of trackers, a configuration, the time. Comes out: rows of change tables,
//! events in their next state, alerts. It decides nothing about an event: each decision is a plan of the core, carried out
//! as one compare-and-set transaction. So it may be killed between any two steps, and several processes may work on one
//! store: what one has begun, another one goes on with. Holds nothing in memory that is not in the store, except what only
//! delays (breakers, paces, lanes that rest).
//!
//! | file | what |
//! |---|---|
//! | `worker.rs`, `batch.rs`, `rests.rs` | due lanes → plans → transactions, many lanes in one; when to look again |
//! | `own.rs` | which events this process has received itself |
//! | `questions.rs` | what a plan asks: mapping again, or the tracker; within the lease |
//! | `gates.rs` | settings and switches of sources; how often their trackers are asked, and the pace of their backlogs |
//! | `again.rs` | requests of which only the whole body is kept, received once more |
//! | `recovery.rs` | dead letters whose cause is mended, events whose source is switched on, probes of trackers |
//! | `reconcile.rs` | what the reconciler needs of the store |
//! | `upkeep.rs` | in each process: keys, switches, figures; `leader.rs`: in one of them: retention, silence, reconcilers |
//! | `matcher.rs` | changes of the bus → the events that they are of |
//! | `alerts.rs`, `digest.rs`, `events.rs` | who is told, and once a day of all; log lines and counters |

mod again;
mod alerts;
mod batch;
mod digest;
mod events;
mod gates;
mod leader;
mod matcher;
mod own;
mod questions;
mod reconcile;
mod recovery;
mod rests;
mod silences;
mod upkeep;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::event::EventId;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::events::WorkEvents;
pub use self::gates::{Sources, SwitchNames};
pub use self::matcher::{Matched, MatcherTask, matcher};

pub(crate) use self::again::{fresh, once_more, unread_requests};
pub(crate) use self::alerts::Alerts;
pub(crate) use self::leader::reconcile_soon;
pub(crate) use self::recovery::{mended, switched_on};
pub(crate) use self::upkeep::{refresh_once, serve_all_feeds};

use self::own::Own;
use crate::receive::http::KeyTable;
use crate::receive::received::ReceivedRequest;
use crate::store::retention::Keep;
use crate::store::{Look, Store};
use crate::tracker::Clock;
use crate::tracker::reconcile::Hint;

/// How the executor works.
#[derive(Clone, Copy, Debug)]
pub struct WorkOptions {
    /// How long a claim holds.
    pub lease: Duration,
    /// How long a question to a tracker may take; shorter than the lease.
    pub look_within: Duration,
    /// How many lanes go into one transaction at most.
    pub lanes: usize,
    /// How many retries, drains and reconciled events of a source are begun in a second.
    pub pace_per_second: u32,
    /// How many of them at once, after a pause.
    pub pace_burst: u32,
    /// An event that another process received is left to that process for so long. Zero: there is no other process.
    pub grace: Duration,
    /// The longest time between two looks for what is due.
    pub poll: Duration,
    /// How often keys and switches are read anew.
    pub refresh: Duration,
    /// After a switch, the events that it let go are looked for once more after this time: longer than an event takes that
    /// was already on its way as switched off.
    pub switch_again: Duration,
    /// How often what is old is removed.
    pub retain_every: Duration,
    /// What is kept.
    pub keep: Keep,
    /// How long an orderly stop waits for questions that are under way.
    pub stop_grace: Duration,
}

impl Default for WorkOptions {
    fn default() -> WorkOptions {
        WorkOptions {
            lease: Duration::from_secs(60),
            look_within: Duration::from_secs(40),
            lanes: 1000,
            pace_per_second: 50,
            pace_burst: 100,
            grace: Duration::from_millis(700),
            poll: Duration::from_secs(1),
            refresh: Duration::from_secs(2),
            switch_again: Duration::from_secs(15),
            retain_every: Duration::from_secs(3600),
            keep: Keep::default(),
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// What the executor is made of, besides a store.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) sources: Arc<Sources>,
    pub(crate) keys: KeyTable,
    pub(crate) events: Arc<WorkEvents>,
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) clock: Clock,
    pub(crate) options: WorkOptions,
    pub(crate) tables: BTreeMap<String, String>,
    pub(crate) stop: CancellationToken,
}

/// What all parts of the executor share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) sources: Arc<Sources>,
    pub(crate) keys: KeyTable,
    pub(crate) events: Arc<WorkEvents>,
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) clock: Clock,
    pub(crate) options: WorkOptions,
    /// Something may be due.
    pub(crate) wake: Notify,
    /// Keys or switches were changed by this process.
    pub(crate) refresh: Notify,
    /// Questions under way.
    pub(crate) questions: TaskTracker,
    /// The process is to end: nothing new is begun.
    pub(crate) stop: CancellationToken,
    /// Questions that are still under way are given up.
    pub(crate) give_up: CancellationToken,
    /// The change tables of feeds that have none of the default name.
    pub(crate) tables: BTreeMap<String, String>,
    /// What this process has received itself, where there are others.
    own: Mutex<Own>,
    /// The reconcilers of each source, while this process runs them.
    hints: Mutex<HashMap<String, Vec<mpsc::Sender<Hint>>>>,
}

impl Shared {
    /// The parts, with an opened store.
    pub(crate) fn new(store: Store, parts: &Parts) -> Shared {
        let Parts { sources, keys, events, alerts, clock, options, tables, stop } = parts.clone();
        Shared {
            store,
            sources,
            keys,
            events,
            alerts,
            clock,
            options,
            wake: Notify::new(),
            refresh: Notify::new(),
            questions: TaskTracker::new(),
            stop,
            give_up: CancellationToken::new(),
            tables,
            own: Mutex::default(),
            hints: Mutex::default(),
        }
    }

    pub(crate) fn now_us(&self) -> i64 {
        (self.clock)()
    }

    pub(crate) fn lease_us(&self) -> i64 {
        micros(self.options.lease)
    }

    /// How the store is read for a plan of this moment.
    pub(crate) fn look(&self) -> Look {
        Look { now_us: self.now_us(), lease_us: self.lease_us(), with_done: self.sources.table().needs_done }
    }

    /// A request is about to be stored: its events are this process's own.
    pub(crate) fn receives(&self, request: &ReceivedRequest) {
        if !self.is_only_one() {
            self.own.lock().unwrap_or_else(PoisonError::into_inner).add(request.envelope.id);
        }
    }

    /// A request is durable: the worker looks at its events at once.
    pub(crate) fn accepted(&self, request: &ReceivedRequest) {
        self.hint(&request.envelope.source, Hint::Heard);
        self.wake.notify_one();
    }

    /// Whether no other process works on the store.
    pub(crate) fn is_only_one(&self) -> bool {
        self.options.grace.is_zero()
    }

    /// Whether this process has received the event, as far as it remembers.
    pub(crate) fn has_received(&self, id: EventId) -> bool {
        self.is_only_one() || self.own.lock().unwrap_or_else(PoisonError::into_inner).has(id)
    }

    /// Tells the reconcilers of a source, if this process runs them. Returns whether it does.
    pub(crate) fn hint(&self, source: &str, hint: Hint) -> bool {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in hints.get(source).into_iter().flatten() {
            // One that has so many hints already needs no more.
            let _ = sender.try_send(hint);
        }
        hints.contains_key(source)
    }

    /// Webhooks may have been lost: all reconcilers ask at once.
    pub(crate) fn hurry_all(&self) {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in hints.values().flatten() {
            let _ = sender.try_send(Hint::Hurry);
        }
    }

    fn set_hints(&self, to: HashMap<String, Vec<mpsc::Sender<Hint>>>) {
        *self.hints.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// Sleeps; returns whether the process goes on.
    pub(crate) async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

/// The tasks of a process, besides questions. Ends when `stop` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>) {
    tokio::join!(worker::run(&shared), upkeep::run(&shared), leader::run(&shared));
}

/// In microseconds.
pub(crate) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// From now until then, at least nothing and at most an hour.
pub(crate) fn until(now_us: i64, then_us: i64) -> Duration {
    let us = then_us.saturating_sub(now_us).clamp(0, 3600 * SECOND_US);
    Duration::from_micros(us.unsigned_abs())
}
