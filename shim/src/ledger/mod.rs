//! The ledger: every change's number, given once, in the transaction that records the change.
//!
//! Goes in: rows of the change table, in the order of their ids. Comes out: numbered changes, for ever the same, and how
//! far they are published. Only the holder of the [`Lease`] writes, and every write checks that it still holds it.
//! Never deletes an unpublished change, never gives a number twice, never uses a clock to decide anything but the age
//! of what is published already.

mod intake;
mod lease;
mod marks;
mod owed;
mod plan;
mod schema;

use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When};

use crate::sql::{Db, DbUrl, Fault, SqlError, Use, Value};
pub use intake::{Intake, Recorded};
pub(crate) use lease::BEAT;
pub use lease::Lease;
use schema::Tables;
pub use schema::{BadPrefix, Prefix};

/// Why the ledger could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database said no.
    #[error("ledger {0}")]
    Sql(SqlError),
    /// Another file has the ledger's name now. It may have another history: whoever works on this one must stop, and open
    /// what is there.
    #[error("ledger {0}")]
    Replaced(SqlError),
    /// Another shim took over; this one must stop writing and wait for its turn.
    #[error("another shim has taken over this ledger")]
    Fenced,
    /// Made by another version of this program.
    #[error(
        "ledger {place}: its tables have version {found}, this program knows {known}; use the program that made it, or newer"
    )]
    Version {
        /// Which ledger.
        place: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// There is no ledger there.
    #[error("ledger {place}: there is no ledger here yet; `bugfeed-shim run` creates it")]
    Empty {
        /// Which ledger.
        place: String,
    },
    /// Its meta row is not what this program writes.
    #[error(
        "ledger {place}: {what}; it cannot be trusted any more: begin a new epoch (`bugfeed-shim new-epoch`), rather than \
         put an old copy in its place"
    )]
    Broken {
        /// Which ledger.
        place: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The lock file beside an SQLite ledger cannot be used.
    #[error("ledger lock file {path}: {source}; give this user write permission on the folder")]
    LockFile {
        /// Which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<SqlError> for LedgerError {
    fn from(error: SqlError) -> LedgerError {
        let kind = if error.fault == Fault::Replaced { LedgerError::Replaced } else { LedgerError::Sql };
        kind(error.of_ledger())
    }
}

impl LedgerError {
    /// Whether only waiting can help, as opposed to somebody changing something.
    pub fn may_heal(&self) -> bool {
        matches!(self, LedgerError::Sql(e) if e.may_heal())
    }
}

/// An open ledger. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Ledger {
    db: Db,
    tables: Tables,
    epoch: Epoch,
    /// Beside an SQLite file: the lock whose holder works.
    lock_path: Option<std::path::PathBuf>,
}

/// What the meta row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The last number given; 0 in a new ledger.
    pub head: u64,
    /// Everything up to here is published.
    pub published: u64,
    /// How many rows were ever set aside.
    pub set_aside: u64,
    /// Who works, if anybody.
    pub holder: Option<String>,
    term: i64,
    beat: i64,
}

/// A row that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The row's id and date as text.
    pub row: String,
    /// The bug's number as text.
    pub bug: Option<String>,
    /// Why.
    pub reason: String,
    /// When it was set aside.
    pub at: Option<When>,
}

/// How much published history is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// No change recorded longer ago than this.
    pub age: std::time::Duration,
    /// No more changes than this.
    pub max: u64,
}

impl Ledger {
    /// Opens a ledger, and creates it if there is none.
    ///
    /// # Errors
    /// Whatever the database says; [`LedgerError::may_heal`] tells whether waiting can help.
    pub async fn open(url: &DbUrl, prefix: &Prefix) -> Result<Ledger, LedgerError> {
        Ledger::prepare(url, prefix, true).await
    }

    /// Opens a ledger to look at it.
    ///
    /// # Errors
    /// Also when there is none.
    pub async fn open_existing(url: &DbUrl, prefix: &Prefix) -> Result<Ledger, LedgerError> {
        Ledger::prepare(url, prefix, false).await
    }

