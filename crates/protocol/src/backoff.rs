//! The reconnect schedule that every part and every client uses: exponential back-off, capped, jittered, reset on
//! success.

use std::time::Duration;

/// The delay doubles from `base` to `max`. Each delay is drawn from the upper half of its step (jitter), so that many
/// clients that lost the same server do not all come back at once (thundering herd). Example: with `CLIENT`, the first
/// delay is 0.5 s to 1 s, the second 1 s to 2 s.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The schedule of clients: 1 s doubling to 30 s.
    pub const CLIENT: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    /// The schedule towards brokers and databases: 100 ms doubling to 5 s.
    pub const SERVER: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

    /// A schedule from `base` to `max`.
    pub const fn new(base: Duration, max: Duration) -> Backoff {
        Backoff { base, max, failures: 0 }
    }

    /// The delay before the next attempt, counting one more failure. `random` is uniform in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let step = self.base.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// How many failures came since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Called on success: the next failure starts from `base` again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_within_half_a_step_and_resets() {
        let mut longest = Backoff::CLIENT;
        let mut shortest = Backoff::CLIENT;
        for want_ms in [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            assert_eq!(longest.next(1.0), Duration::from_millis(want_ms));
            assert_eq!(shortest.next(0.0), Duration::from_millis(want_ms / 2));
        }
        for _ in 0..100 {
            assert_eq!(longest.next(1.0), Duration::from_secs(30));
        }
        longest.reset();
        assert_eq!(longest.next(1.0), Duration::from_secs(1));
    }
}
