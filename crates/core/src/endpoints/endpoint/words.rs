//! What goes into the planner of an endpoint, and what comes out.

use std::sync::Arc;

use bugfeed_protocol::Cursor;

use crate::endpoints::SECOND_US;
use crate::endpoints::batch::Batch;
use crate::endpoints::policy::{Bar, Outcome};
use crate::endpoints::question::{Answer, Ask};
use crate::endpoints::row::Row;
use crate::hooks::event::Trigger;

/// How long a request may take, from the decision to send it to its last byte, in microseconds. (The retry on another
/// connection, where an idle one was closed, is within that time.)
pub const REQUEST_US: i64 = 15 * SECOND_US;
/// The feeds of the process, as the planner asks them.
pub trait Feeds {
    /// What a feed answers. [`question::answer`](crate::endpoints::question::answer) says it from a replay cache; the answer is
    /// [`Answer::NotYet`] for a feed that is not there, is not current, or is finding out whether it missed changes.
    fn ask(&self, feed: &str, ask: &Ask<'_>) -> Answer;
}

/// The lease under which an endpoint is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The fencing token.
    pub term: u64,
    /// No request before this time: one of the holder before may be in flight until then. That is [`REQUEST_US`] after
    /// the lease was taken over, or at once where it was released.
    pub from_us: i64,
    /// No request from this time on, unless the lease is renewed: nobody takes it over before that.
    pub until_us: i64,
}

/// What happens.
#[derive(Debug)]
pub enum Input {
    /// A change of one of its bugs came into this feed, or the feed has become current, or lost continuity.
    News(Arc<str>),
    /// The time of [`Endpoint::wake_us`](super::Endpoint::wake_us) has come.
    Tick,
    /// The schedule gives it the place that it wanted.
    Permit,
    /// Before [`Input::Ended`] of a batch that was sent as several messages: so many were POSTed, of which the receiver took
    /// so many.
    Posted {
        /// How many were POSTed.
        sent: u32,
        /// How many of them were answered 2xx.
        taken: u32,
    },
    /// The request in flight has ended.
    Ended(Outcome),
    /// The row was stored with this version.
    Stored(u64),
    /// The row was not stored, or it is not known whether it was. The row as it is now, if it could be read.
    NotStored(Option<Box<Row>>),
    /// Somebody has changed the row.
    Changed(Box<Row>),
    /// The lease was renewed up to this time.
    Renewed(i64),
    /// The lease is lost. The request in flight is to be aborted.
    Lost,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the schedule for a place; [`Input::Permit`] follows.
    Want(Class),
    /// The place is not needed.
    Release,
    /// Send this; [`Input::Ended`] follows.
    Send(Send),
    /// Write the row where its version is one less and the lease has this term; [`Input::Stored`] or
    /// [`Input::NotStored`] follows. It need not be on disk before that: it must survive the process, not the machine.
    Store(Box<Row>, Fence),
    /// Write a row of the log of attempts.
    Attempt(Attempt),
    /// Tell people.
    Event(Event),
    /// The endpoint was deleted, or is another's: forget it.
    Gone,
}

/// How a request stands in the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A first attempt at a receiver that has taken something in this process, or one that a person asked for.
    First,
    /// A first attempt at a receiver of which nothing is known yet.
    New,
    /// A first attempt at a receiver that was slow the last time.
    Slow,
    /// An attempt at a receiver that failed the last time.
    Again,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Send {
    /// What is sent.
    pub what: What,
    /// Why.
    pub trigger: Trigger,
    /// It must have ended by then.
    pub until_us: i64,
    /// Of a batch that is sent as several messages, so many may be POSTed now, at least one. What comes of it is
    /// [`Outcome::Partly`] if all these were taken and others are left: those follow in another attempt.
    pub most: u32,
}

/// What a request brings.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Changes, or a gap.
    Batch(Arc<Batch>),
    /// A test.
    Test {
        /// The first of the endpoint's feeds.
        feed: Option<Arc<str>>,
        /// Where its receiver stands.
        cursor: Option<Cursor>,
        /// Part of the identifier.
        generation: u32,
    },
    /// What an earlier attempt sent.
    Redelivery {
        /// The attempt.
        attempt: u128,
    },
}

/// One attempt, for the log. The executor adds status, answer and identifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// What was sent, and why.
    pub send: Send,
    /// What came of it.
    pub outcome: Outcome,
    /// When it was sent.
    pub begun_us: i64,
    /// When it had ended.
    pub ended_us: i64,
    /// Whether it counts for the policy.
    pub counts: bool,
}

/// An operational event of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It failed, and is tried again after this time.
    Cooling(i64),
    /// It is not tried again until somebody enables it.
    Disabled(Bar),
    /// It failed before, and has just succeeded.
    Recovered,
    /// So many percent of the way to being disabled are done: 50 or 75.
    Warning(u8),
    /// Its receiver was told that changes may be missing.
    Gap,
}

/// What a step may look at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The time.
    pub now_us: i64,
    /// The feeds.
    pub feeds: &'a dyn Feeds,
}
