//! Reading events: pages with filters, and one event with all that is known of it.
//!
//! Goes in: filters, and where the last page ended. Comes out: at most 1,000 events, newest first. A page costs a
//! bounded look at one index, whatever the filter: what the index does not tell is filtered among at most 5,000 rows,
//! and then the page may be short, and says where to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugfeed_core::hooks::event::{EventId, Link, LinkKind, State};
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_core::hooks::states::Cause;
use bugfeed_protocol::BugId;
use bugfeed_sql::Value;

use super::cells::{Columns, text_value};
use super::codes::{self, Code, event_id, lowest_id};
use super::requests::failure;
use super::row::{self, StoredEvent, columns, needed_id};
use super::{Store, StoreError, history};
use crate::receive::received::{Failure, RequestId};

/// The most rows of a page.
const LONGEST: usize = 1000;
/// How many rows of an index are looked at for one page.
const SCAN: usize = 5000;

/// A bounded number of rows for a page.
pub(super) fn page_size(limit: usize) -> usize {
    limit.clamp(1, LONGEST)
}

/// A range of time by receipt, to the millisecond: from the first one to before the second one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// From then on.
    pub from_us: Option<i64>,
    /// Before then.
    pub to_us: Option<i64>,
}

impl Range {
    /// Identifiers begin with the time, so the range is one of the index.
    pub(super) fn conditions(&self, by: &mut Vec<&'static str>, args: &mut Vec<Value>) {
        for (at_us, condition) in [(self.from_us, "id >= ?"), (self.to_us, "id < ?")] {
            if let Some(at_us) = at_us {
                by.push(condition);
                args.push(lowest(at_us));
            }
        }
    }
}

/// The lowest identifier of a time.
fn lowest(at_us: i64) -> Value {
    Value::Text(lowest_id(at_us).to_string())
}

/// Which events are wanted. All that is said must fit.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// In this state.
    pub state: Option<State>,
    /// Of this source.
    pub source: Option<String>,
    /// Of this feed.
    pub feed: Option<String>,
    /// Of this bug: then in the order of their times, newest first.
    pub bug: Option<BugId>,
    /// Received in this time.
    pub range: Range,
}

/// A page, newest first, and where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// What to give as `after` for what follows; `None` at the end. A page may be short and still not be the last one.
    pub next: Option<EventId>,
}

/// A line of an event's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The version of the event afterwards; `None` for a line that the times of the event tell.
    pub version: Option<u32>,
    /// When.
    pub at_us: i64,
    /// The state before; `None` on arrival.
    pub before: Option<State>,
    /// Why.
    pub cause: Option<Cause>,
    /// The state afterwards.
    pub after: Option<State>,
}

/// All that is known of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The event.
    pub stored: StoredEvent,
    /// The lines of its history, also those of the ordinary way (queued, processing, completed), which are stored as times
    /// of the event.
    pub lines: Vec<Line>,
    /// Its links to other events.
    pub links: Vec<Link>,
    /// The links of other events to it.
    pub linked_by: Vec<(EventId, LinkKind)>,
    /// Why it last failed.
    pub reason: Option<Failure>,
    /// Whether its item is kept.
    pub is_kept: bool,
}

/// A `WHERE` in two parts: what the index decides, and what is filtered among the rows that it gives.
#[derive(Default)]
struct Wanted {
    by: Vec<&'static str>,
    args: Vec<Value>,
    rest: Vec<&'static str>,
    rest_args: Vec<Value>,
}

impl Wanted {
    fn new(filter: &EventFilter, after: Option<EventId>) -> Wanted {
        let mut wanted = Wanted::default();
        let shelved = filter.state.filter(|state| *state != State::Completed);
        if let Some(state) = shelved {
            wanted.by.push("shelf = ?");
            wanted.args.push(Value::Int(state.code()));
        } else if let Some(source) = &filter.source {
            wanted.by.push("source = ?");
            wanted.args.push(text_value(source));
        }
        filter.range.conditions(&mut wanted.by, &mut wanted.args);
        if let Some(after) = after {
            wanted.by.push("id < ?");
            wanted.args.push(Value::Text(after.to_string()));
        }
        if let Some(source) = filter.source.as_ref().filter(|_| shelved.is_some()) {
            wanted.filter("source = ?", text_value(source));
        }
        if filter.state == Some(State::Completed) {
            wanted.filter("state = ?", Value::Int(State::Completed.code()));
        }
        if let Some(feed) = &filter.feed {
            wanted.filter("feed = ?", text_value(feed));
        }
        wanted
    }

