//! Arriving requests become rows: many requests in one transaction.
//!
//! Goes in: requests that were authenticated and mapped. Comes out: for each item, its event, the event's first state
//! and links. For each item the core's [`receive`] decides, with what `facts` has read in the same transaction, and
//! with the items before it in the same transaction. Where another process stores the same delivery at the same moment,
//! the unique index refuses one of the two, and everything is read and decided anew.

mod again;
mod facts;
mod replayed;

use std::collections::{BTreeSet, HashMap};

use bugfeed_core::hooks::action::Action;
use bugfeed_core::hooks::arrival::{Duplicates, Mapping, receive};
use bugfeed_core::hooks::event::{DropReason, Event, EventId, State, Trigger};
use bugfeed_core::hooks::lane::Settings;
use bugfeed_core::hooks::states::Cause;
use bugfeed_sql::{Fault, Tx};

use self::facts::Facts;
use self::replayed::Replayed;
use super::cells::text_value;
use super::changes::Changes;
use super::kept::{KeptItem, Room};
use super::row::Arrival;
use super::{Rules, Store, StoreError, bodies, codes, kept, requests};
use crate::receive::received::{Accepted, AcceptedItem, Failure, ReceivedItem, ReceivedRequest, RequestId};

/// How often a transaction is tried that others were quicker than.
const TRIES: u32 = 5;

/// What decides about an arriving event.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The settings of its source.
    pub settings: Settings,
    /// `duplicates = …` of its source.
    pub duplicates: Duplicates,
}

/// An item, and what became of it.
struct Planned<'r> {
    item: &'r ReceivedItem,
    actions: Vec<Action>,
    id: EventId,
}

impl Store {
    /// Stores requests, in one transaction, and says what became of each. A request that is stored already is answered
    /// as it was the first time, and nothing is written.
    ///
    /// # Errors
    /// When the database cannot be written. It is then unknown whether the requests are stored, so they may be handed
    /// over again.
    pub async fn accept(&self, requests: &[&ReceivedRequest]) -> Result<Vec<Accepted>, StoreError> {
        let mut last = StoreError::Contended;
        for _ in 0..TRIES {
            match self.try_accept(requests).await {
                Err(error) if error.is_conflict() || matches!(error, StoreError::Contended) => last = error,
                done => return done,
            }
        }
        // That a row exists is no fault of the database here.
        Err(match last {
            StoreError::Sql(error) if error.fault == Fault::Duplicate => StoreError::Contended,
            last => last,
        })
    }

    async fn try_accept(&self, requests: &[&ReceivedRequest]) -> Result<Vec<Accepted>, StoreError> {
        let mut tx = self.db.begin().await?;
        self.lock_feeds(&mut tx, requests).await?;
        let mut answers = again::answers(&mut tx, requests).await?;
        let mut new: Vec<&ReceivedRequest> = Vec::new();
        for request in requests {
            let id = request.envelope.id;
            if !answers.contains_key(&id) && !new.iter().any(|other| other.envelope.id == id) {
                new.push(request);
            }
        }
        if new.is_empty() {
            tx.commit().await?;
            return Ok(requests.iter().map(|request| answer(&answers, request)).collect());
        }
        let rules = self.rules();
        let mut room = Room::look(&mut tx, &self.shared.bounds, &new).await?;
        let planned = plan(&mut tx, self, &rules, &mut room, &new).await?;
        if new.iter().zip(&planned).any(|(request, items)| is_settled(request, items)) {
            // It comes alone, and nothing was written.
            tx.commit().await?;
            return Ok(requests.iter().map(|request| answer(&answers, request)).collect());
        }
        self.write(&mut tx, &new, &planned).await?;
        tx.commit().await?;
        for (request, items) in new.iter().zip(&planned) {
            answers.insert(request.envelope.id, Accepted { items: items.iter().map(accepted).collect() });
        }
        Ok(requests.iter().map(|request| answer(&answers, request)).collect())
    }

    /// Where an equal time is a repeat, two processes must not store two items of one bug at the same moment: neither would
    /// see the other's, and no unique index tells them apart. So of each such feed, one transaction is at work at a time.
    /// This comes first, because what a transaction reads may be as old as its first look.
    async fn lock_feeds(&self, tx: &mut Tx, requests: &[&ReceivedRequest]) -> Result<(), StoreError> {
        if self.db.dialect().has_one_writer() {
            return Ok(());
        }
        let rules = self.rules();
        let mut feeds = BTreeSet::new();
        for request in requests {
            let by_time = |item| rules(&request.event(item, false)).duplicates == Duplicates::ByTime;
            if request.items.first().is_some_and(by_time) {
                feeds.extend(request.items.iter().map(|item| item.feed.as_str()));
            }
        }
        for feed in feeds {
            tx.execute("UPDATE hooks_feeds SET change_table = change_table WHERE feed = ?", &[text_value(feed)])
                .await?;
        }
        Ok(())
    }

