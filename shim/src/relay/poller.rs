//! Carries out what the poller's plan says (`bugfeed_core::relay::poller`): on the change table, the ledger and the outbox.
//!
//! Goes in: actions. Comes out: what became of them. Decides nothing but what is logged.

use std::time::Duration;

use bugfeed_core::relay::poller::{Action, Event, Poller, PollerOptions};
use bugfeed_core::relay::{Row, RowKey};
use tokio::time::sleep;

use super::{Term, draw, now, pause};
use crate::events::{Part, RowTrouble};
use crate::ledger::{LedgerError, Recorded, Recorder};
use crate::source::Source;
use bugfeed_sql::SqlError;

/// How often the database is asked whether rows can still be deleted there.
const PROBE: Duration = Duration::from_secs(5);
/// An action that takes longer than this is reported as an outage.
const SLOW: Duration = Duration::from_secs(10);

/// Carries out actions, and keeps what is to be logged about them.
struct Executor<'a> {
    term: &'a Term<'a>,
    source: &'a Source,
    recorder: Recorder,
    /// What the database said the last time about rows that it does not delete.
    refusal: Option<String>,
    /// How many rows were set aside since the last good one, and why the last of them was set aside.
    bad: (usize, String),
}

pub(super) async fn run(term: &Term<'_>, source: &Source) -> Result<(), LedgerError> {
    let options = term.options;
    let poll_interval_ms = u64::try_from(options.poll_interval.as_millis()).unwrap_or(u64::MAX);
    let mut plan = Poller::new(PollerOptions { poll_interval_ms, batch: options.batch, once: options.once });
    let mut executor =
        Executor { term, source, recorder: term.lease.recorder(), refusal: None, bad: (0, String::new()) };
    // A process that has waited for its turn saw the table long ago. An error is ignored here, because the first round
    // finds it again.
    let _ = source.probe_after(PROBE).await;
    let mut next = Some(Event::Begin { in_place: source.in_place() });
    while let Some(event) = next.take() {
        if term.stop.is_cancelled() {
            plan.on(term.clock.ms(), Event::Stop);
        }
        for action in plan.on(term.clock.ms(), event) {
            next = match action {
                Action::Wait { ms } => executor.wait(Duration::from_millis(ms)).await,
                Action::Gather { ms } => {
                    pause(Duration::from_millis(ms), term.stop).await;
                    Some(Event::Woken)
                }
                Action::BackOff { longest_ms } => {
                    pause(draw(longest_ms), term.stop).await;
                    Some(Event::Woken)
                }
                // An error of the ledger ends the tenure, because the ledger may afterwards have another history than what
                // is in memory.
                action => watched(term, executor.carry_out(action)).await?,
            };
        }
    }
    Ok(())
}

/// Reports an outage when an action takes long, because a statement that hangs is given up only much later.
async fn watched<T>(term: &Term<'_>, action: impl Future<Output = T>) -> T {
    let mut action = std::pin::pin!(action);
    let mut waited_s = 0;
    loop {
        tokio::select! {
            outcome = &mut action => return outcome,
            () = sleep(SLOW) => {
                waited_s += SLOW.as_secs();
                let reason = format!("no answer for {waited_s} s; the database of the change table, or of the ledger, hangs");
                term.options.telemetry.down(Part::Source, &reason);
            }
        }
    }
}

