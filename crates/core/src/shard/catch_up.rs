//! How a shard works off the backlog of a lagging session: one step after the other, until the socket takes no more.
//!
//! Goes in: a [`Backlog`]. Comes out: bytes to the session's socket, and a session that is open, lagging or ended. Each
//! phase of the backlog has one method here, which ends with the next phase. Never waits, and never gives one session
//! more than its turn.

use std::ops::ControlFlow;

use bugfeed_protocol::BugId;
use bugfeed_protocol::client::WhichBugs;

use super::{PIECE, PIECES, Shard};
use crate::backlog::{Backlog, Batch, Phase, Query, Request};
use crate::cursor_hold::CursorHold;
use crate::frame;
use crate::replay::{Pos, Wanted};
use crate::session::{Peer, State, write};
use crate::subscriptions::Slot;

/// Why the shard leaves a session's backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Everything is sent: the session is open.
    Sent,
    /// The session is over.
    Ended,
    /// The socket takes no more.
    Backpressure,
    /// The socket may take more, but it is the turn of other sessions of the shard.
    Yielded,
    /// The next command cannot be answered before it is known whether this gateway missed changes.
    AwaitsFeed,
}

/// What was found in the replay cache.
#[derive(Debug)]
pub(super) struct LookUp {
    pub(super) query: Query,
    pub(super) batch: Batch,
    /// More was found than the query's limit, so these are only the newest changes of each bug.
    pub(super) conflated: bool,
    /// A change is not known any more that every cursor would claim
    /// ([`Replay::newest_is_lost`](crate::replay::Replay::newest_is_lost)): the client is told a gap instead.
    pub(super) lost: bool,
}

impl LookUp {
    /// A position before the first change that is sent, of a look-up by date; `None` if nothing was found.
    pub(super) fn begins_after(&self) -> Option<Pos> {
        let before_first = self.batch.found.first().map(|found| found.pos - 1);
        let rest = (self.batch.searched < self.query.upto).then_some(self.batch.searched);
        match self.query.bugs {
            WhichBugs::These(_) => before_first,
            // Of all bugs, every change after the date is sent, so there is no need to look for the first.
            WhichBugs::All => before_first.or(rest).map(|pos| pos.min(self.query.after)),
        }
    }

    pub(super) fn into_phase(self) -> Phase {
        let LookUp { query, batch, lost, .. } = self;
        if lost { Phase::GapOwed } else { Phase::CatchUp { query, batch } }
    }
}

impl<P: Peer> Shard<P> {
    /// Works off a session's backlog, and leaves the session open, lagging or ended.
    pub(super) fn work_off(&mut self, slot: Slot, mut backlog: Box<Backlog>) -> Stop {
        let stop = match self.steps(slot, &mut backlog) {
            ControlFlow::Break(stop) => stop,
            ControlFlow::Continue(()) => Stop::Yielded,
        };
        let session = &mut self.sessions[slot as usize];
        match stop {
            Stop::Sent => session.open(&backlog),
            Stop::Backpressure | Stop::Yielded => session.lag(backlog),
            Stop::AwaitsFeed => session.state = State::Lagging(backlog),
            Stop::Ended => {
                session.state = State::Lagging(backlog);
                session.end();
            }
        }
        stop
    }

