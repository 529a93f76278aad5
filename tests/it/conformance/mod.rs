//! Conformance with RFC 6455 (WebSocket) and RFC 9112 (HTTP/1.1), by raw bytes against a real gateway.
//!
//! The cases of WebSocket have the numbers of the public list of Autobahn|Testsuite (its fuzzing client, categories 1 to
//! 7 and 9), and are written from the RFC. That suite wants echoes; a gateway answers text that is no command with an
//! error, so error replies stand for echoes here, and binary messages are closed with 1003. Cases with an `x` in front are
//! not in that list.

mod autobahn;
mod closing;
mod frames;
mod hosts;
mod hugeness;
mod requests;
mod texts;
mod wire;
