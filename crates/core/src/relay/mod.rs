//! The decisions of the relay, which brings changes from the tracker's table over the ledger to the bus.
//!
//! Goes in: rows, what became of a statement or a publication, the time. Comes out: what to do next. Three planners, each
//! a state machine: the [`poller`] (table to ledger), the [`outlet`] (ledger to bus) and the [`heads`]. Between the
//! first two lies the [`outbox`]; what the ledger holds is known from its [`book`]. Whoever drives a planner carries out
//! its actions one after the other and answers those that have an answer. An error of the ledger has none: planners and
//! book are dropped then, and begin again with what the ledger says. Never touches a database, a broker or a clock.

pub mod book;
pub mod heads;
pub mod outbox;
pub mod outlet;
mod pace;
pub mod pending;
pub mod poller;
mod row;

use std::time::Duration;

use bugfeed_protocol::backoff::Backoff;

pub use row::{BadRow, Row, RowKey};

/// The longest pause before the next attempt, in milliseconds, counting one more failure. Whoever pauses draws from the
/// upper half of it.
fn longest_pause_ms(backoff: &mut Backoff) -> u64 {
    millis(backoff.next(1.0))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
