//! The composition of each role. Roles meet only here: this module builds and starts their parts, and joins everything
//! at the end.
//!
//! Goes in: checked options, bound ports, and a token that stops. Comes out: nothing, or the fault that a person must
//! mend. Knows no command line: `cli` makes the options.

mod access;
pub mod all_in_one;
mod data_dir;
pub mod gateway;
pub mod hooks;
mod in_process_bus;
mod local_feed;
mod local_hooks;
pub mod serving;
mod status;
mod taps;
