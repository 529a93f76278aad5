//! The words that store, receiver, executor and console share about events.
//!
//! An [`Event`] is one item of a received request. What the sender said of it never changes; what became of it is its
//! [`Progress`], which changes only by a [`Step`](super::action::Step). The texts of the enums (`as_str`) are what the
//! store, the API and the documents say.

use std::fmt;
use std::sync::Arc;

use bugfeed_protocol::{BugId, When};

use super::SECOND_US;
use super::schedule::LONGEST_US;

/// The [`Progress::due_us`] of what is due at once. It is no reading of a clock, so that a clock that is set back delays
/// nothing. Of events that are due at once, the store gives those with the lowest ids first.
pub const AT_ONCE: i64 = 0;

/// The identifier of an event: a UUIDv7 that the receiver made, as a number.
///
/// Identifiers of one request must rise with the item index, because they are the last thing that orders events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u128);

impl fmt::Display for EventId {
    /// As a UUID is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        let (a, b, c) = (n >> 96, (n >> 80) & 0xffff, (n >> 64) & 0xffff);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", (n >> 48) & 0xffff, n & 0xffff_ffff_ffff)
    }
}

/// The SHA-256 of (source, target, bug, the sender's time, kind, changes) of an item.
///
/// The time of arrival is not part of it: a repeat of an item without a time has the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

/// Makes an enum whose variants have fixed texts.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All of them, in the order of the documents.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The text that the store, the API and the documents use.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }

            /// Reads that text.
            pub fn parse(text: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|word| word.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// The state of an event. [`super::states`] has the transitions.
    State {
        /// Stored and not yet begun, or begun again.
        Queued = "queued",
        /// A worker has it, under a lease. At most one event of a lane is in this state.
        Processing = "processing",
        /// Its row is in the change table. Terminal.
        Completed = "completed",
        /// It repeats another event. Terminal.
        Duplicate = "duplicate",
        /// It is not announced, for a [`DropReason`]. Terminal.
        Dropped = "dropped",
        /// A newer event made it pointless, or it was pruned. Terminal.
        Canceled = "canceled",
        /// Processing failed, with an [`ErrorClass`]. It waits for another try: a dead letter.
        Errored = "errored",
        /// Its source or its feed is switched off.
        Disabled = "disabled",
    }
}

impl State {
    /// Whether a row in this state never changes its state again.
    pub const fn is_terminal(self) -> bool {
        matches!(self, State::Completed | State::Duplicate | State::Dropped | State::Canceled)
    }

    /// Whether a repeat of an event in this state is a duplicate. A repeat of any other event may still be needed.
    pub const fn has_duplicates(self) -> bool {
        matches!(self, State::Queued | State::Processing | State::Disabled | State::Completed)
    }
}

words! {
    /// Whose fault an error is, which decides what mends it.
    ErrorClass {
        /// The item does not fit the source's mapping. A reload of the configuration tries it again.
        Mapping = "mapping",
        /// The tracker did not answer, or says that there is no such bug. Its first success tries it again.
        Tracker = "tracker",
        /// The store, DNS or a proxy of ours failed. Such a failure uses up no attempt.
        Ours = "ours",
    }
}

words! {
    /// What caused the last try of an event, or will cause the next one.
    Trigger {
        /// It has just been received.
        Live = "live",
        /// The schedule of its source.
        Retry = "retry",
        /// A new event of its bug, a reload, or the tracker's recovery.
        Drain = "drain",
        /// A person received an old request again.
        Replay = "replay",
        /// The reconciler found that its webhook was lost.
        Reconcile = "reconcile",
        /// A person asked for a retry.
        Manual = "manual",
    }
}

impl Trigger {
    /// Whether the source's pace applies. Live events never wait for it.
    pub const fn is_paced(self) -> bool {
        !matches!(self, Trigger::Live)
    }
}

