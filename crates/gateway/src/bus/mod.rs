//! Where a feed's changes come from: AMQP. It carries out what [`core::bus`](bugfeed_core::bus) says.

mod alarm;
pub mod amqp;
mod carry;
mod connection;
pub mod history;
mod options;

#[cfg(test)]
mod tests;
