//! What is old, or too much, goes: in small steps, each a transaction of its own.
//!
//! Goes in: what is to be kept, and the time. Comes out: fewer rows. An event that is not terminal never goes. A step
//! removes at most 1,000 rows, and fewer where steps take long, so that no other write waits for it. One process at a
//! time does it (a lease), because two would only be in each other's way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bugfeed_core::hooks::event::{EventId, State};
use bugfeed_sql::Value;

use super::cells::{Columns, marks, only_number};
use super::codes::{Code, last_event, lowest_id, request_of};
use super::row::needed_id;
use super::{Store, StoreError, bodies, quarantine};
use crate::receive::received::RequestId;

/// The most rows that a step removes.
const MOST: usize = 1000;
/// The fewest rows that a step removes, if there are so many.
const FEWEST: usize = 50;
/// How long a step should take. Steps that take longer become smaller.
const STEP: Duration = Duration::from_millis(20);

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Terminal events, and requests, that were received longer ago than this go, in microseconds.
    pub events_us: i64,
    /// Of more events than this, the oldest terminal ones go. (An event takes about 600 bytes with its indexes, and its
    /// request as much again.)
    pub events: u64,
    /// Bodies that were received longer ago go, in microseconds.
    pub bodies_us: i64,
    /// Requests in quarantine that were received longer ago go, in microseconds.
    pub quarantine_us: i64,
    /// Lines of the audit log that are older go, in microseconds.
    pub audit_us: i64,
    /// Attempts at endpoints that are older go, in microseconds.
    pub attempts_us: i64,
}

impl Default for Keep {
    fn default() -> Keep {
        const DAY_US: i64 = 86_400_000_000;
        Keep {
            events_us: 90 * DAY_US,
            events: 10_000_000,
            bodies_us: 7 * DAY_US,
            quarantine_us: 7 * DAY_US,
            audit_us: 730 * DAY_US,
            attempts_us: 7 * DAY_US,
        }
    }
}

/// Where a run of retention is. A run goes once from the oldest row to the bound; a new run begins again.
#[derive(Debug)]
pub struct Run {
    stage: Stage,
    now_us: i64,
    keep: Keep,
    /// The event, or request, that was looked at last.
    after: EventId,
    /// Events that are to go because there are too many.
    surplus: u64,
    /// There were such events when the run began.
    had_surplus: bool,
    /// How many rows the next step takes.
    rows: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Events,
    Surplus,
    Requests,
    Kept,
    Bodies,
    Quarantine,
    Audit,
    Attempts,
    Done,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many rows went.
    pub rows: u64,
    /// Whether the run is at its end.
    pub is_done: bool,
}

