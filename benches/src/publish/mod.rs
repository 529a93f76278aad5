//! How updates get into a server: one module for each way.

pub mod amqp;
pub mod lines;
pub mod stream;

use anyhow::Result;
use bugfeed_protocol::Change;

use crate::clock::{Stamps, now_ns, sleep_until};
use crate::plan::Phase;

/// A way to publish updates.
pub trait Publish {
    /// Hands over one update; it may wait in a buffer.
    ///
    /// # Errors
    /// When the connection failed.
    fn send(&mut self, change: Change) -> Result<()>;

    /// Sends everything that was handed over.
    ///
    /// # Errors
    /// When the connection failed.
    fn flush(&mut self) -> Result<()>;

    /// Waits until everything has arrived, as far as the protocol tells.
    ///
    /// # Errors
    /// When something was refused.
    fn settle(&mut self) -> Result<()>;
}

/// How long `bugfeed-shim` gathers changes while they keep coming (`crates/core/src/relay/pace.rs`).
const ROUND_NS: u64 = 10_000_000;

/// How fast updates are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One update every so many nanoseconds.
    Every(u64),
    /// The same, but those of 10 ms are sent together. (`bugfeed-shim` takes up to 15 ms together, `core/relay/pace.rs`.)
    Gathered(u64),
    /// As fast as the server takes them.
    Full,
}

impl Pace {
    /// This many updates a second.
    pub fn per_second(rate: u32) -> Pace {
        Pace::Every(1_000_000_000 / u64::from(rate.max(1)))
    }

    /// Nanoseconds from one update to the next; 0 for full speed.
    pub fn every_ns(self) -> u64 {
        match self {
            Pace::Every(ns) | Pace::Gathered(ns) => ns,
            Pace::Full => 0,
        }
    }

    /// The same pace, with what comes in 10 ms sent together.
    #[must_use]
    pub fn gathered(self) -> Pace {
        match self {
            Pace::Every(ns) => Pace::Gathered(ns),
            other => other,
        }
    }
}

/// Publishes a phase, and writes down when each update was sent.
///
/// # Errors
/// When publishing fails.
pub fn publish(to: &mut dyn Publish, phase: &Phase, pace: Pace, stamps: &Stamps) -> Result<()> {
    let start = now_ns();
    let mut sent_ns = start;
    for (number, index) in phase.indices().enumerate() {
        sleep_until(start + number as u64 * pace.every_ns());
        stamps.put(index, now_ns())?;
        to.send(phase.change(index))?;
        let sends = match pace {
            Pace::Every(_) => true,
            Pace::Gathered(_) => now_ns() >= sent_ns + ROUND_NS,
            Pace::Full => false,
        };
        if sends {
            to.flush()?;
            sent_ns = now_ns();
        }
    }
    to.flush()?;
    to.settle()
}
