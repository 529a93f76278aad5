//! What is due, and the rows that decide about a lane.
//!
//! Goes in: the time, or lanes. Comes out: lanes that must be looked at, and [`Lane`]s for the core's planner. Reads a
//! bounded number of rows, without locks: what is read may be out of date, and then its plan does not hold.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::event::{Event, EventId, State, WhenOrigin};
use bugfeed_core::hooks::lane::{Lane, LaneKey};
use bugfeed_core::hooks::schedule::LONGEST_US;
use bugfeed_protocol::BugId;
use bugfeed_sql::{Db, Value};

use super::cells::{Columns, marks, only_number, text_value};
use super::codes::{self, Code};
use super::row::{self, columns, needed_id};
use super::{Store, StoreError};

/// The most queued rows that a lane is read with: the first ones, and the same of those that are due.
const LANE_ROWS: usize = 64;
/// The same of errored rows. Where dead letters hold, the others are blocked and are not read; where they are superseded, a
/// newer event that is announced cancels those that were read.
const LANE_DEAD_ROWS: usize = 1000;
/// The most rows that [`Store::lanes`] reads together.
const TOGETHER: usize = 4000;
/// A due time further ahead of now than this is from a clock that was wrong, in microseconds.
const TOO_FAR_US: i64 = LONGEST_US + SECOND_US;

/// A row whose claim is over, or from a clock that was wrong. Few rows are claimed, and many may be due hours from now: the sums
/// keep the database from looking by due time.
pub(super) const CLAIMED: &str = "e.busy IS NOT NULL AND e.paced + 0 = ? AND e.due_us + 0 > ?";

/// The first rows of lanes that are due in this sense. `but`: a further condition.
pub(super) fn due_sql(is_due: &str, but: &str, rows: usize) -> String {
    format!(
        "SELECT e.feed, e.bug, e.id FROM hooks_events e WHERE {is_due} AND NOT EXISTS (SELECT 1 FROM hooks_events b WHERE \
         b.busy = e.lane AND b.id <> e.id AND b.due_us > ? AND b.due_us <= ?){but} ORDER BY e.due_us, e.id LIMIT {rows}"
    )
}

/// A lane that must be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The lane.
    pub key: LaneKey,
    /// Its due event waits, with others, for the pace of its source.
    pub is_paced: bool,
}

/// When, and for which workers, rows are read.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The time.
    pub now_us: i64,
    /// How long a claim holds, in microseconds: as in [`bugfeed_core::hooks::lane::World`].
    pub lease_us: i64,
    /// Whether the newest completed events are read as well: needed where a source of the lane has `older = "drop"`.
    pub with_done: bool,
}

