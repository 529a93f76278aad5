//! One session: its bugs, and what it has yet to be sent.
//!
//! A session is *open* (everything up to the last update processed has been written) or *lagging* (its socket took no
//! more, and the backlog says how to go on). The shard drives it; this is its state and what keeps it small.

use std::io;

use bugfeed_protocol::server::Notice;
use bugfeed_protocol::{BugId, Cursor, When};

use super::frame;
use super::input::{AHEAD_MS, Tally, Work};
use super::replay::{Found, Pos};
use super::subscriptions::Slot;

/// What a shard needs of a connection.
pub trait Peer {
    /// Writes what the socket takes now; [`io::ErrorKind::WouldBlock`] if that is nothing.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// The connection now has this slot.
    fn attached(&self, slot: Slot);
    /// Asks for an [`Input::Writable`](super::shard::Input::Writable) once the socket takes more.
    fn want_writable(&self);
    /// The work handed in last is done; the connection may read on.
    fn ready(&self);
    /// The connection shall end, and hand in its [`Input::Detach`](super::shard::Input::Detach).
    fn end(&self);
    /// When something was last read from the peer, in the clock that [`Shard::tick`](super::shard::Shard::tick) is given.
    fn heard_ms(&self) -> u64;
    /// Since when the peer owes the rest of a message it has begun, in the same clock.
    fn begun_ms(&self) -> Option<u64> {
        None
    }
}

#[derive(Debug)]
pub(super) struct Session<P> {
    pub(super) peer: P,
    /// Ascending.
    pub(super) bugs: Vec<BugId>,
    pub(super) state: State,
    /// What a client that said hello has.
    pub(super) modern: Option<Box<Modern>>,
    pub(super) next_ping_ms: u64,
    /// When the socket last took something that had to wait.
    pub(super) progress_ms: u64,
}

#[derive(Debug)]
pub(super) struct Modern {
    pub(super) heartbeat_ms: u64,
    pub(super) next_heartbeat_ms: u64,
    /// The client has seen everything up to here on another gateway: it is not sent again.
    pub(super) seen: Option<Seen>,
}

/// A cursor beyond what this shard has processed.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) cursor: Cursor,
    /// When the client said so.
    pub(super) told_ms: u64,
}

impl Seen {
    /// Whether what lies before it ought to have come. `current_ms`: since when the feed is current, if it is.
    fn is_over(&self, current_ms: Option<u64>, now_ms: u64) -> bool {
        current_ms.is_some_and(|current_ms| now_ms >= self.told_ms.max(current_ms) + AHEAD_MS)
    }
}

impl Modern {
    /// Whether the client has this one already.
    pub(super) fn has(&self, cursor: &Cursor) -> bool {
        self.seen.as_ref().is_some_and(|seen| cursor.seq <= seen.cursor.seq && cursor.epoch == seen.cursor.epoch)
    }

    /// Whether a change is none of those that lead to what the client has seen elsewhere: it came late, or is of a
    /// ledger before.
    pub(super) fn is_beside(&self, number: Option<&Cursor>) -> bool {
        self.seen.as_ref().is_some_and(|seen| number.is_none_or(|number| number.epoch != seen.cursor.epoch))
    }

    /// What the client may store, given that of a session that has just been sent everything.
    pub(super) fn cursor<'a>(&'a self, head: Option<&'a Cursor>) -> Option<&'a Cursor> {
        let reached = |seen: &Cursor| head.is_some_and(|head| head.epoch == seen.epoch && head.seq >= seen.seq);
        self.seen.as_ref().map(|seen| &seen.cursor).filter(|seen| !reached(seen)).or(head)
    }
}

#[derive(Debug)]
pub(super) enum State {
    Open,
    Lagging(Box<Backlog>),
    Ended,
}

/// What a session has yet to be sent, in this order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Frames begun or about to be written, from `written` on.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// Changes found by a catch-up, from `next` on.
    pub(super) found: Vec<Found>,
    pub(super) next: usize,
    /// The position of the last change of a catch-up that was put into `out`.
    pub(super) sent: Pos,
    /// `found` was cut; after it, the catch-up that was asked for goes on with what is found after `sent`.
    pub(super) cut: bool,
    /// The catch-up that was asked for.
    pub(super) asked: Option<Asked>,
    /// Until the second position is sent, the cursor told is that of the first: a change there came late, and stands for
    /// ones of the same bug that came earlier with later numbers.
    pub(super) hold: Option<(Pos, Pos)>,
    /// `found` is the newest of each bug after this position: not worth keeping, it can be found again.
    pub(super) newest_from: Option<Pos>,
    /// The socket has taken everything so far, and the session lags only because others of the shard come first: nothing
    /// may be left out for it.
    pub(super) willing: bool,
    /// Everything up to here has been sent, or is in the fields above.
    pub(super) behind: Pos,
    /// Continuity was lost: before anything else the client must be told.
    pub(super) gap: bool,
    /// The connection waits for [`Peer::ready`].
    pub(super) busy: bool,
    /// Work that came while the session was lagging.
    pub(super) deferred: Option<Work>,
    /// The work waits for this gateway, not for the socket: until [`Input::Hold`](super::shard::Input::Hold) ends.
    pub(super) parked: bool,
    /// End once all is written.
    pub(super) end: bool,
}

