//! Writes an entry of the book into the tables, in one transaction.
//!
//! Goes in: an entry (what the book has decided to write). Comes out: durable rows, or an error; after an error nobody
//! knows whether the entry was written. Decides nothing.

use std::fmt::Write as _;

use bugfeed_core::relay::RowKey;
use bugfeed_core::relay::book::Entry;
use bugfeed_protocol::{Change, When};

use super::LedgerError;
use super::recorder::{Recorder, State, tag_text};
use bugfeed_sql::{Tx, Value};

/// How many of the rows that were set aside are kept: the latest ones, for people to look at.
const SET_ASIDE_KEPT: u64 = 1000;
/// How many rows one INSERT has, at most.
const CHUNK: usize = 500;

impl Recorder {
    /// Writes an entry that is not empty. `state` is the recorder's state before the entry.
    pub(super) async fn write(&self, entry: &Entry<'_>, state: &State, now: When) -> Result<(), LedgerError> {
        if !entry.records() && !entry.moves_debts() && entry.marks.insert.is_empty() {
            return self.write_unmarks(&entry.marks.delete).await;
        }
        let mut tx = if entry.records() { self.at(entry, state, now).await? } else { self.fenced().await? };
        self.write_changes(&mut tx, entry, state, now).await?;
        self.write_owed(&mut tx, &entry.owe).await?;
        let paid: Vec<String> = entry.paid.iter().map(RowKey::text).collect();
        for (table, texts) in [(&self.ledger.tables.marks, &entry.marks.delete), (&self.ledger.tables.owed, &paid)] {
            for chunk in texts.chunks(2 * CHUNK) {
                let (sql, args) = unmark(table, chunk);
                tx.execute(&sql, &args).await?;
            }
        }
        self.write_marks(&mut tx, &entry.marks.insert).await?;
        self.write_bad(&mut tx, entry, state.set_aside, now).await?;
        Ok(tx.commit().await?)
    }

    /// Removes marks by a single statement, without a transaction, because most batches end with this.
    async fn write_unmarks(&self, texts: &[String]) -> Result<(), LedgerError> {
        for chunk in texts.chunks(2 * CHUNK) {
            let fence = format!(" AND EXISTS (SELECT 1 FROM {} WHERE one = 1 AND term = ?)", self.ledger.tables.meta);
            let (sql, mut args) = unmark(&self.ledger.tables.marks, chunk);
            args.push(Value::Int(self.term));
            self.ledger.db.execute(&format!("{sql}{fence}"), &args).await?;
        }
        Ok(())
    }

    /// Begins a transaction that fails unless this process still holds the lease (fencing).
    async fn fenced(&self) -> Result<Tx, LedgerError> {
        let mut tx = self.ledger.db.begin().await?;
        let fence = format!("UPDATE {} SET term = term WHERE one = 1 AND term = ?", self.ledger.tables.meta);
        match tx.execute(&fence, &[Value::Int(self.term)]).await? {
            1 => Ok(tx),
            _ => Err(LedgerError::Fenced),
        }
    }

    /// Begins a transaction that fails unless the ledger is in the state that the book knows, and moves the ledger to
    /// the state after the entry.
    async fn at(&self, entry: &Entry<'_>, state: &State, now: When) -> Result<Tx, LedgerError> {
        let tables = &self.ledger.tables;
        let (before, after) = (&entry.before, &entry.after);
        let set_aside = state.set_aside + entry.bad.len() as u64;
        let mut tx = self.ledger.db.begin().await?;
        // The fence. This statement also takes the row lock that makes writers go one after the other. If the last number
        // and its tag are the expected ones, the ledger holds exactly what the book says.
        let fence = format!(
            "UPDATE {} SET last_seq = ?, last_tag = ?, set_aside_count = ? WHERE one = 1 AND term = ? AND epoch = ? AND \
             last_seq = ? AND last_tag = ?",
            tables.meta
        );
        let int = |number: u64| Value::Int(number.cast_signed());
        let (epoch, term) = (Value::Text(before.epoch.to_string()), Value::Int(self.term));
        let (new, old) = (int(state.base + after.seq), int(state.base + before.seq));
        let args = [new, tag_text(after.tag), int(set_aside), term, epoch, old, tag_text(before.tag)];
        if tx.execute(&fence, &args).await? != 1 {
            drop(tx);
            return Err(self.ledger.refused(self.term).await);
        }
        if after.tag != before.tag {
            let sql = format!("INSERT INTO {} (first_seq, tag, since_us) VALUES (?,?,?)", tables.runs);
            let args = [int(state.base + before.seq + 1), tag_text(after.tag), Value::Int(now.as_micros())];
            tx.execute(&sql, &args).await?;
        }
        Ok(tx)
    }

