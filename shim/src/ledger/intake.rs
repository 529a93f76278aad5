//! The writing side: recording rows, forgetting marks, moving the watermark, pruning.
//!
//! Goes in: rows as read, keys as deleted. Comes out: durable numbers. After any error the state in memory is dropped
//! and read again from the database, because a commit that was not answered may have happened.

use std::collections::HashSet;

use bugfeed_protocol::When;

use super::plan::{Plan, plan};
use super::{Keep, Lease, Ledger, LedgerError};
use crate::source::{Row, RowKey};
use crate::sql::{Tx, Value};

/// How many of the latest bad rows are kept to look at.
const SET_ASIDE_KEPT: u64 = 1000;
/// Rows of one INSERT.
const CHUNK: usize = 500;
/// The most changes that one pruning step removes.
const PRUNE_CHUNK: u64 = 10_000;

/// Records rows, on behalf of the holder of the lease.
#[derive(Debug)]
pub struct Intake {
    ledger: Ledger,
    term: i64,
    state: Option<State>,
}

/// What the database says, as long as nobody else writes, which the lease ensures.
#[derive(Debug)]
struct State {
    last_seq: u64,
    set_aside: u64,
    marks: HashSet<RowKey>,
}

/// What became of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// How many changes got a number.
    pub numbered: usize,
    /// The last number given so far.
    pub head: u64,
    /// Rows set aside: the text of each one's key, and why.
    pub set_aside: Vec<(String, String)>,
    /// How many of the rows were recorded before.
    pub known: usize,
}

impl Lease {
    /// The writing side of the ledger, as long as this lease is held.
    pub fn intake(&self) -> Intake {
        Intake { ledger: self.ledger.clone(), term: self.term, state: None }
    }

    /// Everything up to `seq` is published.
    ///
    /// # Errors
    /// When the database cannot be written, or another shim has taken over.
    pub async fn published(&self, seq: u64) -> Result<(), LedgerError> {
        let sql = format!("UPDATE {} SET published_seq = ? WHERE one = 1 AND term = ?", self.ledger.tables.meta);
        match self.ledger.db.execute(&sql, &[Value::Int(seq.cast_signed()), Value::Int(self.term)]).await? {
            0 => Err(LedgerError::Fenced),
            _ => Ok(()),
        }
    }

    /// Removes up to 10,000 of the published changes that are beyond what is to be kept; returns how many.
    ///
    /// What remains has no hole: only a prefix is ever removed, even when the clock was once wrong.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn prune(&self, keep: Keep, now: When) -> Result<u64, LedgerError> {
        let Some(oldest) = self.ledger.oldest().await? else { return Ok(0) };
        let published = self.ledger.meta().await?.published;
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

impl Intake {
    /// The keys of rows that are recorded and not yet known to be deleted.
    ///
    /// # Errors
    /// When the database cannot be read, or another shim has taken over.
    pub async fn marks(&mut self) -> Result<Vec<RowKey>, LedgerError> {
        Ok(self.state().await?.marks.iter().cloned().collect())
    }

    /// Numbers and records the rows that are new, in one transaction. The same rows may be given again and again.
    ///
    /// # Errors
    /// When the database cannot be written (then nothing is known about whether it was), or another shim has taken over.
    pub async fn record(&mut self, rows: &[Row], now: When) -> Result<Recorded, LedgerError> {
        self.state().await?;
        let Some(mut state) = self.state.take() else { return Err(LedgerError::Fenced) };
        let plan = plan(rows, &state.marks, state.last_seq);
        let mut recorded = Recorded { head: state.last_seq, known: plan.known, ..Recorded::default() };
        if !plan.marks.is_empty() {
            // On an error the state stays taken, and is read again next time.
            self.write(&plan, &state, now).await?;
            recorded.numbered = plan.changes.len();
            recorded.head = plan.changes.last().map_or(state.last_seq, |(seq, _)| *seq);
            recorded.set_aside = plan.bad.iter().map(|(row, bad)| (row.key.text(), bad.to_string())).collect();
            state.last_seq = recorded.head;
            state.set_aside += plan.bad.len() as u64;
            state.marks.extend(plan.marks.into_iter().cloned());
        }
        self.state = Some(state);
        Ok(recorded)
    }

