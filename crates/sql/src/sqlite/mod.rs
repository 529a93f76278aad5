//! SQLite: a database in a file, whose library is linked into this program.

mod create;
mod dialect;
mod fault;
mod file;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Sqlite, SqlitePool};

use crate::driver::{Address, Answer, BoxFuture, Pool, Session, Stale, Statement, pool_options};
use crate::row::values;
use crate::url::{BadUrl, UrlText};
use crate::{DbUrl, Dialect, Fault, SqlError, Use, Value};
use dialect::SqliteDialect;
use file::File;

/// Reads a URL.
pub(crate) fn parse(url: &UrlText<'_>) -> Result<Arc<dyn Address>, BadUrl> {
    if url.text.contains(":memory:") || url.text.contains("mode=memory") {
        return Err(BadUrl::InMemory(url.shown.to_owned()));
    }
    let options: SqliteConnectOptions = url.text.parse().map_err(|e| url.malformed(e))?;
    if options.get_filename().as_os_str().is_empty() {
        return Err(url.wrong("no file is named".to_owned()));
    }
    Ok(Arc::new(SqliteAddress(options)))
}

impl DbUrl {
    /// The URL of an SQLite file.
    pub fn sqlite_file(path: impl AsRef<Path>) -> DbUrl {
        let path = path.as_ref();
        let address = SqliteAddress(SqliteConnectOptions::new().filename(path));
        DbUrl { address: Arc::new(address), shown: format!("sqlite://{}", path.display()) }
    }
}

/// How much memory a connection that writes much may take for pages: 16 MiB. A page that a transaction changes again and again
/// is then written to the log once; with SQLite's 2 MiB, it is spilled and read again in between.
const WRITER_CACHE: &str = "-16384";
/// After so many pages (2 MiB), the log is copied into the file, by whoever commits: the requests of that moment wait for it.
/// With 4000, the p99 of a write was 37 ms and the longest beside retention 100 ms; with 1000, 25 and 30 ms; with 500, 22 and
/// 24 ms; what was written in a second was the same (`benches/run hooks-store`).
const CHECKPOINT_PAGES: &str = "500";

struct SqliteAddress(SqliteConnectOptions);

impl Address for SqliteAddress {
    fn dialect(&self) -> &'static dyn Dialect {
        &SqliteDialect
    }

    fn open(&self, purpose: Use, stale: &Stale) -> Arc<dyn Pool> {
        let path = self.0.get_filename();
        if matches!(purpose, Use::Setup { create: true } | Use::Ledger { create: true }) {
            // If this fails, the file is there, or SQLite says why.
            let _ = create::create(path);
        }
        let mut options = self.0.clone().busy_timeout(Duration::from_secs(2)).thread_name(|_| "sqlite".to_owned());
        if let Use::Ledger { create } | Use::Setup { create } = purpose {
            options = options.create_if_missing(create);
            if create {
                options = options.journal_mode(SqliteJournalMode::Wal);
            }
        }
        if purpose == (Use::Ledger { create: true }) {
            options = options.synchronous(SqliteSynchronous::Full);
            options = options.pragma("cache_size", WRITER_CACHE).pragma("wal_autocheckpoint", CHECKPOINT_PAGES);
        }
        // One connection: SQLite has one writer, and a queue in this pool is fairer and quicker than SQLite's busy
        // waits.
        let pool = pool_options(1, stale).connect_lazy_with(options);
        let is_watched = !matches!(purpose, Use::Setup { .. });
        Arc::new(SqliteConnections { pool, file: is_watched.then(|| File::new(path.to_owned())) })
    }

    fn file(&self) -> Option<&Path> {
        Some(self.0.get_filename())
    }
}

#[derive(Debug)]
struct SqliteConnections {
    pool: SqlitePool,
    /// The file to watch; `None` for [`Use::Setup`], which may create the file.
    file: Option<File>,
}

impl Pool for SqliteConnections {
    fn connect(&self) -> Answer<'_, Box<dyn Session>> {
        Box::pin(async {
            let session: Box<dyn Session> = Box::new(SqliteSession(self.pool.acquire().await?));
            Ok(session)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pool.close())
    }

    fn fault(&self, error: &dyn DatabaseError) -> Fault {
        fault::fault(error.code().unwrap_or_default().parse().unwrap_or(1), error.message())
    }

    fn look(&self, place: &str, may_change: bool) -> Result<(), SqlError> {
        self.file.as_ref().map_or(Ok(()), |file| file.look(place, may_change))
    }

    fn opened(&self) {
        // From now on the file is not made anew. It may be moved away at any moment, also after the last look at it; a
        // connection that made an empty file in its place would go on with that one when the file is back.
        if self.file.as_ref().is_some_and(File::opened) {
            let options = self.pool.connect_options();
            self.pool.set_connect_options(SqliteConnectOptions::clone(&options).create_if_missing(false));
        }
    }

    fn refused(&self, place: &str) -> Option<SqlError> {
        self.file.as_ref().and_then(|file| file.refused(place))
    }

    fn take_replaced(&self) -> bool {
        self.file.as_ref().is_some_and(File::take_replaced)
    }
}

struct SqliteSession(PoolConnection<Sqlite>);

/// The statement with its parameters. Nobody else gets this connection, so the parameters need not be written into the
/// text.
fn bound<'q>(statement: Statement<'_>) -> sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments> {
    let Statement { sql, args, kept, .. } = statement;
    // Most statements with many parameters come in many lengths: caching them would only evict the useful ones.
    let query = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(kept || args.len() < 16);
    args.iter().fold(query, |query, arg| match arg {
        Value::Int(int) => query.bind(*int),
        Value::Text(text) => query.bind(text.clone()),
        Value::Null => query.bind(None::<String>),
    })
}

impl Session for SqliteSession {
    fn execute<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, u64> {
        if statement.args.is_empty() {
            return self.run(statement.sql.to_owned());
        }
        Box::pin(async move { Ok(bound(statement).execute(&mut *self.0).await?.rows_affected()) })
    }

    fn fetch<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, Vec<Vec<Value>>> {
        Box::pin(async move {
            let rows = bound(statement).fetch_all(&mut *self.0).await?;
            rows.iter().map(values).collect()
        })
    }

    fn run(&mut self, text: String) -> Answer<'_, u64> {
        Box::pin(async { Ok(sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *self.0).await?.rows_affected()) })
    }

    fn begin(&self) -> String {
        // This takes the write lock at once, because a later upgrade to it could fail without waiting.
        "BEGIN IMMEDIATE".to_owned()
    }

    fn detach(self: Box<Self>) {
        drop(self.0.detach());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The look at the file, and the opening of a connection, are two moments: in between the file may be moved away. A
    /// connection that made an empty file in its place would be kept, and used, when the file is back.
    #[tokio::test]
    async fn a_file_that_was_there_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        let stale = Stale::default();
        let url = DbUrl::sqlite_file(&path);
        let pool = url.address.open(Use::Ledger { create: true }, &stale);
        drop(pool.connect().await.unwrap());
        pool.opened();
        stale.invalidate_all();
        std::fs::rename(&path, dir.path().join("elsewhere.db")).unwrap();
        assert!(pool.connect().await.is_err());
        assert!(!path.exists());
        std::fs::rename(dir.path().join("elsewhere.db"), &path).unwrap();
        assert!(pool.connect().await.is_ok());
    }
}
