//! One session: its bugs, how far its client is, and whether it lags.
//!
//! A session is *open* (everything up to the last update processed has been written) or *lagging* (its socket took no
//! more, and its [`Backlog`] says how to go on). The shard drives a session; this module holds its state and keeps that
//! small.

use std::io;

use bugfeed_protocol::client::WhichBugs;
use bugfeed_protocol::server::Notice;
use bugfeed_protocol::{BugId, Cursor};

use super::backlog::{Backlog, Phase, assert_may_end};
use super::frame;
use super::input::{AHEAD_MS, Tally};
use super::replay::Pos;
use super::subscriptions::Slot;

/// What a shard needs of a connection.
pub trait Peer {
    /// Writes what the socket takes now. Returns how many bytes that is, or [`io::ErrorKind::WouldBlock`] if it takes
    /// none.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// The connection now has this slot.
    fn attached(&self, slot: Slot);
    /// Asks for an [`Input::Writable`](super::shard::Input::Writable) once the socket takes more bytes.
    fn want_writable(&self);
    /// The work that was handed in last is done, so the connection may read on.
    fn ready(&self);
    /// The connection shall end, and hand in its [`Input::Detach`](super::shard::Input::Detach).
    fn end(&self);
    /// When something was last read from the peer, in the clock that [`Shard::tick`](super::shard::Shard::tick) is given.
    fn heard_ms(&self) -> u64;
    /// Whether this is no socket, but a buffer, out of which messages are taken and close frames are not.
    fn is_buffered(&self) -> bool {
        false
    }
    /// When the peer began a message that is not complete yet, in the same clock; `None` if there is no such message.
    fn begun_ms(&self) -> Option<u64> {
        None
    }
}

#[derive(Debug)]
pub(super) struct Session<P> {
    pub(super) peer: P,
    /// The single bugs that the session watches, ascending.
    pub(super) bugs: Vec<BugId>,
    pub(super) state: State,
    /// The state of the modern protocol, of a client that said hello.
    pub(super) modern: Option<Box<Modern>>,
    pub(super) next_ping_ms: u64,
    /// When the socket last took bytes that had to wait for it.
    pub(super) progress_ms: u64,
}

#[derive(Debug)]
pub(super) struct Modern {
    pub(super) heartbeat_ms: u64,
    pub(super) next_heartbeat_ms: u64,
    /// What the client already has from another gateway, if this gateway has less. It is not sent again.
    pub(super) watermark: Option<Watermark>,
    /// Whether the session watches all bugs of the feed.
    pub(super) all: bool,
}

/// How far a client is that has seen more at another gateway than this shard has processed.
#[derive(Debug)]
pub(super) struct Watermark {
    /// The client has every change up to this cursor.
    pub(super) cursor: Cursor,
    /// When the client said so.
    pub(super) told_ms: u64,
}

impl Watermark {
    /// Whether everything up to the watermark should have come here by now. `current_ms`: since when the feed is
    /// current, if it is.
    fn is_overdue(&self, current_ms: Option<u64>, now_ms: u64) -> bool {
        current_ms.is_some_and(|current_ms| now_ms >= self.told_ms.max(current_ms) + AHEAD_MS)
    }

    /// Whether this gateway is as far as the client. `head` is the cursor of a session that has been sent everything.
    pub(super) fn is_reached(&self, head: Option<&Cursor>) -> bool {
        head.is_some_and(|head| head.epoch == self.cursor.epoch && head.seq >= self.cursor.seq)
    }
}

impl Modern {
    /// Whether the client already has the change with this number, from another gateway.
    pub(super) fn has(&self, number: &Cursor) -> bool {
        let covers = |mark: &Watermark| number.seq <= mark.cursor.seq && number.epoch == mark.cursor.epoch;
        self.watermark.as_ref().is_some_and(covers)
    }

    /// Whether the watermark says nothing of a change: the change came late and so has no number, or its number is of
    /// another epoch.
    pub(super) fn cannot_tell(&self, number: Option<&Cursor>) -> bool {
        let other = |mark: &Watermark| number.is_none_or(|number| number.epoch != mark.cursor.epoch);
        self.watermark.as_ref().is_some_and(other)
    }

    /// The cursor that the client may store. `head` is the cursor of a session that has been sent everything.
    pub(super) fn cursor<'a>(&'a self, head: Option<&'a Cursor>) -> Option<&'a Cursor> {
        self.watermark.as_ref().filter(|mark| !mark.is_reached(head)).map(|mark| &mark.cursor).or(head)
    }
}

#[derive(Debug)]
pub(super) enum State {
    /// Everything up to the last update processed has been written.
    Open,
    /// Something has yet to be written.
    Lagging(Box<Backlog>),
    /// Nothing more is written, and the connection was told to end.
    Ended,
}

/// What [`Session::keep_alive`] needs of the shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepAlive<'a> {
    /// The position of the last update processed.
    pub(super) processed: Pos,
    /// The cursor of a session that has been sent everything.
    pub(super) head: Option<&'a Cursor>,
    /// Since when the feed is current, if it is.
    pub(super) current_ms: Option<u64>,
    /// Whether nothing can arrive just now.
    pub(super) paused: bool,
    /// The frame that tells a gap.
    pub(super) gap: &'a [u8],
    pub(super) now_ms: u64,
}

