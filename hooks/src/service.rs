//! The receiving half of hooks as one service: receiver, spool, store, executor.
//!
//! Goes in: a configuration, a store's address, where the spool is. Comes out: routes that a listener serves, and rows in
//! the change tables of the store. It knows no command line, no listener, no bus and no shim: whoever composes a process
//! brings those. A store that is away, also at the start, stops nothing: the spool takes what comes.
//!
//! **Stopping in order:** cancel [`HooksOptions::stop`], end the listener, then [`Hooks::stop`]. Dropping a [`Hooks`] is as a
//! crash: everything goes on where it was at the next start.

mod counted;
mod desk;
mod intake;
mod opening;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use bugfeed_protocol::When;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::metrics::Register;
use bugfeed_sql::DbUrl;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::counted::Counted;
use self::desk::{Desk, Sending};
use self::intake::StoreIntake;
use self::opening::{Opening, Running};
use crate::api::Service;
use crate::client::{self, Client};
use crate::config::HooksConfig;
use crate::endpoints::{Endpoints, EndpointsOptions, EndpointsParts, Taps};
use crate::receive::http::{KeyTable, Receiver, ReceiverEvents, ReceiverLimits, ReceiverParts};
use crate::receive::spool::{OpenError, Spool, SpoolOptions};
use crate::store::{self, Store, StoreError};
use crate::tracker::{CannotAsk, Clock};
use crate::work::{Alerts, Matched, Parts, Sources, WorkOptions, matcher};

/// How often it is looked whether the spool is empty again.
const SPOOL_EVERY: Duration = Duration::from_millis(500);
/// The name of the configuration in the answer of `/readyz`.
const CONFIGURATION: &str = "hooks configuration";
/// What was left out of the log is looked for so often.
const LEFT_OUT_EVERY: Duration = Duration::from_secs(5);

/// What the service is made of.
#[derive(Clone)]
pub struct HooksOptions {
    /// The sources.
    pub config: Arc<HooksConfig>,
    /// The store's database.
    pub store_url: DbUrl,
    /// How it is opened.
    pub store: store::Options,
    /// The change tables of feeds that have none of the default name (`push_notify_FEED`).
    pub tables: BTreeMap<String, String>,
    /// Where requests go while the store is away. Bodies that arrive have their files there, too.
    pub spool: SpoolOptions,
    /// The receiver's bounds.
    pub limits: ReceiverLimits,
    /// How the executor works.
    pub work: WorkOptions,
    /// How trackers and the targets of alerts are reached.
    pub client: client::Options,
    /// The time, in microseconds since 1970.
    pub clock: Clock,
    /// Cancelled when the process is to end: no further bodies are received then.
    pub stop: CancellationToken,
    /// What still works on requests when their senders have hung up.
    pub connections: TaskTracker,
    /// Its counters, where somebody must have them before it is started.
    pub counted: Option<Counted>,
}

impl HooksOptions {
    /// Everything else by default.
    pub fn new(config: HooksConfig, store_url: DbUrl, spool: SpoolOptions) -> HooksOptions {
        HooksOptions {
            config: Arc::new(config),
            store_url,
            store: store::Options::default(),
            tables: BTreeMap::new(),
            spool,
            limits: ReceiverLimits::default(),
            work: WorkOptions::default(),
            client: client::Options::default(),
            clock: Arc::new(|| When::from_system_time(SystemTime::now()).as_micros()),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            counted: None,
        }
    }
}

impl std::fmt::Debug for HooksOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HooksOptions").field("store", &self.store_url).finish_non_exhaustive()
    }
}

/// Why the service cannot begin. A person must mend it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be used. (One that is only away is no error.)
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] OpenError),
    /// A source wants its tracker to be asked, and it cannot be.
    #[error(transparent)]
    Tracker(#[from] CannotAsk),
}

/// The running service.
pub struct Hooks {
    receiver: Receiver,
    spool: Spool,
    parts: Parts,
    counted: Counted,
    health: Health,
    running: watch::Sender<Option<Arc<Running>>>,
    matches: mpsc::Sender<Matched>,
    sending: Arc<OnceLock<Sending>>,
    /// Cancelled once no more requests come: what was handed over is committed before the task ends.
    intake_stop: CancellationToken,
    tasks: JoinSet<()>,
    _guard: DropGuard,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").field("sources", &self.parts.sources).finish_non_exhaustive()
    }
}

