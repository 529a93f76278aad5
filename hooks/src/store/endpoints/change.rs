//! What people change: each change with its line in the audit log, in one transaction.

use bugfeed_core::endpoints::row::Row;

use super::{EndpointId, MAX_BUGS, MAX_ENDPOINTS, Settings, Stored};
use crate::store::audit::Deed;
use crate::store::{Store, StoreError};

/// Why an endpoint was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    /// There are too many.
    #[error("there are {MAX_ENDPOINTS} endpoints already; delete those that are not used")]
    TooMany,
    /// It names too many bugs.
    #[error("an endpoint may name {MAX_BUGS} bugs; watch all of them, or make several endpoints")]
    TooManyBugs,
    /// The store failed. It is not known whether the endpoint was made.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an endpoint was not changed.
#[derive(Clone, Debug)]
pub enum ChangeError<E> {
    /// There is none, or it was deleted.
    Missing,
    /// The change refused.
    Refused(E),
    /// It would name more than [`MAX_BUGS`] bugs.
    TooManyBugs,
    /// The store failed. If a commit failed, it is not known whether the change was made.
    Store(StoreError),
}

impl<E> From<StoreError> for ChangeError<E> {
    fn from(error: StoreError) -> ChangeError<E> {
        ChangeError::Store(error)
    }
}

impl Store {
    /// Makes an endpoint.
    ///
    /// # Errors
    /// If there are too many, or the database cannot be written.
    pub async fn create_endpoint(
        &self,
        _id: &EndpointId,
        _settings: &Settings,
        _row: &Row,
        _deed: Option<&Deed>,
    ) -> Result<Stored, CreateError> {
        todo!()
    }

    /// Reads an endpoint, changes it and writes it, again if somebody else was quicker. So `change` may be called several
    /// times; the last call counts. What [`carry_out`](bugfeed_core::endpoints::orders::carry_out) does to the version is right; a
    /// change of the settings alone counts the version up here. Where nothing changed, nothing is written, and no deed.
    /// Returns the endpoint as it is now, and what the change said.
    ///
    /// # Errors
    /// If there is none, the change refuses, or the database cannot be read or written.
    pub async fn change_endpoint<T, E>(
        &self,
        _id: &EndpointId,
        _deed: Option<&Deed>,
        _change: impl FnMut(&mut Settings, &mut Row) -> Result<T, E> + Send,
    ) -> Result<(Stored, T), ChangeError<E>> {
        todo!()
    }

    /// Removes the rows of deleted endpoints, once they are served no more. Their attempts stay until their time is over.
    /// Endpoints that were not deleted stay. Returns how many went.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn remove_endpoints(&self, _ids: &[EndpointId]) -> Result<u64, StoreError> {
        todo!()
    }
}
