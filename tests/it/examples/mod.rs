//! Each program below `examples/`, run as its header says, against the real thing: with a chat and a tracker that the test
//! plays, in Chromium (`browser`), with RabbitMQ (`real`).

mod browser;
mod curl;
mod node_bot;
mod python_bot;
mod real;
pub mod site;
pub mod tools;
mod webhook_endpoint;
mod webhook_receiver;
