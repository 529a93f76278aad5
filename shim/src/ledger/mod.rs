//! The ledger: every change's number, given once, in the transaction that records the change.
//!
//! Goes in: rows of the change table, in the order of their ids. Comes out: numbered changes, whose numbers never change,
//! and how far they are published. Only the holder of the [`Lease`] writes. Every write checks that the lease is still
//! held, and that the ledger is in the state in which its holder left it. Never deletes an unpublished change, never gives
//! a number twice in one history, never uses a clock to decide anything but the age of what is published already.

pub mod check;
mod entry;
mod epoch;
mod history;
mod lease;
mod recorder;
mod schema;

use std::sync::{Arc, Mutex, PoisonError};

use bugfeed_protocol::{Cursor, Epoch, Tag, When};

pub use bugfeed_core::relay::outlet::Holds;
use bugfeed_sql::{Db, DbUrl, Fault, SqlError, Use, Value};
pub use epoch::NewEpoch;
pub(crate) use lease::BEAT;
pub use lease::Lease;
pub use recorder::{Recorded, Recorder};
use schema::Tables;
pub use schema::{BadPrefix, Prefix};

/// Why the ledger could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database said no.
    #[error("ledger {0}")]
    Sql(SqlError),
    /// Another file has the ledger's name now. It may have another history, so the shim must stop working on the old file
    /// and open the new one.
    #[error("ledger {0}")]
    Replaced(SqlError),
    /// Another shim took over; this one must stop writing and wait for its turn.
    #[error("another shim has taken over this ledger")]
    Fenced,
    /// The ledger is not in the state in which its holder left it, but in an older one.
    #[error(
        "ledger {place}: it is not where this shim left it; a copy was restored, or another server answers that is behind"
    )]
    SetBack {
        /// Which ledger.
        place: String,
    },
    /// Made by an older version of this program, and not brought up to date yet.
    #[error(
        "ledger {place}: an older version made it; `bugfeed-shim run` brings it up to date, and keeps all that is in it"
    )]
    Older {
        /// Which ledger.
        place: String,
    },
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
    /// Its tables, or its file, were removed while it was open.
    #[error("ledger {place}: it is not there any more; start the shim again to begin a new one")]
    Gone {
        /// Which ledger.
        place: String,
    },
    /// Its meta row is not what this program writes.
    #[error(
        "ledger {place}: {what}; move it away and start again: a new epoch begins in a new one, and clients are told to ask \
         the tracker (where an old copy is put in its place instead, run `bugfeed-shim new-epoch --yes` on it)"
    )]
    Broken {
        /// Which ledger.
        place: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The lock file beside a ledger that is a file cannot be used.
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
        kind(error)
    }
}

/// What an administrator should do about an error of the ledger's database. `None` if the general advice for databases is
/// enough.
fn advice(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::Missing => Some(
            "make that folder or that database, or name another place with --ledger; the ledger itself is made by \
             `bugfeed-shim run`",
        ),
        Fault::Denied => Some(
            "check user and password; a ledger's user needs CREATE, SELECT, INSERT, UPDATE and DELETE in its database",
        ),
        Fault::Corrupt => Some(
            "what is in the file cannot be trusted: move it away, and a new epoch begins with a new one; or see \
             whether `bugfeed-shim new-epoch --yes` can go on with it. Never put an old copy in its place",
        ),
        _ => None,
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
    /// The newest number that this process has seen in the ledger. If the ledger does not have it any more, the ledger was
    /// set back.
    known: Arc<Mutex<Option<Cursor>>>,
    /// The lock file beside an SQLite ledger: the process that has locked it works. `None` for the database of a server.
    lock_path: Option<std::path::PathBuf>,
}

/// The columns of the meta row that [`Ledger::read_meta`] reads.
const META: &str = "last_seq, published_seq, set_aside_count, term, beat, epoch_base, epoch, last_tag, holder, \
                    former_epoch, published_to";

