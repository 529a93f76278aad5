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
pub(in crate::store) mod columns;
pub mod leases;
pub mod read;
pub mod save;
pub(in crate::store) mod schema;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        let id = EndpointId::new(std::array::from_fn(|at| u8::try_from(at * 19).unwrap()));
        assert_eq!(id.as_str(), "ep_aajsmokml5zilgflx3i6");
        assert_eq!(EndpointId::new([255; 13]).as_str(), format!("ep_{}", "7".repeat(20)));
        assert_eq!(EndpointId::parse(id.as_str()), Some(id.clone()));
        for bad in [
            "",
            "ep_",
            "ep_aajsmokml5zilgflx3i",
            "ep_aajsmokml5zilgflx3i6b",
            "ep_Aajsmokml5zilgflx3i6",
            "ep_1ajsmokml5zilgflx3i6",
        ] {
            assert_eq!(EndpointId::parse(bad), None, "{bad}");
        }
        assert!(!id.as_str().contains(['-', '.']));
    }

    /// Partitions stand in stores that exist.
    #[test]
    fn partitions_never_change_and_are_about_equal() {
        assert_eq!(EndpointId::new([1; 13]).partition(), 29);
        let mut counts = [0; PARTITIONS as usize];
        for n in 0..3200_u32 {
            let mut random = [0; 13];
            random[..4].copy_from_slice(&n.to_be_bytes());
            counts[usize::from(EndpointId::new(random).partition())] += 1;
        }
        assert!(counts.iter().all(|count| (60..150).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_server_of_a_url() {
        let mut settings = Settings {
            url: String::new(),
            secret: crate::deliver::sign::SigningSecret::generate(&[1; 32]),
            previous: None,
            headers: crate::deliver::headers::UserHeaders::default(),
            description: String::new(),
            feeds: FeedChoice::All,
            template: None,
            created_us: 0,
        };
        for (url, want) in [
            ("https://a.example:8443/x?y", "https://a.example:8443"),
            ("https://a.example?y", "https://a.example"),
            ("https://a.example", "https://a.example"),
            ("https://user:pass@a.example/x", ""),
            ("", ""),
        ] {
            settings.url = url.to_owned();
            assert_eq!(settings.server(), want);
        }
    }
}
