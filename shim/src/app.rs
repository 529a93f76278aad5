//! The program: opens what the options name, runs the relay, and says in one line what went wrong.
//!
//! Goes in: checked options. Comes out: an exit. The only place of this crate that spawns.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bugfeed_protocol::backoff::Backoff;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{LedgerArgs, LogFormat, NewEpochArgs, RunArgs, TableArgs};
use crate::events::{Part, Telemetry};
use crate::ledger::{Keep, Ledger, LedgerError};
use crate::log_filter::{self, LogFilter};
use crate::publish::amqp::{AmqpOptions, AmqpPublisher};
use crate::relay::{self, RelayError, RelayOptions};
use crate::source::{self, Setup, Source, SourceError};
use crate::{admin, cli, usage};

/// Starts logging to stderr.
pub fn init_logging(format: LogFormat) {
    let rust_log = std::env::var("RUST_LOG").ok();
    let LogFilter { targets, left_out } = LogFilter::new(rust_log.as_deref());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // A second start in one process (tests) keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    if !left_out.is_empty() {
        tracing::warn!(target: log_filter::TARGET, "{left_out}");
    }
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
    let wake = Arc::new(Notify::new());
    let listening = async {
        if let Some(channel) = &args.listen {
            source::wake_on_notify(&args.table.source, channel, wake.clone(), stop.clone()).await;
        }
        std::future::pending::<()>().await;
    };
    let working = async {
        // A ledger in whose place another one was put is left, and that one is opened.
        while work(args, &telemetry, &wake, stop).await? {}
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = working => outcome?,
        () = listening => {}
    }
    tracing::info!("stopped");
    Ok(())
}

/// Works on the ledger that is there; whether there is another one now.
async fn work(
    args: &RunArgs,
    telemetry: &Arc<Telemetry>,
    wake: &Arc<Notify>,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let Some(ledger) = open_ledger(&args.ledger, telemetry, stop).await? else { return Ok(false) };
    let Some(source) = open_source(args, telemetry, stop).await? else { return Ok(false) };
    let amqp = AmqpOptions {
        url: args.amqp.clone(),
        exchange: args.exchange.clone(),
        format: args.format.into(),
        history: args.history.bounds(),
    };
    let mut publisher = AmqpPublisher::open(amqp, telemetry.clone()).await?;
    let options = RelayOptions {
        poll_interval: Duration::from_millis(args.poll_interval_ms),
        batch: args.batch.into(),
        keep: Keep { age: args.history_age, max: args.history_max },
        once: args.once,
        once_timeout: Duration::from_secs(args.once_timeout),
        telemetry: telemetry.clone(),
        wake: wake.clone(),
    };
    tracing::info!(
        source = source.place(), table = %args.table.table, ledger = ledger.place(), broker = %args.amqp,
        exchange = args.exchange, "started"
    );
    let outcome = relay::run(&source, &ledger, &mut publisher, &options, stop.clone()).await;
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

/// Opens the ledger, waiting for a server that is away. `None` when stopped first.
async fn open_ledger(
    args: &LedgerArgs,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Ledger>> {
    let mut backoff = Backoff::SERVER;
    if args.ledger.to_string() == cli::DEFAULT_LEDGER
        && let Some(folder) = args.ledger.sqlite_path().as_deref().and_then(Path::parent)
    {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {} (--ledger)", folder.display()))?;
    }
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
    let (steps, clock) = (source::next_steps(&args.source, &spec), source::clock_hint(&args.source, &spec).await);
    writeln!(std::io::stdout(), "Table {} in {}: {what}.\n\n{steps}", spec.table, args.source)?;
    if !clock.is_empty() {
        writeln!(std::io::stdout(), "\n{clock}")?;
    }
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
    let tag = ledger.latest_tag().await?;
    let set_aside = ledger.set_aside(20).await?;
    ledger.close().await;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ledger       {}", ledger.place())?;
    writeln!(out, "publishes to {}", meta.published_to.as_deref().unwrap_or("(nowhere yet)"))?;
    match &meta.former_epoch {
        Some(former) => writeln!(out, "epoch        {} (before: {former})", meta.epoch)?,
        None => writeln!(out, "epoch        {}", meta.epoch)?,
    }
    match tag {
        Some((tag, since)) => writeln!(out, "tag          {tag} since {since}")?,
        None => writeln!(out, "tag          (none yet)")?,
    }
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

/// Begins a new epoch in a ledger that nobody works on, or says what that would do.
///
/// # Errors
/// When there is no ledger, or somebody works on it.
pub async fn new_epoch(args: &NewEpochArgs) -> anyhow::Result<()> {
    let ledger = Ledger::open_existing(&args.ledger.ledger, &args.ledger.ledger_prefix).await?;
    let meta = ledger.meta().await?;
    let mut out = std::io::stdout().lock();
    let unpublished = meta.head - meta.published;
    writeln!(
        out,
        "Ledger {}, epoch {}, head {}, {unpublished} unpublished.\n\
         A new epoch: the {unpublished} changes that are not published stay, with the numbers from 1; at the next start of\n\
         the shim every client is told 'gap', and asks the tracker again for what it watches.",
        ledger.place(),
        meta.epoch,
        meta.head
    )?;
    if !args.yes {
        // A script that goes on after this must not take it for done.
        anyhow::bail!("nothing was changed; do it with --yes");
    }
    let holder = std::sync::Mutex::new(String::new());
    let waiting = |name: &str| name.clone_into(&mut holder.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    let stop = CancellationToken::new();
    let acquired = tokio::time::timeout(ledger.longest_silence(), ledger.acquire(&stop, waiting)).await;
    let Some(lease) = acquired.ok().transpose()?.flatten() else {
        let holder = holder.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        anyhow::bail!("ledger {}: {holder} works on it; stop that first. Nothing was changed", ledger.place());
    };
    let done = lease.new_epoch(bugfeed_protocol::When::from_system_time(std::time::SystemTime::now())).await;
    lease.release().await?;
    ledger.close().await;
    writeln!(out, "Done: epoch {}.", done?.epoch)?;
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
/// What [`run`], [`init`], [`status`] and [`new_epoch`] say.
pub async fn main(cli: cli::Cli, warnings: &[String]) -> anyhow::Result<()> {
    if !matches!(cli.command, cli::Command::Run(_)) {
        for warning in warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
    }
    match cli.command {
        cli::Command::Init(args) => init(&args).await,
        cli::Command::Status(args) => status(&args).await,
        cli::Command::NewEpoch(args) => new_epoch(&args).await,
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
