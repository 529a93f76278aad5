//! The decisions of the relay, which carries changes from the tracker's table over the ledger to the bus.
//!
//! Goes in: rows, the outcome of each statement and each publication, the time. Comes out: what to do next. There are
//! three planners, each a state machine: the [`poller`] (table to ledger), the [`outlet`] (ledger to bus) and the
//! [`heads`]. The [`outbox`] lies between the first two. The [`book`] knows what the ledger holds. The driver of a
//! planner carries out its actions one after the other, and answers those that have an answer. An error of the ledger
//! is no answer: it ends the tenure; planners and book are dropped, and new ones begin with what the ledger says. Never
//! touches a database, a broker or a clock.

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

/// Counts one more failure, and returns the longest pause before the next attempt, in milliseconds. The caller draws
/// its pause from the upper half of that (jitter).
fn longest_pause_ms(backoff: &mut Backoff) -> u64 {
    millis(backoff.next(1.0))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
