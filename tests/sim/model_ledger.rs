//! The ledger's crash points: every reachable state of two shims, a tracker and a broker.
//!
//! Goes in: a few rows, and how many faults there may be. Comes out: nothing, or the way to a state in which something
//! is lost, numbered twice, or published under another number. States that were seen are not explored again, so the
//! search is exhaustive though the processes loop.

use std::collections::{BTreeMap, HashSet};

use bugfeed_protocol::{BugId, Change, Epoch, When};

use bugfeed_core::relay::outlet;

use crate::broker::{Confirm, Message};
use crate::ledger::{Ledger, Table};
use crate::shim::{Bus, Moment, Shim};

/// What the tracker does, in order.
#[derive(Clone, Copy, Debug)]
enum Write {
    /// A new row of this bug.
    Insert(u64),
    /// A row with the bug and date of the one before.
    Twin(u64),
    /// The row with this id gets a new date.
    Update(i64),
    /// The row with this id is edited once more, and keeps its date.
    Again(i64),
    /// A new row with this id, which another row had before.
    Reuse(i64, u64),
}

#[derive(Clone)]
struct State {
    table: Table,
    ledger: Ledger,
    shims: [Shim; 2],
    /// What the broker has, by number.
    broker: BTreeMap<u64, When>,
    written: usize,
    /// Versions of rows that were committed, and not overwritten before anybody recorded them.
    committed: Vec<Change>,
    /// The date of every version that was ever committed.
    ever: Vec<When>,
    /// Dates of edits after which no change with that date was published yet: who was told before may have asked before.
    unheard: Vec<When>,
    faults: usize,
    now_ms: u64,
}

/// One thing that may happen.
#[derive(Clone, Copy, Debug)]
enum Move {
    Write,
    Acquire(usize),
    Poll(usize, Option<bool>),
    /// The shim's outlet does something that is no message.
    Give(usize),
    /// The shim's next message: does the broker get it, and what does the shim hear.
    Publish(usize, bool, Confirm),
    Crash(usize),
    Sleep(usize),
    Wake(usize),
}

/// A broker without history, which does with the next message as it is told.
struct Told<'a> {
    arrives: bool,
    confirm: Confirm,
    arrived: &'a mut Vec<Message>,
}

impl Bus for Told<'_> {
    fn connect(&mut self) -> bool {
        true
    }

    fn end(&mut self) -> Option<outlet::Event> {
        Some(outlet::Event::End(None))
    }

    fn publish(&mut self, message: &Message) -> Confirm {
        self.arrived.extend(self.arrives.then(|| Message::clone(message)));
        self.confirm
    }

    fn keeps_history(&self) -> bool {
        false
    }

    fn together(&self) -> usize {
        1
    }
}

/// Longer than every pause of the planners.
const LONG_MS: u64 = 20_000;

