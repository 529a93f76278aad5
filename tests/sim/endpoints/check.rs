//! What must hold at each step and in the end.

use std::sync::Arc;

use bugfeed_core::endpoints::SECOND_US;
use bugfeed_core::endpoints::batch::{Batch, Kind};
use bugfeed_core::endpoints::endpoint::{Action, Send, What};
use bugfeed_core::endpoints::orders::Order;
use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::{Told, Watch};
use bugfeed_core::endpoints::row::{Asked, Row};
use bugfeed_core::hooks::event::Trigger;
use bugfeed_protocol::Cursor;

use super::node::number;
use super::receiver::Mood;
use super::{Checked, Happens, NODES, World};

/// Everything that is counted.
pub(super) const ALL: [Happens; 28] = [
    Happens::Update,
    Happens::Complete,
    Happens::Latest,
    Happens::Gap,
    Happens::NotYet,
    Happens::Ahead,
    Happens::Retry,
    Happens::SameAgain,
    Happens::SameElsewhere,
    Happens::Dissolved,
    Happens::Probe,
    Happens::Ready,
    Happens::Test,
    Happens::Redelivery,
    Happens::Cooling,
    Happens::Disabled,
    Happens::Warning,
    Happens::Recovered,
    Happens::Conflict,
    Happens::Unknown,
    Happens::Takeover,
    Happens::Crash,
    Happens::Lost,
    Happens::Recovery,
    Happens::Late,
    Happens::Aborted,
    Happens::Quiet,
    Happens::Deleted,
];

/// What the body and the identifier of a request are made from.
fn content(batch: &Batch) -> (&[Told], Kind, &Cursor, u32) {
    (&batch.changes, batch.kind, &batch.cursor, batch.generation)
}

/// An action in a trace.
pub(super) fn told(action: &Action) -> String {
    match action {
        Action::Store(row, _) => format!("store {} {:?} {:?}", row.version, row.lines, row.health),
        Action::Attempt(attempt) => format!("attempt {:?}", attempt.outcome),
        Action::Send(Send { what: What::Batch(batch), trigger, .. }) => {
            let changes: Vec<String> =
                batch.changes.iter().map(|told| format!("{}@{}", told.change.bug, told.cursor.seq)).collect();
            format!("{trigger} {:?} {changes:?} up to {}", batch.kind, batch.cursor)
        }
        other => format!("{other:?}"),
    }
}

impl World {
    /// A request is sent.
    pub(super) fn check_send(&mut self, node: usize, at: usize, send: &Send) -> Checked {
        if let Some(other) = self.requests.iter().find(|request| request.endpoint == at) {
            return Err(format!("two requests of endpoint {at} in flight: {:?} and {send:?}", other.send));
        }
        let row = self.nodes[node].as_ref().unwrap().served[&at].decided.clone().ok_or("nothing was decided")?;
        if send.until_us <= self.now_us {
            // It was stalled between the decision and the request: the executor does not send it.
            return Ok(());
        }
        match &send.what {
            What::Test { .. } => self.happens(Happens::Test),
            What::Redelivery { .. } => self.happens(Happens::Redelivery),
            What::Batch(batch) => {
                self.check_policy(&row)?;
                let batch = Arc::clone(batch);
                self.check_batch(node, at, &row, &batch, send.trigger)?;
            }
        }
        Ok(())
    }

    /// The words of the contract, again.
    fn check_policy(&mut self, row: &Row) -> Checked {
        let health = &row.health;
        let few = match row.policy {
            Policy::Classic => health.recent_failures <= 3,
            Policy::Current => health.recent_failures < 40,
            Policy::Off => true,
        };
        let cooled = health.disabled_until_us.is_none_or(|until_us| until_us < self.now_us);
        let ready = row.wishes.iter().any(|wish| wish.what == Asked::Ready);
        if row.paused || health.bar.is_some() || !few || !cooled && !ready {
            return Err(format!("not executable, and sent to: {row:?}"));
        }
        if ready && !cooled {
            self.happens(Happens::Ready);
        } else if health.disabled_until_us.is_some() {
            self.happens(Happens::Probe);
        }
        Ok(())
    }

