//! A request, and what its items become: the words in which [`super::mapping::map`] answers.

use bugfeed_protocol::{BugId, When};

use super::identity::Sha256;
use super::lookup::Headers;
use super::received::Failure;
use crate::config::mapping::Answer;

/// A request has at most this many items.
pub const MAX_ITEMS: usize = 500;
/// A body has at most this many JSON values, names of members included. In memory a value takes up to 300 bytes, so
/// that a body of 25 MiB could otherwise take gigabytes.
pub const MAX_VALUES: usize = 250_000;

/// A request as it came.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The headers.
    pub headers: &'a dyn Headers,
    /// The body, not compressed.
    pub body: &'a [u8],
    /// When it was received.
    pub arrived: When,
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// A change.
    Item(Item),
    /// No change, on purpose.
    Dropped(Dropped),
    /// Something is wrong with it, or with the mapping (class `mapping`). Boxed, because it is rare and large.
    Errored(Box<Errored>),
    /// No change of a bug at all: another event, a ping, a test.
    Answered {
        /// Which of these.
        answer: Answer,
        /// What is known of it.
        about: About,
    },
}

/// What is known of each item, whatever became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// What sort of event it is; empty where the sender does not say. At most 200 bytes.
    pub kind: String,
    /// The sender's identifier of the delivery. One of more than 200 bytes is replaced by `sha256:` and its hash.
    pub delivery: Option<String>,
    /// The tracker's project. At most 200 bytes.
    pub project: Option<String>,
}

/// A change of a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which bug.
    pub bug: BugId,
    /// When it changed.
    pub time: Time,
    /// Of an item that is dated by arrival although it has a date: why that cannot be read.
    pub unreadable: Option<Failure>,
    /// Which feed it goes to.
    pub feed: String,
    /// The bug is private, and the source announces such bugs.
    pub is_private: bool,
    /// Hash of source, bug, time (where it is the tracker's), kind, and what the mapping calls `identity`.
    pub identity: Sha256,
    /// The rest.
    pub about: About,
}

/// An item's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// The instant.
    pub when: When,
    /// Where it is from.
    pub origin: TimeOrigin,
}

/// Where a time is from. Only times of the tracker may be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOrigin {
    /// The tracker said it.
    Tracker,
    /// The time of arrival: none was said, or none that can be read.
    Arrival,
    /// The time of arrival: what was said is more than 5 minutes ahead of it, so a clock is wrong.
    ArrivalClock,
}

impl TimeOrigin {
    /// Whether the tracker said it.
    pub fn is_tracker(self) -> bool {
        self == TimeOrigin::Tracker
    }
}

/// An item that is no change, on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// Which bug, if it is known.
    pub bug: Option<BugId>,
    /// Which feed it would go to, if there is one for its project.
    pub feed: Option<String>,
    /// When it changed.
    pub time: Time,
    /// What is needed to map it once more, where another configuration may map it.
    pub kept: Option<Kept>,
    /// The rest.
    pub about: About,
}

/// Why an item is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The bug is private.
    Private,
    /// The source maps the item's project to no feed.
    NotMapped,
}

/// An item with which something is wrong: class `mapping`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errored {
    /// What is wrong.
    pub error: String,
    /// How to mend it.
    pub fix: String,
    /// The item's time.
    pub time: Time,
    /// What is needed to map it once more. A broken line of NDJSON is kept as it is, so another try errs again.
    pub kept: Kept,
    /// The rest.
    pub about: About,
}

/// What is kept of an item for another try.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    /// The item, as JSON text.
    pub item: String,
    /// The headers that the mapping looks at; and, under names such as `root:/project`, the parts of the body outside
    /// the item, as JSON text.
    pub headers: Vec<(String, String)>,
}

/// Why a request as a whole has no items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// What is wrong.
    pub error: String,
    /// How to mend it.
    pub fix: String,
    /// It asks for more than is taken in one request. Parts of it would be taken.
    pub is_too_much: bool,
}

impl RequestError {
    pub(crate) fn new(error: impl Into<String>, fix: impl Into<String>) -> RequestError {
        RequestError { error: error.into(), fix: fix.into(), is_too_much: false }
    }

    pub(crate) fn too_many_values() -> RequestError {
        RequestError {
            error: format!("the body has more than {MAX_VALUES} JSON values; nothing was taken"),
            fix: "send fewer items in a request, or fewer members of each".to_owned(),
            is_too_much: true,
        }
    }

    pub(crate) fn too_many(number: usize) -> RequestError {
        RequestError {
            error: format!("the request has {number} items, and at most {MAX_ITEMS} are taken; nothing was taken"),
            fix: format!("send them in several requests of up to {MAX_ITEMS}"),
            is_too_much: true,
        }
    }
}
