//! Lanes that are left alone for a moment although the store says that they are due.
//!
//! Goes in: lanes of which nothing came (another process was quicker, nothing was to be done), and feeds whose table cannot
//! be written. Comes out: whether to look at a lane. Bounded, and in memory only: forgetting all of it costs a few statements.

use std::collections::HashMap;
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::lane::LaneKey;

/// So many lanes at most. Further ones do not rest.
const MOST: usize = 5000;
/// So many feeds at most.
const MOST_FEEDS: usize = 1000;
/// The first pause of a lane that others were quicker with; it doubles.
const FIRST_US: i64 = 5000;
/// The longest pause.
const LONGEST_US: i64 = 10 * SECOND_US;

#[derive(Debug, Default)]
pub(super) struct Rests {
    lanes: HashMap<LaneKey, Rest>,
    feeds: HashMap<Arc<str>, Rest>,
}

#[derive(Debug)]
struct Rest {
    until_us: i64,
    failures: u32,
}

impl Rests {
    /// How many lanes rest: so many more must be asked for.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn is_resting(&self, key: &LaneKey, now_us: i64) -> bool {
        let of_feed = match key {
            LaneKey::Bug(feed, _) => self.feeds.get(feed),
            LaneKey::Alone(_) => None,
        };
        self.lanes.get(key).is_some_and(|rest| rest.is_on(now_us)) || of_feed.is_some_and(|rest| rest.is_on(now_us))
    }

    /// The feeds of which all lanes rest.
    pub(super) fn feeds(&self, now_us: i64) -> Vec<Arc<str>> {
        self.feeds.iter().filter(|(_, rest)| rest.is_on(now_us)).map(|(feed, _)| Arc::clone(feed)).collect()
    }

    /// The table of the lane's feed cannot be written.
    pub(super) fn refuse(&mut self, key: &LaneKey, now_us: i64) {
        let LaneKey::Bug(feed, _) = key else { return };
        if self.feeds.len() < MOST_FEEDS || self.feeds.contains_key(feed) {
            let rest = self.feeds.entry(Arc::clone(feed)).or_insert(Rest { until_us: now_us, failures: 0 });
            // Of a batch, each lane fails.
            if !rest.is_on(now_us) {
                rest.fail(now_us, 1.0);
            }
        }
    }

    /// Nothing came of it. `random` is uniform in 0..1.
    pub(super) fn fail(&mut self, key: &LaneKey, now_us: i64, random: f64) {
        if self.lanes.len() >= MOST && !self.lanes.contains_key(key) {
            return;
        }
        let rest = self.lanes.entry(key.clone()).or_insert(Rest { until_us: now_us, failures: 0 });
        rest.fail(now_us, random);
    }

    /// It is left alone until then, at most 10 s.
    pub(super) fn leave(&mut self, key: &LaneKey, now_us: i64, until_us: i64) {
        if self.lanes.len() < MOST || self.lanes.contains_key(key) {
            let until_us = until_us.min(now_us + LONGEST_US);
            self.lanes.insert(key.clone(), Rest { until_us, failures: 0 });
        }
    }

    /// Something came of it.
    pub(super) fn forget(&mut self, key: &LaneKey) {
        self.lanes.remove(key);
        if let LaneKey::Bug(feed, _) = key {
            self.feeds.remove(feed);
        }
    }

    /// When the first one has rested. Forgets those that rested long ago.
    pub(super) fn next_us(&mut self, now_us: i64) -> Option<i64> {
        let is_known = |rest: &Rest| (now_us - LONGEST_US..=now_us + LONGEST_US).contains(&rest.until_us);
        self.lanes.retain(|_, rest| is_known(rest));
        self.feeds.retain(|_, rest| is_known(rest));
        let all = self.lanes.values().chain(self.feeds.values());
        all.map(|rest| rest.until_us).filter(|until_us| *until_us > now_us).min()
    }
}

impl Rest {
    fn is_on(&self, now_us: i64) -> bool {
        // A clock that was set back must not make it rest for long.
        self.until_us > now_us && self.until_us <= now_us + LONGEST_US
    }

    fn fail(&mut self, now_us: i64, random: f64) {
        let pause_us = FIRST_US.saturating_mul(1 << self.failures.min(12)).min(LONGEST_US);
        self.failures = self.failures.saturating_add(1);
        // Two processes must not come back at the same moment.
        #[allow(clippy::cast_possible_truncation, reason = "at most ten seconds")]
        let jitter_us = (random.clamp(0.0, 1.0) * 0.5 * pause_us as f64) as i64;
        self.until_us = now_us + pause_us / 2 + jitter_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugfeed_core::hooks::event::EventId;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let (mut rests, key) = (Rests::default(), LaneKey::Alone(EventId(1)));
        let mut now_us = 0;
        let mut last_us = 0;
        for _ in 0..20 {
            rests.fail(&key, now_us, 1.0);
            assert!(rests.is_resting(&key, now_us));
            let next_us = rests.next_us(now_us).unwrap();
            assert!(next_us - now_us >= last_us && next_us - now_us <= LONGEST_US);
            (last_us, now_us) = (next_us - now_us, next_us);
            assert!(!rests.is_resting(&key, now_us));
        }
        assert_eq!(last_us, LONGEST_US);
        rests.forget(&key);
        rests.leave(&key, now_us, i64::MAX);
        assert!(!rests.is_resting(&key, now_us - 100 * SECOND_US), "a clock was set back");
        assert_eq!((rests.next_us(now_us + 60 * SECOND_US), rests.len()), (None, 0));
    }

    #[test]
    fn all_lanes_of_a_feed_rest_together() {
        let key = |feed: &str, bug| LaneKey::Bug(Arc::from(feed), bugfeed_protocol::BugId::new(bug).unwrap());
        let (mut rests, mut now_us) = (Rests::default(), 0);
        for failures in 0..20 {
            for bug in 1..=3 {
                rests.refuse(&key("broken", bug), now_us);
            }
            assert!(rests.is_resting(&key("broken", 9), now_us) && !rests.is_resting(&key("good", 9), now_us));
            assert_eq!(rests.feeds(now_us), ["broken".into()]);
            let next_us = rests.next_us(now_us).unwrap();
            assert!(next_us - now_us == LONGEST_US.min(FIRST_US << failures), "one failure for each batch");
            now_us = next_us;
        }
        rests.forget(&key("broken", 1));
        assert_eq!(rests.feeds(now_us - 1), [] as [Arc<str>; 0]);
    }
}
