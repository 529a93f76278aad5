//! Where received requests go: the store, seen from the receiver.
//!
//! Goes in: a request that was mapped, or one for quarantine. Comes out: what became of it, once that is durable; or
//! that the store is away.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::receive::received::{Accepted, Quarantined, QuarantinedRequest, ReceivedRequest};

/// The store did not say that it has the request. It may have it all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreAway(pub String);

/// What the store has promised to say.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreAway>> + Send + 'a>>;

/// The store, as far as the receiver needs it.
///
/// Both calls may come again with the same request, after a [`StoreAway`] or a crash. The store knows it by its
/// identifier, writes nothing and answers as before.
pub trait Intake: Send + Sync + 'static {
    /// Stores a request and its events. What comes back is durable.
    fn accept(&self, request: Arc<ReceivedRequest>) -> Answering<'_, Accepted>;

    /// Stores a request in quarantine, if there is room in its share.
    fn quarantine(&self, request: Arc<QuarantinedRequest>) -> Answering<'_, Quarantined>;
}
