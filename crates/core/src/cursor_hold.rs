//! Which cursor is told with a change of a conflated batch, while a late change is among those yet to be sent.
//!
//! Goes in: the changes that were found, in order of positions. Comes out: the cursor to tell with each. Sessions and
//! endpoints share this rule.

use bugfeed_protocol::Cursor;

use super::replay::{Found, Pos, Replay};

/// A hold on the cursor that is told with the changes of a batch.
///
/// Why: a cursor claims that its client has every change with a number up to it. The newest change of a bug may have
/// come late: it has a low number, but lies behind changes with higher numbers. If only the newest change of that bug
/// is sent, it replaces those others, and until it is sent no cursor may claim them. Example: changes 7, 8 and 9 were
/// recorded in the order 8, 9, 7, and 8 and 7 are of one bug. Only 9 and 7 are sent. With 9, the client must not be
/// told cursor 9: it has nothing of that bug yet, and a gateway to which 7 came in time would send it nothing after 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CursorHold {
    /// The cursor that is told is the one of this position.
    pub(super) at: Pos,
    /// Whether the client was told a gap right after that position. If so, it knows the gap's cursor, and a cursor
    /// below that one would be a step back.
    pub(super) gap_told: bool,
    /// The position of the last change that came late. From it on, each change is told with its own cursor.
    pub(super) until: Pos,
}

impl CursorHold {
    /// Holds the cursor back at `from`, or where it is held back already, until the last of these changes that came late
    /// is sent. `gap_told`: a gap right after `from`, if there is one, was told.
    pub(super) fn over(
        replay: &Replay,
        found: &[Found],
        held: Option<CursorHold>,
        from: Pos,
        gap_told: bool,
    ) -> Option<CursorHold> {
        CursorHold::until(replay.last_late(found), held, from, gap_told)
    }

    /// The same, where the position of the last change that came late is known. It may be of a change that is not sent,
    /// because a newer one replaces it.
    pub(super) fn until(
        last_late: Option<Pos>,
        held: Option<CursorHold>,
        from: Pos,
        gap_told: bool,
    ) -> Option<CursorHold> {
        let until = last_late?;
        Some(CursorHold { until, ..held.unwrap_or(CursorHold { at: from, gap_told, until }) })
    }

    /// The cursor that is told with the change at `pos` of a batch with this hold.
    pub(super) fn cursor(hold: Option<CursorHold>, replay: &Replay, pos: Pos) -> Option<Cursor> {
        match hold {
            Some(hold) if pos >= hold.until => replay.cursor_at(pos),
            Some(CursorHold { at, gap_told: true, .. }) => replay.cursor_told_before(at + 1),
            Some(CursorHold { at, .. }) => replay.cursor_before(at + 1),
            None => replay.cursor_at(pos),
        }
    }
}
