//! How the positions of a replay cache and the numbers of ledgers correspond.
//!
//! Goes in: the number of each change as it is recorded, and whether it continues the numbers before. Comes out: the
//! cursor of a position, the position of a cursor, or "unknown". Lineage tags tell apart the histories of a ledger that
//! was set back. Positions have no holes; numbers may begin anywhere, skip, or belong to another ledger. So the
//! correspondence is kept as a list of runs.

use std::collections::VecDeque;

use bugfeed_protocol::{Cursor, Epoch, Tag};

use super::ring::Pos;

/// How a change's number continues the numbers before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// It is the next one, or the first ever.
    Next,
    /// Numbers between it and those before are lost, or the two cannot be compared: a hole was not filled, or another
    /// epoch or another history of the same epoch begins.
    Broken,
    /// As [`Continuity::Broken`], and clients may have the number before this one from a history that has ended.
    /// Example: the ledger gave 6 to 9, was set back to 5, and gives 6 again. A client with cursor 5 may lack the old 6
    /// to 9, so cursor 5 must not mean "everything before the new 6".
    Apart,
    /// It came after changes with higher numbers.
    Late,
}

/// Where a client's cursor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// The client has everything up to and including this position.
    At(Pos),
    /// The client has seen numbers that have not come here yet.
    Ahead,
    /// It is unknown what the client lacks: its cursor is of another epoch, or from before the first number, or numbers
    /// are lost after it.
    Unknown,
}

#[derive(Clone, Debug)]
struct Run {
    /// The position at which the run begins.
    first: Pos,
    epoch: Epoch,
    /// The number at `first`.
    seq: u64,
    /// The lineage tag of its numbers.
    tag: Option<Tag>,
    /// The tag of the number before `seq`, if it is known.
    before: Option<Tag>,
    /// Whether the number grows with the position. In a run of late changes it does not, because they do not move the
    /// cursor.
    steps: bool,
    /// Whether a client with the number before `seq` may lack changes before `first` ([`Continuity::Apart`]).
    apart: bool,
    /// Whether the gap before the run was told with the cursor of the run's first change, and not with the cursor
    /// before that.
    gap_has_first: bool,
}

impl Run {
    /// The number at `pos`. This may be the position just before the run, because a run is recorded before the head
    /// moves.
    fn seq_at(&self, pos: Pos) -> u64 {
        if self.steps { self.seq + (pos + 1 - self.first) - 1 } else { self.seq }
    }

    /// The cursor that means "everything up to `pos`", for a position of the run, or the one before it.
    fn cursor_at(&self, pos: Pos) -> Cursor {
        if self.steps && pos < self.first {
            return self.cursor_before();
        }
        Cursor::new(self.epoch.clone(), self.seq_at(pos)).tagged(self.tag)
    }

    /// The cursor just before the run's first number.
    fn cursor_before(&self) -> Cursor {
        let seq = self.seq - 1;
        Cursor::new(self.epoch.clone(), seq).tagged(self.before.filter(|_| seq > 0))
    }

    /// Whether a client that has everything up to number `seq` lacks only changes in this run or after it.
    fn holds(&self, seq: u64) -> bool {
        seq >= self.seq || seq + 1 == self.seq && !self.apart
    }

    /// Whether the tag of a cursor of this epoch fits the tag that this run gives to the cursor's number. A cursor
    /// without a tag always fits. A cursor with a tag does not fit a number without one.
    fn agrees(&self, cursor: &Cursor) -> bool {
        let own = if cursor.seq < self.seq { self.before } else { self.tag };
        cursor.seq == 0 || cursor.tag.is_none() || cursor.tag == own
    }
}

/// The most runs that are remembered, at 56 bytes each. Beyond it the oldest run is forgotten, and cursors in it become
/// unknown; the ring is trimmed with it, see [`PositionMap::first_known`].
const MAX_RUNS: usize = 65_536;

/// The runs of one replay cache, oldest first.
#[derive(Debug, Default)]
pub struct PositionMap {
    runs: VecDeque<Run>,
    /// The index of the first run after the last break.
    unbroken: usize,
    /// How many of the runs are of late changes.
    late: usize,
    /// How often continuity was lost.
    breaks: u64,
}

