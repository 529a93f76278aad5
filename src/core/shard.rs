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

use bugfeed_protocol::client::{Command, Refusal, Resume, errors};
use bugfeed_protocol::close::Close;
use bugfeed_protocol::server::{FeedState, Limits, Notice, Reply, Verdict};
use bugfeed_protocol::{BugId, Cursor, When};
use slab::Slab;

use super::frame;
pub use super::input::{About, Input, SessionLimits, Tally, Update, Work};
use super::input::{Drain, spread};
use super::replay::{Pos, Replay, Standing};
pub use super::session::Peer;
use super::session::{Asked, Backlog, KeepAlive, Modern, Seen, Session, State};
use super::subscriptions::{Slot, Subscriptions};
use live::Staged;

/// A catch-up is written in pieces of about this size.
const PIECE: usize = 4096;
/// Pieces that one session is written before it is another's turn.
const PIECES: usize = 16;
/// A gap told to many makes all of them ask the tracker: they spread their questions over so many milliseconds for each
/// session of the shard, but never over more than [`SPREAD_MAX_MS`]. So a tracker is asked some fifty times a second for
/// each shard, which a tracker takes.
const SPREAD_MS: u64 = 20;
/// The longest that clients are asked to wait before they ask the tracker, in milliseconds.
const SPREAD_MAX_MS: u64 = 60_000;
/// So few sessions may ask at once.
const SPREAD_FROM: usize = 50;

/// The sessions of one shard.
#[derive(Debug)]
pub struct Shard<P> {
    sessions: Slab<Session<P>>,
    index: Subscriptions,
    replay: Arc<Replay>,
    /// The position of the last update processed.
    processed: Pos,
    /// Continuity was lost after it: what the next update follows, in that one's numbering.
    resumes_at: Option<Cursor>,
    limits: SessionLimits,
    about: About,
    drain: Option<Drain>,
    /// Since when the feed is current.
    current_ms: Option<u64>,
    /// Resumes wait until it is known whether changes were missed.
    held: bool,
    /// Since when nothing can arrive, if so.
    paused: Option<When>,
    now_ms: u64,
    tally: Tally,
    /// Updates that are processed but not yet written.
    staged: Staged,
}

impl<P: Peer> Shard<P> {
    /// A shard without sessions.
    pub fn new(replay: Arc<Replay>, limits: SessionLimits, about: About) -> Shard<P> {
        Shard {
            sessions: Slab::new(),
            index: Subscriptions::default(),
            processed: replay.head(),
            resumes_at: None,
            replay,
            limits,
            about,
            drain: None,
            current_ms: None,
            held: false,
            paused: None,
            now_ms: 0,
            tally: Tally::default(),
            staged: Staged::default(),
        }
    }

    /// What happened since this was last called.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Processes one input, and writes what it gives rise to.
    pub fn handle(&mut self, input: Input<P>) {
        self.take(input);
        self.flush(usize::MAX);
    }

    /// Processes one input. Updates are written when [`Shard::flush`] is called, or before anything else is processed:
    /// hand in what there is, then flush.
    pub fn take(&mut self, input: Input<P>) {
        if !matches!(input, Input::Update(_)) {
            self.flush(usize::MAX);
        }
        match input {
            Input::Update(update) => self.stage(update),
            Input::Work(slot, work) => self.work(slot, work),
            Input::Writable(slot) => self.writable(slot),
            Input::Attach(peer) => self.attach(peer),
            Input::Detach(slot) => self.detach(slot),
            Input::Gap(cursor) => self.gap(cursor),
            Input::Current(current) => self.current_ms = current.then_some(self.now_ms),
            Input::Hold(held) => self.hold_resumes(held),
            Input::Feed { paused, since } => self.feed_state(paused, since),
            Input::Drain { window_ms } => {
                self.drain = Some(Drain { begin_ms: self.now_ms, window_ms });
                self.drain_due();
            }
        }
    }

