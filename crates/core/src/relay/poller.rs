//! The poller's rounds: read the change table, record the rows, delete them, forget their marks.
//!
//! Goes in: the rows of the table, and the outcome of each action. Comes out: the next actions, and the number up to
//! which the outlet may publish. A crash between any two actions is harmless: a recorded row stays marked until it is
//! known to be deleted, and a marked row is deleted without being recorded again. Never touches a database or a clock.
//!
//! Some trackers update rows in place: a later change of a bug goes into the row of an earlier one. There, a change is
//! published only once its row is deleted. It then covers every edit that was committed before the deletion, whatever
//! its date; a later edit makes a new row. A row that cannot be deleted delays nothing: its change is published at
//! once, and is owed once more (see [`super::book`]). When a tenure begins, nothing is known of the marked rows, so
//! nothing is published before each of them is deleted or owed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::{Change, Numbered};

use super::pace::{Found, Pace, Pause};
use super::{Row, RowKey, longest_pause_ms};

/// How long after an attempt the rows that could not be deleted are tried again, in milliseconds. The pause doubles
/// each time that none of them could be deleted.
const HELD_RETRY_MS: u64 = 500;
/// The longest pause between two attempts, in milliseconds.
const HELD_RETRY_MAX_MS: u64 = 5000;
/// While this many rows cannot be deleted, the table is read no further, because each read has to skip them.
const HELD_MAX: usize = 20_000;

/// What happened; in most cases, the outcome of an action.
#[derive(Clone, Debug)]
pub enum Event {
    /// A tenure begins. Nothing is known of the table, except whether its rows are updated in place.
    Begin {
        /// Whether a later change of a bug may be written into the row of an earlier one.
        in_place: bool,
    },
    /// After [`Action::Look`].
    Looked {
        /// Whether a later change of a bug may be written into the row of an earlier one.
        in_place: bool,
    },
    /// After [`Action::ReadPending`].
    Pending {
        /// Rows that are recorded and not known to be deleted.
        rows: Vec<RowKey>,
        /// Those of `rows` for which a change is owed.
        owed: Vec<RowKey>,
        /// The last number given.
        head: u64,
        /// Whether the file of the table was replaced by another one, in which the same id and date may belong to
        /// another row.
        replaced: bool,
    },
    /// After [`Action::Probe`].
    Probed,
    /// After [`Action::Read`].
    Rows(Vec<Row>),
    /// After [`Action::Record`].
    Recorded {
        /// The changes that got numbers.
        changes: Vec<Numbered>,
        /// How many rows cannot be published.
        set_aside: usize,
        /// The last number given.
        head: u64,
    },
    /// After [`Action::Delete`]. Each of its rows is in one of the three lists.
    Deleted {
        /// Rows that are not in the table any more.
        gone: Vec<RowKey>,
        /// Rows that somebody has locked.
        held: Vec<RowKey>,
        /// Rows that the database does not delete, although nobody has locked them.
        kept: Vec<RowKey>,
    },
    /// After [`Action::Find`]: the rows that are still there.
    Found(Vec<Row>),
    /// After [`Action::Settle`].
    Settled {
        /// The changes that got a second number.
        changes: Vec<Numbered>,
        /// The last number given.
        head: u64,
    },
    /// An action on the table failed. (An error of the ledger ends the tenure instead.)
    SourceFailed,
    /// After [`Action::Wait`] and [`Action::BackOff`].
    Woken,
    /// Finish the round in hand, and end.
    Stop,
}

/// What to do next. The actions of a list are carried out in its order; at most the last one has an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Check that the ledger's file is still there, and whether the tracker updates rows in place.
    Look,
    /// Read which rows the ledger marks as pending deletes.
    ReadPending,
    /// Check, from time to time, that rows can still be deleted.
    Probe,
    /// Read rows of the table, lowest ids first.
    Read {
        /// The most rows.
        limit: usize,
    },
    /// Report that the table is read no further. No answer.
    TableIsFull {
        /// How many recorded rows cannot be deleted.
        held: usize,
    },
    /// Number and record these rows, in one transaction.
    Record(Arc<[Row]>),
    /// Forget the marks of these rows and what is owed for them. No answer.
    Forget(Vec<RowKey>),
    /// Delete these rows. Do not wait for a row that is locked: report it.
    Delete {
        /// The rows.
        keys: Vec<RowKey>,
        /// Whether the rows were just read. If so, a row that is missing was deleted by somebody else.
        fresh: bool,
    },
    /// Read these rows again, except those that are gone or were updated.
    Find(Vec<RowKey>),
    /// Write down in the ledger that these changes are owed: each is published again when its row is gone. No answer.
    Owe(Vec<(RowKey, Change)>),
    /// These rows are gone: forget their marks, and give the changes that are owed for them a second number, in one
    /// transaction.
    Settle(Vec<RowKey>),
    /// Keep the outlet from publishing what is recorded from now on, as [`Outbox::hold`](super::outbox::Outbox::hold)
    /// does. No answer.
    Hold,
    /// Let the outlet publish up to this number. No answer.
    Allow(u64),
    /// Put these changes into the outbox. No answer.
    Hand {
        /// Committed changes.
        changes: Vec<Numbered>,
        /// The last number given.
        head: u64,
    },
    /// Report how many rows could not be deleted. No answer.
    Report {
        /// Rows that could not be deleted just now.
        held: usize,
        /// Rows that the database does not delete, although nobody has locked them.
        kept: usize,
    },
    /// Pause. A notification of new rows ends the pause early.
    Wait {
        /// The longest pause, in milliseconds.
        ms: u64,
    },
    /// Pause while changes keep coming, so that several are dealt with together. Only a stop ends it early.
    Gather {
        /// So long.
        ms: u64,
    },
    /// Pause after a failure.
    BackOff {
        /// The pause is drawn from the upper half of this, in milliseconds.
        longest_ms: u64,
    },
    /// The poller has ended. No answer, and nothing after it.
    End,
}

