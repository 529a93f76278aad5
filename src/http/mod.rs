//! The HTTP side: listeners, and what is served on each.
//!
//! Goes in: TCP connections. Comes out: pages, JSON answers, and WebSocket connections handed to their feed.

pub mod demo;
pub mod listen;
pub mod ops;
pub mod page;
pub mod routes;
