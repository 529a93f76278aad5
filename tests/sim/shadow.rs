//! What really happened: every change of the tracker, and what each life of each pod has taken in, in what order.
//!
//! Written by the simulation beside the real core, never by it; decides what may be missing and which gap is justified.

use std::collections::HashMap;

use bugfeed::core::replay::Pos;
use bugfeed_protocol::{Change, Cursor, When};

/// The number of a change in [`Truth`].
pub type Fact = usize;

/// One change.
#[derive(Debug)]
pub struct Told {
    pub change: Change,
    /// More than one only where a ledger was made anew.
    pub numbers: Vec<Cursor>,
    /// It will never be numbered: updated in place, or lost with a ledger.
    pub void: bool,
}

/// Every change, in the order of commits.
#[derive(Debug, Default)]
pub struct Truth {
    pub all: Vec<Told>,
    by_when: HashMap<When, Fact>,
}

impl Truth {
    pub fn commit(&mut self, change: Change) -> Fact {
        let fact = self.all.len();
        self.all.push(Told { change, numbers: Vec::new(), void: false });
        assert!(self.by_when.insert(change.when, fact).is_none(), "dates tell changes apart here");
        fact
    }

    /// The change that a date belongs to.
    pub fn of(&self, when: When) -> Option<Fact> {
        self.by_when.get(&when).copied()
    }

    pub fn number_in(&self, fact: Fact, cursor: &Cursor) -> Option<u64> {
        self.all[fact].numbers.iter().find(|number| number.epoch == cursor.epoch).map(|number| number.seq)
    }
}

#[derive(Debug)]
struct Record {
    number: Cursor,
    late: bool,
}

/// One life of a pod.
#[derive(Debug, Default)]
pub struct Shadow {
    records: Vec<Record>,
    places: HashMap<Fact, Vec<Pos>>,
    seen: HashMap<Cursor, Pos>,
    /// The first position after the last break.
    unbroken: Pos,
    /// How often continuity was lost.
    pub breaks: u32,
    /// The newest number taken in since the last break.
    pub head: Option<Cursor>,
}

impl Shadow {
    pub fn knows(&self, number: &Cursor) -> bool {
        self.seen.contains_key(number)
    }

    /// What taking in a number must lead to: whether it is late, and whether continuity is lost.
    pub fn judge(&self, number: &Cursor) -> (bool, bool) {
        match &self.head {
            None => (false, false),
            Some(head) if head.epoch != number.epoch => {
                let newest = self.seen.keys().filter(|seen| seen.epoch == number.epoch).map(|seen| seen.seq).max();
                let late = newest.is_some_and(|newest| number.seq < newest);
                (late, !late)
            }
            Some(head) => (number.seq < head.seq, number.seq > head.seq + 1),
        }
    }

    pub fn record(&mut self, fact: Fact, number: &Cursor, late: bool, broken: bool) -> Pos {
        self.records.push(Record { number: number.clone(), late });
        let pos = self.records.len() as Pos;
        self.places.entry(fact).or_default().push(pos);
        self.seen.insert(number.clone(), pos);
        if broken {
            self.unbroken = pos;
        }
        // To whoever came when this pod knew nothing, its first change is a break, unless it is the first ever.
        self.breaks += u32::from(broken || pos == 1 && number.seq > 1);
        if !late {
            self.head = Some(number.clone());
        }
        pos
    }

    /// Where a change lies, after `after`.
    pub fn place(&self, fact: Fact, after: Pos) -> Option<Pos> {
        self.places.get(&fact)?.iter().copied().find(|&pos| pos > after)
    }

    pub fn number(&self, pos: Pos) -> &Cursor {
        &self.records[usize::try_from(pos).unwrap() - 1].number
    }

    /// Where a change lies, after `after`, that was told with this cursor. One of several ledgers lies in several places.
    pub fn told(&self, fact: Fact, after: Pos, cursor: Option<&Cursor>) -> Option<Pos> {
        let places = || self.places.get(&fact).into_iter().flatten().copied().filter(|&pos| pos > after);
        let own = places().find(|&pos| Some(self.number(pos)) == cursor);
        own.or_else(|| places().next())
    }

    pub fn has_late_after(&self, pos: Pos) -> bool {
        self.records.iter().skip(usize::try_from(pos).unwrap()).any(|record| record.late)
    }

    pub fn is_late(&self, pos: Pos) -> bool {
        self.records[usize::try_from(pos).unwrap() - 1].late
    }

    /// The position that a cursor stands for, if this pod can tell what came after it; `Pos::MAX` if it is ahead.
    pub fn position(&self, cursor: &Cursor) -> Option<Pos> {
        let head = self.head.as_ref().filter(|head| head.epoch == cursor.epoch)?;
        if cursor.seq > head.seq {
            return Some(Pos::MAX);
        }
        let first = self.unbroken.max(1);
        let begin = &self.records[usize::try_from(first).unwrap() - 1].number;
        if cursor.epoch == begin.epoch && cursor.seq + 1 == begin.seq {
            return Some(first - 1);
        }
        let pos = *self.seen.get(cursor)?;
        (pos >= first && !self.is_late(pos)).then_some(pos)
    }

    /// Whether continuity was lost right after this position.
    pub fn begins_after(&self, pos: Pos) -> bool {
        pos + 1 == self.unbroken
    }

    pub fn changes_after(&self, pos: Pos) -> usize {
        self.records.len().saturating_sub(usize::try_from(pos).unwrap_or(usize::MAX))
    }
}