    fn filter(&mut self, condition: &'static str, value: Value) {
        self.rest.push(condition);
        self.rest_args.push(value);
    }

    fn by(&self) -> String {
        if self.by.is_empty() { String::new() } else { format!(" WHERE {}", self.by.join(" AND ")) }
    }
}

impl Store {
    /// A page of events, at most 1,000, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_events(
        &self,
        filter: &EventFilter,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let limit = page_size(limit);
        if let Some(bug) = filter.bug {
            return self.list_bug(filter, bug, after, limit).await;
        }
        let wanted = Wanted::new(filter, after);
        let (rest, by, all) = (&wanted.rest, wanted.by(), columns(""));
        let sql = if rest.is_empty() {
            format!("SELECT {all} FROM hooks_events{by} ORDER BY id DESC LIMIT {limit}")
        } else {
            format!(
                "SELECT {all} FROM (SELECT {all} FROM hooks_events{by} ORDER BY id DESC LIMIT {SCAN}) e WHERE {} ORDER \
                 BY id DESC LIMIT {limit}",
                rest.join(" AND ")
            )
        };
        let args: Vec<Value> = wanted.args.iter().chain(&wanted.rest_args).cloned().collect();
        let rows = self.reader.fetch(&sql, &args).await?;
        let is_full = rows.len() == limit;
        let events = row::readable(rows);
        let mut next = is_full.then(|| events.last().map(|last| last.event.id)).flatten();
        if next.is_none() && !rest.is_empty() {
            let end = self.end_of_scan("hooks_events", &by, &wanted.args, SCAN).await?;
            next = end.map(|id| EventId(id.0));
        }
        Ok(EventPage { events, next })
    }

    /// The events of a bug, by their times.
    async fn list_bug(
        &self,
        filter: &EventFilter,
        bug: BugId,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let feeds = match &filter.feed {
            Some(feed) => vec![feed.clone()],
            // What was dropped because there is no feed for its project has none.
            None => self.feeds().into_iter().chain([String::new()]).collect(),
        };
        let lanes: Vec<String> =
            feeds.iter().map(|feed| codes::lane(&LaneKey::Bug(Arc::from(feed.as_str()), bug)).to_string()).collect();
        if lanes.is_empty() {
            return Ok(EventPage { events: Vec::new(), next: None });
        }
        let mut wanted = format!("lane IN ({}) AND bug = ?", lanes.join(","));
        let mut args = vec![Value::Int(row::bug_number(bug))];
        if let Some(after) = after {
            let at_us = self.time_in_bug(after).await?;
            wanted.push_str(" AND (when_us < ? OR when_us = ? AND id < ?)");
            args.extend([Value::Int(at_us), Value::Int(at_us), Value::Text(after.to_string())]);
        }
        // These are written so that no index is chosen for their sake: that of the lane is the right one.
        for (condition, value) in [
            (" AND COALESCE(id, '') >= ?", filter.range.from_us.map(lowest)),
            (" AND COALESCE(id, '') < ?", filter.range.to_us.map(lowest)),
            (" AND state = ?", filter.state.map(|state| Value::Int(state.code()))),
            (" AND COALESCE(source, '') = ?", filter.source.as_deref().map(text_value)),
        ] {
            if let Some(value) = value {
                wanted.push_str(condition);
                args.push(value);
            }
        }
        let all = columns("");
        let sql = format!("SELECT {all} FROM hooks_events WHERE {wanted} ORDER BY when_us DESC, id DESC LIMIT {limit}");
        let rows = self.reader.fetch(&sql, &args).await?;
        let is_full = rows.len() == limit;
        let events = row::readable(rows);
        let next = is_full.then(|| events.last().map(|last| last.event.id)).flatten();
        Ok(EventPage { events, next })
    }

    /// The time of the event at which the last page ended. If it was removed meanwhile, the time of its receipt is the
    /// best that is known.
    async fn time_in_bug(&self, after: EventId) -> Result<i64, StoreError> {
        let sql = "SELECT when_us FROM hooks_events WHERE id = ?";
        let row = self.reader.fetch(sql, &[Value::Text(after.to_string())]).await?.pop();
        row.map_or(Ok(codes::time_of(after)), |row| Columns::of(row).int())
    }

    /// The events of a request, in the order of its items.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events_of(&self, request: RequestId) -> Result<Vec<StoredEvent>, StoreError> {
        let range = [Value::Text(request.event(0).to_string()), Value::Text(codes::last_event(request).to_string())];
        let sql = format!("SELECT {} FROM hooks_events WHERE id >= ? AND id <= ? ORDER BY id", columns(""));
        row::read_all(self.reader.fetch(&sql, &range).await?)
    }

    /// An event with all that is known of it; `None` if there is none of this identifier.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn detail(&self, id: EventId) -> Result<Option<Detail>, StoreError> {
        let name = [Value::Text(id.to_string())];
        let sql = format!("SELECT {} FROM hooks_events WHERE id = ?", columns(""));
        let Some(stored) = row::read_all(self.reader.fetch(&sql, &name).await?)?.pop() else { return Ok(None) };
        let sql = "SELECT version, at_us, before_state, cause, after_state FROM hooks_lines WHERE event = ? ORDER BY \
                   version LIMIT 1000";
        let lines: Vec<Line> = self.reader.fetch(sql, &name).await?.into_iter().map(line).collect::<Result<_, _>>()?;
        let lines = history::complete(&stored.event, lines);
        let links = self.links(&[id]).await?.remove(&id).unwrap_or_default();
        let sql = "SELECT kind, event FROM hooks_links WHERE other = ? ORDER BY event LIMIT 1000";
        let mut linked_by = Vec::new();
        for row in self.reader.fetch(sql, &name).await? {
            let mut row = Columns::of(row);
            let kind = LinkKind::parse(&row.text()?);
            linked_by.extend(Some(needed_id(&mut row)?).zip(kind));
        }
        let sql = "SELECT error, fix FROM hooks_reasons WHERE event = ?";
        let reason =
            self.reader.fetch(sql, &name).await?.pop().map(|row| failure(&mut Columns::of(row))).transpose()?;
        let sql = "SELECT 1 FROM hooks_kept WHERE event = ?";
        let is_kept = !self.reader.fetch(sql, &name).await?.is_empty();
        Ok(Some(Detail { stored, lines, links, linked_by, reason, is_kept }))
    }

    /// The links of events to others.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn links(&self, ids: &[EventId]) -> Result<BTreeMap<EventId, Vec<Link>>, StoreError> {
        let mut links: BTreeMap<EventId, Vec<Link>> = BTreeMap::new();
        for chunk in ids.chunks(500) {
            let args: Vec<Value> = chunk.iter().map(|id| Value::Text(id.to_string())).collect();
            let sql = format!(
                "SELECT event, kind, other FROM hooks_links WHERE event IN ({}) ORDER BY event LIMIT 10000",
                super::cells::marks(args.len())
            );
            for row in self.reader.fetch(&sql, &args).await? {
                let mut row = Columns::of(row);
                let event = needed_id(&mut row)?;
                let (kind, to) = (LinkKind::parse(&row.text()?), event_id(&row.text()?));
                links.entry(event).or_default().extend(kind.zip(to).map(|(kind, to)| Link { kind, to }));
            }
        }
        Ok(links)
    }
}

fn line(row: Vec<Value>) -> Result<Line, StoreError> {
    let mut row = Columns::of(row);
    Ok(Line {
        version: Some(row.number32()?),
        at_us: row.int()?,
        before: row.maybe_text()?.as_deref().and_then(State::parse),
        cause: Cause::parse(&row.text()?),
        after: State::parse(&row.text()?),
    })
}
