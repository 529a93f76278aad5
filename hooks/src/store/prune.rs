//! Pruning by hand: what a source, a key or a time has brought is taken back, as far as it can be.
//!
//! Goes in: a filter. Comes out: first, in a dry run, how many events of each state are concerned; then, in steps, what
//! was done. What waits is canceled (through the core, so that those behind it go on). Of what is terminal, the log is
//! erased down to hash and identifiers: kind, reasons, kept items, bodies and headers go. A change that was numbered is
//! a public fact and stays, and an event that is being processed is left for another run.

use std::collections::BTreeMap;

use bugfeed_core::hooks::event::{EventId, State};
use bugfeed_core::hooks::orders::Order;
use bugfeed_sql::Value;

use super::cells::{Columns, marks, text_value};
use super::codes::{Code, event_id, last_event};
use super::events::Range;
use super::row::needed_id;
use super::{Store, StoreError};
use crate::receive::received::RequestId;

/// How many requests a step looks at.
const REQUESTS: usize = 100;

/// What is to be pruned. All that is said must fit; nothing said is refused by whoever reads it from people.
#[derive(Clone, Debug, Default)]
pub struct PruneFilter {
    /// What came through this source.
    pub source: Option<String>,
    /// What came with this key.
    pub key_id: Option<String>,
    /// What came with this request.
    pub request: Option<RequestId>,
    /// What was received in this time.
    pub range: Range,
}

/// How much is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneCount {
    /// How many requests.
    pub requests: u64,
    /// How many events of each state.
    pub events: BTreeMap<State, u64>,
}

/// Where a run of pruning is.
#[derive(Clone, Debug)]
pub struct PruneRun {
    filter: PruneFilter,
    after: Option<RequestId>,
    /// Whether all requests were looked at.
    pub is_done: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Events that were canceled.
    pub canceled: u64,
    /// Terminal events whose log was erased.
    pub erased: u64,
    /// Events that were being processed, and are left.
    pub left: u64,
}

/// The events of some requests.
struct Found {
    requests: Vec<Value>,
    events: Vec<(EventId, State)>,
}

impl PruneRun {
    /// A run from the beginning.
    pub fn new(filter: PruneFilter) -> PruneRun {
        PruneRun { filter, after: None, is_done: false }
    }
}

impl Store {
    /// Says what a filter concerns, step by step like the real run: call it until the run is done.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn count_prune(&self, run: &mut PruneRun, count: &mut PruneCount) -> Result<(), StoreError> {
        let found = self.found(run).await?;
        count.requests += found.requests.len() as u64;
        for (_, state) in found.events {
            *count.events.entry(state).or_insert(0) += 1;
        }
        Ok(())
    }

    /// Does one step of a run.
    ///
    /// # Errors
    /// When the database cannot be written. The step can be repeated.
    pub async fn prune(&self, run: &mut PruneRun, now_us: i64) -> Result<Pruned, StoreError> {
        let before = run.clone();
        let found = self.found(run).await?;
        let done = self.prune_found(&found, now_us).await;
        if done.is_err() {
            *run = before;
        }
        done
    }

    async fn found(&self, run: &mut PruneRun) -> Result<Found, StoreError> {
        let (mut wanted, mut args) = (vec!["id > ?"], vec![Value::Text(run.after.unwrap_or(RequestId(0)).to_string())]);
        let filter = &run.filter;
        if let Some(source) = &filter.source {
            wanted.push("source = ?");
            args.push(text_value(source));
        }
        if let Some(key_id) = &filter.key_id {
            wanted.push("key_id = ?");
            args.push(text_value(key_id));
        }
        if let Some(request) = filter.request {
            wanted.push("id = ?");
            args.push(Value::Text(request.to_string()));
        }
        filter.range.conditions(&mut wanted, &mut args);
        let sql = format!("SELECT id FROM hooks_requests WHERE {} ORDER BY id LIMIT {REQUESTS}", wanted.join(" AND "));
        let mut requests = Vec::new();
        let mut events = Vec::new();
        for row in self.reader.fetch(&sql, &args).await? {
            let id = RequestId(needed_id(&mut Columns::of(row))?.0);
            run.after = Some(id);
            requests.push(Value::Text(id.to_string()));
            let range = [Value::Text(id.event(0).to_string()), Value::Text(last_event(id).to_string())];
            let sql = "SELECT id, state FROM hooks_events WHERE id >= ? AND id <= ?";
            for row in self.reader.fetch(sql, &range).await? {
                let mut row = Columns::of(row);
                let (id, state) = (row.text()?, row.int()?);
                events.extend(event_id(&id).zip(State::of(state)));
            }
        }
        run.is_done = requests.len() < REQUESTS;
        Ok(Found { requests, events })
    }

    async fn prune_found(&self, found: &Found, now_us: i64) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let waiting: Vec<EventId> =
            found.events.iter().filter(|(_, state)| !state.is_terminal()).map(|(id, _)| *id).collect();
        pruned.canceled = self.order_all(&waiting, Order::Prune, now_us).await? as u64;
        pruned.left = waiting.len() as u64 - pruned.canceled;
        let left: Vec<EventId> = if pruned.left == 0 { Vec::new() } else { self.still_open(&waiting).await? };
        let terminal: Vec<Value> = found
            .events
            .iter()
            .filter(|(id, _)| !left.contains(id))
            .map(|(id, _)| Value::Text(id.to_string()))
            .collect();
        pruned.erased = found.events.len() as u64 - waiting.len() as u64;
        let mut tx = self.db.begin().await?;
        for chunk in terminal.chunks(500) {
            let list = marks(chunk.len());
            for table in ["hooks_reasons", "hooks_kept"] {
                tx.execute(&format!("DELETE FROM {table} WHERE event IN ({list})"), chunk).await?;
            }
            let sql = format!("UPDATE hooks_events SET kind = '' WHERE id IN ({list})");
            tx.execute(&sql, chunk).await?;
        }
        for chunk in found.requests.chunks(500) {
            let list = marks(chunk.len());
            tx.execute(&format!("DELETE FROM hooks_bodies WHERE request IN ({list})"), chunk).await?;
            let sql = format!("UPDATE hooks_requests SET headers = '[]', path = '' WHERE id IN ({list})");
            tx.execute(&sql, chunk).await?;
        }
        tx.commit().await?;
        self.count_bodies().await?;
        Ok(pruned)
    }

    async fn still_open(&self, ids: &[EventId]) -> Result<Vec<EventId>, StoreError> {
        let mut open = Vec::new();
        for chunk in ids.chunks(500) {
            let args: Vec<Value> = chunk.iter().map(|id| Value::Text(id.to_string())).collect();
            let sql = format!("SELECT id, state FROM hooks_events WHERE id IN ({})", marks(args.len()));
            for row in self.db.fetch(&sql, &args).await? {
                let mut row = Columns::of(row);
                let id = needed_id(&mut row)?;
                if State::of(row.int()?).is_some_and(|state| !state.is_terminal()) {
                    open.push(id);
                }
            }
        }
        Ok(open)
    }
}