impl Hooks {
    /// Begins. `health` is what `/readyz` reads.
    ///
    /// # Errors
    /// When a person must mend something first.
    pub async fn start(options: HooksOptions, health: Health) -> Result<Hooks, StartError> {
        let client = Client::new(options.client.clone());
        let (config, clock) = (Arc::clone(&options.config), Arc::clone(&options.clock));
        let sources = Sources::new(config, client.clone(), clock, &options.work)?;
        let first = match Store::open(&options.store_url, options.store.clone()).await {
            Ok(opened) => Some(opened),
            Err(error) if error.may_heal() => {
                tracing::warn!(%error, event = %LogEvent::HooksWait, "the store does not answer; what comes is spooled");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let (spool, scan) = open_spool(options.spool.clone()).await?;
        let counted = options.counted.clone().unwrap_or_else(|| Counted::new(health.clone()));
        counted.receiver.spool_opened(&scan);
        let parts = parts(&options, sources, client, &counted);
        let running = watch::Sender::new(None);
        let receiver = Receiver::new(ReceiverParts {
            config: Arc::clone(&options.config),
            intake: Arc::new(StoreIntake(running.subscribe())),
            keys: parts.keys.clone(),
            spool: spool.clone(),
            body_folder: options.spool.folder.clone(),
            limits: options.limits,
            events: Arc::clone(&counted.receiver),
            tracker: options.connections.clone(),
            stop: options.stop.clone(),
        });
        let ((matches, matcher_task), intake_stop) = (matcher(), CancellationToken::new());
        let opening = Opening {
            url: options.store_url,
            store: options.store,
            parts: parts.clone(),
            running: running.clone(),
            intake_stop: intake_stop.clone(),
            matcher: matcher_task,
        };
        let (stop, mut tasks) = (parts.stop.clone(), JoinSet::new());
        let watchdog = health.watchdog();
        tasks.spawn(watchdog.pulse("hooks store").keep(opening.run(first)));
        tasks.spawn(watchdog.pulse("hooks spool").keep(replay(receiver.clone(), stop.clone())));
        tasks.spawn(left_out(Arc::clone(&counted.receiver), stop.clone()));
        tasks.spawn(watch_spool(spool.clone(), running.subscribe(), stop.clone()));
        let (sending, guard) = (Arc::default(), stop.drop_guard());
        Ok(Hooks {
            receiver,
            spool,
            parts,
            counted,
            health,
            running,
            matches,
            sending,
            intake_stop,
            tasks,
            _guard: guard,
        })
    }

    /// The paths at which requests come in.
    pub fn routes(&self) -> Router {
        self.receiver.routes()
    }

    /// The keys in memory, for checking again what is in quarantine.
    pub fn keys(&self) -> &KeyTable {
        &self.parts.keys
    }

    /// The sources, as they are configured now.
    pub fn sources(&self) -> &Arc<Sources> {
        &self.parts.sources
    }

    /// The spool.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// The store; `None` while it could not be opened yet.
    pub fn store(&self) -> Option<Store> {
        self.running.borrow().as_ref().map(|running| running.shared.store.clone())
    }

    /// Waits until the store is open, and returns it with whether this process has made it. Waits for ever if the service
    /// ends before that.
    pub fn opened(&self) -> impl Future<Output = (Store, bool)> + Send + use<> {
        let mut running = self.running.subscribe();
        async move {
            let opened = running.wait_for(Option::is_some).await.ok().and_then(|running| running.clone());
            match opened {
                Some(running) => (running.shared.store.clone(), running.is_new),
                None => std::future::pending().await,
            }
        }
    }

    /// Begins to deliver to endpoints, from these feeds; to be called once. [`Endpoints::stop`] comes before [`Hooks::stop`].
    pub fn endpoints(&self, taps: Taps, options: EndpointsOptions) -> Endpoints {
        let (opened, rules, fed) = (self.opened(), options.rules.clone(), taps.clone());
        let alerts = Arc::clone(&self.parts.alerts);
        let parts = EndpointsParts {
            watchdog: self.health.watchdog().clone(),
            options: EndpointsOptions { is_alone: self.parts.options.grace.is_zero(), ..options },
            events: Arc::clone(&self.counted.endpoints),
            raise: Arc::new(move |subject, cause, text| alerts.raise(subject, None, cause, text)),
        };
        let endpoints = Endpoints::start(async move { opened.await.0 }, taps, parts);
        // The API hears of the first call only.
        let _ = self.sending.set(Sending { nudge: Box::new(endpoints.nudge()), rules, taps: fed });
        endpoints
    }

    /// What the API needs of this process.
    pub fn desk(&self) -> Arc<dyn Service> {
        let sending = Arc::clone(&self.sending);
        Arc::new(Desk::new(self.parts.clone(), sending, self.running.subscribe(), self.health.clone()))
    }

    /// Where numbered changes of the bus go, so that events learn their cursors.
    pub fn matches(&self) -> &mpsc::Sender<Matched> {
        &self.matches
    }

    /// Keys or switches were changed: they count from the next moment on, not only at the next regular reading.
    pub fn refresh(&self) {
        self.with_running(|running| running.shared.refresh.notify_one());
    }

    /// Events may be due: orders were given in the store.
    pub fn wake(&self) {
        self.with_running(|running| running.shared.wake.notify_one());
    }

    fn with_running(&self, then: impl FnOnce(&Running)) {
        if let Some(running) = &*self.running.borrow() {
            then(running);
        }
    }

    /// Goes by another configuration from now on. Dead letters of class `mapping` are tried again, and events of sources
    /// that are back go on.
    ///
    /// # Errors
    /// If a tracker cannot be asked; then everything goes on as before.
    pub fn reload(&self, config: HooksConfig) -> Result<(), CannotAsk> {
        let config = Arc::new(config);
        self.parts.sources.replace(Arc::clone(&config))?;
        self.parts.alerts.replace(&config);
        self.receiver.reload(config);
        tracing::info!(event = %LogEvent::HooksReloaded, "another configuration of sources holds from now on");
        self.with_running(|running| {
            let shared = Arc::clone(&running.shared);
            running.shared.questions.spawn(async move {
                let stop = shared.stop.clone();
                stop.run_until_cancelled(opening::try_again(&shared)).await;
            });
        });
        Ok(())
    }

    /// Says in readiness that another configuration was refused, and why; `None`: the one of the file holds.
    pub fn refused_configuration(&self, reason: Option<&str>) {
        match reason {
            Some(reason) => self.health.warn(CONFIGURATION, format!("refused, and the one before goes on: {reason}")),
            None => self.health.calm(CONFIGURATION),
        }
    }

    /// Ends in order, once no more requests come: what was received is committed, questions under way get a few seconds.
    pub async fn stop(mut self) {
        self.parts.stop.cancel();
        self.intake_stop.cancel();
        let running = self.running.send_replace(None);
        if let Some(running) = &running {
            let shared = &running.shared;
            shared.questions.close();
            let ended = tokio::time::timeout(self.parts.options.stop_grace, shared.questions.wait()).await;
            shared.give_up.cancel();
            if ended.is_err() {
                shared.questions.wait().await;
            }
        }
        while self.tasks.join_next().await.is_some() {}
        // The store may have been opened just now.
        for running in [running, self.running.send_replace(None)].into_iter().flatten() {
            running.shared.store.close().await;
        }
        tracing::info!(event = %LogEvent::HooksStopped, "hooks have ended in good order");
    }
}

impl Register for Hooks {
    fn register(&self, registry: &mut Registry) {
        self.counted.register(registry);
    }
}

/// Whether a service could go by this configuration, apart from what must be opened.
///
/// # Errors
/// A source wants its tracker to be asked, and it cannot be.
pub fn check(config: &HooksConfig) -> Result<(), CannotAsk> {
    let clock: Clock = Arc::new(|| When::from_system_time(SystemTime::now()).as_micros());
    let client = Client::new(client::Options::default());
    Sources::new(Arc::new(config.clone()), client, clock, &WorkOptions::default()).map(|_| ())
}

/// The parts of the executor.
fn parts(options: &HooksOptions, sources: Sources, client: Client, counted: &Counted) -> Parts {
    let events = Arc::clone(&counted.work);
    let clock = Arc::clone(&options.clock);
    let alerts = Alerts::new(&options.config, client, Arc::clone(&clock), Arc::clone(&events));
    let mut work = options.work;
    if options.store_url.file_path().is_some() {
        // No other process works on a file.
        work.grace = Duration::ZERO;
    }
    Parts {
        sources: Arc::new(sources),
        keys: KeyTable::new(),
        events,
        alerts: Arc::new(alerts),
        clock,
        options: work,
        tables: options.tables.clone(),
        stop: CancellationToken::new(),
    }
}

async fn open_spool(options: SpoolOptions) -> Result<(Spool, crate::receive::spool::Scan), OpenError> {
    let folder = options.folder.clone();
    let opened = tokio::task::spawn_blocking(move || Spool::open(options)).await;
    opened.unwrap_or_else(|error| Err(OpenError::Io(folder, std::io::Error::other(error))))
}

/// Hands the store what is spooled, until the process ends.
async fn replay(receiver: Receiver, stop: CancellationToken) {
    stop.run_until_cancelled(receiver.replay_spool()).await;
}

/// After the spool was in use, trackers are asked what changed: senders may have given up meanwhile.
/// What was left out of the log is told in time, also once nothing more comes.
async fn left_out(events: Arc<ReceiverEvents>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LEFT_OUT_EVERY)).await.is_some() {
        events.left_out();
    }
}

async fn watch_spool(spool: Spool, running: watch::Receiver<Option<Arc<Running>>>, stop: CancellationToken) {
    let mut seen = 0;
    while stop.run_until_cancelled(tokio::time::sleep(SPOOL_EVERY)).await.is_some() {
        // The number tells of an outage that was shorter than the time between two looks, too.
        let total = spool.total();
        if total != seen
            && spool.is_empty()
            && let Some(running) = &*running.borrow()
        {
            running.shared.hurry_all();
            seen = total;
        }
    }
}
