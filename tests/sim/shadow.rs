//! What really happened: every change of the tracker, and what each life of each pod has taken in, in what order.
//!
//! Written by the simulation beside the real core, never by it; decides what may be missing and which gap is justified.

use std::collections::{BTreeMap, HashMap, HashSet};

use bugfeed_core::replay::Pos;
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
    /// Its producer gives no numbers: nobody can tell whether it is missing, but a gateway that has it tells it.
    pub foreign: bool,
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
    pub fn commit(&mut self, change: Change, foreign: bool) -> Fact {
        let fact = self.all.len();
        self.all.push(Told { change, numbers: Vec::new(), void: foreign, foreign });
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
    /// It moves no cursor.
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
    /// Without a number, beside those that have one: it moves no cursor.
    Beside,
}

impl Judged {
    pub fn breaks(self) -> bool {
        matches!(self, Judged::Broken | Judged::Forked)
    }
}

/// One life of a pod.
#[derive(Debug)]
pub struct Shadow {
    /// The last number that the pod gave to a change without one.
    own: Cursor,
    records: Vec<Record>,
    places: HashMap<Fact, Vec<Pos>>,
    seen: HashMap<Cursor, Pos>,
    /// The numbers of each epoch's present history.
    histories: HashMap<Epoch, BTreeMap<u64, Option<Tag>>>,
    /// The tag before each number.
    befores: HashMap<(Epoch, u64), Option<Tag>>,
    /// Numbers of histories that have ended.
    ended: HashSet<Cursor>,
    /// The first position after the last break.
    unbroken: Pos,
    /// What "everything before that position" is called, where it can be told.
    begin: Option<Cursor>,
    /// Who has the cursor that the next change follows may have it from before something that was missed.
    apart: bool,
    /// Nothing is known of what comes next, so that no cursor can be compared.
    lost: bool,
    pub loses: u32,
    /// Resumes wait, for the how-manieth time.
    pub held: bool,
    pub holds: u32,
    /// The position up to which it had read when it was current for the first time: nobody hears of that as of news.
    pub begun: Option<Pos>,
    /// Changes without a number that were just recorded.
    pub foreign: Vec<Fact>,
    /// How often a change without a number came right after one with one.
    pub turns: u64,
    /// How often continuity was lost.
    pub breaks: u32,
    /// How often a number came again with another content.
    pub forks: u32,
    /// The newest number taken in since the last break.
    pub head: Option<Cursor>,
}

/// What "everything before this number" is called, given the tag before it.
fn before_number(number: &Cursor, before: Option<Tag>) -> Cursor {
    let seq = number.seq - 1;
    Cursor::new(number.epoch.clone(), seq).tagged(before.filter(|_| seq > 0))
}

