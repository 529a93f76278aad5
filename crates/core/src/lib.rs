//! The pure core: replay, order, subscriptions and one shard's sessions.
//!
//! Knows no socket, clock, broker or database: inputs are method calls, `now` is an argument, and what is to be
//! written goes through the [`shard::Peer`] that the caller brings.

mod backlog;
pub mod budget;
pub mod bus;
pub mod frame;
pub mod input;
mod packed_u64;
pub mod position_map;
pub mod replay;
mod ring;
pub mod seen_numbers;
pub mod sequencer;
mod session;
pub mod shard;
pub mod subscriptions;
