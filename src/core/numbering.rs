//! How the positions of a replay cache and the numbers of ledgers correspond.
//!
//! Goes in: the number of each change as it is recorded, and whether it continues what came before. Comes out: the
//! cursor of a position, the position of a cursor, and an honest "cannot tell". Positions are dense; numbers may begin
//! anywhere, skip, or belong to another ledger, so the correspondence is a list of runs.

use bugfeed_protocol::{Cursor, Epoch};

use super::replay::Pos;

/// How a change's number continues those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// It is the next one, or the first ever.
    Next,
    /// Numbers between it and those before are lost, or cannot be compared: a hole that was not filled, or another epoch.
    Broken,
    /// It should have come before others that are recorded already.
    Late,
}

/// Where a client's cursor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// Everything up to and including this position is what the client has.
    At(Pos),
    /// The client has seen numbers that have not come here yet.
    Ahead,
    /// What lies between cannot be told: another epoch, before the beginning, or across lost numbers.
    Unknown,
}

#[derive(Clone, Debug)]
struct Run {
    /// The position it begins at.
    first: Pos,
    epoch: Epoch,
    /// The number at `first`.
    seq: u64,
    /// Whether the number grows with the position. A late change does not advance the cursor.
    steps: bool,
}

impl Run {
    fn seq_at(&self, pos: Pos) -> u64 {
        // `pos` may be one before the run: it is recorded before the head moves.
        if self.steps { self.seq + (pos + 1 - self.first) - 1 } else { self.seq }
    }
}

/// Runs that are remembered; beyond it the oldest is forgotten and what lay in it becomes unknown.
const MAX_RUNS: usize = 256;

/// The runs of one cache.
#[derive(Debug, Default)]
pub struct Numbering {
    runs: Vec<Run>,
    /// The first run of those without a break between them.
    unbroken: usize,
}

impl Numbering {
    /// Whether the change at `pos` needs [`Numbering::record`]: not if it just continues the last run.
    pub fn continues(&self, pos: Pos, cursor: &Cursor) -> bool {
        let continues = |run: &Run| run.steps && run.seq_at(pos) == cursor.seq && run.epoch == cursor.epoch;
        self.runs.last().is_some_and(continues)
    }

    /// Records the number of the change at `pos`, the position after the last one recorded.
    pub fn record(&mut self, pos: Pos, cursor: &Cursor, continuity: Continuity) {
        if continuity == Continuity::Next && self.continues(pos, cursor) {
            return;
        }
        let before = self.runs.last().filter(|_| continuity == Continuity::Late);
        let run = match before {
            Some(last) if !last.steps => return,
            Some(last) => Run { first: pos, epoch: last.epoch.clone(), seq: last.seq_at(pos - 1), steps: false },
            None => Run { first: pos, epoch: cursor.epoch.clone(), seq: cursor.seq, steps: true },
        };
        if continuity == Continuity::Broken {
            self.unbroken = self.runs.len();
        }
        self.runs.push(run);
        if self.runs.len() > MAX_RUNS {
            self.runs.remove(0);
            self.unbroken = self.unbroken.saturating_sub(1);
        }
    }

    /// The cursor that means "everything up to `pos`"; none as long as nothing was recorded.
    pub fn cursor_at(&self, pos: Pos) -> Option<Cursor> {
        let at = self.runs.partition_point(|run| run.first <= pos);
        let Some(run) = at.checked_sub(1).and_then(|at| self.runs.get(at)) else {
            return self.runs.first().map(|run| Cursor::new(run.epoch.clone(), run.seq - 1));
        };
        Some(Cursor::new(run.epoch.clone(), run.seq_at(pos)))
    }

    /// The number of the change at `pos`; none of one that came late, which has a number but does not say so here.
    pub fn number_of(&self, pos: Pos) -> Option<Cursor> {
        let at = self.runs.partition_point(|run| run.first <= pos).checked_sub(1)?;
        let run = self.runs.get(at).filter(|run| run.steps)?;
        Some(Cursor::new(run.epoch.clone(), run.seq_at(pos)))
    }

    /// The last of these positions whose change came late.
    pub fn last_late(&self, mut positions: impl DoubleEndedIterator<Item = Pos>) -> Option<Pos> {
        if self.runs.iter().all(|run| run.steps) {
            return None;
        }
        positions.rfind(|&pos| self.number_of(pos).is_none())
    }

    /// The cursor just before the change at `pos`, in that change's own numbering.
    pub fn cursor_before(&self, pos: Pos) -> Option<Cursor> {
        let at = self.runs.partition_point(|run| run.first <= pos).checked_sub(1)?;
        let run = &self.runs[at];
        let seq = if run.steps { run.seq_at(pos) - 1 } else { run.seq };
        Some(Cursor::new(run.epoch.clone(), seq))
    }

    /// Finds a cursor, given the last position recorded.
    pub fn locate(&self, cursor: &Cursor, head: Pos) -> Located {
        let unbroken = &self.runs[self.unbroken.min(self.runs.len())..];
        // The first that holds the number: what came late after it must be seen as lying after it.
        for (at, run) in unbroken.iter().enumerate() {
            let last = unbroken.get(at + 1).map_or(head, |next| next.first - 1);
            let holds = run.steps && (run.seq - 1..=run.seq_at(last)).contains(&cursor.seq);
            if holds && run.epoch == cursor.epoch {
                return Located::At(run.first - 1 + (cursor.seq - (run.seq - 1)));
            }
        }
        match unbroken.last() {
            Some(run) if run.epoch == cursor.epoch && cursor.seq > run.seq_at(head) => Located::Ahead,
            _ => Located::Unknown,
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
    fn numbering(changes: &[(&str, Continuity)]) -> Numbering {
        let mut numbering = Numbering::default();
        for (pos, (text, continuity)) in (1..).zip(changes) {
            numbering.record(pos, &cursor(text), *continuity);
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
        assert_eq!(Numbering::default().cursor_at(0), None);
        assert_eq!(Numbering::default().locate(&cursor("E.1"), 0), Unknown);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_unknown() {
        let mut numbering = Numbering::default();
        numbering.record(1, &cursor("E.1"), Continuity::Next);
        for pos in 2..5000 {
            let (seq, continuity) = if pos % 2 == 0 { (1, Continuity::Late) } else { (pos / 2 + 1, Continuity::Next) };
            numbering.record(pos, &Cursor { seq, ..cursor("E.1") }, continuity);
        }
        assert!(numbering.runs.len() <= MAX_RUNS);
        assert_eq!(numbering.locate(&cursor("E.1"), 4999), Located::Unknown);
        assert_eq!(numbering.locate(&cursor("E.2500"), 4999), Located::At(4999));
    }
}
