//! Carries out what the outlet's plan says (`bugfeed_core::relay::outlet`): on the ledger and the bus.
//!
//! Goes in: actions. Comes out: what became of them. Decides nothing but what is logged.

use std::time::Duration;

use bugfeed_core::relay::outlet::{Action, Event, Fault, Holds, Outlet};
use bugfeed_protocol::{Cursor, Numbered};

use super::heads::Speaker;
use super::{Clock, Ended, Term, draw, now, pause};
use crate::events::{Part, Telemetry};
use crate::ledger::{Lease, LedgerError, Meta};
use crate::publish::{Publish, PublishError};

/// A publisher in one term, and the plan of what to do with it.
pub(super) struct Route<'a, P> {
    pub(super) publisher: &'a mut P,
    plan: Outlet,
    speaker: &'a Speaker,
    /// Where the ledger says that it publishes to.
    noted: Option<String>,
    /// Why the bus did not take the last batch, or gave no answer.
    trouble: Option<PublishError>,
}

/// What became of an action.
enum Done {
    /// It has no answer.
    On,
    Answer(Event),
    Ended(Ended),
}

pub(super) async fn run<P: Publish>(
    term: &Term<'_>,
    route: &mut Route<'_, P>,
    meta: &Meta,
    saved: Cursor,
) -> Result<Ended, LedgerError> {
    let telemetry = &term.options.telemetry;
    telemetry.lease_taken(term.lease.ledger().place(), &meta.cursor(), meta.head - meta.published);
    let mut next = Some(Event::Begin { head: meta.head, saved });
    while let Some(event) = next.take() {
        for action in route.plan(term, event) {
            match route.carry_out(action, term).await? {
                Done::On => {}
                Done::Answer(event) => next = Some(event),
                Done::Ended(ended) => return Ok(ended),
            }
        }
    }
    Ok(Ended::Done)
}

