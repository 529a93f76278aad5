//! One shard: the sessions it alone owns, and what each has yet to be sent.
//!
//! Goes in: one [`Input`] after the other, in the order of the shard's queue. Comes out: bytes, through the [`Peer`] of
//! each session, and a [`Tally`]. Never waits, never keeps a queue per session.
//!
//! A session is *open* (everything up to the last update processed has been written) or *lagging* (its socket took no
//! more). A lagging session is skipped by updates. Once its socket is writable, it is written the rest of the frame that
//! was begun, and then the newest change of each of its bugs since the position at which it fell behind. Commands go the
//! same way: reply and catch-up are written as far as the socket takes them, and the rest is looked up again later. The
//! phases of a lagging session are in `backlog.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use bugfeed_protocol::client::{Command, Refusal, Resume, WhichBugs, errors};
use bugfeed_protocol::close::Close;
use bugfeed_protocol::server::{FeedState, Limits, Notice, Reply, Verdict};
use bugfeed_protocol::{BugId, Cursor, When};
use slab::Slab;

use super::access::{Pass, Tokens};
use super::backlog::{Backlog, Batch, Query};
use super::budget::{Budget, Budgets};
use super::frame;
pub use super::input::{About, Input, SessionLimits, Tally, Update, Work};
use super::input::{Drain, spread};
use super::replay::{CursorPlace, Pos, Replay};
pub use super::session::Peer;
use super::session::{Modern, Session, State, Watermark};
use super::subscriptions::{Slot, Subscriptions};
use catch_up::{LookUp, Stop};
use live::Staged;

/// A catch-up is written in pieces of about this size.
const PIECE: usize = 4096;
/// The most pieces that are written to one session before it is the turn of another one.
const PIECES: usize = 16;

