//! The core of the gateway, by itself.

#[path = "../../../src/core/mod.rs"]
pub mod core;
