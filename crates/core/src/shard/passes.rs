//! Sessions with a pass, on a gateway that wants tokens: what they may subscribe to, and when they are over.
//!
//! Passes stand in a table of their own, so that a gateway without tokens pays nothing for them, and updates never look at
//! them: a session is sent only what it could subscribe to.

use std::sync::Arc;

use bugfeed_protocol::client::{Command, errors};
use bugfeed_protocol::close::Close;
use bugfeed_protocol::server::{Notice, Reply};

use super::Shard;
use crate::access::{Pass, Tokens};
use crate::backlog::Backlog;
use crate::frame;
use crate::session::{Peer, State};
use crate::subscriptions::Slot;

impl<P: Peer> Shard<P> {
    /// A new connection, with what its client has shown so far.
    pub(super) fn enter(&mut self, peer: P, pass: Pass) {
        let slot = self.attach(peer);
        self.passes.insert(slot, pass);
        self.compare_with_file(slot);
    }

    /// What the session's token does not allow of this command, if anything.
    pub(super) fn denial(&self, slot: Slot, command: &Command) -> Option<String> {
        let pass = self.passes.get(&slot)?;
        let is_for_all = matches!(command, Command::Hello { .. } | Command::Version);
        let Some(grant) = &pass.grant else {
            return (!is_for_all).then(|| errors::TOKEN_NEEDED.to_owned());
        };
        let Command::Subscribe { bugs, .. } = command else { return None };
        let session = &self.sessions[slot as usize];
        grant.check_bugs(bugs, &session.bugs, session.watches_all()).err()
    }

    /// Answers a command that is refused because of a token.
    pub(super) fn deny(&mut self, command: &str, error: &str, backlog: &mut Backlog) {
        self.tally.refused += 1;
        frame::push_text(backlog.outgoing.buffer(), &Reply::Denied { command, error }.encode());
    }

    /// A `hello` with a token that is valid. If it does not cover what the session watches, nothing changes.
    pub(super) fn renew(&mut self, slot: Slot, heartbeat_s: u64, pass: Pass, backlog: &mut Backlog) {
        let session = &self.sessions[slot as usize];
        let feed = Arc::clone(&self.about.feed);
        let covers = pass.grant.as_ref().map(|grant| grant.check_session(&feed, &session.bugs, session.watches_all()));
        if let Some(Err(error)) = covers {
            self.tally.denied += 1;
            return self.deny("hello", &error, backlog);
        }
        self.passes.insert(slot, pass);
        if self.revoked(slot) {
            self.tally.token_revoked += 1;
            return backlog.close(Close::TokenRevoked);
        }
        self.hello(slot, heartbeat_s, backlog);
    }

    /// Ends the sessions whose token has expired, or that have shown none in time.
    pub(super) fn passes_due(&mut self) {
        let due: Vec<(Slot, Close)> = self
            .passes
            .iter()
            .filter(|(_, pass)| pass.ends_ms <= self.now_ms)
            .map(|(&slot, pass)| (slot, if pass.grant.is_some() { Close::TokenExpired } else { Close::TokenNeeded }))
            .collect();
        for (slot, close) in due {
            self.part(slot, close);
        }
    }

    /// The file with tokens was read again: compares all sessions with it.
    pub(super) fn tokens(&mut self, tokens: Arc<Tokens>) {
        self.tokens = Some(tokens);
        let slots: Vec<Slot> = self.passes.keys().copied().collect();
        for slot in slots {
            self.compare_with_file(slot);
        }
    }

    /// Whether the session's token stood in the file once, and does not any more.
    fn revoked(&self, slot: Slot) -> bool {
        let id = self.passes.get(&slot).and_then(|pass| pass.grant.as_ref()).and_then(|grant| grant.id);
        let stands = |id| self.tokens.as_ref().is_none_or(|tokens| tokens.contains_key(&id));
        id.is_some_and(|id| !stands(id))
    }

    /// Ends the session if its token was taken away. If it allows something else now, that holds for the session; where the
    /// session watches more than that, it is ended, and told why when it comes again.
    fn compare_with_file(&mut self, slot: Slot) {
        if self.revoked(slot) {
            return self.part(slot, Close::TokenRevoked);
        }
        let Some(grant) = self.passes.get(&slot).and_then(|pass| pass.grant.as_ref()) else { return };
        let now = grant.id.and_then(|id| self.tokens.as_ref()?.get(&id)).cloned();
        let Some(now) = now.filter(|now| now.grant.as_ref() != Some(grant)) else { return };
        let session = &self.sessions[slot as usize];
        let (feed, all) = (&self.about.feed, session.watches_all());
        match now.grant.as_ref().map(|grant| grant.check_session(feed, &session.bugs, all)) {
            Some(Err(_)) => self.part(slot, Close::Restart),
            _ => drop(self.passes.insert(slot, now)),
        }
    }

    /// Ends a session because of its token. A socket that takes nothing more is ended without a word.
    fn part(&mut self, slot: Slot, close: Close) {
        let head = self.head();
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        let takes = match &session.state {
            State::Ended => return,
            State::Open => true,
            State::Lagging(backlog) => backlog.awaits_feed(),
        };
        match close {
            Close::TokenExpired => self.tally.token_expired += 1,
            Close::TokenNeeded => self.tally.token_needed += 1,
            _ => self.tally.token_revoked += 1,
        }
        if takes {
            let mut out = Vec::new();
            if session.peer.is_buffered() {
                let reason = match close {
                    Close::TokenExpired => "token expired",
                    Close::TokenNeeded => "a token is needed",
                    _ => "token changed or taken away",
                };
                let modern = session.modern.as_ref().filter(|_| !session.watches_nothing());
                let cursor = modern.and_then(|modern| modern.cursor(head.as_ref()));
                frame::push_text(&mut out, &Notice::TokenOver { reason, cursor }.encode());
            }
            out.extend_from_slice(&frame::close(close));
            // If the socket does not take all of it now, the rest is not sent.
            let _ = session.peer.try_write(&out);
        }
        session.end();
    }
}
