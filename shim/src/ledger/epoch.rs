//! Compares the ledger's history with the one that was published, and begins a new epoch if they differ.
//!
//! Goes in: a number and its tag, as somebody else has them. Comes out: whether the ledger has this number with this tag.
//! A ledger that was restored from a copy, or that failed over to a server that is behind, gives numbers a second time,
//! but never under the same tag, because each start draws a new tag. A new epoch keeps the unpublished changes and
//! numbers them from 1.

use bugfeed_protocol::{Cursor, Epoch, Tag, When};

use super::{Holds, Lease, Ledger, LedgerError, META, Meta};
use bugfeed_sql::Value;

/// How many runs of tags are kept, at most. A run is a range of numbers with one tag; each start of a shim that gives
/// numbers begins a run.
const RUNS_KEPT: u64 = 100_000;

/// The new epoch that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEpoch {
    /// The epoch before it.
    pub former: Epoch,
    /// The new epoch.
    pub epoch: Epoch,
    /// How many changes were not published yet. In the new epoch they have the numbers from 1.
    pub unpublished: u64,
}

impl Ledger {
    /// Whether the ledger has this number, with this tag.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn holds(&self, cursor: &Cursor) -> Result<Holds, LedgerError> {
        let tables = &self.tables;
        let columns = format!("{META}, {}", self.tag_of("m.epoch_base + ?"));
        let sql = format!("SELECT {columns} FROM {} m WHERE m.one = 1", tables.meta);
        let mut row =
            self.db.fetch(&sql, &[Value::Int(cursor.seq.cast_signed())]).await.map_err(|e| self.gone(e))?.pop();
        let tag = row.as_mut().and_then(Vec::pop).and_then(Value::into_text).as_deref().and_then(Tag::parse);
        let meta = self.read_meta(row)?;
        Ok(if meta.former_epoch.as_ref() == Some(&cursor.epoch) {
            Holds::Former
        } else if meta.epoch != cursor.epoch {
            Holds::OtherLedger
        } else if cursor.seq > meta.head {
            Holds::Beyond(meta.cursor())
        } else if cursor.seq > 0 && tag != cursor.tag {
            Holds::OtherTag(tag)
        } else {
            Holds::Same
        })
    }

    /// The latest tag under which numbers were given, and since when.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn latest_tag(&self) -> Result<Option<(Tag, When)>, LedgerError> {
        let sql = format!("SELECT tag, since_us FROM {} ORDER BY first_seq DESC LIMIT 1", self.tables.runs);
        let Some(mut row) = self.db.fetch(&sql, &[]).await?.pop() else { return Ok(None) };
        let since = row.pop().as_ref().and_then(Value::int).and_then(When::from_micros);
        let tag = row.pop().and_then(Value::into_text).as_deref().and_then(Tag::parse);
        Ok(tag.zip(since))
    }
}

impl Meta {
    /// The last number given.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.epoch.clone(), self.head).tagged(self.tag.filter(|_| self.head > 0))
    }
}

impl Lease {
    /// Checks the ledger at the beginning of a tenure: that this process still has the lease, and that the ledger still has
    /// the newest number that this process has seen in it. Returns the meta row, and the watermark as a cursor.
    ///
    /// # Errors
    /// [`LedgerError::SetBack`] when numbers would be given twice; also when the database cannot be read, or another shim
    /// has taken over.
    pub async fn begin(&self) -> Result<(Meta, Cursor), LedgerError> {
        let ledger = &self.ledger;
        let known = ledger.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some(known) = &known
            && matches!(ledger.holds(known).await?, Holds::OtherTag(_) | Holds::Beyond(_))
        {
            return Err(LedgerError::SetBack { place: ledger.place().to_owned() });
        }
        let sql = format!(
            "SELECT {META}, {} FROM {} m WHERE m.one = 1",
            ledger.tag_of("m.published_seq"),
            ledger.tables.meta
        );
        let mut row = ledger.db.fetch(&sql, &[]).await.map_err(|e| ledger.gone(e))?.pop();
        let tag = row.as_mut().and_then(Vec::pop).and_then(Value::into_text).as_deref().and_then(Tag::parse);
        let meta = ledger.read_meta(row)?;
        if meta.term != self.term {
            return Err(LedgerError::Fenced);
        }
        ledger.knows(meta.cursor());
        let published = Cursor::new(meta.epoch.clone(), meta.published).tagged(tag);
        Ok((meta, published))
    }

    /// Begins a new epoch and gives the unpublished changes new numbers in it, in one transaction. Published changes stay
    /// in the former epoch.
    ///
    /// # Errors
    /// When the database cannot be written (the transaction may have been committed nevertheless), or another shim has
    /// taken over.
    pub async fn new_epoch(&self, now: When) -> Result<NewEpoch, LedgerError> {
        let ledger = &self.ledger;
        let (epoch, tag) = (Epoch::from_random(rand::random()), Tag::from_random(rand::random()));
        let mut tx = ledger.db.begin().await?;
        // This takes the row's lock, so that nobody changes the row between reading and writing it.
        let fence = format!("UPDATE {} SET term = term WHERE one = 1 AND term = ?", ledger.tables.meta);
        if tx.execute(&fence, &[Value::Int(self.term)]).await? != 1 {
            return Err(LedgerError::Fenced);
        }
        let sql = format!("SELECT {META} FROM {} WHERE one = 1", ledger.tables.meta);
        let meta = ledger.read_meta(tx.fetch(&sql, &[]).await?.pop())?;
        for (statement, args) in ledger.renumber(&meta, &epoch, tag, now) {
            tx.execute(&statement, &args).await?;
        }
        tx.commit().await?;
        *ledger.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        Ok(NewEpoch { former: meta.epoch.clone(), epoch, unpublished: meta.head - meta.published })
    }

