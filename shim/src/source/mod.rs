//! The change table: what is in it, and deleting what was recorded.
//!
//! Goes in: a database URL and the table's names. Comes out: rows, good and bad ones; others decide what becomes of them.
//! Needs SELECT and DELETE on the table and nothing else. Never keeps a position in the table (ids become visible out
//! of order), never locks a row while reading, never waits for a row the tracker holds.

mod advice;
pub mod check;
mod clock;
mod indexes;
mod setup;
mod table;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bugfeed_protocol::{BugId, Change, When};
use jiff::tz::TimeZone;

pub use bugfeed_core::relay::{BadRow, Row, RowKey};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_sql::{Db, DbUrl, Fault, SqlError, Use, Value};
pub use setup::{Setup, SetupError, clock_hint, init, next_steps, touch, touch_many};
pub use table::TableSpec;
use table::TableSql;

/// An open change table.
#[derive(Clone, Debug)]
pub struct Source {
    db: Db,
    spec: TableSpec,
    sql: TableSql,
    zone: TimeZone,
    /// The date column holds instants, which are read in UTC.
    instants: bool,
    found: Arc<Found>,
}

/// What was found out about the table while it was used.
#[derive(Debug, Default)]
struct Found {
    /// A later change of a bug may be in the row of an earlier one. Once this is true, it stays true.
    in_place: AtomicBool,
    /// It was logged that an id may stand for several rows.
    said_not_unique: AtomicBool,
    /// Some rows have no id by which they could be deleted.
    strays: AtomicBool,
    /// When [`Source::probe`] was called the last time.
    probed: Mutex<Option<Instant>>,
    /// How the dates of rows fit the clock, and when the table was last seen to be empty.
    dates: Mutex<(clock::Dates, Option<Instant>)>,
    /// When it was logged the last time that somebody else deletes rows.
    vanished: Mutex<Option<Instant>>,
}

/// Why the change table could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The database said no.
    #[error("change table {table}: {source}")]
    Sql {
        /// Which table.
        table: bugfeed_sql::Name,
        /// What the database said.
        source: SqlError,
    },
}

/// What became of a delete.
#[derive(Debug, Default)]
pub struct Deleted {
    /// Keys that are known not to be in the table any more.
    pub gone: Vec<RowKey>,
    /// Keys whose rows somebody holds a lock on; to be tried again.
    pub held: Vec<RowKey>,
    /// Keys whose rows the database does not delete, although nobody holds a lock on them. To be tried again, but it takes a
    /// person to remove the cause.
    pub kept: Vec<RowKey>,
    /// What the database said about those, if it said anything.
    pub refusal: Option<String>,
    /// How many of the rows had been deleted by somebody else.
    pub vanished: u64,
}

/// What was found after a statement that deletes rows.
#[derive(Default)]
struct Left {
    /// Rows that still exist, unchanged.
    kept: HashSet<RowKey>,
    /// How many rows somebody else must have deleted.
    vanished: u64,
}

impl Source {
    /// Opens the table, reads one row and deletes none, to find missing tables, columns and privileges now.
    ///
    /// # Errors
    /// Whatever the database says; [`SqlError::may_heal`] tells whether waiting can help.
    pub async fn open(url: &DbUrl, spec: &TableSpec, zone: TimeZone) -> Result<Source, SourceError> {
        let db = Db::new(url, Use::Source).advising(advice::advice);
        let sql = TableSql::new(db.dialect(), spec);
        let mut source = Source { sql, db, spec: spec.clone(), zone, instants: false, found: Arc::default() };
        let failed = |source| SourceError::Sql { table: spec.table.clone(), source };
        source.read(1).await.map_err(failed)?;
        source.instants = setup::holds_instants(&source.db, spec).await;
        if let Some(sql) = TableSql::of_instants(source.db.dialect(), spec).filter(|_| source.instants) {
            source.sql = sql;
            if source.zone != TimeZone::UTC {
                // A TIMESTAMP is an instant; it is read in UTC, so no local time is involved.
                tracing::info!(table = %spec.table, column = %spec.when, event = %LogEvent::DatesAreInstants, "column is a TIMESTAMP: read in UTC, --timezone is not needed");
                source.zone = TimeZone::UTC;
            }
        }
        source.may_delete().await.map_err(failed)?;
        source.probe().await.map_err(failed)?;
        Ok(source)
    }

