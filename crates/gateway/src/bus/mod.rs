//! Where a feed's changes come from over AMQP.

pub mod amqp;
mod carry;
pub mod history;
mod link;
