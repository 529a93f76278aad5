//! The shim: change table → ledger → publisher.
//!
//! Goes in: rows that a bug tracker commits to its change table. Comes out: the same changes, numbered once, in order,
//! given to a publisher (AMQP, or the in-process bus of the all-in-one) until it has them safely. Never loses a
//! committed row, never gives one change two numbers or one number two changes, whatever dies at whatever instruction.

pub mod admin;
pub mod amqp;
pub mod app;
pub mod cli;
pub mod events;
pub mod ledger;
mod log_filter;
pub mod publish;
pub mod relay;
pub mod source;
pub mod sql;
pub mod usage;
