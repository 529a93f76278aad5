//! The commands about webhooks, from the command line to the output, against the API in this process over a real SQLite
//! store.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

mod endpoints;
mod errors;
mod events;
mod keys;
mod support;
mod tools;