fn contradict(one: Option<Tag>, other: Option<Tag>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

impl Shadow {
    pub fn new(own: Epoch) -> Shadow {
        Shadow {
            own: Cursor::new(own, 0),
            records: Vec::new(),
            places: HashMap::new(),
            seen: HashMap::new(),
            histories: HashMap::new(),
            befores: HashMap::new(),
            ended: HashSet::new(),
            unbroken: 0,
            begin: None,
            apart: false,
            lost: false,
            loses: 0,
            held: false,
            holds: 0,
            begun: None,
            foreign: Vec::new(),
            turns: 0,
            breaks: 0,
            forks: 0,
            head: None,
        }
    }

    /// What taking in a message must lead to, and the number that it has here.
    /// `older`: history is read from its beginning, and nothing known was met yet.
    pub fn judge_message(&self, number: Option<&Cursor>, before: Option<Tag>, older: bool) -> (Cursor, Judged) {
        match (number, &self.head) {
            (Some(number), _) if older && self.lies_before(number) => (number.clone(), Judged::Late),
            (Some(number), _) => (number.clone(), self.judge(number, before)),
            (None, Some(head)) if head.epoch != self.own.epoch => (head.clone(), Judged::Beside),
            (None, _) => (Cursor::new(self.own.epoch.clone(), self.own.seq + 1), Judged::Next),
        }
    }

    /// Whether a number is not known, and lies before one that is.
    fn lies_before(&self, number: &Cursor) -> bool {
        let after = |history: &BTreeMap<u64, Option<Tag>>| {
            history.range(number.seq..).next().is_some() && !history.contains_key(&number.seq)
        };
        self.histories.get(&number.epoch).is_some_and(after) && !self.ended.contains(number)
    }

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
            return if contradict(*tag, number.tag) { Judged::Forked } else { Judged::Known };
        }
        let left = history.range(..number.seq).next_back();
        let right = history.range(number.seq..).next();
        match (left, right) {
            (_, None) => {
                let (&newest, tag) = history.last_key_value().expect("not empty");
                match number.seq - newest {
                    1 if !contradict(*tag, before) => Judged::Next,
                    1 => Judged::Forked,
                    _ => Judged::Broken,
                }
            }
            // It has the tag of what comes after it, or that of what comes before it, or follows right on that.
            (_, Some((_, right))) if *right == number.tag => Judged::Late,
            (_, Some((seq, _))) if self.befores.get(&(number.epoch.clone(), *seq)) == Some(&number.tag) => Judged::Late,
            (Some((_, left)), Some((_, right))) if left == right => Judged::Forked,
            (Some((_, left)), _) if *left == number.tag => Judged::Late,
            (Some((seq, left)), _) if seq + 1 == number.seq && *left == before => Judged::Late,
            _ => Judged::Forked,
        }
    }

    pub fn record(&mut self, fact: Fact, number: &Cursor, before: Option<Tag>, judged: Judged) -> Pos {
        let late = matches!(judged, Judged::Late | Judged::Beside);
        self.forks += u32::from(judged == Judged::Forked);
        self.turns += u64::from(judged == Judged::Beside && self.records.last().is_some_and(|last| !last.late));
        self.records.push(Record { number: number.clone(), late });
        let pos = self.records.len() as Pos;
        let places = self.places.entry(fact).or_default();
        places.push(pos);
        let new = places.len() == 1;
        if self.lost {
            self.lost = false;
            self.begin = (!late).then(|| before_number(number, before));
        }
        if new && (judged == Judged::Beside || number.epoch == self.own.epoch) {
            self.foreign.push(fact);
        }
        if judged == Judged::Beside {
            return pos;
        }
        self.seen.insert(number.clone(), pos);
        self.befores.insert((number.epoch.clone(), number.seq), before);
        if number.epoch == self.own.epoch {
            self.own = number.clone();
        }
        let ended = self.ended.iter().any(|ended| ended.epoch == number.epoch && ended.seq + 1 == number.seq);
        let history = self.histories.entry(number.epoch.clone()).or_default();
        // Also where it goes on after another epoch, or after a history that has ended.
        let had_before = history.contains_key(&(number.seq - 1)) || ended || judged == Judged::Forked;
        let forks = history.range(number.seq..).next().is_some()
            || history.get(&(number.seq - 1)).is_some_and(|tag| contradict(*tag, before));
        if judged.breaks() && forks {
            self.end_from(number);
        }
        self.histories.entry(number.epoch.clone()).or_default().insert(number.seq, number.tag);
        if judged.breaks() || pos == 1 && self.begin.is_none() && !self.apart {
            self.apart = false;
            self.unbroken = pos;
            // Who has the number before may lack what came after it here.
            self.begin = (!had_before || !judged.breaks()).then(|| before_number(number, before));
        }
        // To whoever came when this pod knew nothing, its first change is a break, unless it is the first ever.
        self.breaks += u32::from(judged.breaks() || pos == 1 && number.seq > 1);
        if !late {
            self.head = Some(number.clone());
        }
        pos
    }

    /// What was seen from a number on belongs to a history that has ended, unless it has the same tag.
    fn end_from(&mut self, number: &Cursor) {
        let history = self.histories.entry(number.epoch.clone()).or_default();
        for (seq, tag) in history.split_off(&number.seq) {
            if tag.is_some() && tag != number.tag {
                self.ended.insert(Cursor::new(number.epoch.clone(), seq).tagged(tag));
            }
        }
    }

    /// Continuity is lost, and nothing is known of what comes next.
    pub fn lose(&mut self) {
        (self.lost, self.begin, self.apart) = (true, None, false);
        self.unbroken = self.records.len() as Pos + 1;
        self.breaks += 1;
        self.loses += 1;
    }

    /// Continuity is lost, and the next change follows this cursor.
    pub fn go_on_after(&mut self, cursor: &Cursor) {
        let judged = self.judge_in_epoch(cursor, cursor.tag);
        self.end_from(cursor);
        self.histories.entry(cursor.epoch.clone()).or_default().insert(cursor.seq, cursor.tag);
        let apart = matches!(judged, Judged::Known | Judged::Late);
        self.befores.insert((cursor.epoch.clone(), cursor.seq), cursor.tag);
        (self.lost, self.begin, self.head) = (false, (!apart).then(|| cursor.clone()), Some(cursor.clone()));
        self.apart = apart;
        self.seen.remove(cursor);
        self.unbroken = self.records.len() as Pos + 1;
        self.breaks += 1;
    }

    /// The pod is current, or is not.
    pub fn current(&mut self, current: bool) {
        if current {
            self.begun.get_or_insert(self.records.len() as Pos);
        }
    }

    /// Where a change lies, after `after`.
    pub fn place(&self, fact: Fact, after: Pos) -> Option<Pos> {
        self.places.get(&fact)?.iter().copied().find(|&pos| pos > after)
    }

    /// Whether this number was taken in, whatever came after it.
    pub fn has_seen(&self, cursor: &Cursor) -> bool {
        self.seen.contains_key(cursor)
    }

    /// Whether a change was taken in after a position under a number of another epoch than this one.
    pub fn is_told_after(&self, fact: Fact, after: Pos, epoch: &Epoch) -> bool {
        let places = self.places.get(&fact).into_iter().flatten();
        places.copied().any(|pos| pos > after && self.number(pos).epoch != *epoch)
    }

    /// Whether this number belongs to a history that has ended.
    pub fn has_ended(&self, cursor: &Cursor) -> bool {
        self.ended.contains(cursor)
    }

    /// Whether a number of this epoch was taken in that is this one or lies beyond it.
    pub fn has_from(&self, cursor: &Cursor) -> bool {
        self.seen.keys().any(|seen| seen.epoch == cursor.epoch && seen.seq >= cursor.seq)
    }

    /// Whether a number of this epoch was taken in that is this one or lies beyond it, and all of them before a position.
    pub fn has_passed(&self, cursor: &Cursor, pos: Pos) -> bool {
        let is_from = |record: &Record| record.number.epoch == cursor.epoch && record.number.seq >= cursor.seq;
        self.records.iter().rposition(is_from).is_some_and(|at| at as Pos + 1 < pos)
    }

    /// Whether this is a number that the pod gave to a change without one.
    pub fn is_own(&self, cursor: &Cursor) -> bool {
        cursor.epoch == self.own.epoch
    }

    /// Whether nothing is known of what comes next.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Where a change lies that was taken in more than once, at last.
    pub fn last_place(&self, fact: Fact) -> Option<Pos> {
        self.places.get(&fact)?.last().copied()
    }

    pub fn number(&self, pos: Pos) -> &Cursor {
        &self.records[usize::try_from(pos).unwrap() - 1].number
    }

    /// Where a change lies, after `after`, that was told with this cursor. One of several ledgers lies in several places.
    pub fn told(&self, fact: Fact, after: Pos, cursor: Option<&Cursor>) -> Option<Pos> {
        let places = || self.places.get(&fact).into_iter().flatten().copied().filter(|&pos| pos > after);
        // What came late, or has no number, is told with the cursor of something else.
        let own = places().find(|&pos| !self.is_late(pos) && Some(self.number(pos)) == cursor);
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
        let head = self.head.as_ref().filter(|head| head.epoch == cursor.epoch && !self.lost)?;
        if cursor.seq > head.seq {
            // Where it was taken in, before this history began, nothing is to come up to it.
            let ended = self.records.iter().any(|record| !record.late && record.number == *cursor);
            return (!ended).then_some(Pos::MAX);
        }
        let first = self.unbroken.max(1);
        if let Some(begin) = self.begin.as_ref().filter(|begin| begin.epoch == cursor.epoch && begin.seq == cursor.seq)
        {
            let agrees = cursor.seq == 0 || cursor.tag.is_none() || cursor.tag == begin.tag;
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
