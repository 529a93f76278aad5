//! Sessions that watch all bugs of their feed, where the operator allows it.
//!
//! They stand in a list of their own, so that they cost the others nothing. What is looked up for them comes a page at a
//! time: neither memory nor time may depend on how many bugs a feed has.

use bugfeed_protocol::client::{Refusal, errors};

use super::Shard;
use super::catch_up::LookUp;
use crate::backlog::{Batch, Phase, Query};
use crate::cursor_hold::CursorHold;
use crate::replay::{PageSize, Pos, WantedOfAll};
use crate::session::Peer;
use crate::subscriptions::Slot;

/// A lagging session drops what it found whenever it has to wait, so for it a page is smaller by this factor.
const CONFLATION: usize = 8;

impl<P: Peer> Shard<P> {
    /// Refuses a command about all bugs to a client of the classic protocol, as a bug that is none.
    pub(super) fn check_modern(&self, slot: Slot, name: &str) -> Result<(), Refusal> {
        match self.sessions[slot as usize].modern {
            Some(_) => Ok(()),
            None => Err(Refusal { command: Some(name.to_owned()), error: errors::INVALID_BUG }),
        }
    }

    /// Subscribes the session to all bugs. Returns false if the process has no room for it; another gateway may have.
    pub(super) fn subscribe_to_all(&mut self, slot: Slot, name: &str) -> Result<bool, Refusal> {
        self.check_modern(slot, name)?;
        let session = &mut self.sessions[slot as usize];
        if session.watches_all() {
            return Ok(true);
        }
        let refuse = |error| Refusal { command: Some(name.to_owned()), error };
        if !self.limits.all {
            return Err(refuse(errors::ALL_NOT_ALLOWED));
        }
        if session.count() >= self.limits.subscriptions {
            return Err(refuse(errors::TOO_MANY));
        }
        if !self.all_sessions.take(1) {
            return Ok(false);
        }
        if !self.subscriptions.take(1) {
            self.all_sessions.give(1);
            return Ok(false);
        }
        if let Some(modern) = &mut session.modern {
            modern.all = true;
        }
        self.all.push(slot);
        self.tally.all += 1;
        Ok(true)
    }

    /// The session does not watch all bugs any more, if it did.
    pub(super) fn leave_all(&mut self, slot: Slot) {
        let modern = self.sessions.get_mut(slot as usize).and_then(|session| session.modern.as_mut());
        if let Some(modern) = modern.filter(|modern| modern.all) {
            modern.all = false;
            self.all.retain(|&other| other != slot);
            self.subscriptions.give(1);
            self.all_sessions.give(1);
            self.tally.all -= 1;
        }
    }

    /// How much is looked up at a time, and of how many changes.
    fn page_size(&self, found: usize) -> PageSize {
        PageSize { found: found.max(1), seen: self.limits.page.max(1) as u64 * 2 }
    }

    /// Looks up a page of changes of all bugs after the last change that is encoded.
    pub(super) fn look_up_page(&mut self, mut query: Query, mut batch: Batch) -> LookUp {
        let after = query.after.max(batch.sent);
        let newest_only = query.upto.saturating_sub(after) > query.limit as u64;
        let (upto, since) = (query.upto, query.since);
        let wanted = WantedOfAll { after, after_old: batch.sent, upto, since, newest_only };
        batch.searched = self.replay.page(&wanted, self.page_size(self.limits.page), &mut batch.found);
        // This is asked after the search, because what is forgotten meanwhile is not found. What has left the ring is not
        // known one by one.
        let has_old = since.is_none() && after + 1 < self.replay.start();
        let conflated = newest_only || has_old;
        let forgotten = since.is_none() && after < self.replay.floor();
        let lost = forgotten || conflated && self.replay.newest_of_any_is_lost(upto);
        let is_first = batch.sent <= query.after;
        self.tally.conflated += u64::from(is_first && conflated && query.limit > 0);
        self.tally.gaps += u64::from(lost);
        if newest_only {
            // Of the last pages as well.
            query.limit = 0;
        }
        let before_first = batch.found.first().map_or(query.after, |found| found.pos - 1);
        let at = before_first.min(query.after);
        // It is looked for in the whole range: it may be in a later page.
        let last_late = self.replay.last_late_in(at.max(batch.sent), upto);
        let gap_told = since.is_none();
        batch.hold = CursorHold::until(last_late, batch.hold, at, gap_told);
        LookUp { query, batch, conflated, lost }
    }

    /// A page of the newest changes of all bugs, of the changes that a session missed.
    pub(super) fn newest_missed_of_all(&self, after: Pos, hold: Option<CursorHold>) -> Phase {
        let mut batch = Batch::after(after);
        let upto = self.processed;
        let wanted = WantedOfAll { after, after_old: after, upto, since: None, newest_only: true };
        let size = self.page_size(self.limits.page / CONFLATION);
        let searched = self.replay.page(&wanted, size, &mut batch.found);
        batch.hold = CursorHold::until(self.replay.last_late_in(after, upto), hold, after, true);
        batch.searched = searched;
        Phase::Conflation { upto: searched, batch }
    }
}
