//! The HTTP side: listeners, and what is served on each.
//!
//! Goes in: TCP connections. Comes out: pages, JSON answers, and hijacked WebSocket connections, which are handed to
//! their feed.

mod access;
pub mod demo;
mod handshake;
pub mod origins;
pub mod page;
pub mod poll;
pub mod query;
pub mod routes;
pub mod sse;