words! {
    /// Why an event was dropped.
    DropReason {
        /// The bug is private, by the mapping or by the tracker's word.
        Private = "private",
        /// The tracker says, twice, that there is no such bug or that it is not visible.
        Unknown = "unknown",
        /// No rule of the mapping applies to this kind of item.
        NotMapped = "not_mapped",
        /// The key is not allowed for the project that the item names.
        ProjectMismatch = "project_mismatch",
        /// A repeated mapping says that it concerns no bug.
        Ignored = "ignored",
        /// A newer event of the same bug was announced: `dropped_for`.
        Older = "older",
        /// It failed for seven days.
        Expired = "expired",
        /// A person dropped it.
        ByHand = "by_hand",
    }
}

words! {
    /// Where an event's time is from.
    WhenOrigin {
        /// The tracker gave it.
        Tracker = "tracker",
        /// The item had no usable time, so it is the time of receipt. It is never compared with another time.
        Arrival = "arrival",
    }
}

words! {
    /// How one event refers to another. (`blocked_by` changes with time, and is in [`Progress`].)
    LinkKind {
        /// Of a duplicate: what it repeats.
        DuplicateOf = "duplicate_of",
        /// Of a dropped event: the newer event that was announced.
        DroppedFor = "dropped_for",
        /// Of a canceled event: the newer event that was announced.
        CanceledBy = "canceled_by",
        /// Another event of the same bug and time, with another content.
        SameTimeAs = "same_time_as",
        /// Another event of the same delivery: with another content, or one of which nothing came.
        SameDeliveryAs = "same_delivery_as",
    }
}

/// A reference from one event to another. Links may be added to terminal events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// What it means.
    pub kind: LinkKind,
    /// The other event.
    pub to: EventId,
}

/// What a sender calls a delivery. With the source, this is an event's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// The delivery id (for example `X-GitHub-Delivery`), or the `id` of an item.
    pub id: Arc<str>,
    /// The index of the item in its request, from 0.
    pub item: u32,
}

/// An event as the store has it: everything that decisions need. Sender, key and request are in the store only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Its identifier.
    pub id: EventId,
    /// The name of the source that received it.
    pub source: Arc<str>,
    /// The feed, as the mapping says; the source's first one where the mapping failed before it knew.
    pub feed: Arc<str>,
    /// The bug; `None` where the mapping found no number.
    pub bug: Option<BugId>,
    /// When the bug changed. For [`WhenOrigin::Arrival`], this is the time of receipt.
    pub when: When,
    /// Where `when` is from.
    pub origin: WhenOrigin,
    /// When the request was received, by the clock of the process that received it.
    pub received_us: i64,
    /// The sender's word for what happened, for example `issue_comment`.
    pub kind: Arc<str>,
    /// The delivery id and item index, where the sender gave an id.
    pub delivery: Option<Delivery>,
    /// The hash of the content.
    pub hash: ContentHash,
    /// Whether the mapping says that the bug is private.
    pub private: bool,
    /// Whether the item is kept, so that a failed mapping can be tried again.
    pub retryable: bool,
    /// When it expires, if it is errored then: see [`super::schedule::expires_us`].
    pub expires_us: i64,
    /// The first event of its family: this one repeats it, or repeats another repeat of it, and it or that repeat was
    /// errored when this one came. Only one of a family is announced: see [`Event::family`].
    pub repeat_of: Option<EventId>,
    /// What became of it.
    pub progress: Progress,
}

