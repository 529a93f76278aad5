//! The program: opens what the options name, runs the relay, and says in one line what went wrong.
//!
//! Goes in: checked options. Comes out: an exit. The only place of this crate that spawns.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bugfeed_protocol::backoff::Backoff;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cli::{LedgerArgs, LogFormat, RunArgs, TableArgs};
use crate::events::{Part, QUIET_LIBRARIES, Telemetry};
use crate::ledger::{Keep, Ledger};
use crate::publish::amqp::{AmqpOptions, AmqpPublisher};
use crate::relay::{self, RelayOptions};
use crate::source::{self, Setup, Source, SourceError};
use crate::{admin, cli, usage};

/// Starts logging to stderr.
pub fn init_logging(format: LogFormat) {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("info,{QUIET_LIBRARIES}"));
    let filter = tracing_subscriber::EnvFilter::new(directives);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start in one process (tests) keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Runs until stopped, or with `--once` until drained.
///
/// # Errors
/// When it cannot start, or with `--once` when not everything could be published.
pub async fn run(args: &RunArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let telemetry = Arc::new(Telemetry::default());
    let ops = match args.admin_listen {
        Some(address) => {
            let listener = TcpListener::bind(address).await.map_err(|e| {
                anyhow::anyhow!("--admin-listen {address}: cannot listen here ({e}); {}", usage::bind_advice(&e))
            })?;
            Some(tokio::spawn(admin::serve(listener, telemetry.clone(), stop.clone())))
        }
        None => None,
    };
    telemetry.starting();
    let outcome = open_and_relay(args, telemetry, &stop).await;
    stop.cancel();
    if let Some(ops) = ops {
        ops.await.context("the admin listener failed")?;
    }
    outcome
}

async fn open_and_relay(args: &RunArgs, telemetry: Arc<Telemetry>, stop: &CancellationToken) -> anyhow::Result<()> {
    let Some(ledger) = open_ledger(&args.ledger, &telemetry, stop).await? else { return Ok(()) };
    let Some(source) = open_source(args, &telemetry, stop).await? else { return Ok(()) };
    let amqp = AmqpOptions {
        url: args.amqp.clone(),
        exchange: args.exchange.clone(),
        format: args.format.into(),
        history: args.history.bounds(),
    };
    let mut publisher = AmqpPublisher::open(amqp, telemetry.clone()).await?;
    let wake = Arc::new(Notify::new());
    let options = RelayOptions {
        poll_interval: Duration::from_millis(args.poll_interval_ms),
        batch: args.batch.into(),
        keep: Keep { age: args.history_age, max: args.history_max },
        once: args.once,
        once_timeout: Duration::from_secs(args.once_timeout),
        telemetry,
        wake: wake.clone(),
    };
    tracing::info!(source = source.place(), table = %args.table.table, broker = %args.amqp, exchange = args.exchange, "started");
    let listening = async {
        if let Some(channel) = &args.listen {
            source::wake_on_notify(&args.table.source, channel, wake, stop.clone()).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = relay::run(&source, &ledger, &mut publisher, &options, stop.clone()) => outcome?,
        () = listening => {}
    }
    ledger.close().await;
    source.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Opens the ledger, waiting for a server that is away. `None` when stopped first.
async fn open_ledger(
    args: &LedgerArgs,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Ledger>> {
    let mut backoff = Backoff::SERVER;
    loop {
        match Ledger::open(&args.ledger, &args.ledger_prefix).await {
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

/// Opens the change table, waiting for a server that is away. `None` when stopped first.
async fn open_source(
    args: &RunArgs,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Source>> {
    let mut backoff = Backoff::SERVER;
    loop {
        match Source::open(&args.table.source, &args.table.spec(), args.timezone.clone()).await {
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

/// Creates the change table and says what to do next.
///
/// # Errors
/// When the database says no.
pub async fn init(args: &TableArgs) -> anyhow::Result<()> {
    let spec = args.spec();
    let what = match source::init(&args.source, &spec).await? {
        Setup::Created => "created",
        Setup::Existed => "exists already, with the columns that are needed; nothing was changed",
    };
    let hint = source::next_steps(&args.source, &spec);
    writeln!(std::io::stdout(), "Table {} in {}: {what}.\n\n{hint}", spec.table, args.source)?;
    Ok(())
}

/// Shows how far a ledger is.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn status(args: &LedgerArgs) -> anyhow::Result<()> {
    let ledger = Ledger::open_existing(&args.ledger, &args.ledger_prefix).await?;
    let meta = ledger.meta().await?;
    let oldest = ledger.oldest().await?;
    let set_aside = ledger.set_aside(20).await?;
    ledger.close().await;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ledger       {}", ledger.place())?;
    writeln!(out, "epoch        {}", ledger.epoch())?;
    writeln!(out, "head         {}", meta.head)?;
    writeln!(out, "published    {}", meta.published)?;
    writeln!(out, "unpublished  {}", meta.head - meta.published)?;
    match oldest {
        Some(oldest) => writeln!(out, "kept from    {oldest}")?,
        None => writeln!(out, "kept from    (nothing kept)")?,
    }
    writeln!(out, "held by      {}", meta.holder.as_deref().unwrap_or("(nobody)"))?;
    writeln!(out, "set aside    {}", meta.set_aside)?;
    for row in set_aside {
        let at = row.at.map(|at| at.to_string()).unwrap_or_default();
        writeln!(out, "  {at}  row {}  bug {}: {}", row.row, row.bug.as_deref().unwrap_or("NULL"), row.reason)?;
    }
    Ok(())
}

/// Cancels `stop` at SIGTERM or SIGINT. SIGHUP, which ends what does not listen to it, changes nothing.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    ignore_hangup()?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => return,
        }
        tracing::info!("stopping: finishing the batch in hand");
        stop.cancel();
    });
    Ok(())
}

/// Goes on at SIGHUP, as a terminal sends that is closed, and whoever hopes that options are read again.
///
/// # Errors
/// When the signal cannot be listened to.
pub fn ignore_hangup() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: going on as before; to have options read again, restart (SIGTERM ends)");
        }
    });
    Ok(())
}

/// Does what the command line says, after it has said these warnings.
///
/// # Errors
/// What [`run`], [`init`] and [`status`] say.
pub async fn main(cli: cli::Cli, warnings: &[String]) -> anyhow::Result<()> {
    if !matches!(cli.command, cli::Command::Run(_)) {
        for warning in warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
    }
    match cli.command {
        cli::Command::Init(args) => init(&args).await,
        cli::Command::Status(args) => status(&args).await,
        cli::Command::Run(args) => run_until_signal(&args, warnings).await,
    }
}

async fn run_until_signal(args: &RunArgs, warnings: &[String]) -> anyhow::Result<()> {
    init_logging(args.log_format);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    run(args, stop).await
}
