//! The writing side of the ledger: records rows, removes marks, moves the watermark, prunes.
//!
//! Goes in: rows that were read, and keys of rows that were deleted. Comes out: durable numbers. The book
//! (`bugfeed_core::relay::book`) decides what is written; `entry.rs` writes it. After any error the book is dropped and
//! read again from the database, because a commit without an answer may have happened. What is read then may be of another
//! server, or of an older copy. Therefore each reading draws a new lineage tag, so that numbers that are given from then on
//! cannot be confused with numbers that were given before.

use std::collections::HashMap;

use bugfeed_core::relay::book::{Book, Entry};
use bugfeed_core::relay::pending::Pending;
use bugfeed_core::relay::{Row, RowKey};
use bugfeed_protocol::{BugId, Change, Cursor, Numbered, Tag, When};

use super::schema::Tables;
use super::{Keep, Lease, Ledger, LedgerError, META, Meta};
use bugfeed_sql::Value;

/// The most changes that one pruning step removes.
const PRUNE_CHUNK: u64 = 10_000;

/// Records rows, on behalf of the holder of the lease.
#[derive(Debug)]
pub struct Recorder {
    pub(super) ledger: Ledger,
    pub(super) term: i64,
    state: Option<State>,
}

/// What the database holds, in memory. It is right as long as nobody else writes, which the lease ensures.
#[derive(Debug)]
pub(super) struct State {
    book: Book,
    /// The number in the tables after which the epoch begins.
    pub(super) base: u64,
    /// How many rows were ever set aside.
    pub(super) set_aside: u64,
}

/// What was done with rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// How many changes got a number.
    pub numbered: usize,
    /// The changes that got a number.
    pub changes: Vec<Numbered>,
    /// The last number given so far.
    pub head: u64,
    /// Rows set aside: the text of each one's key, and why.
    pub set_aside: Vec<(String, String)>,
    /// How many of the rows were recorded before.
    pub known: usize,
}

impl Lease {
    /// The writing side of the ledger, as long as this lease is held.
    pub fn recorder(&self) -> Recorder {
        Recorder { ledger: self.ledger.clone(), term: self.term, state: None }
    }

    /// Moves the watermark: everything up to this number is published.
    ///
    /// # Errors
    /// When the database cannot be written, another shim has taken over, or the ledger does not hold this number.
    pub async fn published(&self, last: &Cursor) -> Result<(), LedgerError> {
        let Tables { meta, runs, .. } = &self.ledger.tables;
        let tag = format!(
            "COALESCE((SELECT r.tag FROM {runs} r WHERE r.first_seq > epoch_base AND r.first_seq <= epoch_base + ? ORDER \
             BY r.first_seq DESC LIMIT 1), '')"
        );
        let sql = format!(
            "UPDATE {meta} SET published_seq = epoch_base + ? WHERE one = 1 AND term = ? AND epoch = ? AND last_seq >= \
             epoch_base + ? AND {tag} = ?"
        );
        let seq = || Value::Int(last.seq.cast_signed());
        let args =
            [seq(), Value::Int(self.term), Value::Text(last.epoch.to_string()), seq(), seq(), tag_text(last.tag)];
        match self.ledger.db.execute(&sql, &args).await? {
            0 => Err(self.ledger.refused(self.term).await),
            _ => Ok(()),
        }
    }

    /// Removes up to 10,000 of the published changes that are beyond what is to be kept; returns how many.
    ///
    /// Only the oldest changes are ever removed, so that what remains has no hole, even if the clock was wrong for a while.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn prune(&self, keep: Keep, now: When) -> Result<u64, LedgerError> {
        let rows = self.ledger.db.fetch(&format!("SELECT MIN(seq) FROM {}", self.ledger.tables.changes), &[]).await?;
        let oldest = rows.first().and_then(|row| row.first()).and_then(Value::int).map(i64::unsigned_abs);
        let Some(oldest) = oldest else { return Ok(0) };
        let meta = self.ledger.meta().await?;
        // These are numbers of the tables, where changes of the former epoch may still be.
        let published = meta.base + meta.published;
        let chunk_end = oldest.saturating_add(PRUNE_CHUNK);
        let age_us = i64::try_from(keep.age.as_micros()).unwrap_or(i64::MAX);
        let young = format!("SELECT MIN(seq) FROM {} WHERE seq < ? AND recorded_us >= ?", self.ledger.tables.changes);
        let args = [Value::Int(chunk_end.cast_signed()), Value::Int(now.as_micros().saturating_sub(age_us))];
        let rows = self.ledger.db.fetch(&young, &args).await?;
        let first_young = rows.first().and_then(|row| row.first()).and_then(Value::int).map(i64::unsigned_abs);
        let by_age = first_young.unwrap_or(chunk_end);
        let by_count = (published + 1).saturating_sub(keep.max);
        let end = by_age.max(by_count).min(chunk_end).min(published + 1);
        if end <= oldest {
            return Ok(0);
        }
        let sql = format!("DELETE FROM {} WHERE seq < ?", self.ledger.tables.changes);
        Ok(self.ledger.db.execute(&sql, &[Value::Int(end.cast_signed())]).await?)
    }
}

/// A tag as the tables hold it.
pub(super) fn tag_text(tag: Option<Tag>) -> Value {
    Value::Text(tag.map(|tag| tag.to_string()).unwrap_or_default())
}

impl Recorder {
    /// What the ledger holds.
    ///
    /// # Errors
    /// When the database cannot be read, or another shim has taken over.
    pub async fn book(&mut self) -> Result<&Book, LedgerError> {
        Ok(&self.state().await?.book)
    }