/// How the poller works.
#[derive(Clone, Copy, Debug)]
pub struct PollerOptions {
    /// The longest pause between two reads of an idle table, in milliseconds.
    pub poll_interval_ms: u64,
    /// The most rows recorded in one transaction.
    pub batch: usize,
    /// Whether to end when the table is drained.
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
    /// Whether the marked rows were dealt with, since the tenure began and since the table last failed. If not, nothing
    /// is known of them, and they are deleted first.
    settled: bool,
    /// Recorded rows that could not be deleted.
    held: BTreeSet<RowKey>,
    /// Those of `held` that the database does not delete, although nobody has locked them.
    kept: BTreeSet<RowKey>,
    held_retry_ms: u64,
    /// When the held rows were tried last.
    tried_at_ms: u64,
    /// Rows for which a change is owed.
    owed: BTreeSet<RowKey>,
    /// The last number given.
    head: u64,
    /// The rows that this round read.
    rows: Arc<[Row]>,
    /// Whether this round recorded anything new.
    found: bool,
    /// Rows that the deletion in hand could not delete.
    left: Vec<RowKey>,
    /// Rows that the deletion in hand removed.
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

    /// Takes an event in, and returns what to do. `now_ms` never falls.
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
                    // In the new file, the same id and date may belong to another row, so nothing is deleted.
                    self.gone = rows;
                    self.settle(&mut out);
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
                self.settle(&mut out);
            }
            Event::Settled { changes, head } => self.rows_settled(now_ms, changes, head, &mut out),
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
            // What is recorded from here on is published only once its row is gone.
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

    /// Deletes the rows that were just read and recorded and, from time to time, those that could not be deleted
    /// before.
    fn delete_read(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        // A held row that was updated since has another key now. It was recorded again under that key, and this covers
        // what was owed under the old one.
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

    /// Takes the held rows that were updated since: the round read the same ids with other dates.
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
            self.settle(out);
        } else {
            out.push(Action::Find(unknown));
        }
    }

    /// The rows that could not be deleted and whose change is unknown, because a former holder of the lease recorded
    /// them. Their changes are about to be published.
    fn unknown(&self) -> Vec<RowKey> {
        if self.left.is_empty() || !self.in_place {
            return Vec::new();
        }
        let known = changes_by_row(&self.rows);
        let unknown = |key: &&RowKey| !self.owed.contains(*key) && !known.contains_key(*key);
        self.left.iter().filter(unknown).cloned().collect()
    }

    /// Has the ledger note the changes of the rows that could not be deleted: they are about to be published, and owed
    /// once more.
    fn owe(&mut self, found: &[Row], out: &mut Vec<Action>) {
        if self.left.is_empty() || !self.in_place {
            return;
        }
        let mut known = changes_by_row(&self.rows);
        known.extend(changes_by_row(found));
        let new = self.left.iter().filter(|key| !self.owed.contains(*key));
        let debts: Vec<(RowKey, Change)> =
            new.filter_map(|key| known.get(key).map(|change| (key.clone(), *change))).collect();
        if !debts.is_empty() {
            self.owed.extend(debts.iter().map(|(key, _)| key.clone()));
            out.push(Action::Owe(debts));
        }
    }

    /// Has the ledger forget the rows that are gone.
    fn settle(&mut self, out: &mut Vec<Action>) {
        let gone = std::mem::take(&mut self.gone);
        for key in &gone {
            self.owed.remove(key);
        }
        out.push(Action::Settle(gone));
    }

    fn rows_settled(&mut self, now_ms: u64, changes: Vec<Numbered>, head: u64, out: &mut Vec<Action>) {
        self.hand(changes, head, out);
        if !self.left.is_empty() {
            self.tried_at_ms = now_ms;
        }
        self.rows_done(out);
    }

    /// Each row of the deletion is gone or, where rows are updated in place, its change is owed.
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

/// The changes of those rows that can be published, by row.
fn changes_by_row(rows: &[Row]) -> BTreeMap<&RowKey, Change> {
    rows.iter().filter_map(|row| Some((&row.key, row.change.as_ref().ok().copied()?))).collect()
}

#[cfg(test)]
mod tests;
