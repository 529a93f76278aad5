//! Who serves which endpoints: leases of partitions, many at once.
//!
//! Goes in: the time. Comes out: what this process holds, with the terms (fencing tokens), and what it should give away, so
//! that all processes have equal shares. [`bugfeed_core::endpoints::partitions`] decides; this module reads and writes the
//! rows. A lease is given up by 6 s of silence, as all of [`crate::store::leases`]. Each process also has a row of its own,
//! so that others know that it wants a share.
//!
//! **How to use it**: one [`Leases::round`] each second. Serve what was taken within the fence: nothing before
//! [`REQUEST_US`](bugfeed_core::endpoints::endpoint::REQUEST_US) have passed since the round, where [`Taken::waits`] says that
//! the holder before may be sending yet; and nothing from [`FENCE`] after [`Round::begun`] of the last round that succeeded.
//! What is to be given away: finish its requests, save its rows, then [`Leases::release`] it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugfeed_core::endpoints::partitions::{self, Lease, PARTITIONS, Plan, View};
use bugfeed_sql::{CellKind, Dialect, Tx, Value};

use super::columns::signed;
use crate::store::cells::{Columns, Rows, marks};
use crate::store::leases::SILENCE;
use crate::store::{Store, StoreError, lock};

/// A holder begins no request so long after the beginning of its last round that succeeded.
pub const FENCE: Duration = Duration::from_secs(5);
/// The row of a process that was silent for so long goes.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// The names of the rows begin with this.
const PREFIX: &str = "endpoints";

/// The name of a partition's lease.
pub(super) fn lease_name(partition: u16) -> String {
    format!("{PREFIX}-{partition}")
}

/// The terms of these partitions' leases, which nobody takes before this transaction ends.
pub(in crate::store) async fn terms(
    tx: &mut Tx,
    dialect: &dyn Dialect,
    partitions: &BTreeSet<u16>,
) -> Result<BTreeMap<u16, u64>, StoreError> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: Vec<Value> = partitions.iter().map(|partition| Value::Text(lease_name(*partition))).collect();
    let (list, lock) = (marks(names.len()), dialect.shared_lock());
    let sql = format!("SELECT name, term FROM hooks_leases WHERE name IN ({list}) ORDER BY name{lock}");
    let mut terms = BTreeMap::new();
    for row in tx.fetch(&sql, &names).await? {
        let mut row = Columns::of(row);
        let (name, term) = (row.text()?, row.count()?);
        terms.extend(partition_of(&name).map(|partition| (partition, term)));
    }
    Ok(terms)
}

fn partition_of(name: &str) -> Option<u16> {
    let number = name.strip_prefix(PREFIX)?.strip_prefix('-')?;
    number.parse().ok().filter(|partition| *partition < PARTITIONS)
}

/// A clock that never goes back.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The leases of one process.
pub struct Leases {
    store: Store,
    clock: Clock,
    /// The row of this process.
    name: String,
    /// The holder of what it holds.
    me: String,
    held: BTreeMap<u16, u64>,
    /// What was let go, and may not have been given back yet, because the database failed. It is never held again under the
    /// same term: who serves an endpoint numbers its effects from 1 in its term.
    let_go: BTreeSet<u16>,
    seen: Seen,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("me", &self.me).field("held", &self.held).finish_non_exhaustive()
    }
}

/// A row of the leases.
#[derive(Debug)]
struct LeaseRow {
    name: String,
    term: u64,
    beat: i64,
    holder: Option<String>,
}

/// Since when each row has stood still, by the monotonic clock of this process.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, ((u64, i64), Instant)>);

impl Seen {
    /// Looks at all rows, which had been read by now.
    fn look(&mut self, rows: &[LeaseRow], now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for row in rows {
            let is_now = (row.term, row.beat);
            let same = before.remove(&row.name).filter(|(was, _)| *was == is_now);
            self.0.insert(row.name.clone(), same.unwrap_or((is_now, now)));
        }
    }

    /// Whether a row that was read after this time had stood still for so long.
    fn stands_still(&self, row: &LeaseRow, now: Instant, long: Duration) -> bool {
        self.0.get(&row.name).is_some_and(|(_, since)| now.saturating_duration_since(*since) >= long)
    }
}

/// A partition that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub partition: u16,
    /// The fencing token.
    pub term: u64,
    /// The holder before has not given it back, and may have a request in flight: begin none before
    /// [`REQUEST_US`](bugfeed_core::endpoints::endpoint::REQUEST_US) have passed since the end of the round.
    pub waits: bool,
}

