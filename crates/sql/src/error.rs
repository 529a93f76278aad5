//! What can go wrong with a database, sorted by what to do about it.

use super::ANSWER_TIMEOUT;

/// What kind of trouble, across the three databases.
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
    /// The file of the database was there, and is gone.
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
    fn advice(self, of_ledger: bool) -> &'static str {
        match self {
            Fault::Missing if of_ledger => {
                "make that folder or that database, or name another place with --ledger; the ledger itself is made by \
                 `bugfeed-shim run`"
            }
            Fault::Denied if of_ledger => {
                "check user and password; a ledger's user needs CREATE, SELECT, INSERT, UPDATE and DELETE in its database"
            }
            Fault::Corrupt if of_ledger => {
                "what is in the file cannot be trusted: move it away, and a new epoch begins with a new one; or see \
                 whether `bugfeed-shim new-epoch --yes` can go on with it. Never put an old copy in its place"
            }
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
            Fault::Corrupt => "what is in the file cannot be trusted; mend or replace the tracker's database",
            Fault::Denied => {
                "check user and password; on the change table SELECT and DELETE are needed (`bugfeed-shim init` prints the \
                 GRANT)"
            }
            Fault::Missing => "check the name, or create it (`bugfeed-shim init` creates the change table)",
            Fault::Duplicate => "another process wrote the same row",
            Fault::Other => "see the database's own log",
        }
    }
}

/// A statement failed. Says where, what, and what to do next; never holds a password.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}: {message}; {}", fault.advice(*of_ledger))]
pub struct SqlError {
    /// What kind of trouble.
    pub fault: Fault,
    place: String,
    message: String,
    of_ledger: bool,
}

impl SqlError {
    pub(crate) fn new(place: &str, error: &sqlx::Error) -> SqlError {
        let (fault, message) = match error {
            sqlx::Error::Database(inner) => (database_fault(inner.as_ref()), inner.message().to_owned()),
            sqlx::Error::Io(inner) => (Fault::Away, format!("cannot be reached ({inner})")),
            sqlx::Error::PoolTimedOut => {
                (Fault::Away, format!("no connection within {} s", super::CONNECT_TIMEOUT.as_secs()))
            }
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => {
                (Fault::Away, error.to_string())
            }
            sqlx::Error::Tls(inner) => (Fault::Away, format!("no encrypted connection ({inner})")),
            _ => (Fault::Other, error.to_string()),
        };
        // A driver's message may span lines; a log line and an error line are one line.
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        SqlError { fault, place: place.to_owned(), message, of_ledger: false }
    }

    pub(crate) fn timeout(place: &str) -> SqlError {
        SqlError::stated(Fault::Away, place, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))
    }

    /// Trouble that the caller has found, in its own words.
    pub fn stated(fault: Fault, place: &str, message: String) -> SqlError {
        SqlError { fault, place: place.to_owned(), message, of_ledger: false }
    }

    /// It happened to the ledger, for which other things are to be done.
    #[must_use]
    pub fn of_ledger(mut self) -> SqlError {
        self.of_ledger = true;
        self
    }

    /// Adds what is known of the cause where this happened.
    #[must_use]
    pub fn because(mut self, cause: &str) -> SqlError {
        self.message = format!("{} ({cause})", self.message);
        self
    }

    /// Whether only waiting can help, as opposed to somebody changing something.
    pub fn may_heal(&self) -> bool {
        matches!(self.fault, Fault::Away | Fault::Locked | Fault::Moved | Fault::Replaced)
    }
}

fn database_fault(error: &dyn sqlx::error::DatabaseError) -> Fault {
    if let Some(mysql) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return mysql_fault(mysql.number());
    }
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        postgres_fault(&code)
    } else {
        sqlite_fault(code.parse().unwrap_or(1), error.message())
    }
}

fn mysql_fault(number: u16) -> Fault {
    match number {
        1205 | 1213 | 1969 | 3024 | 3572 => Fault::Locked,
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 => Fault::Denied,
        1049 | 1051 | 1054 | 1146 => Fault::Missing,
        1062 => Fault::Duplicate,
        3 | 1021 | 1026 | 1114 => Fault::Full,
        1036 => Fault::ReadOnly,
        // 1047: a node that left its Galera cluster.
        1047 | 1290 | 1792 | 1836 => Fault::Moved,
        1451 | 1644 => Fault::Refused,
        1665 => Fault::Binlog,
        1034 | 1035 | 126 | 127 | 145 => Fault::Corrupt,
        1040 | 1053 | 1077 | 1079 | 1129 | 1152..=1161 | 1184 | 1203 | 1226 | 1317 | 1927 => Fault::Away,
        _ => Fault::Other,
    }
}

fn postgres_fault(code: &str) -> Fault {
    match code {
        "55P03" | "40P01" | "40001" => Fault::Locked,
        "28000" | "28P01" | "42501" => Fault::Denied,
        "3D000" | "3F000" | "42P01" | "42703" => Fault::Missing,
        "23505" => Fault::Duplicate,
        "53100" | "58030" => Fault::Full,
        "25006" => Fault::Moved,
        "P0001" | "23001" | "23503" => Fault::Refused,
        "XX001" | "XX002" => Fault::Corrupt,
        "53300" | "57014" | "57P01" | "57P02" | "57P03" => Fault::Away,
        _ if code.starts_with("08") => Fault::Away,
        _ => Fault::Other,
    }
}

fn sqlite_fault(code: i32, message: &str) -> Fault {
    match code & 0xff {
        5 | 6 => Fault::Locked,
        8 => Fault::ReadOnly,
        10 | 13 => Fault::Full,
        11 | 26 => Fault::Corrupt,
        14 => Fault::Missing,
        // A trigger's RAISE, or a foreign key.
        19 if matches!(code, 787 | 1811) => Fault::Refused,
        3 | 23 => Fault::Denied,
        19 if matches!(code, 1555 | 2067 | 2579) => Fault::Duplicate,
        1 if message.contains("no such") => Fault::Missing,
        _ => Fault::Other,
    }
}
