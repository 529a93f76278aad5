//! What two bugfeed processes, or a client and a gateway, must agree on: the change, the cursor, the messages of the
//! bus and of clients, close codes and the reconnect schedule.
//!
//! Goes in: text and numbers. Comes out: typed values and exact bytes. Never does IO, reads a clock, or draws random
//! numbers; `tests/golden.rs` holds the exact bytes of every message.

pub mod backoff;
pub mod bus;
pub mod change;
pub mod client;
pub mod close;
pub mod cursor;
pub mod feed_name;
mod incoming;
pub mod log_event;
mod plain_datetime;
pub mod redact;
pub mod server;
pub mod token;

pub use change::{BugId, Change, Numbered, When};
pub use cursor::{Cursor, Epoch, Tag};
