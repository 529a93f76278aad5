//! Why the store could not do something.

use bugfeed_sql::{Fault, SqlError};

/// Why the store could not be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no.
    #[error("store {0}")]
    Sql(#[from] SqlError),
    /// A newer version of this program made the tables, or has brought them up to date.
    #[error(
        "store {place}: its tables have version {found}, and this program knows versions up to {known}; use the \
         program that made them, or a newer one"
    )]
    Newer {
        /// Which store.
        place: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The tables are older, and this process may not change them.
    #[error(
        "store {place}: its tables have version {found}, and this program needs {known}; `bugfeed hooks` \
         brings them up to date"
    )]
    Older {
        /// Which store.
        place: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another process has the file open.
    #[error(
        "store {place}: {holder} uses this file, and only one process may; stop it, or use a MariaDB or PostgreSQL \
         store, which replicas can share"
    )]
    InUse {
        /// Which store.
        place: String,
        /// Who has it.
        holder: String,
    },
    /// The lock file beside a store that is a file cannot be used.
    #[error("store's lock file {path}: {message}; give this user write permission on the folder")]
    LockFile {
        /// Which file.
        path: String,
        /// What the system said.
        message: String,
    },
    /// A feed has no change table yet.
    #[error(
        "the feed {0} has no change table in the store; no source names this feed any more, or it was added just now"
    )]
    NoTable(String),
    /// A name for a change table is in use, or is none.
    #[error("{0}")]
    BadTable(String),
    /// A row is not what this program writes.
    #[error("the store is damaged: {0}; restore a copy of it, or begin with an empty one")]
    Broken(&'static str),
    /// Other processes were quicker, again and again.
    #[error("the store is so busy that a transaction did not get through; it will be tried again")]
    Contended,
    /// The store is being closed.
    #[error("the store is being closed")]
    Closed,
}

impl StoreError {
    /// Whether only waiting can help, as opposed to somebody changing something.
    pub fn may_heal(&self) -> bool {
        match self {
            StoreError::Sql(error) => error.may_heal(),
            StoreError::Contended | StoreError::Closed => true,
            _ => false,
        }
    }

    /// Whether the tables of one feed may be the cause, so that what concerns other feeds can be written all the same.
    pub(crate) fn may_be_of_a_feed(&self) -> bool {
        let of_table = |fault| matches!(fault, Fault::Missing | Fault::Denied | Fault::Refused | Fault::Other);
        match self {
            StoreError::NoTable(_) => true,
            StoreError::Sql(error) => of_table(error.fault),
            _ => false,
        }
    }

    /// Whether a transaction was not carried out because somebody else was quicker, so that it may be planned anew.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, StoreError::Sql(error) if matches!(error.fault, Fault::Duplicate | Fault::Locked))
    }
}

/// What an administrator should do about an error of the store's database. `None`: the general advice is enough.
pub(super) fn advice(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::Missing => Some("make that folder or that database, or name another place with --store"),
        Fault::Denied => Some(
            "check user and password; the store's user needs CREATE, INDEX, SELECT, INSERT, UPDATE and DELETE in its \
             database",
        ),
        Fault::Corrupt => Some("what is in the file cannot be trusted: move it away, or restore a copy"),
        _ => None,
    }
}
