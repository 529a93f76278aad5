//! How long changes take on their way, and what takes long in a gateway: histograms.
//!
//! Goes in: moments. Comes out: durations, in seconds. Of changes and writes only samples are taken, so that the way of a
//! change gets no longer by being measured: ten changes a second, and one write of sixteen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bugfeed_core::replay::Pos;
use bugfeed_protocol::When;
use bugfeed_runtime::metrics::durations;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// From one sample of a feed to the next, in milliseconds.
const SAMPLE_MS: u64 = 100;
/// So many samples are known at a time: half a minute of them. A shard that is further behind tells of the newer ones only.
const SAMPLES: usize = 300;
/// One write of so many is measured.
const WRITES: u32 = 16;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Feed {
    feed: String,
}

/// A histogram for each feed.
#[derive(Clone, Debug)]
struct ByFeed(Family<Feed, Histogram, fn() -> Histogram>);

impl Default for ByFeed {
    fn default() -> ByFeed {
        ByFeed(Family::new_with_constructor(durations))
    }
}

impl ByFeed {
    fn of(&self, feed: &str) -> Histogram {
        self.0.get_or_create(&Feed { feed: feed.to_owned() }).clone()
    }
}

/// The histograms of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timings {
    commit: ByFeed,
    publish: ByFeed,
    head: ByFeed,
    write: ByFeed,
    replay: ByFeed,
}

impl Timings {
    pub(crate) fn register(&self, r: &mut Registry) {
        for (name, help, by_feed) in [
            (
                "commit_to_socket_seconds",
                "From the record of a change in the ledger to its write to clients, sampled",
                &self.commit,
            ),
            (
                "publish_to_socket_seconds",
                "From the publishing of a change to its write to clients, sampled",
                &self.publish,
            ),
            ("head_delay_seconds", "From a head at its publisher to here", &self.head),
            (
                "write_seconds",
                "How long a turn of writing live updates took, for up to 256 clients, sampled",
                &self.write,
            ),
            ("replay_seconds", "How long a command took that asked for earlier changes", &self.replay),
        ] {
            r.register(name, help, by_feed.0.clone());
        }
    }

    /// Those of a feed.
    pub(crate) fn of(&self, feed: &str) -> Arc<Timing> {
        Arc::new(Timing {
            pos: AtomicU64::new(0),
            next_ms: AtomicU64::new(0),
            samples: Mutex::default(),
            commit: self.commit.of(feed),
            publish: self.publish.of(feed),
            head: self.head.of(feed),
            write: self.write.of(feed),
            replay: self.replay.of(feed),
        })
    }
}

/// When a change was recorded, and when it was published, as its message tells; a clock of another machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// When the ledger had it.
    pub recorded: Option<When>,
    /// When it was handed to the bus.
    pub published: Option<When>,
}

/// The histograms of a feed, and the changes that are samples.
#[derive(Debug)]
pub(crate) struct Timing {
    /// The newest sample's position; 0 if there was none yet.
    pos: AtomicU64,
    /// When the next one is due.
    next_ms: AtomicU64,
    /// The last samples, in order of their positions. Several are kept, because a shard that is behind is the one whose
    /// time matters.
    samples: Mutex<VecDeque<(Pos, Stamps)>>,
    commit: Histogram,
    publish: Histogram,
    head: Histogram,
    write: Histogram,
    replay: Histogram,
}

impl Timing {
    /// A change goes to the shards. It becomes a sample, if it is time for another one.
    pub(crate) fn goes(&self, now_ms: u64, pos: Pos, stamps: Stamps) {
        // Only the ingest of the feed calls this.
        if stamps == Stamps::default() || now_ms < self.next_ms.load(Ordering::Relaxed) {
            return;
        }
        self.next_ms.store(now_ms + SAMPLE_MS, Ordering::Relaxed);
        let mut samples = self.samples();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((pos, stamps));
        drop(samples);
        self.pos.store(pos, Ordering::Release);
    }

