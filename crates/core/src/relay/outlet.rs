//! The outlet's rounds: publish what is recorded, in order, and move the watermark.
//!
//! Goes in: the outbox, what the ledger and the bus answer. Comes out: batches to publish, and when to save, prune, look
//! and pause. Begins after the watermark, with the same numbers, whatever happened before. Never passes over a change that
//! is not safe with the bus.

use std::sync::Arc;

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::{Cursor, Numbered, Tag};

use super::longest_pause_ms;
use super::outbox::{Next, Outbox};

/// How often an idle outlet asks whether the bus is still there.
const CHECK_MS: u64 = 2000;
/// How old the ledger's watermark may become while changes keep coming: so much is published again after a crash. Saving
/// each batch would cost a commit, which waits for the disk.
const SAVE_MS: u64 = 100;
/// How often published history is looked at for pruning.
const PRUNE_MS: u64 = 10_000;
/// The same, where there is more to prune.
const PRUNE_MORE_MS: u64 = 100;
/// A pruning step that removed so many was a full one: there may be more.
const PRUNED_FULL: u64 = 5000;

/// Why the bus did not take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is lost, or was never there.
    Lost,
    /// Nobody is there to take it yet.
    Unroutable,
    /// The broker refuses to take responsibility just now.
    Refused,
    /// The broker takes nothing from anybody just now.
    Blocked,
}

/// What a ledger says about a number that somebody else has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It gave this number, under this tag.
    Same,
    /// It gave this number under another tag: its own, if it has one there.
    OtherTag(Option<Tag>),
    /// It has not given this number; this is its head.
    Beyond(Cursor),
    /// The number is of an epoch that this ledger had before.
    Former,
    /// The number is of another ledger.
    OtherLedger,
}

/// What happened, mostly: what became of an action.
#[derive(Clone, Debug)]
pub enum Event {
    /// A tenure begins, with what the ledger says now.
    Begin {
        /// The last number given.
        head: u64,
        /// The watermark.
        saved: Cursor,
    },
    /// The ledger has begun a new epoch, for another reason than [`Action::BeginEpoch`].
    EpochBegun,
    /// After [`Action::Connect`]: there is a way.
    Connected {
        /// It is a new one.
        fresh: bool,
    },
    /// After [`Action::Connect`]: there is none.
    NotConnected,
    /// After [`Action::ReadEnd`]: the latest numbers of the bus's history, in its order; `None` where it keeps none.
    End(Option<Vec<Cursor>>),
    /// After [`Action::ReadEnd`].
    NoEnd(Fault),
    /// After [`Action::LookUp`].
    LookedUp(Holds),
    /// After [`Action::NoteRoute`].
    Noted,
    /// After [`Action::ReadLedger`]: what follows, as far as it is kept.
    Ledger(Vec<Numbered>),
    /// After [`Action::Publish`].
    Published {
        /// So many, from the front, are safe.
        count: usize,
        /// Why not all of them, if the bus says so.
        fault: Option<Fault>,
    },
    /// After [`Action::Prune`].
    Pruned {
        /// So many changes.
        count: u64,
    },
    /// After [`Action::Wait`], before its time; and after [`Action::BackOff`].
    Woken,
    /// After [`Action::Wait`], when its time was over.
    Elapsed,
    /// Finish the batch in hand, and end.
    Stop,
}