    /// Checks that rows can be deleted, without deleting one.
    async fn may_delete(&self) -> Result<(), SqlError> {
        match self.db.execute(&self.sql.delete_none(), &[]).await {
            Ok(_) => Ok(()),
            // Somebody else writes just now. The statement waited for that lock, so it is allowed.
            Err(e) if e.fault == Fault::Locked => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Checks what may change while the table is used: whether rows can still be deleted (a server that has become a replica
    /// can be read as before), how the tracker writes rows, and whether there are rows without a usable id. To be called
    /// from time to time.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn probe(&self) -> Result<(), SqlError> {
        *self.found.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        // In a database that has one writer at a time, asking would take the write lock. There, the next delete shows it.
        if !self.db.dialect().has_one_writer() {
            self.may_delete().await?;
        }
        let strays = !self.db.fetch(&self.sql.strays, &[]).await?.is_empty();
        self.found.strays.store(strays, Ordering::Relaxed);
        let Ok(shape) = indexes::shape(&self.db, &self.spec).await else {
            self.is_in_place("its indexes cannot be read");
            return Ok(());
        };
        if shape.in_place {
            self.is_in_place("a unique index holds the bug's number, or the table has none");
        }
        if !shape.id_is_unique && !self.found.said_not_unique.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                table = %self.spec.table, column = %self.spec.id, event = %LogEvent::IdNotUnique,
                "no unique index says that this column means one row: rows with the same id and date are taken for one; \
                 name the table's primary key with --id-column"
            );
        }
        Ok(())
    }