    /// Takes as many steps as one session gets at a time. Each step writes what is encoded, or goes on to another
    /// phase.
    fn steps(&mut self, slot: Slot, backlog: &mut Backlog) -> ControlFlow<Stop> {
        backlog.defer_again();
        self.compare_lagging(slot, backlog);
        for _ in 0..PIECES {
            self.encode_found(slot, backlog);
            if !backlog.outgoing.is_empty() {
                self.write_outgoing(slot, backlog)?;
                continue;
            }
            match *backlog.phase() {
                Phase::Closing => return ControlFlow::Break(Stop::Ended),
                Phase::GapOwed => self.encode_gap(slot, backlog),
                Phase::Behind { after, hold } if after < self.processed => {
                    self.look_up_missed(slot, after, hold, backlog);
                }
                Phase::Behind { after, hold } => {
                    assert!(after == self.processed && hold.is_none(), "not as far as its shard: {backlog:?}");
                    self.next_request(slot, backlog)?;
                }
                // The next page was looked up, and perhaps nothing was found in it.
                Phase::CatchUp { ref query, .. } if query.bugs.is_all() => {}
                Phase::CatchUp { .. } | Phase::Cut { .. } | Phase::Conflation { .. } => {
                    unreachable!("a batch that is not all encoded leaves bytes to write: {backlog:?}")
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// If the client has numbers of another history, it is told a gap before anything else. Otherwise it would take
    /// this history for the continuation of its own.
    fn compare_lagging(&mut self, slot: Slot, backlog: &mut Backlog) {
        if !self.is_on_fork(slot) {
            return;
        }
        self.tally.gaps += u64::from(!matches!(backlog.phase(), Phase::GapOwed));
        self.forget_watermark(slot);
        backlog.owe_gap();
    }

    fn forget_watermark(&mut self, slot: Slot) {
        if let Some(modern) = &mut self.sessions[slot as usize].modern {
            modern.watermark = None;
        }
    }

    /// Encodes the changes that were found, up to about a [`PIECE`].
    fn encode_found(&mut self, slot: Slot, backlog: &mut Backlog) {
        while backlog.outgoing.left().len() < PIECE {
            let Some((batch, out)) = backlog.batch_and_buffer() else { return };
            let Some(&found) = batch.found.get(batch.next) else {
                if self.end_batch(slot, backlog) {
                    return;
                }
                continue;
            };
            batch.next += 1;
            batch.sent = found.pos;
            match &self.sessions[slot as usize].modern {
                None => frame::push_update(out, found.change),
                Some(modern) => {
                    if self.replay.number_of(found.pos).is_some_and(|number| modern.has(&number)) {
                        continue;
                    }
                    let cursor = CursorHold::cursor(batch.hold, &self.replay, found.pos);
                    let Some(cursor) = modern.cursor(cursor.as_ref()) else { continue };
                    frame::push_update_with_cursor(out, found.change, cursor);
                }
            }
            self.tally.caught_up += 1;
        }
    }

    /// All of a batch is encoded. The rest of a catch-up that was cut, or the next page of all bugs, is looked up; otherwise
    /// nothing is in hand. Returns whether a page was looked up, which is enough for one step.
    fn end_batch(&mut self, slot: Slot, backlog: &mut Backlog) -> bool {
        let mut paged = false;
        backlog.turn(|phase| match phase {
            Phase::CatchUp { query, batch } if batch.searched < query.upto => {
                paged = true;
                self.look_up(slot, query, batch.next_page()).into_phase()
            }
            Phase::CatchUp { query: Query { upto, .. }, .. } => Phase::behind(upto),
            Phase::Conflation { upto, batch } => Phase::conflated(upto, &batch),
            Phase::Cut { query, batch } => self.look_up(slot, query, batch.next_batch()).into_phase(),
            Phase::Behind { .. } | Phase::GapOwed | Phase::Closing => unreachable!("no batch: {phase:?}"),
        });
        paged
    }

    /// Writes what the socket takes of the outgoing bytes.
    fn write_outgoing(&mut self, slot: Slot, backlog: &mut Backlog) -> ControlFlow<Stop> {
        let session = &mut self.sessions[slot as usize];
        let Ok(written) = write(&session.peer, backlog.outgoing.left()) else {
            return ControlFlow::Break(Stop::Ended);
        };
        if written > 0 {
            session.progress_ms = self.now_ms;
        }
        if backlog.socket_took(written) { ControlFlow::Continue(()) } else { ControlFlow::Break(Stop::Backpressure) }
    }

    /// [`Phase::GapOwed`]: tells the client the gap. The session goes on from here; for what came before, the client
    /// will ask the tracker.
    fn encode_gap(&mut self, slot: Slot, backlog: &mut Backlog) {
        self.forget_watermark(slot);
        backlog.outgoing.buffer().extend_from_slice(&self.gap_frame());
        backlog.enter(Phase::behind(self.processed));
    }

    /// [`Phase::Behind`], if changes were processed meanwhile: looks up those that the session missed. `hold` is what a
    /// dropped conflation has left.
    fn look_up_missed(&mut self, slot: Slot, after: Pos, hold: Option<CursorHold>, backlog: &mut Backlog) {
        let session = &self.sessions[slot as usize];
        // What a client that is ahead missed is not conflated. Why: conflation drops the older changes of a bug for its
        // newest one. The client may have the newest one already and so not be sent it, but lack an older change that
        // has no number.
        let ahead = session.modern.as_ref().is_some_and(|modern| modern.watermark.is_some());
        let next = match (backlog.conflates() && !ahead, session.watches_all()) {
            (false, _) => self.missed(slot, after, hold, self.limits.catch_up),
            // What has left the ring is found by a pass over the table of all bugs. A conflation is dropped whenever the
            // session has to wait, so there would be a pass for each time that the socket takes bytes. A catch-up keeps its
            // page.
            (true, true) if after + 1 < self.replay.start() => self.missed(slot, after, hold, 0),
            (true, _) => self.conflation(slot, after, hold),
        };
        backlog.enter(next);
    }

    /// The changes that a session missed, one by one if there are no more than `limit`.
    fn missed(&mut self, slot: Slot, after: Pos, hold: Option<CursorHold>, limit: usize) -> Phase {
        let bugs = self.sessions[slot as usize].watched();
        let query = Query { bugs, upto: self.processed, after, since: None, limit };
        self.look_up(slot, query, Batch { hold, ..Batch::after(after) }).into_phase()
    }

    /// The newest change of each bug, of the changes that a session missed.
    fn conflation(&mut self, slot: Slot, after: Pos, hold: Option<CursorHold>) -> Phase {
        let session = &self.sessions[slot as usize];
        let found = match session.watches_all() {
            true => self.newest_missed_of_all(after, hold),
            false => self.newest_missed(&session.bugs, after, hold),
        };
        // This is asked after the search, because what is forgotten meanwhile is not found.
        let newest_is_lost = || match session.watches_all() {
            true => self.replay.newest_of_any_is_lost(self.processed),
            false => self.replay.newest_is_lost(&session.bugs, self.processed),
        };
        if session.modern.is_some() && (after < self.replay.floor() || newest_is_lost()) {
            self.tally.gaps += 1;
            return Phase::GapOwed;
        }
        found
    }

    fn newest_missed(&self, bugs: &[BugId], after: Pos, hold: Option<CursorHold>) -> Phase {
        let mut batch = Batch::after(after);
        self.replay.newest(bugs, after, self.processed, &mut batch.found);
        batch.hold = CursorHold::over(&self.replay, &batch.found, hold, after, true);
        Phase::Conflation { upto: self.processed, batch }
    }

    /// Looks up what lies after the last change that is encoded; `batch` is empty and says where that is.
    pub(super) fn look_up(&mut self, slot: Slot, query: Query, mut batch: Batch) -> LookUp {
        debug_assert!(batch.found.is_empty() && query.upto <= self.processed, "{query:?}, {batch:?}");
        let bugs = match &query.bugs {
            WhichBugs::All => return self.look_up_page(query, batch),
            WhichBugs::These(bugs) => bugs,
        };
        let wanted = Wanted {
            bugs,
            after: query.after.max(batch.sent),
            after_old: batch.sent,
            upto: query.upto,
            since: query.since,
            limit: query.limit,
        };
        let conflated = self.replay.every(&wanted, &mut batch.found);
        batch.searched = query.upto;
        self.tally.conflated += u64::from(conflated && query.limit > 0);
        let modern = self.sessions[slot as usize].modern.is_some();
        let lost = modern && self.is_lost(bugs, &query, wanted.after, conflated);
        self.tally.gaps += u64::from(lost);
        let before_first = batch.found.first().map_or(query.after, |found| found.pos - 1);
        // A client that asks from a date was not told a gap before the first change that was found.
        let gap_told = query.since.is_none();
        let from = before_first.min(query.after);
        batch.hold = CursorHold::over(&self.replay, &batch.found, batch.hold, from, gap_told);
        LookUp { query, batch, conflated, lost }
    }

    /// Whether changes after this position are not known any more that every cursor would claim. This is asked after the
    /// search, because what is forgotten meanwhile is not found.
    fn is_lost(&self, bugs: &[BugId], query: &Query, after: Pos, conflated: bool) -> bool {
        // A session may have waited long for its socket since the last search, or for its turn.
        let forgotten = query.since.is_none() && after < self.replay.floor();
        let hides = conflated || after + 1 < self.replay.start();
        forgotten || hides && self.replay.newest_is_lost(bugs, query.upto)
    }

    /// [`Phase::Behind`], if nothing was missed: the session was sent everything. The connection is told that its work
    /// is done, or the work that it has handed in meanwhile is begun.
    fn next_request(&mut self, slot: Slot, backlog: &mut Backlog) -> ControlFlow<Stop> {
        if backlog.end_work() {
            self.sessions[slot as usize].peer.ready();
        }
        if let Request::Deferred(work) = backlog.request()
            && self.must_await_feed(slot, work)
        {
            backlog.await_feed();
            return ControlFlow::Break(Stop::AwaitsFeed);
        }
        match backlog.begin_work() {
            Some(work) => self.answer(slot, work, backlog),
            None => return ControlFlow::Break(Stop::Sent),
        }
        ControlFlow::Continue(())
    }
}