/// What to do next, in this order. At most the last one of a list has an answer. An error of the ledger has none: it ends
/// the tenure.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make sure that there is a way to the bus.
    Connect,
    /// Read the numbers that the bus's history ends with.
    ReadEnd,
    /// Ask the ledger what it says about a number.
    LookUp(Cursor),
    /// Say that history cannot be read, and changes go on without having been compared. No answer.
    NotCompared,
    /// Say that history ends with another ledger's number. No answer.
    OtherLedger(Cursor),
    /// Write down where changes go. The last number there: none where there is no history, none within where it is empty.
    NoteRoute(Option<Option<Cursor>>),
    /// The ledger was set back: begin a new epoch, and end the tenure. No answer.
    BeginEpoch {
        /// History has this number,
        found: Cursor,
        /// and the ledger does not.
        holds: Holds,
    },
    /// Everything is confirmed up to here; none where that is not known. For the heads. No answer.
    Confirmed(Option<Cursor>),
    /// Read changes from the ledger.
    ReadLedger {
        /// Those after this number.
        after: u64,
        /// At most so many.
        limit: usize,
    },
    /// Publish these, in order, on the way that was looked at.
    Publish(Arc<[Numbered]>),
    /// Save the watermark. No answer.
    Save(Cursor),
    /// Save the watermark; a failure is harmless. No answer.
    SaveLast(Cursor),
    /// Remove old published changes from the ledger.
    Prune,
    /// Say that the bus works. No answer.
    Works {
        /// How far everything is published.
        published: u64,
    },
    /// Pause, until something is recorded.
    Wait {
        /// At most so long.
        ms: u64,
    },
    /// Pause after a failure.
    BackOff {
        /// The time is drawn from the upper half of this.
        longest_ms: u64,
    },
    /// What the ledger gave does not go on where the last batch ended: it was set back. Ends the tenure. No answer.
    SetBack,
    /// The outlet has ended. No answer.
    End,
}

/// What is to be published next; nothing where the way is only looked at.
type Batch = Arc<[Numbered]>;

/// What the outlet waits for.
#[derive(Clone, Debug, Default)]
enum Phase {
    /// Nothing: a tenure begins, or is over.
    #[default]
    Idle,
    /// A way.
    Connecting(Batch),
    /// The end of history.
    ReadingEnd(Batch),
    /// What the ledger says about the number `at` of the end of history.
    Comparing { batch: Batch, end: Vec<Cursor>, at: usize },
    /// That the way is noted.
    Noting(Batch),
    /// What follows, from the ledger. `closed`: whether more can come.
    Reading { closed: bool },
    /// The confirms.
    Publishing(Batch),
    /// That old changes are removed; then it waits, or goes on.
    Pruning { then_wait: bool },
    /// That something is recorded.
    Waiting,
    /// The end of a pause.
    BackingOff,
}

/// Publishes, in one term: it goes from one tenure to the next.
#[derive(Clone, Debug)]
pub struct Outlet {
    batch: usize,
    phase: Phase,
    stopping: bool,
    /// Everything up to here is confirmed; none while the way was not looked at.
    confirmed: Option<Cursor>,
    /// What lies there was compared with the ledger.
    compared: bool,
    /// So often history could not be read.
    failures: u32,
    /// Everything up to here is safe with the bus.
    published: Option<Cursor>,
    /// What the ledger knows of it.
    saved: Option<Cursor>,
    save_at_ms: u64,
    prune_at_ms: u64,
    backoff: Backoff,
    /// Nobody took the last one: try one message at a time until somebody does.
    probing: bool,
    /// Ask the ledger, even if nothing is known to be there.
    look: bool,
}

impl Outlet {
    /// An outlet that does nothing before [`Event::Begin`]. `batch`: the most changes published before confirms are awaited.
    pub fn new(batch: usize) -> Outlet {
        Outlet {
            batch,
            phase: Phase::Idle,
            stopping: false,
            confirmed: None,
            compared: false,
            failures: 0,
            published: None,
            saved: None,
            save_at_ms: 0,
            prune_at_ms: 0,
            backoff: Backoff::SERVER,
            probing: false,
            look: true,
        }
    }

