//! The tracker: a change table on a MariaDB, a history of all that was ever committed to it, and writers.
//!
//! Every row has a date that no other row has, to the microsecond, so that an update says by itself which row it is.
//! Rows commit late and out of the order of their ids, some dates are of whole seconds and earlier than those before,
//! some transactions are rolled back, and now and then there is a burst.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bugfeed_protocol::When;
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_testbed::{MariaDb, SqlServer, eventually};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::Connection as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::pause;

/// Bugs 1 to this many change.
pub const BUGS: u64 = 50;
/// A bug that nobody watches.
const NOBODYS: u64 = 1000;
/// The most rows one transaction writes.
const BURST: u64 = 250;

/// The change table, its history, and the ledger beside it.
pub struct Tracker {
    server: SqlServer,
    /// Where it is one of its own.
    _own: Option<MariaDb>,
    database: String,
    ledger: String,
    /// A gap that all clients are told must not use up the server's connections.
    refetches: Semaphore,
}

impl Tracker {
    /// On a server of its own; none where MariaDB is missing.
    pub async fn start() -> Option<Tracker> {
        let own = MariaDb::start_or_skip().await?;
        let tracker = Tracker::on(own.client().clone()).await;
        Some(Tracker { _own: Some(own), ..tracker })
    }

    /// In databases of its own on a server that is there.
    pub async fn on(server: SqlServer) -> Tracker {
        let (database, ledger) = (server.create_database().await.unwrap(), server.create_database().await.unwrap());
        let columns = "bug_id BIGINT NOT NULL, delta_ts DATETIME(6) NOT NULL";
        let sql = format!(
            "CREATE TABLE push_notify (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, {columns});
             CREATE TABLE written (id BIGINT NOT NULL PRIMARY KEY, {columns}, KEY (bug_id));
             CREATE TRIGGER remember AFTER INSERT ON push_notify FOR EACH ROW
                 INSERT INTO written VALUES (NEW.id, NEW.bug_id, NEW.delta_ts);"
        );
        server.sql(&database, &sql).await.unwrap();
        Tracker { server, _own: None, database, ledger, refetches: Semaphore::new(10) }
    }

    pub fn source_url(&self) -> String {
        self.server.url(&self.database)
    }

    pub fn ledger_url(&self) -> String {
        self.server.url(&self.ledger)
    }

    /// Writes changes that nobody watches, so that the feed has a position.
    pub async fn prime(&self, count: u64) {
        let sql = format!(
            "INSERT INTO push_notify (bug_id, delta_ts) SELECT {NOBODYS}, '2014-04-03T21:13:45' FROM seq_1_to_{count}"
        );
        self.server.sql(&self.database, &sql).await.unwrap();
    }

    /// Waits until every row is numbered, published and deleted.
    pub async fn drained(&self, limit: Duration) {
        self.drained_into(&self.ledger_url(), limit).await;
    }

    /// The same with a ledger that lies elsewhere.
    pub async fn drained_into(&self, ledger: &str, limit: Duration) {
        let url = ledger.parse().unwrap();
        eventually(limit, "every change is published", async || {
            let rows = self.server.sql(&self.database, "SELECT COUNT(*) FROM push_notify").await?;
            let ledger = Ledger::open_existing(&url, &Prefix::default()).await?;
            let meta = ledger.meta().await;
            ledger.close().await;
            let meta = meta?;
            let state = format!("{rows} rows in the table, {} published of {}", meta.published, meta.head);
            anyhow::ensure!(rows == "0" && meta.published == meta.head, state);
            Ok(())
        })
        .await
        .unwrap();
    }

    /// All that was ever committed.
    pub async fn written(&self) -> Vec<(u64, When)> {
        let all = "SELECT bug_id, delta_ts FROM written ORDER BY id";
        self.server.sql(&self.database, all).await.unwrap().lines().map(row).collect()
    }

    /// All that was ever numbered, in the order of the numbers: (number, bug, date).
    pub async fn numbered(&self) -> Vec<(u64, u64, When)> {
        let all = "SELECT seq, bug, when_us FROM bugfeed_changes ORDER BY seq";
        let rows = self.server.sql(&self.ledger, all).await.unwrap();
        let numbers = |line: &str| line.split('\t').map(|number| number.parse::<i64>().unwrap()).collect::<Vec<_>>();
        rows.lines()
            .map(numbers)
            .map(|row| (row[0].unsigned_abs(), row[1].unsigned_abs(), When::from_micros(row[2]).unwrap()))
            .collect()
    }