    async fn write(
        &self,
        tx: &mut Tx,
        new: &[&ReceivedRequest],
        planned: &[Vec<Planned<'_>>],
    ) -> Result<(), StoreError> {
        requests::insert(tx, self.db.dialect(), new).await?;
        let now_us = new.first().map_or(0, |request| request.envelope.received_us);
        let mut changes = Changes::new(self, tx, now_us);
        let mut keep = Vec::new();
        let mut reasons: Vec<(EventId, Failure)> = Vec::new();
        for (request, planned) in new.iter().zip(planned) {
            // One that is received again has the time of the first time.
            let at_us = request.replays.map_or(now_us, |_| request.envelope.id.made_us());
            for planned in planned {
                for action in &planned.actions {
                    let Action::Insert { event, key, generation, cause } = action else {
                        changes.action(action, at_us).await?;
                        continue;
                    };
                    let arrival = Arrival {
                        item: planned.item.index,
                        has_wrong_clock: planned.item.has_wrong_clock,
                        dedup: codes::dedup(&event.source, key),
                        generation: *generation,
                    };
                    changes.insert(event, &arrival, *cause).await?;
                    if let Some(kept) = planned.item.kept.as_ref().filter(|_| is_kept(event)) {
                        keep.push(KeptItem {
                            event: event.id,
                            source: &event.source,
                            until_us: event.expires_us,
                            kept,
                        });
                    }
                    let failure = planned.item.failure.clone().filter(|_| event.progress.state != State::Duplicate);
                    reasons.extend(failure.map(|failure| (event.id, failure)));
                }
            }
        }
        changes.reasons(&reasons, now_us).await?;
        if !changes.finish().await? {
            return Err(StoreError::Contended);
        }
        kept::insert(tx, &keep).await?;
        for request in new {
            if let Some(body) = &request.envelope.body {
                bodies::insert(self, tx, request.envelope.id, body).await?;
            }
        }
        Ok(())
    }
}

/// Whether a request that is received again because of a reload (and not by a person) has no dead letter to end any more:
/// another reload, or another process, was quicker.
fn is_settled(request: &ReceivedRequest, items: &[Planned<'_>]) -> bool {
    let ends = |action: &Action| matches!(action, Action::Step(step) if step.cause == Cause::Superseded);
    let by_itself = request.replays.is_some() && request.trigger == Trigger::Drain;
    by_itself && !items.iter().flat_map(|planned| &planned.actions).any(ends)
}

fn answer(answers: &HashMap<RequestId, Accepted>, request: &ReceivedRequest) -> Accepted {
    answers.get(&request.envelope.id).cloned().unwrap_or(Accepted { items: Vec::new() })
}

/// Decides about all items of all requests, in order.
async fn plan<'r>(
    tx: &mut Tx,
    store: &Store,
    rules: &Rules,
    room: &mut Room,
    new: &[&'r ReceivedRequest],
) -> Result<Vec<Vec<Planned<'r>>>, StoreError> {
    let mut arriving: Vec<Vec<(&ReceivedItem, Event)>> = Vec::with_capacity(new.len());
    for &request in new {
        let event = |item| (item, without_nul(request.event(item, has_room(room, request, item))));
        arriving.push(request.items.iter().map(event).collect());
    }
    let mut facts = Facts::read(tx, store.db.dialect(), arriving.iter().flatten().map(|(_, event)| event)).await?;
    let mut planned = Vec::with_capacity(new.len());
    for (&request, items) in new.iter().zip(arriving) {
        let mut of_request = Vec::with_capacity(items.len());
        let mut replayed = Replayed::read(tx, request).await?;
        for (item, event) in items {
            let Rule { settings, duplicates } = rules(&event);
            let (id, known) = (event.id, facts.known(&event));
            let mut actions = receive(event, item.mapping, &known, &settings, duplicates, request.replayed(item));
            replayed.follow(&mut actions, request, item);
            facts.note(&actions);
            of_request.push(Planned { item, actions, id });
        }
        planned.push(of_request);
    }
    Ok(planned)
}

/// The event as the database can hold it, so that an event and what is read of it are the same.
fn without_nul(mut event: Event) -> Event {
    if let Some(delivery) = event.delivery.as_mut().filter(|delivery| delivery.id.contains('\0')) {
        delivery.id = delivery.id.replace('\0', "\u{fffd}").into();
    }
    event
}

/// Whether the item can be kept for another try, if it turns out that this is needed.
fn has_room(room: &mut Room, request: &ReceivedRequest, item: &ReceivedItem) -> bool {
    let is_needed = matches!(item.mapping, Mapping::Failed | Mapping::NotMapped);
    item.kept.as_ref().filter(|_| is_needed).is_some_and(|kept| room.take(&request.envelope.source, kept::size(kept)))
}

/// Whether the item of this event is kept.
fn is_kept(event: &Event) -> bool {
    let progress = &event.progress;
    let not_mapped = progress.state == State::Dropped && progress.drop == Some(DropReason::NotMapped);
    event.retryable && (progress.state == State::Errored || not_mapped)
}

/// What the sender is told of an item.
fn accepted(planned: &Planned<'_>) -> AcceptedItem {
    let mut told =
        AcceptedItem { event: planned.id, state: State::Queued, dropped: None, is_retryable: false, links: Vec::new() };
    for action in &planned.actions {
        match action {
            Action::Insert { event, .. } => {
                (told.state, told.dropped) = (event.progress.state, event.progress.drop);
                told.is_retryable = event.retryable;
            }
            Action::Link { of, link } if *of == planned.id => told.links.push(*link),
            _ => {}
        }
    }
    told
}