/// What a round did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// When it began: the fence of what is held counts from here.
    pub begun: Instant,
    /// All that is held now, with its term, also what was taken.
    pub held: BTreeMap<u16, u64>,
    /// What was taken just now.
    pub taken: Vec<Taken>,
    /// What was held before, and is another's now, or was meanwhile (then it is in `taken`, too, with its new term): its
    /// requests are to be aborted.
    pub lost: Vec<u16>,
    /// What others should have: let it go in order, and then [`Leases::release`] it.
    pub give: Vec<u16>,
}

impl Leases {
    /// The leases of this process, none yet. Each call is a process of its own for the others.
    pub fn new(store: &Store) -> Leases {
        Leases::with_clock(store, Arc::new(Instant::now))
    }

    /// The same with a clock.
    pub fn with_clock(store: &Store, clock: Clock) -> Leases {
        let id = format!("{:016x}", rand::random::<u64>());
        let (name, me) = (format!("{PREFIX}:{id}"), format!("{id}, {}", lock::holder()));
        Leases {
            store: store.clone(),
            clock,
            name,
            me,
            held: BTreeMap::new(),
            let_go: BTreeSet::new(),
            seen: Seen::default(),
        }
    }

    /// Shows that this process lives, and takes what is free and its share.
    ///
    /// # Errors
    /// When the database cannot be read or written. What was held is then held on, until its fence ends.
    pub async fn round(&mut self) -> Result<Round, StoreError> {
        self.give_back().await?;
        let begun = (self.clock)();
        self.beat().await?;
        // What was read may be as old as this. It counts as seen from the time after it was read.
        let now = (self.clock)();
        let mut rows = self.rows().await?;
        self.seen.look(&rows, (self.clock)());
        self.join_and_forget(&rows, now).await?;
        let plan = self.plan(&rows, now);
        let mut clean = BTreeSet::new();
        if !plan.take.is_empty() {
            let wanted = |row: &&LeaseRow| partition_of(&row.name).is_some_and(|part| plan.take.contains(&part));
            let wanted: Vec<&LeaseRow> = rows.iter().filter(wanted).collect();
            clean.extend(wanted.iter().filter(|row| row.holder.is_none()).filter_map(|row| partition_of(&row.name)));
            self.take(&wanted).await?;
            rows = self.rows().await?;
            self.seen.look(&rows, (self.clock)());
        }
        let mine = rows.iter().filter(|row| row.holder.as_deref() == Some(&*self.me));
        let held: BTreeMap<u16, u64> = mine.filter_map(|row| Some((partition_of(&row.name)?, row.term))).collect();
        let before = std::mem::replace(&mut self.held, held.clone());
        // A lease that is held and was not known comes from a write whose outcome was not known: it waits.
        let waits = |partition| !self.is_alone() && !clean.contains(&partition);
        let taken = held.iter().filter(|(partition, term)| before.get(partition) != Some(term));
        let taken = taken.map(|(&partition, &term)| Taken { partition, term, waits: waits(partition) }).collect();
        let lost = before.iter().filter(|(partition, term)| held.get(partition) != Some(term));
        let lost = lost.map(|(partition, _)| *partition).collect();
        let give = plan.give.into_iter().filter(|partition| held.contains_key(partition)).collect();
        Ok(Round { begun, held, taken, lost, give })
    }

    /// Nobody else may work on this store, because its file is locked. So no holder before lives.
    fn is_alone(&self) -> bool {
        self.store.shared.lock.is_some()
    }

    /// Who takes and gives what, by these rows.
    fn plan(&self, rows: &[LeaseRow], now: Instant) -> Plan {
        let is_mine = |row: &LeaseRow| row.holder.as_deref() == Some(&*self.me);
        let is_silent =
            |row: &LeaseRow| !is_mine(row) && (self.is_alone() || self.seen.stands_still(row, now, SILENCE));
        let is_member = |row: &&LeaseRow| partition_of(&row.name).is_none() && !is_silent(row);
        let members = rows.iter().filter(is_member).filter_map(|row| row.holder.as_deref()).collect();
        let leases = rows.iter().filter_map(|row| {
            let partition = partition_of(&row.name)?;
            Some(Lease { partition, holder: row.holder.as_deref(), is_silent: is_silent(row) })
        });
        let leases = leases.collect();
        partitions::plan(&View { me: &self.me, members, leases })
    }

