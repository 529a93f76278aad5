//! The gateway: feeds, the bus they come from, and the HTTP side that clients connect to.
//!
//! Goes in: a broker's messages, and connections of clients. Comes out: updates. Keeps nothing on disk, and links no
//! database.

pub mod access;
pub mod bus;
pub mod events;
pub mod feed;
mod gauges;
pub mod http;
mod timing;

pub use timing::Stamps;