/// Where everybody stands who was sent all that was recorded, and was told of a gap after it, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The last position that was recorded.
    pub head: Pos,
    /// The cursor that they may store.
    pub cursor: Cursor,
    /// How often continuity was lost up to now, in this process.
    pub breaks: u64,
}

impl PositionMap {
    /// Whether the change at `pos` just continues the last run, so that [`PositionMap::record`] has nothing to do.
    pub fn continues(&self, pos: Pos, cursor: &Cursor) -> bool {
        let continues = |run: &Run| {
            run.steps && run.seq_at(pos) == cursor.seq && run.tag == cursor.tag && run.epoch == cursor.epoch
        };
        self.runs.back().is_some_and(continues)
    }

    /// Records the number of the change at `pos`, the position after the last one recorded. `before` is the lineage tag
    /// of the number before it, if that is known.
    pub fn record(&mut self, pos: Pos, cursor: &Cursor, before: Option<Tag>, continuity: Continuity) {
        if continuity == Continuity::Next && self.continues(pos, cursor) && self.unbroken < self.runs.len() {
            return;
        }
        let last = self.runs.back().filter(|_| continuity == Continuity::Late);
        let run = match last {
            Some(last) if !last.steps && self.unbroken < self.runs.len() => return,
            Some(last) => {
                let Cursor { epoch, seq, tag } = last.cursor_at(pos - 1);
                Run { first: pos, epoch, seq, tag, before: None, steps: false, apart: false, gap_has_first: false }
            }
            None => {
                let Cursor { epoch, seq, tag } = cursor.clone();
                let apart = continuity == Continuity::Apart;
                Run { first: pos, epoch, seq, tag, before, steps: true, apart, gap_has_first: apart }
            }
        };
        if matches!(continuity, Continuity::Broken | Continuity::Apart) {
            self.lose();
        }
        self.push(run);
    }

    /// Continuity is lost, and the change at `pos`, the next one to be recorded, will follow `cursor`. `apart`: clients
    /// may have this cursor from a history that has ended ([`Continuity::Apart`]).
    pub fn go_on_after(&mut self, pos: Pos, cursor: &Cursor, apart: bool) {
        let Cursor { epoch, seq, tag } = cursor.clone();
        self.lose();
        let run = Run { first: pos, epoch, seq: seq + 1, tag, before: tag, steps: true, apart, gap_has_first: false };
        self.push(run);
    }

    /// Continuity is lost, and nothing is known of what comes next. No cursor can be located until the next change is
    /// recorded.
    pub fn lose(&mut self) {
        self.unbroken = self.runs.len();
        self.breaks += 1;
    }

    /// How often continuity was lost up to now.
    pub fn breaks(&self) -> u64 {
        self.breaks
    }

    /// The first position after the last break. `None` as long as nothing is known of what comes next.
    pub fn unbroken_from(&self) -> Option<Pos> {
        self.runs.get(self.unbroken).map(|run| run.first)
    }

    /// Where those stand who have everything up to `head`, the last position that was recorded. `None` as long as nothing
    /// is known of what comes next.
    pub fn standing(&self, head: Pos) -> Option<Standing> {
        let known = self.unbroken < self.runs.len();
        let cursor = self.cursor_told_before(head + 1).filter(|_| known)?;
        Some(Standing { head, cursor, breaks: self.breaks })
    }

    fn push(&mut self, run: Run) {
        self.late += usize::from(!run.steps);
        self.runs.push_back(run);
        if self.runs.len() > MAX_RUNS {
            let forgotten = self.runs.pop_front();
            self.late -= usize::from(forgotten.is_some_and(|run| !run.steps));
            self.unbroken = self.unbroken.saturating_sub(1);
        }
    }

    /// The first position whose number is known. Positions before it were forgotten, or nothing is recorded yet.
    pub fn first_known(&self) -> Option<Pos> {
        self.runs.front().map(|run| run.first)
    }

    /// The last run that begins at or before a position.
    fn run_of(&self, pos: Pos) -> Option<&Run> {
        let at = self.runs.partition_point(|run| run.first <= pos).checked_sub(1)?;
        self.runs.get(at)
    }