    /// Calls [`Source::probe`], unless it was called less than `age` ago.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn probe_after(&self, age: Duration) -> Result<(), SqlError> {
        let probed = *self.found.probed.lock().unwrap_or_else(PoisonError::into_inner);
        if probed.is_some_and(|probed| probed.elapsed() < age) { Ok(()) } else { self.probe().await }
    }

    /// Whether some rows have no id by which they could be deleted; such rows are neither read nor deleted.
    pub fn has_strays(&self) -> bool {
        self.found.strays.load(Ordering::Relaxed)
    }

    /// Whether a later change of a bug may be in the row of an earlier one.
    pub fn in_place(&self) -> bool {
        self.found.in_place.load(Ordering::Relaxed)
    }

    fn is_in_place(&self, why: &str) {
        if !self.found.in_place.swap(true, Ordering::Relaxed) {
            tracing::info!(table = %self.spec.table, event = %LogEvent::TableUpdatedInPlace, "{why}: taken for a table whose rows are updated in place, so changes are published once their rows are deleted");
        }
    }

    /// Whether the file of the table was replaced since the last call. If it was, what is known of its rows does not apply
    /// to the rows that are there now.
    pub(crate) fn take_replaced(&self) -> bool {
        self.db.take_replaced()
    }

    /// The database's address without a password.
    pub fn place(&self) -> &str {
        self.db.place()
    }

    /// Reads up to `limit` rows, lowest ids first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn read(&self, limit: usize) -> Result<Vec<Row>, SqlError> {
        let read = self.db.fetch(&format!("{}{limit}", self.sql.select), &[]).await;
        let cause = self.db.dialect().why_reading_waits();
        let rows = self.rows(read.map_err(|e| if e.fault == Fault::Locked { e.because(cause) } else { e })?);
        self.note_dates(&rows);
        Ok(rows)
    }

    /// Warns once if the dates of rows do not fit the clock, as with a wrong time zone.
    fn note_dates(&self, rows: &[Row]) {
        /// If the table was empty less than this ago, its rows were committed since then: they are fresh.
        const FRESH: Duration = Duration::from_secs(90);
        let mut noted = self.found.dates.lock().unwrap_or_else(PoisonError::into_inner);
        let (dates, empty) = &mut *noted;
        let fresh = empty.take().is_some_and(|empty| empty.elapsed() < FRESH);
        if rows.is_empty() {
            *empty = Some(Instant::now());
            return;
        }
        let now = When::from_system_time(std::time::SystemTime::now());
        let whens = rows.iter().filter_map(|row| row.change.as_ref().ok().map(|change| change.when));
        let Some(off_s) = dates.note(now, whens, fresh) else { return };
        let hours = off_s as f64 / 3600.0;
        if self.instants {
            tracing::warn!(table = %self.spec.table, event = %LogEvent::DatesOff, "dates of rows are {hours:+} h off this machine's clock; one of the two clocks is wrong");
            return;
        }
        let ahead_s = i64::from(self.zone.to_offset(jiff::Timestamp::now()).seconds()) + off_s;
        tracing::warn!(
            table = %self.spec.table,
            event = %LogEvent::DatesOff,
            "dates of rows are {hours:+} h off this machine's clock: the tracker writes another local time than --timezone \
             says, and clients are told wrong times; give --timezone {}",
            clock::zone_hint(ahead_s)
        );
    }

    /// Reads the rows with these keys that have not changed since they were read.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find(&self, keys: &[RowKey]) -> Result<Vec<Row>, SqlError> {
        let mut found = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let rows = self.db.fetch(&self.sql.find(chunk), &[]).await?;
            found.extend(self.unchanged(chunk, rows));
        }
        Ok(found)
    }

    fn unchanged(&self, keys: &[RowKey], rows: Vec<Vec<Value>>) -> Vec<Row> {
        let keys: HashSet<&RowKey> = keys.iter().collect();
        let (same, other): (Vec<Row>, Vec<Row>) = self.rows(rows).into_iter().partition(|row| keys.contains(&row.key));
        if !other.is_empty() {
            self.is_in_place("a row has another date than it had");
        }
        same
    }

    fn rows(&self, rows: Vec<Vec<Value>>) -> Vec<Row> {
        rows.into_iter().filter_map(|columns| self.row(columns)).collect()
    }

    fn row(&self, columns: Vec<Value>) -> Option<Row> {
        let mut columns = columns.into_iter();
        // A primary key is never NULL.
        let id = columns.next()?.int()?;
        let bug = columns.next()?.into_text();
        let when = columns.next()?.into_text();
        let change = parse(bug.as_deref(), when.as_deref(), &self.zone);
        Some(Row { key: RowKey { id, when }, bug, change })
    }

    /// Deletes the rows that have not changed since they were read. Rows on which the tracker holds a lock are not waited
    /// for; they are reported, as are rows that still exist afterwards.
    ///
    /// # Errors
    /// When the database cannot be written; rows may or may not be deleted then, and deleting again is harmless.
    pub async fn delete(&self, keys: &[RowKey]) -> Result<Deleted, SqlError> {
        let started = Instant::now();
        let mut deleted = Deleted::default();
        let mut todo: Vec<&[RowKey]> = keys.chunks(CHUNK).rev().collect();
        while let Some(chunk) = todo.pop() {
            // A locked row is found by halving the batch. That takes long on a server that waits for a lock before it
            // fails. So after one second the rest is left for later, and the feed goes on.
            if started.elapsed() > Duration::from_secs(1) {
                deleted.held.extend_from_slice(chunk);
                continue;
            }
            match self.delete_some(chunk).await {
                Ok(left) if left.kept.is_empty() => {
                    deleted.gone.extend_from_slice(chunk);
                    deleted.vanished += left.vanished;
                }
                Ok(left) => {
                    deleted.vanished += left.vanished;
                    let (kept, gone) = chunk.iter().cloned().partition::<Vec<_>, _>(|key| left.kept.contains(key));
                    deleted.kept.extend(kept);
                    deleted.gone.extend(gone);
                }
                Err(e) if matches!(e.fault, Fault::Locked | Fault::Refused) => {
                    // If one writer locks the whole database, halving does not help.
                    if chunk.len() > 1 && !(e.fault == Fault::Locked && self.db.dialect().has_one_writer()) {
                        let (left, right) = chunk.split_at(chunk.len() / 2);
                        todo.extend([right, left]);
                    } else if e.fault == Fault::Locked {
                        deleted.held.extend_from_slice(chunk);
                    } else {
                        deleted.kept.extend_from_slice(chunk);
                        deleted.refusal = Some(e.to_string());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(deleted)
    }

    /// Deletes these rows with one statement. If it deletes fewer, the others are looked at: such a row may have been updated
    /// meanwhile, a trigger may have kept it, or somebody else may have deleted it.
    async fn delete_some(&self, keys: &[RowKey]) -> Result<Left, SqlError> {
        let (sql, args) = self.sql.delete(keys);
        if !self.db.dialect().gives_ids_again() {
            let count = self.db.execute(&sql, &args).await?;
            if count >= keys.len() as u64 {
                return Ok(Left::default());
            }
            return Ok(self.left(keys, count, self.db.fetch(&self.sql.find(keys), &[]).await?));
        }
        // Both statements are in one transaction, because an id may be given to another row as soon as it is free.
        let mut tx = self.db.begin().await?;
        let count = tx.execute(&sql, &args).await?;
        let mut left = Left::default();
        if count < keys.len() as u64 {
            left = self.left(keys, count, tx.fetch(&self.sql.find(keys), &[]).await?);
        }
        tx.commit().await?;
        Ok(left)
    }

    fn left(&self, keys: &[RowKey], count: u64, rows: Vec<Vec<Value>>) -> Left {
        let there = rows.len() as u64;
        let kept = self.unchanged(keys, rows).into_iter().map(|row| row.key).collect();
        Left { kept, vanished: (keys.len() as u64).saturating_sub(count + there) }
    }

    /// Warns, at most once in ten minutes, that somebody else has deleted rows which were just read.
    pub(crate) fn say_vanished(&self, count: u64) {
        const REMINDER: Duration = Duration::from_secs(600);
        let mut said = self.found.vanished.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 0 || said.is_some_and(|said| said.elapsed() < REMINDER) {
            return;
        }
        *said = Some(Instant::now());
        tracing::warn!(
            table = %self.spec.table, count, event = %LogEvent::RowsVanished,
            "rows were deleted by somebody else after they were read here: does another shim, with another ledger, read this \
             table? Then every change is numbered and published twice, and clients are told gaps; stop one of them, or give \
             both the same --ledger"
        );
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// How many rows one statement names, at most.
const CHUNK: usize = 1000;

fn parse(bug: Option<&str>, when: Option<&str>, zone: &TimeZone) -> Result<Change, BadRow> {
    let bug_id = bug.and_then(BugId::parse).ok_or_else(|| BadRow::Bug(bug.unwrap_or("NULL").to_owned()))?;
    let when = When::parse_in(when.ok_or(BadRow::NoWhen)?, zone)?;
    Ok(Change { bug: bug_id, when })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_cannot_be_published_say_why() {
        let when = Some("2014-04-03 21:13:45");
        for (bug, when, want) in [
            (Some("7"), when, "7 2014-04-03T21:13:45"),
            (Some("7"), Some("2014-04-03 21:13:45.25+02"), "7 2014-04-03T19:13:45.25"),
            (None, when, "bug number NULL is not"),
            (Some("0"), when, "bug number 0 is not"),
            (Some("-5"), when, "bug number -5 is not"),
            (Some("18446744073709551615"), when, "bug number 18446744073709551615"),
            (Some("7.5"), when, "bug number 7.5"),
            (Some("seven"), when, "bug number seven"),
            (Some("7"), None, "the date is NULL"),
            (Some("7"), Some("0000-00-00 00:00:00"), "date '0000-00-00 00:00:00'"),
            (Some("7"), Some("infinity"), "date 'infinity'"),
            (Some("7"), Some("9999-12-31 23:59:59"), "date '9999-12-31"),
        ] {
            let got = match parse(bug, when, &TimeZone::UTC) {
                Ok(change) => format!("{} {}", change.bug, change.when),
                Err(bad) => bad.to_string(),
            };
            assert!(got.starts_with(want), "{bug:?} {when:?}: {got}");
        }
    }
}