    /// Drops the marks of rows whose deletion is known.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn forget(&mut self, gone: &[RowKey]) -> Result<(), LedgerError> {
        let Some(mut state) = self.state.take() else {
            // Forgotten by an error in between: they are still marked, and will be deleted and forgotten again.
            return Ok(());
        };
        let tables = &self.ledger.tables;
        for chunk in gone.chunks(2 * CHUNK) {
            let marks = vec!["?"; chunk.len()].join(",");
            let sql = format!(
                "DELETE FROM {} WHERE row_key IN ({marks}) AND EXISTS (SELECT 1 FROM {} WHERE one = 1 AND term = {})",
                tables.marks, tables.meta, self.term
            );
            let args: Vec<Value> = chunk.iter().map(|key| Value::Text(key.text())).collect();
            self.ledger.db.execute(&sql, &args).await?;
            for key in chunk {
                state.marks.remove(key);
            }
        }
        self.state = Some(state);
        Ok(())
    }

    async fn state(&mut self) -> Result<&State, LedgerError> {
        if self.state.is_none() {
            let sql = format!("SELECT row_key FROM {}", self.ledger.tables.marks);
            let rows = self.ledger.db.fetch(&sql, &[]).await?;
            let texts = rows.into_iter().filter_map(|mut row| row.pop().and_then(Value::into_text));
            let marks = texts.filter_map(|text| RowKey::from_text(&text)).collect();
            let meta = self.ledger.meta().await?;
            if meta.term != self.term {
                return Err(LedgerError::Fenced);
            }
            self.state = Some(State { last_seq: meta.head, set_aside: meta.set_aside, marks });
        }
        self.state.as_ref().ok_or(LedgerError::Fenced)
    }

    async fn write(&self, plan: &Plan<'_>, state: &State, now: When) -> Result<(), LedgerError> {
        let tables = &self.ledger.tables;
        let last = plan.changes.last().map_or(state.last_seq, |(seq, _)| *seq);
        let set_aside = state.set_aside + plan.bad.len() as u64;
        let mut tx = self.ledger.db.begin().await?;
        // The fence: also takes the row lock that makes writers go one after the other.
        let fence = format!(
            "UPDATE {} SET last_seq = ?, set_aside_count = ? WHERE one = 1 AND term = ? AND last_seq = ?",
            tables.meta
        );
        let int = |number: u64| Value::Int(number.cast_signed());
        if tx.execute(&fence, &[int(last), int(set_aside), Value::Int(self.term), int(state.last_seq)]).await? != 1 {
            return Err(LedgerError::Fenced);
        }
        for chunk in plan.changes.chunks(2 * CHUNK) {
            let now = now.as_micros();
            let values: Vec<String> = chunk
                .iter()
                .map(|(seq, change)| format!("({seq},{},{},{now})", change.bug, change.when.as_micros()))
                .collect();
            let sql =
                format!("INSERT INTO {} (seq, bug, when_us, recorded_us) VALUES {}", tables.changes, values.join(","));
            tx.execute(&sql, &[]).await?;
        }
        for chunk in plan.marks.chunks(CHUNK) {
            let sql = format!("INSERT INTO {} (row_key) VALUES {}", tables.marks, vec!["(?)"; chunk.len()].join(","));
            let args: Vec<Value> = chunk.iter().map(|key| Value::Text(key.text())).collect();
            tx.execute(&sql, &args).await?;
        }
        self.write_bad(&mut tx, plan, state.set_aside, now).await?;
        Ok(tx.commit().await?)
    }

    async fn write_bad(&self, tx: &mut Tx, plan: &Plan<'_>, before: u64, now: When) -> Result<(), LedgerError> {
        let table = &self.ledger.tables.set_aside;
        for (index, chunk) in plan.bad.chunks(CHUNK).enumerate() {
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
        let keep_after = (before + plan.bad.len() as u64).saturating_sub(SET_ASIDE_KEPT);
        if !plan.bad.is_empty() && keep_after > 0 {
            let sql = format!("DELETE FROM {table} WHERE n <= ?");
            tx.execute(&sql, &[Value::Int(keep_after.cast_signed())]).await?;
        }
        Ok(())
    }
}
