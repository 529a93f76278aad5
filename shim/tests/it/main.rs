//! The shim's tests: on SQLite files without any server, and on real MariaDB, PostgreSQL and RabbitMQ servers in modules
//! named `real` (those that start servers of their own in `real::chaos`).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails the test")]

mod binary;
mod in_place;
mod kept;
mod ledger;
mod lineage;
mod moved;
mod real;
mod relay;
mod rig;
mod support;
mod table;
