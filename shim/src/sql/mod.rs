//! One small layer over the three database drivers, so that source and ledger are written once.
//!
//! Goes in: SQL with `?` for parameters, and integers and texts. Comes out: rows of integers and texts, or an error that
//! says where, what and what to do next. Every wait is bounded: for a connection, for a lock, for an answer. Never
//! leaves a connection of unknown state in the pool: after a timeout or an unfinished transaction it is dropped.

mod error;
mod exec;
pub mod url;

use std::time::Duration;

use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sqlx::{Executor as _, MySql, MySqlPool, PgPool, Postgres, Sqlite, SqlitePool};

pub use error::{Fault, SqlError};
use url::DbOptions;
pub use url::DbUrl;

/// The longest wait for any answer of a database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait for a free or new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A parameter or a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Int(i64),
    Text(String),
    Null,
}

impl Value {
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub(crate) fn into_text(self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text),
            Value::Int(int) => Some(int.to_string()),
            Value::Null => None,
        }
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Value {
        text.map_or(Value::Null, Value::Text)
    }
}

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    MySql,
    Postgres,
    Sqlite,
}

impl Dialect {
    /// Quotes an already validated name; `schema.table` is quoted part by part.
    pub(crate) fn quote(self, name: &str) -> String {
        // SQLite takes an unknown name in double quotes for a text, and would read every row as bad.
        let mark = if self == Dialect::Postgres { '"' } else { '`' };
        name.split('.').map(|part| format!("{mark}{part}{mark}")).collect::<Vec<_>>().join(".")
    }
}

/// What a pool is for, which decides its session settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The tracker's table: never in the tracker's way, so locks are hardly waited for.
    Source,
    /// The shim's own tables: durable.
    Ledger {
        /// Create a missing SQLite file.
        create: bool,
    },
    /// `init` and `touch`.
    Setup {
        /// Create a missing SQLite file.
        create: bool,
    },
}

#[derive(Clone, Debug)]
enum Pool {
    MySql(MySqlPool),
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// A small pool of connections to one database.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    pool: Pool,
    place: String,
}

/// A connection taken from the pool. Dropped in the middle of something (a cancelled task, a timeout), it is closed;
/// only [`Conn::give_back`] returns it.
pub(crate) struct Conn {
    inner: Option<Inner>,
    place: String,
}

