//! What is due, and the rows that decide about a lane.
//!
//! Goes in: the time, or lanes. Comes out: lanes that must be looked at, and [`Lane`]s for the core's planner. Reads a
//! bounded number of rows, without locks: what is read may be out of date, and then its plan does not hold.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bugfeed_core::hooks::event::{Event, EventId, State, WhenOrigin};
use bugfeed_core::hooks::lane::{Lane, LaneKey, order};
use bugfeed_core::hooks::schedule::LONGEST_US;
use bugfeed_protocol::BugId;
use bugfeed_sql::{Db, Value};

use super::cells::{Columns, marks, only_number};
use super::codes::{self, Code};
use super::row::{self, columns, needed_id};
use super::{Store, StoreError};

/// The most rows of a kind (queued, errored) that a lane is read with.
const LANE_ROWS: usize = 64;
/// The most rows that [`Store::lanes`] reads together.
const TOGETHER: usize = 4000;
/// A due time further ahead of now than this is from a clock that was wrong, in microseconds.
const TOO_FAR_US: i64 = LONGEST_US + 1_000_000;

/// A lane that must be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The lane.
    pub key: LaneKey,
    /// Its due event waits, with others, for the pace of its source.
    pub is_paced: bool,
}

impl Store {
    /// Lanes that must be looked at now, those that are due for the longest time first; `paced` says whether those of live
    /// events, or those of retries, drains and reconciling. A lane in which an event is processed is due when that event's
    /// lease ends.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_lanes(&self, now_us: i64, paced: bool, limit: usize) -> Result<Vec<Due>, StoreError> {
        let far_us = now_us.saturating_add(TOO_FAR_US);
        // Several events of a lane are often due at once.
        let rows = limit.saturating_mul(4).min(20_000);
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for due in ["e.due_us <= ?", "e.due_us > ?"] {
            let sql = format!(
                "SELECT e.feed, e.bug, e.id FROM hooks_events e WHERE e.paced = ? AND {due} AND NOT EXISTS (SELECT 1 FROM \
                 hooks_events b WHERE b.busy = e.lane AND b.id <> e.id AND b.due_us > ? AND b.due_us <= ?) ORDER BY \
                 e.due_us LIMIT {rows}"
            );
            let bound_us = if due.contains("<=") { now_us } else { far_us };
            let args = [Value::Int(paced.into()), Value::Int(bound_us), Value::Int(now_us), Value::Int(far_us)];
            for row in self.lanes.fetch(&sql, &args).await? {
                let mut row = Columns::of(row);
                let (feed, bug) = (row.text()?, row.maybe_int()?);
                let key = key(feed, bug, needed_id(&mut row)?);
                if found.len() < limit && seen.insert(key.clone()) {
                    found.push(Due { key, is_paced: paced });
                }
            }
        }
        Ok(found)
    }

    /// When something will be due next, after now. `None`: never, as things are.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn next_due(&self, now_us: i64) -> Result<Option<i64>, StoreError> {
        let mut next = None;
        for paced in [0, 1] {
            let sql = "SELECT MIN(due_us) FROM hooks_events WHERE paced = ? AND due_us > ?";
            let rows = self.lanes.fetch(sql, &[Value::Int(paced), Value::Int(now_us)]).await?;
            let due_us = rows.into_iter().next().map(|row| Columns::of(row).maybe_int()).transpose()?.flatten();
            next = [next, due_us].into_iter().flatten().min();
        }
        Ok(next)
    }

    /// How many events are due now: the backlog, for metrics. Counts up to 100,000.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn backlog(&self, now_us: i64) -> Result<u64, StoreError> {
        let sql = "SELECT COUNT(*) FROM (SELECT 1 AS one FROM hooks_events WHERE paced IN (0, 1) AND due_us <= ? LIMIT \
                   100000) due";
        Ok(only_number(self.reader.fetch(sql, &[Value::Int(now_us)]).await?)?.max(0).unsigned_abs())
    }

    /// Reads a lane. `with_done`: also the newest completed events, which are needed where a source of the lane has `older
    /// = "drop"`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn lane(&self, key: &LaneKey, with_done: bool) -> Result<Lane, StoreError> {
        let number = Value::Int(codes::lane(key));
        let mut open = self.events("busy = ?", std::slice::from_ref(&number), "").await?;
        for state in [State::Queued, State::Errored] {
            let end = format!(" ORDER BY when_us, received_us, id LIMIT {LANE_ROWS}");
            let args = [number.clone(), Value::Int(state.code())];
            open.extend(self.events("open_lane = ? AND state = ?", &args, &end).await?);
        }
        open.retain(|event| LaneKey::of(event) == *key);
        let mut lane = Lane { open, ..Lane::default() };
        if with_done {
            lane.done = self.done(key, &lane.open).await?;
        }
        let mut lanes = [lane];
        self.add_related(&mut lanes).await?;
        let [lane] = lanes;
        Ok(lane)
    }

    /// Reads many lanes, in few statements where they are short. In the order of the keys.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn lanes(&self, keys: &[LaneKey], with_done: bool) -> Result<Vec<Lane>, StoreError> {
        let mut lanes: BTreeMap<&LaneKey, Lane> = BTreeMap::new();
        let mut alone: BTreeSet<&LaneKey> = BTreeSet::new();
        for chunk in keys.chunks(500) {
            let (whole, rest) = self.short_lanes(chunk).await?;
            lanes.extend(whole);
            alone.extend(rest);
        }
        let (names, mut read): (Vec<&LaneKey>, Vec<Lane>) = lanes.into_iter().unzip();
        if with_done {
            for (key, lane) in names.iter().zip(&mut read) {
                lane.done = self.done(key, &lane.open).await?;
            }
        }
        self.add_related(&mut read).await?;
        let mut lanes: BTreeMap<&LaneKey, Lane> = names.into_iter().zip(read).collect();
        for key in alone {
            lanes.insert(key, self.lane(key, with_done).await?);
        }
        Ok(keys.iter().map(|key| lanes.get(key).cloned().unwrap_or_default()).collect())
    }

    /// The open rows of lanes; and the keys of lanes that have too many rows to be read together with others.
    async fn short_lanes<'k>(
        &self,
        keys: &'k [LaneKey],
    ) -> Result<(BTreeMap<&'k LaneKey, Lane>, Vec<&'k LaneKey>), StoreError> {
        let numbers: BTreeMap<i64, &LaneKey> = keys.iter().map(|key| (codes::lane(key), key)).collect();
        let list = numbers.keys().map(i64::to_string).collect::<Vec<_>>().join(",");
        let mut rows = self.events(&format!("busy IN ({list})"), &[], "").await?;
        let end = format!(" ORDER BY open_lane, state, when_us LIMIT {TOGETHER}");
        let open = self.events(&format!("open_lane IN ({list})"), &[], &end).await?;
        // The lane at which the reading stopped may not be complete, and those after it were not read.
        let last = (open.len() >= TOGETHER).then(|| open.last().map(|event| codes::lane(&LaneKey::of(event)))).flatten();
        rows.extend(open);
        let is_whole = |number: i64| last.is_none_or(|last| number < last);
        let mut lanes = BTreeMap::new();
        let mut rest = Vec::new();
        for (number, key) in &numbers {
            if is_whole(*number) {
                lanes.insert(*key, Lane::default());
            } else {
                rest.push(*key);
            }
        }
        for event in rows {
            if let Some(lane) = lanes.get_mut(&LaneKey::of(&event)) {
                lane.open.push(event);
            }
        }
        lanes.values_mut().for_each(|lane| cut(&mut lane.open));
        // Two keys with one number are read one by one.
        rest.extend(keys.iter().filter(|key| numbers.get(&codes::lane(key)).is_none_or(|first| first != key)));
        Ok((lanes, rest))
    }

    /// The newest completed event of each source of the lane, where it is newer than something open.
    async fn done(&self, key: &LaneKey, open: &[Event]) -> Result<Vec<Event>, StoreError> {
        let mut oldest: BTreeMap<&str, i64> = BTreeMap::new();
        for event in open.iter().filter(|event| event.origin == WhenOrigin::Tracker) {
            let when_us = event.when.as_micros();
            oldest.entry(&event.source).and_modify(|oldest| *oldest = when_us.min(*oldest)).or_insert(when_us);
        }
        let mut done = Vec::new();
        for (source, oldest_us) in oldest {
            let wanted = "lane = ? AND when_us > ? AND state = ? AND origin = 0 AND source = ?";
            let args = [
                Value::Int(codes::lane(key)),
                Value::Int(oldest_us),
                Value::Int(State::Completed.code()),
                Value::Text(source.to_owned()),
            ];
            done.extend(self.events(wanted, &args, " ORDER BY when_us DESC LIMIT 1").await?);
        }
        done.retain(|event| LaneKey::of(event) == *key);
        Ok(done)
    }

    /// Adds the events that open ones repeat, and those that repeat open ones.
    async fn add_related(&self, lanes: &mut [Lane]) -> Result<(), StoreError> {
        let open = || lanes.iter().flat_map(|lane| &lane.open);
        let originals: BTreeSet<EventId> = open().filter_map(|event| event.repeat_of).collect();
        let failed: BTreeSet<EventId> =
            open().filter(|event| event.progress.class.is_some()).map(|event| event.id).collect();
        let mut found = self.by_ids("id", &originals).await?;
        found.extend(self.by_ids("repeat_of", &failed).await?);
        if found.is_empty() {
            return Ok(());
        }
        for lane in lanes {
            let is_related = |event: &&Event| {
                let repeats = |row: &Event| row.repeat_of == Some(event.id) || event.repeat_of == Some(row.id);
                lane.open.iter().any(repeats)
            };
            lane.related = found.iter().filter(is_related).cloned().collect();
        }
        Ok(())
    }

    async fn by_ids(&self, column: &str, ids: &BTreeSet<EventId>) -> Result<Vec<Event>, StoreError> {
        let ids: Vec<Value> = ids.iter().map(|id| Value::Text(id.to_string())).collect();
        let mut found = Vec::new();
        for chunk in ids.chunks(500) {
            let wanted = format!("{column} IN ({})", marks(chunk.len()));
            found.extend(self.events(&wanted, chunk, " LIMIT 2000").await?);
        }
        Ok(found)
    }

    async fn events(&self, wanted: &str, args: &[Value], end: &str) -> Result<Vec<Event>, StoreError> {
        select(&self.lanes, wanted, args, end).await
    }

    /// An event as it is now; `None` if there is none of this identifier.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, StoreError> {
        Ok(self.events("id = ?", &[Value::Text(id.to_string())], "").await?.pop())
    }
}

/// Reads events.
async fn select(db: &Db, wanted: &str, args: &[Value], end: &str) -> Result<Vec<Event>, StoreError> {
    let sql = format!("SELECT {} FROM hooks_events WHERE {wanted}{end}", columns(""));
    row::read_events(db.fetch(&sql, args).await?)
}

/// Of each kind, the first rows in order, as [`Store::lane`] reads them.
fn cut(open: &mut Vec<Event>) {
    open.sort_by(order);
    let mut counts = BTreeMap::new();
    open.retain(|event| {
        let count = counts.entry(event.progress.state).or_insert(0);
        *count += 1;
        *count <= LANE_ROWS
    });
}

fn key(feed: String, bug: Option<i64>, id: EventId) -> LaneKey {
    match bug.and_then(|bug| BugId::new(bug.unsigned_abs())) {
        Some(bug) => LaneKey::Bug(Arc::from(feed), bug),
        None => LaneKey::Alone(id),
    }
}
