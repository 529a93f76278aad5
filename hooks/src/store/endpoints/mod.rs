//! Endpoints: where webhooks go out to, how far each receiver has got, and what was tried.
//!
//! Goes in: endpoints that people make and change, rows that the planner has moved on, attempts. Comes out: the same, for the
//! process that serves an endpoint, and in pages for people. It decides nothing: what a row becomes is said by
//! [`bugfeed_core::endpoints`].
//!
//! | part | what |
//! |---|---|
//! | [`settings`], `columns` | what an endpoint is, and how it stands in the table |
//! | `read`, `change` | reading for executors and people; what people change, with its line in the audit log |
//! | [`save`], [`writer`] | what the planners change: many rows in one transaction |
//! | [`attempts`] | the log of attempts, and its bounds |
//! | [`leases`] | which process serves which endpoints |
//!
//! **Every write of a row is a compare-and-set on its version.** What the planner writes also needs the term of the lease of
//! the endpoint's partition. What people change also moves a counter, in the same transaction; so other processes find
//! what was changed by reading one row.

pub mod attempts;
mod change;
mod columns;
pub mod leases;
mod read;
pub mod save;
pub mod settings;
pub mod writer;

use std::fmt;
use std::sync::Arc;

use bugfeed_core::endpoints::partitions::PARTITIONS;
use bugfeed_core::endpoints::row::Row;

use super::codes;

pub use attempts::AttemptRow;
pub use change::{ChangeError, CreateError};
pub use read::{EndpointFilter, StateCounts};
pub use save::{Save, Saved};
pub use settings::{FeedChoice, Settings};
pub use writer::SaveQueue;

/// The most endpoints of a store.
pub const MAX_ENDPOINTS: u64 = 100_000;
/// The most bugs that an endpoint names.
pub const MAX_BUGS: usize = 10_000;

/// What an identifier begins with.
const PREFIX: &str = "ep_";
/// So many letters follow: 100 bits.
const LETTERS: usize = 20;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The identifier of an endpoint: `ep_` and 20 characters of lower-case Base32. It contains neither `-` nor `.`, which set the
/// parts of a `webhook-id` off from each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// Makes an identifier of random bytes; the first 100 bits count.
    pub fn new(random: [u8; 13]) -> EndpointId {
        let mut bits = u128::from_be_bytes(std::array::from_fn(|at| random.get(at).copied().unwrap_or(0)));
        let mut text = String::with_capacity(PREFIX.len() + LETTERS);
        text.push_str(PREFIX);
        for _ in 0..LETTERS {
            let letter = usize::try_from(bits >> 123).unwrap_or(0);
            text.push(char::from(BASE32[letter]));
            bits <<= 5;
        }
        EndpointId(text.into())
    }

    /// Reads an identifier; `None` if it has not this form.
    pub fn parse(text: &str) -> Option<EndpointId> {
        let letters = text.strip_prefix(PREFIX)?;
        let fits = letters.len() == LETTERS && letters.bytes().all(|byte| BASE32.contains(&byte));
        fits.then(|| EndpointId(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition, below [`PARTITIONS`]. Who holds its lease serves the endpoint.
    pub fn partition(&self) -> u16 {
        let hash = codes::number(&[b"endpoint", self.0.as_bytes()]);
        u16::try_from(hash.unsigned_abs() % u64::from(PARTITIONS)).unwrap_or(0)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An endpoint as the store has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its identifier.
    pub id: EndpointId,
    /// What people said of it, beside the row.
    pub settings: Settings,
    /// The row of its planner. [`Row::deleted`]: whoever serves it lets it go, and removes it
    /// ([`Store::remove_endpoints`](super::Store::remove_endpoints)).
    pub row: Row,
    /// What the counter of people's changes said when they changed it last.
    pub mark: u64,
}