    async fn prepare(url: &DbUrl, prefix: &Prefix, create: bool) -> Result<Ledger, LedgerError> {
        let db = Db::new(url, Use::Ledger { create });
        let tables = Tables::new(db.dialect(), prefix);
        schema::prepare(&db, &tables, create, rand::random()).await?;
        let rows = db.fetch(&format!("SELECT epoch FROM {} WHERE one = 1", tables.meta), &[]).await?;
        let epoch = rows.into_iter().next().and_then(|mut row| row.pop()).and_then(Value::into_text);
        let epoch = epoch
            .as_deref()
            .and_then(Epoch::parse)
            .ok_or_else(|| LedgerError::Broken { place: db.place().to_owned(), what: "the meta row has no epoch" })?;
        let lock_path = url.sqlite_path().map(|mut path| {
            path.as_mut_os_string().push(format!(".{prefix}lock"));
            path
        });
        Ok(Ledger { db, tables, epoch, lock_path })
    }

    /// The random identifier of this numbering.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The database's address without a password.
    pub fn place(&self) -> &str {
        self.db.place()
    }

    /// Whether the file of an SQLite ledger is still the one that was opened; asks nothing of a server.
    ///
    /// # Errors
    /// When it is gone, or [`LedgerError::Replaced`].
    pub fn look_at_file(&self) -> Result<(), LedgerError> {
        Ok(self.db.look_at_file()?)
    }

    /// The last number given; 0 in a new ledger.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn head(&self) -> Result<u64, LedgerError> {
        Ok(self.meta().await?.head)
    }

    /// How far everything is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn meta(&self) -> Result<Meta, LedgerError> {
        let sql = format!(
            "SELECT last_seq, published_seq, set_aside_count, term, beat, holder FROM {} WHERE one = 1",
            self.tables.meta
        );
        let broken = || LedgerError::Broken { place: self.place().to_owned(), what: "the meta row is missing" };
        let mut row = self.db.fetch(&sql, &[]).await?.pop().ok_or_else(broken)?;
        let holder = row.pop().and_then(Value::into_text);
        let mut ints = row.iter().map(Value::int);
        let mut int = || ints.next().flatten().ok_or_else(broken);
        let mut count = || int().map(i64::unsigned_abs);
        let (head, published, set_aside) = (count()?, count()?, count()?);
        Ok(Meta { head, published, set_aside, holder, term: int()?, beat: int()? })
    }

    /// Up to `limit` changes after number `after_seq`, in order: published or not, as far as they are kept.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn history(&self, after_seq: u64, limit: usize) -> Result<Vec<Numbered>, LedgerError> {
        let sql = format!(
            "SELECT seq, bug, when_us, recorded_us FROM {} WHERE seq > ? ORDER BY seq LIMIT {limit}",
            self.tables.changes
        );
        let rows = self.db.fetch(&sql, &[Value::Int(after_seq.cast_signed())]).await?;
        rows.iter().map(|row| self.numbered(row)).collect()
    }

    fn numbered(&self, row: &[Value]) -> Result<Numbered, LedgerError> {
        let read = || {
            let mut ints = row.iter().map(Value::int);
            let mut int = || ints.next().flatten();
            let (seq, bug, when, recorded) = (int()?, int()?, int()?, int()?);
            Some(Numbered {
                change: Change { bug: BugId::new(bug.unsigned_abs())?, when: When::from_micros(when)? },
                cursor: Cursor::new(self.epoch.clone(), u64::try_from(seq).ok()?),
                after: None,
                recorded: When::from_micros(recorded)?,
            })
        };
        read().ok_or_else(|| LedgerError::Broken {
            place: self.place().to_owned(),
            what: "a recorded change holds values this program never writes",
        })
    }

    /// The lowest number that is still kept, if any is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn oldest(&self) -> Result<Option<u64>, LedgerError> {
        let rows = self.db.fetch(&format!("SELECT MIN(seq) FROM {}", self.tables.changes), &[]).await?;
        Ok(rows.first().and_then(|row| row.first()).and_then(Value::int).map(i64::unsigned_abs))
    }

    /// The latest rows that were set aside, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn set_aside(&self, limit: usize) -> Result<Vec<SetAside>, LedgerError> {
        let sql =
            format!("SELECT row_key, bug, reason, at_us FROM {} ORDER BY n DESC LIMIT {limit}", self.tables.set_aside);
        let rows = self.db.fetch(&sql, &[]).await?;
        Ok(rows
            .into_iter()
            .map(|mut row| {
                let at = row.pop().and_then(|at| at.int()).and_then(When::from_micros);
                let reason = row.pop().and_then(Value::into_text).unwrap_or_default();
                let bug = row.pop().and_then(Value::into_text);
                let row = row.pop().and_then(Value::into_text).unwrap_or_default();
                SetAside { row, bug, reason, at }
            })
            .collect())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.db.close().await;
    }
}