    fn check_batch(&mut self, node: usize, at: usize, row: &Row, batch: &Arc<Batch>, trigger: Trigger) -> Checked {
        let feed = self.ledgers.iter().position(|ledger| ledger.name == batch.feed).unwrap();
        let line = row.lines.iter().find(|line| line.feed == batch.feed).ok_or("a batch of another's feed")?;
        let turn = batch.generation;
        // An order may have come between the decision and the request: then the batch is of what was before it.
        if line.turn == turn {
            self.check_verdict((at, feed), row, batch, number(&line.since))?;
        }
        if trigger == Trigger::Retry {
            self.happens(Happens::Retry);
        }
        let on = self.nodes[node].as_mut().unwrap();
        let served = on.served.get_mut(&at).unwrap();
        let turns = (row.turn, turn);
        let now = (Arc::clone(batch), turns, row.watch.clone());
        let Some((before, of_turns, watch)) = served.unaccepted.insert(feed, now) else {
            return self.check_elsewhere(node, (at, feed), row, batch);
        };
        if of_turns != turns || watch != row.watch {
            return Ok(());
        }
        if content(&before) == content(batch) {
            self.happens(Happens::SameAgain);
            return Ok(());
        }
        // It was dissolved: because something newer of its bugs has come, or because a gap is told.
        let (ledger, local) = (&self.ledgers[feed], &on.feeds[feed]);
        let newer = before.changes.iter().any(|told| {
            let of = ledger.changes.iter().position(|change| *change == told.change).unwrap() as u64 + 1;
            local.has_newer(ledger, told.change.bug, of)
        });
        if !newer && batch.kind != Kind::Gap && before.kind != Kind::Gap {
            return Err(format!("a frozen batch was changed without need: {before:?} is {batch:?}"));
        }
        self.happens(Happens::Dissolved);
        Ok(())
    }

    /// This holder sends a first batch. If another one's failed, and that was stored, it is sent again as it was, where this
    /// replica finds its changes first.
    fn check_elsewhere(&mut self, node: usize, of: (usize, usize), row: &Row, batch: &Arc<Batch>) -> Checked {
        let line = row.lines.iter().find(|line| line.feed == batch.feed).ok_or("a batch of another's feed")?;
        let (Some(sent), Some((before, watch))) = (&line.sent, self.failed.get(&of)) else { return Ok(()) };
        let is_stored =
            (sent.kind, &sent.cursor, sent.count as usize) == (before.kind, &before.cursor, before.changes.len());
        if !is_stored || *watch != row.watch || before.generation != line.turn || before.kind == Kind::Gap {
            return Ok(());
        }
        let same = content(batch) == content(before);
        let (ledger, local) = (&self.ledgers[of.1], &self.nodes[node].as_ref().unwrap().feeds[of.1]);
        let numbers: Vec<u64> = before.changes.iter().map(|told| told.cursor.seq).collect();
        let found = number(&line.since).and_then(|after| local.newest_after(ledger, after, watch));
        let lags = before.changes.starts_with(&batch.changes);
        if !same && !lags && batch.kind != Kind::Gap && found.is_some_and(|found| found.starts_with(&numbers)) {
            return Err(format!("another holder's batch was changed without need: {before:?} is {batch:?}"));
        }
        if same {
            self.happens(Happens::SameElsewhere);
        }
        Ok(())
    }

    /// Where the verdict is `complete`, nothing was left out. What was told before with a cursor that was held back lies
    /// after the stored cursor, and its receiver knows it.
    fn check_verdict(&self, (at, feed): (usize, usize), row: &Row, batch: &Batch, stored: Option<u64>) -> Checked {
        let complete = matches!(batch.kind, Kind::Update | Kind::Updates { complete: true });
        let Some(stored) = stored.filter(|_| complete) else { return Ok(()) };
        let watches = |bug| match &row.watch {
            Watch::All => true,
            Watch::Bugs(bugs) => bugs.contains(&bug),
        };
        for (number, change) in (1..).zip(&self.ledgers[feed].changes) {
            let within = number > stored && number <= batch.last() && watches(change.bug);
            let known = self.receivers[at].known.get(&(feed, change.bug)).is_some_and(|&known| known >= number);
            if within && !known && !batch.changes.iter().any(|told| told.change == *change) {
                return Err(format!("{number} is left out after {stored}: {batch:?}"));
            }
        }
        Ok(())
    }

