//! The composition of the shim: opens what the options name, runs the relay, and serves the admin port.
//!
//! Goes in: checked options, and a stop. Comes out: nothing, or the fault that a person must mend. Knows no command line.
//! The only place of this package that spawns.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::admin::{self, AdminParts, AdminServer};
use bugfeed_runtime::health::Health;
use bugfeed_runtime::http::{self, Hosts};
use bugfeed_runtime::metrics::Metrics;
use bugfeed_runtime::watchdog::Watchdog;
use bugfeed_sql::{DbUrl, Name};
use jiff::tz::TimeZone;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{Part, Telemetry};
use crate::ledger::{Ledger, LedgerError, Prefix};
use crate::publish::amqp::{AmqpOptions, AmqpPublisher};
use crate::relay::{self, RelayError, RelayOptions};
use crate::source::{Source, SourceError, TableSpec};

/// What a shim works with.
#[derive(Clone, Debug)]
pub struct ShimOptions {
    /// The change table's database.
    pub source: DbUrl,
    /// The change table.
    pub table: TableSpec,
    /// The zone of the dates in it.
    pub timezone: TimeZone,
    /// The channel on which the database notifies the shim of new rows (PostgreSQL only).
    pub wake_channel: Option<Name>,
    /// The ledger.
    pub ledger: LedgerPlace,
    /// Where changes are published.
    pub publish: AmqpOptions,
    /// How fast the relay works, how much it does at a time, and how much it keeps. The composition replaces the
    /// telemetry and the wake-up in it.
    pub relay: RelayOptions,
    /// Where /livez, /readyz and /metrics are served, if anywhere.
    pub admin_listen: Option<SocketAddr>,
    /// A part without a sign of life for longer than this is stuck.
    pub stuck_after: Duration,
}

impl ShimOptions {
    /// How long the process may take to end when it is told to: the batch in hand, the lease, the connections.
    pub const ENDS_WITHIN: Duration = Duration::from_secs(15);
}

/// Where a ledger is.
#[derive(Clone, Debug)]
pub struct LedgerPlace {
    /// Its database.
    pub url: DbUrl,
    /// What the names of its tables begin with.
    pub prefix: Prefix,
    /// Whether to create the folder of an SQLite file.
    pub make_folder: bool,
}

/// The admin port's listener has no counters of its own.
struct AdminEvents;

impl http::ConnectionEvents for AdminEvents {
    fn accept_failed(&self, error: &std::io::Error, quiet: bool) {
        if !quiet {
            tracing::error!(%error, event = %LogEvent::AcceptFailed, "the admin port cannot accept connections");
        }
    }

    fn turned_away(&self, _reason: &'static str) {}
}

/// Runs until stopped, or with [`RelayOptions::once`] until drained.
///
/// # Errors
/// When it cannot start, or with `once` when not everything could be published.
pub async fn run(options: &ShimOptions, stop: CancellationToken) -> anyhow::Result<()> {
    let health = Health::watched_by(Watchdog::new(options.stuck_after));
    let telemetry = Arc::new(Telemetry::new(health.clone()));
    let _watch = health.watchdog().watch().context("the watchdog")?;
    let admin = options.admin_listen.map(|address| serve_admin(address, &health, &telemetry)).transpose()?;
    telemetry.starting();
    let working = async {
        let outcome = open_and_relay(options, telemetry, &stop).await;
        health.watchdog().leave();
        outcome
    };
    let outcome = health.watchdog().pulse("relay").keep(working).await;
    if let Some(admin) = admin {
        admin.stop().await;
    }
    outcome
}

fn serve_admin(address: SocketAddr, health: &Health, telemetry: &Telemetry) -> anyhow::Result<AdminServer> {
    let listener = http::bind("admin-listen", address, admin::LIMITS.send_buffer_bytes)?;
    let counted = admin::Counted::default();
    let metrics = Metrics::of(&[&telemetry.metrics, &counted, health.watchdog()]);
    let router = admin::router(health.clone(), metrics);
    let parts = AdminParts { listener, router, hosts: Hosts::default(), events: Arc::new(AdminEvents), counted };
    AdminServer::start(parts, health).context("the admin port")
}

async fn open_and_relay(
    options: &ShimOptions,
    telemetry: Arc<Telemetry>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let wake = Arc::new(Notify::new());
    let listening = async {
        if let (Some(channel), Some(notifier)) = (&options.wake_channel, options.source.notifier()) {
            notifier.wake_on(channel, wake.clone(), stop.clone()).await;
        }
        std::future::pending::<()>().await;
    };
    let working = async {
        // When another file is put in the ledger's place, `work` ends, and the new ledger is opened.
        while work(options, &telemetry, &wake, stop).await? {}
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = working => outcome?,
        () = listening => {}
    }
    tracing::info!(event = %LogEvent::ShimStopped, "stopped");
    Ok(())
}

/// Opens the ledger and works on it. Returns whether another ledger was put in its place, which must be opened then.
async fn work(
    options: &ShimOptions,
    telemetry: &Arc<Telemetry>,
    wake: &Arc<Notify>,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let Some(ledger) = open_ledger(&options.ledger, telemetry, stop).await? else { return Ok(false) };
    let Some(source) = open_source(options, telemetry, stop).await? else { return Ok(false) };
    let mut publisher = AmqpPublisher::open(options.publish.clone(), telemetry.clone()).await?;
    let relay_options = RelayOptions { telemetry: telemetry.clone(), wake: wake.clone(), ..options.relay.clone() };
    tracing::info!(
        source = source.place(), table = %options.table.table, ledger = ledger.place(), broker = %options.publish.url,
        exchange = options.publish.exchange, event = %LogEvent::ShimStarted, "started"
    );
    let outcome = relay::run(&source, &ledger, &mut publisher, &relay_options, stop.clone()).await;
    ledger.close().await;
    source.close().await;
    match outcome {
        Err(RelayError::Ledger(e @ LedgerError::Replaced(_))) => {
            telemetry.down(Part::Ledger, &e);
            Ok(!stop.is_cancelled())
        }
        other => Ok(other.map(|()| false)?),
    }
}

/// Opens the ledger; waits for a server that is away. `None` if stopped before that.
async fn open_ledger(
    place: &LedgerPlace,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Ledger>> {
    let mut backoff = Backoff::SERVER;
    if place.make_folder
        && let Some(folder) = place.url.file_path().and_then(Path::parent)
    {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {} (--ledger)", folder.display()))?;
    }
    loop {
        match Ledger::open(&place.url, &place.prefix).await {
            Ok(ledger) => {
                telemetry.up(Part::Ledger);
                return Ok(Some(ledger));
            }
            Err(e) if e.may_heal() => telemetry.down(Part::Ledger, &e),
            Err(e) => return Err(e.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next(rand::random())) => {}
        }
    }
}

/// Opens the change table; waits for a server that is away. `None` if stopped before that.
async fn open_source(
    options: &ShimOptions,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Source>> {
    let mut backoff = Backoff::SERVER;
    loop {
        match Source::open(&options.source, &options.table, options.timezone.clone()).await {
            Ok(source) => {
                telemetry.up(Part::Source);
                return Ok(Some(source));
            }
            Err(SourceError::Sql { source, table }) if source.may_heal() => {
                telemetry.down(Part::Source, &format!("change table {table}: {source}"));
            }
            Err(e) => return Err(e.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next(rand::random())) => {}
        }
    }
}
