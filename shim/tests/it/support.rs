//! Databases, sessions and publishers for tests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_protocol::{BugId, Numbered, When};
use bugfeed_shim::events::Telemetry;
use bugfeed_shim::ledger::{Lease, Ledger, Prefix};
use bugfeed_shim::publish::{Publish, PublishError};
use bugfeed_shim::relay::{self, RelayOptions};
use bugfeed_shim::source::{self, Row, Source, TableSpec};
use bugfeed_sql::DbUrl;
use bugfeed_testbed::{SqlServer, shared};
use jiff::tz::TimeZone;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, PgConnection, Row as _, SqliteConnection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A database of its own, in one of the three kinds.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) kind: Kind,
    pub(crate) dir: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    MySql,
    Postgres,
}

impl Place {
    pub(crate) fn sqlite() -> Place {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite://{}", dir.path().join("tracker.db").display());
        Place { url, kind: Kind::Sqlite, dir }
    }

    pub(crate) async fn mariadb() -> Option<Place> {
        Some(Place::on(Kind::MySql, shared::mariadb().await?).await)
    }

    pub(crate) async fn postgres() -> Option<Place> {
        Some(Place::on(Kind::Postgres, shared::postgres().await?).await)
    }

    pub(crate) async fn on(kind: Kind, server: SqlServer) -> Place {
        let name = server.create_database().await.unwrap();
        Place { url: server.url(&name), kind, dir: TempDir::new().unwrap() }
    }

    pub(crate) fn db(&self) -> DbUrl {
        self.url.parse().unwrap()
    }

    pub(crate) async fn session(&self) -> Session {
        Session::connect(&self.url).await
    }

    /// A ledger in an SQLite file, for tests of the source.
    pub(crate) async fn file_ledger(&self) -> Ledger {
        let url = DbUrl::sqlite_file(self.dir.path().join("ledger.db"));
        Ledger::open(&url, &Prefix::default()).await.unwrap()
    }

    /// Creates the default table and opens it.
    pub(crate) async fn table(&self) -> Source {
        source::init(&self.db(), &TableSpec::default()).await.unwrap();
        self.open(TimeZone::UTC).await
    }

    pub(crate) async fn open(&self, zone: TimeZone) -> Source {
        Source::open(&self.db(), &TableSpec::default(), zone).await.unwrap()
    }
}

/// A connection that stays: for transactions that are left open.
pub(crate) enum Session {
    MySql(MySqlConnection),
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Session {
    pub(crate) async fn connect(url: &str) -> Session {
        match url.split(':').next().unwrap() {
            "mysql" => Session::MySql(MySqlConnection::connect(url).await.unwrap()),
            "postgres" => Session::Postgres(PgConnection::connect(url).await.unwrap()),
            _ => Session::Sqlite(SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap()),
        }
    }

    pub(crate) async fn exec(&mut self, sql: &str) {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Session::MySql(conn) => drop(conn.execute(statement).await.unwrap()),
            Session::Postgres(conn) => drop(conn.execute(statement).await.unwrap()),
            Session::Sqlite(conn) => drop(conn.execute(statement).await.unwrap()),
        }
    }

    pub(crate) async fn count(&mut self, table: &str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        match self {
            Session::MySql(conn) => conn.fetch_one(sql).await.unwrap().get(0),
            Session::Postgres(conn) => conn.fetch_one(sql).await.unwrap().get(0),
            Session::Sqlite(conn) => conn.fetch_one(sql).await.unwrap().get(0),
        }
    }

    /// Inserts rows of the default table.
    pub(crate) async fn insert(&mut self, rows: &[(u64, &str)]) {
        for (bug, when) in rows {
            self.exec(&format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES ({bug}, '{when}')")).await;
        }
    }
}

pub(crate) const T1: &str = "2014-04-03 21:13:45";

/// The ledger of a place, with the default prefix.
pub(crate) async fn open_ledger(place: &Place) -> Ledger {
    Ledger::open(&place.db(), &Prefix::default()).await.unwrap()
}

/// The right to write to a ledger that nobody else works on.
pub(crate) async fn lease(ledger: &Ledger) -> Lease {
    ledger.acquire(&CancellationToken::new(), |_| {}).await.unwrap().unwrap()
}

/// Rows of bugs 1 to `count`, read from a table of their own in an SQLite file.
pub(crate) async fn rows(count: u64) -> (Place, Source, Vec<Row>) {
    let tracker = Place::sqlite();
    let source = tracker.table().await;
    let rows: Vec<(u64, &str)> = (1..=count).map(|bug| (bug, T1)).collect();
    tracker.session().await.insert(&rows).await;
    let rows = source.read(1000).await.unwrap();
    (tracker, source, rows)
}

/// Collects what is published. Clones share what they collected.
#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<Numbered>>>);

impl Publish for Collector {
    async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        self.0.lock().unwrap().extend_from_slice(batch);
        Ok(batch.len())
    }
}