    async fn write_changes(&self, tx: &mut Tx, entry: &Entry<'_>, state: &State, now: When) -> Result<(), LedgerError> {
        for chunk in entry.changes.chunks(2 * CHUNK) {
            let now = now.as_micros();
            let changes = &self.ledger.tables.changes;
            let mut sql = format!("INSERT INTO {changes} (seq, bug, when_us, recorded_us) VALUES ");
            for (index, numbered) in chunk.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let (seq, change) = (state.base + numbered.cursor.seq, numbered.change);
                // Writing to a String cannot fail.
                let _ = write!(sql, "{comma}({seq},{},{},{now})", change.bug, change.when.as_micros());
            }
            tx.execute(&sql, &[]).await?;
        }
        Ok(())
    }

    async fn write_owed(&self, tx: &mut Tx, owe: &[(RowKey, Change)]) -> Result<(), LedgerError> {
        for chunk in owe.chunks(CHUNK) {
            let values = vec!["(?,?,?)"; chunk.len()].join(",");
            let sql = format!("INSERT INTO {} (row_key, bug, when_us) VALUES {values}", self.ledger.tables.owed);
            let args: Vec<Value> = chunk
                .iter()
                .flat_map(|(key, change)| {
                    let bug = Value::Int(change.bug.get().cast_signed());
                    [Value::Text(key.text()), bug, Value::Int(change.when.as_micros())]
                })
                .collect();
            tx.execute(&sql, &args).await?;
        }
        Ok(())
    }

    async fn write_marks(&self, tx: &mut Tx, texts: &[String]) -> Result<(), LedgerError> {
        for chunk in texts.chunks(CHUNK) {
            let values = vec!["(?)"; chunk.len()].join(",");
            let sql = format!("INSERT INTO {} (row_key) VALUES {values}", self.ledger.tables.marks);
            let args: Vec<Value> = chunk.iter().cloned().map(Value::Text).collect();
            tx.execute(&sql, &args).await?;
        }
        Ok(())
    }

    async fn write_bad(&self, tx: &mut Tx, entry: &Entry<'_>, before: u64, now: When) -> Result<(), LedgerError> {
        let table = &self.ledger.tables.set_aside;
        for (index, chunk) in entry.bad.chunks(CHUNK).enumerate() {
            let sql = format!(
                "INSERT INTO {table} (n, row_key, bug, reason, at_us) VALUES {}",
                vec!["(?,?,?,?,?)"; chunk.len()].join(",")
            );
            let mut args = Vec::with_capacity(5 * chunk.len());
            for (offset, (row, bad)) in chunk.iter().enumerate() {
                let n = before + (index * CHUNK + offset) as u64 + 1;
                // PostgreSQL takes no NUL in a text.
                let bug = row.bug.as_ref().map(|bug| bug.replace('\0', "?"));
                args.push(Value::Int(n.cast_signed()));
                args.push(Value::Text(row.key.text()));
                args.push(bug.into());
                args.push(Value::Text(bad.to_string().replace('\0', "?")));
                args.push(Value::Int(now.as_micros()));
            }
            tx.execute(&sql, &args).await?;
        }
        let keep_after = (before + entry.bad.len() as u64).saturating_sub(SET_ASIDE_KEPT);
        if !entry.bad.is_empty() && keep_after > 0 {
            let sql = format!("DELETE FROM {table} WHERE n <= ?");
            tx.execute(&sql, &[Value::Int(keep_after.cast_signed())]).await?;
        }
        Ok(())
    }
}

fn unmark(table: &str, texts: &[String]) -> (String, Vec<Value>) {
    let marks = vec!["?"; texts.len()].join(",");
    let sql = format!("DELETE FROM {table} WHERE row_key IN ({marks})");
    (sql, texts.iter().cloned().map(Value::Text).collect())
}