impl Store {
    /// Lanes that must be looked at now ([`Event::is_due`]), those that are due for the longest time first; `paced`
    /// says whether those of live events, or those of retries, drains and reconciling. A lane in which an event is
    /// processed is due only if that event is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_lanes(&self, look: &Look, paced: bool, limit: usize) -> Result<Vec<Due>, StoreError> {
        self.due_lanes_but(look, paced, limit, &[]).await
    }

    /// The same without the lanes of these feeds.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_lanes_but(
        &self,
        look: &Look,
        paced: bool,
        limit: usize,
        without: &[Arc<str>],
    ) -> Result<Vec<Due>, StoreError> {
        let now_us = look.now_us;
        let but =
            if without.is_empty() { String::new() } else { format!(" AND e.feed NOT IN ({})", marks(without.len())) };
        let lost_us = now_us.saturating_add(2 * look.lease_us);
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for (is_due, bound_us) in [
            ("e.paced = ? AND e.due_us <= ?", now_us),
            ("e.paced = ? AND e.due_us > ?", now_us.saturating_add(TOO_FAR_US)),
            (CLAIMED, lost_us),
        ] {
            let mut args =
                vec![Value::Int(paced.into()), Value::Int(bound_us), Value::Int(now_us), Value::Int(lost_us)];
            args.extend(without.iter().map(|feed| text_value(feed)));
            // Several events of a lane are often due at once; then more rows are read.
            for rows in [limit.saturating_add(limit / 2), limit.saturating_mul(4)].map(|rows| rows.min(20_000)) {
                let read = self.lanes.fetch(&due_sql(is_due, &but, rows), &args).await?;
                let is_all = read.len() < rows;
                for row in read {
                    let mut row = Columns::of(row);
                    let (feed, bug) = (row.text()?, row.maybe_int()?);
                    let key = key(feed, bug, needed_id(&mut row)?);
                    if found.len() < limit && seen.insert(key.clone()) {
                        found.push(Due { key, is_paced: paced });
                    }
                }
                if is_all || found.len() >= limit {
                    break;
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

    /// Reads a lane.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn lane(&self, key: &LaneKey, look: &Look) -> Result<Lane, StoreError> {
        let mut open = self.open_rows(codes::lane(key), look).await?;
        open.retain(|event| LaneKey::of(event) == *key);
        let mut lane = Lane { open, ..Lane::default() };
        if look.with_done {
            lane.done = self.done(key, &lane.open).await?;
        }
        let mut lanes = [lane];
        self.add_related(&mut lanes).await?;
        let [lane] = lanes;
        Ok(lane)
    }

    /// The open rows of a lane: the first ones in order, and the first ones that are due.
    async fn open_rows(&self, number: i64, look: &Look) -> Result<Vec<Event>, StoreError> {
        let number = Value::Int(number);
        let mut open = self.events("busy = ?", std::slice::from_ref(&number), "").await?;
        for (state, most) in [(State::Queued, LANE_ROWS), (State::Errored, LANE_DEAD_ROWS)] {
            let end = format!(" ORDER BY when_us, received_us, id LIMIT {most}");
            let args = [number.clone(), Value::Int(state.code())];
            let first = self.events("open_lane = ? AND state = ?", &args, &end).await?;
            let is_whole = first.len() < most;
            open.extend(first);
            if is_whole {
                continue;
            }
            let end = format!(" ORDER BY due_us, when_us LIMIT {most}");
            for (is_due, bound_us) in
                [("due_us <= ?", look.now_us), ("due_us > ?", look.now_us.saturating_add(TOO_FAR_US))]
            {
                let args = [number.clone(), Value::Int(state.code()), Value::Int(bound_us)];
                let wanted = format!("open_lane = ? AND state = ? AND {is_due}");
                let due = self.events(&wanted, &args, &end).await?;
                let known: HashSet<EventId> = open.iter().map(|event| event.id).collect();
                open.extend(due.into_iter().filter(|event| !known.contains(&event.id)));
            }
        }
        Ok(open)
    }

    /// Reads many lanes, in few statements where they are short. In the order of the keys.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn lanes(&self, keys: &[LaneKey], look: &Look) -> Result<Vec<Lane>, StoreError> {
        let mut lanes: BTreeMap<&LaneKey, Lane> = BTreeMap::new();
        let mut alone: BTreeSet<&LaneKey> = BTreeSet::new();
        for chunk in keys.chunks(500) {
            let (whole, rest) = self.short_lanes(chunk).await?;
            lanes.extend(whole);
            alone.extend(rest);
        }
        let (names, mut read): (Vec<&LaneKey>, Vec<Lane>) = lanes.into_iter().unzip();
        if look.with_done {
            for (key, lane) in names.iter().zip(&mut read) {
                lane.done = self.done(key, &lane.open).await?;
            }
        }
        self.add_related(&mut read).await?;
        let mut lanes: BTreeMap<&LaneKey, Lane> = names.into_iter().zip(read).collect();
        for key in alone {
            lanes.insert(key, self.lane(key, look).await?);
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
        let last =
            (open.len() >= TOGETHER).then(|| open.last().map(|event| codes::lane(&LaneKey::of(event)))).flatten();
        rows.extend(open);
        let mut of_number: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
        for event in rows {
            of_number.entry(codes::lane(&LaneKey::of(&event))).or_default().push(event);
        }
        let (mut lanes, mut rest) = (BTreeMap::new(), Vec::new());
        for key in keys {
            let number = codes::lane(key);
            let open = of_number.get(&number).map_or(&[][..], Vec::as_slice);
            let was_read = last.is_none_or(|last| number < last);
            if was_read && open.len() < LANE_ROWS {
                let open = open.iter().filter(|event| LaneKey::of(event) == *key).cloned().collect();
                lanes.insert(key, Lane { open, ..Lane::default() });
            } else {
                rest.push(key);
            }
        }
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

    /// Adds the other events of the families of the open ones.
    async fn add_related(&self, lanes: &mut [Lane]) -> Result<(), StoreError> {
        let open = lanes.iter().flat_map(|lane| &lane.open);
        let families: BTreeSet<EventId> = open.filter(|event| has_family(event)).map(Event::family).collect();
        let mut found = self.by_ids("id", &families).await?;
        found.extend(self.by_ids("repeat_of", &families).await?);
        if found.is_empty() {
            return Ok(());
        }
        for lane in lanes {
            let is_related = |event: &&Event| {
                let of = |row: &Event| has_family(row) && row.id != event.id && row.family() == event.family();
                lane.open.iter().any(of)
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

    pub(super) async fn events(&self, wanted: &str, args: &[Value], end: &str) -> Result<Vec<Event>, StoreError> {
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
    Ok(row::readable_events(db.fetch(&sql, args).await?))
}

/// Whether other events may be of its family: not on the ordinary way.
fn has_family(event: &Event) -> bool {
    event.repeat_of.is_some() || event.progress.class.is_some() || event.progress.attempts > 0
}

fn key(feed: String, bug: Option<i64>, id: EventId) -> LaneKey {
    match bug.and_then(|bug| BugId::new(bug.unsigned_abs())) {
        Some(bug) => LaneKey::Bug(Arc::from(feed), bug),
        None => LaneKey::Alone(id),
    }
}
