//! The writing side: recording rows, forgetting marks, moving the watermark, pruning.
//!
//! Goes in: rows as read, keys as deleted. Comes out: durable numbers. After any error the state in memory is dropped
//! and read again from the database, because a commit that was not answered may have happened. Each time it is read, it
//! may be that of another server, or of an older copy: a fresh lineage tag is drawn, so that what is numbered from there
//! on is never taken for what was numbered before.

use std::fmt::Write as _;

use bugfeed_protocol::{Change, Cursor, Epoch, Numbered, Tag, When};

use super::marks::Marks;
use super::owed::{Forget, Owed, read_owed};
use super::plan::{Plan, plan};
use super::schema::Tables;
use super::{Keep, Lease, Ledger, LedgerError, META, Meta};
use crate::source::{Row, RowKey};
use bugfeed_sql::{Tx, Value};

/// How many of the latest bad rows are kept to look at.
const SET_ASIDE_KEPT: u64 = 1000;
/// Rows of one INSERT.
pub(super) const CHUNK: usize = 500;
/// The most changes that one pruning step removes.
const PRUNE_CHUNK: u64 = 10_000;

/// Records rows, on behalf of the holder of the lease.
#[derive(Debug)]
pub struct Intake {
    pub(super) ledger: Ledger,
    term: i64,
    pub(super) state: Option<State>,
}

/// What the database says, as long as nobody else writes, which the lease ensures.
#[derive(Debug)]
pub(super) struct State {
    epoch: Epoch,
    /// The number in the tables after which the epoch begins.
    base: u64,
    pub(super) last_seq: u64,
    /// The tag of the last number.
    last_tag: Option<Tag>,
    /// The tag of the next one.
    tag: Tag,
    set_aside: u64,
    pub(super) marks: Marks,
    pub(super) owed: Owed,
}

/// What became of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// How many changes got a number.
    pub numbered: usize,
    /// These changes.
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
    pub fn intake(&self) -> Intake {
        Intake { ledger: self.ledger.clone(), term: self.term, state: None }
    }

    /// Everything up to this number is published.
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
    /// What remains has no hole: only a prefix is ever removed, even when the clock was once wrong.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn prune(&self, keep: Keep, now: When) -> Result<u64, LedgerError> {
        let rows = self.ledger.db.fetch(&format!("SELECT MIN(seq) FROM {}", self.ledger.tables.changes), &[]).await?;
        let oldest = rows.first().and_then(|row| row.first()).and_then(Value::int).map(i64::unsigned_abs);
        let Some(oldest) = oldest else { return Ok(0) };
        let meta = self.ledger.meta().await?;
        // Numbers of the tables, in which changes of the epoch before may still be.
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

impl State {
    /// The changes as they are published.
    fn numbered(&self, plan: &Plan<'_>, recorded: When) -> Vec<Numbered> {
        let first = self.last_seq + 1;
        let before = self.last_tag.filter(|before| self.last_seq > 0 && *before != self.tag);
        let one = |(seq, change): &(u64, Change)| Numbered {
            change: *change,
            cursor: Cursor::new(self.epoch.clone(), *seq).tagged(Some(self.tag)),
            after: before.filter(|_| *seq == first),
            recorded,
        };
        plan.changes.iter().map(one).collect()
    }
}

/// A tag as the tables hold it.
fn tag_text(tag: Option<Tag>) -> Value {
    Value::Text(tag.map(|tag| tag.to_string()).unwrap_or_default())
}

impl Intake {
    /// The keys of rows that are recorded and not yet known to be deleted.
    ///
    /// # Errors
    /// When the database cannot be read, or another shim has taken over.
    pub async fn marks(&mut self) -> Result<Vec<RowKey>, LedgerError> {
        Ok(self.state().await?.marks.keys().cloned().collect())
    }

    /// Numbers and records the rows that are new, in one transaction. The same rows may be given again and again.
    ///
    /// # Errors
    /// When the database cannot be written (then nothing is known about whether it was), or another shim has taken over.
    pub async fn record(&mut self, rows: &[Row], now: When) -> Result<Recorded, LedgerError> {
        self.state().await?;
        let Some(mut state) = self.state.take() else { return Err(LedgerError::Fenced) };
        let plan = plan(rows, |key| state.marks.contains(key), state.last_seq);
        let mut recorded = Recorded { head: state.last_seq, known: plan.known, ..Recorded::default() };
        if !plan.marks.is_empty() {
            // On an error the state stays taken, and is read again next time.
            let marks = state.marks.mark(&plan.marks);
            self.write(&plan, &marks, &state, &Forget::default(), now).await?;
            recorded.numbered = plan.changes.len();
            recorded.changes = self.given(&mut state, &plan, now);
            recorded.head = state.last_seq;
            recorded.set_aside = plan.bad.iter().map(|(row, bad)| (row.key.text(), bad.to_string())).collect();
            state.set_aside += plan.bad.len() as u64;
        }
        self.state = Some(state);
        Ok(recorded)
    }

    /// What is committed: the changes as they are published. The state moves on.
    pub(super) fn given(&self, state: &mut State, plan: &Plan<'_>, now: When) -> Vec<Numbered> {
        let changes = state.numbered(plan, now);
        if let Some(last) = changes.last() {
            (state.last_seq, state.last_tag) = (last.cursor.seq, last.cursor.tag);
            self.ledger.knows(last.cursor.clone());
        }
        changes
    }

