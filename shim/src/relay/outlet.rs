//! Outlet: publish what is recorded, in order, and move the watermark.
//!
//! Goes in: the ledger's unpublished changes, straight from the intake where they are new. Comes out: published ones.
//! After a crash it begins after the watermark, with the same numbers. Never passes over a change that is not safe with
//! the bus.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::{Cursor, Numbered};

use super::handoff::Next;
use super::way::{Opened, Way};
use super::{Ended, Term, now, pause};
use crate::events::Part;
use crate::ledger::{LedgerError, Meta};
use crate::publish::{Publish, PublishError, PublishFault};

/// How often an idle outlet asks whether the bus is still there.
const CHECK: Duration = Duration::from_secs(2);
/// How old the ledger's watermark may become while changes keep coming: so much is published again after a crash. Saving
/// each batch would cost a commit, which waits for the disk.
const SAVE: Duration = Duration::from_millis(100);
/// How often published history is looked at for pruning.
const PRUNE: Duration = Duration::from_secs(10);

struct State<'a, 'p, P> {
    term: &'a Term<'a>,
    way: &'a mut Way<'p, P>,
    /// Everything up to here is safe with the bus.
    published: Cursor,
    /// What the ledger knows of it.
    saved: Cursor,
    save_at: Instant,
    backoff: Backoff,
    /// Nobody took the last one: try one message at a time until somebody does.
    probing: bool,
    /// Ask the ledger, even if nothing is known to be there.
    look: bool,
    prune_at: Instant,
}

/// What a round came to.
enum Step {
    On,
    Drained,
    NewEpoch,
}

pub(super) async fn run<P: Publish>(
    term: &Term<'_>,
    way: &mut Way<'_, P>,
    meta: &Meta,
    saved: Cursor,
) -> Result<Ended, LedgerError> {
    let telemetry = &term.options.telemetry;
    term.handoff.head(meta.head);
    telemetry.lease_taken(term.lease.ledger().place(), &meta.cursor(), meta.head - meta.published);
    // In the same term, and in a ledger that was not set back, what was confirmed before stays so.
    let before = way.confirmed.get().filter(|before| before.epoch == saved.epoch && before.seq > saved.seq);
    let mut state = State {
        term,
        way,
        published: before.unwrap_or_else(|| saved.clone()),
        saved,
        save_at: Instant::now(),
        backoff: Backoff::SERVER,
        probing: false,
        look: true,
        prune_at: Instant::now(),
    };
    let mut ended = Ended::Done;
    // The way is looked at even if there is nothing to publish yet.
    if let Step::NewEpoch = state.publish(&[]).await? {
        return Ok(Ended::NewEpoch);
    }
    while !term.stop.is_cancelled() {
        match state.round().await? {
            Step::On => {}
            Step::Drained => break,
            Step::NewEpoch => {
                ended = Ended::NewEpoch;
                break;
            }
        }
    }
    // Not saved is harmless: the same changes are published again, with the same numbers.
    if ended == Ended::Done
        && let Err(e) = state.save().await
    {
        telemetry.down(Part::Ledger, &e);
    }
    Ok(ended)
}

impl<P: Publish> State<'_, '_, P> {
    /// One batch, or one wait.
    async fn round(&mut self) -> Result<Step, LedgerError> {
        let drained = self.term.drained.load(Ordering::Acquire);
        let limit = if self.probing { 1 } else { self.term.options.batch };
        let limit = self.term.handoff.allowed(self.published.seq, limit);
        let batch = match self.term.handoff.take(self.published.seq, limit) {
            _ if limit == 0 => Vec::new(),
            Next::Here(batch) => batch,
            // Looked at all the same when idle: a commit that was not answered may have happened.
            Next::None if !drained && !self.look => Vec::new(),
            _ => self.term.lease.ledger().history(self.published.seq, limit).await?,
        };
        self.look = false;
        if !batch.is_empty() {
            return self.publish(&batch).await;
        }
        self.save().await?;
        if drained {
            return Ok(Step::Drained);
        }
        self.prune().await?;
        tokio::select! {
            () = self.term.recorded.notified() => {}
            () = self.term.stop.cancelled() => {}
            () = tokio::time::sleep(CHECK) => {
                self.look = true;
                return self.publish(&[]).await;
            }
        }
        Ok(Step::On)
    }

