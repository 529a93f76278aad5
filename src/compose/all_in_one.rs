//! `bugfeed serve`: the shim, the gateway, and webhooks in and out in one process, on SQLite, with channels between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bugfeed_gateway::feed::Clock;
use bugfeed_gateway::http::demo::Demo;
use bugfeed_gateway::http::routes::DEFAULT_FEED;
use bugfeed_hooks::deliver::address::Rules;
use bugfeed_hooks::endpoints::EndpointsOptions;
use bugfeed_hooks::receive::spool::SpoolOptions;
use bugfeed_hooks::service::{Counted, HooksOptions};
use bugfeed_protocol::When;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::watchdog::Watchdog;
use bugfeed_shim::events::{Telemetry, Turn};
use bugfeed_shim::metrics::ShimsByFeed;
use bugfeed_shim::source::{self, TableSpec};
use bugfeed_sql::DbUrl;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::data_dir;
use super::hooks::{ConfigFile, start};
use super::local_feed::LocalFeed;
use super::local_hooks::LocalHooks;
use super::serving::{GUEST_END, Gateway, Ports, ServingOptions};
use super::taps;

/// The name of the feed that is always served.
pub const FEED: &str = DEFAULT_FEED;

/// How long the all-in-one waits for its feed to be current before it serves clients. After that time it turns clients
/// away until the feed is current.
const OPENING: Duration = Duration::from_secs(2);

/// What the all-in-one needs.
#[derive(Clone, Debug)]
pub struct AllInOneOptions {
    /// How clients are served.
    pub serving: ServingOptions,
    /// Where the change tables, what was received, and the ledgers are kept.
    pub data_dir: PathBuf,
    /// The change table of the feed that is always served; made if it is not there.
    pub table: TableSpec,
    /// The zone of the times in it.
    pub timezone: TimeZone,
    /// How often a change table is polled when it is idle.
    pub poll_interval: Duration,
    /// Whether the live page has a button that changes a bug. If `None`, it has one only when it listens on a loopback
    /// address.
    pub demo: Option<bool>,
    /// The sources of webhooks.
    pub config: ConfigFile,
    /// What takes webhooks while the file of the tables cannot be written; in the data directory, if nothing is said.
    pub spool_dir: Option<PathBuf>,
    /// Where endpoints may be.
    pub rules: Rules,
}

impl AllInOneOptions {
    /// How long the process may take to end when it is told to, at most.
    pub fn ends_within(&self) -> Duration {
        self.serving.ends_within() + GUEST_END
    }

    /// The database of change tables and of what was received.
    pub(super) fn tables(&self) -> DbUrl {
        DbUrl::sqlite_file(self.data_dir.join("bugfeed.db"))
    }

    /// The service that receives webhooks. The rows of the feed that is always served go into its table, in the zone of that.
    fn hooks(&self, config: bugfeed_hooks::config::HooksConfig) -> HooksOptions {
        let spool = self.spool_dir.clone().unwrap_or_else(|| self.data_dir.join("spool"));
        let mut options = HooksOptions::new(config, self.tables(), SpoolOptions::new(spool));
        options.tables = BTreeMap::from([(FEED.to_owned(), self.table.table.to_string())]);
        options.store.zones = BTreeMap::from([(FEED.to_owned(), self.timezone.clone())]);
        options
    }
}

/// Runs `bugfeed serve` until `stop`. `on_turn` is called with the current turn (this process works on the ledger, or
/// another one does): first when it is known, then whenever it changes.
///
/// # Errors
/// Only faults that a person must mend: a data directory that cannot be used, a wrong configuration.
pub async fn run(
    options: AllInOneOptions,
    ports: Ports,
    stop: &CancellationToken,
    on_turn: impl Fn(&Turn) + Send + 'static,
) -> anyhow::Result<()> {
    data_dir::make(&options.data_dir, "data directory", "--data-dir")?;
    let config = options.config.read()?;
    start::look_at_sources(&config);
    let feeds: BTreeSet<String> = config.feeds().into_iter().chain(std::iter::once(FEED)).map(str::to_owned).collect();
    let mut opened = Vec::new();
    for feed in &feeds {
        opened.push(LocalFeed::open(&options, feed).await?);
    }

    let health = Health::watched_by(Watchdog::new(options.serving.stuck_after));
    let shims = ShimsByFeed::default();
    let counted = Counted::new(health.clone());
    let mut gateway = Gateway::new(&options.serving, health.clone(), &[&shims, &counted])?;
    let (matching, clock, wake) = (watch::Sender::new(None), Clock::start(), Arc::new(Notify::new()));
    let telemetry = Arc::new(Telemetry::new(health.clone()));
    for feed in opened {
        let is_default = feed.name() == FEED;
        let (telemetry, wake) = if is_default {
            (Arc::clone(&telemetry), Arc::clone(&wake))
        } else {
            (Arc::new(Telemetry::of_feed(health.clone(), feed.name())), Arc::default())
        };
        shims.add((!is_default).then(|| feed.name()), Arc::clone(&telemetry));
        feed.start(&mut gateway, clock, &options, (telemetry, wake), matching.subscribe());
    }
    gateway.inner.spawn(report_turns(telemetry.turn(), on_turn, gateway.inner_stop.clone()));

    let mut hook_options = options.hooks(config);
    hook_options.counted = Some(counted);
    let trackers = &options.serving.trackers;
    let hooks = LocalHooks {
        options: hook_options,
        sending: EndpointsOptions { rules: options.rules.clone(), ..EndpointsOptions::default() },
        taps: gateway.feeds.values().map(|feed| taps::tap(feed, trackers)).collect(),
        data_dir: options.data_dir.clone(),
        config: options.config.clone(),
        feeds,
        health,
        matching,
    };
    let receiving = hooks.start(&mut gateway, telemetry.turn());

    let (address, _) = ports.addresses()?;
    let demo = options.demo.unwrap_or(address.ip().is_loopback()).then(|| demo(&options, wake));
    // Clients that connect during this wait stay in the listener's queue. That is better than a 503 for a moment.
    if let Some(feed) = gateway.feeds.get(FEED).map(Arc::clone) {
        let _ = tokio::time::timeout(OPENING, async { tokio::join!(feed.opened(), receiving.cancelled()) }).await;
    }
    gateway.run(ports, demo, stop).await
}

/// The button that changes a bug. `wake` wakes the relay.
fn demo(options: &AllInOneOptions, wake: Arc<Notify>) -> Demo {
    let (url, table, zone) = (options.tables(), options.table.clone(), options.timezone.clone());
    Demo::new(move |bugs| {
        let (url, table, zone, wake) = (url.clone(), table.clone(), zone.clone(), Arc::clone(&wake));
        async move {
            let when = this_second();
            source::touch(&url, &table, &bugs, when, &zone).await.map_err(|error| error.to_string())?;
            wake.notify_one();
            Ok(when)
        }
    })
}

/// Calls `on_turn` whenever the turn changes.
async fn report_turns(mut turn: watch::Receiver<Turn>, on_turn: impl Fn(&Turn), stop: CancellationToken) {
    loop {
        let now = turn.borrow_and_update().clone();
        if now != Turn::Starting {
            on_turn(&now);
        }
        tokio::select! {
            changed = turn.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// The current time in whole seconds, as trackers store it.
pub fn this_second() -> When {
    let now = When::from_system_time(SystemTime::now());
    When::from_micros(now.as_micros() / 1_000_000 * 1_000_000).unwrap_or(now)
}