    /// A row is written by a planner.
    pub(super) fn check_store(&mut self, at: usize, row: &Row) -> Checked {
        let old = &self.rows[at];
        // Nothing is counted more often than it failed.
        let (health, receiver) = (&row.health, &mut self.receivers[at]);
        if health.is_clean() {
            (receiver.refused, receiver.failed) = (0, 0);
        }
        let (refused, failed) = (receiver.refused, receiver.failed);
        let fits = match row.policy {
            Policy::Classic if !receiver.mixed => health.recent_failures <= refused && health.backoff_count <= failed,
            _ => health.recent_failures <= refused + failed && health.backoff_count <= refused + failed,
        };
        if !fits {
            return Err(format!("{health:?} after {refused} refusals and {failed} faults"));
        }
        let moved = row.lines.iter().zip(&old.lines).any(|(line, before)| line.since != before.since);
        if moved && !self.requests.iter().any(|request| request.endpoint == at) && row.health == old.health {
            self.happens(Happens::Quiet);
        }
        Ok(())
    }

    /// Everything works again, and nobody changes anything.
    pub(super) fn heal(&mut self) -> Checked {
        self.say(|| "everything heals".to_owned());
        (self.holes, self.faults) = (0.0, 0.0);
        for node in 0..NODES {
            if self.nodes[node].is_none() {
                self.start(node);
            }
            let on = self.nodes[node].as_mut().unwrap();
            on.stalled_until_us = 0;
            on.feeds.iter_mut().for_each(|feed| feed.current = true);
        }
        for at in 0..self.rows.len() {
            self.receivers[at].mood = Mood::Well;
            self.order(at, &Order::Resume);
            self.order(at, &Order::Enable);
        }
        // Each feed gets one more change, so that nobody waits for a number.
        for feed in 0..self.ledgers.len() {
            while self.ledgers[feed].head() < 3 {
                self.commit();
            }
        }
        let before: Vec<usize> = self.ledgers.iter().map(|ledger| ledger.changes.len()).collect();
        while self.ledgers.iter().zip(&before).any(|(ledger, before)| ledger.changes.len() == *before) {
            self.commit();
        }
        for round in 0..100 {
            for node in 0..NODES {
                for _ in 0..if round % 10 == 0 { 60 } else { 0 } {
                    self.pump(node);
                }
                // Nobody is reminded later, so what is forgotten stays forgotten.
                if round == 0 {
                    let on = self.nodes[node].as_mut().unwrap();
                    for ledger in self.ledgers.clone() {
                        on.announce(&ledger, None);
                    }
                }
            }
            for at in (0..self.rows.len()).filter(|_| round == 0) {
                self.announce_row(at);
            }
            if round == 30 {
                // What was in flight when everything healed may have failed since.
                for at in (0..self.rows.len()).filter(|&at| !self.rows[at].health.is_clean()).collect::<Vec<_>>() {
                    self.order(at, &Order::Enable);
                    self.announce_row(at);
                }
            }
            self.pass(SECOND_US)?;
            for _ in 0..3 {
                for node in 0..NODES {
                    self.leases(node);
                    self.due(node);
                    self.permit(node);
                    self.settle(node)?;
                }
                while !self.requests.is_empty() {
                    self.resolve()?;
                }
            }
        }
        Ok(())
    }

    /// Everything that a replica has to do is done.
    fn settle(&mut self, node: usize) -> Checked {
        for _ in 0..20_000 {
            if self.nodes[node].as_ref().is_none_or(super::node::Node::is_idle) {
                return Ok(());
            }
            for at in 0..self.rows.len() {
                for _ in 0..4 {
                    self.step(node, at)?;
                }
            }
        }
        Err(format!("replica {node} does not come to rest"))
    }

    /// Every receiver has the newest change of each bug, or was told a gap after it.
    pub(super) fn check_end(&mut self) -> Checked {
        for (&(at, feed, bug), &number) in &self.owed {
            let known = self.receivers[at].known.get(&(feed, bug)).copied().unwrap_or(0);
            if known < number {
                return Err(format!(
                    "endpoint {at} lacks {number} of bug {bug} in feed {feed}, it has {known}: {:?}",
                    self.rows[at]
                ));
            }
        }
        for node in 0..NODES {
            let feeds = self.nodes[node].take().map_or_else(Vec::new, |on| on.feeds);
            feeds.iter().for_each(|feed| self.count(feed));
        }
        Ok(())
    }
}
