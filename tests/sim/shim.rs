//! Tracker and shims: the change table, the ledger, and two processes of which one works, step by step.
//!
//! Goes in: one step at a time. Comes out: numbered changes at the broker. Every step is one statement or transaction of
//! the real relay, in its order, with the real numbering decision; between any two the process may die, sleep, or be
//! replaced.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use bugfeed_protocol::{Change, Cursor, Epoch, Numbered, Tag, When};

use crate::broker::{Confirm, Message};
use crate::plan::plan;
use crate::source::{Row, RowKey};

/// The change table, with rows that are not committed yet.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub rows: BTreeMap<i64, Change>,
    /// One row for each bug, and the shim knows: what is in a row is published once the row is gone.
    pub in_place: bool,
    next: i64,
}

impl Table {
    pub fn new(in_place: bool) -> Table {
        Table { in_place, ..Table::default() }
    }

    /// Takes the next id, as a transaction does when it begins.
    pub fn id(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    fn read(&self, limit: usize) -> Vec<Row> {
        let row = |(&id, &change): (&i64, &Change)| Row {
            key: RowKey { id, when: Some(change.when.to_string()) },
            bug: Some(change.bug.to_string()),
            change: Ok(change),
        };
        self.rows.iter().take(limit).map(row).collect()
    }

    fn delete(&mut self, key: &RowKey) {
        if self.rows.get(&key.id).is_some_and(|change| Some(change.when.to_string()) == key.when) {
            self.rows.remove(&key.id);
        }
    }
}

/// The ledger's database.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub epoch: Epoch,
    pub marks: HashSet<RowKey>,
    /// Published before their rows were gone, and to be numbered once more.
    pub owed: BTreeMap<RowKey, Change>,
    /// Those that were.
    pub paid: Vec<When>,
    pub changes: Vec<Numbered>,
    pub published: u64,
    pub term: u64,
}

impl Ledger {
    pub fn new(epoch: Epoch) -> Ledger {
        let (owed, paid) = (BTreeMap::new(), Vec::new());
        Ledger { epoch, marks: HashSet::new(), owed, paid, changes: Vec::new(), published: 0, term: 0 }
    }

    pub fn head(&self) -> u64 {
        self.changes.len() as u64
    }

    /// The tag under which a number was given.
    pub fn tag_of(&self, seq: u64) -> Option<Tag> {
        let at = usize::try_from(seq).unwrap().checked_sub(1)?;
        self.changes.get(at)?.cursor.tag
    }
}

/// Where a shim is in its round.
#[derive(Clone, Debug)]
enum Round {
    Settle,
    Read,
    Record(Vec<Row>),
    /// Forget held rows that are others now; then delete these.
    Updated(Vec<RowKey>, Vec<RowKey>),
    Delete(Vec<RowKey>),
    /// Write down what is owed for rows that are still there; then forget these.
    Owe(Vec<(RowKey, Change)>, Vec<RowKey>),
    Forget(Vec<RowKey>),
}

/// What a holder knows: its term, and what it read of the ledger.
#[derive(Clone, Debug)]
struct Term {
    epoch: Epoch,
    /// The lineage tag of what it numbers.
    tag: Tag,
    term: u64,
    cache: Option<(u64, HashSet<RowKey>)>,
    round: Round,
    /// Recorded rows that the tracker holds.
    held: Vec<RowKey>,
    /// How far the outlet may go.
    limit: u64,
    published: u64,
    /// The tag of that number.
    published_tag: Option<Tag>,
    batch: Vec<Message>,
    confirms: Vec<Confirm>,
    /// Whether the end of history was compared with the ledger on this connection.
    compared: bool,
}

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Shim {
    pub up: bool,
    pub asleep: bool,
    term: Option<Term>,
}

impl Shim {
    pub fn crash(&mut self) {
        *self = Shim::default();
    }

    /// Whether it works, as far as others can see.
    pub fn lives(&self) -> bool {
        self.up && !self.asleep && self.term.is_some()
    }

