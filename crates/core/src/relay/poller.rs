//! The poller's rounds: read the table, record, delete, forget the marks.
//!
//! Goes in: what the table holds, and what became of each action. Comes out: the next actions, and how far the outlet may
//! go. A crash between any two actions is harmless: what is recorded is marked until its deletion is known, and marked
//! rows are deleted without being recorded again. Never touches a database or a clock.
//!
//! Where rows are updated in place, a change is published only once its row is gone. An edit that is committed before that
//! is then covered, whatever its date; one that comes later makes a new row. A row that cannot be deleted holds nobody up:
//! it goes out at once, and is owed once more (see [`super::book`]). When a tenure begins nothing is known of marked rows,
//! so nothing is published before they are dealt with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::{Change, Numbered};

use super::pace::{Found, Pace, Pause};
use super::{Row, RowKey, longest_pause_ms};

/// How soon rows that could not be deleted are tried again; twice as long each time none of them could.
const HELD_RETRY_MS: u64 = 500;
/// The longest pause between two tries.
const HELD_RETRY_MAX_MS: u64 = 5000;
/// So many rows that cannot be deleted, and the table is read no further: each read passes over them.
const HELD_MAX: usize = 20_000;

/// What happened, mostly: what became of an action.
#[derive(Clone, Debug)]
pub enum Event {
    /// A tenure begins. Of the table nothing is known but whether its rows are updated in place.
    Begin {
        /// A later change of a bug may be in the row of an earlier one.
        in_place: bool,
    },
    /// After [`Action::Look`].
    Looked {
        /// A later change of a bug may be in the row of an earlier one.
        in_place: bool,
    },
    /// After [`Action::ReadPending`].
    Pending {
        /// Rows that are recorded and not known to be deleted.
        rows: Vec<RowKey>,
        /// Those of them for which something is owed.
        owed: Vec<RowKey>,
        /// The last number given.
        head: u64,
        /// The file of the table was replaced: the same id and date may be another row's.
        replaced: bool,
    },
    /// After [`Action::Probe`].
    Probed,
    /// After [`Action::Read`].
    Rows(Vec<Row>),
    /// After [`Action::Record`].
    Recorded {
        /// What got a number.
        changes: Vec<Numbered>,
        /// How many rows say nothing publishable.
        set_aside: usize,
        /// The last number given.
        head: u64,
    },
    /// After [`Action::Delete`]: each of the rows is in one of the three.
    Deleted {
        /// Not in the table any more.
        gone: Vec<RowKey>,
        /// Somebody holds them.
        held: Vec<RowKey>,
        /// The database keeps them, though nobody holds them.
        kept: Vec<RowKey>,
    },
    /// After [`Action::Find`]: those that are still there.
    Found(Vec<Row>),
    /// After [`Action::Settle`].
    Settled {
        /// What got another number.
        changes: Vec<Numbered>,
        /// The last number given.
        head: u64,
    },
    /// An action on the table failed. (One on the ledger ends the tenure.)
    SourceFailed,
    /// After [`Action::Wait`] and [`Action::BackOff`].
    Woken,
    /// Finish the round in hand, and end.
    Stop,
}

