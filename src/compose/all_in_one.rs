//! `bugfeed serve`: the shim and the gateway in one process, on SQLite, with a channel between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bugfeed_gateway::feed::Clock;
use bugfeed_gateway::http::demo::Demo;
use bugfeed_gateway::http::routes::DEFAULT_FEED;
use bugfeed_protocol::When;
use bugfeed_runtime::health::Health;
use bugfeed_shim::events::{Telemetry, Turn};
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_shim::relay::{self, RelayOptions};
use bugfeed_shim::source::{self, Source, TableSpec};
use bugfeed_sql::DbUrl;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::in_process_bus;
use super::serving::{Gateway, Ports, ServingOptions};

/// The name of the feed that is served.
pub const FEED: &str = DEFAULT_FEED;

/// How long the all-in-one waits for its feed to be current before it serves clients. After that time it turns clients
/// away until the feed is current.
const OPENING: Duration = Duration::from_secs(2);

/// What the all-in-one needs.
#[derive(Clone, Debug)]
pub struct AllInOneOptions {
    /// How clients are served.
    pub serving: ServingOptions,
    /// Where the change table and the ledger are kept.
    pub data_dir: PathBuf,
    /// The change table; made if it is not there.
    pub table: TableSpec,
    /// The zone of the times in the change table.
    pub timezone: TimeZone,
    /// How often the change table is polled when it is idle.
    pub poll_interval: Duration,
    /// Whether the live page has a button that changes a bug. If `None`, it has one only when it listens on a loopback
    /// address.
    pub demo: Option<bool>,
}

/// Runs `bugfeed serve` until `stop`. `on_turn` is called with the current turn (this process works on the ledger, or
/// another one does): first when it is known, then whenever it changes.
///
/// # Errors
/// Only faults that a person must mend: a data directory that cannot be used.
pub async fn run(
    options: AllInOneOptions,
    ports: Ports,
    stop: &CancellationToken,
    on_turn: impl Fn(&Turn) + Send + 'static,
) -> anyhow::Result<()> {
    let AllInOneOptions { serving, data_dir, table, timezone, poll_interval, demo } = options;
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("cannot make the data directory {} (--data-dir)", data_dir.display()))?;
    let table_url = DbUrl::sqlite_file(data_dir.join("bugfeed.db"));
    let ledger_url = DbUrl::sqlite_file(data_dir.join("ledger.db"));
    source::init(&table_url, &table).await?;
    let source = Source::open(&table_url, &table, timezone.clone()).await?;
    let ledger = Ledger::open(&ledger_url, &Prefix::default()).await?;

    let health = Health::new();
    let telemetry = Arc::new(Telemetry::new(health.clone()));
    let mut gateway = Gateway::new(&serving, health, &[&telemetry.metrics]);
    let (ingest, health) = gateway.add_feed(FEED, Clock::start());
    gateway.inner.spawn(report_turns(telemetry.turn(), on_turn, gateway.inner_stop.clone()));

    let (mut publisher, bus) = in_process_bus::channel(serving.feed.replay.max);
    let options = RelayOptions { poll_interval, wake: Arc::new(Notify::new()), telemetry, ..RelayOptions::default() };
    let wake = Arc::clone(&options.wake);
    let relay_stop = gateway.inner_stop.clone();
    gateway.inner.spawn(bus.run(ingest, health, Arc::clone(&options.telemetry), gateway.inner_stop.clone()));
    gateway.essential.spawn(async move {
        let relayed = relay::run(&source, &ledger, &mut publisher, &options, relay_stop).await;
        source.close().await;
        ledger.close().await;
        Ok(relayed?)
    });

    let (address, _) = ports.addresses()?;
    let demo = demo.unwrap_or(address.ip().is_loopback()).then(|| {
        let zone = timezone.clone();
        Demo::new(move |bugs| {
            let (url, table, zone, wake) = (table_url.clone(), table.clone(), zone.clone(), Arc::clone(&wake));
            async move {
                let when = this_second();
                source::touch(&url, &table, &bugs, when, &zone).await.map_err(|error| error.to_string())?;
                wake.notify_one();
                Ok(when)
            }
        })
    });
    // Clients that connect during this wait stay in the listener's queue. That is better than a 503 for a moment.
    if let Some(feed) = gateway.feeds.get(FEED).map(Arc::clone) {
        let _ = tokio::time::timeout(OPENING, feed.opened()).await;
    }
    gateway.run(ports, demo, stop).await
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
