//! Lanes of retries, drains and reconciling that are due, source by source.
//!
//! Goes in: the time, and a source. Comes out: its lanes, those that are due for the longest time first, as many as its
//! pace allows. A source with a long backlog does not hide those of the others.

use std::collections::HashSet;
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_core::hooks::schedule::LONGEST_US;
use bugfeed_protocol::BugId;
use bugfeed_sql::Value;

use super::cells::{Columns, marks, text_value};
use super::row::needed_id;
use super::{Look, Store, StoreError};

/// Whose lanes.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// Of this source.
    Source(&'a str),
    /// Of all sources but these.
    Others(&'a [&'a str]),
}

impl Store {
    /// Paced lanes of a source that must be looked at now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_paced(&self, of: Of<'_>, look: &Look, limit: usize) -> Result<Vec<LaneKey>, StoreError> {
        let now_us = look.now_us;
        let far_us = now_us.saturating_add(LONGEST_US + SECOND_US);
        let lost_us = now_us.saturating_add(2 * look.lease_us);
        let (whose, names): (String, Vec<Value>) = match of {
            Of::Source(name) => ("e.source = ?".to_owned(), vec![text_value(name)]),
            Of::Others([]) => ("1 = 1".to_owned(), Vec::new()),
            Of::Others(names) => {
                let list = format!("e.source NOT IN ({})", marks(names.len()));
                (list, names.iter().map(|name| text_value(name)).collect())
            }
        };
        let rows = limit.saturating_mul(2).clamp(1, 20_000);
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for (due, bound_us) in
            [("e.due_us <= ?", now_us), ("e.due_us > ?", far_us), ("e.busy IS NOT NULL AND e.due_us > ?", lost_us)]
        {
            let sql = format!(
                "SELECT e.feed, e.bug, e.id FROM hooks_events e WHERE e.paced = 1 AND {due} AND {whose} AND NOT EXISTS \
                 (SELECT 1 FROM hooks_events b WHERE b.busy = e.lane AND b.id <> e.id AND b.due_us > ? AND b.due_us <= ?) \
                 ORDER BY e.due_us, e.id LIMIT {rows}"
            );
            let mut args = vec![Value::Int(bound_us)];
            args.extend(names.iter().cloned());
            args.extend([Value::Int(now_us), Value::Int(lost_us)]);
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
}
