//! The `bugfeed` command: its options, the composition of each role, and the terminal client.
//!
//! The only package that knows all roles: they meet in `compose`.

pub mod admin;
pub mod check;
pub mod cli;
pub mod compose;
pub mod hooks_config;
pub mod listen;
pub mod token;
pub mod watch;
pub mod welcome;
