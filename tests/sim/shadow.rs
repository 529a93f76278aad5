//! What really happened: every change of the tracker, and what each life of each pod has taken in, in what order.
//!
//! Written by the simulation beside the real core, never by it; decides what may be missing and which gap is justified.

use std::collections::{BTreeMap, HashMap, HashSet};

use bugfeed::core::replay::Pos;
use bugfeed_protocol::{Change, Cursor, Epoch, Numbered, Tag, When};

/// The number of a change in [`Truth`].
pub type Fact = usize;

/// One change.
#[derive(Debug)]
pub struct Told {
    pub change: Change,
    /// More than one only where a ledger was made anew, or set back.
    pub numbers: Vec<Cursor>,
    /// It will never be numbered: updated in place, or lost with a ledger.
    pub void: bool,
}

/// Every change, in the order of commits.
#[derive(Debug, Default)]
pub struct Truth {
    pub all: Vec<Told>,
    by_when: HashMap<When, Fact>,
    /// The first number that was given under each tag of each epoch, and the tag of the number before it.
    tags: HashMap<(Epoch, Tag), (u64, Option<Tag>)>,
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

    /// A change got a number.
    pub fn number(&mut self, fact: Fact, numbered: &Numbered) {
        let cursor = &numbered.cursor;
        let tag = cursor.tag.expect("shims tag");
        let before = numbered.after.or(Some(tag)).filter(|_| cursor.seq > 1);
        self.tags.entry((cursor.epoch.clone(), tag)).or_insert((cursor.seq, before.filter(|before| *before != tag)));
        let again = self.all[fact].numbers.iter().any(|old| self.is_one_history(old, cursor));
        assert!(!again, "numbered twice: {numbered:?}, {:?}", self.all[fact]);
        self.all[fact].numbers.push(cursor.clone());
    }

    /// The tag under which the history of `tag` gave a number.
    fn tag_at(&self, epoch: &Epoch, mut tag: Tag, seq: u64) -> Option<Tag> {
        loop {
            match self.tags.get(&(epoch.clone(), tag))? {
                (first, _) if *first <= seq => return Some(tag),
                (_, before) => tag = (*before)?,
            }
        }
    }

    /// Whether two cursors are of one history: that of the later one has the other's number, under its tag.
    pub fn is_one_history(&self, one: &Cursor, other: &Cursor) -> bool {
        let (low, high) = if one.seq <= other.seq { (one, other) } else { (other, one) };
        let same = |(low_tag, high_tag)| self.tag_at(&low.epoch, high_tag, low.seq) == Some(low_tag);
        low.epoch == high.epoch && (low.seq == 0 || low.tag.zip(high.tag).is_none_or(same))
    }

    /// The number of a change in the history of a cursor.
    pub fn number_in(&self, fact: Fact, cursor: &Cursor) -> Option<u64> {
        self.all[fact].numbers.iter().find(|number| self.is_one_history(number, cursor)).map(|number| number.seq)
    }
}

#[derive(Debug)]
struct Record {
    number: Cursor,
    before: Option<Tag>,
    late: bool,
}

/// What taking in a number must lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    Known,
    Next,
    Late,
    /// Continuity is lost.
    Broken,
    /// Continuity is lost, and the number is of another history of its epoch.
    Forked,
}

impl Judged {
    pub fn breaks(self) -> bool {
        matches!(self, Judged::Broken | Judged::Forked)
    }
}

/// One life of a pod.
#[derive(Debug, Default)]
pub struct Shadow {
    records: Vec<Record>,
    places: HashMap<Fact, Vec<Pos>>,
    seen: HashMap<Cursor, Pos>,
    /// The numbers of each epoch's present history.
    histories: HashMap<Epoch, BTreeMap<u64, Option<Tag>>>,
    /// Numbers of histories that have ended.
    ended: HashSet<Cursor>,
    /// The first position after the last break.
    unbroken: Pos,
    /// How often continuity was lost.
    pub breaks: u32,
    /// How often a number came again with another content.
    pub forks: u32,
    /// The newest number taken in since the last break.
    pub head: Option<Cursor>,
}

impl Shadow {
    /// What taking in a number must lead to, given the tag of the number before it.
    pub fn judge(&self, number: &Cursor, before: Option<Tag>) -> Judged {
        let Some(head) = &self.head else { return Judged::Next };
        let judged = self.judge_in_epoch(number, before);
        let goes_on = !matches!(judged, Judged::Known | Judged::Late);
        if head.epoch != number.epoch && goes_on { Judged::Broken } else { judged }
    }

    fn judge_in_epoch(&self, number: &Cursor, before: Option<Tag>) -> Judged {
        let Some(history) = self.histories.get(&number.epoch) else { return Judged::Broken };
        if self.ended.contains(number) {
            return Judged::Known;
        }
        if let Some(tag) = history.get(&number.seq) {
            return if *tag == number.tag { Judged::Known } else { Judged::Forked };
        }
        let left = history.range(..number.seq).next_back();
        let right = history.range(number.seq..).next();
        match (left, right) {
            (_, None) => {
                let (&newest, tag) = history.last_key_value().expect("not empty");
                match number.seq - newest {
                    1 if *tag == before => Judged::Next,
                    1 => Judged::Forked,
                    _ => Judged::Broken,
                }
            }
            // It has the tag of what comes after it, or that of what comes before it, or follows right on that.
            (_, Some((_, right))) if *right == number.tag => Judged::Late,
            (Some((_, left)), Some((_, right))) if left == right => Judged::Forked,
            (Some((_, left)), _) if *left == number.tag => Judged::Late,
            (Some((seq, left)), _) if seq + 1 == number.seq && *left == before => Judged::Late,
            _ => Judged::Forked,
        }
    }

    pub fn record(&mut self, fact: Fact, number: &Cursor, before: Option<Tag>, judged: Judged) -> Pos {
        let late = judged == Judged::Late;
        self.forks += u32::from(judged == Judged::Forked);
        self.records.push(Record { number: number.clone(), before, late });
        let pos = self.records.len() as Pos;
        self.places.entry(fact).or_default().push(pos);
        self.seen.insert(number.clone(), pos);
        let history = self.histories.entry(number.epoch.clone()).or_default();
        // Also where it goes on after another epoch.
        let forks = history.range(number.seq..).next().is_some()
            || history.get(&(number.seq - 1)).is_some_and(|tag| *tag != before);
        if judged.breaks() && forks {
            for (seq, tag) in history.split_off(&number.seq) {
                if tag != number.tag {
                    self.ended.insert(Cursor::new(number.epoch.clone(), seq).tagged(tag));
                }
            }
        }
        history.insert(number.seq, number.tag);
        if judged.breaks() {
            self.unbroken = pos;
        }
        // To whoever came when this pod knew nothing, its first change is a break, unless it is the first ever.
        self.breaks += u32::from(judged.breaks() || pos == 1 && number.seq > 1);
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
        let Record { number: begin, before, .. } = &self.records[usize::try_from(first).unwrap() - 1];
        if cursor.epoch == begin.epoch && cursor.seq + 1 == begin.seq {
            let agrees = cursor.seq == 0 || cursor.tag.is_none() || cursor.tag == *before;
            return agrees.then_some(first - 1);
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
