//! The pure core: replay, order, subscriptions and one shard's sessions.
//!
//! Knows no socket, clock, broker or database: inputs are method calls, `now` is an argument, and what is to be
//! written goes through the [`shard::Peer`] that the caller brings.

mod backlog;
pub mod budget;
pub mod bus;
pub mod frame;
pub mod input;
pub mod intake;
pub mod numbering;
mod packed_u64;
pub mod replay;
mod ring;
pub mod sequence;
mod session;
pub mod shard;
pub mod subscriptions;
