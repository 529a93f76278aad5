//! What a plan consists of, and what each of it does to a row.
//!
//! All of [`Guard`](Action::Guard), [`Step`](Action::Step), [`Unblock`](Action::Unblock), [`Insert`](Action::Insert) and
//! [`Link`](Action::Link) of one plan are one transaction: all are carried out, in order, or none, and then the rows are
//! read again and planned anew. The others come after the commit. [`Step::apply`] and [`unblock`] say what the statements
//! do; a store may run them on a copy of the row and write the whole [`Progress`].

use std::sync::Arc;

use bugfeed_protocol::{BugId, Change, When};

use super::event::{AT_ONCE, ContentHash, DropReason, ErrorClass, Event, EventId, Link, Progress, State, WhenOrigin};
use super::states::{Cause, is_allowed};

/// A row for the change table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The feed to whose table it goes.
    pub feed: Arc<str>,
    /// The change.
    pub change: Change,
}

/// What a repeated mapping made of an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapped {
    /// The feed.
    pub feed: Arc<str>,
    /// The bug.
    pub bug: BugId,
    /// When it changed.
    pub when: When,
    /// Where that time is from.
    pub origin: WhenOrigin,
    /// Whether the bug is private.
    pub private: bool,
    /// The hash of what the item says now that it is understood, so that a later repeat of it is recognised.
    pub hash: ContentHash,
}

/// One transition of one event: a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The event.
    pub id: EventId,
    /// The state that it must have.
    pub from: State,
    /// The version that it must have.
    pub version: u32,
    /// Why: with `from` and `after.state`, a line of the table.
    pub cause: Cause,
    /// Its progress afterwards, with the next version.
    pub after: Progress,
    /// A link that is added.
    pub link: Option<Link>,
    /// The row that is written, exactly where the state afterwards is `completed`.
    pub row: Option<Row>,
    /// What changes of the event itself, after a repeated mapping.
    pub mapped: Option<Mapped>,
}

impl Step {
    /// A step of this event; `change` says what becomes of its progress. The version is counted here, and what a
    /// terminal or disabled event does not have is removed.
    pub fn new(event: &Event, cause: Cause, to: State, change: impl FnOnce(&mut Progress)) -> Step {
        let mut after = event.progress.clone();
        after.state = to;
        after.version = after.version.wrapping_add(1);
        change(&mut after);
        if to.is_terminal() || to == State::Disabled {
            (after.due_us, after.blocked_by) = (None, None);
        }
        let (from, version) = (event.progress.state, event.progress.version);
        debug_assert!(is_allowed(Some(from), cause, to), "{from} {cause} {to}");
        Step { id: event.id, from, version, cause, after, link: None, row: None, mapped: None }
    }

    /// Does to the event what the statement does to its row. Returns whether the compare-and-set held; if not, the event
    /// is as it was.
    pub fn apply(&self, event: &mut Event) -> bool {
        let now = &event.progress;
        if (event.id, now.state, now.version) != (self.id, self.from, self.version) {
            return false;
        }
        event.progress = self.after.clone();
        if let Some(mapped) = &self.mapped {
            event.feed = Arc::clone(&mapped.feed);
            (event.bug, event.when, event.origin) = (Some(mapped.bug), mapped.when, mapped.origin);
            (event.private, event.hash) = (mapped.private, mapped.hash);
        }
        true
    }
}

/// Does what [`Action::Unblock`] does to each row: one that waits behind `by` waits no more, and is tried at once, even if
/// it has expired meanwhile. Returns whether it was such a row.
///
/// In SQL: `SET blocked_by = NULL, due_us = 0, version = version + 1 WHERE blocked_by = by`.
pub fn unblock(event: &mut Event, by: EventId) -> bool {
    if event.progress.blocked_by != Some(by) {
        return false;
    }
    event.progress.blocked_by = None;
    event.progress.due_us = Some(AT_ONCE);
    event.progress.version = event.progress.version.wrapping_add(1);
    true
}

/// What the executor must find out about an event that it has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Do the mapping again, with the kept item and the configuration of now.
    Map,
    /// Ask the tracker, as anybody, whether the bug is visible.
    Look,
}

/// What people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// An event failed: one error line.
    Errored {
        /// Which one.
        id: EventId,
        /// The class.
        class: ErrorClass,
    },
    /// Three workers in a row were gone while they had this event, so it may be what ends them.
    Poison(EventId),
    /// An event was dropped because it failed until it expired.
    Expired(EventId),
    /// The item of an errored event could not be kept, so it cannot be tried again.
    NotRetryable(EventId),
}

/// What to do next. The first five kinds are the transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Insert a new event. The store has a unique index on (source, dedup key, generation), so that two processes cannot
    /// both insert the first event of one delivery: see [`super::arrival`].
    Insert {
        /// The event.
        event: Box<Event>,
        /// What makes it unique.
        key: super::arrival::DedupKey,
        /// Which event with that key it is, from 0.
        generation: u32,
        /// Its line in the history.
        cause: Cause,
    },
    /// Add a link.
    Link {
        /// To this event.
        of: EventId,
        /// This one.
        link: Link,
    },
    /// The transaction holds only if this row still has this version. Lock the row: what follows is true because of it.
    Guard {
        /// The event.
        id: EventId,
        /// The version.
        version: u32,
    },
    /// Change a row. A step to `processing` also fails where another event of the lane is in that state: a unique index.
    Step(Box<Step>),
    /// [`unblock`] every row that waits behind this event.
    Unblock {
        /// The event.
        by: EventId,
    },
    /// Find something out, then call [`super::outcome::conclude`] with the answer.
    Ask {
        /// The event that was claimed.
        id: EventId,
        /// Its version since then: the fencing token of the claim.
        version: u32,
        /// What to find out.
        what: Question,
        /// Until when the answer must be written. Give up earlier, with an error of class `tracker`, or `ours` for a mapping.
        lease_until_us: i64,
    },
    /// Tell people.
    Alert(Alert),
    /// Nothing more can be done in this lane before then.
    Wait {
        /// When, at the latest, to plan it again.
        until_us: i64,
    },
}

impl Action {
    /// The step that drops an event.
    pub(super) fn drop(event: &Event, cause: Cause, reason: DropReason, now_us: i64) -> Step {
        Step::new(event, cause, State::Dropped, |after| {
            (after.drop, after.ended_us) = (Some(reason), Some(now_us));
        })
    }
}