    /// The keys of rows that are recorded and not yet known to be deleted.
    ///
    /// # Errors
    /// When the database cannot be read, or another shim has taken over.
    pub async fn pending_deletes(&mut self) -> Result<Vec<RowKey>, LedgerError> {
        Ok(self.book().await?.pending())
    }

    /// Numbers and records the rows that are new, in one transaction. Idempotent: rows that were recorded before are
    /// known, and get no second number.
    ///
    /// # Errors
    /// When the database cannot be written (the transaction may have been committed nevertheless), or another shim has
    /// taken over.
    pub async fn record(&mut self, rows: &[Row], now: When) -> Result<Recorded, LedgerError> {
        let mut state = self.take_state().await?;
        let entry = state.book.record(rows, now);
        self.commit(state, entry, now).await
    }

    /// Notes, before changes are published whose rows still exist, that each of them is owed: it is published once more
    /// when its row is gone. The note is durable when this returns. A row for which a change is owed already keeps that
    /// one.
    ///
    /// # Errors
    /// When the database cannot be written, or another shim has taken over.
    pub async fn owe(&mut self, rows: &[(RowKey, Change)], now: When) -> Result<(), LedgerError> {
        let mut state = self.take_state().await?;
        let entry = state.book.owe(rows);
        self.commit(state, entry, now).await.map(drop)
    }

    /// Removes the marks of rows whose deletion is known, and gives the changes that are owed for them a second number.
    ///
    /// # Errors
    /// When the database cannot be written (the transaction may have been committed nevertheless), or another shim has
    /// taken over.
    pub async fn settle(&mut self, gone: &[RowKey], now: When) -> Result<Recorded, LedgerError> {
        let mut state = self.take_state().await?;
        let entry = state.book.settle(gone, now);
        self.commit(state, entry, now).await
    }

    /// Removes the marks of rows whose deletion is known. What is owed for them is removed too, without a second number.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn forget(&mut self, gone: &[RowKey]) -> Result<(), LedgerError> {
        let Some(mut state) = self.state.take() else {
            // An error in between has dropped the book. The rows are still marked, so they will be deleted and forgotten
            // again.
            return Ok(());
        };
        let entry = state.book.forget(gone);
        self.commit(state, entry, When::MIN).await.map(drop)
    }

    /// Writes an entry. After an error, `self.state` stays empty, so that it is read again the next time.
    async fn commit(&mut self, mut state: State, entry: Entry<'_>, now: When) -> Result<Recorded, LedgerError> {
        if !entry.is_empty() {
            self.write(&entry, &state, now).await?;
        }
        if !entry.changes.is_empty() {
            self.ledger.knows(entry.after.clone());
        }
        state.set_aside += entry.bad.len() as u64;
        self.state = Some(state);
        Ok(Recorded {
            numbered: entry.changes.len(),
            changes: entry.changes,
            head: entry.after.seq,
            set_aside: entry.bad.iter().map(|(row, bad)| (row.key.text(), bad.to_string())).collect(),
            known: entry.known,
        })
    }

    async fn take_state(&mut self) -> Result<State, LedgerError> {
        self.state().await?;
        self.state.take().ok_or(LedgerError::Fenced)
    }

    async fn state(&mut self) -> Result<&State, LedgerError> {
        if self.state.is_none() {
            let (meta, pending, owed) = self.read().await?;
            if meta.term != self.term {
                return Err(LedgerError::Fenced);
            }
            self.ledger.check_known(&meta)?;
            let mut tag = Tag::from_random(rand::random());
            while meta.tag == Some(tag) {
                tag = Tag::from_random(rand::random());
            }
            let last = Cursor::new(meta.epoch, meta.head).tagged(meta.tag);
            let book = Book::new(last, tag, pending, owed);
            self.state = Some(State { book, base: meta.base, set_aside: meta.set_aside });
        }
        self.state.as_ref().ok_or(LedgerError::Fenced)
    }

    /// Reads everything over one connection, because another connection may lead to a server that is behind.
    async fn read(&self) -> Result<(Meta, Pending, HashMap<RowKey, Change>), LedgerError> {
        let Ledger { db, tables, .. } = &self.ledger;
        let statements = [
            format!("SELECT row_key FROM {}", tables.marks),
            format!("SELECT row_key, bug, when_us FROM {}", tables.owed),
            format!("SELECT {META} FROM {} WHERE one = 1", tables.meta),
        ];
        let statements = statements.each_ref().map(String::as_str);
        let mut read = db.fetch_together(&statements).await.map_err(|e| self.ledger.gone(e))?.into_iter();
        let [marks, owed, mut meta] = std::array::from_fn(|_| read.next().unwrap_or_default());
        let texts = marks.into_iter().filter_map(|mut row| row.pop().and_then(Value::into_text));
        Ok((self.ledger.read_meta(meta.pop())?, Pending::read(texts), read_owed(owed)))
    }
}

/// Reads the table of what is owed.
fn read_owed(rows: Vec<Vec<Value>>) -> HashMap<RowKey, Change> {
    let read = |mut row: Vec<Value>| {
        let when = When::from_micros(row.pop()?.int()?)?;
        let bug = BugId::new(row.pop()?.int()?.unsigned_abs())?;
        Some((RowKey::from_text(&row.pop()?.into_text()?)?, Change { bug, when }))
    };
    rows.into_iter().filter_map(read).collect()
}