/// The part of an event that changes, and only by a [`Step`](super::action::Step).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Its state.
    pub state: State,
    /// How many times this part was changed: the version of the compare-and-set.
    pub version: u32,
    /// The class of the last failure. It is kept when the event is queued again, because a failed mapping must be done
    /// again.
    pub class: Option<ErrorClass>,
    /// Why it was dropped.
    pub drop: Option<DropReason>,
    /// How many times processing was begun and failed, by any trigger. Failures of class `ours` do not count.
    pub attempts: u32,
    /// How far it is in the schedule: failures that count, except those of drains and retries by hand.
    pub step: u32,
    /// How many leases in a row ran out: each time, the worker that had the event was gone.
    pub leases_lost: u8,
    /// What caused the last try, or will cause the next one.
    pub trigger: Trigger,
    /// When its lane must be looked at for its sake: [`AT_ONCE`], not before this (queued), the end of the lease
    /// (processing), the next try or the expiry (errored). `None`: never for its sake, because it is terminal, disabled, or
    /// blocked. The store has an index on it. See [`Event::is_due`].
    pub due_us: Option<i64>,
    /// The dead letter behind which it waits.
    pub blocked_by: Option<EventId>,
    /// Whether a person let those behind it go on (only of a dead letter).
    pub released: bool,
    /// When the tracker first said that there is no such bug or that it is not visible.
    pub unseen_us: Option<i64>,
    /// When a new event of its bug last tried it.
    pub drained_us: Option<i64>,
    /// When processing last began.
    pub began_us: Option<i64>,
    /// When it reached a terminal state.
    pub ended_us: Option<i64>,
}

impl Progress {
    /// Whether it waits, with others, for a token of its source's pace. The store looks for due rows of live events and of
    /// paced ones separately, so that a backlog never delays a live event.
    ///
    /// A queued event that has failed and has no class was mapped again. It took a token for that, and needs no second one
    /// to be announced.
    pub const fn is_paced(&self) -> bool {
        let was_mapped = self.class.is_none() && self.attempts > 0;
        match self.state {
            State::Errored => true,
            _ => self.trigger.is_paced() && !was_mapped,
        }
    }

    /// Of an event that has just arrived, in this state.
    pub const fn new(state: State, trigger: Trigger) -> Progress {
        Progress {
            state,
            version: 0,
            class: None,
            drop: None,
            attempts: 0,
            step: 0,
            leases_lost: 0,
            trigger,
            due_us: None,
            blocked_by: None,
            released: false,
            unseen_us: None,
            drained_us: None,
            began_us: None,
            ended_us: None,
        }
    }
}

impl Event {
    /// [`Progress::is_paced`].
    pub const fn is_paced(&self) -> bool {
        self.progress.is_paced()
    }

    /// Whether its lane must be looked at for its sake: the query that the store answers.
    ///
    /// A time that lies further ahead than any delay was given by a clock that was wrong, and counts as past. In SQL:
    /// `due_us <= now OR due_us > now + LONGEST_US + 1 s OR state = 'processing' AND due_us > now + 2 * lease`. A lane in which
    /// an event is processed is due only if that event is.
    pub fn is_due(&self, now_us: i64, lease_us: i64) -> bool {
        let longest_us = match self.progress.state {
            State::Processing => 2 * lease_us,
            _ => LONGEST_US + SECOND_US,
        };
        self.progress.due_us.is_some_and(|due_us| due_us <= now_us || due_us > now_us.saturating_add(longest_us))
    }

    /// Whether the times of both can be compared: the tracker gave both to the same source.
    pub fn is_comparable(&self, other: &Event) -> bool {
        self.origin == WhenOrigin::Tracker && other.origin == WhenOrigin::Tracker && self.source == other.source
    }

    /// What names its family: the event that it repeats, or itself. Of a family, one is announced; the others are then
    /// duplicates of it or canceled by it.
    pub fn family(&self) -> EventId {
        self.repeat_of.unwrap_or(self.id)
    }

    /// Whether it repeats `other`: the same item of the same delivery, with the same content.
    pub fn is_same_item(&self, other: &Event) -> bool {
        self.source == other.source && self.delivery == other.delivery && self.hash == other.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_a_uuid() {
        let id = EventId(0x0192_f0c0_1234_7abc_8def_0123_4567_89ab);
        assert_eq!(id.to_string(), "0192f0c0-1234-7abc-8def-0123456789ab");
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(*state));
        }
        assert_eq!(State::parse("Queued"), None);
    }
}
