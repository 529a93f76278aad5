//! One session: its bugs, and what it has yet to be sent.
//!
//! A session is *open* (everything up to the last update processed has been written) or *lagging* (its socket took no
//! more, and the backlog says how to go on). The shard drives it; this is its state and what keeps it small.

use std::io;

use bugfeed_protocol::{BugId, When};

use super::frame;
use super::replay::{Found, Pos};
use super::shard::{Tally, Work};
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
}

#[derive(Debug)]
pub(super) struct Session<P> {
    pub(super) peer: P,
    /// Ascending.
    pub(super) bugs: Vec<BugId>,
    pub(super) state: State,
    pub(super) next_ping_ms: u64,
    /// When the socket last took something that had to wait.
    pub(super) progress_ms: u64,
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
    /// Where the catch-up that was asked for goes on after `found`.
    pub(super) rest: Option<Rest>,
    /// `found` is the newest of each bug after this position: not worth keeping, it can be found again.
    pub(super) newest_from: Option<Pos>,
    /// Everything up to here has been sent, or is in the fields above.
    pub(super) behind: Pos,
    /// The connection waits for [`Peer::ready`].
    pub(super) busy: bool,
    /// Work that came while the session was lagging.
    pub(super) deferred: Option<Work>,
    /// End once all is written.
    pub(super) last: bool,
}

#[derive(Debug)]
pub(super) struct Rest {
    pub(super) bugs: Vec<BugId>,
    pub(super) upto: Pos,
    pub(super) after: Pos,
    pub(super) since: When,
}

impl<P: Peer> Session<P> {
    /// Waits until the socket takes more, with as little in memory as will do.
    pub(super) fn lag(&mut self, mut backlog: Box<Backlog>) {
        backlog.out.drain(..backlog.written);
        backlog.out.shrink_to_fit();
        backlog.written = 0;
        if let Some(from) = backlog.newest_from.take()
            && backlog.next < backlog.found.len()
        {
            let sent = backlog.next.checked_sub(1).map_or(from, |last| backlog.found[last].pos);
            backlog.behind = sent;
            backlog.found.clear();
        } else {
            backlog.found.drain(..backlog.next);
        }
        backlog.found.shrink_to_fit();
        backlog.next = 0;
        self.state = State::Lagging(backlog);
        self.peer.want_writable();
    }

    pub(super) fn end(&mut self) {
        self.state = State::Ended;
        self.peer.end();
    }

    pub(super) fn ping(&mut self, processed: Pos, tally: &mut Tally) {
        match write(&self.peer, &frame::PING_FRAME) {
            Ok(0 | 2) => {} // A socket that takes nothing will be found out by its next update.
            Ok(written) => {
                let out = frame::PING_FRAME[written..].to_vec();
                tally.lagged += 1;
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