/// What to do next, in this order. At most the last one of a list has an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Look whether the ledger's file is still there, and how the tracker writes.
    Look,
    /// Say which rows the ledger marks.
    ReadPending,
    /// Now and then, ask whether rows can still be deleted.
    Probe,
    /// Read up to so many rows, lowest ids first.
    Read {
        /// The most rows.
        limit: usize,
    },
    /// Say that the table is read no further. No answer.
    TableIsFull {
        /// So many recorded rows cannot be deleted.
        held: usize,
    },
    /// Number and record these rows, in one transaction.
    Record(Arc<[Row]>),
    /// Forget the marks of these rows, and what is owed for them. No answer.
    Forget(Vec<RowKey>),
    /// Delete these rows; report those that cannot be deleted, and wait for none.
    Delete {
        /// Which.
        keys: Vec<RowKey>,
        /// They were just read: one that is not there any more was deleted by somebody else.
        fresh: bool,
    },
    /// Read these rows again, as far as they are what they were.
    Find(Vec<RowKey>),
    /// Write down that what these rows say is told once more when they are gone. No answer.
    Owe(Vec<(RowKey, Change)>),
    /// These rows are gone: forget their marks, and number once more what is owed for them, in one transaction.
    Settle(Vec<RowKey>),
    /// The outlet may publish nothing that is not in the outbox's head yet. No answer.
    Hold,
    /// The outlet may publish up to this number. No answer.
    Allow(u64),
    /// Put these into the outbox. No answer.
    Hand {
        /// Committed changes.
        changes: Vec<Numbered>,
        /// The last number given.
        head: u64,
    },
    /// Say how the rows do. No answer.
    Report {
        /// So many could not be deleted just now.
        held: usize,
        /// So many are kept by the database.
        kept: usize,
    },
    /// Pause, until somebody knows that there are rows.
    Wait {
        /// At most so long.
        ms: u64,
    },
    /// Pause while changes keep coming, so that several are dealt with together. Only a stop ends it early.
    Gather {
        /// So long.
        ms: u64,
    },
    /// Pause after a failure.
    BackOff {
        /// The time is drawn from the upper half of this.
        longest_ms: u64,
    },
    /// The poller has ended. No answer, and nothing after it.
    End,
}

/// How the poller works.
#[derive(Clone, Copy, Debug)]
pub struct PollerOptions {
    /// The longest pause between two looks at an idle table.
    pub poll_interval_ms: u64,
    /// The most rows recorded in one transaction.
    pub batch: usize,
    /// End when the table is drained.
    pub once: bool,
}

/// Polls the table, in one tenure.
#[derive(Clone, Debug)]
pub struct Poller {
    options: PollerOptions,
    pace: Pace,
    backoff: Backoff,
    stopping: bool,
    /// When the last event was, and when the round in hand began.
    now_ms: u64,
    round_ms: u64,
    in_place: bool,
    /// Marked rows were dealt with; otherwise nothing is known about them, and they are deleted first.
    settled: bool,
    /// Recorded rows that could not be deleted.
    held: BTreeSet<RowKey>,
    /// Those of them that the database keeps, though nobody holds them.
    kept: BTreeSet<RowKey>,
    held_retry_ms: u64,
    /// When they were tried last.
    tried_at_ms: u64,
    /// Rows for which something is owed.
    owed: BTreeSet<RowKey>,
    /// The last number given.
    head: u64,
    /// What this round read.
    rows: Arc<[Row]>,
    /// Whether that was anything new.
    found: bool,
    /// What the deletion in hand left, and what it did away with.
    left: Vec<RowKey>,
    gone: Vec<RowKey>,
}

