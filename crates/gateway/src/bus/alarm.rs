//! A timer for the moment at which something is due, where that moment is put off most of the time.
//!
//! Goes in: the moment, again before each wait. Comes out: a wake-up then, or some time before. Never reads the clock.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Until it is armed for the first time; any first wait is shorter.
const LONGEST: Duration = Duration::from_secs(3600);

/// A timer that stays armed between waits. What is due is put off by nearly each delivery, so arming it anew for each would
/// cost more than to wake once too early.
#[derive(Debug)]
pub(super) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// A timer that is armed by the first wait.
    pub(super) fn new() -> Alarm {
        Alarm(Box::pin(tokio::time::sleep(LONGEST)))
    }

    /// Waits until this moment at most, which may have passed. It may return earlier: then nothing is due yet, and the next
    /// wait is armed anew. It may be dropped at any time.
    pub(super) async fn at(&mut self, due: Instant) {
        let due = tokio::time::Instant::from(due);
        if due < self.0.deadline() || self.0.is_elapsed() {
            self.0.as_mut().reset(due);
        }
        self.0.as_mut().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_earlier_moment_arms_it_and_a_later_one_wakes_too_early_once() {
        let at = |ms| Instant::now() + Duration::from_millis(ms);
        let (soon, far) = (20, 3_000_000);
        let mut alarm = Alarm::new();
        assert!(alarm.at(at(far)).now_or_never().is_none());
        // If it was not armed anew, this test would not end.
        alarm.at(at(soon)).await;
        assert!(alarm.at(at(far)).now_or_never().is_none(), "it has ended, so it is armed anew");
        assert!(alarm.at(at(soon)).now_or_never().is_none());
        alarm.at(at(far)).await;
        alarm.at(Instant::now()).await;
    }
}