impl Store {
    /// Begins a run. Counts all events once, which takes about a second for 10 million, on a connection of its own.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn begin_retention(&self, keep: Keep, now_us: i64) -> Result<Run, StoreError> {
        self.count_bodies().await?;
        let sql = "SELECT COUNT(*) FROM hooks_events";
        let count = only_number(self.reader.fetch(sql, &[]).await?)?.max(0).unsigned_abs();
        let surplus = count.saturating_sub(keep.events);
        let (stage, after, had_surplus) = (Stage::Events, EventId(0), surplus > 0);
        Ok(Run { stage, now_us, keep, after, surplus, had_surplus, rows: 200 })
    }

    /// Does one step. Others may write between two steps; the caller may also wait there.
    ///
    /// # Errors
    /// When the database cannot be read or written. The step can be repeated.
    pub async fn retain(&self, run: &mut Run) -> Result<Removed, StoreError> {
        let begin = Instant::now();
        let (now_us, keep) = (run.now_us, run.keep);
        let rows = match run.stage {
            Stage::Events => self.step_events(run, lowest_id(now_us.saturating_sub(keep.events_us)), MOST).await?,
            Stage::Surplus => self.step_surplus(run).await?,
            Stage::Requests => self.step_requests(run, lowest_id(now_us.saturating_sub(keep.events_us))).await?,
            Stage::Kept => self.step_kept(run).await?,
            Stage::Bodies => self.step_bodies(run, lowest_id(now_us.saturating_sub(keep.bodies_us))).await?,
            Stage::Quarantine => {
                self.step_quarantine(run, lowest_id(now_us.saturating_sub(keep.quarantine_us))).await?
            }
            Stage::Audit => self.step_audit(run, lowest_id(now_us.saturating_sub(keep.audit_us))).await?,
            Stage::Attempts => self.step_attempts(run, lowest_id(now_us.saturating_sub(keep.attempts_us))).await?,
            Stage::Done => 0,
        };
        run.pace(begin.elapsed());
        Ok(Removed { rows, is_done: run.stage == Stage::Done })
    }

    /// Removes terminal events whose identifier is below the bound.
    async fn step_events(&self, run: &mut Run, below: EventId, most: usize) -> Result<u64, StoreError> {
        let limit = run.rows.min(most);
        let sql = format!("SELECT id, state, item FROM hooks_events WHERE id > ? AND id < ? ORDER BY id LIMIT {limit}");
        let args = [Value::Text(run.after.to_string()), Value::Text(below.to_string())];
        let rows = self.lanes.fetch(&sql, &args).await?;
        if rows.is_empty() {
            run.next();
            return Ok(0);
        }
        let mut gone = Vec::new();
        for row in rows {
            let mut row = Columns::of(row);
            let (id, state) = (needed_id(&mut row)?, State::of(row.int()?));
            run.after = id;
            if state.is_some_and(State::is_terminal) {
                gone.push(id);
            }
        }
        let removed = self.remove_events(&gone).await?;
        run.surplus = run.surplus.saturating_sub(removed);
        Ok(removed)
    }

    /// Removes the oldest terminal events while there are too many.
    async fn step_surplus(&self, run: &mut Run) -> Result<u64, StoreError> {
        if run.surplus == 0 {
            run.next();
            return Ok(0);
        }
        let most = usize::try_from(run.surplus).unwrap_or(MOST);
        // What was received within the last hour never goes: repeats must be recognised.
        let below = lowest_id(run.now_us.saturating_sub(3_600_000_000));
        self.step_events(run, below, most).await
    }

    /// Removes events and all that is known of them.
    async fn remove_events(&self, gone: &[EventId]) -> Result<u64, StoreError> {
        if gone.is_empty() {
            return Ok(0);
        }
        let mut tx = self.db.begin().await?;
        let mut removed = 0;
        for chunk in gone.chunks(500) {
            let ids: Vec<Value> = chunk.iter().map(|id| Value::Text(id.to_string())).collect();
            let list = marks(ids.len());
            for table in ["hooks_lines", "hooks_links", "hooks_reasons", "hooks_kept"] {
                tx.execute(&format!("DELETE FROM {table} WHERE event IN ({list})"), &ids).await?;
            }
            removed += tx.execute(&format!("DELETE FROM hooks_events WHERE id IN ({list})"), &ids).await?;
        }
        tx.commit().await?;
        Ok(removed)
    }

    /// Removes requests that have no events any more. Those in quarantine are not its business.
    async fn step_requests(&self, run: &mut Run, old: EventId) -> Result<u64, StoreError> {
        let below = if run.had_surplus { self.oldest_event(run.now_us).await?.max(old) } else { old };
        let limit = run.rows;
        let sql = format!("SELECT id, state FROM hooks_requests WHERE id > ? AND id < ? ORDER BY id LIMIT {limit}");
        let args = [Value::Text(run.after.to_string()), Value::Text(below.to_string())];
        let rows = self.lanes.fetch(&sql, &args).await?;
        let Some(first) = rows.first() else {
            run.next();
            return Ok(0);
        };
        let first = needed_id(&mut Columns::of(first.clone()))?;
        let mut ids = Vec::new();
        for row in rows {
            let mut row = Columns::of(row);
            let (id, state) = (needed_id(&mut row)?, row.int()?);
            run.after = id;
            if state != super::requests::RequestState::Quarantined as i64 {
                ids.push(id);
            }
        }
        let last = last_event(RequestId(run.after.0));
        let have_events = self.requests_with_events(first, last).await?;
        ids.retain(|id| !have_events.contains(&RequestId(id.0)));
        let args: Vec<Value> = ids.iter().map(|id| Value::Text(id.to_string())).collect();
        let mut removed = 0;
        let mut tx = self.db.begin().await?;
        for chunk in args.chunks(500) {
            let list = marks(chunk.len());
            tx.execute(&format!("DELETE FROM hooks_bodies WHERE request IN ({list})"), chunk).await?;
            removed += tx.execute(&format!("DELETE FROM hooks_requests WHERE id IN ({list})"), chunk).await?;
        }
        tx.commit().await?;
        Ok(removed)
    }

    /// The oldest event, but not of the last hour. Where events went because there were too many, requests that are
    /// older than this go as well.
    async fn oldest_event(&self, now_us: i64) -> Result<EventId, StoreError> {
        let hour_ago = lowest_id(now_us.saturating_sub(3_600_000_000));
        let oldest = self.lanes.fetch("SELECT id FROM hooks_events ORDER BY id LIMIT 1", &[]).await?.pop();
        let oldest = oldest.map(|row| needed_id(&mut Columns::of(row))).transpose()?;
        Ok(oldest.unwrap_or(hour_ago).min(hour_ago))
    }

    async fn requests_with_events(&self, first: EventId, last: EventId) -> Result<BTreeSet<RequestId>, StoreError> {
        let sql = "SELECT id, item FROM hooks_events WHERE id > ? AND id <= ?";
        let args = [Value::Text(first.to_string()), Value::Text(last.to_string())];
        let read = |row| {
            let mut row = Columns::of(row);
            Ok(request_of(needed_id(&mut row)?, row.number32()?))
        };
        self.lanes.fetch(sql, &args).await?.into_iter().map(read).collect()
    }

    /// Removes kept items whose events have expired.
    async fn step_kept(&self, run: &mut Run) -> Result<u64, StoreError> {
        let sql = format!("SELECT event FROM hooks_kept WHERE until_us < ? LIMIT {}", run.rows);
        let ids = self.lanes.fetch(&sql, &[Value::Int(run.now_us)]).await?;
        self.remove_listed(run, ids, "hooks_kept", "event").await
    }

    async fn step_audit(&self, run: &mut Run, below: EventId) -> Result<u64, StoreError> {
        let sql = format!("SELECT id FROM hooks_audit WHERE id < ? ORDER BY id LIMIT {}", run.rows);
        let ids = self.lanes.fetch(&sql, &[Value::Text(below.to_string())]).await?;
        self.remove_listed(run, ids, "hooks_audit", "id").await
    }

    /// Removes attempts: old ones, then the oldest of too many.
    async fn step_attempts(&self, run: &mut Run, below: EventId) -> Result<u64, StoreError> {
        let sql = format!("SELECT id FROM hooks_attempts WHERE id < ? ORDER BY id LIMIT {}", run.rows.min(500));
        let ids = self.lanes.fetch(&sql, &[Value::Text(below.to_string())]).await?;
        if !ids.is_empty() {
            return self.remove_listed(run, ids, "hooks_attempts", "id").await;
        }
        if self.count_attempts().await? > self.shared.bounds.attempt_bytes {
            return self.remove_oldest_attempts().await;
        }
        run.next();
        Ok(0)
    }

    async fn remove_listed(
        &self,
        run: &mut Run,
        ids: Vec<Vec<Value>>,
        table: &str,
        column: &str,
    ) -> Result<u64, StoreError> {
        if ids.is_empty() {
            run.next();
            return Ok(0);
        }
        let ids: Vec<Value> = ids.into_iter().flatten().collect();
        Ok(self.db.execute(&format!("DELETE FROM {table} WHERE {column} IN ({})", marks(ids.len())), &ids).await?)
    }

    /// Removes bodies: old ones, then the oldest of too many. A body may be 25 MiB, so a step takes only a few.
    async fn step_bodies(&self, run: &mut Run, below: EventId) -> Result<u64, StoreError> {
        let sql = "SELECT DISTINCT request FROM hooks_bodies WHERE request < ? ORDER BY request LIMIT 20";
        let ids = self.lanes.fetch(sql, &[Value::Text(below.to_string())]).await?;
        if !ids.is_empty() {
            return self.remove_listed(run, ids, "hooks_bodies", "request").await;
        }
        self.count_bodies().await?;
        let mut tx = self.db.begin().await?;
        let removed = bodies::make_room(self, &mut tx, self.shared.bounds.body_bytes).await?;
        tx.commit().await?;
        run.next();
        Ok(removed)
    }

    async fn step_quarantine(&self, run: &mut Run, below: EventId) -> Result<u64, StoreError> {
        let sql = format!("SELECT request FROM hooks_quarantine WHERE request < ? LIMIT {}", run.rows.min(100));
        let ids: Vec<Value> =
            self.lanes.fetch(&sql, &[Value::Text(below.to_string())]).await?.into_iter().flatten().collect();
        if ids.is_empty() {
            run.next();
            return Ok(0);
        }
        let mut tx = self.db.begin().await?;
        let removed = quarantine::remove(&mut tx, &ids).await?;
        tx.commit().await?;
        Ok(removed)
    }
}

impl Run {
    fn next(&mut self) {
        self.after = EventId(0);
        self.stage = match self.stage {
            Stage::Events => Stage::Surplus,
            Stage::Surplus => Stage::Requests,
            Stage::Requests => Stage::Kept,
            Stage::Kept => Stage::Bodies,
            Stage::Bodies => Stage::Quarantine,
            Stage::Quarantine => Stage::Audit,
            Stage::Audit => Stage::Attempts,
            Stage::Attempts | Stage::Done => Stage::Done,
        };
    }

    /// Fewer rows after a step that took long, more after a quick one.
    fn pace(&mut self, took: Duration) {
        let rows = if took > STEP { self.rows / 2 } else { self.rows + self.rows / 4 };
        self.rows = rows.clamp(FEWEST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_small_where_they_take_long() {
        let keep = Keep::default();
        let (stage, after) = (Stage::Events, EventId(0));
        let mut run = Run { stage, now_us: 0, keep, after, surplus: 0, had_surplus: false, rows: 200 };
        for _ in 0..20 {
            run.pace(STEP * 2);
        }
        assert_eq!(run.rows, FEWEST);
        for _ in 0..40 {
            run.pace(STEP / 2);
        }
        assert_eq!(run.rows, MOST);
    }
}
