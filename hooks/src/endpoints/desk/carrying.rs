//! What the planners say is carried out: requests, writes, what people are told.

use std::sync::Arc;

use bugfeed_core::endpoints::batch::Batch;
use bugfeed_core::endpoints::endpoint::{Action, Attempt, Event, Input, Send, What};
use bugfeed_core::endpoints::policy::Outcome;
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::subscriptions::Slot;
use bugfeed_protocol::{Cursor, Epoch};
use futures::FutureExt as _;
use futures::stream::StreamExt as _;
use tokio::task::JoinError;

use super::{Desk, Flying, Served, TOGETHER, Word, Written};
use crate::endpoints::cause::cause;
use crate::endpoints::content::{self, Style};
use crate::endpoints::events::Who;
use crate::endpoints::feeds::AllFeeds;
use crate::endpoints::request::{Ended, Job, Load};
use crate::store::endpoints::{Save, Saved};

/// So many changes are remembered that a chat took of attempts that failed later.
const MOST_TOLD: usize = 64;

impl Desk {
    pub(super) fn carry_out(&mut self, slot: Slot, action: Action) {
        match action {
            Action::Want(class) => {
                let now_us = self.now_us();
                if let Some(served) = self.served(slot) {
                    served.owed.new_us.get_or_insert(now_us);
                }
                self.schedule.want(slot, class);
            }
            Action::Release => {
                if let Some(served) = self.served(slot) {
                    served.owed.new_us = None;
                }
                self.schedule.done(slot);
            }
            Action::Send(send) => self.send(slot, &send),
            Action::Store(row, _) => self.write(slot, Some(*row)),
            Action::Attempt(attempt) => self.attempted(slot, &attempt),
            Action::Event(event) => self.tell(slot, event),
            Action::Gone => self.forget(slot),
        }
    }

    fn send(&mut self, slot: Slot, send: &Send) {
        let within = self.parts.options.within;
        let until = tokio::time::Instant::now() + within;
        let Some(served) = self.endpoints.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let (feed, mut load) = match &send.what {
            What::Batch(batch) => (Some(Arc::clone(&batch.feed)), of_batch(served, &self.feeds, batch)),
            What::Test { feed, cursor, generation } => {
                (feed.clone(), of_test(served, &self.feeds, feed.as_ref(), cursor.as_ref(), *generation))
            }
            What::Redelivery { attempt } => (None, Load::Again(*attempt)),
        };
        let has_rest = cut(&mut load, send.most);
        let job = Job {
            endpoint: served.id.clone(),
            target: Arc::clone(&served.target),
            feed,
            trigger: send.trigger,
            load,
            has_rest,
            until,
        };
        let courier = self.courier.clone();
        let flight = self.requests.spawn(async move { courier.carry(job).await });
        let (partition, term) = (served.partition, served.term);
        let is_batch = matches!(send.what, What::Batch(_));
        self.flying.insert(flight.id(), Flying { slot, serial: served.serial, partition, term, is_batch });
        served.flight = Some(flight);
        // What else is owed is wanted again afterwards.
        let new_us = served.owed.new_us.take().filter(|_| is_batch);
        served.owed.sent_us = served.owed.sent_us.or(new_us);
        self.busy(partition, term, 1);
    }

    /// Requests have ended.
    pub(super) fn ended(&mut self, first: Result<(tokio::task::Id, Ended), JoinError>) {
        let mut next = Some(first);
        for _ in 0..TOGETHER {
            let Some(ended) = next.take().or_else(|| self.requests.try_join_next_with_id()) else { return };
            self.one_ended(ended);
        }
    }