    /// A shard is done with everything up to this position, and has `wrote` some of it to clients since it last called this.
    /// `seen` is the last sample that it was done with. A sample that it had nobody to write to is passed over.
    pub(crate) fn done(&self, upto: Pos, wrote: bool, seen: &mut Pos) {
        if self.pos.load(Ordering::Acquire) <= *seen {
            return;
        }
        let done: Vec<(Pos, Stamps)> = {
            let samples = self.samples();
            let begin = samples.partition_point(|(pos, _)| pos <= seen);
            samples.range(begin..).take_while(|(pos, _)| *pos <= upto).copied().collect()
        };
        let Some((last, _)) = done.last() else { return };
        *seen = *last;
        if wrote {
            self.observe(&done);
        }
    }

    fn observe(&self, written: &[(Pos, Stamps)]) {
        let now = now();
        for (_, Stamps { recorded, published }) in written {
            for (histogram, since) in [(&self.commit, recorded), (&self.publish, published)] {
                if let Some(since) = since {
                    histogram.observe(between(*since, now));
                }
            }
        }
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<(Pos, Stamps)>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A head has come.
    pub(crate) fn head(&self, sent: When) {
        self.head.observe(between(sent, now()));
    }

    /// Measures one of several writes; `count` counts them.
    pub(crate) fn write<T>(&self, count: &mut u32, write: impl FnOnce() -> T) -> T {
        *count = count.wrapping_add(1);
        if !count.is_multiple_of(WRITES) {
            return write();
        }
        let begun = Instant::now();
        let written = write();
        self.write.observe(begun.elapsed().as_secs_f64());
        written
    }

    /// Measures a command that asks for earlier changes.
    pub(crate) fn replay<T>(&self, replay: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let replayed = replay();
        self.replay.observe(begun.elapsed().as_secs_f64());
        replayed
    }
}

fn now() -> When {
    When::from_system_time(std::time::SystemTime::now())
}

/// In seconds. A clock that is ahead of this one makes it none.
fn between(since: When, now: When) -> f64 {
    let us = u64::try_from(now.as_micros().saturating_sub(since.as_micros())).unwrap_or(0);
    Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(timing: &Timing) -> (u64, u64) {
        let mut registry = Registry::default();
        registry.register("c", "", timing.commit.clone());
        registry.register("p", "", timing.publish.clone());
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        let of = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).unwrap();
        (of("c_count "), of("p_count "))
    }

    #[test]
    fn ten_changes_a_second_are_samples_and_each_shard_tells_of_each_once() {
        let timing = Timings::default().of("kde");
        let stamps = Stamps { recorded: Some(now()), published: None };
        timing.goes(0, 5, Stamps::default());
        let (mut one, mut two) = (0, 0);
        timing.done(9, true, &mut one);
        assert_eq!(count(&timing), (0, 0), "it says no time");
        timing.goes(0, 6, stamps);
        timing.goes(99, 7, Stamps { published: Some(now()), ..stamps });
        timing.done(5, true, &mut one);
        assert_eq!(count(&timing), (0, 0), "not written yet");
        timing.done(6, true, &mut one);
        timing.done(7, true, &mut one);
        timing.done(7, true, &mut two);
        assert_eq!(count(&timing), (2, 0), "the second one was no sample");
        timing.goes(100, 8, Stamps { published: Some(now()), ..stamps });
        timing.done(8, true, &mut one);
        assert_eq!(count(&timing), (3, 1));
    }

    #[test]
    fn a_shard_that_is_behind_tells_of_all_samples_and_one_with_nobody_to_write_to_of_none() {
        let timing = Timings::default().of("kde");
        let stamps = Stamps { recorded: Some(now()), published: None };
        (0..10).for_each(|number| timing.goes(number * SAMPLE_MS, number + 1, stamps));
        let (mut behind, mut idle) = (0, 0);
        timing.done(4, true, &mut behind);
        timing.done(10, true, &mut behind);
        assert_eq!(count(&timing), (10, 0));
        timing.done(10, false, &mut idle);
        timing.done(10, true, &mut idle);
        assert_eq!(count(&timing), (10, 0), "it was done with them before it wrote");
        (10..2 * SAMPLES as u64).for_each(|number| timing.goes(number * SAMPLE_MS, number + 1, stamps));
        assert_eq!(timing.samples().len(), SAMPLES);
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_negative_time() {
        let now = now();
        let later = When::from_micros(now.as_micros() + 5_000_000).unwrap();
        assert!(between(later, now).abs() < f64::EPSILON);
        assert!((between(now, later) - 5.0).abs() < f64::EPSILON);
    }
}
