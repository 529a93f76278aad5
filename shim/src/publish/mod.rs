//! Where numbered changes go.
//!
//! Goes in: a batch of numbered changes, in order. Comes out: how many of them, from the front, are safe. Never reorders
//! and never skips: what could not be published is given again, from the same place.

pub mod amqp;
mod connection;
mod heads;
pub mod history;
pub mod message;
mod options;

use bugfeed_protocol::{Cursor, Numbered};

use crate::ledger::{Ledger, LedgerError};
pub use bugfeed_core::relay::outlet::Fault as PublishFault;
pub use heads::Heads;

/// Takes changes in order. Implemented by [`amqp::AmqpPublisher`] and by the all-in-one's in-process bus.
pub trait Publish: Send {
    /// This process holds the ledger's lease and begins to work on it, for the first time or again.
    ///
    /// # Errors
    /// When the ledger cannot be read; it is asked again after a pause.
    fn begin(&mut self, _ledger: &Ledger) -> impl Future<Output = Result<(), LedgerError>> + Send {
        async { Ok(()) }
    }

    /// This process does not hold the ledger's lease any more.
    fn rest(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Makes sure that the way is open; whether it was opened anew since this was last asked. Called before each batch, and
    /// every few seconds while there is nothing to publish. Only this opens a way: a batch goes where it was looked at.
    ///
    /// # Errors
    /// When there is no way just now; it is asked again after a pause.
    fn connect(&mut self) -> impl Future<Output = Result<bool, PublishError>> + Send {
        async { Ok(false) }
    }

    /// The latest numbers that the bus keeps, in its order; none where it keeps no history.
    ///
    /// # Errors
    /// When that cannot be read.
    fn end(&mut self) -> impl Future<Output = Result<Option<Vec<Cursor>>, PublishError>> + Send {
        async { Ok(None) }
    }

    /// Publishes a batch in order and returns how many, from the front, are safe: confirmed and delivered to somebody.
    /// Fewer than given without an error means "not now"; the rest is given again after a pause.
    ///
    /// # Errors
    /// When the rest could not be published; it is given again after a pause. The error holds how many are safe.
    fn publish(&mut self, batch: &[Numbered]) -> impl Future<Output = Result<usize, PublishError>> + Send;

    /// By which heads are said, if they are.
    fn heads(&self) -> Option<Heads> {
        None
    }

    /// Where changes go, in words and without a password.
    fn place(&self) -> Option<String> {
        None
    }

    /// Ends politely; called once, at the end.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A batch, or the rest of it, could not be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PublishError {
    /// How many changes, from the front of the batch, are safe nevertheless.
    pub published: usize,
    /// What kind of trouble.
    pub fault: PublishFault,
    /// What happened and what to do, in one line, without a password.
    pub reason: String,
}
