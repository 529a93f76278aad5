//! How many changes a second go through the shim, table → ledger → RabbitMQ, confirmed; and whose CPU they cost.
//!
//!     cargo run --profile dist -p bugfeed-shim --example shim_rate
//!     cargo run --profile dist -p bugfeed-shim --example shim_rate -- --feed-rate 10000 --rows 300000
//!
//! Starts a throwaway RabbitMQ, MariaDB and PostgreSQL (Debian packages rabbitmq-server, mariadb-server, postgresql) and
//! measures each change table with each ledger, several times: fills the table, then lets the relay drain it. With
//! `--feed-rate` rows are written while the relay runs, by a process of its own, in transactions of 500. The broker keeps
//! history, and a durable queue takes everything. MariaDB syncs at each commit and so does the SQLite ledger; the
//! throwaway PostgreSQL does not (`--source`, `--ledger` and `--amqp` measure servers of your own; their CPU is not seen,
//! and push_notify, bugfeed_* tables and the queue bugfeed.rate there are filled and emptied!).

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bugfeed_amqp::{HistoryBounds, history_name, parse_url};
use bugfeed_protocol::bus::Format;
use bugfeed_protocol::redact::redact;
use bugfeed_protocol::{BugId, When};
use bugfeed_shim::events::Telemetry;
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_shim::publish::amqp::{AmqpOptions, AmqpPublisher, BatchOptions};
use bugfeed_shim::relay::{self, RelayOptions};
use bugfeed_shim::source::{self, Source, TableSpec};
use bugfeed_sql::DbUrl;
use bugfeed_testbed::{MariaDb, Postgres, RabbitMq, signal};
use clap::Parser;
use jiff::tz::TimeZone;
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use tokio_util::sync::CancellationToken;

/// The exchange and the queue.
const NAME: &str = "bugfeed.rate";
/// Tells the feeding process its table, password included.
const FEED: &str = "BUGFEED_RATE_FEED";
/// Rows of one of the feeder's transactions.
const FEED_CHUNK: u64 = 500;

#[derive(Clone, Debug, Parser)]
struct Args {
    /// How many changes a run.
    #[arg(long, default_value = "100000")]
    rows: u64,
    /// How many runs of each.
    #[arg(long, default_value = "3")]
    runs: usize,
    /// The most changes in one go; the shim's default when left out.
    #[arg(long)]
    batch: Option<usize>,
    /// Where the change table is: mariadb, postgres, sqlite or a URL.
    #[arg(long = "source", value_delimiter = ',', default_values = ["mariadb", "postgres"])]
    sources: Vec<At>,
    /// Where the ledger is.
    #[arg(long = "ledger", value_delimiter = ',', default_values = ["sqlite", "mariadb", "postgres"])]
    ledgers: Vec<At>,
    /// A broker to use instead of a throwaway one.
    #[arg(long)]
    amqp: Option<String>,
    /// Write so many rows a second while the relay runs, instead of all before.
    #[arg(long)]
    feed_rate: Option<u64>,
    /// One JSON object for each pair.
    #[arg(long)]
    json: bool,
    /// For the feeding process: fill this table, then exit.
    #[arg(long, hide = true, env = FEED, hide_env_values = true)]
    feed: Option<DbUrl>,
}

/// Where a table is.
#[derive(Clone, Debug)]
enum At {
    MariaDb,
    Postgres,
    Sqlite,
    Url(String),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<At, String> {
        Ok(match text {
            "mariadb" => At::MariaDb,
            "postgres" => At::Postgres,
            "sqlite" => At::Sqlite,
            url => match url.parse::<DbUrl>() {
                Ok(_) => At::Url(url.to_owned()),
                Err(e) => return Err(format!("not mariadb, postgres or sqlite, and {e}")),
            },
        })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::MariaDb => f.pad("mariadb"),
            At::Postgres => f.pad("postgres"),
            At::Sqlite => f.pad("sqlite"),
            At::Url(url) => f.pad(&redact(url)),
        }
    }
}

/// The servers that this program started.
#[derive(Default)]
struct Servers {
    mariadb: Option<MariaDb>,
    postgres: Option<Postgres>,
    rabbitmq: Option<RabbitMq>,
}

impl Servers {
    async fn start(args: &Args) -> Result<Servers> {
        let mut servers = Servers::default();
        let wanted = |kind: fn(&At) -> bool| args.sources.iter().chain(&args.ledgers).any(kind);
        if wanted(|at| matches!(at, At::MariaDb)) {
            let server = servers.mariadb.insert(MariaDb::start().await?);
            // What a server does by default, and a test server does not: a commit is on disk.
            server.sql("mysql", "SET GLOBAL innodb_flush_log_at_trx_commit = 1").await?;
        }
        if wanted(|at| matches!(at, At::Postgres)) {
            servers.postgres = Some(Postgres::start().await?);
        }
        if args.amqp.is_none() {
            servers.rabbitmq = Some(RabbitMq::start().await?);
        }
        Ok(servers)
    }

