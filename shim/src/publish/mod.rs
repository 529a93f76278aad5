//! Where numbered changes go.
//!
//! Goes in: a batch of numbered changes, in order. Comes out: how many of them, from the front, are safe. Never reorders
//! and never skips: what could not be published is given again, from the same place.

pub mod amqp;

use bugfeed_protocol::Numbered;

/// Takes changes in order. Implemented by [`amqp::AmqpPublisher`] and by the all-in-one's in-process bus.
pub trait Publish: Send {
    /// Publishes a batch in order and returns how many, from the front, are safe: confirmed and delivered to somebody.
    /// Fewer than given without an error means "not now"; the rest is given again after a pause.
    ///
    /// An empty batch asks whether the way is open: it (re)connects, and fails if that fails. It is sent every few
    /// seconds while there is nothing to publish.
    ///
    /// # Errors
    /// When the rest could not be published; it is given again after a pause. The error holds how many are safe.
    fn publish(&mut self, batch: &[Numbered]) -> impl Future<Output = Result<usize, PublishError>> + Send;

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

/// What kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishFault {
    /// The connection is lost, or was never there.
    Lost,
    /// Nobody is there to take it yet.
    Unroutable,
    /// The broker refuses to take responsibility just now.
    Refused,
}
