//! Dead letters, by bug: the head that fails, and how many wait behind it.
//!
//! Goes in: filters, and where the last page ended. Comes out: heads, newest first. What can be done about one is an
//! order ([`bugfeed_core::hooks::orders`]), carried out by [`Store::order`].

use std::collections::BTreeMap;

use bugfeed_core::hooks::event::{EventId, State};
use bugfeed_core::hooks::orders::{Order, Refusal, carry_out};
use bugfeed_sql::Value;

use super::apply::{Applied, Plan};
use super::cells::{Columns, marks, text_value};
use super::codes::Code;
use super::events::page_size;
use super::requests::failure;
use super::row::{self, StoredEvent, columns, needed_id};
use super::{Store, StoreError};
use crate::receive::received::Failure;

/// A dead letter that is not blocked by another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The errored event. Its `due_us` is the next try, its `expires_us` the end.
    pub head: StoredEvent,
    /// Why it failed.
    pub reason: Option<Failure>,
    /// How many events of its bug wait behind it.
    pub waiting: u64,
    /// When the first of them was received.
    pub waiting_since_us: Option<i64>,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// It was carried out.
    Done,
    /// There is no such event.
    NoEvent,
    /// It cannot be carried out, for this reason.
    Refused(Refusal),
}

impl Store {
    /// A page of dead letters, at most 1,000, newest first; the next one goes on after the last event of this one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn dead_letters(
        &self,
        source: Option<&str>,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let mut wanted = "shelf = ? AND blocked_by IS NULL".to_owned();
        let mut args = vec![Value::Int(State::Errored.code())];
        if let Some(after) = after {
            wanted.push_str(" AND id < ?");
            args.push(Value::Text(after.to_string()));
        }
        if let Some(source) = source {
            // So that the index of sources is not chosen: there are few dead letters.
            wanted.push_str(" AND COALESCE(source, '') = ?");
            args.push(text_value(source));
        }
        let (all, limit) = (columns(""), page_size(limit));
        let sql = format!("SELECT {all} FROM hooks_events WHERE {wanted} ORDER BY id DESC LIMIT {limit}");
        let heads = row::readable(self.reader.fetch(&sql, &args).await?);
        let ids: Vec<Value> = heads.iter().map(|head| Value::Text(head.event.id.to_string())).collect();
        let mut chains = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        for chunk in ids.chunks(500) {
            let list = marks(chunk.len());
            let sql = format!(
                "SELECT blocked_by, COUNT(*), MIN(received_us) FROM hooks_events WHERE blocked_by IN ({list}) GROUP BY \
                 blocked_by"
            );
            for row in self.reader.fetch(&sql, chunk).await? {
                let mut row = Columns::of(row);
                chains.insert(needed_id(&mut row)?, (row.count()?, row.maybe_int()?));
            }
            let sql = format!("SELECT event, error, fix FROM hooks_reasons WHERE event IN ({list})");
            for row in self.reader.fetch(&sql, chunk).await? {
                let mut row = Columns::of(row);
                reasons.insert(needed_id(&mut row)?, failure(&mut row)?);
            }
        }
        let letter = |head: StoredEvent| {
            let (waiting, waiting_since_us) = chains.get(&head.event.id).copied().unwrap_or((0, None));
            let reason = reasons.remove(&head.event.id);
            DeadLetter { head, reason, waiting, waiting_since_us }
        };
        Ok(heads.into_iter().map(letter).collect())
    }

    /// How many dead letters there are, blocked ones included, up to 100,000.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn count_dead_letters(&self) -> Result<u64, StoreError> {
        let sql = "SELECT COUNT(*) FROM (SELECT 1 AS one FROM hooks_events WHERE shelf = ? LIMIT 100000) dead";
        let rows = self.reader.fetch(sql, &[Value::Int(State::Errored.code())]).await?;
        Ok(super::cells::only_number(rows)?.max(0).unsigned_abs())
    }

    /// Carries out an order about one event.
    ///
    /// # Errors
    /// When the database cannot be written, or others were quicker several times.
    pub async fn order(&self, id: EventId, order: Order, now_us: i64) -> Result<Ordered, StoreError> {
        for _ in 0..5 {
            let Some(event) = self.event(id).await? else { return Ok(Ordered::NoEvent) };
            let actions = match carry_out(order, &event, now_us) {
                Ok(actions) => actions,
                Err(refusal) => return Ok(Ordered::Refused(refusal)),
            };
            let plan = Plan { now_us, actions, reasons: Vec::new() };
            if self.apply(&plan).await? == Applied::Done {
                return Ok(Ordered::Done);
            }
        }
        Err(StoreError::Contended)
    }

    /// Carries out an order about many events, in one transaction if that works; returns how many it concerned. Those
    /// that it cannot be carried out for are passed over. At most 1,000 at a time.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn order_all(&self, ids: &[EventId], order: Order, now_us: i64) -> Result<usize, StoreError> {
        let mut plans = Vec::new();
        for chunk in ids.chunks(500) {
            let args: Vec<Value> = chunk.iter().map(|id| Value::Text(id.to_string())).collect();
            let sql = format!("SELECT {} FROM hooks_events WHERE id IN ({})", columns(""), marks(args.len()));
            for event in row::readable_events(self.lanes.fetch(&sql, &args).await?) {
                if let Ok(actions) = carry_out(order, &event, now_us) {
                    plans.push(Plan { now_us, actions, reasons: Vec::new() });
                }
            }
        }
        let applied = self.apply_many(&plans).await?;
        Ok(applied.into_iter().filter(|applied| *applied == Applied::Done).count())
    }

    /// Up to so many events of a source in a state, after this one in the order of receipt: to give an order about
    /// each. (`errored` for a mended cause, `disabled` for a source that is switched on again.)
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn in_state(
        &self,
        state: State,
        source: Option<&str>,
        feed: Option<&str>,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<EventId>, StoreError> {
        let mut wanted = "shelf = ? AND id > ?".to_owned();
        let after = after.unwrap_or(EventId(0));
        let mut args = vec![Value::Int(state.code()), Value::Text(after.to_string())];
        for (condition, name) in [(" AND COALESCE(source, '') = ?", source), (" AND feed = ?", feed)] {
            if let Some(name) = name {
                wanted.push_str(condition);
                args.push(text_value(name));
            }
        }
        let limit = page_size(limit);
        let sql = format!("SELECT id FROM hooks_events WHERE {wanted} ORDER BY id LIMIT {limit}");
        let rows = self.lanes.fetch(&sql, &args).await?;
        rows.into_iter().map(|row| needed_id(&mut Columns::of(row))).collect()
    }
}
