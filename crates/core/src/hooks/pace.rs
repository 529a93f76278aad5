//! A token bucket: the pace of a source's backlog, and the rate of questions to a tracker.
//!
//! Goes in: the time, and how many tokens were taken. Comes out: how many there are, and when the next one comes. Each
//! process has its own, so the rate of a source is that of one process times their number.

use super::SECOND_US;

/// A bucket that holds up to `burst` tokens, and gets `per_second` of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// The time from one token to the next, in microseconds.
    interval_us: i64,
    burst: u32,
    /// When the bucket will be full, if nothing is taken.
    full_us: i64,
}

impl Bucket {
    /// A full bucket. Both numbers are at least 1; the rate is at most a million.
    pub fn new(per_second: u32, burst: u32) -> Bucket {
        Bucket::every(SECOND_US / i64::from(per_second.clamp(1, 1_000_000)), burst)
    }

    /// A full bucket that gets a token every so many microseconds.
    pub fn every(interval_us: i64, burst: u32) -> Bucket {
        Bucket { interval_us: interval_us.max(1), burst: burst.max(1), full_us: i64::MIN }
    }

    /// How long an empty bucket takes to be full.
    fn span_us(&self) -> i64 {
        self.interval_us.saturating_mul(i64::from(self.burst))
    }

    /// When the bucket will be full. If that would take longer than for an empty one, the clock was set back: it counts as
    /// full, because it would otherwise look empty until the clock is where it was.
    fn full_us(&self, now_us: i64) -> i64 {
        let latest_us = now_us.saturating_add(self.span_us());
        if self.full_us > latest_us { now_us } else { self.full_us.max(now_us) }
    }

    /// How many tokens there are.
    pub fn tokens(&self, now_us: i64) -> u32 {
        let missing_us = self.full_us(now_us) - now_us;
        let missing = missing_us.div_euclid(self.interval_us) + i64::from(missing_us % self.interval_us != 0);
        self.burst - u32::try_from(missing).unwrap_or(self.burst).min(self.burst)
    }

    /// When there is a token: not later than now if there is one.
    pub fn next_us(&self, now_us: i64) -> i64 {
        self.full_us(now_us) - self.span_us() + self.interval_us
    }

    /// Takes a token. Returns whether there was one.
    pub fn take(&mut self, now_us: i64) -> bool {
        if self.tokens(now_us) == 0 {
            return false;
        }
        self.full_us = self.full_us(now_us) + self.interval_us;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_takes_the_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 3);
        let mut taken = Vec::new();
        for now_us in (0..1_000_000).step_by(10_000) {
            while bucket.take(now_us) {
                taken.push(now_us / 1000);
            }
            assert!(bucket.next_us(now_us) > now_us);
            assert!(bucket.next_us(now_us) <= now_us + 100_000);
        }
        assert_eq!(taken, [0, 0, 0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
    }

    #[test]
    fn a_clock_that_was_set_back_delays_nothing() {
        let mut bucket = Bucket::new(10, 3);
        let far_us = 1_000_000 * SECOND_US;
        while bucket.take(far_us) {}
        assert_eq!(bucket.tokens(0), 3);
        while bucket.take(0) {}
        assert_eq!(bucket.next_us(0), 100_000);
        assert!(bucket.take(100_000));
    }
}
