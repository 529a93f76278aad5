//! Which process serves which endpoints: who takes, and who gives away, so that all have equal shares.

/// Endpoints are shared out in so many parts. A lease is for a part.
pub const PARTITIONS: u16 = 32;
