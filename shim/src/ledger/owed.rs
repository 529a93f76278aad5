//! Changes that were announced before their rows were gone, and are announced once more when they are.
//!
//! Goes in: keys of rows that could not be deleted, with what they said; keys of rows that are gone. Comes out: durable
//! debts, and new numbers when they are paid, in the transaction that forgets the row. Why: a row that somebody holds may
//! be edited once more with the same date, which nothing in the table shows, and who was told of the first edit may have
//! asked before the second.

use std::collections::HashMap;

use bugfeed_protocol::{BugId, Change, When};

use super::LedgerError;
use super::intake::{CHUNK, Intake, Recorded};
use super::marks::Edit;
use super::plan::Plan;
use crate::source::RowKey;
use bugfeed_sql::{Tx, Value};

/// What is owed, by the row that it came from.
pub(super) type Owed = HashMap<RowKey, Change>;

/// What a transaction forgets beside what it records.
#[derive(Debug, Default)]
pub(super) struct Forget {
    pub(super) marks: Vec<String>,
    pub(super) owed: Vec<String>,
}

/// Reads the table.
pub(super) fn read_owed(rows: Vec<Vec<Value>>) -> Owed {
    let read = |mut row: Vec<Value>| {
        let when = When::from_micros(row.pop()?.int()?)?;
        let bug = BugId::new(row.pop()?.int()?.unsigned_abs())?;
        Some((RowKey::from_text(&row.pop()?.into_text()?)?, Change { bug, when }))
    };
    rows.into_iter().filter_map(read).collect()
}

impl Intake {
    /// These rows are still there, and what they say is about to be announced: it will be announced once more when they are
    /// gone. Durable when this returns; those that are owed already stay so.
    ///
    /// # Errors
    /// When the database cannot be written, or another shim has taken over.
    pub async fn owe(&mut self, rows: &[(RowKey, Change)]) -> Result<(), LedgerError> {
        let known = self.state().await?;
        let new: Vec<(RowKey, Change)> =
            rows.iter().filter(|(key, _)| !known.owed.contains_key(key)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        // On an error the state stays taken, and is read again next time.
        let Some(mut state) = self.state.take() else { return Err(LedgerError::Fenced) };
        let mut tx = self.fenced().await?;
        for chunk in new.chunks(CHUNK) {
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
        tx.commit().await?;
        state.owed.extend(new);
        self.state = Some(state);
        Ok(())
    }

    /// Whether what this row said will be announced once more.
    pub fn owes(&self, key: &RowKey) -> bool {
        self.state.as_ref().is_some_and(|state| state.owed.contains_key(key))
    }

    /// Drops the marks of rows whose deletion is known, and numbers once more what is owed for them.
    ///
    /// # Errors
    /// When the database cannot be written (then nothing is known about whether it was), or another shim has taken over.
    pub async fn settle(&mut self, gone: &[RowKey], now: When) -> Result<Recorded, LedgerError> {
        let state = self.state().await?;
        let mut owed: Vec<RowKey> = gone.iter().filter(|key| state.owed.contains_key(key)).cloned().collect();
        owed.sort_unstable();
        let head = state.last_seq;
        if owed.is_empty() {
            self.forget(gone).await?;
            return Ok(Recorded { head, ..Recorded::default() });
        }
        let Some(mut state) = self.state.take() else { return Err(LedgerError::Fenced) };
        let mut plan = Plan::default();
        for (seq, change) in (head + 1..).zip(owed.iter().filter_map(|key| state.owed.remove(key))) {
            plan.changes.push((seq, change));
        }
        let Edit { insert, delete } = state.marks.forget(gone);
        let forget = Forget { marks: delete, owed: owed.iter().map(RowKey::text).collect() };
        self.write(&plan, &insert, &state, &forget, now).await?;
        let changes = self.given(&mut state, &plan, now);
        let recorded = Recorded { numbered: plan.changes.len(), changes, head: state.last_seq, ..Recorded::default() };
        self.state = Some(state);
        Ok(recorded)
    }

    /// What a transaction forgets, as part of it.
    pub(super) async fn write_forget(&self, tx: &mut Tx, forget: &Forget) -> Result<(), LedgerError> {
        for (table, texts) in [(&self.ledger.tables.marks, &forget.marks), (&self.ledger.tables.owed, &forget.owed)] {
            for chunk in texts.chunks(2 * CHUNK) {
                let marks = vec!["?"; chunk.len()].join(",");
                let args: Vec<Value> = chunk.iter().cloned().map(Value::Text).collect();
                tx.execute(&format!("DELETE FROM {table} WHERE row_key IN ({marks})"), &args).await?;
            }
        }
        Ok(())
    }
}