impl Poller {
    /// A poller that does nothing before [`Event::Begin`].
    pub fn new(options: PollerOptions) -> Poller {
        Poller {
            options,
            pace: Pace::new(options.poll_interval_ms),
            backoff: Backoff::SERVER,
            stopping: false,
            now_ms: 0,
            round_ms: 0,
            in_place: false,
            settled: false,
            held: BTreeSet::new(),
            kept: BTreeSet::new(),
            held_retry_ms: HELD_RETRY_MS,
            tried_at_ms: 0,
            owed: BTreeSet::new(),
            head: 0,
            rows: Arc::default(),
            found: false,
            left: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// What to do about an event. `now_ms` never falls.
    pub fn on(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.now_ms = now_ms;
        match event {
            Event::Begin { in_place } => {
                if !in_place {
                    out.push(Action::Allow(u64::MAX));
                }
                self.begin_round(&mut out);
            }
            Event::Looked { in_place } => self.looked(in_place, &mut out),
            Event::Pending { rows, owed, head, replaced } => {
                self.held.clear();
                self.kept.clear();
                (self.held_retry_ms, self.head) = (HELD_RETRY_MS, head);
                self.owed = owed.into_iter().collect();
                if replaced {
                    // In another file the same id and date may be another row's.
                    self.gone = rows;
                    self.let_go(&mut out);
                } else {
                    self.delete(rows, &mut out);
                }
            }
            Event::Probed => self.read(&mut out),
            Event::Rows(rows) => self.record(rows, &mut out),
            Event::Recorded { changes, set_aside, head } => {
                self.found = !changes.is_empty() || set_aside > 0;
                self.hand(changes, head, &mut out);
                self.delete_read(now_ms, &mut out);
            }
            Event::Deleted { gone, held, kept } => self.deleted(gone, held, kept, &mut out),
            Event::Found(rows) => {
                self.owe(&rows, &mut out);
                self.let_go(&mut out);
            }
            Event::Settled { changes, head } => self.let_gone(now_ms, changes, head, &mut out),
            Event::SourceFailed => {
                self.settled = false;
                self.forget_round();
                out.push(Action::BackOff { longest_ms: longest_pause_ms(&mut self.backoff) });
            }
            Event::Woken => self.begin_round(&mut out),
            Event::Stop => self.stopping = true,
        }
        out
    }

    fn begin_round(&mut self, out: &mut Vec<Action>) {
        self.round_ms = self.now_ms;
        out.push(if self.stopping { Action::End } else { Action::Look });
    }

    fn looked(&mut self, in_place: bool, out: &mut Vec<Action>) {
        self.in_place = in_place;
        if in_place {
            // What is recorded from here on waits until its row is gone.
            out.push(Action::Hold);
        }
        out.push(if self.settled { Action::Probe } else { Action::ReadPending });
    }

    fn read(&mut self, out: &mut Vec<Action>) {
        if self.held.len() >= HELD_MAX {
            out.push(Action::TableIsFull { held: self.held.len() });
            self.record(Vec::new(), out);
        } else {
            out.push(Action::Read { limit: self.options.batch + self.held.len() });
        }
    }

    fn record(&mut self, rows: Vec<Row>, out: &mut Vec<Action>) {
        self.rows = rows.into();
        out.push(Action::Record(Arc::clone(&self.rows)));
    }

    fn hand(&mut self, changes: Vec<Numbered>, head: u64, out: &mut Vec<Action>) {
        self.head = head;
        out.push(Action::Hand { changes, head });
    }

    /// Deletes what was read and is recorded now, and from time to time what could not be deleted before.
    fn delete_read(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        // A held row that was updated since is another row now, and that one covers it.
        let updated = self.take_updated();
        if !updated.is_empty() {
            self.owed.retain(|key| !updated.contains(key));
            out.push(Action::Forget(updated));
        }
        let mut keys: Vec<RowKey> =
            self.rows.iter().map(|row| &row.key).filter(|key| !self.held.contains(key)).cloned().collect();
        if !self.held.is_empty() && now_ms >= self.tried_at_ms + self.held_retry_ms {
            self.held_retry_ms = (self.held_retry_ms * 2).min(HELD_RETRY_MAX_MS);
            keys.extend(std::mem::take(&mut self.held));
            self.kept.clear();
        }
        self.delete(keys, out);
    }

    fn take_updated(&mut self) -> Vec<RowKey> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let now: BTreeMap<i64, &RowKey> = self.rows.iter().map(|row| (row.key.id, &row.key)).collect();
        let other = |key: &RowKey| now.get(&key.id).is_some_and(|now| *now != key);
        let updated: Vec<RowKey> = self.held.iter().filter(|key| other(key)).cloned().collect();
        for key in &updated {
            self.held.remove(key);
            self.kept.remove(key);
        }
        updated
    }

    fn delete(&mut self, keys: Vec<RowKey>, out: &mut Vec<Action>) {
        if keys.is_empty() {
            self.rows_done(out);
        } else {
            out.push(Action::Delete { keys, fresh: self.settled });
        }
    }

    fn deleted(&mut self, gone: Vec<RowKey>, held: Vec<RowKey>, kept: Vec<RowKey>, out: &mut Vec<Action>) {
        if !gone.is_empty() {
            self.held_retry_ms = HELD_RETRY_MS;
        }
        self.kept.extend(kept.iter().cloned());
        (self.gone, self.left) = (gone, held);
        self.left.extend(kept);
        let unknown = self.unknown();
        if unknown.is_empty() {
            self.owe(&[], out);
            self.let_go(out);
        } else {
            out.push(Action::Find(unknown));
        }
    }

    /// Rows that are about to be announced while they are still there, and of which it is not known what they say: a former
    /// holder of the lease recorded them.
    fn unknown(&self) -> Vec<RowKey> {
        if self.left.is_empty() || !self.in_place {
            return Vec::new();
        }
        let said = said(&self.rows);
        let unknown = |key: &&RowKey| !self.owed.contains(*key) && !said.contains_key(*key);
        self.left.iter().filter(unknown).cloned().collect()
    }

    /// What is left is about to be announced while it is still there.
    fn owe(&mut self, found: &[Row], out: &mut Vec<Action>) {
        if self.left.is_empty() || !self.in_place {
            return;
        }
        let mut said = said(&self.rows);
        said.extend(self::said(found));
        let new = self.left.iter().filter(|key| !self.owed.contains(*key));
        let debts: Vec<(RowKey, Change)> =
            new.filter_map(|key| said.get(key).map(|change| (key.clone(), *change))).collect();
        if !debts.is_empty() {
            self.owed.extend(debts.iter().map(|(key, _)| key.clone()));
            out.push(Action::Owe(debts));
        }
    }

    fn let_go(&mut self, out: &mut Vec<Action>) {
        let gone = std::mem::take(&mut self.gone);
        for key in &gone {
            self.owed.remove(key);
        }
        out.push(Action::Settle(gone));
    }

    fn let_gone(&mut self, now_ms: u64, changes: Vec<Numbered>, head: u64, out: &mut Vec<Action>) {
        self.hand(changes, head, out);
        if !self.left.is_empty() {
            self.tried_at_ms = now_ms;
        }
        self.rows_done(out);
    }

    /// Every row that was to be deleted is gone, or is owed once more where it matters.
    fn rows_done(&mut self, out: &mut Vec<Action>) {
        let left = std::mem::take(&mut self.left);
        out.push(Action::Report { held: left.len(), kept: self.kept.len() });
        self.held.extend(left);
        if self.in_place {
            out.push(Action::Allow(self.head));
        }
        if self.settled {
            self.end_round(out);
        } else {
            self.settled = true;
            out.push(Action::Probe);
        }
    }

    fn end_round(&mut self, out: &mut Vec<Action>) {
        self.backoff.reset();
        let found = match self.found {
            true if self.rows.len() >= self.options.batch => Found::Full,
            true => Found::Some,
            false => Found::Nothing,
        };
        self.forget_round();
        if self.options.once && found == Found::Nothing {
            out.push(Action::End);
            return;
        }
        match self.pace.after(found, self.now_ms - self.round_ms) {
            Pause::Wait(ms) => out.push(Action::Wait { ms }),
            Pause::Gather(ms) => out.push(Action::Gather { ms }),
            Pause::None => self.begin_round(out),
        }
    }

    fn forget_round(&mut self) {
        (self.rows, self.found) = (Arc::default(), false);
        self.left.clear();
        self.gone.clear();
    }
}

/// What good rows say.
fn said(rows: &[Row]) -> BTreeMap<&RowKey, Change> {
    rows.iter().filter_map(|row| Some((&row.key, row.change.as_ref().ok().copied()?))).collect()
}

#[cfg(test)]
mod tests;
