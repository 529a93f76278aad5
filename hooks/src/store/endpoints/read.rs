//! Reading endpoints: for people in pages, for who serves them, and what people have changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use bugfeed_core::endpoints::policy::State;
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::BugId;
use bugfeed_sql::Value;

use super::columns::{self, COLUMNS, MARK, signed};
use super::{EndpointId, Stored};
use crate::store::cells::{Columns, marks, only_number, text_value};
use crate::store::events::page_size;
use crate::store::{Store, StoreError};

/// The most changes that are read at a time.
const CHANGES: usize = 1000;
/// Reads the counter of people's changes.
pub(super) const COUNTER: &str = "SELECT value FROM hooks_counters WHERE name = 'endpoints'";

/// Which endpoints are listed. All that is said must fit.
#[derive(Clone, Debug, Default)]
pub struct EndpointFilter {
    /// Those of this feed, also those of all feeds.
    pub feed: Option<String>,
    /// Those that are in this state at this time (microseconds since 1970).
    pub state: Option<(State, i64)>,
    /// Those that watch this bug, also those that watch all bugs.
    pub bug: Option<BugId>,
}

/// How many endpoints there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// [`State::Active`].
    pub active: u64,
    /// [`State::Cooling`].
    pub cooling: u64,
    /// [`State::Disabled`].
    pub disabled: u64,
    /// [`State::Paused`].
    pub paused: u64,
}

/// The condition for a state, as [`Row::state`] has it.
fn state_condition(state: State, now_us: i64) -> String {
    match state {
        State::Paused => "paused = 1".to_owned(),
        State::Disabled => "paused = 0 AND disabled = 1".to_owned(),
        State::Cooling => format!("paused = 0 AND disabled = 0 AND disabled_until_us >= {now_us}"),
        State::Active => {
            format!("paused = 0 AND disabled = 0 AND (disabled_until_us IS NULL OR disabled_until_us < {now_us})")
        }
    }
}

/// Reads all columns.
pub(super) fn select() -> String {
    format!("SELECT {} FROM hooks_endpoints", COLUMNS.join(", "))
}