/// What the meta row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The random identifier of this numbering.
    pub epoch: Epoch,
    /// The last number given; 0 in a new ledger.
    pub head: u64,
    /// The lineage tag under which the last number was given. `None` if a version without tags gave it.
    pub tag: Option<Tag>,
    /// Everything up to here is published.
    pub published: u64,
    /// How many rows were ever set aside.
    pub set_aside: u64,
    /// Who works, if anybody.
    pub holder: Option<String>,
    /// The epoch before this one, if the ledger had one.
    pub former_epoch: Option<Epoch>,
    /// Where the changes were last published to, in words.
    pub published_to: Option<String>,
    /// The number in the tables after which this epoch begins.
    base: u64,
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
    /// Changes that were recorded longer ago than this are removed.
    pub age: std::time::Duration,
    /// Of more changes than this, the oldest are removed.
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

    /// Whether this user may write into it. Nothing is written.
    ///
    /// # Errors
    /// When the database says no.
    pub(super) async fn may_write(&self) -> Result<(), LedgerError> {
        let sql = format!("UPDATE {} SET one = one WHERE 1 = 0", self.tables.meta);
        self.db.execute(&sql, &[]).await?;
        Ok(())
    }

    /// Opens a ledger to look at it.
    ///
    /// # Errors
    /// Also when there is none.
    pub async fn open_existing(url: &DbUrl, prefix: &Prefix) -> Result<Ledger, LedgerError> {
        Ledger::prepare(url, prefix, false).await
    }

    async fn prepare(url: &DbUrl, prefix: &Prefix, create: bool) -> Result<Ledger, LedgerError> {
        let db = Db::new(url, Use::Ledger { create }).advising(advice);
        let tables = Tables::new(db.dialect(), prefix);
        let make = if create { schema::Make::All } else { schema::Make::Nothing };
        schema::prepare(&db, &tables, make, rand::random()).await?;
        let lock_path = url.file_path().map(|path| {
            let mut path = path.to_owned();
            path.as_mut_os_string().push(format!(".{prefix}lock"));
            path
        });
        let ledger = Ledger { db, tables, known: Arc::default(), lock_path };
        // A ledger that cannot be read is reported now, and not later.
        ledger.meta().await?;
        Ok(ledger)
    }

    /// Goes on with the file that has this ledger's name now, after the old file was replaced.
    ///
    /// # Errors
    /// When there is no ledger in it.
    pub(crate) async fn open_again(&self) -> Result<(), LedgerError> {
        self.db.follow_file();
        schema::prepare(&self.db, &self.tables, schema::Make::Newer, rand::random()).await
    }

    /// The random identifier of the present numbering.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn epoch(&self) -> Result<Epoch, LedgerError> {
        Ok(self.meta().await?.epoch)
    }

    /// The database's address without a password.
    pub fn place(&self) -> &str {
        self.db.place()
    }

    /// Checks that the file of an SQLite ledger is still the one that was opened. Does nothing for the database of a server.
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

    /// Reads the meta row: how far everything is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn meta(&self) -> Result<Meta, LedgerError> {
        let sql = format!("SELECT {META} FROM {} WHERE one = 1", self.tables.meta);
        let row = self.db.fetch(&sql, &[]).await.map_err(|e| self.gone(e))?.pop();
        self.read_meta(row)
    }

    fn read_meta(&self, row: Option<Vec<Value>>) -> Result<Meta, LedgerError> {
        let broken = |what| LedgerError::Broken { place: self.place().to_owned(), what };
        let mut row = row.ok_or_else(|| broken("the meta row is missing"))?;
        let mut text = || row.pop().and_then(Value::into_text);
        let (published_to, former_epoch, holder, tag, epoch) = (text(), text(), text(), text(), text());
        let epoch = epoch.as_deref().and_then(Epoch::parse).ok_or_else(|| broken("the meta row has no epoch"))?;
        let mut ints = row.iter().map(Value::int);
        let mut int = || ints.next().flatten().ok_or_else(|| broken("a number of the meta row is missing"));
        let (last, published, set_aside) = (int()?, int()?, int()?);
        let (term, beat, base) = (int()?, int()?, int()?.unsigned_abs());
        let number = |number: i64| number.unsigned_abs().saturating_sub(base);
        Ok(Meta {
            epoch,
            head: number(last),
            tag: tag.as_deref().and_then(Tag::parse),
            // The watermark may be ahead of the last number, if it is of another history.
            published: number(published.min(last)),
            set_aside: set_aside.unsigned_abs(),
            holder,
            former_epoch: former_epoch.as_deref().and_then(Epoch::parse),
            published_to,
            base,
            term,
            beat,
        })
    }

    /// The error of a failed read: [`LedgerError::Gone`] if the tables do not exist any more.
    fn gone(&self, error: SqlError) -> LedgerError {
        if error.fault == Fault::Missing {
            return LedgerError::Gone { place: self.place().to_owned() };
        }
        error.into()
    }

    /// Notes that the ledger has this number.
    fn knows(&self, cursor: Cursor) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.epoch != cursor.epoch || known.seq <= cursor.seq) {
            *known = Some(cursor);
        }
    }

    /// Checks that the ledger still has the newest number that this process has seen in it. Another server, which is
    /// behind, may have taken over since this tenure began.
    fn check_known(&self, meta: &Meta) -> Result<(), LedgerError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_behind = |known: Cursor| {
            let other = known.seq == meta.head && known.seq > 0 && known.tag != meta.tag;
            known.epoch == meta.epoch && (known.seq > meta.head || other)
        };
        if known.is_some_and(is_behind) {
            return Err(LedgerError::SetBack { place: self.place().to_owned() });
        }
        Ok(())
    }

    /// Why a write of this term changed nothing.
    async fn refused(&self, term: i64) -> LedgerError {
        match self.meta().await {
            Ok(meta) if meta.term == term => LedgerError::SetBack { place: self.place().to_owned() },
            Ok(_) => LedgerError::Fenced,
            Err(e) => e,
        }
    }

    /// The lowest number that is still kept, if any is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn oldest(&self) -> Result<Option<u64>, LedgerError> {
        let base = self.meta().await?.base;
        let sql = format!("SELECT MIN(seq) FROM {} WHERE seq > ?", self.tables.changes);
        let rows = self.db.fetch(&sql, &[Value::Int(base.cast_signed())]).await?;
        let oldest = rows.first().and_then(|row| row.first()).and_then(Value::int).map(i64::unsigned_abs);
        Ok(oldest.map(|oldest| oldest.saturating_sub(base)))
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
