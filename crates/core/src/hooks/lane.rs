//! A lane: the events of one bug that are not settled, in order; and the settings of the sources they are from.
//!
//! **The key of a lane is (feed, bug), without the source.** Two sources may feed one feed, for example a tracker's own
//! webhook and a script that posts `plain`. Clients see one bug, so its events are processed one at a time whoever sent
//! them. The cost: a dead letter of one source makes the other's events of that bug wait. What depends on the source (hold
//! or supersede, schedule, verification, comparing times) is looked up for each event.
//!
//! An event without a bug is a lane of its own: it blocks nothing.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bugfeed_protocol::BugId;

use super::event::{Event, EventId, State, WhenOrigin, words};
use super::schedule::Schedule;

/// Which events are processed one at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKey {
    /// The events of a bug.
    Bug(Arc<str>, BugId),
    /// An event without a bug.
    Alone(EventId),
}

impl LaneKey {
    /// The lane of this event.
    pub fn of(event: &Event) -> LaneKey {
        match event.bug {
            Some(bug) => LaneKey::Bug(Arc::clone(&event.feed), bug),
            None => LaneKey::Alone(event.id),
        }
    }
}

/// What the store gives of a lane. It may be read without a lock, and be out of date.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The event in state `processing`, where there is one; and of the events that are queued and not blocked, and of those
    /// that are errored and not blocked: the first ones in order ([`order`]), and the first ones that are due
    /// ([`Event::is_due`]), up to a bound for each of the four (at least 2; 64 is good). Blocked, disabled and terminal
    /// ones may be left out.
    pub open: Vec<Event>,
    /// Completed events of this bug that are newer than something open. Needed only where a source has `older =
    /// "drop"`; the newest one of each source is enough.
    pub done: Vec<Event>,
    /// The other events of the families ([`Event::family`]) of the open ones, in any state and of any lane: those whose id
    /// or whose `repeat_of` is the name of the family. An open event that has no `repeat_of` and has never failed (no
    /// `class`, no `attempts`) has no family, so that nothing is asked on the ordinary way.
    pub related: Vec<Event>,
}

/// The order in a lane: event time, then receipt, then id.
///
/// For an event without a time of its own, the time of receipt counts. This only says which one is first; nothing is ever
/// dropped because of it ([`Event::is_comparable`] is for that).
pub fn order(one: &Event, other: &Event) -> Ordering {
    (one.when, one.received_us, one.id).cmp(&(other.when, other.received_us, other.id))
}

/// Whether `event` is newer than `other`: by the tracker's times where both have one of the same source; otherwise by
/// receipt, so that a time of arrival is not compared with a time of the tracker.
pub fn is_newer(event: &Event, other: &Event) -> bool {
    if event.is_comparable(other) {
        return order(event, other) == Ordering::Greater;
    }
    (event.received_us, event.id) > (other.received_us, other.id)
}

/// Whether `other` has an older time than `event`, in a way that can be compared.
pub fn is_older(other: &Event, event: &Event) -> bool {
    event.is_comparable(other) && other.when < event.when
}

/// A completed event whose time is newer than this one's, if `done` or `open` has one.
pub(super) fn newer_done<'a>(event: &Event, rows: impl Iterator<Item = &'a Event>) -> Option<EventId> {
    let done = rows.filter(|row| row.progress.state == State::Completed && row.bug == event.bug);
    done.filter(|row| event.origin == WhenOrigin::Tracker && is_older(event, row))
        .max_by(|a, b| order(a, b))
        .map(|row| row.id)
}

words! {
    /// What is done about a bug that is private.
    Private {
        /// Nothing of it is announced.
        Drop = "drop",
        /// It is announced: only its number and the time are told.
        Announce = "announce",
    }
}

words! {
    /// What is done about an event that is older than the newest completed one of its bug.
    Older {
        /// It is announced, unless it had been received before the newer one was announced.
        Announce = "announce",
        /// It is dropped. For trackers whose dates are commit times.
        Drop = "drop",
    }
}

words! {
    /// What later events of a bug do while it has a dead letter.
    DeadLetters {
        /// They wait behind it.
        Hold = "hold",
        /// They go on; one that is announced cancels the older ones.
        Supersede = "supersede",
    }
}

/// The settings of a source that decide what becomes of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the source, and the feed of the event, are switched on.
    pub on: bool,
    /// Whether the tracker is asked before an event is announced.
    pub verify: bool,
    /// `private = …`.
    pub private: Private,
    /// `older = …`.
    pub older: Older,
    /// `dead_letters = …`.
    pub dead_letters: DeadLetters,
    /// `retry = …`.
    pub retry: Schedule,
}

impl Settings {
    /// The defaults of the configuration.
    pub const DEFAULT: Settings = Settings {
        on: true,
        verify: false,
        private: Private::Drop,
        older: Older::Announce,
        dead_letters: DeadLetters::Hold,
        retry: Schedule::Current,
    };
}

/// What the process may do for a source just now. This is not stored: each process has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// From when on its tracker may be asked; not later than now: it may. From [`super::breaker::Breaker::ask_from`].
    pub ask_from_us: i64,
    /// How many retries, drains and reconciled events may be begun. From [`super::pace::Bucket::tokens`].
    pub tokens: u32,
    /// When there will be a token, if there is none.
    pub next_token_us: i64,
}

impl Gate {
    /// No limits.
    pub const OPEN: Gate = Gate { ask_from_us: i64::MIN, tokens: u32::MAX, next_token_us: 0 };
}

/// What a plan needs besides the rows.
pub struct World<'a> {
    /// The time.
    pub now_us: i64,
    /// How long a claim holds, in microseconds: longer than the executor's time limit for a question.
    pub lease_us: i64,
    /// The most events that one plan completes.
    pub batch: usize,
    /// Settings and gate of an event's source. A source that is not in the configuration any more is switched off.
    pub source: &'a dyn Fn(&Event) -> (Settings, Gate),
}

impl World<'_> {
    /// The settings of an event's source.
    pub(super) fn settings(&self, event: &Event) -> Settings {
        (self.source)(event).0
    }
}