impl Store {
    /// An endpoint; `None` if there is none, or it was deleted.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoint(&self, id: &EndpointId) -> Result<Option<Stored>, StoreError> {
        let sql = format!("{} WHERE id = ? AND deleted = 0", select());
        self.reader.fetch(&sql, &[text_value(id.as_str())]).await?.pop().map(columns::read).transpose()
    }

    /// A page of the endpoints, at most 1,000, newest first, without deleted ones. `None`: there is no endpoint `after` any
    /// more, so begin again.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints(
        &self,
        filter: &EndpointFilter,
        after: Option<&EndpointId>,
        limit: usize,
    ) -> Result<Option<Vec<Stored>>, StoreError> {
        let (mut wanted, mut args) = (vec!["deleted = 0".to_owned()], Vec::new());
        if let Some(after) = after {
            let sql = "SELECT created_us FROM hooks_endpoints WHERE id = ?";
            let Some(row) = self.reader.fetch(sql, &[text_value(after.as_str())]).await?.pop() else { return Ok(None) };
            let created_us = Value::Int(Columns::of(row).int()?);
            wanted.push("(created_us < ? OR (created_us = ? AND id < ?))".to_owned());
            args.extend([created_us.clone(), created_us, text_value(after.as_str())]);
        }
        if let Some((state, now_us)) = filter.state {
            wanted.push(state_condition(state, now_us));
        }
        if let Some(feed) = &filter.feed {
            // LIKE would not tell small letters from capitals in every database.
            wanted.push("(feeds IS NULL OR REPLACE(feeds, ?, '') <> feeds)".to_owned());
            args.push(text_value(&serde_json::to_string(feed).unwrap_or_default()));
        }
        if let Some(bug) = filter.bug {
            wanted.push("(bugs IS NULL OR bugs LIKE ?)".to_owned());
            args.push(Value::Text(format!("%,{},%", bug.get())));
        }
        let end = format!("ORDER BY created_us DESC, id DESC LIMIT {}", page_size(limit));
        let sql = format!("{} WHERE {} {end}", select(), wanted.join(" AND "));
        Ok(Some(columns::readable(self.reader.fetch(&sql, &args).await?)))
    }

    /// How many endpoints are in each state at this time (microseconds since 1970).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn count_endpoints(&self, now_us: i64) -> Result<StateCounts, StoreError> {
        let sum = |state| format!("SUM(CASE WHEN {} THEN 1 ELSE 0 END)", state_condition(state, now_us));
        let sums = [State::Active, State::Cooling, State::Disabled, State::Paused].map(sum).join(", ");
        let sql = format!("SELECT {sums} FROM hooks_endpoints WHERE deleted = 0");
        let Some(row) = self.reader.fetch(&sql, &[]).await?.pop() else { return Ok(StateCounts::default()) };
        let mut row = Columns::of(row);
        let (active, cooling) = (row.count()?, row.count()?);
        Ok(StateCounts { active, cooling, disabled: row.count()?, paused: row.count()? })
    }

    /// The endpoints of these partitions, for who takes them over: at most `limit`, in order of partition and identifier,
    /// also deleted ones. The next page begins after the last one; one that is not full is the last. A row that cannot be
    /// read is told to people, and left out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints_of(
        &self,
        partitions: &[u16],
        after: Option<&EndpointId>,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let (mut found, mut after) = (Vec::new(), after.cloned());
        while found.len() < limit {
            let rows = self.page_of(partitions, after.as_ref(), limit - found.len()).await?;
            let last = rows.last().and_then(|row| row.first()?.clone().into_text());
            let Some(last) = last.as_deref().and_then(EndpointId::parse) else { break };
            after = Some(last);
            found.extend(columns::readable(rows));
        }
        Ok(found)
    }

    async fn page_of(
        &self,
        partitions: &[u16],
        after: Option<&EndpointId>,
        limit: usize,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let from = after.map(EndpointId::partition);
        // What lies before the last one need not be looked at.
        let list = partitions.iter().filter(|part| from.is_none_or(|from| **part >= from));
        let list: Vec<String> = list.map(u16::to_string).collect();
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let (rest, args) = match after {
            None => (String::new(), Vec::new()),
            Some(after) => (format!(" AND (part > {} OR id > ?)", after.partition()), vec![text_value(after.as_str())]),
        };
        let sql = format!("{} WHERE part IN ({}){rest} ORDER BY part, id LIMIT {limit}", select(), list.join(","));
        Ok(self.lanes.fetch(&sql, &args).await?)
    }

    /// What people have changed since the counter said `since`, also what they have deleted; and what it says now, to ask
    /// again with. Reads one row when nothing was changed. At most 1,000 at a time: ask again at once as long as
    /// something comes.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints_changed(&self, since: u64) -> Result<(Vec<Stored>, u64), StoreError> {
        let now = self.endpoints_mark().await?;
        if now == since {
            return Ok((Vec::new(), now));
        }
        // The counter falls only where somebody restored an older copy: everything may be different.
        let since = if now < since { 0 } else { since };
        let sql = format!("{} WHERE mark > ? ORDER BY mark LIMIT {CHANGES}", select());
        let rows = self.lanes.fetch(&sql, &[Value::Int(signed(since))]).await?;
        let last = rows.last().filter(|_| rows.len() == CHANGES).and_then(|row| row.get(MARK)?.int());
        let mark = last.map_or(now, i64::unsigned_abs);
        Ok((columns::readable(rows), mark))
    }

    /// What the counter of people's changes says: to be read before endpoints are taken over, so that no change is missed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints_mark(&self) -> Result<u64, StoreError> {
        Ok(only_number(self.lanes.fetch(COUNTER, &[]).await?)?.unsigned_abs())
    }

    /// The rows of these endpoints as they are now, also deleted ones, in any order. Those that are gone are left out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoint_rows(&self, ids: &[EndpointId]) -> Result<Vec<(EndpointId, Row)>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(500) {
            let args: Vec<Value> = chunk.iter().map(|id| text_value(id.as_str())).collect();
            let sql = format!("{} WHERE id IN ({})", select(), marks(args.len()));
            let rows = columns::readable(self.lanes.fetch(&sql, &args).await?);
            found.extend(rows.into_iter().map(|stored| (stored.id, stored.row)));
        }
        Ok(found)
    }

    /// The names of all feeds that endpoints name; and whether an endpoint has all feeds.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoint_feeds(&self) -> Result<(Vec<Arc<str>>, bool), StoreError> {
        let sql = "SELECT DISTINCT feeds FROM hooks_endpoints WHERE deleted = 0";
        let (mut names, mut all) = (BTreeSet::new(), false);
        for row in self.lanes.fetch(sql, &[]).await? {
            match Columns::of(row).maybe_text()? {
                None => all = true,
                Some(text) => names.extend(serde_json::from_str::<Vec<String>>(&text).unwrap_or_default()),
            }
        }
        Ok((names.into_iter().map(Arc::from).collect(), all))
    }
}
