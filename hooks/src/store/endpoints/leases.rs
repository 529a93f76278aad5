//! Who serves which endpoints: leases of partitions, many at once.
//!
//! Goes in: the time. Comes out: what this process holds, with the terms (fencing tokens), and what it should give away, so
//! that all processes have equal shares. [`bugfeed_core::endpoints::partitions`] decides; this module reads and writes the
//! rows. A lease is given up by 6 s of silence, as all of [`crate::store::leases`]. Each process also has a row of its own,
//! so that others know that it wants a share.
//!
//! **How to use it**: one [`Leases::round`] each second. Serve what was taken within the fence: nothing from
//! [`Taken::waits`] after the round on, if the holder before may be sending yet; nothing from [`FENCE`] after the beginning
//! ([`Round::begun`]) of the last round that said [`Round::held`]. What the round wants to be given away: finish its requests,
//! save its rows, then [`Leases::release`] it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::store::{Store, StoreError};

/// A holder begins no request so long after the beginning of its last round, unless another round held the lease.
pub const FENCE: Duration = Duration::from_secs(5);

/// The leases of one process.
#[derive(Debug)]
pub struct Leases {}

/// A partition that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub partition: u16,
    /// The fencing token.
    pub term: u64,
    /// The holder before has not given it back, and may have a request in flight: begin none before
    /// [`REQUEST_US`](bugfeed_core::endpoints::endpoint::REQUEST_US) have passed since the end of the round.
    pub waits: bool,
}

/// What a round did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// When it began: the fence of what is held counts from here.
    pub begun: Instant,
    /// All that is held now, with its term, also what was taken.
    pub held: BTreeMap<u16, u64>,
    /// What was taken just now.
    pub taken: Vec<Taken>,
    /// What was held before, and is another's now: its requests are to be aborted.
    pub lost: Vec<u16>,
    /// What others should have: let it go in order, and then [`Leases::release`] it.
    pub give: Vec<u16>,
}

impl Leases {
    /// The leases of this process, none yet. Each call is a process of its own for the others.
    pub fn new(_store: &Store) -> Leases {
        todo!()
    }

    /// Shows that this process lives, and takes what is free and its share.
    ///
    /// # Errors
    /// When the database cannot be read or written. What was held is then held on, until its fence ends.
    pub async fn round(&mut self) -> Result<Round, StoreError> {
        todo!()
    }

    /// Gives these back: others may serve them at once. Nothing of them may be in flight.
    ///
    /// # Errors
    /// When the database cannot be written; others then wait for the silence.
    pub async fn release(&mut self, _partitions: &[u16]) -> Result<(), StoreError> {
        todo!()
    }

    /// Gives everything back, and leaves.
    ///
    /// # Errors
    /// When the database cannot be written; others then wait for the silence.
    pub async fn leave(&mut self) -> Result<(), StoreError> {
        todo!()
    }
}
