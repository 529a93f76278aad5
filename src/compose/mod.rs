//! The composition of each role: the only place where roles meet, that builds, spawns, and joins everything at the end.
//!
//! Goes in: checked options, bound ports, and a stop. Comes out: nothing, or the fault that a person must mend. Knows no
//! command line: `cli` makes the options.

pub mod all_in_one;
pub mod gateway;
mod in_process_bus;
pub mod serving;
