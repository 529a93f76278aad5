//! Webhooks out: everything around one request to an endpoint.
//!
//! Goes in: a batch that the planner decided to send, and an endpoint's settings. Comes out: its body and id (`body`,
//! `template`), signed headers (`sign`, `headers`), and what came of the request (`send`). `address` and `network` say where
//! requests may go; `callers` checks receivers that call us. Nothing here decides when something is sent, or what follows from
//! a failure, and nothing is stored.

pub mod address;
pub mod body;
pub mod callers;
#[cfg(test)]
mod documents_tests;
pub mod headers;
pub use bugfeed_core::network;
pub mod send;
pub mod sign;
#[cfg(test)]
mod signed_tests;
pub mod template;
