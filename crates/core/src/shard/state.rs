//! What a shard tells its sessions by itself: gaps, whether changes can arrive, pings and heartbeats, and that the
//! gateway stops.

use bugfeed_protocol::Cursor;
use bugfeed_protocol::When;
use bugfeed_protocol::close::Close;
use bugfeed_protocol::server::{FeedState, Notice};

use super::Shard;
use crate::frame;
use crate::input::spread;
use crate::replay::CursorPlace;
use crate::session::{KeepAlive, Peer, Session, State};
use crate::subscriptions::Slot;

/// After a gap, every client asks the tracker about its bugs. If many are told a gap at once (thundering herd), they
/// are asked to spread their questions: over this many milliseconds for each session of the shard, but never over more
/// than [`SPREAD_MAX_MS`]. Then the clients of one shard ask about fifty times a second, which a tracker can bear.
pub(super) const SPREAD_MS: u64 = 20;
/// The longest that clients are asked to wait before they ask the tracker, in milliseconds.
pub(super) const SPREAD_MAX_MS: u64 = 60_000;
/// Fewer sessions than this may ask at once.
pub(super) const SPREAD_FROM: usize = 50;

impl<P: Peer> Shard<P> {
    /// Tells every modern session that continuity was lost.
    pub(super) fn gap(&mut self, cursor: Option<Cursor>) {
        debug_assert!(self.staged.is_empty(), "what came before is written before");
        self.resumes_at = cursor;
        let frame = self.gap_frame();
        let (processed, now_ms) = (self.processed, self.now_ms);
        for (_, session) in &mut self.sessions {
            let Some(modern) = &mut session.modern else { continue };
            modern.watermark = None;
            if session.watches_nothing() {
                continue;
            }
            self.tally.gaps += 1;
            match &mut session.state {
                State::Open => session.tell_gap(&frame, processed, now_ms),
                State::Lagging(backlog) => backlog.owe_gap(),
                State::Ended => {}
            }
        }
    }

    /// The frame that tells a gap to a session that goes on from the head.
    pub(super) fn gap_frame(&self) -> Vec<u8> {
        let sessions = self.sessions.len();
        let many = sessions >= SPREAD_FROM;
        let spread_ms = if many { (sessions as u64 * SPREAD_MS).min(SPREAD_MAX_MS) } else { 0 };
        let mut frame = Vec::new();
        frame::push_text(&mut frame, &Notice::Gap { cursor: self.head().as_ref(), spread_ms }.encode());
        frame
    }

    /// Sets whether resumes wait. When they no longer do, those that have waited are answered.
    pub(super) fn hold_resumes(&mut self, held: bool) {
        self.held = held;
        if held {
            return;
        }
        let waits = |session: &Session<P>| matches!(&session.state, State::Lagging(backlog) if backlog.awaits_feed());
        let waiting: Vec<usize> =
            self.sessions.iter().filter(|(_, session)| waits(session)).map(|(at, _)| at).collect();
        for at in waiting {
            self.writable(Slot::try_from(at).expect("sessions are bounded far below 2^32"));
        }
    }

    /// Tells every modern session whether changes can arrive. One whose socket is full learns it from a heartbeat.
    pub(super) fn feed_state(&mut self, paused: bool, since: When) {
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

    /// Whether the client of this session is on another history: the last number that it has seen at another gateway
    /// came here too, but in another history. So the ledger was set back, and gave the number twice. This is known only
    /// once the number has come here.
    pub(super) fn is_on_fork(&self, slot: Slot) -> bool {
        let session = &self.sessions[slot as usize];
        let Some(mark) = session.modern.as_ref().and_then(|modern| modern.watermark.as_ref()) else { return false };
        mark.is_reached(self.head().as_ref()) && self.replay.place_of(&mark.cursor) == CursorPlace::Unknown
    }

    /// Tells a gap to an open session whose client is on another history.
    pub(super) fn tell_fork(&mut self, slot: Slot) {
        let frame = self.gap_frame();
        self.tally.gaps += 1;
        let session = &mut self.sessions[slot as usize];
        if let Some(modern) = &mut session.modern {
            modern.watermark = None;
        }
        session.tell_gap(&frame, self.processed, self.now_ms);
    }

    /// Closes the sessions whose turn has come.
    pub(super) fn drain_due(&mut self) {
        let Some(drain) = self.drain else { return };
        self.compare_watermarks();
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
                    // This delay is independent of the one after which the session is closed.
                    let retry_after_ms = spread(slot.wrapping_mul(31).wrapping_add(7), drain.window_ms);
                    let cursor = modern.cursor(cursor.as_ref()).filter(|_| !session.watches_nothing());
                    frame::push_text(&mut out, &Notice::GoAway { retry_after_ms, cursor }.encode());
                }
                out.extend_from_slice(&frame::close(reason));
                // If the socket does not take all of it now, the rest is not sent.
                let _ = session.peer.try_write(&out);
            }
            session.end();
        }
    }

    /// Sends pings and heartbeats, and ends sessions whose peer is dead. `now_ms` never falls.
    pub fn tick(&mut self, now_ms: u64) {
        self.flush(usize::MAX);
        self.now_ms = now_ms;
        self.compare_watermarks();
        self.passes_due();
        let head = self.head();
        let gap = self.gap_frame();
        let mut heartbeat = Vec::new();
        for (_, session) in &mut self.sessions {
            let owes = |begun_ms| now_ms.saturating_sub(begun_ms) >= self.limits.message_timeout_ms;
            match &session.state {
                State::Ended => {}
                _ if session.peer.begun_ms().is_some_and(owes) => {
                    self.tally.unfinished += 1;
                    if matches!(session.state, State::Open) {
                        // If the socket does not take all of it now, the rest is not sent.
                        let _ = session.peer.try_write(&frame::close(Close::Unfinished));
                    }
                    session.end();
                }
                State::Lagging(backlog) => {
                    // A session that waits for this gateway is not slow.
                    if !backlog.awaits_feed() && now_ms - session.progress_ms >= self.limits.write_timeout_ms {
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

    /// Tells a gap to open sessions whose clients have seen another history at another gateway.
    fn compare_watermarks(&mut self) {
        let has_one = |session: &Session<P>| session.modern.as_ref().is_some_and(|modern| modern.watermark.is_some());
        let open = |session: &Session<P>| matches!(session.state, State::Open) && has_one(session);
        let ahead: Vec<usize> = self.sessions.iter().filter(|(_, session)| open(session)).map(|(at, _)| at).collect();
        for at in ahead {
            let slot = Slot::try_from(at).expect("sessions are bounded far below 2^32");
            if self.is_on_fork(slot) {
                self.tell_fork(slot);
            }
        }
    }
}