    fn attach(&mut self, peer: P) {
        let entry = self.sessions.vacant_entry();
        let slot = Slot::try_from(entry.key()).expect("sessions are bounded far below 2^32");
        peer.attached(slot);
        // Spread over the interval, so that pings never come in bursts.
        let offset = spread(entry.key(), self.limits.ping_interval_ms);
        entry.insert(Session {
            peer,
            bugs: Vec::new(),
            state: State::Open,
            modern: None,
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

    /// Closes the sessions whose turn has come.
    fn drain_due(&mut self) {
        let Some(drain) = self.drain else { return };
        self.compare_seen();
        let cursor = self.head();
        for (slot, session) in &mut self.sessions {
            if self.now_ms < drain.due_ms(slot) || matches!(session.state, State::Ended) {
                continue;
            }
            if matches!(session.state, State::Open) {
                let mut out = Vec::new();
                let mut reason = Close::GoingAway;
                if let Some(modern) = &session.modern {
                    reason = Close::Restart;
                    // Another delay than the one it was closed after.
                    let retry_after_ms = spread(slot.wrapping_mul(31).wrapping_add(7), drain.window_ms);
                    let cursor = modern.cursor(cursor.as_ref()).filter(|_| !session.bugs.is_empty());
                    frame::push_text(&mut out, &Notice::GoAway { retry_after_ms, cursor }.encode());
                }
                out.extend_from_slice(&frame::close(reason));
                // Whatever the socket does not take now, it will not be given.
                let _ = session.peer.try_write(&out);
            }
            session.end();
        }
    }

    /// Tells every modern session that continuity was lost.
    fn gap(&mut self, cursor: Option<Cursor>) {
        debug_assert!(self.staged.is_empty(), "what came before is written before");
        self.resumes_at = cursor;
        let frame = self.gap_frame();
        let (processed, now_ms) = (self.processed, self.now_ms);
        for (_, session) in &mut self.sessions {
            let Some(modern) = &mut session.modern else { continue };
            modern.seen = None;
            if session.bugs.is_empty() {
                continue;
            }
            self.tally.gaps += 1;
            match &mut session.state {
                State::Open => session.tell_gap(&frame, processed, now_ms),
                State::Lagging(backlog) => backlog.gap = true,
                State::Ended => {}
            }
        }
    }

    /// The notice of a gap to a session that goes on from the head.
    fn gap_frame(&self) -> Vec<u8> {
        let sessions = self.sessions.len();
        let many = sessions >= SPREAD_FROM;
        let spread_ms = if many { (sessions as u64 * SPREAD_MS).min(SPREAD_MAX_MS) } else { 0 };
        let mut frame = Vec::new();
        frame::push_text(&mut frame, &Notice::Gap { cursor: self.head().as_ref(), spread_ms }.encode());
        frame
    }

    /// Whether resumes wait. Those that have waited are answered.
    fn hold_resumes(&mut self, held: bool) {
        self.held = held;
        if held {
            return;
        }
        let waits = |session: &Session<P>| matches!(&session.state, State::Lagging(backlog) if backlog.parked);
        let parked: Vec<usize> = self.sessions.iter().filter(|(_, session)| waits(session)).map(|(at, _)| at).collect();
        for at in parked {
            self.writable(Slot::try_from(at).expect("sessions are bounded far below 2^32"));
        }
    }

    /// Tells every modern session whether changes can arrive. One whose socket is full learns it from a heartbeat.
    fn feed_state(&mut self, paused: bool, since: When) {
        if paused == self.paused.is_some() {
            return;
        }
        self.paused = paused.then_some(since);
        let state = if paused { FeedState::Paused } else { FeedState::Live };
        let mut frame = Vec::new();
        frame::push_text(&mut frame, &Notice::Feed { state, since }.encode());
        for (_, session) in &mut self.sessions {
            if session.modern.is_some() && matches!(session.state, State::Open) {
                session.write_or_lag(&frame, self.processed, self.now_ms, &mut self.tally);
            }
        }
    }

    /// Whether a session's client has seen a number elsewhere that came here with another content: the ledger was set back.
    /// Known only when the number has come here.
    fn has_seen_another(&self, slot: Slot) -> bool {
        let session = &self.sessions[slot as usize];
        let Some(seen) = session.modern.as_ref().and_then(|modern| modern.seen.as_ref()) else { return false };
        let reached = self.head().is_some_and(|head| head.epoch == seen.cursor.epoch && head.seq >= seen.cursor.seq);
        reached && self.replay.standing(&seen.cursor) == Standing::Unknown
    }

    /// Tells an open session that what its client has seen elsewhere is of another history.
    fn tell_another(&mut self, slot: Slot) {
        let frame = self.gap_frame();
        self.tally.gaps += 1;
        let session = &mut self.sessions[slot as usize];
        if let Some(modern) = &mut session.modern {
            modern.seen = None;
        }
        session.tell_gap(&frame, self.processed, self.now_ms);
    }

    /// The cursor of a session that has been sent everything. None before the first update: whoever came earlier may
    /// lack what was published before that one, and is told so when it comes.
    fn head(&self) -> Option<Cursor> {
        let at = || (self.processed > 0).then(|| self.replay.cursor_at(self.processed)).flatten();
        self.resumes_at.clone().or_else(at)
    }

    fn work(&mut self, slot: Slot, work: Work) {
        if !self.sessions.contains(slot as usize) {
            return;
        }
        if matches!(self.sessions[slot as usize].state, State::Open) && self.has_seen_another(slot) {
            self.tell_another(slot);
        }
        let session = &mut self.sessions[slot as usize];
        match &mut session.state {
            State::Ended => session.peer.end(),
            State::Lagging(backlog) => {
                debug_assert!(backlog.deferred.is_none(), "a connection waits until it is ready");
                backlog.deferred = Some(work);
            }
            State::Open => {
                session.progress_ms = self.now_ms;
                let mut backlog = Box::new(Backlog { behind: self.processed, willing: true, ..Backlog::default() });
                backlog.deferred = Some(work);
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
                backlog.end = true;
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
        let mut replay = None;
        match command {
            Command::Version => {
                frame::push_text(&mut backlog.out, &Reply::Version(&self.about.version).encode());
                return Ok(());
            }
            Command::Hello { heartbeat_s } => {
                self.hello(slot, heartbeat_s, backlog);
                return Ok(());
            }
            Command::Subscriptions => {}
            Command::Unsubscribe { bugs } => {
                self.unsubscribe(slot, bugs);
            }
            Command::Subscribe { bugs, since, resume } => {
                self.subscribe(slot, &bugs, name)?;
                let modern = self.sessions[slot as usize].modern.is_some();
                match resume.filter(|_| modern) {
                    Some(resume) => replay = Some(self.resume(slot, bugs, resume, backlog)),
                    None => {
                        if let Some(since) = since {
                            let after = self.replay.before(since);
                            let limit = self.limits.catch_up;
                            let asked = Asked { bugs, upto: self.processed, after, since: Some(since), limit };
                            self.look_up(slot, asked, 0, backlog);
                        }
                    }
                }
            }
        }
        self.reply(slot, name, replay, backlog);
        Ok(())
    }

    fn hello(&mut self, slot: Slot, heartbeat_s: u64, backlog: &mut Backlog) {
        let session = &mut self.sessions[slot as usize];
        let heartbeat_ms = heartbeat_s * 1000;
        let next_heartbeat_ms = self.now_ms + heartbeat_ms;
        let seen = session.modern.take().and_then(|modern| modern.seen);
        session.modern = Some(Box::new(Modern { heartbeat_ms, next_heartbeat_ms, seen }));
        let limits = Limits { subscriptions: self.limits.subscriptions, message_bytes: self.limits.message_bytes };
        let (version, feed) = (&*self.about.version, &*self.about.feed);
        let cursor = self.cursor(slot);
        let reply = Reply::Hello { version, feed, heartbeat_s, cursor: cursor.as_ref(), limits };
        frame::push_text(&mut backlog.out, &reply.encode());
        if let Some(since) = self.paused {
            frame::push_text(&mut backlog.out, &Notice::Feed { state: FeedState::Paused, since }.encode());
        }
    }

    /// What a session that has been sent everything may store.
    fn cursor(&self, slot: Slot) -> Option<Cursor> {
        let head = self.head();
        match &self.sessions[slot as usize].modern {
            Some(modern) => modern.cursor(head.as_ref()).cloned(),
            None => head,
        }
    }

    fn subscribe(&mut self, slot: Slot, bugs: &[BugId], name: &str) -> Result<(), Refusal> {
        let session = &mut self.sessions[slot as usize];
        let new: Vec<BugId> = bugs.iter().copied().filter(|bug| session.bugs.binary_search(bug).is_err()).collect();
        if session.bugs.len() + new.len() > self.limits.subscriptions {
            return Err(Refusal { command: Some(name.to_owned()), error: errors::TOO_MANY });
        }
        for &bug in &new {
            self.index.add(bug, slot);
        }
        session.bugs.reserve_exact(new.len());
        session.bugs.extend(new);
        session.bugs.sort_unstable();
        Ok(())
    }

    fn unsubscribe(&mut self, slot: Slot, mut bugs: Vec<BugId>) {
        bugs.sort_unstable();
        let session = &mut self.sessions[slot as usize];
        session.bugs.retain(|bug| {
            let leaves = bugs.binary_search(bug).is_ok();
            if leaves {
                self.index.remove(*bug, slot);
            }
            !leaves
        });
        session.bugs.shrink_to_fit();
    }

    /// Looks up what a client missed since its cursor; the verdict, and the cursor for the reply.
    fn resume(
        &mut self,
        slot: Slot,
        bugs: Vec<BugId>,
        resume: Resume,
        backlog: &mut Backlog,
    ) -> (Verdict, Option<Cursor>) {
        let Resume::From(cursor) = resume else {
            self.tally.gaps += 1;
            return (Verdict::Gap, self.cursor(slot));
        };
        let (after, limit) = match self.replay.standing(&cursor) {
            Standing::InRing(pos) => (pos, self.limits.catch_up),
            Standing::BeforeRing(pos) => (pos, 0),
            Standing::Ahead => (Pos::MAX, 0),
            Standing::Unknown => {
                self.tally.gaps += 1;
                return (Verdict::Gap, self.cursor(slot));
            }
        };
        let reached = |head: Cursor| head.epoch == cursor.epoch && head.seq >= cursor.seq;
        if after > self.processed || !self.head().is_none_or(reached) {
            // Recorded but not processed here (if only the break that it follows), or not even recorded: what is still to
            // come up to there is known.
            let seen = Seen { cursor: cursor.clone(), told_ms: self.now_ms };
            if let Some(modern) = &mut self.sessions[slot as usize].modern
                && !modern.has(&cursor)
            {
                modern.seen = Some(seen);
            }
            self.tally.complete += 1;
            return (Verdict::Complete, Some(cursor));
        }
        let asked = Asked { bugs, upto: self.processed, after, since: None, limit };
        if self.look_up(slot, asked, after, backlog) || limit == 0 {
            self.tally.latest += 1;
            return (Verdict::Latest, Some(cursor));
        }
        self.tally.complete += 1;
        (Verdict::Complete, Some(cursor))
    }

    /// Whether a command must wait until it is known whether changes were missed.
    fn must_wait(&self, slot: Slot, work: &Work) -> bool {
        let resumes = matches!(work, Work::Command(Ok(Command::Subscribe { resume: Some(_), .. })));
        self.held && resumes && self.sessions[slot as usize].modern.is_some()
    }

    /// Puts the reply before what was looked up.
    fn reply(&self, slot: Slot, command: &str, replay: Option<(Verdict, Option<Cursor>)>, backlog: &mut Backlog) {
        let session = &self.sessions[slot as usize];
        let text = if session.modern.is_none() || command == "subscriptions" {
            Reply::Bugs { command, bugs: &session.bugs }.encode()
        } else {
            let (verdict, cursor) = match replay {
                Some((verdict, cursor)) => (Some(verdict), cursor),
                // A catch-up by date begins with what is found first.
                None => match backlog.found.first() {
                    Some(first) => (None, self.replay.cursor_at(first.pos - 1)),
                    None => (None, self.cursor(slot)),
                },
            };
            let count = session.bugs.len();
            Reply::Count { command, count, replay: verdict, cursor: cursor.as_ref() }.encode()
        };
        frame::push_text(&mut backlog.out, &text);
    }

    /// Sends pings and heartbeats, and ends sessions whose peer is dead. `now_ms` never falls.
    pub fn tick(&mut self, now_ms: u64) {
        self.flush(usize::MAX);
        self.now_ms = now_ms;
        self.compare_seen();
        let head = self.head();
        let gap = self.gap_frame();
        let mut heartbeat = Vec::new();
        for (_, session) in &mut self.sessions {
            match &session.state {
                State::Ended => {}
                State::Lagging(backlog) => {
                    // One that waits for this gateway is not slow.
                    if !backlog.parked && now_ms - session.progress_ms >= self.limits.write_timeout_ms {
                        self.tally.stalled += 1;
                        session.end();
                    }
                }
                State::Open => {
                    let heard_ms = session.peer.heard_ms().max(session.progress_ms);
                    if now_ms.saturating_sub(heard_ms) >= self.limits.idle_timeout_ms {
                        self.tally.silent += 1;
                        session.end();
                    } else {
                        let due = KeepAlive {
                            processed: self.processed,
                            head: head.as_ref(),
                            current_ms: self.current_ms,
                            paused: self.paused.is_some(),
                            gap: &gap,
                            now_ms,
                        };
                        session.keep_alive(&due, &mut heartbeat, &mut self.tally);
                        if now_ms >= session.next_ping_ms {
                            session.next_ping_ms = now_ms + self.limits.ping_interval_ms;
                            if matches!(session.state, State::Open) {
                                session.write_or_lag(&frame::PING_FRAME, self.processed, now_ms, &mut self.tally);
                            }
                        }
                    }
                }
            }
        }
        self.drain_due();
    }

    /// Tells sessions whose clients have seen another history elsewhere.
    fn compare_seen(&mut self) {
        let seen = |session: &Session<P>| {
            matches!(session.state, State::Open) && session.modern.as_ref().is_some_and(|modern| modern.seen.is_some())
        };
        let ahead: Vec<usize> = self.sessions.iter().filter(|(_, session)| seen(session)).map(|(at, _)| at).collect();
        for at in ahead {
            let slot = Slot::try_from(at).expect("sessions are bounded far below 2^32");
            if self.has_seen_another(slot) {
                self.tell_another(slot);
            }
        }
    }
}

#[path = "shard_catch_up.rs"]
mod catch_up;

#[path = "shard_live.rs"]
mod live;

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "shard_modern_tests.rs"]
mod modern_tests;

#[cfg(test)]
#[path = "shard_lineage_tests.rs"]
mod lineage_tests;
