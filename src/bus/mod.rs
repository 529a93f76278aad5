//! Where a feed's changes come from: AMQP, or the shim in the same process.

pub mod amqp;
pub mod history;
pub mod local;
