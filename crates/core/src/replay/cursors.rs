//! Converts the positions of a replay cache into cursors, and cursors into positions.

use bugfeed_protocol::{BugId, Change, Cursor};

use super::{CursorPlace, Found, Pos, Recorder, Replay};
use crate::position_map::{Located, PositionMap, Standing};

impl Recorder {
    /// Continuity is lost, or nothing is recorded yet: the next change follows `cursor`. `apart`: clients may have this
    /// cursor from a history that has ended (see [`Continuity::Apart`](crate::position_map::Continuity::Apart)).
    pub fn go_on_after(&mut self, cursor: &Cursor, apart: bool) {
        self.numbering().go_on_after(self.tail.next, cursor, apart);
        self.next_cursor = Some(Cursor { seq: cursor.seq + 1, ..cursor.clone() });
    }

    /// Whether a number is the one that continues what was recorded last.
    pub fn expects(&self, cursor: &Cursor) -> bool {
        self.next_cursor.as_ref() == Some(cursor)
    }

    /// Continuity is lost, and nothing is known of what comes next. Until the next change is recorded, it is unknown
    /// where any cursor lies.
    pub fn lose(&mut self) {
        self.numbering().lose();
        self.next_cursor = None;
    }

    pub(super) fn numbering(&self) -> std::sync::RwLockWriteGuard<'_, PositionMap> {
        self.replay.numbering.write().expect("nobody panics holding it")
    }
}

impl Replay {
    /// The cursor that means "everything up to `pos`"; none as long as nothing was recorded.
    pub fn cursor_at(&self, pos: Pos) -> Option<Cursor> {
        self.numbering.read().expect("nobody panics holding it").cursor_at(pos)
    }

    /// The number of the change at `pos`; `None` if it came late.
    pub fn number_of(&self, pos: Pos) -> Option<Cursor> {
        self.numbering.read().expect("nobody panics holding it").number_of(pos)
    }

    fn is_late(&self, pos: Pos) -> bool {
        self.numbering.read().expect("nobody panics holding it").is_late(pos)
    }

    /// The change in the ring that has this number; `None` if it came late, is forgotten, or is of another history.
    pub fn change_at(&self, number: &Cursor) -> Option<Change> {
        let CursorPlace::InRing(pos) = self.place_of(number) else { return None };
        let held = pos >= self.start() && self.number_of(pos).is_some_and(|held| held.is_same(number));
        self.ring.block(pos.max(1)).filter(|_| held).map(|block| block.change(pos))
    }

    /// The position of the last of these changes that came late.
    pub fn last_late(&self, found: &[Found]) -> Option<Pos> {
        let positions = found.iter().map(|found| found.pos);
        self.numbering.read().expect("nobody panics holding it").last_late(positions)
    }

    /// Whether the newest change up to `upto` is lost for one of these bugs, so that no cursor can be told that claims
    /// it. Example: `upto` is 40; a bug has a change at position 10, and then one that came late at position 50. The
    /// newest-change table names 50, so 10 can be found only through the ring. Once the ring has been trimmed beyond
    /// 10, nothing is known of the change there, but the cursor of position 40 would claim it.
    pub fn newest_is_lost(&self, bugs: &[BugId], upto: Pos) -> bool {
        let (start, head) = (self.start(), self.head());
        let beyond = self.numbering.read().expect("nobody panics holding it").last_late(upto + 1..=head);
        // Late changes are rare, and the shard soon processes them, so mostly there is none.
        if beyond.is_none() {
            return false;
        }
        bugs.iter().any(|&bug| {
            let Some(mut pos) = self.newest_of(bug).map(|newest| newest.pos) else { return false };
            let mut came_late = false;
            while pos > upto && pos >= start {
                came_late |= self.is_late(pos);
                match self.back_from(pos) {
                    // The bug has no earlier change, unless the ring was trimmed meanwhile.
                    None => return came_late && pos < self.start(),
                    Some(back) => pos = back,
                }
            }
            came_late && pos < start
        })
    }

    /// The cursor just before the change at `pos`, in that change's own numbering.
    pub fn cursor_before(&self, pos: Pos) -> Option<Cursor> {
        self.numbering.read().expect("nobody panics holding it").cursor_before(pos)
    }

    /// The cursor of a client that was told everything before the change at `pos`, a gap right before it included.
    pub fn cursor_told_before(&self, pos: Pos) -> Option<Cursor> {
        self.numbering.read().expect("nobody panics holding it").cursor_told_before(pos)
    }

    /// Where those stand who have everything that was recorded. `None` as long as nothing is known of what comes next.
    pub fn standing(&self) -> Option<Standing> {
        let numbering = self.numbering.read().expect("nobody panics holding it");
        // A break is recorded before the change after it, so a head that is read now does not lie before any break.
        numbering.standing(self.head())
    }

    /// How often continuity was lost up to now.
    pub fn breaks(&self) -> u64 {
        self.numbering.read().expect("nobody panics holding it").breaks()
    }

    /// Whether nothing is missing of what was recorded from a time on. `after` is what [`Replay::before`] says of it.
    ///
    /// A change at that position that is in the ring was recorded before the time, so whatever this process missed before it
    /// was, too. Otherwise the time lies before the ring, and only a process that has everything from the first number on can
    /// tell.
    pub fn is_whole_after(&self, after: Pos) -> bool {
        let numbering = self.numbering.read().expect("nobody panics holding it");
        let Some(first) = numbering.unbroken_from() else { return false };
        let has_all = || self.floor() == 0 && numbering.cursor_before(1).is_some_and(|cursor| cursor.seq == 0);
        after >= first.max(self.start()) || first == 1 && has_all()
    }

    /// Where a client's cursor lies.
    pub fn place_of(&self, cursor: &Cursor) -> CursorPlace {
        // The head is read first: changes that are recorded after that can only make the cursor look further behind.
        let head = self.head();
        match self.numbering.read().expect("nobody panics holding it").locate(cursor, head) {
            Located::Unknown => CursorPlace::Unknown,
            Located::Ahead => CursorPlace::Ahead,
            Located::At(pos) if pos + 1 >= self.start() => CursorPlace::InRing(pos),
            Located::At(pos) if pos >= self.floor() => CursorPlace::BeforeRing(pos),
            Located::At(_) => CursorPlace::Unknown,
        }
    }
}