    /// Whether its term is the ledger's.
    pub fn holds(&self, ledger: &Ledger) -> bool {
        self.term.as_ref().is_some_and(|term| term.epoch == ledger.epoch && term.term == ledger.term)
    }

    /// Whether its next step is the transaction that numbers.
    pub fn is_recording(&self) -> bool {
        matches!(self.term.as_ref().map(|term| &term.round), Some(Round::Record(_)))
    }

    /// Whether it has begun to send a batch; of a ledger that is gone, perhaps.
    pub fn is_sending(&self) -> bool {
        self.term.as_ref().is_some_and(|term| !term.batch.is_empty())
    }

    /// Whether its next step deletes rows.
    pub fn is_deleting(&self) -> bool {
        matches!(self.term.as_ref().map(|term| &term.round), Some(Round::Delete(keys)) if !keys.is_empty())
    }

    /// Whether the sequencer would only look and find nothing.
    pub fn idles(&self, table: &Table, ledger: &Ledger) -> bool {
        let all = |term: &Term| !table.in_place || term.limit == ledger.head();
        let reads = |term: &Term| matches!(term.round, Round::Read) && term.held.is_empty() && all(term);
        self.term.as_ref().is_some_and(reads) && table.rows.is_empty() && self.holds(ledger)
    }

    /// Everything that its behaviour depends on.
    pub fn key(&self) -> String {
        let Some(term) = &self.term else { return format!("{}{}", self.up, self.asleep) };
        let cache = term.cache.as_ref().map(|(last, marks)| {
            let mut marks: Vec<_> = marks.iter().collect();
            marks.sort_unstable();
            format!("{last}{marks:?}")
        });
        let Term { round, held, limit, published, batch, confirms, .. } = term;
        format!(
            "{}{}{}{cache:?}{round:?}{held:?}{limit},{published}{}{confirms:?}",
            self.up,
            self.asleep,
            term.term,
            batch.len()
        )
    }

    /// Up to where all is confirmed, as it says itself: known once the way to the broker was looked at.
    pub fn head(&self) -> Option<Cursor> {
        let term = self.term.as_ref().filter(|term| self.lives() && term.compared)?;
        Some(Cursor::new(term.epoch.clone(), term.published).tagged(term.published_tag))
    }

    /// Takes over. `tag` is one that was never drawn before.
    pub fn acquire(&mut self, ledger: &mut Ledger, tag: u32) {
        ledger.term += 1;
        self.term = Some(Term {
            epoch: ledger.epoch.clone(),
            tag: Tag::from_random(tag),
            term: ledger.term,
            cache: None,
            round: Round::Settle,
            held: Vec::new(),
            limit: 0,
            published: ledger.published,
            published_tag: ledger.tag_of(ledger.published),
            batch: Vec::new(),
            confirms: Vec::new(),
            compared: false,
        });
    }

    /// Its connection to the broker is a new one: what history ends with is looked at before anything is published.
    pub fn reconnects(&mut self) {
        if let Some(term) = &mut self.term {
            term.compared = false;
        }
    }

    /// Whether history has yet to be compared before it may publish.
    pub fn must_compare(&self, ledger: &Ledger) -> bool {
        self.holds(ledger)
            && self.lives()
            && self.term.as_ref().is_some_and(|term| !term.compared && term.batch.is_empty())
    }

    /// Compares the number that history ends with. Where the ledger did not give it under this tag, it was set back: what
    /// is not published goes on under `fresh`, a new epoch. Whether it did.
    pub fn compare(&mut self, ledger: &mut Ledger, end: Option<&Cursor>, fresh: Epoch) -> bool {
        let Some(term) = self.term.as_mut() else { return false };
        term.compared = true;
        let Some(end) = end.filter(|end| end.epoch == ledger.epoch) else { return false };
        let own = usize::try_from(end.seq - 1).ok().and_then(|at| ledger.changes.get(at));
        if own.is_some_and(|own| own.cursor == *end) {
            return false;
        }
        let published = usize::try_from(ledger.published).unwrap();
        let number = |(at, numbered): (usize, &Numbered)| Numbered {
            cursor: Cursor::new(fresh.clone(), at as u64 + 1).tagged(Some(term.tag)),
            after: None,
            ..numbered.clone()
        };
        ledger.changes = ledger.changes[published..].iter().enumerate().map(number).collect();
        (ledger.epoch, ledger.published) = (fresh, 0);
        (term.epoch, term.cache, term.round) = (ledger.epoch.clone(), None, Round::Settle);
        (term.published, term.published_tag) = (0, None);
        true
    }

