//! The receiver over real sockets, with a store in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod access;
mod bodies;
mod outage;
mod places;
mod protocol;
mod stop;
mod store;
mod support;
