//! One small layer over the database drivers, so that source and ledger are written once.
//!
//! Goes in: SQL with `?` for parameters, and integers and texts. Comes out: rows of integers and texts, or an error
//! that says where, what and what to do next. Every wait is bounded: for a connection, for a lock, for an answer. Never
//! leaves a connection of unknown state in the pool: after a timeout or an unfinished transaction it is dropped. Never
//! leaves a setting on a session of a server, because a pooler may give that session to the tracker next
//! (`mysql/settings.rs`, `postgres/settings.rs`). Never goes on with a server that takes no writes any more, or with a
//! database file that was replaced by another one (`sqlite/file.rs`).
//!
//! # To add a database
//!
//! 1. A folder here, like `mysql/`, `postgres/` and `sqlite/`: it reads its URLs, opens connections, runs statements and
//!    sorts errors (the three traits of `driver.rs`), and has its own SQL (the trait [`Dialect`]).
//! 2. Its line in the table of `databases.rs`, and a feature of the same name in `Cargo.toml`, which the packages `shim` and
//!    `bugfeed` pass on.
//! 3. What `bugfeed-shim init` tells its administrators: a file in `shim/src/source/setup/`.
//!
//! Nothing else knows which databases there are. The golden files of `shim/tests/sql_golden` show every text that a
//! database is sent; a new one gets a file there.

mod databases;
mod db;
mod dialect;
mod driver;
mod error;
mod literal;
#[cfg(feature = "mysql")]
mod mysql;
mod name;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod tls;
pub mod url;

use std::time::Duration;

pub use databases::compiled_in;
pub use db::{Db, Tx};
pub use dialect::{AskClock, CellKind, ColumnKind, CountedIds, Dialect, ServerClock};
pub use driver::Notifier;
pub use error::{Advice, Fault, SqlError};
pub use name::{BadName, Name};
pub use url::DbUrl;

/// The longest wait for any answer of a database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait for a free or new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

/// What a pool of connections is used for. This decides which settings go along with its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The tracker's table. It must not be in the tracker's way, so it hardly waits for locks.
    Source,
    /// The shim's own tables. What is written to them must be durable.
    Ledger {
        /// Whether to create a missing file, if the database is a file.
        create: bool,
    },
    /// `init` and `touch`.
    Setup {
        /// Whether to create a missing file, if the database is a file.
        create: bool,
    },
}
