//! Webhooks in: what a tracker POSTs becomes changes, by a mapping that is written in TOML.
//!
//! [`config`] reads the mapping, [`receive`] applies it. Both are pure: no IO, no clock, no randomness, no async runtime;
//! time, random bytes and the contents of files are arguments.

pub mod config;
pub mod receive;