    /// How many changes the broker has confirmed, as far as the ledger knows.
    pub async fn published(&self) -> u64 {
        let ledger = Ledger::open_existing(&self.ledger_url().parse().unwrap(), &Prefix::default()).await.unwrap();
        let published = ledger.meta().await.unwrap().published;
        ledger.close().await;
        published
    }

    /// Takes a copy of the ledger, on which nobody works.
    pub async fn copy_ledger(&self) {
        for table in self.ledger_tables().await {
            let sql = format!("CREATE OR REPLACE TABLE copy_{table} AS SELECT * FROM {table}");
            self.server.sql(&self.ledger, &sql).await.unwrap();
        }
    }

    /// Puts the copy back.
    pub async fn put_back_ledger(&self) {
        for table in self.ledger_tables().await {
            let sql = format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM copy_{table};");
            self.server.sql(&self.ledger, &sql).await.unwrap();
        }
    }

    async fn ledger_tables(&self) -> Vec<String> {
        let all = self.server.sql(&self.ledger, "SHOW TABLES LIKE 'bugfeed\\_%'").await.unwrap();
        all.lines().map(str::to_owned).collect()
    }

    /// What a client does after a gap: asks the tracker for the state of its bugs.
    pub async fn refetch(&self, bugs: &[u64]) -> Vec<When> {
        let _turn = self.refetches.acquire().await.unwrap();
        let bugs: Vec<String> = bugs.iter().map(u64::to_string).collect();
        let sql = format!("SELECT bug_id, delta_ts FROM written WHERE bug_id IN ({})", bugs.join(","));
        self.server.sql(&self.database, &sql).await.unwrap().lines().map(|line| row(line).1).collect()
    }
}

fn row(line: &str) -> (u64, When) {
    let (bug, when) = line.split_once('\t').unwrap();
    (bug.parse().unwrap(), When::parse_utc(when).unwrap())
}

/// Dates that were given to no other row.
#[derive(Default)]
pub struct Dates(Mutex<HashSet<i64>>);

impl Dates {
    /// The first from `micros` on that is free.
    fn take(&self, micros: i64) -> When {
        let mut used = self.0.lock().unwrap();
        let free = (micros..).find(|micros| used.insert(*micros)).unwrap();
        When::from_micros(free).unwrap()
    }
}

/// What a writer did.
#[derive(Default)]
pub struct Wrote {
    pub rows: u64,
    pub late: u64,
    pub rolled_back: u64,
    pub bursts: u64,
}

/// Writes transactions until told to stop.
pub async fn write(url: String, dates: Arc<Dates>, seed: u64, stop: CancellationToken) -> Wrote {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut connection = sqlx::MySqlConnection::connect(&url).await.unwrap();
    let mut wrote = Wrote::default();
    while !stop.is_cancelled() {
        let burst = random.random_ratio(1, 60);
        let rows = if burst { random.random_range(50..=BURST) } else { random.random_range(1..=4) };
        let late = (!burst && random.random_ratio(1, 4)).then(|| Duration::from_millis(random.random_range(20..900)));
        let keep = !random.random_ratio(1, 20);
        let mut sql = String::new();
        let favourite = random.random_range(1..=BUGS);
        for _ in 0..rows {
            // Half of a transaction's rows are edits of one bug, and fall into one second.
            let bug = if random.random() { favourite } else { random.random_range(1..=BUGS) };
            let now = When::from_system_time(SystemTime::now()).as_micros();
            let when = dates.take(if random.random_ratio(1, 3) { now / 1_000_000 * 1_000_000 } else { now });
            write!(sql, "{}({bug}, '{when}')", if sql.is_empty() { "" } else { "," }).unwrap();
        }
        let sql = format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES {sql}");
        sqlx::raw_sql("START TRANSACTION").execute(&mut connection).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        if let Some(late) = late {
            pause(late).await;
        }
        let end = if keep { "COMMIT" } else { "ROLLBACK" };
        sqlx::raw_sql(end).execute(&mut connection).await.unwrap();
        if keep {
            wrote.rows += rows;
            wrote.late += u64::from(late.is_some());
            wrote.bursts += u64::from(burst);
        } else {
            wrote.rolled_back += 1;
        }
        pause(Duration::from_millis(random.random_range(5..80))).await;
    }
    wrote
}
