//! The shim's tests: on SQLite files without any server, and on real MariaDB, PostgreSQL and RabbitMQ servers in modules
//! named `real` (those that start servers of their own in `real::chaos`).

mod binary;
mod ledger;
mod real;
mod support;
mod table;