    /// One step of the sequencer. `trouble`: the commit's answer is lost, and (false) the commit with it; or the tracker
    /// holds a row that is to be deleted. Returns what was numbered.
    pub fn sequencer(
        &mut self,
        table: &mut Table,
        ledger: &mut Ledger,
        batch: usize,
        now: When,
        trouble: Option<bool>,
    ) -> Vec<Numbered> {
        let fenced = !self.holds(ledger);
        let Some(term) = self.term.as_mut().filter(|_| self.up && !self.asleep) else { return Vec::new() };
        if fenced && !matches!(term.round, Round::Read | Round::Delete(_)) {
            // Whatever it would write says that another has taken over; but what it has in hand may still be sent.
            term.round = Round::Settle;
            if term.batch.is_empty() {
                self.term = None;
            }
            return Vec::new();
        }
        let mut numbered = Vec::new();
        term.round = match std::mem::replace(&mut term.round, Round::Settle) {
            Round::Settle => {
                if !table.in_place {
                    term.limit = u64::MAX;
                }
                let mut marked: Vec<RowKey> = ledger.marks.iter().cloned().collect();
                marked.sort_unstable();
                term.cache = Some((ledger.head(), ledger.marks.clone()));
                term.held.clear();
                Round::Delete(marked)
            }
            Round::Read => Round::Record(table.read(batch)),
            Round::Record(rows) => {
                let happens = trouble != Some(false);
                numbered = term.record(ledger, &rows, now, happens);
                if trouble.is_some() {
                    term.cache = None;
                    Round::Settle
                } else {
                    let keys: Vec<RowKey> = rows.into_iter().map(|row| row.key).collect();
                    let other = |held: &mut RowKey| keys.iter().any(|key| key.id == held.id && key != held);
                    let updated: Vec<RowKey> = term.held.extract_if(.., other).collect();
                    if updated.is_empty() { term.try_again(keys) } else { Round::Updated(updated, keys) }
                }
            }
            Round::Updated(updated, keys) => {
                term.forget(ledger, &updated, now, false);
                term.try_again(keys)
            }
            Round::Delete(mut keys) => {
                if trouble.is_some() && !keys.is_empty() {
                    // The tracker holds this row: it stays, and stays marked.
                    term.held.push(keys.remove(0));
                }
                keys.iter().for_each(|key| table.delete(key));
                let there = |key: &RowKey| {
                    let change = table.rows.get(&key.id).filter(|row| Some(row.when.to_string()) == key.when)?;
                    (!ledger.owed.contains_key(key)).then(|| (key.clone(), *change))
                };
                let owes: Vec<_> = term.held.iter().filter(|_| table.in_place).filter_map(there).collect();
                if owes.is_empty() { Round::Forget(keys) } else { Round::Owe(owes, keys) }
            }
            Round::Owe(owes, keys) => {
                ledger.owed.extend(owes);
                Round::Forget(keys)
            }
            Round::Forget(keys) => {
                numbered = term.forget(ledger, &keys, now, true);
                // Every row up to here is gone, or is owed once more.
                term.limit = if table.in_place { ledger.head() } else { u64::MAX };
                Round::Read
            }
        };
        numbered
    }