    /// The cursor that means "everything up to `pos`"; `None` as long as nothing was recorded. For a position that was
    /// forgotten, it is the cursor that means "nothing", with number 0.
    pub fn cursor_at(&self, pos: Pos) -> Option<Cursor> {
        if let Some(run) = self.run_of(pos) {
            return Some(run.cursor_at(pos));
        }
        let first = self.runs.front()?;
        Some(if pos + 1 == first.first { first.cursor_at(pos) } else { Cursor::new(first.epoch.clone(), 0) })
    }

    /// The number of the change at `pos`; `None` if it came late (its number is not kept here) or was forgotten.
    pub fn number_of(&self, pos: Pos) -> Option<Cursor> {
        self.run_of(pos).filter(|run| run.steps).map(|run| run.cursor_at(pos))
    }

    /// Whether the change at `pos` came late. False for a position that was forgotten.
    pub fn is_late(&self, pos: Pos) -> bool {
        self.late > 0 && self.run_of(pos).is_some_and(|run| !run.steps)
    }

    /// The last of these positions whose change came late.
    pub fn last_late(&self, mut positions: impl DoubleEndedIterator<Item = Pos>) -> Option<Pos> {
        if self.late == 0 {
            return None;
        }
        positions.rfind(|&pos| self.is_late(pos))
    }

    /// The last position after `after`, up to `upto`, whose change came late.
    pub fn last_late_in(&self, after: Pos, upto: Pos) -> Option<Pos> {
        if self.late == 0 || after >= upto {
            return None;
        }
        let (mut at, mut last) = (self.runs.partition_point(|run| run.first <= upto), upto);
        while last > after {
            at = at.checked_sub(1)?;
            let run = self.runs.get(at)?;
            if !run.steps {
                return Some(last);
            }
            last = run.first.checked_sub(1)?;
        }
        None
    }

    /// The cursor just before the change at `pos`, in that change's own numbering.
    pub fn cursor_before(&self, pos: Pos) -> Option<Cursor> {
        match self.run_of(pos) {
            Some(run) if run.steps && pos == run.first => Some(run.cursor_before()),
            Some(run) if run.steps => Some(run.cursor_at(pos - 1)),
            Some(run) => Some(run.cursor_at(pos)),
            None => self.cursor_at(pos.checked_sub(1)?),
        }
    }

    /// The cursor of a client that was told everything before the change at `pos`, including a gap right before it. If
    /// another history begins with that change, the gap was already told with the change's own cursor.
    pub fn cursor_told_before(&self, pos: Pos) -> Option<Cursor> {
        match self.run_of(pos) {
            Some(run) if run.gap_has_first && pos == run.first => Some(run.cursor_at(pos)),
            _ => self.cursor_before(pos),
        }
    }

    /// Whether a cursor's number was recorded before the last break. If the present history has not reached that
    /// number, the cursor belongs to a history that has ended.
    fn has_ended(&self, cursor: &Cursor) -> bool {
        let before = self.runs.iter().zip(self.runs.iter().skip(1)).take(self.unbroken);
        before.filter(|(run, _)| run.steps && run.epoch == cursor.epoch).any(|(run, next)| {
            let count = next.first - run.first;
            (run.seq..run.seq + count).contains(&cursor.seq) && run.agrees(cursor)
        })
    }

