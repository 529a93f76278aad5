//! The pure core of a gateway and of a shim: which message is new, the replay cache, the shards with their sessions,
//! and the planners of the bus and of the relay.
//!
//! It knows no socket, clock, broker or database. Inputs are method calls, the time is an argument, and bytes for
//! clients are written through the [`shard::Peer`] that the caller provides.

pub mod access;
pub mod admission;
mod backlog;
pub mod budget;
pub mod bus;
pub mod client_address;
mod cursor_hold;
pub mod endpoints;
pub mod frame;
pub mod hooks;
pub mod input;
pub mod network;
mod packed_u64;
pub mod position_map;
pub mod relay;
pub mod replay;
mod ring;
pub mod seen_numbers;
pub mod sequencer;
mod session;
pub mod shard;
pub mod subscriptions;
