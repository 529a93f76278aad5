//! The receiver over real sockets, with a store in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod access;
mod answers;
mod bodies;
mod outage;
mod stop;
mod store;
mod support;
