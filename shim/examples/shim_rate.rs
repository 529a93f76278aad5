//! How many changes a second go through the shim: table → ledger → RabbitMQ, confirmed.
//!
//!     cargo run --release -p bugfeed-shim --example shim_rate
//!
//! Starts a throwaway MariaDB and RabbitMQ (Debian packages mariadb-server and rabbitmq-server), fills the change table,
//! and drains it with the shim's own relay, as `bugfeed-shim run --once` does. The ledger is an SQLite file. With
//! `--source URL` (its push_notify table is filled and drained!), `--amqp URL` and `--ledger URL` it measures others.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bugfeed_protocol::bus::Format;
use bugfeed_protocol::{BugId, When};
use bugfeed_shim::amqp::{HistoryBounds, parse_url};
use bugfeed_shim::events::Telemetry;
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_shim::publish::amqp::{AmqpOptions, AmqpPublisher};
use bugfeed_shim::relay::{self, RelayOptions};
use bugfeed_shim::source::{self, Source, TableSpec};
use bugfeed_shim::sql::DbUrl;
use bugfeed_testbed::{MariaDb, RabbitMq};
use clap::Parser;
use jiff::tz::TimeZone;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

#[derive(Parser)]
struct Args {
    /// How many changes.
    #[arg(long, default_value = "100000")]
    rows: u64,
    /// The most changes in one go.
    #[arg(long, default_value = "1000")]
    batch: usize,
    /// A database to use instead of a throwaway MariaDB.
    #[arg(long)]
    source: Option<DbUrl>,
    /// A broker to use instead of a throwaway RabbitMQ.
    #[arg(long)]
    amqp: Option<String>,
    /// A ledger to use instead of a throwaway SQLite file.
    #[arg(long)]
    ledger: Option<DbUrl>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut keep_alive: (Option<MariaDb>, Option<RabbitMq>) = (None, None);
    let source_url = match args.source {
        Some(url) => url,
        None => {
            let server = keep_alive.0.insert(MariaDb::start().await?);
            server.url(&server.create_database().await?).parse()?
        }
    };
    let amqp_url = match args.amqp {
        Some(url) => url,
        None => keep_alive.1.insert(RabbitMq::start().await?).url(),
    };
    let dir = tempfile::tempdir()?;
    let ledger_url = args.ledger.unwrap_or_else(|| DbUrl::sqlite_file(dir.path().join("ledger.db")));

    let spec = TableSpec::default();
    source::init(&source_url, &spec).await?;
    let now = When::from_system_time(std::time::SystemTime::now());
    let bugs: Vec<BugId> = (0..args.rows).filter_map(|n| BugId::new(n % 50_000 + 1)).collect();
    source::touch(&source_url, &spec, &bugs, now, &TimeZone::UTC).await?;

    let telemetry = Arc::new(Telemetry::default());
    let source = Source::open(&source_url, &spec, TimeZone::UTC).await?;
    let ledger = Ledger::open(&ledger_url, &Prefix::default()).await?;
    let amqp = AmqpOptions {
        url: parse_url(&amqp_url).map_err(anyhow::Error::msg)?,
        exchange: "bugfeed.rate".to_owned(),
        format: Format::Native,
        history: Some(HistoryBounds::default()),
    };
    let mut publisher = AmqpPublisher::open(amqp, telemetry.clone()).await?;
    bind_queue(&amqp_url, "bugfeed.rate").await?;
    let options = RelayOptions {
        once: true,
        once_timeout: Duration::from_secs(600),
        batch: args.batch,
        telemetry,
        ..RelayOptions::default()
    };

    let (started, cpu) = (Instant::now(), cpu_s()?);
    relay::run(&source, &ledger, &mut publisher, &options, tokio_util::sync::CancellationToken::new()).await?;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_s()? - cpu);
    let meta = ledger.meta().await?;
    anyhow::ensure!(meta.published == meta.head, "published {} of {}", meta.published, meta.head);
    #[expect(clippy::cast_precision_loss, reason = "a rate, for reading")]
    let rows = args.rows as f64;
    writeln!(
        std::io::stdout(),
        "{rows} changes in {wall:.2} s: {:.0} changes/s from {} through {} to RabbitMQ, confirmed; {:.1} µs CPU of the \
         shim per change",
        rows / wall,
        source.place(),
        ledger.place(),
        cpu / rows * 1e6
    )?;
    Ok(())
}

/// A durable queue for everything, so that messages are routed and written to disk.
async fn bind_queue(url: &str, exchange: &str) -> Result<()> {
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("bugfeed.rate".into(), durable, FieldTable::default()).await?;
    channel.queue_purge("bugfeed.rate".into(), lapin::options::QueuePurgeOptions::default()).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind("bugfeed.rate".into(), exchange.into(), "#".into(), bind, FieldTable::default()).await?;
    Ok(connection.close(200, "OK".into()).await?)
}

/// CPU seconds of this process so far.
fn cpu_s() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').context("no name in /proc/self/stat")?.1;
    // utime and stime are the 14th and 15th field, in hundredths of a second; the name was the second.
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}
