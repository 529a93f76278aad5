//! One shard: the sessions it alone owns, and what each has yet to be sent.
//!
//! Goes in: one [`Input`] after the other, in the order of the shard's queue. Comes out: bytes, through the [`Peer`] of
//! each session, and a [`Tally`]. Never waits, never keeps a queue per session.
//!
//! A session is *open* (everything up to the last update processed has been written) or *lagging* (its socket took no
//! more). A lagging session is skipped by updates; once its socket is writable, it gets what it had begun, and then the
//! newest change of each of its bugs since the position at which it fell behind. Subscribing with `since` takes the
//! same road: reply and catch-up are written as far as the socket takes them, and the rest is found again later.

use std::sync::Arc;

use bugfeed_protocol::BugId;
use bugfeed_protocol::client::{Command, Refusal, errors};
use bugfeed_protocol::close::Close;
use bugfeed_protocol::server::Reply;
use bytes::Bytes;
use slab::Slab;

use super::frame;
use super::replay::{Found, Pos, Replay, Wanted};
pub use super::session::Peer;
use super::session::{Backlog, Rest, Session, State, write};
use super::subscriptions::{Slot, Subscriptions};

/// What arrives in a shard's queue.
#[derive(Debug)]
pub enum Input<P> {
    /// A new connection.
    Attach(P),
    /// Something a connection read. It hands in the next only when [`Peer::ready`] was called.
    Work(Slot, Work),
    /// The connection's socket takes more.
    Writable(Slot),
    /// The connection is over. Its slot may be given to another.
    Detach(Slot),
    /// A change, already in the replay cache.
    Update(Update),
    /// Close every session.
    Shutdown,
}

/// What a connection asks for.
#[derive(Debug)]
pub enum Work {
    /// A command, or why it was none.
    Command(Result<Command, Refusal>),
    /// Frames to write as they are (a pong).
    Write(Vec<u8>),
    /// Write a close frame and end.
    Close(Close),
}

/// One change on its way to the sessions that watch it.
#[derive(Clone, Debug)]
pub struct Update {
    /// Where it lies in the replay cache.
    pub pos: Pos,
    /// Which bug.
    pub bug: BugId,
    /// The frame of the classic protocol, encoded once for all.
    pub classic: Bytes,
}

/// Bounds on one session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bugs one session may watch.
    pub subscriptions: usize,
    /// Changes one catch-up sends one by one; beyond it the newest of each bug.
    pub catch_up: usize,
    /// How often a ping is sent, in milliseconds.
    pub ping_interval_ms: u64,
    /// How long a peer may stay silent, pings notwithstanding, in milliseconds.
    pub idle_timeout_ms: u64,
    /// How long a socket may take nothing at all, in milliseconds.
    pub write_timeout_ms: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        SessionLimits {
            subscriptions: 10_000,
            catch_up: 100_000,
            ping_interval_ms: 30_000,
            idle_timeout_ms: 75_000,
            write_timeout_ms: 30_000,
        }
    }
}

/// What happened, counted since the last [`Shard::take_tally`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Updates written as they came.
    pub live: u64,
    /// Updates written by a catch-up.
    pub caught_up: u64,
    /// Sessions that began to lag.
    pub lagged: u64,
    /// Catch-ups that were conflated because they were too long.
    pub conflated: u64,
    /// Commands refused.
    pub refused: u64,
    /// Sessions ended because their peer was silent.
    pub silent: u64,
    /// Sessions ended because their socket took nothing.
    pub stalled: u64,
}

/// A catch-up is written in pieces of about this size.
const PIECE: usize = 4096;
/// This many changes of a catch-up are kept for a session whose socket takes no more; the rest is looked up again.
const KEEP: usize = 1024;

/// The sessions of one shard.
#[derive(Debug)]
pub struct Shard<P> {
    sessions: Slab<Session<P>>,
    index: Subscriptions,
    replay: Arc<Replay>,
    /// The position of the last update processed.
    processed: Pos,
    limits: SessionLimits,
    version: Arc<str>,
    now_ms: u64,
    tally: Tally,
    scratch: Vec<Found>,
}

