//! Where a feed's changes come from: AMQP, or the shim in the same process. Both carry out what [`core::bus`](crate::core::bus)
//! says, and know nothing of each other.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

pub mod amqp;
mod carry;
pub mod history;
mod link;
pub mod local;

/// A tick a second, none made up for.
fn ticks() -> Interval {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}