impl<'a, P: Publish> Route<'a, P> {
    pub(super) fn new(publisher: &'a mut P, speaker: &'a Speaker, batch: usize) -> Route<'a, P> {
        Route { publisher, plan: Outlet::new(batch), speaker, noted: None, trouble: None }
    }

    fn plan(&mut self, term: &Term<'_>, event: Event) -> Vec<Action> {
        let (now_ms, mut outbox) = (term.clock.ms(), term.outbox());
        if term.stop.is_cancelled() {
            self.plan.on(now_ms, Event::Stop, &mut outbox);
        }
        self.plan.on(now_ms, event, &mut outbox)
    }

    /// The ledger has begun a new epoch before this tenure did anything.
    pub(super) fn epoch_begun(&mut self, clock: Clock) {
        for action in self.plan.on(clock.ms(), Event::EpochBegun, &mut Default::default()) {
            if let Action::Confirmed(confirmed) = action {
                self.speaker.confirmed(clock.ms(), confirmed);
            }
        }
    }

    async fn carry_out(&mut self, action: Action, term: &Term<'_>) -> Result<Done, LedgerError> {
        let (lease, telemetry) = (term.lease, &term.options.telemetry);
        let answer = match action {
            Action::Connect => match self.publisher.connect().await {
                Ok(fresh) => Event::Connected { fresh },
                Err(e) => self.in_trouble(e, |_| Event::NotConnected),
            },
            Action::ReadEnd => match self.publisher.end().await {
                Ok(end) => Event::End(end),
                Err(e) => self.in_trouble(e, Event::NoEnd),
            },
            Action::LookUp(found) => Event::LookedUp(lease.ledger().holds(&found).await?),
            Action::NoteRoute(last) => self.note(last.as_ref().map(Option::as_ref), term).await?,
            Action::ReadLedger { after, limit } => Event::Ledger(lease.ledger().history(after, limit).await?),
            Action::Publish(batch) => self.publish(&batch, telemetry).await,
            Action::Prune => {
                let count = lease.prune(term.options.keep, now()).await?;
                if count > 0 {
                    telemetry.pruned(count);
                }
                Event::Pruned { count }
            }
            Action::Wait { ms } => tokio::select! {
                () = term.recorded.notified() => Event::Woken,
                () = term.stop.cancelled() => Event::Woken,
                () = tokio::time::sleep(Duration::from_millis(ms)) => Event::Elapsed,
            },
            Action::BackOff { longest_ms } => {
                if let Some(trouble) = self.trouble.take() {
                    telemetry.down(Part::Bus, &trouble);
                }
                pause(draw(longest_ms), term.stop).await;
                Event::Woken
            }
            action => return self.carry_out_quietly(action, term).await,
        };
        Ok(Done::Answer(answer))
    }

    /// Actions without an answer.
    async fn carry_out_quietly(&mut self, action: Action, term: &Term<'_>) -> Result<Done, LedgerError> {
        let (lease, telemetry) = (term.lease, &term.options.telemetry);
        match action {
            Action::Confirmed(confirmed) => self.speaker.confirmed(term.clock.ms(), confirmed),
            Action::Save(published) => lease.published(&published).await?,
            Action::SaveLast(published) => {
                if let Err(e) = lease.published(&published).await {
                    telemetry.down(Part::Ledger, &e);
                }
            }
            Action::Works { published } => {
                if telemetry.up(Part::Bus) {
                    telemetry.catching_up(lease.ledger().head().await?.saturating_sub(published));
                }
                self.speaker.works(term.clock.ms());
            }
            Action::NotCompared => {
                if let Some(trouble) = self.trouble.take() {
                    telemetry.not_compared(&trouble);
                }
            }
            Action::OtherLedger(found) => {
                telemetry.other_ledger(&found, &self.publisher.place().unwrap_or_default());
            }
            Action::BeginEpoch { found, holds } => {
                begin_epoch(lease, telemetry, &why(&found, &holds)).await?;
                return Ok(Done::Ended(Ended::NewEpoch));
            }
            Action::SetBack => return Err(LedgerError::SetBack { place: lease.ledger().place().to_owned() }),
            // The others have an answer.
            _ => return Ok(Done::Ended(Ended::Done)),
        }
        Ok(Done::On)
    }

    fn in_trouble(&mut self, trouble: PublishError, event: impl FnOnce(Fault) -> Event) -> Event {
        let event = event(trouble.fault);
        self.trouble = Some(trouble);
        event
    }

    async fn note(&mut self, last: Option<Option<&Cursor>>, term: &Term<'_>) -> Result<Event, LedgerError> {
        if let Some(place) = self.publisher.place() {
            term.options.telemetry.connected(&place, last);
            if self.noted.as_ref() != Some(&place) {
                term.lease.publishes_to(&place).await?;
                self.noted = Some(place);
            }
        }
        Ok(Event::Noted)
    }

    async fn publish(&mut self, batch: &[Numbered], telemetry: &Telemetry) -> Event {
        let (count, fault) = match self.publisher.publish(batch).await {
            Ok(count) if count >= batch.len() => (batch.len(), None),
            Ok(published) => {
                let reason = "the bus did not take every change".to_owned();
                self.trouble = Some(PublishError { published, fault: Fault::Refused, reason });
                (published, None)
            }
            Err(e) => {
                let told = (e.published.min(batch.len()), Some(e.fault));
                self.trouble = Some(e);
                told
            }
        };
        telemetry.published(count);
        Event::Published { count, fault }
    }
}

/// Why a new epoch must begin.
fn why(found: &Cursor, holds: &Holds) -> String {
    match holds {
        Holds::OtherTag(own) => {
            let own = own.map_or_else(|| "without a tag".to_owned(), |own| format!("under tag {own}"));
            format!("history has {found}, which this ledger gave {own}")
        }
        Holds::Beyond(head) => format!("history has {found}, and this ledger ends at {head}"),
        Holds::Same | Holds::Former | Holds::OtherLedger => format!("history has {found}"),
    }
}

/// Begins a new epoch, because the ledger was set back; says so, loudly.
pub(super) async fn begin_epoch(lease: &Lease, telemetry: &Telemetry, why: &str) -> Result<(), LedgerError> {
    let done = lease.new_epoch(now()).await?;
    telemetry.new_epoch(lease.ledger().place(), why, &done);
    Ok(())
}
