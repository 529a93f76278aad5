//! How a shard writes what a session has yet to be sent: looked up, encoded a piece at a time, held back by its socket.

use super::{PIECE, PIECES, Shard};
use crate::frame;
use crate::replay::{Pos, Wanted};
use crate::session::{Asked, Backlog, Peer, State, write};
use crate::subscriptions::Slot;

impl<P: Peer> Shard<P> {
    /// Fills `found` with what is left of a catch-up after `sent`. Whether it was too long and is conflated.
    pub(super) fn look_up(&mut self, slot: Slot, asked: Asked, sent: Pos, backlog: &mut Backlog) -> bool {
        let wanted = Wanted {
            bugs: &asked.bugs,
            after: asked.after.max(sent),
            after_old: sent,
            upto: asked.upto,
            since: asked.since,
            limit: asked.limit,
        };
        backlog.found.clear();
        let conflated = self.replay.every(&wanted, &mut backlog.found);
        self.tally.conflated += u64::from(conflated && asked.limit > 0);
        if conflated && self.sessions[slot as usize].modern.is_some() && self.replay.hides(&asked.bugs, asked.upto) {
            self.tally.gaps += 1;
            backlog.gap = true;
        }
        let first = backlog.found.first().map_or(asked.after, |found| found.pos - 1);
        self.hold(first.min(asked.after), backlog);
        (backlog.next, backlog.cut, backlog.asked) = (0, false, Some(asked));
        conflated
    }

    /// Holds the cursor back at `from`, or where it is held already, as long as a change that came late has yet to be
    /// sent.
    fn hold(&self, from: Pos, backlog: &mut Backlog) {
        let until = self.replay.last_late(&backlog.found);
        let held = backlog.hold.filter(|(_, until)| *until > backlog.sent);
        backlog.hold = until.map(|until| (held.map_or(from, |(from, _)| from), until));
    }

    /// Writes what the socket takes of a session's backlog, after which the session is open, ended, or (false) lagging.
    pub(super) fn pump(&mut self, slot: Slot, mut backlog: Box<Backlog>) -> bool {
        backlog.parked = false;
        if self.has_seen_another(slot) {
            // Before anything of this history that the client would take for its own.
            self.tally.gaps += u64::from(!backlog.gap);
            backlog.gap = true;
        }
        for _ in 0..PIECES {
            self.fill(slot, &mut backlog);
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
                    backlog.willing = false;
                    session.lag(backlog);
                    return false;
                }
                backlog.out.clear();
                backlog.written = 0;
            } else if backlog.end {
                session.end();
                return true;
            } else if backlog.gap {
                // The client will ask for everything anyway.
                (backlog.gap, backlog.behind, backlog.newest_from) = (false, self.processed, None);
                (backlog.asked, backlog.cut, backlog.next, backlog.hold) = (None, false, 0, None);
                backlog.found.clear();
                if let Some(modern) = &mut session.modern {
                    modern.seen = None;
                }
                backlog.out.extend_from_slice(&self.gap_frame());
            } else if backlog.behind < self.processed {
                let lost = || {
                    backlog.behind < self.replay.floor()
                        || !backlog.willing && self.replay.hides(&session.bugs, self.processed)
                };
                if session.modern.is_some() && lost() {
                    self.tally.gaps += 1;
                    backlog.gap = true;
                    continue;
                }
                if backlog.willing {
                    // What came meanwhile, as if it were sent live.
                    let (bugs, upto, after) = (session.bugs.clone(), self.processed, backlog.behind);
                    let asked = Asked { bugs, upto, after, since: None, limit: self.limits.catch_up };
                    (backlog.behind, backlog.newest_from) = (upto, None);
                    self.look_up(slot, asked, after, &mut backlog);
                    continue;
                }
                backlog.found.clear();
                self.replay.newest(&session.bugs, backlog.behind, self.processed, &mut backlog.found);
                self.hold(backlog.behind, &mut backlog);
                backlog.next = 0;
                backlog.newest_from = Some(backlog.behind);
                backlog.behind = self.processed;
            } else {
                backlog.hold = None;
                if std::mem::take(&mut backlog.busy) {
                    session.peer.ready();
                }
                let Some(work) = backlog.deferred.take() else {
                    session.state = State::Open;
                    return true;
                };
                if self.must_wait(slot, &work) {
                    (backlog.deferred, backlog.parked, backlog.behind) = (Some(work), true, self.processed);
                    self.sessions[slot as usize].state = State::Lagging(backlog);
                    return true;
                }
                (backlog.newest_from, backlog.willing) = (None, true);
                self.begin(slot, work, &mut backlog);
            }
        }
        // The socket would take more, but others of the shard come first.
        self.sessions[slot as usize].lag(backlog);
        true
    }

    /// Encodes the next changes of a catch-up, up to about a [`PIECE`].
    fn fill(&mut self, slot: Slot, backlog: &mut Backlog) {
        while backlog.out.len() - backlog.written < PIECE && !backlog.gap {
            let Some(&found) = backlog.found.get(backlog.next) else {
                let asked = backlog.asked.take();
                backlog.found.clear();
                backlog.next = 0;
                match asked.filter(|_| backlog.cut) {
                    Some(asked) => self.look_up(slot, asked, backlog.sent, backlog),
                    None => return,
                };
                continue;
            };
            backlog.next += 1;
            backlog.sent = found.pos;
            match &self.sessions[slot as usize].modern {
                None => frame::push_update(&mut backlog.out, found.change),
                Some(modern) => {
                    if self.replay.number_of(found.pos).is_some_and(|number| modern.has(&number)) {
                        continue;
                    }
                    let cursor = match backlog.hold {
                        Some((from, until)) if found.pos < until => self.replay.cursor_before(from + 1),
                        _ => self.replay.cursor_at(found.pos),
                    };
                    let Some(cursor) = modern.cursor(cursor.as_ref()) else { continue };
                    frame::push_update_with_cursor(&mut backlog.out, found.change, cursor);
                }
            }
            self.tally.caught_up += 1;
        }
    }
}
