//! Carrying out the planners' actions on models of table, ledger and broker, as `shim/src/relay` does on real ones.
//!
//! Goes in: an action. Comes out: what became of it, which may be that the tenure ends.

use bugfeed_core::relay::book::{Book, Entry};
use bugfeed_core::relay::outbox::Outbox;
use bugfeed_core::relay::outlet::Fault;
use bugfeed_core::relay::poller::{Poller, PollerOptions};
use bugfeed_core::relay::{heads, outlet, poller};
use bugfeed_protocol::bus::batch_len;
use bugfeed_protocol::{Numbered, Tag};

use super::{Bus, Moment, Sending, Term, Trouble};
use crate::broker::{Confirm, Message};
use crate::ledger::{Ledger, Table};

/// What became of an outlet's action.
pub(super) enum Carried {
    NotYet,
    On,
    Answer(outlet::Event),
    Ended,
}

impl Term {
    pub(super) fn holds(&self, ledger: &Ledger) -> bool {
        self.epoch == ledger.epoch && self.number == ledger.term
    }

    pub(super) fn outlet_waits(&self) -> bool {
        matches!(self.gives.front(), Some(outlet::Action::Wait { .. }))
    }

    /// A tenure begins: everything is read anew.
    pub(super) fn begin(&mut self, table: &Table, ledger: &Ledger, batch: usize, now_ms: u64) {
        (self.book, self.outbox, self.ending) = (None, Outbox::default(), false);
        self.sending = None;
        self.poller = Poller::new(PollerOptions { poll_interval_ms: 0, batch, once: false });
        self.polls = self.poller.on(now_ms, poller::Event::Begin { in_place: table.in_place }).into();
        let saved = ledger.cursor(ledger.published);
        self.gives.clear();
        self.give_on(outlet::Event::Begin { head: ledger.head(), saved }, now_ms);
    }

    pub(super) fn give_on(&mut self, event: outlet::Event, now_ms: u64) {
        if self.ending {
            self.outlet.on(now_ms, outlet::Event::Stop, &mut self.outbox);
        }
        let actions = self.outlet.on(now_ms, event, &mut self.outbox);
        if let Some(outlet::Action::Wait { ms }) = actions.last() {
            self.wait_at_ms = now_ms + ms;
        }
        self.gives.extend(actions);
    }

    /// The book, as the ledger is at the first look of a tenure.
    pub(super) fn book(&mut self, ledger: &Ledger, moment: &Moment) -> Result<&mut Book, Trouble> {
        if !self.holds(ledger) {
            return Err(Trouble::Fenced);
        }
        Ok(self.book.get_or_insert_with(|| ledger.book(Tag::from_random(moment.tag))))
    }

