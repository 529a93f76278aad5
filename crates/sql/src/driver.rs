//! What each database implements to be connected to: an address, a pool of connections, a session.
//!
//! All are used through `dyn`, and each answer is a boxed future. Compared with the way to the server and back, that
//! costs nothing.

// Some of this is used by some databases only, and not used if those are left out.
#![cfg_attr(not(all(feature = "mysql", feature = "postgres", feature = "sqlite")), allow(dead_code))]

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;
use sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{CONNECT_TIMEOUT, Dialect, Fault, Name, SqlError, Use, Value};

/// The longest time for which a connection to a server is used. After a switch-over, the address leads to another
/// server, but the old one often goes on answering the connections that it has.
const LIFETIME: Duration = Duration::from_secs(60);

/// The answer of a driver. The caller limits how long it waits for it.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, sqlx::Error>>;
/// A boxed future.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A checked URL.
pub(crate) trait Address: Send + Sync {
    /// Its SQL dialect.
    fn dialect(&self) -> &'static dyn Dialect;

    /// Prepares a pool; connects at first use.
    fn open(&self, purpose: Use, stale: &Stale) -> Arc<dyn Pool>;

    /// The database's name on its server.
    fn database(&self) -> Option<&str> {
        None
    }

    /// What is to be said in the log about connections to it.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    fn note(&self) -> Option<crate::tls::Note> {
        None
    }

    /// The path of the file, if the database is a file.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// The database's notifications that something happened, if it has any. `shown` is the URL for messages.
    fn notifier(&self, shown: &str) -> Option<Box<dyn Notifier>> {
        let _ = shown;
        None
    }
}

/// Connections to one database.
pub(crate) trait Pool: fmt::Debug + Send + Sync {
    /// Takes a connection, or makes one.
    fn connect(&self) -> Answer<'_, Box<dyn Session>>;

    /// Closes every connection.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// The kind of an error of the database.
    fn fault(&self, error: &dyn DatabaseError) -> Fault;

    /// Checks that the database at this address is still the one that was opened, as far as this can be seen without
    /// asking it. If it is another one, that is an error: only once if it `may_change`, because the new one is used
    /// from then on; otherwise every time.
    fn look(&self, place: &str, may_change: bool) -> Result<(), SqlError> {
        let _ = (place, may_change);
        Ok(())
    }

    /// Notes that a connection was opened, so the file that `look` checks exists.
    fn opened(&self) {}

    /// Why a connection could not be opened, if that is known better than the driver says it.
    fn refused(&self, place: &str) -> Option<SqlError> {
        let _ = place;
        None
    }

    /// Whether `look` found another database since this was last asked.
    fn take_replaced(&self) -> bool {
        false
    }
}

/// A statement with `?` for its parameters.
#[derive(Clone, Copy)]
pub(crate) struct Statement<'a> {
    pub(crate) sql: &'a str,
    pub(crate) args: &'a [Value],
    /// Whether it is part of a transaction of several statements. If not, it is a transaction of its own.
    pub(crate) inside: bool,
    /// Whether the same text will be sent again with other parameters, so that what the database makes of it is worth
    /// keeping.
    pub(crate) kept: bool,
}

/// One connection. Dropping it returns it to its pool.
pub(crate) trait Session: Send {
    /// Asks what must be known of the server before the first statement.
    fn prepare(&mut self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Runs a statement that may write, with the settings that go along with it. Returns the number of rows that it
    /// matched.
    fn execute<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, u64>;

    /// Reads rows, with the settings that go along with the statement.
    fn fetch<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, Vec<Vec<Value>>>;

    /// Runs a text as it is. Returns the number of rows that it matched.
    fn run(&mut self, text: String) -> Answer<'_, u64>;

    /// The text that begins a transaction of several statements.
    fn begin(&self) -> String;

    /// The statement that restores the settings that `execute` had changed, for the case that the statement failed and
    /// the rest of the message was not run.
    fn restore_settings(&self) -> Option<&'static str> {
        None
    }

    /// Takes the connection out of its pool and closes it.
    fn detach(self: Box<Self>);
}

/// A database that tells at once when something happened, as a hint to read the table.
pub trait Notifier: Send + Sync {
    /// Notifies `wake` at each notification on the channel, until `stop`. Returns earlier, and logs why, if
    /// notifications cannot get through. Never replaces the poll.
    fn wake_on<'a>(
        &'a self,
        channel: &'a Name,
        wake: Arc<Notify>,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// When it was last found that connections lead to the wrong server or file. Connections that are older than that are
/// not used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stale(Arc<Mutex<Option<Instant>>>);

impl Stale {
    /// Says that no connection that exists now may be used again.
    pub(crate) fn invalidate_all(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn may_use(&self, meta: &PoolConnectionMetadata) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| since.elapsed() > meta.age)
    }

    /// Whether a connection that was taken at this moment may not be used again.
    pub(crate) fn forbids(&self, taken_at: Instant) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since >= taken_at)
    }
}

/// The options of all pools.
pub(crate) fn pool_options<DB: sqlx::Database>(max: u32, stale: &Stale) -> PoolOptions<DB> {
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

/// The options of all pools of connections to a server.
pub(crate) fn server_pool<DB: sqlx::Database>(stale: &Stale) -> PoolOptions<DB> {
    pool_options(3, stale).max_lifetime(LIFETIME)
}