impl<P: Peer> Shard<P> {
    /// A shard without sessions. `version` is what the version command answers.
    pub fn new(replay: Arc<Replay>, limits: SessionLimits, version: Arc<str>) -> Shard<P> {
        Shard {
            sessions: Slab::new(),
            index: Subscriptions::default(),
            processed: replay.head(),
            replay,
            limits,
            version,
            now_ms: 0,
            tally: Tally::default(),
            scratch: Vec::new(),
        }
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// What happened since this was last called.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Processes one input.
    pub fn handle(&mut self, input: Input<P>) {
        match input {
            Input::Update(update) => self.update(&update),
            Input::Work(slot, work) => self.work(slot, work),
            Input::Writable(slot) => self.writable(slot),
            Input::Attach(peer) => self.attach(peer),
            Input::Detach(slot) => self.detach(slot),
            Input::Shutdown => self.shutdown(),
        }
    }

    fn attach(&mut self, peer: P) {
        let entry = self.sessions.vacant_entry();
        let slot = Slot::try_from(entry.key()).expect("sessions are bounded far below 2^32");
        peer.attached(slot);
        // Spread over the interval, so that pings never come in bursts.
        let offset = u64::from(slot.wrapping_mul(0x9E37_79B9)) * self.limits.ping_interval_ms / (1 << 32);
        entry.insert(Session {
            peer,
            bugs: Vec::new(),
            state: State::Open,
            next_ping_ms: self.now_ms + self.limits.ping_interval_ms / 2 + offset / 2,
            progress_ms: self.now_ms,
        });
    }

    fn detach(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.try_remove(slot as usize) {
            for bug in session.bugs {
                self.index.remove(bug, slot);
            }
        }
    }

    fn shutdown(&mut self) {
        let slots: Vec<usize> = self.sessions.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let session = &mut self.sessions[slot];
            if matches!(session.state, State::Open) {
                let frame = frame::close(Close::Restart);
                // Whatever the socket does not take now, it will not be given.
                let _ = session.peer.try_write(&frame);
            }
            session.state = State::Ended;
            session.peer.end();
        }
    }

    fn update(&mut self, update: &Update) {
        self.processed = update.pos;
        for &slot in self.index.watchers(update.bug) {
            let session = &mut self.sessions[slot as usize];
            if !matches!(session.state, State::Open) {
                continue;
            }
            match write(&session.peer, &update.classic) {
                Ok(written) if written == update.classic.len() => self.tally.live += 1,
                Ok(written) => {
                    // A frame that was begun is finished first; one that was not is found again.
                    self.tally.live += u64::from(written > 0);
                    let out = if written > 0 { update.classic[written..].to_vec() } else { Vec::new() };
                    let behind = if written > 0 { update.pos } else { update.pos - 1 };
                    self.tally.lagged += 1;
                    session.progress_ms = self.now_ms;
                    session.lag(Box::new(Backlog { out, behind, ..Backlog::default() }));
                }
                Err(_) => session.end(),
            }
        }
    }