    /// What to do about an event. `now_ms` never falls; `outbox` is that of the tenure.
    ///
    /// # Panics
    ///
    /// When the event is no answer to the last action that has one.
    pub fn on(&mut self, now_ms: u64, event: Event, outbox: &mut Outbox) -> Vec<Action> {
        let mut out = Vec::new();
        if let Event::Stop = event {
            self.stopping = true;
            return out;
        }
        match (std::mem::take(&mut self.phase), event) {
            (_, Event::Begin { head, saved }) => self.begin(now_ms, head, saved, outbox, &mut out),
            (_, Event::EpochBegun) => self.confirm(None, &mut out),
            (Phase::Connecting(batch), Event::Connected { fresh }) => {
                self.connected(now_ms, batch, fresh, outbox, &mut out);
            }
            (Phase::Connecting(_), Event::NotConnected) => self.failed(Fault::Lost, 0, &mut out),
            (Phase::ReadingEnd(batch), Event::End(end)) => self.end_read(batch, end, &mut out),
            (Phase::ReadingEnd(batch), Event::NoEnd(fault)) => self.end_not_read(batch, fault, &mut out),
            (Phase::Comparing { batch, end, at }, Event::LookedUp(holds)) => {
                self.looked_up(batch, end, at, holds, &mut out);
            }
            (Phase::Noting(batch), Event::Noted) => {
                self.compared = true;
                self.use_way(now_ms, batch, outbox, &mut out);
            }
            (Phase::Reading { closed }, Event::Ledger(batch)) => self.go_on_with(now_ms, batch, closed, &mut out),
            (Phase::Publishing(batch), Event::Published { count, fault }) => {
                self.confirmed(now_ms, &batch, count, fault, outbox, &mut out);
            }
            (Phase::Pruning { then_wait }, Event::Pruned { count }) => {
                self.prune_at_ms = now_ms + if count >= PRUNED_FULL { PRUNE_MORE_MS } else { PRUNE_MS };
                if then_wait { self.wait(&mut out) } else { self.round(now_ms, outbox, &mut out) }
            }
            (Phase::Waiting, Event::Elapsed) => {
                self.look = true;
                self.look_at_way(Arc::default(), &mut out);
            }
            (Phase::Waiting | Phase::BackingOff, Event::Woken) => self.round(now_ms, outbox, &mut out),
            (phase, event) => unreachable!("{event:?} is no answer to what was asked last: {phase:?}"),
        }
        out
    }

    fn begin(&mut self, now_ms: u64, head: u64, saved: Cursor, outbox: &mut Outbox, out: &mut Vec<Action>) {
        outbox.head(head);
        // In the same term, and in a ledger that was not set back, what was confirmed before stays so.
        let before = self.confirmed.clone().filter(|before| before.epoch == saved.epoch && before.seq > saved.seq);
        self.published = Some(before.unwrap_or_else(|| saved.clone()));
        self.saved = Some(saved);
        (self.save_at_ms, self.prune_at_ms) = (now_ms, now_ms);
        self.backoff.reset();
        (self.probing, self.look, self.stopping) = (false, true, false);
        // The way is looked at even if there is nothing to publish yet.
        self.look_at_way(Arc::default(), out);
    }

    /// How far everything is published.
    fn seq(&self) -> u64 {
        self.published.as_ref().map_or(0, |published| published.seq)
    }

    /// One batch, or one wait.
    fn round(&mut self, now_ms: u64, outbox: &mut Outbox, out: &mut Vec<Action>) {
        if self.stopping {
            // Not saved is harmless: the same changes are published again, with the same numbers.
            out.extend(self.unsaved().map(Action::SaveLast));
            out.push(Action::End);
            return;
        }
        let closed = outbox.is_closed();
        let after = self.seq();
        let limit = outbox.allowed(after, if self.probing { 1 } else { self.batch });
        let next = outbox.take(after, limit);
        let look = std::mem::replace(&mut self.look, false);
        match next {
            _ if limit == 0 => self.go_on_with(now_ms, Vec::new(), closed, out),
            Next::Here(batch) => self.go_on_with(now_ms, batch, closed, out),
            // Looked at all the same when idle: a commit that was not answered may have happened.
            Next::None if !closed && !look => self.go_on_with(now_ms, Vec::new(), closed, out),
            Next::None | Next::InLedger => {
                self.phase = Phase::Reading { closed };
                out.push(Action::ReadLedger { after, limit });
            }
        }
    }

