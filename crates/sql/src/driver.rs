//! What each database implements to be connected to: an address, a pool of connections, a session.
//!
//! All are used through `dyn`, and each statement is a boxed future: beside the way to the server and back that costs
//! nothing.

// What only some databases share is not used where those are left out.
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

/// How old a connection to a server may become. Behind its address may be another server by now: after a switch-over the
/// old one often goes on answering whoever is connected.
const LIFETIME: Duration = Duration::from_secs(60);

/// What a driver answers, some day: whoever waits for it sets the limit.
pub(crate) type Answer<'a, T> = Later<'a, Result<T, sqlx::Error>>;
/// A boxed future.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A checked URL.
pub(crate) trait Address: Send + Sync {
    /// The words of its SQL.
    fn dialect(&self) -> &'static dyn Dialect;

    /// Prepares a pool; connects at first use.
    fn open(&self, purpose: Use, stale: &Stale) -> Arc<dyn Pool>;

    /// The database's name on its server.
    fn database(&self) -> Option<&str> {
        None
    }

    /// The file, of a database that is one.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// The means by which the database tells that something happened, if it has any. `shown` is the URL for messages.
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
    fn close(&self) -> Later<'_, ()>;

    /// What kind of trouble an error of the database is.
    fn fault(&self, error: &dyn DatabaseError) -> Fault;

    /// Whether the database under this address is still the one that was opened, where that can be seen without asking
    /// it. Of another one it is said once where it `may_change`; otherwise always.
    fn look(&self, place: &str, may_change: bool) -> Result<(), SqlError> {
        let _ = (place, may_change);
        Ok(())
    }

    /// A connection is there, so what `look` looks at is there too.
    fn opened(&self) {}

    /// What is known of a connection that could not be made and that the driver does not say.
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
    /// Within a transaction of several statements; otherwise it is one of its own.
    pub(crate) inside: bool,
}

/// One connection, until it is dropped: then it goes back to its pool.
pub(crate) trait Session: Send {
    /// Asks what must be known of the server before the first statement.
    fn prepare(&mut self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Runs a statement that may write, with what goes along with it; the number of rows it matched.
    fn execute<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, u64>;

    /// Reads rows, with what goes along with the statement.
    fn fetch<'a>(&'a mut self, statement: Statement<'a>) -> Answer<'a, Vec<Vec<Value>>>;

    /// Runs a text as it is; the number of rows it matched.
    fn run(&mut self, text: String) -> Answer<'_, u64>;

    /// The beginning of a transaction of several statements.
    fn begin(&self) -> String;

    /// What sets back what `execute` had set, when the statement failed and the rest of the message with it.
    fn set_back(&self) -> Option<&'static str> {
        None
    }

    /// Takes the connection out of its pool and closes it.
    fn detach(self: Box<Self>);
}

/// A database that tells at once when something happened, as a hint to look.
pub trait Notifier: Send + Sync {
    /// Wakes whoever polls at each notification on the channel, until stopped. It may return earlier where notifications
    /// do not get through; it says so. Never replaces the poll.
    fn wake_on<'a>(
        &'a self,
        channel: &'a Name,
        wake: Arc<Notify>,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// When connections were last found to lead to the wrong place: older ones are not used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stale(Arc<Mutex<Option<Instant>>>);

impl Stale {
    /// All connections that are there now are not to be used again.
    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn may_use(&self, meta: &PoolConnectionMetadata) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| since.elapsed() > meta.age)
    }
}

/// What all pools have in common.
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

/// What all pools of connections to a server have in common.
pub(crate) fn server_pool<DB: sqlx::Database>(stale: &Stale) -> PoolOptions<DB> {
    pool_options(3, stale).max_lifetime(LIFETIME)
}
