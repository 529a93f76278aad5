//! What planners change: many rows in one transaction.
//!
//! Goes in: rows, each with the term under which it is served, and attempts. Comes out: what became of each row. A row is
//! written where its version is one less and the lease of its partition has this term. Attempts are written in any case; one
//! that is there already is passed over, so that a save may be repeated whose outcome is not known.

use bugfeed_core::endpoints::row::Row;

use super::{AttemptRow, EndpointId};
use crate::store::{Store, StoreError};

/// The most rows of one transaction.
pub const MOST: usize = 500;

/// One row to be written.
#[derive(Clone, Debug)]
pub struct Save {
    /// Whose.
    pub id: EndpointId,
    /// The row, with the version that it is to have. `None`: attempts only.
    pub row: Option<Row>,
    /// The partition.
    pub partition: u16,
    /// The term of the partition's lease.
    pub term: u64,
    /// What was tried.
    pub attempts: Vec<AttemptRow>,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The store has it.
    Stored,
    /// Somebody else has changed it, and it is this now; `None`: it is gone.
    Conflict(Option<Box<Row>>),
    /// The lease is another's.
    Lost,
}

impl Store {
    /// Writes rows of different endpoints, at most [`MOST`], in one transaction. Answers in their order.
    ///
    /// # Errors
    /// When the database cannot be written. It is then not known which rows were written; they may be saved again as they
    /// are.
    pub async fn save_endpoints(&self, _saves: &[Save]) -> Result<Vec<Saved>, StoreError> {
        todo!()
    }
}
