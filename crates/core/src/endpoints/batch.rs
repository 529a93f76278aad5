//! What one request brings: changes of one feed, a gap, or a test. Its JSON, its signature and the identifier of its
//! content are made elsewhere.

use std::sync::Arc;

use bugfeed_protocol::Cursor;

use super::question::{Place, Told};

/// The kind of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One change, live: `update`. Nothing was left out before it.
    Update,
    /// A backlog, or changes that came together: `updates`.
    Updates {
        /// The verdict: `complete` says that no change of this backlog was left out; otherwise the newest of each bug is
        /// sent (`latest`).
        complete: bool,
    },
    /// Changes may be missing.
    Gap,
}

/// What is sent in one request. It is frozen once it was sent: a retry has the same content, and the same identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The feed.
    pub feed: Arc<str>,
    /// The kind.
    pub kind: Kind,
    /// The changes, in order; none with a gap, one with an update.
    pub changes: Vec<Told>,
    /// What the receiver has once it has taken this.
    pub cursor: Cursor,
    /// Part of the identifier: the line's [`turn`](super::row::Line::turn). A recovery by hand begins a new one, so that a
    /// receiver that knows the identifiers that it has seen takes the same changes again.
    pub generation: u32,
    /// There is more.
    pub(super) more: bool,
    /// The endpoint's place once this was accepted; none if only the cursor says it.
    pub(super) place: Option<Place>,
}

impl Batch {
    /// The first number; none of a gap.
    pub fn first(&self) -> Option<u64> {
        self.changes.first().map(|told| told.cursor.seq)
    }

    /// The last number.
    pub fn last(&self) -> u64 {
        self.cursor.seq
    }

    /// Whether what is found now begins with the changes of this batch, so that none of them is out of date.
    pub(super) fn begins(&self, found: &[Told]) -> bool {
        found.get(..self.changes.len()).is_some_and(|begin| begin == self.changes)
    }
}
