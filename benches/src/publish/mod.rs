//! How updates get into a server: each has its own way.

pub mod amqp;
pub mod lines;
pub mod stream;

use anyhow::Result;
use bugfeed_protocol::Change;

use crate::clock::{Stamps, now_ns, sleep_until};
use crate::plan::Phase;

/// Whom updates are given to.
pub trait Publish {
    /// Hands one over.
    ///
    /// # Errors
    /// When the connection failed.
    fn send(&mut self, change: Change) -> Result<()>;

    /// Puts everything handed over on its way.
    ///
    /// # Errors
    /// When the connection failed.
    fn flush(&mut self) -> Result<()>;

    /// Waits until everything has arrived, as far as the way tells.
    ///
    /// # Errors
    /// When something was refused.
    fn settle(&mut self) -> Result<()>;
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One every so many nanoseconds.
    Every(u64),
    /// As fast as they are taken.
    Full,
}

impl Pace {
    /// So many a second.
    pub fn per_second(rate: u32) -> Pace {
        Pace::Every(1_000_000_000 / u64::from(rate.max(1)))
    }

    /// Nanoseconds from one to the next; 0 for full speed.
    pub fn every_ns(self) -> u64 {
        match self {
            Pace::Every(ns) => ns,
            Pace::Full => 0,
        }
    }
}

/// Publishes a phase, and notes when each update was sent.
///
/// # Errors
/// When the way fails.
pub fn publish(to: &mut dyn Publish, phase: &Phase, pace: Pace, stamps: &Stamps) -> Result<()> {
    let start = now_ns();
    for (number, index) in phase.indices().enumerate() {
        if let Pace::Every(ns) = pace {
            sleep_until(start + number as u64 * ns);
        }
        stamps.put(index, now_ns())?;
        to.send(phase.change(index))?;
        if pace != Pace::Full {
            to.flush()?;
        }
    }
    to.flush()?;
    to.settle()
}
