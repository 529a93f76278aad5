//! Reading endpoints: for people in pages, for who serves them, and what people have changed.

use std::sync::Arc;

use bugfeed_core::endpoints::policy::State;
use bugfeed_core::endpoints::row::Row;
use bugfeed_protocol::BugId;

use super::{EndpointId, Stored};
use crate::store::{Store, StoreError};

/// Which endpoints are listed. All that is said must fit.
#[derive(Clone, Debug, Default)]
pub struct EndpointFilter {
    /// Those of this feed, also those of all feeds.
    pub feed: Option<String>,
    /// Those that are in this state at this time (microseconds since 1970).
    pub state: Option<(State, i64)>,
    /// Those that watch this bug, also those that watch all bugs.
    pub bug: Option<BugId>,
}

/// How many endpoints there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// [`State::Active`].
    pub active: u64,
    /// [`State::Cooling`].
    pub cooling: u64,
    /// [`State::Disabled`].
    pub disabled: u64,
    /// [`State::Paused`].
    pub paused: u64,
}

impl Store {
    /// An endpoint; `None` if there is none, or it was deleted. Reads what is newest.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoint(&self, _id: &EndpointId) -> Result<Option<Stored>, StoreError> {
        todo!()
    }

    /// A page of the endpoints, at most 1,000, newest first, without deleted ones. `None`: there is no endpoint `after` any
    /// more, so begin again.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints(
        &self,
        _filter: &EndpointFilter,
        _after: Option<&EndpointId>,
        _limit: usize,
    ) -> Result<Option<Vec<Stored>>, StoreError> {
        todo!()
    }

    /// How many endpoints are in each state at this time (microseconds since 1970).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn count_endpoints(&self, _now_us: i64) -> Result<StateCounts, StoreError> {
        todo!()
    }

    /// The endpoints of these partitions, for who takes them over: at most `limit`, in order of partition and identifier,
    /// also deleted ones. The next page begins after the last one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints_of(
        &self,
        _partitions: &[u16],
        _after: Option<&EndpointId>,
        _limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        todo!()
    }

    /// What people have changed since the counter said `since`, also what they have deleted; and what it says now, to ask
    /// again with. Reads one row when nothing was changed. At most 1,000 at a time: ask again at once as long as
    /// something comes.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints_changed(&self, _since: u64) -> Result<(Vec<Stored>, u64), StoreError> {
        todo!()
    }

    /// What the counter of people's changes says: to be read before the endpoints are taken over.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoints_mark(&self) -> Result<u64, StoreError> {
        todo!()
    }

    /// The rows of these endpoints as they are now, also deleted ones, in any order. Those that are gone are left out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoint_rows(&self, _ids: &[EndpointId]) -> Result<Vec<(EndpointId, Row)>, StoreError> {
        todo!()
    }

    /// The names of all feeds that endpoints have, also those of deleted ones; and whether one has all feeds.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn endpoint_feeds(&self) -> Result<(Vec<Arc<str>>, bool), StoreError> {
        todo!()
    }
}