    /// Publishes a batch; without one there is nothing to do.
    fn go_on_with(&mut self, now_ms: u64, batch: Vec<Numbered>, closed: bool, out: &mut Vec<Action>) {
        if !batch.is_empty() {
            return self.look_at_way(batch.into(), out);
        }
        self.save(now_ms, out);
        if closed {
            out.push(Action::End);
        } else if now_ms >= self.prune_at_ms {
            self.phase = Phase::Pruning { then_wait: true };
            out.push(Action::Prune);
        } else {
            self.wait(out);
        }
    }

    fn wait(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Waiting;
        out.push(Action::Wait { ms: CHECK_MS });
    }

    /// Makes sure that there is a way, and that it may be used; then publishes. An empty batch only asks.
    fn look_at_way(&mut self, batch: Batch, out: &mut Vec<Action>) {
        if self.follows(&batch) {
            self.phase = Phase::Connecting(batch);
            out.push(Action::Connect);
        } else {
            out.push(Action::SetBack);
        }
    }

    /// Whether a batch goes on where the last one ended, in the same history. One that was read from a ledger which was
    /// set back meanwhile does not.
    fn follows(&self, batch: &[Numbered]) -> bool {
        let (Some(first), Some(published)) = (batch.first(), &self.published) else { return true };
        let before = first.after.or(first.cursor.tag);
        let same = before.is_none() || published.tag.is_none() || before == published.tag;
        let next = first.cursor.seq == published.seq + 1 && first.cursor.epoch == published.epoch;
        next && same
    }

    /// The way is open, and was compared.
    fn use_way(&mut self, now_ms: u64, batch: Batch, outbox: &mut Outbox, out: &mut Vec<Action>) {
        if self.confirmed.is_none() {
            self.confirm(self.published.clone(), out);
        }
        if !batch.is_empty() {
            out.push(Action::Publish(Arc::clone(&batch)));
            self.phase = Phase::Publishing(batch);
        } else if self.probing {
            // An open way says nothing about whether somebody takes what comes along it.
            self.round(now_ms, outbox, out);
        } else {
            self.works(now_ms, outbox, out);
        }
    }

    fn confirmed(
        &mut self,
        now_ms: u64,
        batch: &[Numbered],
        count: usize,
        fault: Option<Fault>,
        outbox: &mut Outbox,
        out: &mut Vec<Action>,
    ) {
        let count = count.min(batch.len());
        let fault = fault.or((count < batch.len()).then_some(Fault::Refused));
        if let Some(last) = count.checked_sub(1).and_then(|last| batch.get(last)) {
            self.published = Some(last.cursor.clone());
            self.confirm(self.published.clone(), out);
            if now_ms >= self.save_at_ms || fault.is_some() {
                self.save(now_ms, out);
            }
        }
        match fault {
            Some(fault) => self.failed(fault, count, out),
            None => self.works(now_ms, outbox, out),
        }
    }

    /// The bus did not take everything: `count` changes it did.
    fn failed(&mut self, fault: Fault, count: usize, out: &mut Vec<Action>) {
        self.probing = fault == Fault::Unroutable;
        if count > 0 {
            self.backoff.reset();
        }
        self.phase = Phase::BackingOff;
        out.push(Action::BackOff { longest_ms: longest_pause_ms(&mut self.backoff) });
    }

    fn works(&mut self, now_ms: u64, outbox: &mut Outbox, out: &mut Vec<Action>) {
        self.backoff.reset();
        self.probing = false;
        out.push(Action::Works { published: self.seq() });
        if now_ms >= self.prune_at_ms {
            self.phase = Phase::Pruning { then_wait: false };
            out.push(Action::Prune);
        } else {
            self.round(now_ms, outbox, out);
        }
    }

    fn unsaved(&self) -> Option<Cursor> {
        self.published.clone().filter(|_| self.saved != self.published)
    }

    fn save(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        out.extend(self.unsaved().map(Action::Save));
        self.saved = self.published.clone();
        self.save_at_ms = now_ms + SAVE_MS;
    }

    fn confirm(&mut self, confirmed: Option<Cursor>, out: &mut Vec<Action>) {
        if self.confirmed != confirmed {
            self.confirmed = confirmed;
            out.push(Action::Confirmed(self.confirmed.clone()));
        }
    }
}

mod route;

#[cfg(test)]
mod tests;
