//! How fast one endpoint may be sent requests: its rate, and the ramp after a cool-down.

use super::SECOND_US;
use super::policy::OURS_AGAIN_US;
use crate::hooks::pace::Bucket;

/// A ramp ends when it allows so many doublings: about a thousand requests a second.
const DOUBLINGS: i64 = 10;

/// The pace of one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Pacing {
    rate: Option<(u32, Bucket)>,
    /// When the probe after a cool-down succeeded.
    ramp_us: Option<i64>,
    /// When the last request was allowed.
    last_us: Option<i64>,
    /// This machine could not send: nothing before this time.
    held_us: Option<i64>,
}

impl Pacing {
    /// Sets the rate, in requests a second.
    pub(super) fn set_rate(&mut self, rate: Option<u32>) {
        if self.rate.as_ref().map(|(rate, _)| *rate) != rate {
            self.rate = rate.map(|rate| (rate, Bucket::new(rate, rate)));
        }
    }

    /// A probe succeeded: the rest follows at 1, 2, 4, 8 … requests a second.
    pub(super) fn begin_ramp(&mut self, now_us: i64) {
        // The probe is not one of the rest, so the first of the rest follows it at once.
        (self.ramp_us, self.last_us) = (Some(now_us), None);
    }

    /// The endpoint has no backlog any more, or fails again.
    pub(super) fn end_ramp(&mut self) {
        self.ramp_us = None;
    }

    /// This machine could not send the last request.
    pub(super) fn hold(&mut self, now_us: i64) {
        self.held_us = Some(now_us + OURS_AGAIN_US);
    }

    /// From when on the next request may be sent.
    pub(super) fn next_us(&self, now_us: i64) -> i64 {
        // One that lies further ahead is of a clock that was set back.
        let held_us = self.held_us.filter(|held_us| *held_us <= now_us + OURS_AGAIN_US).unwrap_or(i64::MIN);
        let rate_us = self.rate.as_ref().map_or(i64::MIN, |(_, bucket)| bucket.next_us(now_us));
        let ramp_us = self.ramp_us.map_or(i64::MIN, |begun_us| {
            let doublings = ((now_us - begun_us) / SECOND_US).max(0);
            // One that lies ahead is of a clock that was set back.
            let last_us = self.last_us.filter(|last_us| (begun_us..=now_us).contains(last_us));
            last_us.filter(|_| doublings < DOUBLINGS).map_or(i64::MIN, |last_us| last_us + (SECOND_US >> doublings))
        });
        rate_us.max(ramp_us).max(held_us)
    }

    /// How many requests may follow one another now, at least one: what the rate has left, and one at a time on the ramp.
    pub(super) fn permits(&self, now_us: i64) -> u32 {
        let of_rate = self.rate.as_ref().map_or(u32::MAX, |(_, bucket)| bucket.tokens(now_us).max(1));
        let on_ramp = |begun_us: i64| (now_us - begun_us) / SECOND_US < DOUBLINGS;
        if self.ramp_us.is_some_and(on_ramp) { 1 } else { of_rate }
    }

    /// So many requests more were sent than the one that was taken.
    pub(super) fn take_more(&mut self, number: u32, now_us: i64) {
        if let Some((rate, bucket)) = &mut self.rate {
            // The bucket holds no more than that.
            for _ in 0..number.min(*rate) {
                bucket.take(now_us);
            }
        }
    }

    /// A request is sent.
    pub(super) fn take(&mut self, now_us: i64) {
        (self.last_us, self.held_us) = (Some(now_us), None);
        if let Some((_, bucket)) = &mut self.rate {
            bucket.take(now_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_backlog_follows_a_probe_at_1_2_4_8_a_second() {
        let mut pacing = Pacing::default();
        pacing.begin_ramp(0);
        let mut in_second = [0; 6];
        for now_us in (0..6 * SECOND_US).step_by(1000) {
            if pacing.next_us(now_us) <= now_us {
                pacing.take(now_us);
                in_second[usize::try_from(now_us / SECOND_US).unwrap()] += 1;
            }
        }
        assert_eq!(in_second, [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_the_ramp() {
        let mut pacing = Pacing::default();
        pacing.begin_ramp(100 * SECOND_US);
        pacing.take(100 * SECOND_US);
        assert_eq!(pacing.next_us(100 * SECOND_US), 101 * SECOND_US);
        assert!(pacing.next_us(50 * SECOND_US) <= 50 * SECOND_US);
    }

    #[test]
    fn after_a_fault_of_this_machine_nothing_is_sent_for_a_while() {
        let mut pacing = Pacing::default();
        pacing.take(5);
        pacing.hold(5);
        assert_eq!(pacing.next_us(6), 5 + OURS_AGAIN_US);
        assert!(pacing.next_us(5 - OURS_AGAIN_US) < 5, "the clock was set back");
        pacing.take(5 + OURS_AGAIN_US);
        assert!(pacing.next_us(6 + OURS_AGAIN_US) <= 6 + OURS_AGAIN_US);
    }

    #[test]
    fn several_requests_together_cost_what_they_are() {
        let mut pacing = Pacing::default();
        assert_eq!(pacing.permits(0), u32::MAX);
        pacing.set_rate(Some(3));
        assert_eq!(pacing.permits(0), 3);
        pacing.take(0);
        pacing.take_more(2, 0);
        assert!(pacing.next_us(0) > 300_000, "{}", pacing.next_us(0));
        assert_eq!((pacing.permits(0), pacing.permits(SECOND_US)), (1, 3));
        pacing.begin_ramp(SECOND_US);
        assert_eq!((pacing.permits(SECOND_US), pacing.permits(11 * SECOND_US)), (1, 3));
    }

    #[test]
    fn a_rate_is_kept() {
        let mut pacing = Pacing::default();
        pacing.set_rate(Some(5));
        let mut sent = 0;
        for now_us in (0..10 * SECOND_US).step_by(1000) {
            if pacing.next_us(now_us) <= now_us {
                pacing.take(now_us);
                sent += 1;
            }
        }
        assert!((50..=55).contains(&sent), "{sent}");
    }
}
