//! What becomes of a change: from the queue, or from history, to the shards.
//!
//! Goes in: changes as they were delivered, alone or several in one message. Comes out: what every shard is told, what people
//! should know, and what may be acknowledged. Several changes go the same way one by one: what is said of one of them (a
//! hole, a number that is known or late) concerns that one alone.

use std::sync::Arc;

use bugfeed_protocol::Cursor;

use super::steps::Happened;
use super::words::{Action, Arrival, Ask, Cause, Now, Say, Tell, Why};
use super::{Bus, Held};
use crate::input::Update;
use crate::sequencer::{New, Taken};

impl Bus {
    /// A delivery is done with.
    pub(super) fn done(&mut self, now: Now, tag: Option<u64>) {
        if let Some(tag) = self.acks.done(now.ms, tag) {
            self.ask(Ask::Acknowledge(tag));
        }
    }

    /// A delivery goes no further.
    pub(super) fn unreadable(&mut self, now: Now, tag: Option<u64>) {
        // What comes beside the queue has not waited in it.
        self.backlog = self.backlog.saturating_sub(u64::from(tag.is_some()));
        self.done(now, tag);
    }

    /// Takes in the rest of the delivery in hand, up to a change before which others are missing.
    pub(super) fn work_off(&mut self, now: Now) {
        while self.held.is_none()
            && let Some(arrival) = self.in_hand.pop_front()
        {
            let tag = self.in_hand_tag.filter(|_| self.in_hand.is_empty());
            self.change(now, arrival, tag);
        }
    }

    /// Takes in a change from the queue. `tag` is that of its delivery, if it is the last one of it.
    pub(super) fn change(&mut self, now: Now, arrival: Arrival, tag: Option<u64>) {
        let taken = match self.older.is_before() {
            true => self.offer_waiting(now, &arrival),
            false => self.sequencer.offer(&arrival.message, arrival.recorded, now.wall),
        };
        let epoch = arrival.message.cursor.as_ref().map(|cursor| &cursor.epoch);
        let numbered = |update: &Update| update.number.is_some();
        let next = matches!(&taken, Taken::New(New { update, gap: None, late: false, .. }) if numbered(update));
        let happened = Happened::Taken { epoch, next, last: self.in_hand.is_empty() };
        match taken {
            Taken::Hole { missing, before } => {
                self.decide(now, happened);
                self.say(Say::Hole(missing, before));
                self.held = Some(Held { arrival, tag, missing });
                self.decide(now, Happened::Hole);
            }
            taken => {
                if let Taken::New(New { update: Update { number: Some(number), .. }, .. }) = &taken
                    && self.in_hand.is_empty()
                {
                    self.history.delivered(number);
                }
                self.pass_on(taken);
                if let Some(number) = self.waited_to_no_end() {
                    self.go_on_after(&number, Why::Forked);
                }
                self.decide(now, happened);
                self.done(now, tag);
            }
        }
    }

    /// Takes in a change that had waited in the queue, and may lie before all that is known.
    fn offer_waiting(&mut self, now: Now, arrival: &Arrival) -> Taken {
        let head = self.sequencer.head();
        let taken = self.sequencer.offer_older(&arrival.message, arrival.recorded, now.wall);
        self.older.note(&arrival.message, &taken, head.as_ref(), &self.sequencer);
        // Counted in deliveries.
        self.backlog = self.backlog.saturating_sub(u64::from(self.in_hand.is_empty()));
        taken
    }

    /// Where all that had waited in the queue is through: its last number, where that leads to nothing known here.
    fn waited_to_no_end(&mut self) -> Option<Cursor> {
        if self.backlog > 0 || !self.older.is_before() {
            return None;
        }
        std::mem::take(&mut self.older).leads_nowhere().cloned()
    }

    /// Passes on what became of a change.
    fn pass_on(&mut self, taken: Taken) {
        let Taken::New(New { update, gap, late, forked }) = taken else { return self.say(Say::Repeated) };
        if forked {
            let number = update.number.as_ref().unwrap_or(&update.cursor);
            self.say(Say::Forked(number.clone(), self.begun));
        }
        if late {
            self.say(Say::Late);
        }
        if let Some(cursor) = gap {
            self.gap(Some(cursor), Cause::Change);
        }
        self.tell_update(update);
    }

    /// Tells the shards of a change. Those that follow one another are told together.
    fn tell_update(&mut self, update: Update) {
        match self.out.back_mut() {
            Some(Action::Tell(Tell::Updates(updates))) => Arc::make_mut(updates).push(update),
            Some(Action::Tell(Tell::Update(_))) => {
                let Some(Action::Tell(Tell::Update(before))) = self.out.pop_back() else { return };
                self.tell(Tell::Updates(Arc::new(vec![before, update])));
            }
            _ => self.tell(Tell::Update(update)),
        }
    }

    pub(super) fn gap(&mut self, cursor: Option<Cursor>, cause: Cause) {
        if self.begun {
            self.say(Say::Gap(cursor.clone()));
        }
        self.tell(Tell::Gap(cursor, cause));
    }

    /// Takes in a change of history. What history itself lacks cannot be had: it is told as a gap.
    pub(super) fn take_old(&mut self, now: Now, arrival: &Arrival) {
        let Arrival { message, recorded } = arrival;
        let head = self.sequencer.head();
        let mut taken = match self.is_before() {
            true => self.sequencer.offer_older(message, *recorded, now.wall),
            false => self.sequencer.offer(message, *recorded, now.wall),
        };
        let hole = matches!(taken, Taken::Hole { .. });
        if hole {
            taken = self.sequencer.accept_gap(message, *recorded, now.wall);
        }
        let broken = hole || matches!(taken, Taken::New(New { gap: Some(_), .. }));
        if let Some(reading) = self.history.reading_mut() {
            reading.older.note(message, &taken, head.as_ref(), &self.sequencer);
            if broken {
                reading.gave_up();
            }
        }
        self.pass_on(taken);
    }

    /// The held change is offered again; what is missing before it still is given up, and told as a gap.
    pub(super) fn take_held(&mut self, now: Now) {
        let Some(Held { arrival, tag, .. }) = self.held.take() else { return };
        let taken = self.sequencer.accept_gap(&arrival.message, arrival.recorded, now.wall);
        self.pass_on(taken);
        self.done(now, tag);
    }
}