impl Collector {
    pub(crate) fn all(&self) -> Vec<Numbered> {
        self.0.lock().unwrap().clone()
    }

    /// `(seq, bug, when)` of each, as published.
    pub(crate) fn told(&self) -> Vec<(u64, u64, String)> {
        self.all().iter().map(|n| (n.cursor.seq, n.change.bug.get(), n.change.when.to_string())).collect()
    }
}

impl Collector {
    /// Waits until so many were published.
    pub(crate) async fn until(&self, count: usize) {
        bugfeed_testbed::eventually(Duration::from_secs(20), format!("{count} changes"), async || {
            let told = self.told();
            if told.len() >= count { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await
        .unwrap();
    }
}

pub(crate) fn options() -> RelayOptions {
    RelayOptions { telemetry: Arc::new(Telemetry::default()), ..RelayOptions::default() }
}

/// Drains the table into the publisher.
pub(crate) async fn relay_once<P: Publish>(source: &Source, ledger: &Ledger, publisher: &mut P) {
    let options = RelayOptions { once: true, once_timeout: Duration::from_secs(20), ..options() };
    relay::run(source, ledger, publisher, &options, CancellationToken::new()).await.unwrap();
}

/// A relay that goes on until it is stopped. If it is dropped instead, nothing is put in order, as if it were killed.
pub(crate) struct Running {
    pub(crate) telemetry: Arc<Telemetry>,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), relay::RelayError>>>,
}

impl Running {
    pub(crate) fn start<P: Publish + 'static>(source: &Source, ledger: &Ledger, publisher: P) -> Running {
        let options = RelayOptions { poll_interval: Duration::from_millis(50), ..options() };
        Running::with(source, ledger, publisher, options)
    }

    pub(crate) fn with<P: Publish + 'static>(
        source: &Source,
        ledger: &Ledger,
        mut publisher: P,
        options: RelayOptions,
    ) -> Running {
        let (source, ledger, stop) = (source.clone(), ledger.clone(), CancellationToken::new());
        let (telemetry, stopped) = (options.telemetry.clone(), stop.clone());
        let task = tokio::spawn(async move { relay::run(&source, &ledger, &mut publisher, &options, stopped).await });
        Running { telemetry, stop, task: Some(task) }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }

    /// Waits until it ends by itself; returns how.
    pub(crate) async fn ended(mut self) -> Result<(), relay::RelayError> {
        self.task.take().unwrap().await.unwrap()
    }

    /// Waits until readiness says this, or until it says that all is well (`None`).
    pub(crate) async fn until_ready_says(&self, part: Option<&str>) {
        let what = format!("readiness that says {part:?}");
        bugfeed_testbed::eventually(Duration::from_secs(20), what, async || match (self.telemetry.ready(), part) {
            (Ok(()), None) => Ok(()),
            (Err(reason), Some(part)) if reason.contains(part) => Ok(()),
            (said, _) => Err(format!("{said:?}")),
        })
        .await
        .unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

pub(crate) fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

pub(crate) fn when(text: &str) -> When {
    text.parse().unwrap()
}

/// Runs each of these tests on SQLite, and in `real` modules on MariaDB and PostgreSQL.
macro_rules! on_each_database {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::support::Place::sqlite()).await;
            })*
        }
        mod real {
            mod mariadb {
                $(#[tokio::test]
                async fn $test() {
                    let Some(place) = $crate::support::Place::mariadb().await else { return };
                    super::super::$test(place).await;
                })*
            }
            mod postgres {
                $(#[tokio::test]
                async fn $test() {
                    let Some(place) = $crate::support::Place::postgres().await else { return };
                    super::super::$test(place).await;
                })*
            }
        }
    };
}
pub(crate) use on_each_database;
