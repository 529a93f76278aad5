//! The log of attempts: what was sent, and what came of it.
//!
//! Goes in: attempts, with the saves of their endpoints. Comes out: pages, newest first. Bounded by time and by size; the oldest
//! go, in small steps.

use bugfeed_core::hooks::event::Trigger;

use super::EndpointId;
use crate::store::{Store, StoreError};

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its identifier, a UUID of version 7, which begins with the time.
    pub id: u128,
    /// Whose.
    pub endpoint: EndpointId,
    /// The feed; none for a test of an endpoint without feeds.
    pub feed: Option<String>,
    /// Why it was sent.
    pub trigger: Trigger,
    /// When it was sent, in microseconds since 1970.
    pub begun_us: i64,
    /// How long it took, in microseconds.
    pub took_us: i64,
    /// The status; none if there was no response.
    pub status: Option<u16>,
    /// Why there was no response: the word of its class, at most 32 characters.
    pub fault: Option<String>,
    /// The same for people, at most 1,000 characters.
    pub error: Option<String>,
    /// The beginning of the response.
    pub response: String,
    /// The `webhook-id`, at most 200 characters.
    pub webhook_id: String,
    /// Whether it counted for the policy.
    pub counts: bool,
    /// The body that was sent, byte for byte: it is UTF-8.
    pub request: String,
    /// Its type, at most 100 characters.
    pub content_type: String,
}

impl Store {
    /// A page of an endpoint's attempts, at most 1,000, newest first, also of one that was deleted. Bodies and responses
    /// are included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn attempts(
        &self,
        _endpoint: &EndpointId,
        _after: Option<u128>,
        _limit: usize,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        todo!()
    }

    /// An attempt; `None` if there is none (any more).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn attempt(&self, _id: u128) -> Result<Option<AttemptRow>, StoreError> {
        todo!()
    }
}