    /// Drops the marks of rows whose deletion is known, and what is owed for them.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn forget(&mut self, gone: &[RowKey]) -> Result<(), LedgerError> {
        let Some(mut state) = self.state.take() else {
            // Forgotten by an error in between: they are still marked, and will be deleted and forgotten again.
            return Ok(());
        };
        let edit = state.marks.forget(gone);
        let owed: Vec<String> = gone.iter().filter(|key| state.owed.remove(*key).is_some()).map(RowKey::text).collect();
        if edit.insert.is_empty() && owed.is_empty() {
            for chunk in edit.delete.chunks(2 * CHUNK) {
                let fence =
                    format!(" AND EXISTS (SELECT 1 FROM {} WHERE one = 1 AND term = ?)", self.ledger.tables.meta);
                let (sql, mut args) = self.unmark(chunk);
                args.push(Value::Int(self.term));
                self.ledger.db.execute(&format!("{sql}{fence}"), &args).await?;
            }
        } else {
            // Marks are written anew that stand for fewer rows than before.
            let mut tx = self.fenced().await?;
            self.write_forget(&mut tx, &Forget { marks: edit.delete, owed }).await?;
            self.write_marks(&mut tx, &edit.insert).await?;
            tx.commit().await?;
        }
        self.state = Some(state);
        Ok(())
    }

    /// A transaction of the holder of the lease, and of nobody else.
    pub(super) async fn fenced(&self) -> Result<Tx, LedgerError> {
        let mut tx = self.ledger.db.begin().await?;
        let fence = format!("UPDATE {} SET term = term WHERE one = 1 AND term = ?", self.ledger.tables.meta);
        match tx.execute(&fence, &[Value::Int(self.term)]).await? {
            1 => Ok(tx),
            _ => Err(LedgerError::Fenced),
        }
    }

    fn unmark(&self, texts: &[String]) -> (String, Vec<Value>) {
        let marks = vec!["?"; texts.len()].join(",");
        let sql = format!("DELETE FROM {} WHERE row_key IN ({marks})", self.ledger.tables.marks);
        (sql, texts.iter().cloned().map(Value::Text).collect())
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

    pub(super) async fn state(&mut self) -> Result<&State, LedgerError> {
        if self.state.is_none() {
            let (meta, marks, owed) = self.read().await?;
            if meta.term != self.term {
                return Err(LedgerError::Fenced);
            }
            self.ledger.check_known(&meta)?;
            let mut tag = Tag::from_random(rand::random());
            while meta.tag == Some(tag) {
                tag = Tag::from_random(rand::random());
            }
            self.state = Some(State {
                epoch: meta.epoch,
                base: meta.base,
                last_seq: meta.head,
                last_tag: meta.tag,
                tag,
                set_aside: meta.set_aside,
                marks,
                owed,
            });
        }
        self.state.as_ref().ok_or(LedgerError::Fenced)
    }

    /// All by one connection: another one may be to a server that is behind.
    async fn read(&self) -> Result<(Meta, Marks, Owed), LedgerError> {
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
        Ok((self.ledger.read_meta(meta.pop())?, Marks::read(texts), read_owed(owed)))
    }

    pub(super) async fn write(
        &self,
        plan: &Plan<'_>,
        marks: &[String],
        state: &State,
        forget: &Forget,
        now: When,
    ) -> Result<(), LedgerError> {
        let tables = &self.ledger.tables;
        let last = plan.changes.last().map_or(state.last_seq, |(seq, _)| *seq);
        let last_tag = if plan.changes.is_empty() { state.last_tag } else { Some(state.tag) };
        let set_aside = state.set_aside + plan.bad.len() as u64;
        let mut tx = self.ledger.db.begin().await?;
        // The fence: also takes the row lock that makes writers go one after the other. The last number and its tag say
        // that the ledger holds all that it held when this was read, and nothing else.
        let fence = format!(
            "UPDATE {} SET last_seq = ?, last_tag = ?, set_aside_count = ? WHERE one = 1 AND term = ? AND epoch = ? AND \
             last_seq = ? AND last_tag = ?",
            tables.meta
        );
        let base = state.base;
        let int = |number: u64| Value::Int(number.cast_signed());
        let (epoch, term) = (Value::Text(state.epoch.to_string()), Value::Int(self.term));
        let (new, old) = (int(base + last), int(base + state.last_seq));
        let args = [new, tag_text(last_tag), int(set_aside), term, epoch, old, tag_text(state.last_tag)];
        if tx.execute(&fence, &args).await? != 1 {
            drop(tx);
            return Err(self.ledger.refused(self.term).await);
        }
        if last_tag != state.last_tag {
            let sql = format!("INSERT INTO {} (first_seq, tag, since_us) VALUES (?,?,?)", tables.runs);
            let args = [int(base + state.last_seq + 1), tag_text(last_tag), Value::Int(now.as_micros())];
            tx.execute(&sql, &args).await?;
        }
        for chunk in plan.changes.chunks(2 * CHUNK) {
            let now = now.as_micros();
            let mut sql = format!("INSERT INTO {} (seq, bug, when_us, recorded_us) VALUES ", tables.changes);
            for (index, (seq, change)) in chunk.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                // Writing to a String cannot fail.
                let _ = write!(sql, "{comma}({},{},{},{now})", base + seq, change.bug, change.when.as_micros());
            }
            tx.execute(&sql, &[]).await?;
        }
        self.write_forget(&mut tx, forget).await?;
        self.write_marks(&mut tx, marks).await?;
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
