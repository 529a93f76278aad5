//! One small layer over the three database drivers, so that source and ledger are written once.
//!
//! Goes in: SQL with `?` for parameters, and integers and texts. Comes out: rows of integers and texts, or an error that
//! says where, what and what to do next. Every wait is bounded: for a connection, for a lock, for an answer. Never
//! leaves a connection of unknown state in the pool: after a timeout or an unfinished transaction it is dropped. Never
//! sets anything on a session of a server, which may be the tracker's next (`settings`). Never goes on with a server that
//! takes no writes any more, or with a file that is not the one under its name (`file`).

mod error;
mod exec;
mod file;
mod name;
mod notify;
mod settings;
pub mod url;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::{PoolConnection, PoolConnectionMetadata, PoolOptions};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sqlx::{MySql, MySqlPool, PgPool, Postgres, Sqlite, SqlitePool};

pub use error::{Fault, SqlError};
use file::File;
pub use name::{BadName, Name};
pub use notify::wake_on_notify;
use settings::{Does, Flavour, Settings};
use url::DbOptions;
pub use url::DbUrl;

/// The longest wait for any answer of a database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait for a free or new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How old a connection to a server may become. Behind its address may be another server by now: after a switch-over the
/// old one often goes on answering whoever is connected.
const LIFETIME: Duration = Duration::from_secs(60);

/// A parameter or a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// Anything else, as the database writes it.
    Text(String),
    /// NULL.
    Null,
}

impl Value {
    /// The number, if it is one.
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The text, if there is one.
    pub fn into_text(self) -> Option<String> {
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
pub enum Dialect {
    /// MySQL's and MariaDB's.
    MySql,
    /// PostgreSQL's.
    Postgres,
    /// SQLite's.
    Sqlite,
}

impl Dialect {
    /// Quotes an already validated name; `schema.table` is quoted part by part.
    pub fn quote(self, name: &str) -> String {
        // SQLite takes an unknown name in double quotes for a text, and would read every row as bad.
        let mark = if self == Dialect::Postgres { '"' } else { '`' };
        name.split('.').map(|part| format!("{mark}{part}{mark}")).collect::<Vec<_>>().join(".")
    }
}

/// What a pool is for, which decides what goes along with its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
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

/// When connections were last found to lead to the wrong place: older ones are not used again.
#[derive(Clone, Debug, Default)]
struct Stale(Arc<Mutex<Option<Instant>>>);

impl Stale {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn may_use(&self, meta: &PoolConnectionMetadata) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| since.elapsed() > meta.age)
    }
}

/// A small pool of connections to one database.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    place: String,
    purpose: Use,
    stale: Stale,
    /// Found out at first use, where the MySQL protocol is spoken.
    flavour: Arc<OnceLock<Flavour>>,
    /// The file of an SQLite database that is there before this program.
    file: Option<Arc<File>>,
}

/// A connection taken from the pool. Dropped in the middle of something (a cancelled task, a timeout), it is closed;
/// only [`Conn::give_back`] returns it.
pub(crate) struct Conn {
    inner: Option<Inner>,
    place: String,
    settings: Settings,
    stale: Stale,
}

enum Inner {
    MySql(PoolConnection<MySql>),
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Db {
    /// Prepares a pool; connects at first use.
    pub fn new(url: &DbUrl, purpose: Use) -> Db {
        let stale = Stale::default();
        let pool = match &url.options {
            DbOptions::MySql(options) => {
                // Whatever the driver would set on the session stays as it is.
                let options = options.as_ref().clone().set_names(false).timezone(None).pipes_as_concat(false);
                Pool::MySql(server_pool(&stale).connect_lazy_with(options.no_engine_substitution(false)))
            }
            DbOptions::Postgres(options) => {
                // PgBouncer refuses a start with extra_float_digits; nothing here has a fraction.
                let options = options.as_ref().clone().application_name("bugfeed-shim").extra_float_digits(None);
                Pool::Postgres(server_pool(&stale).connect_lazy_with(options))
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
                Pool::Sqlite(pool_options(1, &stale).connect_lazy_with(options))
            }
        };
        let watched = if matches!(purpose, Use::Setup { .. }) { None } else { url.sqlite_path() };
        let file = watched.map(|path| Arc::new(File::new(path)));
        Db { pool, place: url.to_string(), purpose, stale, flavour: Arc::default(), file }
    }

    /// Which SQL is spoken there.
    pub fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::MySql(_) => Dialect::MySql,
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// The database's address without a password, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the file of an SQLite database is still the one that was opened.
    ///
    /// # Errors
    /// When it is gone, or another one has its name; the second is said once, and from then on the other one is used.
    pub fn look_at_file(&self) -> Result<(), SqlError> {
        let Some(file) = &self.file else { return Ok(()) };
        let looked = file.look(&self.place, matches!(self.purpose, Use::Source));
        if looked.is_err() {
            self.stale.now();
        }
        looked
    }

    /// Goes on with the file that has the name of an SQLite database now.
    pub fn follow_file(&self) {
        if let Some(file) = &self.file {
            // What it says is known.
            let _ = file.look(&self.place, true);
        }
        self.stale.now();
    }

    /// Whether the file of an SQLite database was replaced since this was last asked.
    pub fn take_replaced(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.take_replaced())
    }