/// What a shim says of itself, without times: each step takes longer than any pause, so every deadline is over.
fn timeless(text: &str) -> String {
    let mut parts = text.split("ms: ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

const BATCH: usize = 2;

impl State {
    fn new(writes: &[Write], faults: usize) -> State {
        let mut shims = [Shim::default(), Shim::default()];
        shims.iter_mut().for_each(|shim| shim.up = true);
        let in_place = writes.iter().any(|write| matches!(write, Write::Again(_)));
        State {
            table: Table::new(in_place),
            ledger: Ledger::new(Epoch::parse("E").unwrap()),
            shims,
            broker: BTreeMap::new(),
            written: 0,
            committed: Vec::new(),
            ever: Vec::new(),
            unheard: Vec::new(),
            faults,
            now_ms: LONG_MS,
        }
    }

    /// Two states with the same key behave the same.
    fn key(&self) -> String {
        let seqs: Vec<_> = self.ledger.changes.iter().map(|numbered| numbered.change.when.as_micros()).collect();
        let rows: Vec<_> = self.table.rows.iter().map(|(id, change)| (id, change.when.as_micros())).collect();
        let broker: Vec<_> = self.broker.keys().collect();
        let mut shims = [0, 1].map(|at| timeless(&self.shims[at].key(&self.ledger)));
        // Which of the two is which makes no difference.
        shims.sort_unstable();
        let Ledger { published, term, owed, marks, .. } = &self.ledger;
        let owed: Vec<_> = owed.keys().collect();
        let rest = (self.written, self.faults, owed, &self.unheard);
        format!("{rows:?}{marks:?}{seqs:?}{published},{term}{broker:?}{rest:?}{shims:?}")
    }

    fn moves(&self, writes: &[Write]) -> Vec<Move> {
        let mut moves = Vec::new();
        match writes.get(self.written) {
            Some(Write::Update(id) | Write::Again(id)) if !self.table.rows.contains_key(id) => {}
            Some(Write::Reuse(id, _)) if self.table.rows.contains_key(id) => {}
            Some(_) => moves.push(Move::Write),
            None => {}
        }
        for at in 0..2 {
            let (shim, other) = (&self.shims[at], &self.shims[1 - at]);
            if shim.asleep {
                moves.push(Move::Wake(at));
                continue;
            }
            if !shim.lives() {
                if !(other.lives() && other.holds(&self.ledger)) {
                    moves.push(Move::Acquire(at));
                }
                continue;
            }
            let (polls, gives) = (!shim.poller_idles(&self.table, &self.ledger), !shim.outlet_idles(&self.ledger));
            if polls {
                moves.push(Move::Poll(at, None));
                if self.faults > 0 && shim.is_recording() {
                    moves.extend([Move::Poll(at, Some(true)), Move::Poll(at, Some(false))]);
                } else if self.faults > 0 && shim.is_deleting() {
                    moves.push(Move::Poll(at, Some(true)));
                }
            }
            if shim.is_sending() {
                moves.push(Move::Publish(at, true, Confirm::Ack));
                if self.faults > 0 {
                    moves.extend([
                        Move::Publish(at, true, Confirm::Lost),
                        Move::Publish(at, false, Confirm::Lost),
                        Move::Publish(at, false, Confirm::Nack),
                    ]);
                }
            } else if gives {
                moves.push(Move::Give(at));
            }
            if self.faults > 0 {
                moves.extend([Move::Crash(at), Move::Sleep(at)]);
            }
        }
        moves
    }

    fn make(&mut self, made: Move, writes: &[Write]) -> Result<(), String> {
        let fault = match made {
            Move::Poll(_, trouble) => trouble.is_some(),
            Move::Publish(_, _, confirm) => confirm != Confirm::Ack,
            Move::Crash(_) | Move::Sleep(_) => true,
            _ => false,
        };
        self.faults -= usize::from(fault);
        self.now_ms += LONG_MS;
        match made {
            Move::Write => self.write(writes[self.written]),
            Move::Acquire(at) => self.shims[at].acquire(&self.table, &mut self.ledger, BATCH, self.now_ms),
            Move::Crash(at) => {
                self.shims[at].crash();
                self.shims[at].up = true;
            }
            Move::Sleep(at) => self.shims[at].asleep = true,
            Move::Wake(at) => self.shims[at].wakes(&self.ledger),
            Move::Poll(at, trouble) => {
                let moment = self.moment();
                self.shims[at].poll(&mut self.table, &mut self.ledger, &moment, trouble, false);
            }
            Move::Give(at) => self.give(at, false, Confirm::Lost)?,
            Move::Publish(at, arrives, confirm) => self.give(at, arrives, confirm)?,
        }
        self.check()
    }

    fn moment(&self) -> Moment {
        Moment { now: When::MIN, now_ms: self.now_ms, tag: 1, epoch: Epoch::parse("F").unwrap() }
    }

    fn give(&mut self, at: usize, arrives: bool, confirm: Confirm) -> Result<(), String> {
        let (moment, mut arrived) = (self.moment(), Vec::new());
        let mut bus = Told { arrives, confirm, arrived: &mut arrived };
        self.shims[at].give(&self.table, &mut self.ledger, &mut bus, BATCH, &moment);
        for message in arrived.iter().flat_map(|message| message.iter()) {
            let (seq, when) = (message.cursor.seq, message.change.when);
            match self.broker.insert(seq, when) {
                // A number that is known is no news to anybody.
                None => self.unheard.retain(|edit| *edit != when),
                Some(before) if before != when => return Err(format!("{seq} published for two changes")),
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn write(&mut self, write: Write) {
        self.written += 1;
        if let Write::Again(id) = write {
            self.unheard.push(self.table.rows[&id].when);
            return;
        }
        let second = self.written - usize::from(matches!(write, Write::Twin(_)));
        let when = When::from_micros(i64::try_from(second).unwrap() * 1_000_000).unwrap();
        let (id, bug) = match write {
            Write::Insert(bug) | Write::Twin(bug) => (self.table.id(), BugId::new(bug).unwrap()),
            Write::Reuse(id, bug) => (id, BugId::new(bug).unwrap()),
            Write::Update(id) => {
                let old = self.table.rows[&id];
                // Overwritten before anybody recorded it: the newer one stands for it.
                if !self.ledger.changes.iter().any(|numbered| numbered.change == old) {
                    self.committed.retain(|change| *change != old);
                }
                // Whoever hears of this date asks after the edits before it.
                self.unheard.iter_mut().filter(|edit| **edit == old.when).for_each(|edit| *edit = when);
                (id, old.bug)
            }
            Write::Again(_) => unreachable!("makes no new version"),
        };
        let change = Change { bug, when };
        self.table.rows.insert(id, change);
        self.committed.push(change);
        self.ever.push(when);
    }

    /// What holds in every state.
    fn check(&self) -> Result<(), String> {
        let numbered: Vec<When> = self.ledger.changes.iter().map(|numbered| numbered.change.when).collect();
        for (seq, at) in (1..).zip(&self.ledger.changes) {
            if at.cursor.seq != seq {
                return Err(format!("{} is not {seq}", at.cursor));
            }
        }
        for when in &numbered {
            let count = |all: &[When]| all.iter().filter(|other| *other == when).count();
            if count(&numbered) > count(&self.ever) + count(&self.ledger.paid) {
                return Err(format!("{when} numbered twice"));
            }
        }
        for change in &self.committed {
            let rows = self.table.rows.values().filter(|row| *row == change).count();
            let times = numbered.iter().filter(|when| **when == change.when).count();
            if rows + times < self.committed.iter().filter(|other| *other == change).count() {
                return Err(format!("{change:?} is neither in the table nor in the ledger"));
            }
        }
        if let Some(lost) = (1..=self.ledger.published).find(|seq| !self.broker.contains_key(seq)) {
            return Err(format!("{lost} counts as published, but the broker does not have it"));
        }
        for (seq, when) in &self.broker {
            let at = usize::try_from(*seq).unwrap() - 1;
            if self.ledger.changes.get(at).map(|numbered| numbered.change.when) != Some(*when) {
                return Err(format!("{seq} published, but the ledger says otherwise"));
            }
        }
        Ok(())
    }

    /// What holds when nothing more happens by itself.
    fn check_end(&self) -> Result<(), String> {
        let rest = (self.table.rows.len(), self.ledger.marks.len(), self.ledger.head() - self.ledger.published);
        if rest != (0, 0, 0) {
            return Err(format!("rows, marks, unpublished at the end: {rest:?}"));
        }
        match self.unheard.first() {
            Some(when) => Err(format!("an edit dated {when} was never told of: what was published came before it")),
            None => Ok(()),
        }
    }
}

/// Visits every reachable state; how many there are.
fn explore(writes: &[Write], faults: usize) -> usize {
    let first = State::new(writes, faults);
    let mut seen = HashSet::from([first.key()]);
    // The way to each state, from its predecessor.
    let mut ways: Vec<(usize, Move)> = Vec::new();
    let mut stack = vec![(first, usize::MAX)];
    while let Some((state, way)) = stack.pop() {
        let moves = state.moves(writes);
        let ends = moves.iter().all(|made| matches!(made, Move::Crash(_) | Move::Sleep(_)));
        if ends && let Err(broken) = state.check_end() {
            panic!("{writes:?}: {broken}, after {:?}", path(&ways, way));
        }
        for made in moves {
            let mut next = state.clone();
            ways.push((way, made));
            let way = ways.len() - 1;
            if let Err(broken) = next.make(made, writes) {
                panic!("{writes:?}: {broken}, after {:?}", path(&ways, way));
            }
            if seen.insert(next.key()) {
                stack.push((next, way));
            }
        }
    }
    seen.len()
}

fn path(ways: &[(usize, Move)], mut way: usize) -> Vec<Move> {
    let mut path = Vec::new();
    while let Some(&(before, made)) = ways.get(way) {
        path.push(made);
        way = before;
    }
    path.reverse();
    path
}

#[test]
fn every_crash_point_of_the_ledger() {
    use Write::{Again, Insert, Reuse, Twin, Update};
    let mut states = 0;
    for (writes, faults) in [
        (&[Insert(1)][..], 2),
        (&[Insert(1), Twin(1)], 1),
        (&[Insert(1), Insert(1), Insert(2)], 1),
        // One row for each bug, updated in place, between any two steps.
        (&[Insert(1), Update(1)], 1),
        (&[Insert(1), Insert(2), Update(1)], 1),
        // With the same date: before the row is deleted, or by a transaction that holds it just then.
        (&[Insert(1), Again(1)], 2),
        (&[Insert(1), Again(1), Update(1)], 1),
        (&[Insert(1), Insert(2), Again(1)], 1),
        // An id given again, as SQLite does without AUTOINCREMENT.
        (&[Insert(1), Reuse(1, 2)], 1),
    ] {
        let count = explore(writes, faults);
        println!("{writes:?}, {faults} faults: {count} states");
        states += count;
    }
    assert!(states > 1_000);
}