    fn one_ended(&mut self, ended: Result<(tokio::task::Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Some(ended)),
            // It was given up: its receiver may have taken it, and nothing is counted.
            Err(error) if error.is_cancelled() => (error.id(), None),
            Err(error) => (error.id(), Some(Ended::broken())),
        };
        let Some(Flying { slot, serial, partition, term, is_batch }) = self.flying.remove(&id) else { return };
        if let Some(ended) = ended
            && let Some(served) = self.same(slot, serial)
        {
            served.flight = None;
            let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let posted = Input::Posted { sent: number(ended.rows.len()), taken: number(ended.told.len()) };
            served.ended = ended.rows;
            match ended.outcome {
                // It has not taken what it was owed before.
                _ if !is_batch => {}
                Outcome::Success => (served.told.1, served.owed.sent_us) = (Vec::new(), None),
                _ => served.told.1.extend(ended.told),
            }
            let many = served.told.1.len().saturating_sub(MOST_TOLD);
            served.told.1.drain(..many);
            self.events().attempted(ended.outcome, ended.took);
            self.step(slot, posted);
            self.step(slot, Input::Ended(ended.outcome));
        }
        self.busy(partition, term, -1);
    }

    /// The planner has counted the attempt.
    fn attempted(&mut self, slot: Slot, attempt: &Attempt) {
        self.schedule.done(slot);
        let Some(served) = self.served(slot) else { return };
        let mut rows = std::mem::take(&mut served.ended);
        // Of several messages, the last one decided.
        if let Some(last) = rows.last_mut() {
            last.counts = attempt.counts;
        }
        served.attempts.append(&mut rows);
    }

    /// Writes a row, with what the log lacks.
    pub(super) fn write(&mut self, slot: Slot, row: Option<Row>) {
        let Some(served) = self.endpoints.get(slot as usize).and_then(Option::as_deref) else { return };
        let Served { serial, partition, term, .. } = *served;
        let (id, attempts) = (served.id.clone(), served.attempts.len());
        let version = row.as_ref().map_or(0, |row| row.version);
        let saving = self.saves.save(Save { id, row, partition, term, attempts: served.attempts.clone() });
        let written = async move { Written { slot, serial, partition, term, attempts, version, saved: saving.await } };
        self.writes.push(written.boxed());
        self.busy(partition, term, 1);
    }

    /// Writes have ended.
    pub(super) fn written(&mut self, first: Written) {
        let mut next = Some(first);
        for _ in 0..TOGETHER {
            let Some(written) = next.take().or_else(|| self.writes.next().now_or_never().flatten()) else { return };
            self.one_written(written);
        }
    }

    fn one_written(&mut self, written: Written) {
        let Written { slot, serial, partition, term, attempts, version, saved } = written;
        match &saved {
            Ok(_) => self.events().store_works(),
            Err(error) => self.events().store_failed(error),
        }
        if let Some(served) = self.same(slot, serial) {
            if saved.is_ok() {
                // The log has them, whatever became of the row.
                served.attempts.drain(..attempts);
            }
            match saved {
                Ok(Saved::Stored) => self.step(slot, Input::Stored(version)),
                Ok(Saved::Conflict(Some(row))) => {
                    // The settings may be others, too.
                    self.say(Word::Look);
                    self.step(slot, Input::NotStored(Some(row)));
                }
                Ok(Saved::Conflict(None)) | Ok(Saved::Lost) => self.step(slot, Input::Lost),
                Err(_) => self.step(slot, Input::NotStored(None)),
            }
        }
        self.busy(partition, term, -1);
    }

    fn tell(&mut self, slot: Slot, event: Event) {
        let Some(served) = self.endpoints.get(slot as usize).and_then(Option::as_deref) else { return };
        // The attempt that it is about is the last one.
        let cause = served.attempts.last().and_then(|row| cause(row, &served.target.hidden));
        let who = Who { id: &served.id, server: &served.target.host, cause: cause.as_deref() };
        self.parts.events.tell(who, event, self.now_us(), &self.parts.raise);
    }
}

/// Leaves so many messages. Returns whether there were more.
fn cut(load: &mut Load, most: u32) -> bool {
    let Load::Messages(messages) = load else { return false };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let has_rest = messages.len() > most;
    messages.truncate(most);
    has_rest
}

/// What a batch says.
fn of_batch(served: &mut Served, feeds: &AllFeeds, batch: &Batch) -> Load {
    let told_as = (batch.generation, served.planner.row().turn);
    if served.told.0 != told_as {
        // Somebody has asked for the same changes once more, or it is another URL.
        served.told = (told_as, Vec::new());
    }
    let style = style(served, feeds, Some(&batch.feed));
    Load::Messages(content::of_batch(&style, batch, &served.told.1))
}

fn of_test(
    served: &Served,
    feeds: &AllFeeds,
    feed: Option<&Arc<str>>,
    cursor: Option<&Cursor>,
    generation: u32,
) -> Load {
    let style = style(served, feeds, feed.map(|feed| &**feed));
    let known = cursor.cloned().or_else(|| feeds.head(feed?));
    // No feed has a number yet: no ledger has this epoch, so whoever asks with such a cursor is told a gap.
    let cursor = known.or_else(|| Some(Cursor::new(Epoch::parse("none")?, 0)));
    let feed = feed.cloned().unwrap_or_else(|| Arc::from(""));
    let message = cursor.map(|cursor| content::of_test(&style, &feed, &cursor, generation));
    Load::Messages(message.into_iter().collect())
}

fn style<'a>(served: &'a Served, feeds: &'a AllFeeds, feed: Option<&str>) -> Style<'a> {
    Style {
        endpoint: served.id.as_str(),
        template: served.target.template.as_ref(),
        link: feed.and_then(|feed| feeds.link(feed)),
    }
}