    /// Publishes a batch; an empty one asks whether the way is open.
    async fn publish(&mut self, batch: &[Numbered]) -> Result<Step, LedgerError> {
        let term = self.term;
        let telemetry = &term.options.telemetry;
        self.follows(batch)?;
        let outcome = match self.way.open(term.lease, telemetry, &self.published).await? {
            Opened::Yes if batch.is_empty() => Ok(0),
            Opened::Yes => self.way.publisher.publish(batch).await,
            Opened::No(e) => Err(e),
            Opened::NewEpoch => return Ok(Step::NewEpoch),
        };
        let (count, trouble) = match outcome {
            Ok(count) if count < batch.len() => {
                let reason = "the bus did not take every change".to_owned();
                (count, Some(PublishError { published: count, fault: PublishFault::Refused, reason }))
            }
            Ok(count) => (count, None),
            Err(e) => (e.published, Some(e)),
        };
        let count = count.min(batch.len());
        if let Some(last) = count.checked_sub(1).and_then(|last| batch.get(last)) {
            self.published = last.cursor.clone();
            self.way.confirmed.set(Some(last.cursor.clone()));
            telemetry.published(count);
            if self.save_at <= Instant::now() || trouble.is_some() {
                self.save().await?;
            }
        }
        if let Some(e) = trouble {
            telemetry.down(Part::Bus, &e);
            self.probing = e.fault == PublishFault::Unroutable;
            if count > 0 {
                self.backoff.reset();
            }
            pause(self.backoff.next(rand::random()), term.stop).await;
            return Ok(Step::On);
        }
        // An open way says nothing about whether somebody takes what comes along it.
        if batch.is_empty() && self.probing {
            return Ok(Step::On);
        }
        self.backoff.reset();
        self.probing = false;
        if telemetry.up(Part::Bus) {
            let head = term.lease.ledger().head().await?;
            telemetry.catching_up(head.saturating_sub(self.published.seq));
        }
        if self.prune_at <= Instant::now() {
            self.prune().await?;
        }
        Ok(Step::On)
    }

    /// Whether a batch goes on where the last one ended, in the same history. One that was read from a ledger which was
    /// set back meanwhile does not.
    fn follows(&self, batch: &[Numbered]) -> Result<(), LedgerError> {
        let Some(first) = batch.first() else { return Ok(()) };
        let before = first.after.or(first.cursor.tag);
        let same = before.is_none() || self.published.tag.is_none() || before == self.published.tag;
        let next = first.cursor.seq == self.published.seq + 1 && first.cursor.epoch == self.published.epoch;
        if next && same {
            return Ok(());
        }
        Err(LedgerError::SetBack { place: self.term.lease.ledger().place().to_owned() })
    }

    async fn save(&mut self) -> Result<(), LedgerError> {
        if self.saved != self.published {
            self.term.lease.published(&self.published).await?;
            self.saved = self.published.clone();
        }
        self.save_at = Instant::now() + SAVE;
        Ok(())
    }

    async fn prune(&mut self) -> Result<(), LedgerError> {
        if self.prune_at > Instant::now() {
            return Ok(());
        }
        let count = self.term.lease.prune(self.term.options.keep, now()).await?;
        if count > 0 {
            self.term.options.telemetry.pruned(count);
        }
        // A full step means that there may be more to remove: soon again, but not before the next batch.
        let full = count >= 5_000;
        self.prune_at = Instant::now() + if full { Duration::from_millis(100) } else { PRUNE };
        Ok(())
    }
}
