//! Lanes of retries, drains and reconciling that are due, source by source.
//!
//! Goes in: the time, and a source. Comes out: its lanes, those that are due for the longest time first, as many as its
//! pace allows. A source with a long backlog does not hide those of the others.

use std::collections::HashSet;
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::event::{ErrorClass, Event, State};
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_core::hooks::schedule::LONGEST_US;
use bugfeed_protocol::BugId;
use bugfeed_sql::Value;

use super::cells::{Columns, text_value};
use super::codes::Code;
use super::row::needed_id;
use super::{Look, Store, StoreError};

/// So many sources with paced rows are looked at. More than that are not in any configuration.
const MOST_SOURCES: usize = 1000;

/// A row whose claim is over, or from a clock that was wrong. Few rows are claimed, and many may be due hours from now: so they
/// are looked up by their claims; the sums keep the database from looking by due time.
pub(super) const CLAIMED: &str = "e.id IN (SELECT c.id FROM hooks_events c WHERE c.busy IS NOT NULL AND c.paced + 0 = 1 AND \
                                  c.due_us + 0 > ?)";

impl Store {
    /// Paced lanes of a source that must be looked at now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_paced(&self, source: &str, look: &Look, limit: usize) -> Result<Vec<LaneKey>, StoreError> {
        let now_us = look.now_us;
        let far_us = now_us.saturating_add(LONGEST_US + SECOND_US);
        let lost_us = now_us.saturating_add(2 * look.lease_us);
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for (due, bound_us) in [("e.due_us <= ?", now_us), ("e.due_us > ?", far_us), (CLAIMED, lost_us)] {
            let sql = due_sql(due, limit);
            let args = [text_value(source), Value::Int(bound_us), Value::Int(now_us), Value::Int(lost_us)];
            for row in self.lanes.fetch(&sql, &args).await? {
                let mut row = Columns::of(row);
                let (feed, bug) = (row.text()?, row.maybe_int()?);
                let id = needed_id(&mut row)?;
                let key = match bug.and_then(|bug| BugId::new(bug.unsigned_abs())) {
                    Some(bug) => LaneKey::Bug(Arc::from(feed), bug),
                    None => LaneKey::Alone(id),
                };
                if found.len() < limit && seen.insert(key.clone()) {
                    found.push(key);
                }
            }
        }
        Ok(found)
    }

    /// The sources that have paced rows which are or will be due: also those that are not configured any more.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn paced_sources(&self) -> Result<Vec<String>, StoreError> {
        // One step of the index for each source, however many rows it has.
        let sql = "SELECT source FROM hooks_events WHERE paced = 1 AND due_us IS NOT NULL AND source > ? ORDER BY source \
                   LIMIT 1";
        let mut sources: Vec<String> = Vec::new();
        while sources.len() < MOST_SOURCES {
            let after = sources.last().map_or("", String::as_str);
            let Some(row) = self.lanes.fetch(sql, &[text_value(after)]).await?.pop() else { break };
            sources.push(Columns::of(row).text()?);
        }
        Ok(sources)
    }

    /// The dead letter of class `tracker` that a probe of a source's tracker asks about: of those with a bug that wait
    /// for no other, the one that is due first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn to_probe(&self, source: &str) -> Result<Option<Event>, StoreError> {
        let wanted = "paced = 1 AND source = ? AND due_us IS NOT NULL AND state = ? AND class = ? AND bug IS NOT NULL";
        let args = [text_value(source), Value::Int(State::Errored.code()), Value::Int(ErrorClass::Tracker.code())];
        Ok(self.events(wanted, &args, " ORDER BY due_us, id LIMIT 1").await?.pop())
    }
}

/// The paced lanes of a source for which this holds.
pub(super) fn due_sql(due: &str, limit: usize) -> String {
    let rows = limit.saturating_mul(2).clamp(1, 20_000);
    format!(
        "SELECT e.feed, e.bug, e.id FROM hooks_events e WHERE e.paced = 1 AND e.source = ? AND {due} AND NOT EXISTS \
         (SELECT 1 FROM hooks_events b WHERE b.busy = e.lane AND b.id <> e.id AND b.due_us > ? AND b.due_us <= ?) \
         ORDER BY e.due_us, e.id LIMIT {rows}"
    )
}
