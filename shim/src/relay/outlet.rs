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
use super::{Term, now, pause};
use crate::events::Part;
use crate::ledger::LedgerError;
use crate::publish::{Publish, PublishError, PublishFault};

/// How often an idle outlet asks whether the bus is still there.
const CHECK: Duration = Duration::from_secs(2);
/// How old the ledger's watermark may become while changes keep coming: so much is published again after a crash. Saving
/// each batch would cost a commit, which waits for the disk.
const SAVE: Duration = Duration::from_millis(100);
/// How often published history is looked at for pruning.
const PRUNE: Duration = Duration::from_secs(10);

struct State<'a, P> {
    term: &'a Term<'a>,
    publisher: &'a mut P,
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

pub(super) async fn run<P: Publish>(term: &Term<'_>, publisher: &mut P) -> Result<(), LedgerError> {
    let telemetry = &term.options.telemetry;
    let mut backoff = Backoff::SERVER;
    let (meta, published) = loop {
        match term.lease.begin().await {
            Ok(begun) => break begun,
            Err(e) => telemetry.down(Part::Ledger, &e),
        }
        if pause(backoff.next(rand::random()), term.stop).await {
            return Ok(());
        }
    };
    let ledger = term.lease.ledger();
    term.handoff.head(meta.head);
    telemetry.lease_taken(ledger.place(), meta.epoch.as_str(), meta.head, meta.head - meta.published);
    let mut state = State {
        term,
        publisher,
        saved: published.clone(),
        published,
        save_at: Instant::now(),
        backoff: Backoff::SERVER,
        probing: false,
        look: true,
        prune_at: Instant::now(),
    };
    while !term.stop.is_cancelled() {
        match state.round().await {
            Ok(true) => {}
            Ok(false) => break,
            Err(LedgerError::Fenced) => return Err(LedgerError::Fenced),
            Err(e) => {
                telemetry.down(Part::Ledger, &e);
                pause(state.backoff.next(rand::random()), term.stop).await;
            }
        }
    }
    // Not saved is harmless: the same changes are published again, with the same numbers.
    if let Err(e) = state.save().await {
        telemetry.down(Part::Ledger, &e);
    }
    Ok(())
}

impl<P: Publish> State<'_, P> {
    /// One batch, or one wait; whether to go on.
    async fn round(&mut self) -> Result<bool, LedgerError> {
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
            self.publish(&batch).await?;
            return Ok(true);
        }
        self.save().await?;
        if drained {
            return Ok(false);
        }
        self.prune().await?;
        tokio::select! {
            () = self.term.recorded.notified() => {}
            () = self.term.stop.cancelled() => {}
            () = tokio::time::sleep(CHECK) => {
                self.look = true;
                self.publish(&[]).await?;
            }
        }
        Ok(true)
    }

    async fn publish(&mut self, batch: &[Numbered]) -> Result<(), LedgerError> {
        let term = self.term;
        let telemetry = &term.options.telemetry;
        let outcome = self.publisher.publish(batch).await;
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
            return Ok(());
        }
        // An open way says nothing about whether somebody takes what comes along it.
        if batch.is_empty() && self.probing {
            return Ok(());
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
        Ok(())
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