    /// Stores where changes are published to, for `bugfeed-shim status`.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn publishes_to(&self, place: &str) -> Result<(), LedgerError> {
        let place: String = place.chars().take(500).collect();
        let sql = format!("UPDATE {} SET published_to = ? WHERE one = 1 AND term = ?", self.ledger.tables.meta);
        self.ledger.db.execute(&sql, &[Value::Text(place), Value::Int(self.term)]).await?;
        Ok(())
    }

    /// Removes the oldest runs of tags if there are more than 100,000.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn prune_runs(&self) -> Result<(), LedgerError> {
        let runs = &self.ledger.tables.runs;
        let sql = format!("SELECT first_seq FROM {runs} ORDER BY first_seq DESC LIMIT 1 OFFSET {RUNS_KEPT}");
        let last = self.ledger.db.fetch(&sql, &[]).await?.pop().and_then(|mut row| row.pop());
        if let Some(last) = last {
            self.ledger.db.execute(&format!("DELETE FROM {runs} WHERE first_seq <= ?"), &[last]).await?;
        }
        Ok(())
    }
}

impl Ledger {
    /// The statements that begin a new epoch, for one transaction.
    fn renumber(&self, meta: &Meta, epoch: &Epoch, tag: Tag, now: When) -> Vec<(String, Vec<Value>)> {
        // The numbers in the tables go on as before; the numbers of the new epoch are counted from the watermark.
        let base = (meta.base + meta.published).cast_signed();
        let text = |text: &dyn std::fmt::Display| Value::Text(text.to_string());
        let unpublished = meta.head > meta.published;
        let (runs, table) = (&self.tables.runs, &self.tables.meta);
        let sql = format!(
            "UPDATE {table} SET epoch = ?, former_epoch = ?, epoch_base = ?, published_seq = ?, last_tag = ? WHERE one = 1"
        );
        let last_tag = if unpublished { text(&tag) } else { Value::Text(String::new()) };
        let args = vec![text(epoch), text(&meta.epoch), Value::Int(base), Value::Int(base), last_tag];
        let mut statements =
            vec![(sql, args), (format!("DELETE FROM {runs} WHERE first_seq > ?"), vec![Value::Int(base)])];
        if unpublished {
            let sql = format!("INSERT INTO {runs} (first_seq, tag, since_us) VALUES (?,?,?)");
            statements.push((sql, vec![Value::Int(base + 1), text(&tag), Value::Int(now.as_micros())]));
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::ledger::Prefix;
    use crate::source::{Row, RowKey};
    use bugfeed_sql::DbUrl;

    fn row(id: i64) -> Row {
        let change = bugfeed_protocol::Change { bug: bugfeed_protocol::BugId::new(7).unwrap(), when: When::MIN };
        Row { key: RowKey { id, when: None }, bug: None, change: Ok(change) }
    }

    /// A process that dies after any of the statements has not begun a new epoch, and nothing of the old one is lost.
    #[tokio::test]
    async fn a_new_epoch_begins_wholly_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let url = DbUrl::sqlite_file(dir.path().join("ledger.db"));
        let ledger = Ledger::open(&url, &Prefix::default()).await.unwrap();
        let lease = ledger.acquire(&CancellationToken::new(), |_| {}).await.unwrap().unwrap();
        let rows: Vec<Row> = (1..=5).map(row).collect();
        let recorded = lease.recorder().record(&rows, When::MIN).await.unwrap();
        lease.published(&recorded.changes[1].cursor).await.unwrap();
        let (meta, history) = (ledger.meta().await.unwrap(), ledger.history(0, 10).await.unwrap());
        let (epoch, tag) = (Epoch::from_random(7), Tag::from_random(7));
        let statements = ledger.renumber(&meta, &epoch, tag, When::MIN);
        assert_eq!(statements.len(), 3);
        for survived in 0..=statements.len() {
            let mut tx = ledger.db.begin().await.unwrap();
            for (statement, args) in &statements[..survived] {
                tx.execute(statement, args).await.unwrap();
            }
            drop(tx);
            assert_eq!(ledger.meta().await.unwrap(), meta, "after {survived} statements");
            assert_eq!(ledger.history(0, 10).await.unwrap(), history, "after {survived} statements");
            assert_eq!(lease.begin().await.unwrap().1, recorded.changes[1].cursor);
        }
        lease.new_epoch(When::MIN).await.unwrap();
        assert_eq!(ledger.history(0, 10).await.unwrap().len(), 3);
    }
}
