//! Requests that are stored already: what was answered the first time.
//!
//! Goes in: requests. Comes out: the answers to those that are stored. An event's first state is that of the first line
//! of its history; one without a line was queued.

use std::collections::HashMap;

use bugfeed_core::hooks::event::{EventId, Link, LinkKind, State};
use bugfeed_sql::{Tx, Value};

use super::super::StoreError;
use super::super::cells::{Columns, marks};
use super::super::codes::event_id;
use super::super::row::{StoredEvent, columns, needed_id, read_all};
use crate::receive::received::{Accepted, AcceptedItem, ReceivedRequest, RequestId};

/// The links that an event has from its arrival on.
const OF_ARRIVAL: [LinkKind; 3] = [LinkKind::DuplicateOf, LinkKind::SameTimeAs, LinkKind::SameDeliveryAs];

/// The answers to those of the requests that are stored.
pub(super) async fn answers(
    tx: &mut Tx,
    requests: &[&ReceivedRequest],
) -> Result<HashMap<RequestId, Accepted>, StoreError> {
    let mut answers = HashMap::new();
    for chunk in requests.chunks(500) {
        let ids: Vec<Value> = chunk.iter().map(|request| Value::Text(request.envelope.id.to_string())).collect();
        let sql = format!("SELECT id FROM hooks_requests WHERE id IN ({})", marks(ids.len()));
        for row in tx.fetch(&sql, &ids).await? {
            let id = RequestId(needed_id(&mut Columns::of(row))?.0);
            if let Some(request) = chunk.iter().find(|request| request.envelope.id == id) {
                answers.insert(id, answer(tx, request).await?);
            }
        }
    }
    Ok(answers)
}

async fn answer(tx: &mut Tx, request: &ReceivedRequest) -> Result<Accepted, StoreError> {
    let id = request.envelope.id;
    let last = request.items.iter().map(|item| item.index).max().unwrap_or(0);
    let range = [Value::Text(id.event(0).to_string()), Value::Text(id.event(last).to_string())];
    let sql = format!("SELECT {} FROM hooks_events WHERE id >= ? AND id <= ?", columns(""));
    let events: HashMap<EventId, StoredEvent> =
        read_all(tx.fetch(&sql, &range).await?)?.into_iter().map(|stored| (stored.event.id, stored)).collect();
    let sql = "SELECT event, after_state FROM hooks_lines WHERE event >= ? AND event <= ? AND before_state IS NULL";
    let mut first = HashMap::new();
    for row in tx.fetch(sql, &range).await? {
        let mut row = Columns::of(row);
        first.insert(needed_id(&mut row)?, State::parse(&row.text()?).unwrap_or(State::Queued));
    }
    let sql = "SELECT event, kind, other FROM hooks_links WHERE event >= ? AND event <= ?";
    let mut links: HashMap<EventId, Vec<Link>> = HashMap::new();
    for row in tx.fetch(sql, &range).await? {
        let mut row = Columns::of(row);
        let event = needed_id(&mut row)?;
        let (kind, to) = (LinkKind::parse(&row.text()?), event_id(&row.text()?));
        let link = kind.zip(to).filter(|(kind, _)| OF_ARRIVAL.contains(kind));
        links.entry(event).or_default().extend(link.map(|(kind, to)| Link { kind, to }));
    }
    let item = |index: u32| {
        let event = id.event(index);
        let stored = events.get(&event);
        let state = first.get(&event).copied().unwrap_or(State::Queued);
        let dropped = stored.and_then(|stored| stored.event.progress.drop).filter(|_| state == State::Dropped);
        let is_retryable = stored.is_some_and(|stored| stored.event.retryable);
        AcceptedItem { event, state, dropped, is_retryable, links: links.remove(&event).unwrap_or_default() }
    };
    Ok(Accepted { items: request.items.iter().map(|item| item.index).map(item).collect() })
}
