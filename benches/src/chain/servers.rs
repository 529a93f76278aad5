//! The servers of the whole way, and what processes cost.
//!
//! Goes in: which databases. Comes out: throwaway servers, empty change tables, queues; processor time of process trees.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bugfeed_amqp::history_name;
use bugfeed_shim::source::{self, TableSpec};
use bugfeed_sql::{Db, DbUrl, Use};
use bugfeed_testbed::{MariaDb, Postgres, RabbitMq, signal};
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use crate::procfs::Cpu;

/// Where the change table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// A file; what it costs is in the shim and in the tracker
    Sqlite,
    /// A MariaDB server
    Mariadb,
    /// A PostgreSQL server
    Postgres,
}

impl Database {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Database::Sqlite => "SQLite",
            Database::Mariadb => "MariaDB",
            Database::Postgres => "PostgreSQL",
        }
    }
}

/// Throwaway servers.
pub struct Servers {
    runtime: Runtime,
    rabbit: RabbitMq,
    mariadb: Option<MariaDb>,
    postgres: Option<Postgres>,
}

impl Servers {
    /// Starts the broker, and the servers of these databases. A commit is on disk when it returns, as on servers that are not
    /// for tests.
    ///
    /// # Errors
    /// When one of them is not installed, or does not start.
    pub fn start(databases: &[Database]) -> Result<Servers> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        if !RabbitMq::installed() {
            bail!("rabbitmq-server is not installed");
        }
        let rabbit = runtime.block_on(RabbitMq::start())?;
        let mut servers = Servers { runtime, rabbit, mariadb: None, postgres: None };
        if databases.contains(&Database::Mariadb) {
            servers.mariadb = Some(servers.runtime.block_on(async {
                let server = MariaDb::start().await?;
                server.sql("mysql", "SET GLOBAL innodb_flush_log_at_trx_commit = 1").await?;
                anyhow::Ok(server)
            })?);
        }
        if databases.contains(&Database::Postgres) {
            let server = servers.runtime.block_on(Postgres::start_with_or_skip(&["-c", "fsync=on"]));
            servers.postgres = Some(server.context("PostgreSQL is not installed")?);
        }
        Ok(servers)
    }

    /// The broker's URL.
    pub fn amqp(&self) -> String {
        self.rabbit.url()
    }

    /// The broker's process.
    pub fn broker_pid(&self) -> Option<u32> {
        self.rabbit.pid()
    }

    /// The database's process; `None` for a file.
    pub fn pid(&self, database: Database) -> Option<u32> {
        match database {
            Database::Sqlite => None,
            Database::Mariadb => self.mariadb.as_ref().and_then(MariaDb::pid),
            Database::Postgres => self.postgres.as_ref().and_then(Postgres::pid),
        }
    }

    /// A new, empty database; returns its URL. A file gets this path.
    ///
    /// # Errors
    /// When the database says no.
    pub fn place(&self, database: Database, file: &Path) -> Result<String> {
        self.runtime.block_on(async {
            Ok(match database {
                Database::Sqlite => format!("sqlite://{}", file.display()),
                Database::Mariadb => {
                    let server = self.mariadb.as_ref().context("MariaDB was not started")?;
                    server.url(&server.create_database().await?)
                }
                Database::Postgres => {
                    let server = self.postgres.as_ref().context("PostgreSQL was not started")?;
                    server.url(&server.create_database().await?)
                }
            })
        })
    }

    /// A new database with an empty change table; returns its URL. A file is made in this folder.
    ///
    /// # Errors
    /// When the database says no.
    pub fn table(&self, database: Database, dir: &Path) -> Result<String> {
        let url = self.place(database, &dir.join("tracker.db"))?;
        self.runtime.block_on(async {
            let at: DbUrl = url.parse()?;
            source::init(&at, &TableSpec::default()).await?;
            if database == Database::Mariadb {
                // Updates are known by their dates, which have microseconds.
                let db = Db::new(&at, Use::Setup { create: false });
                db.execute("ALTER TABLE push_notify MODIFY delta_ts DATETIME(6)", &[]).await?;
                db.close().await;
            }
            Ok(url)
        })
    }

    /// Makes durable queues that take all messages of this exchange.
    ///
    /// # Errors
    /// When the broker says no.
    pub fn bind_queues(&self, exchange: &str, count: u32) -> Result<()> {
        self.on_channel(async |channel| {
            for name in queues(exchange, count) {
                let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.clone().into(), durable, FieldTable::default()).await?;
                let all = QueueBindOptions::default();
                channel.queue_bind(name.into(), exchange.into(), "#".into(), all, FieldTable::default()).await?;
            }
            Ok(())
        })
    }

    /// Removes these queues and the history.
    ///
    /// # Errors
    /// When the broker says no.
    pub fn remove_queues(&self, exchange: &str, count: u32) -> Result<()> {
        self.on_channel(async |channel| {
            for name in queues(exchange, count).chain([history_name(exchange)]) {
                channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
            }
            Ok(())
        })
    }

    fn on_channel(&self, work: impl AsyncFnOnce(&Channel) -> Result<()>) -> Result<()> {
        self.runtime.block_on(async {
            let connection = Connection::connect(&self.amqp(), ConnectionProperties::default()).await?;
            // A channel that is dropped is being closed, and then the connection cannot be.
            let channel = connection.create_channel().await?;
            work(&channel).await?;
            Ok(connection.close(200, "OK".into()).await?)
        })
    }
}

fn queues(exchange: &str, count: u32) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{exchange}.{number}"))
}

/// Processor time so far of a process and all that it started, in nanoseconds; of what has ended, to 10 ms.
///
/// # Errors
/// When the process is gone.
pub fn tree_ns(pid: u32) -> Result<u64> {
    // A process that ends in between is counted by the next reading.
    let below: u64 = signal::descendants(pid).into_iter().filter_map(|pid| Cpu::of(pid).ok()).map(|cpu| cpu.ns).sum();
    Ok(Cpu::of(pid)?.ns + below + ended_ns(pid)?)
}

/// Processor time of the children of a process that have ended, such as the processes of closed connections to PostgreSQL.
fn ended_ns(pid: u32) -> Result<u64> {
    /// The kernel counts in hundredths of a second.
    const TICK_NS: u64 = 10_000_000;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("no name in /proc/PID/stat")?.1;
    // cutime and cstime are the 16th and 17th field; the name is the second.
    let ticks = after_name.split_whitespace().skip(13).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? * TICK_NS)
}
