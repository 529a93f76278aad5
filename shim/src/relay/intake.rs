//! Intake: poll → record → delete → forget the marks.
//!
//! Goes in: rows. Comes out: recorded changes. A crash between any two steps is harmless: what is recorded is marked
//! until its deletion is known, and marked rows are deleted without being recorded again.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bugfeed_protocol::backoff::Backoff;

use super::pace::Pace;
use super::{Term, now, pause};
use crate::events::Part;
use crate::ledger::{Intake, LedgerError, Recorded};
use crate::source::{RowKey, Source};
use crate::sql::SqlError;

/// How often rows that the tracker held are tried again.
const HELD_RETRY: Duration = Duration::from_millis(500);
/// So many held rows, and the table is read no further: each read passes over them.
const HELD_MAX: usize = 20_000;

/// Why one round failed.
enum Trouble {
    Source(SqlError),
    Ledger(LedgerError),
}

struct State<'a> {
    source: &'a Source,
    intake: Intake,
    /// Recorded rows that the tracker holds.
    held: HashSet<RowKey>,
    held_tried: Instant,
    /// Nothing is known about marked rows: delete them all first.
    settled: bool,
}

pub(super) async fn run(term: &Term<'_>, source: &Source) -> Result<(), LedgerError> {
    let options = term.options;
    let mut pace = Pace::new(options.poll_interval);
    let mut backoff = Backoff::SERVER;
    let mut state =
        State { source, intake: term.lease.intake(), held: HashSet::new(), held_tried: Instant::now(), settled: false };
    while !term.stop.is_cancelled() {
        match state.round(term).await {
            Ok(recorded) => {
                backoff.reset();
                let found = recorded.numbered + recorded.set_aside.len() > 0;
                if options.once && !found {
                    break;
                }
                let Some(pause) = pace.after(found) else { continue };
                tokio::select! {
                    () = term.stop.cancelled() => {}
                    () = options.wake.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(Trouble::Ledger(LedgerError::Fenced)) => return Err(LedgerError::Fenced),
            Err(trouble) => {
                state.settled = false;
                match trouble {
                    Trouble::Source(e) => options.telemetry.down(Part::Source, &format!("change table {e}")),
                    Trouble::Ledger(e) => options.telemetry.down(Part::Ledger, &e),
                }
                pause(backoff.next(rand::random()), term.stop).await;
            }
        }
    }
    term.drained.store(true, Ordering::Release);
    term.recorded.notify_one();
    Ok(())
}

impl State<'_> {
    async fn round(&mut self, term: &Term<'_>) -> Result<Recorded, Trouble> {
        let telemetry = &term.options.telemetry;
        if !self.settled {
            let marked = self.intake.marks().await.map_err(Trouble::Ledger)?;
            telemetry.up(Part::Ledger);
            self.held.clear();
            self.delete(term, &marked).await?;
            self.settled = true;
        }
        let batch = if self.held.len() < HELD_MAX { term.options.batch } else { 0 };
        let rows = self.source.read(batch + self.held.len()).await.map_err(Trouble::Source)?;
        telemetry.up(Part::Source);
        let mut recorded = self.intake.record(&rows, now()).await.map_err(Trouble::Ledger)?;
        telemetry.up(Part::Ledger);
        telemetry.recorded(&recorded);
        term.handoff.head(recorded.head);
        if !recorded.changes.is_empty() {
            term.handoff.put(std::mem::take(&mut recorded.changes));
            term.recorded.notify_one();
        }
        let mut keys: Vec<RowKey> =
            rows.into_iter().map(|row| row.key).filter(|key| !self.held.contains(key)).collect();
        if !self.held.is_empty() && self.held_tried.elapsed() >= HELD_RETRY {
            keys.extend(self.held.drain());
        }
        self.delete(term, &keys).await?;
        Ok(recorded)
    }

    async fn delete(&mut self, term: &Term<'_>, keys: &[RowKey]) -> Result<(), Trouble> {
        if keys.is_empty() {
            return Ok(());
        }
        let telemetry = &term.options.telemetry;
        let deleted = self.source.delete(keys).await.map_err(Trouble::Source)?;
        self.intake.forget(&deleted.gone).await.map_err(Trouble::Ledger)?;
        telemetry.deleted(deleted.gone.len());
        if !deleted.held.is_empty() {
            telemetry.rows_held(deleted.held.len());
            self.held_tried = Instant::now();
            self.held.extend(deleted.held);
        }
        Ok(())
    }
}