    /// An empty database.
    async fn place(&self, at: &At, dir: &std::path::Path, file: &str) -> Result<String> {
        Ok(match at {
            At::MariaDb => {
                let server = self.mariadb.as_ref().context("no MariaDB")?;
                server.url(&server.create_database().await?)
            }
            At::Postgres => {
                let server = self.postgres.as_ref().context("no PostgreSQL")?;
                server.url(&server.create_database().await?)
            }
            At::Sqlite => format!("sqlite://{}", dir.join(file).display()),
            At::Url(url) => url.clone(),
        })
    }

    /// CPU seconds so far of this process, MariaDB, PostgreSQL and RabbitMQ.
    fn cpu(&self) -> Result<[f64; 4]> {
        Ok([
            cpu_s(std::process::id())?,
            tree_cpu_s(self.mariadb.as_ref().and_then(MariaDb::pid))?,
            tree_cpu_s(self.postgres.as_ref().and_then(Postgres::pid))?,
            tree_cpu_s(self.rabbitmq.as_ref().and_then(RabbitMq::pid))?,
        ])
    }
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    per_s: f64,
    /// Microseconds of CPU a change: shim, MariaDB, PostgreSQL, RabbitMQ.
    cpu_us: [f64; 4],
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(url) = &args.feed {
        return feed(&args, url).await;
    }
    let servers = Servers::start(&args).await?;
    let amqp = match (&args.amqp, &servers.rabbitmq) {
        (Some(url), _) => url.clone(),
        (None, Some(server)) => server.url(),
        (None, None) => bail!("no broker"),
    };
    let mut out = std::io::stdout();
    if !args.json {
        let (rows, runs) = (args.rows, args.runs);
        writeln!(out, "{rows} changes a run, median (lowest to highest) of {runs} runs, history on")?;
        writeln!(
            out,
            "{:9} {:9} {:>25}   µs of CPU a change: {:>5} {:>8} {:>9} {:>9}   load",
            "table", "ledger", "changes/s", "shim", "mariadb", "postgres", "rabbitmq"
        )?;
    }
    for from in &args.sources {
        for ledger in &args.ledgers {
            let mut outcomes = Vec::new();
            for _ in 0..args.runs.max(1) {
                outcomes.push(run(&args, &servers, &amqp, from, ledger).await?);
            }
            outcomes.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
            report(&args, from, ledger, &outcomes)?;
        }
    }
    Ok(())
}

