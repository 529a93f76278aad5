//! What can go wrong with a database, sorted by what to do about it.

use sqlx::error::DatabaseError;

use crate::CONNECT_TIMEOUT;

/// The kind of a fault, the same for every database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server cannot be reached, restarts, or does not answer.
    Away,
    /// Somebody else holds a lock for longer than this program waits.
    Locked,
    /// The server answers, but takes no writes: a replica, or the former primary after a switch-over.
    Moved,
    /// The file of the database was replaced by another one.
    Replaced,
    /// The file of the database existed, and is gone.
    Gone,
    /// The table itself refuses: a trigger, or a row elsewhere that refers to this one.
    Refused,
    /// The server's own settings refuse: how it writes its binary log.
    Binlog,
    /// No space left, or a failing disk.
    Full,
    /// The database, its file or its folder cannot be written.
    ReadOnly,
    /// The file is damaged, or no database at all.
    Corrupt,
    /// The server cannot prove (TLS) that it is the right one, or has no TLS although the URL asks for it.
    Untrusted,
    /// Wrong user or password, or a missing privilege.
    Denied,
    /// The database, file, table or column does not exist.
    Missing,
    /// A row with this key exists.
    Duplicate,
    /// Anything else.
    Other,
}

impl Fault {
    fn advice(self) -> &'static str {
        match self {
            Fault::Away => "check that the server runs and can be reached from here",
            Fault::Locked => "another transaction holds a lock; it will be tried again",
            Fault::Moved => {
                "this server takes no writes now: a replica, or the old primary after a switch-over; the connection is \
                 made anew at each attempt, so let the address lead to the server that can be written"
            }
            Fault::Replaced => "what is there now may be another history, so work begins anew with it",
            Fault::Gone => "put it back, and this program opens it again; or stop this program",
            Fault::Refused => "a trigger or a foreign key of the table does that; let rows of this table be deleted",
            Fault::Binlog => {
                "set binlog_format to ROW or MIXED: with STATEMENT the server refuses what does not lock more than it needs"
            }
            Fault::Full => "make room on the disk of the database",
            Fault::ReadOnly => "give this user write permission on the file and its folder, or name another place",
            Fault::Corrupt => "what is in the file cannot be trusted; mend or replace it",
            Fault::Untrusted => "docs/tls.md says what the URL of a database may ask for",
            Fault::Denied => "check user and password, and what this user may do in the database",
            Fault::Missing => "check the name, or create it",
            Fault::Duplicate => "another process wrote the same row",
            Fault::Other => "see the database's own log",
        }
    }
}

/// Advice about a fault that fits what a database is used for; `None` if the general advice is enough.
pub type Advice = fn(Fault) -> Option<&'static str>;

/// The advice for a database of unknown use: none.
pub(crate) fn no_advice(_: Fault) -> Option<&'static str> {
    None
}

/// A statement failed. Says where, what, and what to do next; never holds a password.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}: {message}; {}", advice.unwrap_or(fault.advice()))]
pub struct SqlError {
    /// The kind of the fault.
    pub fault: Fault,
    place: String,
    message: String,
    advice: Option<&'static str>,
}

impl SqlError {
    /// An error of the driver. `fault_of` tells the kind of an error that comes from the database itself.
    pub(crate) fn new(
        place: &str,
        error: &sqlx::Error,
        fault_of: impl FnOnce(&dyn DatabaseError) -> Fault,
    ) -> SqlError {
        if let Some(error) = untrusted(place, error) {
            return error;
        }
        let (fault, message) = match error {
            sqlx::Error::Database(inner) => (fault_of(inner.as_ref()), inner.message().to_owned()),
            sqlx::Error::Io(inner) => (Fault::Away, format!("cannot be reached ({inner})")),
            sqlx::Error::PoolTimedOut => (Fault::Away, format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => {
                (Fault::Away, error.to_string())
            }
            _ => (Fault::Other, error.to_string()),
        };
        // A driver's message may span lines; a log line and an error line are one line.
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        SqlError::stated(fault, place, message)
    }

    /// A fault that the caller has found, in the caller's words.
    pub(crate) fn stated(fault: Fault, place: &str, message: String) -> SqlError {
        SqlError { fault, place: place.to_owned(), message, advice: None }
    }

    /// Adds what `advice` says about this fault, in place of what was said before.
    pub(crate) fn advised(mut self, advice: Advice) -> SqlError {
        self.advice = advice(self.fault).or(self.advice);
        self
    }

    /// Adds the cause to the message.
    #[must_use]
    pub fn because(mut self, cause: &str) -> SqlError {
        self.message = format!("{} ({cause})", self.message);
        self
    }

    /// Whether the fault may pass by itself. If not, a person has to change something.
    pub fn may_heal(&self) -> bool {
        matches!(self.fault, Fault::Away | Fault::Locked | Fault::Moved | Fault::Replaced)
    }
}

/// An error of TLS.
#[cfg(any(feature = "mysql", feature = "postgres"))]
fn untrusted(place: &str, error: &sqlx::Error) -> Option<SqlError> {
    let (message, advice) = crate::tls::explain(error)?;
    Some(SqlError { advice: Some(advice), ..SqlError::stated(Fault::Untrusted, place, message) })
}

/// A database that is a file has none.
#[cfg(not(any(feature = "mysql", feature = "postgres")))]
fn untrusted(_: &str, _: &sqlx::Error) -> Option<SqlError> {
    None
}