    /// The transaction that writes an entry, as `ledger/entry.rs` carries it out.
    pub(super) fn write<'a>(
        &mut self,
        ledger: &mut Ledger,
        moment: &Moment,
        trouble: Option<bool>,
        enter: impl FnOnce(&mut Book) -> Entry<'a>,
    ) -> Result<Entry<'a>, Trouble> {
        let entry = enter(self.book(ledger, moment)?);
        if entry.is_empty() {
            return Ok(entry);
        }
        if trouble != Some(false) {
            ledger.write(&entry);
        }
        trouble.map_or(Ok(entry), |_| Err(Trouble::Unanswered))
    }

    pub(super) fn carry_out_poll(
        &mut self,
        action: poller::Action,
        table: &mut Table,
        ledger: &mut Ledger,
        moment: &Moment,
        trouble: Option<bool>,
        away: bool,
    ) -> Result<Option<poller::Event>, Trouble> {
        use poller::{Action, Event};
        let now = moment.now;
        Ok(Some(match action {
            Action::Probe | Action::Read { .. } | Action::Delete { .. } | Action::Find(_) if away => {
                Event::SourceFailed
            }
            Action::Look => {
                // As the beat of the lease does.
                self.book(ledger, moment)?;
                Event::Looked { in_place: table.in_place }
            }
            Action::ReadPending => {
                let book = self.book(ledger, moment)?;
                let (rows, owed, head) = (book.pending(), book.owed(), book.head());
                Event::Pending { rows, owed, head, replaced: false }
            }
            Action::Probe => Event::Probed,
            Action::Read { limit } => Event::Rows(table.read(limit)),
            Action::Find(keys) => Event::Found(table.find(&keys)),
            Action::Delete { mut keys, .. } => {
                // The tracker holds this row: it stays, and stays marked.
                let held = trouble.map(|_| keys.remove(0)).into_iter().collect();
                keys.iter().for_each(|key| table.delete(key));
                Event::Deleted { gone: keys, held, kept: Vec::new() }
            }
            Action::Record(rows) => {
                let entry = self.write(ledger, moment, trouble, |book| book.record(&rows, now))?;
                Event::Recorded { set_aside: entry.bad.len(), head: entry.after.seq, changes: entry.changes }
            }
            Action::Settle(gone) => {
                let entry = self.write(ledger, moment, trouble, |book| book.settle(&gone, now))?;
                Event::Settled { head: entry.after.seq, changes: entry.changes }
            }
            Action::Wait { .. } | Action::Gather { .. } | Action::BackOff { .. } => Event::Woken,
            action => {
                self.carry_out_quietly(action, ledger, moment, trouble)?;
                return Ok(None);
            }
        }))
    }

    /// Actions of the poller that have no answer.
    pub(super) fn carry_out_quietly(
        &mut self,
        action: poller::Action,
        ledger: &mut Ledger,
        moment: &Moment,
        trouble: Option<bool>,
    ) -> Result<(), Trouble> {
        use poller::Action;
        match action {
            Action::Forget(rows) => drop(self.write(ledger, moment, trouble, |book| book.forget(&rows))?),
            Action::Owe(rows) => drop(self.write(ledger, moment, trouble, |book| book.owe(&rows))?),
            Action::Hold => self.outbox.hold(),
            Action::Allow(seq) => self.news |= self.outbox.limit(seq),
            Action::Hand { changes, head } => {
                self.news |= !changes.is_empty();
                self.outbox.head(head);
                self.outbox.put(changes);
            }
            Action::Report { .. } | Action::TableIsFull { .. } => {}
            action => unreachable!("{action:?} has an answer, or never comes here"),
        }
        Ok(())
    }

    pub(super) fn carry_out_give(
        &mut self,
        action: outlet::Action,
        ledger: &mut Ledger,
        bus: &mut impl Bus,
        connected: &mut bool,
        moment: &Moment,
    ) -> Result<Carried, Trouble> {
        use outlet::{Action, Event};
        let fenced = !self.holds(ledger);
        Ok(match action {
            Action::LookUp(_) | Action::Save(_) | Action::Prune | Action::BeginEpoch { .. } if fenced => {
                return Err(Trouble::Fenced);
            }
            Action::Connect => {
                let fresh = !*connected && bus.connect();
                *connected |= fresh;
                Carried::Answer(if *connected { Event::Connected { fresh } } else { Event::NotConnected })
            }
            Action::ReadEnd if *connected => bus.end().map_or(Carried::NotYet, Carried::Answer),
            Action::ReadEnd => Carried::Answer(Event::NoEnd(Fault::Lost)),
            Action::LookUp(found) => Carried::Answer(Event::LookedUp(ledger.holds(&found))),
            Action::NoteRoute(_) => Carried::Answer(Event::Noted),
            Action::BeginEpoch { .. } => {
                ledger.renumber(moment.epoch.clone(), Tag::from_random(moment.tag));
                self.epoch = ledger.epoch.clone();
                Carried::Ended
            }
            // No fence: whoever has been replaced reads what its successor has recorded, too.
            Action::ReadLedger { after, limit } => {
                let after = usize::try_from(after).unwrap();
                Carried::Answer(Event::Ledger(ledger.changes.iter().skip(after).take(limit).cloned().collect()))
            }
            Action::Publish(batch) => self.publish(&batch, bus, connected),
            Action::Save(published) => {
                assert_eq!(ledger.cursor(published.seq), published, "what is published is in the ledger");
                ledger.published = published.seq;
                Carried::On
            }
            Action::SaveLast(published) => {
                if !fenced {
                    ledger.published = published.seq;
                }
                Carried::On
            }
            Action::Confirmed(confirmed) => {
                self.heads.on(moment.now_ms, heads::Event::Confirmed(confirmed));
                Carried::On
            }
            Action::Prune => Carried::Answer(Event::Pruned { count: 0 }),
            Action::Wait { .. } => self.wait(moment.now_ms),
            Action::BackOff { .. } => Carried::Answer(Event::Woken),
            Action::Works { .. } => {
                self.heads.on(moment.now_ms, heads::Event::Works);
                Carried::On
            }
            Action::NotCompared | Action::OtherLedger(_) => Carried::On,
            Action::SetBack | Action::End => Carried::Ended,
        })
    }

    pub(super) fn wait(&mut self, now_ms: u64) -> Carried {
        if std::mem::take(&mut self.news) || self.ending {
            Carried::Answer(outlet::Event::Woken)
        } else if now_ms < self.wait_at_ms {
            Carried::NotYet
        } else {
            Carried::Answer(outlet::Event::Elapsed)
        }
    }

    /// One message, and what becomes of it. A whole batch, or a lost connection, is the end of it.
    pub(super) fn publish(&mut self, batch: &[Numbered], bus: &mut impl Bus, connected: &mut bool) -> Carried {
        let together = bus.together();
        let begin = || {
            let (mut messages, mut rest): (Vec<Message>, _) = (Vec::new(), batch);
            while !rest.is_empty() {
                let (message, left) = rest.split_at(batch_len(rest, together));
                messages.push(message.into());
                rest = left;
            }
            Sending { batch: messages, confirms: Vec::new() }
        };
        let sending = self.sending.get_or_insert_with(begin);
        let message = &sending.batch[sending.confirms.len()];
        sending.confirms.push(if *connected { bus.publish(message) } else { Confirm::Lost });
        let lost = sending.confirms.contains(&Confirm::Lost);
        if !lost && sending.confirms.len() < sending.batch.len() {
            return Carried::NotYet;
        }
        let Some(Sending { batch: messages, confirms }) = self.sending.take() else { return Carried::NotYet };
        let safe = messages.iter().zip(&confirms).take_while(|(_, confirm)| **confirm == Confirm::Ack);
        let count = safe.map(|(message, _)| message.len()).sum();
        let returned = confirms.contains(&Confirm::Returned);
        *connected &= !(lost || returned && bus.keeps_history());
        let fault = match (lost, returned) {
            (true, _) => Some(Fault::Lost),
            (false, true) => Some(Fault::Unroutable),
            (false, false) => (count < batch.len()).then_some(Fault::Refused),
        };
        Carried::Answer(outlet::Event::Published { count, fault })
    }
}