/// This many changes of a catch-up are kept for a session whose socket takes no more; the rest is looked up again.
pub(super) const KEEP: usize = 2048;

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) bugs: Vec<BugId>,
    pub(super) upto: Pos,
    pub(super) after: Pos,
    pub(super) since: Option<When>,
    /// Changes that may be found one by one; 0 asks for the newest of each bug.
    pub(super) limit: usize,
}

/// What a shard's sweep over its sessions knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepAlive<'a> {
    /// The position of the last update processed.
    pub(super) processed: Pos,
    /// The cursor of a session that has been sent everything.
    pub(super) head: Option<&'a Cursor>,
    /// Since when the feed is current.
    pub(super) current_ms: Option<u64>,
    /// Whether nothing can arrive just now.
    pub(super) paused: bool,
    /// The frame that tells a gap.
    pub(super) gap: &'a [u8],
    pub(super) now_ms: u64,
}

impl<P: Peer> Session<P> {
    /// Waits until the socket takes more, with as little in memory as will do.
    pub(super) fn lag(&mut self, mut backlog: Box<Backlog>) {
        backlog.out.drain(..backlog.written);
        backlog.out.shrink_to_fit();
        backlog.written = 0;
        backlog.found.drain(..backlog.next);
        backlog.next = 0;
        match backlog.newest_from.take() {
            Some(from) if !backlog.found.is_empty() => {
                backlog.behind = from.max(backlog.sent);
                backlog.found.clear();
            }
            _ if backlog.found.len() > KEEP => {
                backlog.found.truncate(KEEP);
                backlog.cut = true;
            }
            _ => {}
        }
        backlog.found.shrink_to_fit();
        self.state = State::Lagging(backlog);
        self.peer.want_writable();
    }

    pub(super) fn end(&mut self) {
        self.state = State::Ended;
        self.peer.end();
    }

    /// Sends a modern session its heartbeat when it is due, and tells it of a gap when what it has seen elsewhere does
    /// not come here. `heartbeat` is the frame for all whose cursor is the head, made when first needed.
    pub(super) fn keep_alive(&mut self, due: &KeepAlive<'_>, heartbeat: &mut Vec<u8>, tally: &mut Tally) {
        let KeepAlive { processed, head, current_ms, paused, gap, now_ms } = *due;
        let Some(modern) = &mut self.modern else { return };
        if let Some(seen) = &modern.seen {
            if head.is_some_and(|head| head.epoch == seen.cursor.epoch && head.seq >= seen.cursor.seq) {
                modern.seen = None;
            } else if seen.is_over(current_ms, now_ms) {
                modern.seen = None;
                tally.gaps += 1;
                return self.tell_gap(gap, processed, now_ms);
            }
        }
        if now_ms < modern.next_heartbeat_ms {
            return;
        }
        modern.next_heartbeat_ms = now_ms + modern.heartbeat_ms;
        if self.bugs.is_empty() {
            // It may be about to resume from a cursor that it must not yet exchange for this one.
            let mut frame = Vec::new();
            frame::push_text(&mut frame, &Notice::Heartbeat { cursor: None, paused }.encode());
            return self.write_or_lag(&frame, processed, now_ms, tally);
        }
        if let Some(seen) = &modern.seen {
            let mut frame = Vec::new();
            frame::push_text(&mut frame, &Notice::Heartbeat { cursor: Some(&seen.cursor), paused }.encode());
            return self.write_or_lag(&frame, processed, now_ms, tally);
        }
        if heartbeat.is_empty() {
            frame::push_text(heartbeat, &Notice::Heartbeat { cursor: head, paused }.encode());
        }
        self.write_or_lag(heartbeat, processed, now_ms, tally);
    }

    /// Writes a gap notice to an open session; where there is no room, it is the first thing written later.
    pub(super) fn tell_gap(&mut self, frame: &[u8], processed: Pos, now_ms: u64) {
        match write(&self.peer, frame) {
            Ok(written) if written == frame.len() => {}
            Ok(written) => {
                let out = if written > 0 { frame[written..].to_vec() } else { Vec::new() };
                self.progress_ms = now_ms;
                self.lag(Box::new(Backlog { out, gap: written == 0, behind: processed, ..Backlog::default() }));
            }
            Err(_) => self.end(),
        }
    }

    /// Writes a frame to an open session. One that finds no room at all is left out; one that was begun is finished
    /// before anything else, which makes the session lag behind `processed`.
    pub(super) fn write_or_lag(&mut self, frame: &[u8], processed: Pos, now_ms: u64, tally: &mut Tally) {
        match write(&self.peer, frame) {
            Ok(written) if written == 0 || written == frame.len() => {}
            Ok(written) => {
                tally.lagged += 1;
                self.progress_ms = now_ms;
                let out = frame[written..].to_vec();
                self.lag(Box::new(Backlog { out, behind: processed, ..Backlog::default() }));
            }
            Err(_) => self.end(),
        }
    }
}

/// [`Peer::try_write`] with "takes nothing now" as 0.
pub(super) fn write<P: Peer>(peer: &P, bytes: &[u8]) -> io::Result<usize> {
    match peer.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}
