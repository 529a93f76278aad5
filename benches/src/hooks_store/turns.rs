//! When single requests are sent: at full speed, or so many in a second.
//!
//! Goes in: the pace. Comes out, for many senders at once: the number of the next request, and when it was due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The turns of the senders.
pub(super) struct Turns {
    first: u64,
    next: AtomicU64,
    begin: Instant,
    until: Instant,
    rate: Option<u32>,
}

impl Turns {
    /// Begins now. `rate`: so many in a second, whatever the answers do; without one, each sender sends again as soon as it
    /// was answered. `first`: the number of the first request.
    pub(super) fn begin(first: u64, seconds: u64, rate: Option<u32>) -> Turns {
        let begin = Instant::now();
        Turns { first, next: AtomicU64::new(first), begin, until: begin + Duration::from_secs(seconds), rate }
    }

    /// Waits for the next turn. A request that is sent late because its sender had to wait is as late as it is: its time
    /// counts from when it was due. `None` at the end.
    pub(super) async fn next(&self) -> Option<(u64, Instant)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = match self.rate {
            None => Instant::now(),
            Some(rate) => self.begin + Duration::from_secs_f64((number - self.first) as f64 / f64::from(rate)),
        };
        if due >= self.until {
            return None;
        }
        tokio::time::sleep_until(due.into()).await;
        Some((number, due))
    }

    /// The first number that was not used.
    pub(super) fn unused(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }
}
