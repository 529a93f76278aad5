//! Intake: poll → record → delete → forget the marks.
//!
//! Goes in: rows. Comes out: recorded changes, and how far the outlet may publish them. A crash between any two steps is
//! harmless: what is recorded is marked until its deletion is known, and marked rows are deleted without being recorded
//! again.
//!
//! Where rows are updated in place, a change is published only once its row is gone. An edit that is committed before that
//! is then covered, whatever its date; one that comes later makes a new row. A row that cannot be deleted holds nobody up:
//! it goes out at once, and is owed once more (`ledger/owed.rs`). At the beginning of a term nothing is known of marked
//! rows, so nothing is published before they are dealt with.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::{Change, Numbered};

use super::pace::Pace;
use super::{Term, now, pause};
use crate::events::{Part, RowTrouble};
use crate::ledger::{Intake, LedgerError, Recorded};
use crate::source::{Row, RowKey, Source};
use bugfeed_sql::SqlError;

/// How soon rows that could not be deleted are tried again; twice as long each time none of them could.
const HELD_RETRY: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const HELD_RETRY_MAX: Duration = Duration::from_secs(5);
/// So many rows that cannot be deleted, and the table is read no further: each read passes over them.
const HELD_MAX: usize = 20_000;
/// How often the database is asked whether rows can still be deleted there.
const PROBE: Duration = Duration::from_secs(5);

/// A round that takes longer is said not to come back.
const SLOW: Duration = Duration::from_secs(10);

/// Why one round failed.
enum Trouble {
    Source(SqlError),
    Ledger(LedgerError),
}

struct State<'a> {
    source: &'a Source,
    intake: Intake,
    /// Recorded rows that could not be deleted.
    held: HashSet<RowKey>,
    /// Those of them that the database keeps, though nobody holds them.
    kept: HashSet<RowKey>,
    /// What the database last said about one of these.
    refusal: Option<String>,
    /// So many rows were set aside since the last good one, and why the last of them was.
    bad: (usize, String),
    held_tried: Instant,
    held_retry: Duration,
    /// Nothing is known about marked rows: delete them all first.
    settled: bool,
}

pub(super) async fn run(term: &Term<'_>, source: &Source) -> Result<(), LedgerError> {
    let options = term.options;
    let mut pace = Pace::new(options.poll_interval);
    let mut backoff = Backoff::SERVER;
    let mut state = State {
        source,
        intake: term.lease.intake(),
        held: HashSet::new(),
        kept: HashSet::new(),
        refusal: None,
        bad: (0, String::new()),
        held_tried: Instant::now(),
        held_retry: HELD_RETRY,
        settled: false,
    };
    // Who waited for its turn saw the table long ago. What fails here fails again in the round.
    let _ = source.probe_after(PROBE).await;
    if !source.in_place() {
        term.handoff.limit(u64::MAX);
        term.recorded.notify_one();
    }
    while !term.stop.is_cancelled() {
        match watched(term, state.round(term)).await {
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
            // What is in memory may be of another history now: the tenure ends.
            Err(Trouble::Ledger(e)) => return Err(e),
            Err(Trouble::Source(e)) => {
                state.settled = false;
                options.telemetry.down(Part::Source, &format!("change table {e}"));
                pause(backoff.next(rand::random()), term.stop).await;
            }
        }
    }
    term.drained.store(true, Ordering::Release);
    term.recorded.notify_one();
    Ok(())
}

/// Says it when a round takes long: a statement that hangs is given up much later.
async fn watched<T>(term: &Term<'_>, round: impl Future<Output = T>) -> T {
    let mut round = std::pin::pin!(round);
    let mut waited_s = 0;
    loop {
        tokio::select! {
            outcome = &mut round => return outcome,
            () = tokio::time::sleep(SLOW) => {
                waited_s += SLOW.as_secs();
                let reason = format!("no answer for {waited_s} s; the database of the change table, or of the ledger, hangs");
                term.options.telemetry.down(Part::Source, &reason);
            }
        }
    }
}

