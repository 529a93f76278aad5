//! Where a feed's changes come from: AMQP, or the shim in the same process.

pub mod amqp;
mod carry;
pub mod history;
mod link;
pub mod local;
