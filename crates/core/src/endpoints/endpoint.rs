//! The planner of one endpoint: what is sent next, what becomes of its row, and when to look again.
//!
//! Goes in: an [`Input`]. Comes out: [`Action`]s, for an executor with a store, an HTTP client and a
//! [`Schedule`](super::schedule::Schedule), and the time of the next look ([`Endpoint::wake_us`]). The feeds are asked
//! through [`Feeds`], at the moment at which a request may be sent, so that it brings what is newest then.
//!
//! - At most one request is in flight, and none is sent before the outcome of the one before is stored. So the cursors
//!   that a receiver is sent never fall below one that it has accepted, whenever the process dies, except after a recovery
//!   by hand. (Where it died with a request in flight, the next holder may send less than that request had.)
//! - A holder sends only between the two times of its [`Fence`]; a request must end within [`REQUEST_US`]. So two holders
//!   never have a request in flight at the same time.
//! - A batch that was sent is frozen. Its retry has the same content, unless a newer change of one of its bugs has come;
//!   then it is dissolved into what the feed answers anew.

use std::sync::Arc;

use super::SECOND_US;
use super::batch::Batch;
use super::pacing::Pacing;
use super::policy::Tidings;
use super::question::{Bound, Place};
use super::row::{Applied, Asked, Effect, Row};
pub use words::{Action, Attempt, Class, Event, Feeds, Fence, Input, REQUEST_US, Send, View, What};

/// The cursor of a quiet endpoint is moved and stored so often.
const QUIET_US: i64 = 50 * SECOND_US;
/// A receiver that took longer than this for its last answer is slow.
const SLOW_US: i64 = SECOND_US;
/// After the store has failed, the next try to write is so much later.
const STORE_AGAIN_US: i64 = SECOND_US;

/// What the planner knows of one feed beside the row.
#[derive(Clone, Debug, Default)]
struct Live {
    /// There may be something to send.
    news: bool,
    /// Everything that there was has been accepted, and nothing failed since.
    live: bool,
    place: Option<Place>,
    /// What was sent and not accepted.
    frozen: Option<Arc<Batch>>,
    /// Of that, a part was accepted, and the rest follows at the endpoint's pace.
    partly: bool,
    /// The receiver has been ahead of this feed since.
    ahead_since_us: Option<i64>,
    /// When its cursor is moved the next time although nothing happens.
    quiet_us: i64,
}

/// A request in flight.
#[derive(Clone, Debug)]
struct Flight {
    send: Send,
    /// Of the row and of the batch's line when it began.
    turns: (u32, u32),
    /// The wish that it fulfils.
    wish: Option<u32>,
    /// What it would be if it succeeded: the end of a cool-down.
    probe: bool,
    /// More follows.
    more: bool,
    /// The receiver took some of its messages.
    taken: bool,
    begun_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saving {
    No,
    /// Up to this effect.
    UpTo(u64),
    /// The store failed.
    From(i64),
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// As the store has it, with the effects that it does not have yet.
    row: Row,
    /// The version that the store has.
    version: u64,
    /// What the store does not have yet, with its number.
    unsaved: Vec<(u64, Effect)>,
    effects: u64,
    saving: Saving,
    fence: Fence,
    lives: Vec<Live>,
    /// The line after the one that was served last.
    turn: usize,
    flight: Option<Box<Flight>>,
    wanted: bool,
    /// Something has come since the last attempt.
    fresh: bool,
    /// The last answer took long.
    slow: bool,
    /// Its receiver has taken something from this process.
    proven: bool,
    /// It is over.
    gone: bool,
    pacing: Pacing,
    bound: Bound,
    /// Spreads what many endpoints do once a minute.
    offset_us: i64,
}

impl Endpoint {
    /// Takes over an endpoint whose row was read under this lease. `random` spreads what many endpoints do at a time.
    /// Call [`Endpoint::step`] with [`Input::Tick`] then.
    pub fn new(row: Row, fence: Fence, bound: Bound, random: u32, now_us: i64) -> Endpoint {
        let mut endpoint = Endpoint {
            version: row.version,
            lives: Vec::new(),
            unsaved: Vec::new(),
            effects: 0,
            saving: Saving::No,
            fence,
            turn: 0,
            flight: None,
            wanted: false,
            fresh: false,
            slow: false,
            proven: false,
            gone: false,
            pacing: Pacing::default(),
            bound,
            offset_us: i64::from(random) % (QUIET_US / 5),
            row,
        };
        endpoint.lives = endpoint.row.lines.iter().map(|_| endpoint.new_live(now_us)).collect();
        endpoint.pacing.set_rate(endpoint.row.rate);
        endpoint
    }