/// The sessions of one shard.
#[derive(Debug)]
pub struct Shard<P> {
    sessions: Slab<Session<P>>,
    index: Subscriptions,
    replay: Arc<Replay>,
    /// The position of the last update processed.
    processed: Pos,
    /// The cursor that the next update follows, in the numbering of that update, if continuity was lost after
    /// `processed`.
    resumes_at: Option<Cursor>,
    limits: SessionLimits,
    about: About,
    drain: Option<Drain>,
    /// Since when the feed is current, if it is.
    current_ms: Option<u64>,
    /// Whether resumes wait until it is known if changes were missed.
    held: bool,
    /// Since when nothing can arrive; `None` if changes can arrive.
    paused: Option<When>,
    now_ms: u64,
    tally: Tally,
    /// Updates that are processed and not yet written.
    staged: Staged,
    /// The bugs that all sessions of the process may watch together.
    subscriptions: Arc<Budget>,
    /// The sessions that watch all bugs.
    all: Vec<Slot>,
    /// The sessions of the process that may watch all bugs.
    all_sessions: Arc<Budget>,
    /// What sessions may do, on a gateway that wants tokens; otherwise it is empty.
    passes: HashMap<Slot, Pass>,
    /// The tokens that stand in the file now, if it was read again since the start.
    tokens: Option<Arc<Tokens>>,
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
            subscriptions: Arc::default(),
            all: Vec::new(),
            all_sessions: Arc::default(),
            passes: HashMap::new(),
            tokens: None,
        }
    }

    /// Makes this shard's sessions count towards budgets that it shares with other shards.
    #[must_use]
    pub fn within(mut self, budgets: &Budgets) -> Shard<P> {
        self.subscriptions = Arc::clone(&budgets.subscriptions);
        self.all_sessions = Arc::clone(&budgets.all);
        self
    }

    /// What was counted since this was last called.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Processes one input, and writes what it gives rise to.
    pub fn handle(&mut self, input: Input<P>) {
        self.take(input);
        self.flush(usize::MAX);
    }

    /// Processes one input. Updates are written when [`Shard::flush`] is called, or before anything else is processed.
    /// So the caller hands in all inputs that wait, and then flushes.
    pub fn take(&mut self, input: Input<P>) {
        if !matches!(input, Input::Update(_) | Input::Updates(_)) {
            self.flush(usize::MAX);
        }
        match input {
            Input::Update(update) => self.stage(&update),
            Input::Updates(updates) => updates.iter().for_each(|update| self.stage(update)),
            Input::Work(slot, work) => self.work(slot, work),
            Input::Writable(slot) => self.writable(slot),
            Input::Attach(peer) => drop(self.attach(peer)),
            Input::Enter(peer, pass) => self.enter(peer, pass),
            Input::Tokens(tokens) => self.tokens(tokens),
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

    fn attach(&mut self, peer: P) -> Slot {
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
        slot
    }

    fn detach(&mut self, slot: Slot) {
        self.leave_all(slot);
        self.passes.remove(&slot);
        if let Some(session) = self.sessions.try_remove(slot as usize) {
            self.subscriptions.give(session.bugs.len());
            for bug in session.bugs {
                self.index.remove(bug, slot);
            }
        }
    }

    /// The cursor of a session that has been sent everything. `None` before the first update: a client that came before
    /// it may lack what was published earlier, and is told a gap when the first update comes.
    fn head(&self) -> Option<Cursor> {
        let at = || (self.processed > 0).then(|| self.replay.cursor_at(self.processed)).flatten();
        self.resumes_at.clone().or_else(at)
    }

    fn work(&mut self, slot: Slot, work: Work) {
        if !self.sessions.contains(slot as usize) {
            return;
        }
        if matches!(self.sessions[slot as usize].state, State::Open) && self.is_on_fork(slot) {
            self.tell_fork(slot);
        }
        let session = &mut self.sessions[slot as usize];
        match &mut session.state {
            State::Ended => session.peer.end(),
            State::Lagging(backlog) => backlog.hand_in(work),
            State::Open => {
                session.progress_ms = self.now_ms;
                let backlog = Backlog::with_work(work, self.processed);
                if self.work_off(slot, backlog) == Stop::Backpressure {
                    self.tally.lagged += 1;
                }
            }
        }
    }

    fn writable(&mut self, slot: Slot) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        match std::mem::replace(&mut session.state, State::Open) {
            State::Lagging(backlog) => {
                self.work_off(slot, backlog);
            }
            other => session.state = other,
        }
    }

    /// Puts the answer to a piece of work into the backlog.
    fn answer(&mut self, slot: Slot, work: Work, backlog: &mut Backlog) {
        let refusal = match work {
            Work::Write(frames) => return backlog.outgoing.buffer().extend_from_slice(&frames),
            Work::Close(close) => return backlog.close(close),
            Work::Denied { command, error } => return self.deny(command, &error, backlog),
            Work::Renew { heartbeat_s, pass } => return self.renew(slot, heartbeat_s, pass, backlog),
            Work::Command(Err(refusal)) => refusal,
            Work::Command(Ok(command)) => match self.command(slot, command, backlog) {
                Ok(()) => return,
                Err(refusal) => refusal,
            },
        };
        self.tally.refused += 1;
        frame::push_text(backlog.outgoing.buffer(), &Reply::Refused(&refusal).encode());
    }

    fn command(&mut self, slot: Slot, command: Command, backlog: &mut Backlog) -> Result<(), Refusal> {
        let name = command.name();
        if let Some(error) = self.denial(slot, &command) {
            self.tally.denied += 1;
            self.deny(name, &error, backlog);
            return Ok(());
        }
        let (mut verdict, mut look_up) = (None, None);
        match command {
            Command::Version => {
                frame::push_text(backlog.outgoing.buffer(), &Reply::Version(&self.about.version).encode());
                return Ok(());
            }
            Command::Hello { heartbeat_s, .. } => {
                self.hello(slot, heartbeat_s, backlog);
                return Ok(());
            }
            Command::Subscriptions => {}
            Command::Unsubscribe { bugs: WhichBugs::These(bugs) } => self.unsubscribe(slot, bugs),
            Command::Unsubscribe { bugs: WhichBugs::All } => {
                self.check_modern(slot, name)?;
                self.leave_all(slot);
            }
            Command::Subscribe { bugs, since, resume } => {
                let has_room = match &bugs {
                    WhichBugs::All => self.subscribe_to_all(slot, name)?,
                    WhichBugs::These(bugs) => self.subscribe(slot, bugs, name)?,
                };
                if !has_room {
                    self.tally.no_room += 1;
                    backlog.close(Close::NoRoom);
                    return Ok(());
                }
                let modern = self.sessions[slot as usize].modern.is_some();
                match resume.filter(|_| modern) {
                    Some(resume) => {
                        let (told, cursor, found) = self.resume(slot, bugs, resume);
                        (verdict, look_up) = (Some((told, cursor)), found);
                    }
                    None => look_up = since.map(|since| self.catch_up_since(slot, bugs, since)),
                }
            }
        }
        self.reply(slot, name, verdict, look_up.as_ref(), backlog);
        if let Some(look_up) = look_up {
            backlog.enter(look_up.into_phase());
        }
        Ok(())
    }

    /// Looks up what changed since a date.
    fn catch_up_since(&mut self, slot: Slot, bugs: WhichBugs, since: When) -> LookUp {
        let (after, limit) = (self.replay.before(since), self.limits.catch_up);
        let query = Query { bugs, upto: self.processed, after, since: Some(since), limit };
        self.look_up(slot, query, Batch::after(0))
    }

    fn hello(&mut self, slot: Slot, heartbeat_s: u64, backlog: &mut Backlog) {
        let session = &mut self.sessions[slot as usize];
        let heartbeat_ms = heartbeat_s * 1000;
        let next_heartbeat_ms = self.now_ms + heartbeat_ms;
        let (watermark, all) = session.modern.take().map_or((None, false), |modern| (modern.watermark, modern.all));
        session.modern = Some(Box::new(Modern { heartbeat_ms, next_heartbeat_ms, watermark, all }));
        let limits = Limits { subscriptions: self.limits.subscriptions, message_bytes: self.limits.message_bytes };
        let (version, feed) = (&*self.about.version, &*self.about.feed);
        let cursor = self.cursor(slot);
        let expires = self.passes.get(&slot).and_then(|pass| pass.grant.as_ref()?.expires);
        let reply = Reply::Hello { version, feed, heartbeat_s, cursor: cursor.as_ref(), limits, expires };
        frame::push_text(backlog.outgoing.buffer(), &reply.encode());
        if let Some(since) = self.paused {
            frame::push_text(backlog.outgoing.buffer(), &Notice::Feed { state: FeedState::Paused, since }.encode());
        }
    }

    /// The cursor that this client may store if its session has been sent everything.
    fn cursor(&self, slot: Slot) -> Option<Cursor> {
        let head = self.head();
        match &self.sessions[slot as usize].modern {
            Some(modern) => modern.cursor(head.as_ref()).cloned(),
            None => head,
        }
    }

    /// Subscribes the session to these bugs. Returns false if the process has no room for them; another gateway may
    /// have.
    fn subscribe(&mut self, slot: Slot, bugs: &[BugId], name: &str) -> Result<bool, Refusal> {
        let session = &mut self.sessions[slot as usize];
        let new: Vec<BugId> = bugs.iter().copied().filter(|bug| session.bugs.binary_search(bug).is_err()).collect();
        if session.count() + new.len() > self.limits.subscriptions {
            return Err(Refusal { command: Some(name.to_owned()), error: errors::TOO_MANY });
        }
        if !self.subscriptions.take(new.len()) {
            return Ok(false);
        }
        for &bug in &new {
            self.index.add(bug, slot);
        }
        session.bugs.reserve_exact(new.len());
        session.bugs.extend(new);
        session.bugs.sort_unstable();
        Ok(true)
    }

    fn unsubscribe(&mut self, slot: Slot, mut bugs: Vec<BugId>) {
        bugs.sort_unstable();
        let session = &mut self.sessions[slot as usize];
        let before = session.bugs.len();
        session.bugs.retain(|bug| {
            let leaves = bugs.binary_search(bug).is_ok();
            if leaves {
                self.index.remove(*bug, slot);
            }
            !leaves
        });
        session.bugs.shrink_to_fit();
        self.subscriptions.give(before - session.bugs.len());
    }

    /// Looks up what a client missed since its cursor: the verdict and the cursor for the reply, and what was found.
    fn resume(&mut self, slot: Slot, bugs: WhichBugs, resume: Resume) -> (Verdict, Option<Cursor>, Option<LookUp>) {
        let Resume::From(cursor) = resume else {
            self.tally.gaps += 1;
            return (Verdict::Gap, self.cursor(slot), None);
        };
        let reached = |head: Cursor| head.epoch == cursor.epoch && head.seq >= cursor.seq;
        let (after, limit) = match self.replay.place_of(&cursor) {
            CursorPlace::InRing(pos) => (pos, self.limits.catch_up),
            CursorPlace::BeforeRing(pos) => (pos, 0),
            CursorPlace::Ahead if !self.head().is_some_and(reached) => (Pos::MAX, 0),
            // The cursor is ahead of the newest change of the cache, but not of this shard. So another history has
            // begun in the cache, of which the shard has yet to tell its sessions. The cursor's number belongs to the
            // history before, and cannot be compared with the new ones.
            CursorPlace::Ahead | CursorPlace::Unknown => {
                self.tally.gaps += 1;
                return (Verdict::Gap, self.cursor(slot), None);
            }
        };
        if after > self.processed || !self.head().is_none_or(reached) {
            // The client is ahead of this shard: its newest change is recorded and not yet processed here (at least the
            // break before it is not), or is not recorded either. Changes up to its cursor are not sent to it again
            // when they come.
            let watermark = Watermark { cursor: cursor.clone(), told_ms: self.now_ms };
            if let Some(modern) = &mut self.sessions[slot as usize].modern
                && !modern.has(&cursor)
            {
                modern.watermark = Some(watermark);
            }
            self.tally.complete += 1;
            return (Verdict::Complete, Some(cursor), None);
        }
        let query = Query { bugs, upto: self.processed, after, since: None, limit };
        let found = self.look_up(slot, query, Batch::after(after));
        if found.conflated || limit == 0 {
            self.tally.latest += 1;
            return (Verdict::Latest, Some(cursor), Some(found));
        }
        self.tally.complete += 1;
        (Verdict::Complete, Some(cursor), Some(found))
    }

    /// Whether a command must wait until it is known whether changes were missed.
    fn must_await_feed(&self, slot: Slot, work: &Work) -> bool {
        let resumes = matches!(work, Work::Command(Ok(Command::Subscribe { resume: Some(_), .. })));
        self.held && resumes && self.sessions[slot as usize].modern.is_some()
    }

    /// Puts the reply before what was looked up.
    fn reply(
        &self,
        slot: Slot,
        command: &str,
        verdict: Option<(Verdict, Option<Cursor>)>,
        look_up: Option<&LookUp>,
        backlog: &mut Backlog,
    ) {
        let session = &self.sessions[slot as usize];
        let text = if session.modern.is_none() || command == "subscriptions" {
            Reply::Bugs { command, bugs: &session.bugs, all: session.watches_all() }.encode()
        } else {
            let (verdict, cursor) = match verdict {
                Some((verdict, cursor)) => (Some(verdict), cursor),
                // The cursor of a catch-up by date is the one before the first change that was found.
                None => match look_up.and_then(LookUp::begins_after) {
                    Some(pos) => (None, self.replay.cursor_at(pos)),
                    None => (None, self.cursor(slot)),
                },
            };
            let (count, all) = (session.count(), session.watches_all());
            Reply::Count { command, count, all, replay: verdict, cursor: cursor.as_ref() }.encode()
        };
        frame::push_text(backlog.outgoing.buffer(), &text);
    }
}

mod all;

mod catch_up;

mod figures;

mod live;

mod passes;

mod state;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod all_tests;

#[cfg(test)]
mod all_bounds_tests;

#[cfg(test)]
mod modern_tests;

#[cfg(test)]
mod lineage_tests;

#[cfg(test)]
mod backlog_tests;

#[cfg(test)]
mod passes_tests;
