//! Group commit: saves that wait are written together.
//!
//! Goes in: saves, one at a time for each endpoint. Comes out: what became of each. One task writes; while it does, others
//! queue up, and go together into the next transaction. So the more there is to write, the less each costs.

use std::future::Future;

use super::{Save, Saved};
use crate::store::{Store, StoreError};

/// A queue of saves. Clones share it. The task ends when all clones are gone.
#[derive(Clone, Debug)]
pub struct SaveQueue {}

impl SaveQueue {
    /// Starts the task that writes.
    pub fn start(_store: Store) -> SaveQueue {
        todo!()
    }

    /// Puts a save into the queue, at once; the future says what became of it. If the future is dropped, it is written all
    /// the same.
    ///
    /// # Errors
    /// When the database cannot be written: it is not known whether the row was written. Or the store is being closed.
    pub fn save(&self, _save: Save) -> impl Future<Output = Result<Saved, StoreError>> + Send + use<> {
        async move { todo!() }
    }
}