impl<P> Session<P> {
    /// Whether the session watches all bugs of the feed.
    pub(super) fn watches_all(&self) -> bool {
        self.modern.as_ref().is_some_and(|modern| modern.all)
    }

    pub(super) fn watches_nothing(&self) -> bool {
        self.bugs.is_empty() && !self.watches_all()
    }

    /// How many subscriptions the session has; all bugs count as one.
    pub(super) fn count(&self) -> usize {
        self.bugs.len() + usize::from(self.watches_all())
    }

    /// Whose changes the session is sent.
    pub(super) fn watched(&self) -> WhichBugs {
        if self.watches_all() { WhichBugs::All } else { WhichBugs::These(self.bugs.clone()) }
    }
}

impl<P: Peer> Session<P> {
    /// Makes the session wait until its socket takes more, and frees the memory that it does not need meanwhile.
    // Not inlined into the loops that write to open sessions.
    #[inline(never)]
    pub(super) fn lag(&mut self, mut backlog: Box<Backlog>) {
        backlog.compact();
        self.state = State::Lagging(backlog);
        self.peer.want_writable();
    }

    /// Everything has been sent.
    pub(super) fn open(&mut self, backlog: &Backlog) {
        backlog.assert_sent();
        self.state = State::Open;
    }

    pub(super) fn end(&mut self) {
        match &self.state {
            State::Open => assert_may_end(None),
            State::Lagging(backlog) => assert_may_end(Some(backlog)),
            State::Ended => debug_assert!(false, "a session ends once"),
        }
        self.state = State::Ended;
        self.peer.end();
    }

    /// Sends a modern session its heartbeat when it is due. If the changes that its client has seen at another gateway
    /// do not come here in time, tells it a gap instead. `heartbeat` is the frame for all sessions whose cursor is the
    /// head; it is encoded when it is first needed.
    pub(super) fn keep_alive(&mut self, due: &KeepAlive<'_>, heartbeat: &mut Vec<u8>, tally: &mut Tally) {
        let KeepAlive { processed, head, current_ms, paused, gap, now_ms } = *due;
        let Some(modern) = &mut self.modern else { return };
        if let Some(mark) = &modern.watermark {
            if mark.is_reached(head) {
                modern.watermark = None;
            } else if mark.is_overdue(current_ms, now_ms) {
                modern.watermark = None;
                tally.gaps += 1;
                return self.tell_gap(gap, processed, now_ms);
            }
        }
        if now_ms < modern.next_heartbeat_ms {
            return;
        }
        modern.next_heartbeat_ms = now_ms + modern.heartbeat_ms;
        if self.bugs.is_empty() && !modern.all {
            // The client may be about to resume from a cursor of its own, which it must not replace by this one yet.
            let mut frame = Vec::new();
            frame::push_text(&mut frame, &Notice::Heartbeat { cursor: None, paused }.encode());
            return self.write_or_lag(&frame, processed, now_ms, tally);
        }
        if let Some(mark) = &modern.watermark {
            let mut frame = Vec::new();
            frame::push_text(&mut frame, &Notice::Heartbeat { cursor: Some(&mark.cursor), paused }.encode());
            return self.write_or_lag(&frame, processed, now_ms, tally);
        }
        if heartbeat.is_empty() {
            frame::push_text(heartbeat, &Notice::Heartbeat { cursor: head, paused }.encode());
        }
        self.write_or_lag(heartbeat, processed, now_ms, tally);
    }

    /// Writes a gap notice to an open session. If the socket takes nothing, the notice is the first thing that is
    /// written later.
    pub(super) fn tell_gap(&mut self, frame: &[u8], processed: Pos, now_ms: u64) {
        match write(&self.peer, frame) {
            Ok(written) if written == frame.len() => {}
            Ok(written) => {
                self.progress_ms = now_ms;
                self.lag(match written {
                    0 => Backlog::new(Phase::GapOwed, Vec::new()),
                    _ => Backlog::new(Phase::behind(processed), frame[written..].to_vec()),
                });
            }
            Err(_) => self.end(),
        }
    }

    /// Writes a frame to an open session. If the socket takes nothing, the frame is left out. If it takes a part, the
    /// rest is written before anything else, and the session lags behind `processed`.
    pub(super) fn write_or_lag(&mut self, frame: &[u8], processed: Pos, now_ms: u64, tally: &mut Tally) {
        match write(&self.peer, frame) {
            Ok(written) if written == 0 || written == frame.len() => {}
            Ok(written) => {
                tally.lagged += 1;
                self.progress_ms = now_ms;
                self.lag(Backlog::new(Phase::behind(processed), frame[written..].to_vec()));
            }
            Err(_) => self.end(),
        }
    }
}

/// [`Peer::try_write`], but a socket that takes nothing now is 0 and no error.
pub(super) fn write<P: Peer>(peer: &P, bytes: &[u8]) -> io::Result<usize> {
    match peer.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}