enum Inner {
    MySql(PoolConnection<MySql>),
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Db {
    /// Prepares a pool; connects at first use.
    pub(crate) fn new(url: &DbUrl, purpose: Use) -> Db {
        let pool = match &url.options {
            DbOptions::MySql(options) => {
                let options = options.as_ref().clone().timezone(Some("+00:00".to_owned()));
                Pool::MySql(mysql_pool(purpose).connect_lazy_with(options))
            }
            DbOptions::Postgres(options) => {
                let options = options.as_ref().clone().application_name("bugfeed-shim");
                Pool::Postgres(postgres_pool(purpose).connect_lazy_with(options))
            }
            DbOptions::Sqlite(options) => {
                let mut options =
                    options.as_ref().clone().busy_timeout(Duration::from_secs(2)).thread_name(|_| "sqlite".to_owned());
                if let Use::Ledger { create } | Use::Setup { create } = purpose {
                    options = options.create_if_missing(create);
                    if create {
                        options = options.journal_mode(SqliteJournalMode::Wal);
                    }
                }
                if purpose == (Use::Ledger { create: true }) {
                    options = options.synchronous(SqliteSynchronous::Full);
                }
                // One connection: SQLite has one writer, and queueing here is fairer and quicker than its busy waits.
                Pool::Sqlite(pool_options(1).connect_lazy_with(options))
            }
        };
        Db { pool, place: url.to_string() }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::MySql(_) => Dialect::MySql,
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// The database's address without a password, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Takes a connection.
    pub(crate) async fn connection(&self) -> Result<Conn, SqlError> {
        let acquired = async {
            Ok(match &self.pool {
                Pool::MySql(pool) => Inner::MySql(pool.acquire().await?),
                Pool::Postgres(pool) => Inner::Postgres(pool.acquire().await?),
                Pool::Sqlite(pool) => Inner::Sqlite(pool.acquire().await?),
            })
        };
        // The pool's own timeout does not bound a server that accepts and then says nothing.
        match tokio::time::timeout(2 * CONNECT_TIMEOUT, acquired).await {
            Ok(Ok(inner)) => Ok(Conn { inner: Some(inner), place: self.place.clone() }),
            Ok(Err(e)) => Err(SqlError::new(&self.place, &e)),
            Err(_) => Err(SqlError::timeout(&self.place)),
        }
    }

    /// Runs one statement on a connection of its own; returns the number of rows it matched.
    pub(crate) async fn execute(&self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        let mut conn = self.connection().await?;
        let done = conn.execute(sql, args).await;
        conn.give_back(done)
    }

    /// Reads rows on a connection of its own.
    pub(crate) async fn fetch(&self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, SqlError> {
        let mut conn = self.connection().await?;
        let done = conn.fetch(sql, args).await;
        conn.give_back(done)
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self) -> Result<Tx, SqlError> {
        let mut conn = self.connection().await?;
        let begin = match self.dialect() {
            Dialect::MySql => "START TRANSACTION",
            Dialect::Postgres => "BEGIN",
            // Takes the write lock at once: a later upgrade could fail without waiting.
            Dialect::Sqlite => "BEGIN IMMEDIATE",
        };
        conn.raw(begin).await?;
        Ok(Tx { conn })
    }

    /// Closes every connection.
    pub(crate) async fn close(&self) {
        let closing = async {
            match &self.pool {
                Pool::MySql(pool) => pool.close().await,
                Pool::Postgres(pool) => pool.close().await,
                Pool::Sqlite(pool) => pool.close().await,
            }
        };
        // Politeness only: whatever does not close in time is closed by the exit.
        let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
    }
}

/// A transaction. Dropping it without [`Tx::commit`] closes its connection, which rolls it back.
pub(crate) struct Tx {
    conn: Conn,
}

impl Tx {
    pub(crate) async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        self.conn.execute(sql, args).await
    }

    pub(crate) async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, SqlError> {
        self.conn.fetch(sql, args).await
    }

    /// Commits. On an error it is unknown whether the commit happened.
    pub(crate) async fn commit(mut self) -> Result<(), SqlError> {
        self.conn.raw("COMMIT").await?;
        self.conn.give_back(Ok(()))
    }
}

fn pool_options<DB: sqlx::Database>(max: u32) -> PoolOptions<DB> {
    PoolOptions::new().max_connections(max).acquire_timeout(CONNECT_TIMEOUT).idle_timeout(Duration::from_secs(600))
}

fn mysql_pool(purpose: Use) -> PoolOptions<MySql> {
    // READ COMMITTED: no gap locks in the way of the tracker's inserts, and every read sees what is committed.
    // Lock waits towards the tracker: none (MariaDB; MySQL rounds 0 up to 1 s). A row the tracker holds is simply
    // deleted later, and the feed must not wait for it.
    let lock_wait_s = if purpose == Use::Source { 0 } else { 5 };
    pool_options(3).after_connect(move |conn: &mut sqlx::MySqlConnection, _| {
        Box::pin(async move {
            let settings = format!(
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; SET SESSION innodb_lock_wait_timeout = \
                 {lock_wait_s}"
            );
            conn.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(settings))).await.map(drop)
        })
    })
}

fn postgres_pool(purpose: Use) -> PoolOptions<Postgres> {
    let lock_timeout_ms = if purpose == Use::Source { 20 } else { 5000 };
    pool_options(3).after_connect(move |conn: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            let settings = format!(
                "SET DateStyle TO ISO; SET TIME ZONE 'UTC'; SET lock_timeout = {lock_timeout_ms}; SET \
                 statement_timeout = {}; SET default_transaction_isolation = 'read committed'; SET synchronous_commit \
                 = on",
                ANSWER_TIMEOUT.as_millis() - 1000
            );
            conn.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(settings))).await.map(drop)
        })
    })
}
