//! What a request that is received again has to do with the events of the first time.
//!
//! Goes in: the request, and the events that the store has of the one that it replays. Comes out: links to events that
//! exist, and the end of the dead letters that came through this time.

use std::collections::BTreeMap;

use bugfeed_core::hooks::action::Action;
use bugfeed_core::hooks::arrival;
use bugfeed_core::hooks::event::{Event, EventId, LinkKind, State};
use bugfeed_sql::{Tx, Value};

use super::super::StoreError;
use super::super::codes;
use super::super::row::{columns, read_all};
use crate::receive::received::{ReceivedItem, ReceivedRequest, RequestId};

/// The events of the request that is replayed, as far as they are not settled.
#[derive(Default)]
pub(super) struct Replayed {
    first: Option<RequestId>,
    events: BTreeMap<EventId, Event>,
}

impl Replayed {
    /// Reads them; asks nothing if the request replays none.
    pub(super) async fn read(tx: &mut Tx, request: &ReceivedRequest) -> Result<Replayed, StoreError> {
        let Some(first) = request.replays else { return Ok(Replayed::default()) };
        let range = [Value::Text(first.event(0).to_string()), Value::Text(codes::last_event(first).to_string())];
        let sql = format!("SELECT {} FROM hooks_events WHERE id >= ? AND id <= ?", columns(""));
        let stored = read_all(tx.fetch(&sql, &range).await?)?;
        let events = stored.into_iter().map(|stored| (stored.event.id, stored.event)).collect();
        Ok(Replayed { first: Some(first), events })
    }

    /// The event that an item replays: the one of the same item; or, where nothing of the request could be read, the one
    /// that stands for all of it.
    fn of(&self, index: u32) -> Option<EventId> {
        let first = self.first?;
        [first.event(index), first.event(0)].into_iter().find(|id| self.events.contains_key(id))
    }

    /// Completes the decision about an item of `request`, which was made with a link to the event of the same item.
    pub(super) fn follow(&mut self, actions: &mut Vec<Action>, request: &ReceivedRequest, item: &ReceivedItem) {
        let (id, assumed, old) = (request.envelope.id.event(item.index), request.replayed(item), self.of(item.index));
        if assumed.is_none() {
            return;
        }
        actions.retain_mut(|action| match action {
            Action::Link { of, link }
                if *of == id && link.kind == LinkKind::SameDeliveryAs && Some(link.to) == assumed =>
            {
                link.to = old.unwrap_or(link.to);
                old.is_some()
            }
            _ => true,
        });
        let failed =
            |action: &Action| matches!(action, Action::Insert { event, .. } if event.progress.state == State::Errored);
        let settled = old.filter(|_| !actions.iter().any(failed)).and_then(|old| self.events.get_mut(&old));
        if let Some(old) = settled {
            let ends = arrival::replayed(old, id, request.envelope.id.made_us());
            for action in &ends {
                if let Action::Step(step) = action {
                    step.apply(old);
                }
            }
            actions.extend(ends);
        }
    }
}