    fn new_live(&self, now_us: i64) -> Live {
        Live { news: true, quiet_us: now_us + QUIET_US - self.offset_us, ..Live::default() }
    }

    /// The row, with what is not stored yet.
    pub fn row(&self) -> &Row {
        &self.row
    }

    /// Whether a request is in flight.
    pub fn is_in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// Processes one input. The actions are to be carried out in order.
    pub fn step(&mut self, input: Input, view: &View<'_>, out: &mut Vec<Action>) {
        if self.gone {
            return;
        }
        match input {
            Input::News(feed) => self.news(&feed),
            Input::Tick => self.tick(view),
            Input::Permit => self.permitted(view, out),
            Input::Posted { sent, taken } => self.posted(sent, taken, view.now_us),
            Input::Ended(outcome) => self.ended(outcome, view.now_us, out),
            Input::Stored(version) => self.stored(version),
            Input::NotStored(Some(row)) => {
                self.saving = Saving::No;
                self.adopt(*row, view.now_us);
            }
            Input::NotStored(None) => self.saving = Saving::From(view.now_us + STORE_AGAIN_US),
            Input::Changed(row) => self.adopt(*row, view.now_us),
            Input::Renewed(until_us) => self.fence.until_us = until_us,
            Input::Lost => self.gone = true,
        }
        if self.gone || self.row.deleted {
            self.gone = true;
            return out.push(Action::Gone);
        }
        self.save(view.now_us, out);
        self.want(view.now_us, out);
    }

    fn news(&mut self, feed: &str) {
        let lines = self.row.lines.iter().zip(&mut self.lives);
        for (_, live) in lines.filter(|(line, _)| &*line.feed == feed) {
            (live.news, self.fresh) = (true, true);
        }
    }

    /// Adds an effect, which the row has at once and the store as soon as it can.
    fn effect(&mut self, effect: Effect) -> Tidings {
        let tidings = self.row.apply(&effect);
        self.effects += 1;
        self.unsaved.push((self.effects, effect));
        tidings
    }

    /// Writes what the store does not have.
    fn save(&mut self, now_us: i64, out: &mut Vec<Action>) {
        let may = match self.saving {
            Saving::No => true,
            Saving::UpTo(_) => false,
            Saving::From(from_us) => now_us >= from_us || from_us > now_us + STORE_AGAIN_US,
        };
        if self.unsaved.is_empty() || !may {
            return;
        }
        self.row.version = self.version + 1;
        self.row.applied = Applied { term: self.fence.term, effect: self.effects };
        self.saving = Saving::UpTo(self.effects);
        out.push(Action::Store(Box::new(self.row.clone()), self.fence));
    }

    fn stored(&mut self, version: u64) {
        let Saving::UpTo(effect) = self.saving else { return };
        self.saving = Saving::No;
        // The row may have been read since, in a later version.
        self.version = self.version.max(version);
        self.unsaved.retain(|(number, _)| *number > effect);
    }

