//! The API over HTTP and a real SQLite store.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

mod access;
mod documents;
mod endpoints;
mod endpoints_change;
mod endpoints_orders;
mod endpoints_sent;
mod events;
mod first_token;
mod keys;
mod many;
mod requests;
mod sources;
mod support;
mod tokens;
