//! How a gateway reacts to its bus. The tests play the publisher: it says heads, falls silent, or is replaced by another.
//! Connections are cut, exchanges and streams are deleted.

mod chaos;
mod continuity;
mod feeds;
mod publisher;
mod start;