    /// All rows of endpoints.
    async fn rows(&self) -> Result<Vec<LeaseRow>, StoreError> {
        let sql =
            format!("SELECT name, term, beat, holder FROM hooks_leases WHERE name LIKE '{PREFIX}%' ORDER BY name");
        let read = |row| {
            let mut row = Columns::of(row);
            Ok(LeaseRow { name: row.text()?, term: row.count()?, beat: row.int()?, holder: row.maybe_text()? })
        };
        self.store.db.fetch(&sql, &[]).await?.into_iter().map(read).collect()
    }

    /// Counts up what is held, and the row of this process, in one statement.
    async fn beat(&self) -> Result<(), StoreError> {
        let mut args = names(self.held.keys().copied());
        args.push(Value::Text(self.name.clone()));
        let list = marks(args.len());
        args.push(Value::Text(self.me.clone()));
        let sql = format!("UPDATE hooks_leases SET beat = beat + 1 WHERE name IN ({list}) AND holder = ?");
        self.store.db.execute(&sql, &args).await?;
        Ok(())
    }

    /// Takes leases that are still as these rows say.
    async fn take(&self, wanted: &[&LeaseRow]) -> Result<(), StoreError> {
        let dialect = self.store.db.dialect();
        let mut rows = Rows::default();
        for row in wanted {
            rows.row().text(&row.name).int(signed(row.term)).int(row.beat).text(&self.me);
        }
        let kinds = [CellKind::Text, CellKind::Int, CellKind::Int, CellKind::Text];
        let values = dialect.rows_as_table(&kinds, &rows.rows);
        let on = "e.name = v.column1 AND e.term = v.column2 AND e.beat = v.column3";
        let set = [("term", "e.term + 1"), ("beat", "e.beat + 1"), ("holder", "v.column4")];
        let set = set.map(|(column, to)| (column, to.to_owned()));
        let sql = dialect.update_from("hooks_leases", &values, on, &set);
        match self.store.db.execute(&sql, &rows.args).await.map_err(StoreError::from) {
            // Others take leases at the same time. The next round tries again.
            Err(error) if error.is_conflict() => Ok(()),
            done => done.map(|_| ()),
        }
    }

    /// Writes the row of this process where there is none, and removes those of processes that ended long ago.
    async fn join_and_forget(&self, rows: &[LeaseRow], now: Instant) -> Result<(), StoreError> {
        if !rows.iter().any(|row| row.name == self.name) {
            let into = "hooks_leases (name, term, beat, holder) VALUES (?, 0, 0, ?)";
            let args = [Value::Text(self.name.clone()), Value::Text(self.me.clone())];
            self.store.db.execute(&self.store.db.dialect().insert_or_ignore(into), &args).await?;
        }
        for row in rows.iter().filter(|row| partition_of(&row.name).is_none() && row.name != self.name) {
            if self.seen.stands_still(row, now, FORGOTTEN) {
                let args = [Value::Text(row.name.clone()), Value::Int(row.beat)];
                self.store.db.execute("DELETE FROM hooks_leases WHERE name = ? AND beat = ?", &args).await?;
            }
        }
        Ok(())
    }

    /// Gives these back: others may serve them at once. Nothing of them may be in flight.
    ///
    /// # Errors
    /// When the database cannot be written; the next round tries again.
    pub async fn release(&mut self, partitions: &[u16]) -> Result<(), StoreError> {
        self.held.retain(|partition, _| !partitions.contains(partition));
        self.let_go.extend(partitions);
        self.give_back().await
    }

    async fn give_back(&mut self) -> Result<(), StoreError> {
        if self.let_go.is_empty() {
            return Ok(());
        }
        let mut args = names(self.let_go.iter().copied());
        let list = marks(args.len());
        args.push(Value::Text(self.me.clone()));
        let sql = format!("UPDATE hooks_leases SET holder = NULL WHERE name IN ({list}) AND holder = ?");
        self.store.db.execute(&sql, &args).await?;
        self.let_go.clear();
        Ok(())
    }

    /// Gives everything back, and leaves. Nothing may be in flight.
    ///
    /// # Errors
    /// When the database cannot be written; others then wait for the silence.
    pub async fn leave(&mut self) -> Result<(), StoreError> {
        let held: Vec<u16> = self.held.keys().copied().collect();
        self.release(&held).await?;
        let args = [Value::Text(self.name.clone()), Value::Text(self.me.clone())];
        self.store.db.execute("DELETE FROM hooks_leases WHERE name = ? AND holder = ?", &args).await?;
        Ok(())
    }
}

fn names(partitions: impl Iterator<Item = u16>) -> Vec<Value> {
    partitions.map(|partition| Value::Text(lease_name(partition))).collect()
}