    /// What the outlet sends next, if anything.
    pub fn next_message(&mut self, ledger: &Ledger, batch: usize) -> Option<Message> {
        let holds = self.holds(ledger);
        let term = self.term.as_mut().filter(|_| self.up && !self.asleep)?;
        if term.batch.is_empty() && holds {
            let after = usize::try_from(term.published).unwrap();
            let allowed = usize::try_from(term.limit.saturating_sub(term.published)).unwrap();
            term.batch = ledger.changes[after..].iter().take(batch.min(allowed)).cloned().map(Rc::new).collect();
        }
        term.batch.get(term.confirms.len()).cloned()
    }

    /// What became of it. A whole batch, or a lost connection, moves the watermark over what is safe.
    pub fn confirmed(&mut self, confirm: Confirm, ledger: &mut Ledger) {
        let holds = self.holds(ledger);
        let Some(term) = self.term.as_mut() else { return };
        term.confirms.push(confirm);
        if confirm != Confirm::Lost && term.confirms.len() < term.batch.len() {
            return;
        }
        let safe = term.confirms.iter().take_while(|confirm| **confirm == Confirm::Ack).count();
        if let Some(last) = safe.checked_sub(1) {
            let last = &term.batch[last].cursor;
            (term.published, term.published_tag) = (last.seq, last.tag);
        }
        term.batch.clear();
        term.confirms.clear();
        if holds {
            ledger.published = term.published;
        } else {
            self.term = None;
        }
    }
}

impl Term {
    /// Those that were held are tried again, also when they are gone.
    fn try_again(&mut self, mut keys: Vec<RowKey>) -> Round {
        keys.extend(self.held.drain(..).filter(|held| !keys.contains(held)).collect::<Vec<_>>());
        Round::Delete(keys)
    }

    /// The transaction that forgets marks, and numbers once more what is owed for these rows.
    fn forget(&mut self, ledger: &mut Ledger, keys: &[RowKey], now: When, pay: bool) -> Vec<Numbered> {
        let tag = self.tag;
        let Some((last_seq, marks)) = &mut self.cache else { return Vec::new() };
        let first = ledger.changes.len();
        for key in keys {
            ledger.marks.remove(key);
            marks.remove(key);
            if let Some(change) = ledger.owed.remove(key).filter(|_| pay) {
                let cursor = Cursor::new(ledger.epoch.clone(), ledger.head() + 1).tagged(Some(tag));
                let before = ledger.changes.last().and_then(|last| last.cursor.tag);
                let after = before.filter(|before| *before != tag);
                ledger.changes.push(Numbered { change, cursor, after, recorded: now });
                ledger.paid.push(change.when);
            }
        }
        *last_seq = ledger.head();
        ledger.changes[first..].to_vec()
    }

    /// The transaction that numbers, as `ledger/sequencer.rs` does it.
    fn record(&mut self, ledger: &mut Ledger, rows: &[Row], now: When, happens: bool) -> Vec<Numbered> {
        let (last_seq, marks) = self.cache.get_or_insert_with(|| (ledger.head(), ledger.marks.clone()));
        let plan = plan(rows, |key| marks.contains(key), *last_seq);
        if !happens {
            return Vec::new();
        }
        assert_eq!(ledger.head(), *last_seq, "the fence keeps out whoever has an old head");
        let epoch = ledger.epoch.clone();
        let mut last_tag = ledger.changes.last().and_then(|last| last.cursor.tag);
        let number = |&(seq, change)| {
            let cursor = Cursor::new(epoch.clone(), seq).tagged(Some(self.tag));
            let after = last_tag.replace(self.tag).filter(|last| *last != self.tag);
            Numbered { change, cursor, after, recorded: now }
        };
        let numbered: Vec<Numbered> = plan.changes.iter().map(number).collect();
        ledger.changes.extend(numbered.iter().cloned());
        for key in plan.marks {
            ledger.marks.insert(key.clone());
            marks.insert(key.clone());
        }
        *last_seq = ledger.head();
        for (at, numbered) in ledger.changes.iter().enumerate().skip(ledger.changes.len().saturating_sub(8)) {
            assert_eq!(numbered.cursor.seq, at as u64 + 1, "contiguous");
        }
        numbered
    }
}
