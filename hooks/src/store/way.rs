//! The way of a bug's changes: request, event, row, number on the bus. And the matching that finds the number.
//!
//! Goes in: changes of the bus, in their order. Comes out: events that know their (epoch, seq). A change belongs to a
//! completed event of the same feed, bug and time; of several, to the one whose row came first: they are
//! interchangeable. How far a feed is matched is stored in the same transaction, so that nothing is matched twice. A
//! terminal event's state does not change by this.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bugfeed_core::hooks::event::State;
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_protocol::{BugId, Cursor, Numbered};
use bugfeed_sql::{CellKind, Tx, Value};

use super::cells::{CHUNK, Columns, Rows, text_value};
use super::codes::{self, Code};
use super::events::{EventFilter, Line};
use super::row::StoredEvent;
use super::{Store, StoreError, notes};
use crate::receive::received::Failure;

/// How far a feed is matched is also noted at each of these numbers, although no event waited, so that a start does not look
/// through everything again.
const MARK_EVERY: u64 = 10_000;

/// One event on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The event. `blocked_by`, `due_us` and the cursor are in it.
    pub stored: StoredEvent,
    /// The lines of its history.
    pub lines: Vec<Line>,
    /// Why it last failed.
    pub reason: Option<Failure>,
}

impl Store {
    /// The newest events of a bug, newest first, at most 100, with all that is known of their way.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn way(&self, bug: BugId, feed: Option<&str>, limit: usize) -> Result<Vec<Step>, StoreError> {
        let filter = EventFilter { bug: Some(bug), feed: feed.map(str::to_owned), ..EventFilter::default() };
        let page = self.list_events(&filter, None, limit.min(100)).await?;
        let mut way = Vec::with_capacity(page.events.len());
        for stored in page.events {
            let detail = self.detail(stored.event.id).await?;
            let (lines, reason) = detail.map_or((Vec::new(), None), |detail| (detail.lines, detail.reason));
            way.push(Step { stored, lines, reason });
        }
        Ok(way)
    }

    /// How far the changes of a feed are matched.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn matched_to(&self, feed: &str) -> Result<Option<Cursor>, StoreError> {
        Ok(self.note(&note_of(feed)).await?.as_deref().and_then(Cursor::parse))
    }

    /// Matches changes of a feed, in the order of the bus, to events. Changes that were matched before are passed over.
    /// Returns how many events have learnt their number.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn match_changes(&self, feed: &str, changes: &[Numbered]) -> Result<usize, StoreError> {
        let mut count = 0;
        for chunk in changes.chunks(CHUNK) {
            let is_mark = chunk.iter().any(|change| change.cursor.seq.is_multiple_of(MARK_EVERY));
            if !is_mark && self.unmatched(feed, chunk).await? == 0 {
                continue;
            }
            let mut tx = self.db.begin().await?;
            let matched_to = notes::read(&mut tx, &note_of(feed)).await?.as_deref().and_then(Cursor::parse);
            let is_new = |change: &&Numbered| {
                let known = matched_to.as_ref().filter(|known| known.epoch == change.cursor.epoch);
                known.is_none_or(|known| change.cursor.seq > known.seq)
            };
            let new: Vec<&Numbered> = chunk.iter().filter(is_new).collect();
            let Some(last) = new.last() else {
                tx.commit().await?;
                continue;
            };
            count += self.match_new(&mut tx, feed, &new).await?;
            notes::write(&mut tx, &note_of(feed), &last.cursor.to_string()).await?;
            tx.commit().await?;
        }
        Ok(count)
    }

    /// How many events wait for the numbers of these changes; reads only. Most changes of a table that others write into are
    /// of no event.
    async fn unmatched(&self, feed: &str, changes: &[Numbered]) -> Result<usize, StoreError> {
        let feed: Arc<str> = Arc::from(feed);
        let mut rows = Rows::default();
        for change in changes {
            let lane = codes::lane(&LaneKey::Bug(Arc::clone(&feed), change.change.bug));
            rows.row().int(lane).int(change.change.when.as_micros());
        }
        let values = self.db.dialect().rows_as_table(&[CellKind::Int, CellKind::Int], &rows.rows);
        let sql = format!("SELECT e.id {} LIMIT 1", waiting(&values));
        let args = [Value::Int(State::Completed.code()), text_value(&feed)];
        Ok(self.lanes.fetch(&sql, &args).await?.len())
    }

    async fn match_new(&self, tx: &mut Tx, feed: &str, new: &[&Numbered]) -> Result<usize, StoreError> {
        let feed: Arc<str> = Arc::from(feed);
        let moment = |change: &Numbered| {
            let lane = codes::lane(&LaneKey::Bug(Arc::clone(&feed), change.change.bug));
            (lane, change.change.when.as_micros())
        };
        // The numbers of each moment, in order.
        let mut numbers: BTreeMap<(i64, i64), Vec<&Numbered>> = BTreeMap::new();
        for &change in new {
            numbers.entry(moment(change)).or_default().push(change);
        }
        let mut rows = Rows::default();
        for (lane, when_us) in numbers.keys() {
            rows.row().int(*lane).int(*when_us);
        }
        let dialect = self.db.dialect();
        let values = dialect.rows_as_table(&[CellKind::Int, CellKind::Int], &rows.rows);
        let sql = format!("SELECT e.id, e.lane, e.when_us {} ORDER BY e.row_id LIMIT 5000", waiting(&values));
        let found = tx.fetch(&sql, &[Value::Int(State::Completed.code()), text_value(&feed)]).await?;
        let mut taken: HashMap<(i64, i64), usize> = HashMap::new();
        let mut matched = Rows::default();
        for row in found {
            let mut row = Columns::of(row);
            let (id, moment) = (row.text()?, (row.int()?, row.int()?));
            let place = taken.entry(moment).or_insert(0);
            let Some(change) = numbers.get(&moment).and_then(|numbers| numbers.get(*place)) else { continue };
            *place += 1;
            matched.row().text(&id).text(change.cursor.epoch.as_str()).int(change.cursor.seq.cast_signed());
        }
        if matched.is_empty() {
            return Ok(0);
        }
        let kinds = [CellKind::Text, CellKind::Text, CellKind::Int];
        let values = dialect.rows_as_table(&kinds, &matched.rows);
        let set = [("epoch", "v.column2".to_owned()), ("seq", "v.column3".to_owned())];
        let sql = dialect.update_from("hooks_events", &values, "e.id = v.column1 AND e.seq IS NULL", &set);
        tx.execute(&sql, &matched.args).await?;
        Ok(matched.len())
    }
}

/// The events that wait for the number of one of these moments.
fn waiting(values: &str) -> String {
    format!(
        "FROM {values} v JOIN hooks_events e ON e.lane = v.column1 AND e.when_us = v.column2 WHERE e.state = ? AND e.seq IS \
         NULL AND e.feed = ?"
    )
}

fn note_of(feed: &str) -> String {
    format!("matched {feed}")
}
