//! Hears from a bugfeed gateway which bugs have just changed, and misses none.
//!
//! Goes in: a gateway's address and bug numbers. Comes out: a [`Stream`](futures::Stream) of events. The feed
//! reconnects by itself and resumes from its cursor, on any gateway of the feed; if changes may be missing, it says so.
//! It never asks what changed in a bug: that is a question for the tracker's own API.
//!
//! ```no_run
//! use bugfeed_client::{Event, Feed};
//!
//! # async fn bot() -> Result<(), bugfeed_client::Error> {
//! let mut feed = Feed::builder("ws://127.0.0.1:8844/")?.bugs([1234, 5678]).state_file("bot.cursor").connect();
//! while let Some(event) = feed.next().await {
//!     match event? {
//!         Event::Change(change) => println!("bug {} changed at {}", change.bug, change.when),
//!         Event::Gap(bugs) => println!("ask the tracker for all of these: {bugs:?}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Delivery is at-least-once. An event counts as dealt with when the next one is asked for; only then is the cursor
//! stored. So a bot that dies while it deals with an event gets that event again. [`Feed::finish`] ends a feed in
//! order; dropping it ends everything at once.
//!
//! Inside, the protocol is a state machine without sockets or clocks (`core`), a queue holds events for the application
//! (`delivery_queue`), and one task (`driver`) performs what they ask for.

mod connection_end;
mod core;
mod cursor_saver;
mod delivery_queue;
mod driver;
mod error;
mod event;
mod feed;
mod link;
mod store;
mod token;
mod words;

#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod feed_tests;
#[cfg(test)]
mod patience_tests;
#[cfg(test)]
mod token_tests;

pub use bugfeed_protocol::server::{FeedState, Verdict};
pub use bugfeed_protocol::{BugId, Change, When};

pub use crate::error::Error;
pub use crate::event::{Event, Protocol, State};
pub use crate::feed::{Builder, Feed, Handle};
pub use crate::link::address;
pub use crate::store::{FileStore, Store, replace_file};
pub use crate::words::{plain, shown};

/// The README's bot, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