impl Executor<'_> {
    async fn carry_out(&mut self, action: Action) -> Result<Option<Event>, LedgerError> {
        let Executor { term, source, .. } = *self;
        Ok(match action {
            Action::Look => {
                term.lease.ledger().look_at_file()?;
                Some(Event::Looked { in_place: source.in_place() })
            }
            Action::ReadPending => Some(self.read_pending().await?),
            Action::Probe => self.answer(source.probe_after(PROBE).await, |()| Event::Probed),
            Action::Read { limit } => {
                let rows = self.answer(source.read(limit).await, Event::Rows);
                if let Some(Event::Rows(rows)) = &rows {
                    term.options.telemetry.looked(rows.len());
                    term.options.telemetry.up(Part::Source);
                }
                rows
            }
            Action::TableIsFull { held } => self.table_is_full(held),
            Action::Record(rows) => Some(self.record(&rows).await?),
            Action::Forget(rows) => {
                self.recorder.forget(&rows).await?;
                None
            }
            Action::Delete { keys, fresh } => self.delete(&keys, fresh).await,
            Action::Find(keys) => self.answer(source.find(&keys).await, Event::Found),
            Action::Owe(rows) => {
                self.recorder.owe(&rows, now()).await?;
                None
            }
            Action::Settle(gone) => {
                let again = self.recorder.settle(&gone, now()).await?;
                term.options.telemetry.recorded(&again);
                term.options.telemetry.deleted(gone.len());
                Some(Event::Settled { changes: again.changes, head: again.head })
            }
            Action::Hold => {
                term.outbox().hold();
                None
            }
            Action::Allow(seq) => {
                let news = term.outbox().limit(seq);
                term.tell_outlet(news)
            }
            Action::Hand { changes, head } => {
                let news = !changes.is_empty();
                term.outbox().head(head);
                term.outbox().put(changes);
                term.tell_outlet(news)
            }
            Action::Report { held, kept } => self.report(held, kept),
            Action::End => {
                term.outbox().close();
                term.tell_outlet(true)
            }
            Action::Wait { .. } | Action::Gather { .. } | Action::BackOff { .. } => None,
        })
    }

    async fn wait(&self, longest: Duration) -> Option<Event> {
        tokio::select! {
            () = self.term.stop.cancelled() => {}
            () = self.term.options.wake.notified() => {}
            () = sleep(longest) => {}
        }
        Some(Event::Woken)
    }

    /// The event for an answer of the change table. An error is reported as an outage.
    fn answer<T>(&self, said: Result<T, SqlError>, event: impl FnOnce(T) -> Event) -> Option<Event> {
        Some(match said {
            Ok(said) => event(said),
            Err(e) => {
                self.term.options.telemetry.down(Part::Source, &format!("change table {e}"));
                Event::SourceFailed
            }
        })
    }

    async fn read_pending(&mut self) -> Result<Event, LedgerError> {
        let book = self.recorder.book().await?;
        let (rows, owed, head) = (book.pending(), book.owed(), book.head());
        Ok(Event::Pending { rows, owed, head, replaced: self.source.take_replaced() })
    }

    fn table_is_full(&self, held: usize) -> Option<Event> {
        let place = self.source.place();
        let reason = format!(
            "change table {place}: {held} recorded rows cannot be deleted, and the table is read no further: a transaction \
             of the tracker holds them, or the database keeps them; end that transaction, or let rows be deleted"
        );
        self.term.options.telemetry.down(Part::Source, &reason);
        None
    }

    async fn record(&mut self, rows: &[Row]) -> Result<Event, LedgerError> {
        let recorded = self.recorder.record(rows, now()).await?;
        self.ledger_works(&recorded).await?;
        self.term.options.telemetry.recorded(&recorded);
        if recorded.numbered > 0 {
            self.bad = (0, String::new());
        } else if let Some((_, why)) = recorded.set_aside.last() {
            self.bad = (self.bad.0 + recorded.set_aside.len(), why.clone());
        }
        let set_aside = recorded.set_aside.len();
        Ok(Event::Recorded { changes: recorded.changes, set_aside, head: recorded.head })
    }

    /// Ends an outage of the ledger. Recorded rows prove that the ledger works; if none were recorded, a beat of the lease
    /// proves it.
    async fn ledger_works(&self, recorded: &Recorded) -> Result<(), LedgerError> {
        let telemetry = &self.term.options.telemetry;
        if telemetry.is_down(Part::Ledger) {
            if recorded.numbered + recorded.set_aside.len() == 0 {
                self.term.lease.beat().await?;
            }
            telemetry.up(Part::Ledger);
        }
        Ok(())
    }

    async fn delete(&mut self, keys: &[RowKey], fresh: bool) -> Option<Event> {
        let mut deleted = self.source.delete(keys).await;
        if let Ok(deleted) = &mut deleted {
            self.term.options.telemetry.deletes();
            // Rows that are not fresh may have been deleted by this shim itself, before it crashed.
            if fresh {
                self.source.say_vanished(deleted.vanished);
            }
            self.refusal = deleted.refusal.take().or_else(|| self.refusal.take());
        }
        self.answer(deleted, |done| Event::Deleted { gone: done.gone, held: done.held, kept: done.kept })
    }

    fn report(&mut self, held: usize, kept: usize) -> Option<Event> {
        let telemetry = &self.term.options.telemetry;
        if held > 0 {
            telemetry.rows_held(held);
        }
        if kept == 0 {
            self.refusal = None;
        }
        telemetry.rows(&RowTrouble {
            place: self.source.place(),
            kept,
            refusal: self.refusal.as_deref(),
            strays: self.source.has_strays(),
            bad: self.bad.0,
            why: &self.bad.1,
        });
        None
    }
}