    /// The row has become this, by somebody else's hand or by a write of which nothing was known. What it does not have
    /// yet of this planner's effects is applied to it.
    fn adopt(&mut self, mut row: Row, now_us: i64) {
        if row.version < self.version {
            return;
        }
        self.version = row.version;
        if row.applied.term == self.fence.term {
            self.unsaved.retain(|(number, _)| *number > row.applied.effect);
        }
        for (_, effect) in &self.unsaved {
            row.apply(effect);
        }
        let old = std::mem::replace(&mut self.row, row);
        let mut lives = std::mem::take(&mut self.lives);
        for at in 0..self.row.lines.len() {
            let line = &self.row.lines[at];
            // Another URL has what the row says, and nothing that was accepted since.
            let before = old
                .lines
                .iter()
                .position(|before| (&before.feed, before.turn, old.turn) == (&line.feed, line.turn, self.row.turn));
            let mut live = before.map_or_else(|| self.new_live(now_us), |before| std::mem::take(&mut lives[before]));
            live.news = true;
            live.live &= !old.paused || self.row.paused;
            if old.watch != self.row.watch {
                live.forget_place(&line.since);
            }
            self.lives.push(live);
        }
        // A person's order is news: what waits is tried again with it, if the counters allow it.
        self.fresh |= old.health != self.row.health;
        self.proven &= old.turn == self.row.turn;
        self.pacing.set_rate(self.row.rate);
    }

    /// Whether the lease allows a request now.
    fn is_fenced(&self, now_us: i64) -> bool {
        now_us < self.fence.from_us || now_us >= self.fence.until_us
    }

    fn is_ready(&self) -> bool {
        self.row.wishes.iter().any(|wish| wish.what == Asked::Ready)
    }

    fn has_wish(&self) -> bool {
        self.row.wishes.iter().any(|wish| wish.what != Asked::Ready)
    }

    /// From when on a batch may be sent, if there is one; none as long as a person or a test must enable it.
    fn batch_from_us(&self, now_us: i64) -> Option<i64> {
        let health_us = self.row.health.from_us(self.row.policy, self.fresh)?;
        let health_us = if self.is_ready() { i64::MIN } else { health_us };
        (!self.row.paused).then(|| health_us.max(self.pacing.next_us(now_us)))
    }

    /// Asks for a place where there may be something to send.
    fn want(&mut self, now_us: i64, out: &mut Vec<Action>) {
        if self.wanted || self.flight.is_some() || !self.unsaved.is_empty() || self.is_fenced(now_us) {
            return;
        }
        let batch =
            self.lives.iter().any(|live| live.news) && self.batch_from_us(now_us).is_some_and(|us| us <= now_us);
        if !self.has_wish() && !batch {
            return;
        }
        self.wanted = true;
        out.push(Action::Want(match () {
            () if self.has_wish() => Class::First,
            () if !self.row.health.is_clean() => Class::Again,
            () if self.slow => Class::Slow,
            () if !self.proven => Class::New,
            () => Class::First,
        }));
    }

    /// When to look again, if nothing happens before that.
    pub fn wake_us(&self, now_us: i64) -> Option<i64> {
        if self.gone {
            return None;
        }
        let store_us = match self.saving {
            Saving::From(from_us) => Some(from_us),
            _ => None,
        };
        let owes = self.lives.iter().any(|live| live.news);
        let idle = !self.wanted && self.flight.is_none() && self.unsaved.is_empty();
        let batch_us = self.batch_from_us(now_us).filter(|_| owes && idle);
        let batch_us = batch_us.map(|us| us.max(self.fence.from_us));
        let wish_us = (idle && self.has_wish()).then_some(self.fence.from_us);
        let quiet_us = self.lives.iter().map(Live::look_us).min();
        let open = |us: &i64| *us < self.fence.until_us;
        let wake = batch_us.into_iter().chain(wish_us).filter(open).chain(store_us).chain(quiet_us).min();
        wake.map(|us| us.max(now_us))
    }
}

mod sending;

mod words;

#[cfg(test)]
mod tests;