    fn work(&mut self, slot: Slot, work: Work) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        match &mut session.state {
            State::Ended => session.peer.end(),
            State::Lagging(backlog) => {
                debug_assert!(backlog.deferred.is_none(), "a connection waits until it is ready");
                backlog.deferred = Some(work);
            }
            State::Open => {
                let mut backlog = Box::new(Backlog { behind: self.processed, ..Backlog::default() });
                self.begin(slot, work, &mut backlog);
                if !self.pump(slot, backlog) {
                    self.tally.lagged += 1;
                }
            }
        }
    }

    fn writable(&mut self, slot: Slot) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        match std::mem::replace(&mut session.state, State::Open) {
            State::Lagging(backlog) => {
                self.pump(slot, backlog);
            }
            other => session.state = other,
        }
    }

    /// Puts the answer to a piece of work into the backlog.
    fn begin(&mut self, slot: Slot, work: Work, backlog: &mut Backlog) {
        backlog.busy = true;
        let refusal = match work {
            Work::Write(frames) => {
                backlog.out.extend_from_slice(&frames);
                return;
            }
            Work::Close(close) => {
                backlog.out.extend_from_slice(&frame::close(close));
                backlog.last = true;
                return;
            }
            Work::Command(Err(refusal)) => refusal,
            Work::Command(Ok(command)) => match self.command(slot, command, backlog) {
                Ok(()) => return,
                Err(refusal) => refusal,
            },
        };
        self.tally.refused += 1;
        frame::push_text(&mut backlog.out, &Reply::Refused(&refusal).encode());
    }

    fn command(&mut self, slot: Slot, command: Command, backlog: &mut Backlog) -> Result<(), Refusal> {
        let name = command.name();
        let session = &mut self.sessions[slot as usize];
        match command {
            Command::Version => {
                frame::push_text(&mut backlog.out, &Reply::Version(&self.version).encode());
                return Ok(());
            }
            Command::Subscriptions => {}
            Command::Unsubscribe { bugs } => {
                for bug in bugs {
                    if let Ok(at) = session.bugs.binary_search(&bug) {
                        session.bugs.remove(at);
                        self.index.remove(bug, slot);
                    }
                }
                session.bugs.shrink_to_fit();
            }
            Command::Subscribe { bugs, since } => {
                let watched = session.bugs.len();
                let new: Vec<BugId> =
                    bugs.iter().copied().filter(|bug| session.bugs.binary_search(bug).is_err()).collect();
                if watched + new.len() > self.limits.subscriptions {
                    return Err(Refusal { command: Some(name.to_owned()), error: errors::TOO_MANY });
                }
                for &bug in &new {
                    self.index.add(bug, slot);
                }
                session.bugs.reserve_exact(new.len());
                session.bugs.extend(new);
                session.bugs.sort_unstable();
                if let Some(since) = since {
                    let after = self.replay.before(since);
                    backlog.rest = Some(Rest { bugs, upto: self.processed, after, since });
                }
            }
        }
        frame::push_text(&mut backlog.out, &Reply::Bugs { command: name, bugs: &session.bugs }.encode());
        if backlog.rest.is_some() {
            self.look_up(backlog, 0);
        }
        Ok(())
    }

    /// Fills `found` with the next part of the catch-up that was asked for, after `last` was sent.
    fn look_up(&mut self, backlog: &mut Backlog, last: Pos) {
        let Some(rest) = backlog.rest.take() else { return };
        self.scratch.clear();
        let wanted = Wanted {
            bugs: &rest.bugs,
            after: rest.after.max(last),
            after_old: last,
            upto: rest.upto,
            since: Some(rest.since),
            limit: self.limits.catch_up,
        };
        self.tally.conflated += u64::from(self.replay.every(&wanted, &mut self.scratch));
        backlog.next = 0;
        backlog.found.clear();
        if self.scratch.len() > KEEP {
            backlog.rest = Some(rest);
            self.scratch.truncate(KEEP);
        }
        backlog.found.extend_from_slice(&self.scratch);
        if self.scratch.capacity() > 16 * KEEP {
            self.scratch = Vec::new();
        }
    }

    /// Writes what the socket takes of a session's backlog, after which the session is open, ended, or (false) lagging.
    fn pump(&mut self, slot: Slot, mut backlog: Box<Backlog>) -> bool {
        loop {
            self.fill(&mut backlog);
            let session = &mut self.sessions[slot as usize];
            if !backlog.out.is_empty() {
                let Ok(written) = write(&session.peer, &backlog.out[backlog.written..]) else {
                    session.end();
                    return true;
                };
                backlog.written += written;
                if written > 0 {
                    session.progress_ms = self.now_ms;
                }
                if backlog.written < backlog.out.len() {
                    session.lag(backlog);
                    return false;
                }
                backlog.out.clear();
                backlog.written = 0;
            } else if backlog.last {
                session.end();
                return true;
            } else if backlog.behind < self.processed {
                backlog.found.clear();
                self.replay.newest(&session.bugs, backlog.behind, self.processed, &mut backlog.found);
                backlog.next = 0;
                backlog.newest_from = Some(backlog.behind);
                backlog.behind = self.processed;
            } else {
                if std::mem::take(&mut backlog.busy) {
                    session.peer.ready();
                }
                let Some(work) = backlog.deferred.take() else {
                    session.state = State::Open;
                    return true;
                };
                backlog.newest_from = None;
                self.begin(slot, work, &mut backlog);
            }
        }
    }

    /// Encodes the next changes of a catch-up, up to about a [`PIECE`].
    fn fill(&mut self, backlog: &mut Backlog) {
        while backlog.out.len() - backlog.written < PIECE {
            if backlog.next == backlog.found.len() {
                let Some(last) = backlog.found.last().map(|found| found.pos) else { return };
                if backlog.rest.is_none() {
                    return;
                }
                self.look_up(backlog, last);
                continue;
            }
            frame::push_update(&mut backlog.out, backlog.found[backlog.next].change);
            backlog.next += 1;
            self.tally.caught_up += 1;
        }
    }

    /// Sends pings, and ends sessions whose peer is dead. `now_ms` never falls.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for (_, session) in &mut self.sessions {
            match session.state {
                State::Ended => {}
                State::Lagging(_) => {
                    if now_ms - session.progress_ms >= self.limits.write_timeout_ms {
                        self.tally.stalled += 1;
                        session.end();
                    }
                }
                State::Open => {
                    let heard_ms = session.peer.heard_ms().max(session.progress_ms);
                    if now_ms.saturating_sub(heard_ms) >= self.limits.idle_timeout_ms {
                        self.tally.silent += 1;
                        session.end();
                    } else if now_ms >= session.next_ping_ms {
                        session.next_ping_ms = now_ms + self.limits.ping_interval_ms;
                        session.ping(self.processed, &mut self.tally);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