fn report(args: &Args, from: &At, ledger: &At, outcomes: &[Outcome]) -> Result<()> {
    let mut out = std::io::stdout();
    let median = |of: &dyn Fn(&Outcome) -> f64| {
        let mut all: Vec<f64> = outcomes.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (lowest, highest) = (outcomes[0].per_s, outcomes[outcomes.len() - 1].per_s);
    let rate = median(&|o| o.per_s);
    let [shim, mariadb, postgres, rabbitmq] = [0, 1, 2, 3].map(|i| median(&|o| o.cpu_us[i]));
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or_default();
    if args.json {
        let (rows, runs, feed_rate) = (args.rows, args.runs, args.feed_rate);
        let object = serde_json::json!({
            "table": from.to_string(), "ledger": ledger.to_string(), "rows": rows, "runs": runs, "feed_rate": feed_rate,
            "changes_per_s": { "median": rate, "lowest": lowest, "highest": highest }, "load": load,
            "cpu_us_per_change": { "shim": shim, "mariadb": mariadb, "postgres": postgres, "rabbitmq": rabbitmq },
        });
        return Ok(writeln!(out, "{object}")?);
    }
    let rates = format!("{rate:.0} ({lowest:.0} to {highest:.0})");
    Ok(writeln!(
        out,
        "{from:9} {ledger:9} {rates:>25}   {:20}{shim:5.1} {mariadb:8.1} {postgres:9.1} {rabbitmq:9.1}   {load}",
        ""
    )?)
}

async fn run(args: &Args, servers: &Servers, amqp: &str, from: &At, ledger: &At) -> Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let from = servers.place(from, dir.path(), "tracker.db").await?;
    let source_url: DbUrl = from.parse()?;
    let ledger_url: DbUrl = servers.place(ledger, dir.path(), "ledger.db").await?.parse()?;
    let spec = TableSpec::default();
    source::init(&source_url, &spec).await?;
    if args.feed_rate.is_none() {
        write(&source_url, 0..args.rows).await?;
    }
    let telemetry = Arc::new(Telemetry::default());
    let source = Source::open(&source_url, &spec, TimeZone::UTC).await?;
    let ledger = Ledger::open(&ledger_url, &Prefix::default()).await?;
    let before = ledger.meta().await?.head;
    queue(amqp, false).await?;
    let options = AmqpOptions {
        url: parse_url(amqp).map_err(anyhow::Error::msg)?,
        exchange: NAME.to_owned(),
        format: Format::Native,
        batch: BatchOptions::default(),
        history: Some(HistoryBounds::default()),
    };
    let mut publisher = AmqpPublisher::open(options, telemetry.clone()).await?;
    queue(amqp, true).await?;
    let mut options = RelayOptions { telemetry: telemetry.clone(), ..RelayOptions::default() };
    options.batch = args.batch.unwrap_or(options.batch);

    let stop = CancellationToken::new();
    let feeder = args.feed_rate.map(|_| feeder(args, &from)).transpose()?;
    let (started, cpu) = (Instant::now(), servers.cpu()?);
    let all = async {
        while telemetry.metrics.published.get() < args.rows {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let taken = (started.elapsed().as_secs_f64(), servers.cpu());
        stop.cancel();
        taken
    };
    let limit = Duration::from_secs(600);
    let relaying = relay::run(&source, &ledger, &mut publisher, &options, stop.clone());
    let (taken, relayed) = tokio::time::timeout(limit, async { tokio::join!(all, relaying) })
        .await
        .with_context(|| format!("not drained: {:?}", telemetry.ready()))?;
    relayed?;
    if let Some(mut feeder) = feeder {
        anyhow::ensure!(feeder.wait()?.success(), "the feeding process failed");
    }
    let meta = ledger.meta().await?;
    anyhow::ensure!(meta.published == meta.head && meta.head - before == args.rows, "not all published: {meta:?}");
    ledger.close().await;
    source.close().await;
    #[expect(clippy::cast_precision_loss, reason = "a rate, for reading")]
    let rows = args.rows as f64;
    let (wall, after) = (taken.0, taken.1?);
    let cpu_us = [0, 1, 2, 3].map(|i| (after[i] - cpu[i]) / rows * 1e6);
    Ok(Outcome { per_s: rows / wall, cpu_us })
}

/// Starts the process that writes rows while the relay runs, so that its CPU is not taken for the shim's.
fn feeder(args: &Args, url: &str) -> Result<std::process::Child> {
    let (rows, rate) = (args.rows.to_string(), args.feed_rate.unwrap_or_default().to_string());
    let mut command = std::process::Command::new(std::env::current_exe()?);
    Ok(command.args(["--rows", &rows, "--feed-rate", &rate]).env(FEED, url).spawn()?)
}

/// Writes rows at the given pace.
async fn feed(args: &Args, url: &DbUrl) -> Result<()> {
    let rate = args.feed_rate.unwrap_or(10_000).max(1);
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 * FEED_CHUNK / rate));
    for first in (0..args.rows).step_by(usize::try_from(FEED_CHUNK)?) {
        ticks.tick().await;
        write(url, first..(first + FEED_CHUNK).min(args.rows)).await?;
    }
    Ok(())
}

async fn write(url: &DbUrl, rows: std::ops::Range<u64>) -> Result<()> {
    let now = When::from_system_time(std::time::SystemTime::now());
    let bugs: Vec<BugId> = rows.filter_map(|n| BugId::new(n % 50_000 + 1)).collect();
    Ok(source::touch(url, &TableSpec::default(), &bugs, now, &TimeZone::UTC).await?)
}

/// A durable queue for everything, so that messages are routed and written to disk; or none of it, nor history.
async fn queue(url: &str, declare: bool) -> Result<()> {
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    if declare {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(NAME.into(), durable, FieldTable::default()).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind(NAME.into(), NAME.into(), "#".into(), bind, FieldTable::default()).await?;
    } else {
        for queue in [NAME.to_owned(), history_name(NAME)] {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        }
    }
    Ok(connection.close(200, "OK".into()).await?)
}

/// CPU seconds so far of a process and all its descendants.
fn tree_cpu_s(root: Option<u32>) -> Result<f64> {
    let Some(root) = root else { return Ok(0.0) };
    // A process that ends meanwhile is counted by its parent.
    let below: f64 = signal::descendants(root).into_iter().filter_map(|pid| cpu_s(pid).ok()).sum();
    Ok(cpu_s(root)? + below)
}

/// CPU seconds so far of a process and the children it waited for.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("no name in /proc/PID/stat")?.1;
    // utime, stime, cutime, cstime are the 14th to 17th field, in hundredths of a second; the name was the second.
    let ticks = after_name.split_whitespace().skip(11).take(4).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}