    /// Takes a connection.
    pub(crate) async fn connection(&self) -> Result<Conn, SqlError> {
        self.look_at_file()?;
        let acquired = async {
            Ok(match &self.pool {
                Pool::MySql(pool) => Inner::MySql(pool.acquire().await?),
                Pool::Postgres(pool) => Inner::Postgres(pool.acquire().await?),
                Pool::Sqlite(pool) => Inner::Sqlite(pool.acquire().await?),
            })
        };
        // The pool's own timeout does not bound a server that accepts and then says nothing.
        let inner = match tokio::time::timeout(2 * CONNECT_TIMEOUT, acquired).await {
            Ok(Ok(inner)) => inner,
            Ok(Err(e)) => {
                let refused = self.file.as_ref().and_then(|file| file.refused(&self.place));
                return Err(refused.unwrap_or_else(|| SqlError::new(&self.place, &e)));
            }
            Err(_) => return Err(SqlError::timeout(&self.place)),
        };
        if let Some(file) = &self.file {
            file.opened();
        }
        let known = self.flavour.get().copied();
        let settings =
            Settings { dialect: self.dialect(), purpose: self.purpose, flavour: known.unwrap_or(Flavour::MariaDb) };
        let mut conn = Conn { inner: Some(inner), place: self.place.clone(), settings, stale: self.stale.clone() };
        if settings.dialect == Dialect::MySql && known.is_none() {
            conn.settings.flavour = conn.flavour().await?;
            // Two that find out at the same time find the same.
            let _ = self.flavour.set(conn.settings.flavour);
        }
        Ok(conn)
    }

    /// Runs one statement on a connection of its own; returns the number of rows it matched.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn execute(&self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        let mut conn = self.connection().await?;
        let done = conn.execute(sql, args, false).await;
        conn.give_back(done)
    }

    /// Reads rows on a connection of its own.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn fetch(&self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, SqlError> {
        let mut conn = self.connection().await?;
        let done = conn.fetch(sql, args, false).await;
        conn.give_back(done)
    }

    /// Reads the rows of several statements, one after the other, on one and the same connection: so on one and the same
    /// server, where several are behind an address.
    ///
    /// # Errors
    /// When the database is away, refuses one of them, or does not answer in time.
    pub async fn fetch_together(&self, statements: &[&str]) -> Result<Vec<Vec<Vec<Value>>>, SqlError> {
        let mut conn = self.connection().await?;
        let mut all = Vec::with_capacity(statements.len());
        for sql in statements {
            match conn.fetch(sql, &[], false).await {
                Ok(rows) => all.push(rows),
                Err(error) => return conn.give_back(Err(error)),
            }
        }
        conn.give_back(Ok(all))
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn begin(&self) -> Result<Tx, SqlError> {
        let mut conn = self.connection().await?;
        let begun = conn.raw(conn.settings.begin()).await;
        match begun {
            Ok(_) => Ok(Tx { conn }),
            Err(e) => conn.give_back(Err(e)),
        }
    }

    /// Closes every connection.
    pub async fn close(&self) {
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
pub struct Tx {
    conn: Conn,
}

impl Tx {
    /// Runs a statement; returns the number of rows it matched.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, SqlError> {
        self.conn.execute(sql, args, true).await
    }

    /// Reads rows.
    ///
    /// # Errors
    /// When the database is away, refuses, or does not answer in time.
    pub async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, SqlError> {
        self.conn.fetch(sql, args, true).await
    }

    /// Commits.
    ///
    /// # Errors
    /// On any error it is unknown whether the commit happened.
    pub async fn commit(mut self) -> Result<(), SqlError> {
        self.conn.raw("COMMIT".to_owned()).await?;
        self.conn.give_back(Ok(()))
    }
}

fn pool_options<DB: sqlx::Database>(max: u32, stale: &Stale) -> PoolOptions<DB> {
    let stale = stale.clone();
    PoolOptions::new()
        .max_connections(max)
        .acquire_timeout(CONNECT_TIMEOUT)
        .idle_timeout(Duration::from_secs(600))
        .before_acquire(move |_, meta| {
            let may_use = stale.may_use(&meta);
            Box::pin(async move { Ok(may_use) })
        })
}

fn server_pool<DB: sqlx::Database>(stale: &Stale) -> PoolOptions<DB> {
    pool_options(3, stale).max_lifetime(LIFETIME)
}

#[cfg(test)]
mod tests {
    mod real {
        use bugfeed_testbed::shared;

        use super::super::*;

        /// MariaDB understands what is said to MySQL, too: a held row is an error, and the session is as it was.
        #[tokio::test]
        async fn what_is_said_to_mysql_is_set_back() {
            let Some(server) = shared::mariadb().await else { return };
            let url: DbUrl = server.url(&server.create_database().await.unwrap()).parse().unwrap();
            let setup = Db::new(&url, Use::Setup { create: true });
            setup.execute("CREATE TABLE t (id BIGINT PRIMARY KEY) ENGINE=InnoDB", &[]).await.unwrap();
            setup.execute("INSERT INTO t VALUES (1), (2)", &[]).await.unwrap();
            let db = Db::new(&url, Use::Source);
            db.flavour.set(Flavour::Oracle).unwrap();
            let mut holder = setup.begin().await.unwrap();
            holder.execute("UPDATE t SET id = 3 WHERE id = 1", &[]).await.unwrap();
            let mut conn = db.connection().await.unwrap();
            let wait = "SELECT CAST(@@innodb_lock_wait_timeout AS SIGNED)";
            let before = conn.fetch(wait, &[], false).await.unwrap();
            let held = conn.execute("DELETE FROM t WHERE id = ?", &[Value::Int(1)], false).await.unwrap_err();
            assert_eq!(held.fault, Fault::Locked, "{held}");
            assert_eq!(conn.fetch(wait, &[], false).await.unwrap(), before);
            let gone = conn.execute("DELETE FROM t WHERE id IN (?, 7)", &[Value::Int(2)], false).await.unwrap();
            assert_eq!((gone, conn.fetch(wait, &[], false).await.unwrap()), (1, before));
        }
    }
}