    /// Finds where a cursor lies. `head` is the last position that was recorded.
    pub fn locate(&self, cursor: &Cursor, head: Pos) -> Located {
        let unbroken = self.unbroken < self.runs.len();
        if !self.runs.back().is_some_and(|newest| unbroken && newest.epoch == cursor.epoch) {
            return Located::Unknown;
        }
        // Since the last break, numbers never fall from run to run, so a binary search finds the number.
        let last_of = |at: usize| self.runs.get(at + 1).map_or(head, |next| next.first - 1);
        let (mut low, mut high) = (self.unbroken, self.runs.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.runs[middle].seq_at(last_of(middle)) < cursor.seq { low = middle + 1 } else { high = middle }
        }
        // The first run that holds the number is the right one: late changes in the runs after it come after the
        // cursor.
        match self.runs.get(low) {
            None if self.has_ended(cursor) => Located::Unknown,
            None => Located::Ahead,
            Some(run) if run.steps && run.holds(cursor.seq) && run.agrees(cursor) => {
                Located::At(run.first - 1 + (cursor.seq - (run.seq - 1)))
            }
            Some(_) => Located::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(text: &str) -> Cursor {
        Cursor::parse(text).unwrap()
    }

    /// Numbers in the order they are recorded, each with how it continues.
    fn numbering(changes: &[(&str, Continuity)]) -> PositionMap {
        let mut numbering = PositionMap::default();
        for (pos, (text, continuity)) in (1..).zip(changes) {
            numbering.record(pos, &cursor(text), None, *continuity);
        }
        numbering
    }

    #[test]
    fn cursors_of_positions_and_back() {
        use Continuity::*;
        use Located::*;
        let plain = [("E.51", Next), ("E.52", Next), ("E.53", Next)];
        let late = [("E.51", Next), ("E.52", Next), ("E.50", Late), ("E.49", Late), ("E.53", Next), ("E.54", Next)];
        let hole = [("E.8", Next), ("E.9", Next), ("E.13", Broken), ("E.14", Next)];
        let filled_late = [("E.8", Next), ("E.10", Broken), ("E.9", Late), ("E.11", Next)];
        let epochs = [("E.8", Next), ("F.1", Broken), ("F.2", Next)];
        for (changes, cursors, located) in [
            (
                &plain[..],
                &["E.50", "E.51", "E.52", "E.53"][..],
                &[
                    ("E.49", Unknown),
                    ("E.50", At(0)),
                    ("E.51", At(1)),
                    ("E.53", At(3)),
                    ("E.54", Ahead),
                    ("F.51", Unknown),
                ][..],
            ),
            (
                &late,
                &["E.50", "E.51", "E.52", "E.52", "E.52", "E.53", "E.54"],
                &[
                    ("E.50", At(0)),
                    ("E.52", At(2)),
                    ("E.53", At(5)),
                    ("E.54", At(6)),
                    ("E.55", Ahead),
                    ("E.49", Unknown),
                ],
            ),
            (
                &hole,
                &["E.7", "E.8", "E.9", "E.13", "E.14"],
                &[("E.8", Unknown), ("E.9", Unknown), ("E.11", Unknown), ("E.12", At(2)), ("E.14", At(4))],
            ),
            (
                &filled_late,
                &["E.7", "E.8", "E.10", "E.10", "E.11"],
                &[("E.8", Unknown), ("E.9", At(1)), ("E.10", At(2)), ("E.11", At(4))],
            ),
            (
                &epochs,
                &["E.7", "E.8", "F.1", "F.2"],
                &[("E.8", Unknown), ("E.9", Unknown), ("F.0", At(1)), ("F.1", At(2)), ("F.3", Ahead)],
            ),
        ] {
            let numbering = numbering(changes);
            let head = changes.len() as Pos;
            let got: Vec<String> = (0..=head).map(|pos| numbering.cursor_at(pos).unwrap().to_string()).collect();
            assert_eq!(got, cursors, "{changes:?}");
            for (text, want) in located {
                assert_eq!(numbering.locate(&cursor(text), head), *want, "{text} in {changes:?}");
            }
        }
        assert_eq!(numbering(&late).number_of(3), None);
        assert_eq!(numbering(&late).number_of(5), Some(cursor("E.53")));
        let numbering = numbering(&hole);
        assert_eq!(numbering.cursor_before(3), Some(cursor("E.12")), "in the new run's numbers");
        assert_eq!(PositionMap::default().cursor_at(0), None);
        assert_eq!(PositionMap::default().locate(&cursor("E.1"), 0), Unknown);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_unknown() {
        let mut numbering = PositionMap::default();
        numbering.record(1, &cursor("E.1"), None, Continuity::Next);
        let last = 4 * MAX_RUNS as u64 - 1;
        for pos in 2..=last {
            let (seq, continuity) = if pos % 2 == 0 { (1, Continuity::Late) } else { (pos / 2 + 1, Continuity::Next) };
            numbering.record(pos, &Cursor { seq, ..cursor("E.1") }, None, continuity);
        }
        assert!(numbering.runs.len() <= MAX_RUNS);
        let first = numbering.first_known().unwrap();
        assert!(first > MAX_RUNS as u64 && !numbering.is_late(first - 2) && numbering.number_of(first - 2).is_none());
        assert_eq!(numbering.cursor_at(first - 2), Some(cursor("E.0")), "claims nothing");
        assert_eq!(numbering.locate(&cursor("E.1"), last), Located::Unknown);
        let newest = Cursor { seq: last / 2 + 1, ..cursor("E.1") };
        assert_eq!(numbering.cursor_at(last), Some(newest.clone()));
        assert_eq!(numbering.locate(&newest, last), Located::At(last));
    }

    #[test]
    fn tags_tell_the_histories_of_an_epoch_apart() {
        use Located::*;
        let mut numbering = PositionMap::default();
        let tag = |text| Tag::parse(text);
        for (pos, (text, before, continuity)) in (1..).zip([
            ("E.5.a", Some("f"), Continuity::Next),
            ("E.6.a", None, Continuity::Next),
            ("E.7.b", Some("a"), Continuity::Next),
            ("E.4.a", None, Continuity::Late),
            ("E.8.b", None, Continuity::Next),
        ]) {
            let cursor = cursor(text);
            numbering.record(pos, &cursor, before.and_then(tag).or(cursor.tag), continuity);
        }
        for (text, want) in [
            ("E.4.f", At(0)),
            ("E.4.a", Unknown),
            ("E.4", At(0)),
            ("E.6.a", At(2)),
            ("E.6.b", Unknown),
            ("E.7.b", At(3)),
            ("E.7.a", Unknown),
            ("E.8.b", At(5)),
            ("E.8", At(5)),
            ("E.9.a", Ahead),
        ] {
            assert_eq!(numbering.locate(&cursor(text), 5), want, "{text}");
        }
        let told: Vec<String> = (0..=5).map(|pos| numbering.cursor_at(pos).unwrap().to_string()).collect();
        let tagged = |number: &str, tag: u32| format!("E.{number}.{}", Tag::from_random(tag));
        let want = [("4", 15), ("5", 10), ("6", 10), ("7", 11), ("7", 11), ("8", 11)];
        assert_eq!(told, want.map(|(number, tag)| tagged(number, tag)));
        // The ledger is set back to 7, and gives 8 again.
        numbering.record(6, &cursor("E.8.c"), tag("b"), Continuity::Broken);
        for (text, want) in
            [("E.7.b", At(5)), ("E.8.b", Unknown), ("E.8.c", At(6)), ("E.6.a", Unknown), ("E.9.b", Ahead)]
        {
            assert_eq!(numbering.locate(&cursor(text), 6), want, "{text}");
        }
    }

    #[test]
    fn after_a_break_it_goes_on_where_it_is_told_to() {
        use Located::*;
        let mut numbering = numbering(&[("E.1.a", Continuity::Next), ("E.2.a", Continuity::Next)]);
        numbering.go_on_after(3, &cursor("E.9.b"), false);
        for (text, want) in [("E.2.a", Unknown), ("E.9.b", At(2)), ("E.9.a", Unknown), ("E.10.b", Ahead)] {
            assert_eq!(numbering.locate(&cursor(text), 2), want, "{text}");
        }
        numbering.record(3, &cursor("E.10.c"), Tag::parse("b"), Continuity::Next);
        assert_eq!(numbering.locate(&cursor("E.9.b"), 3), At(2));
        assert_eq!(numbering.locate(&cursor("E.10.c"), 3), At(3));
        assert_eq!(numbering.cursor_at(3), Some(cursor("E.10.c")));
        numbering.lose();
        assert_eq!(numbering.locate(&cursor("E.10.c"), 3), Unknown);
        assert_eq!(numbering.cursor_at(3), Some(cursor("E.10.c")), "who was told of the gap goes on from there");
        numbering.record(4, &cursor("E.11.c"), Tag::parse("c"), Continuity::Next);
        assert_eq!(numbering.locate(&cursor("E.10.c"), 4), At(3), "it turns out that nothing was missed");
        assert_eq!(numbering.locate(&cursor("E.9.b"), 4), Unknown);
    }
}