impl State<'_> {
    async fn round(&mut self, term: &Term<'_>) -> Result<Recorded, Trouble> {
        let telemetry = &term.options.telemetry;
        let in_place = self.source.in_place();
        term.lease.ledger().look_at_file().map_err(Trouble::Ledger)?;
        if in_place {
            term.handoff.hold();
        }
        if !self.settled {
            self.settle(term, in_place).await?;
        }
        self.source.probe_after(PROBE).await.map_err(Trouble::Source)?;
        let rows = self.read(term).await?;
        let mut recorded = self.intake.record(&rows, now()).await.map_err(Trouble::Ledger)?;
        self.ledger_works(term, &recorded).await?;
        telemetry.recorded(&recorded);
        if recorded.numbered > 0 {
            self.bad = (0, String::new());
        } else if let Some((_, why)) = recorded.set_aside.last() {
            self.bad = (self.bad.0 + recorded.set_aside.len(), why.clone());
        }
        self.hand_over(term, &mut recorded);
        // A held row that was updated since is another row now, and that one covers it.
        let updated = self.take_updated(&rows);
        self.intake.forget(&updated).await.map_err(Trouble::Ledger)?;
        let mut keys: Vec<RowKey> =
            rows.iter().map(|row| &row.key).filter(|key| !self.held.contains(key)).cloned().collect();
        if !self.held.is_empty() && self.held_tried.elapsed() >= self.held_retry {
            self.held_retry = (self.held_retry * 2).min(HELD_RETRY_MAX);
            keys.extend(self.held.drain());
            self.kept.clear();
        }
        self.delete(term, &keys, &rows, in_place).await?;
        Ok(recorded)
    }

    /// Deletes the rows that were recorded before: by this process, or by one that is gone.
    async fn settle(&mut self, term: &Term<'_>, in_place: bool) -> Result<(), Trouble> {
        let marked = self.intake.marks().await.map_err(Trouble::Ledger)?;
        self.held.clear();
        self.kept.clear();
        self.held_retry = HELD_RETRY;
        if self.source.take_replaced() {
            // In another file the same id and date may be another row's.
            self.let_go(term, &marked).await?;
        } else {
            self.delete(term, &marked, &[], in_place).await?;
        }
        self.settled = true;
        Ok(())
    }

    async fn read(&mut self, term: &Term<'_>) -> Result<Vec<Row>, Trouble> {
        let telemetry = &term.options.telemetry;
        if self.held.len() >= HELD_MAX {
            let reason = format!(
                "change table {}: {} recorded rows cannot be deleted, and the table is read no further: a transaction of \
                 the tracker holds them, or the database keeps them; end that transaction, or let rows be deleted",
                self.source.place(),
                self.held.len()
            );
            telemetry.down(Part::Source, &reason);
            return Ok(Vec::new());
        }
        let rows = self.source.read(term.options.batch + self.held.len()).await.map_err(Trouble::Source)?;
        telemetry.up(Part::Source);
        Ok(rows)
    }

    /// What was recorded shows that the ledger works. While it does not, and nothing is to be recorded, it is asked.
    async fn ledger_works(&mut self, term: &Term<'_>, recorded: &Recorded) -> Result<(), Trouble> {
        let telemetry = &term.options.telemetry;
        if telemetry.is_down(Part::Ledger) {
            if recorded.numbered + recorded.set_aside.len() == 0 {
                term.lease.beat().await.map_err(Trouble::Ledger)?;
            }
            telemetry.up(Part::Ledger);
        }
        Ok(())
    }

    fn hand_over(&self, term: &Term<'_>, recorded: &mut Recorded) {
        term.handoff.head(recorded.head);
        let changes: Vec<Numbered> = std::mem::take(&mut recorded.changes);
        if !changes.is_empty() {
            term.handoff.put(changes);
            term.recorded.notify_one();
        }
    }

    fn take_updated(&mut self, rows: &[Row]) -> Vec<RowKey> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let now: HashMap<i64, &RowKey> = rows.iter().map(|row| (row.key.id, &row.key)).collect();
        let other = |key: &RowKey| now.get(&key.id).is_some_and(|now| *now != key);
        self.kept.retain(|key| !other(key));
        self.held.extract_if(other).collect()
    }

    async fn delete(&mut self, term: &Term<'_>, keys: &[RowKey], rows: &[Row], in_place: bool) -> Result<(), Trouble> {
        let telemetry = &term.options.telemetry;
        if !keys.is_empty() {
            let deleted = self.source.delete(keys).await.map_err(Trouble::Source)?;
            if !deleted.gone.is_empty() {
                self.held_retry = HELD_RETRY;
            }
            // After a crash it may have been this shim.
            if self.settled {
                self.source.say_vanished(deleted.vanished);
            }
            if deleted.refusal.is_some() {
                self.refusal = deleted.refusal;
            }
            self.kept.extend(deleted.kept.iter().cloned());
            let left: Vec<RowKey> = deleted.held.into_iter().chain(deleted.kept).collect();
            if in_place {
                self.owe(&left, rows).await?;
            }
            self.let_go(term, &deleted.gone).await?;
            if !left.is_empty() {
                telemetry.rows_held(left.len());
                self.held_tried = Instant::now();
                self.held.extend(left);
            }
        }
        if self.kept.is_empty() {
            self.refusal = None;
        }
        telemetry.rows(&RowTrouble {
            place: self.source.place(),
            kept: self.kept.len(),
            refusal: self.refusal.as_deref(),
            strays: self.source.has_strays(),
            bad: self.bad.0,
            why: &self.bad.1,
        });
        if in_place {
            // Every row up to here is gone, or is owed once more.
            let head = self.intake.settle(&[], now()).await.map_err(Trouble::Ledger)?.head;
            if term.handoff.limit(head) {
                term.recorded.notify_one();
            }
        }
        Ok(())
    }

    /// These rows are about to be announced while they are still there.
    async fn owe(&mut self, left: &[RowKey], rows: &[Row]) -> Result<(), Trouble> {
        let mut owed: Vec<&RowKey> = left.iter().filter(|key| !self.intake.owes(key)).collect();
        if owed.is_empty() {
            return Ok(());
        }
        let mut said: HashMap<&RowKey, Change> =
            rows.iter().filter_map(|row| Some((&row.key, row.change.as_ref().ok().copied()?))).collect();
        owed.retain(|key| !said.contains_key(key));
        // Recorded by a former holder of the lease: what it said is not known here.
        let unknown: Vec<RowKey> = owed.into_iter().cloned().collect();
        let found =
            if unknown.is_empty() { Vec::new() } else { self.source.find(&unknown).await.map_err(Trouble::Source)? };
        said.extend(found.iter().filter_map(|row| Some((&row.key, row.change.as_ref().ok().copied()?))));
        let owed: Vec<(RowKey, Change)> =
            left.iter().filter_map(|key| said.get(key).map(|change| (key.clone(), *change))).collect();
        self.intake.owe(&owed).await.map_err(Trouble::Ledger)
    }

    /// These rows are gone.
    async fn let_go(&mut self, term: &Term<'_>, gone: &[RowKey]) -> Result<(), Trouble> {
        let telemetry = &term.options.telemetry;
        let mut again = self.intake.settle(gone, now()).await.map_err(Trouble::Ledger)?;
        telemetry.recorded(&again);
        telemetry.deleted(gone.len());
        self.hand_over(term, &mut again);
        Ok(())
    }
}
