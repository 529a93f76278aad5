//! How the feeds of a gateway are at the moment of a scrape.
//!
//! Goes in: the parts of feeds that are shared anyway. Comes out: gauges. Nothing is counted for them on the way of a change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bugfeed_core::budget::Budgets;
use bugfeed_core::replay::Replay;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

/// How a feed is.
#[derive(Debug)]
pub(crate) struct FeedView {
    replay: Arc<Replay>,
    begun: Instant,
    /// Milliseconds after `begun` at which the last head came, plus 1; 0 before the first.
    head_ms: AtomicU64,
    /// Sessions of each shard, and how many of them lag.
    shards: Vec<(AtomicUsize, AtomicUsize)>,
}

impl FeedView {
    pub(crate) fn new(replay: &Arc<Replay>, shards: usize) -> FeedView {
        let shards = (0..shards).map(|_| Default::default()).collect();
        FeedView { replay: Arc::clone(replay), begun: Instant::now(), head_ms: AtomicU64::new(0), shards }
    }

    /// A head came.
    pub(crate) fn head(&self) {
        self.head_ms.store(self.now_ms() + 1, Ordering::Relaxed);
    }

    /// A shard has so many sessions, of which so many lag.
    pub(crate) fn sessions(&self, shard: usize, all: usize, lagging: usize) {
        if let Some((total, lag)) = self.shards.get(shard) {
            total.store(all, Ordering::Relaxed);
            lag.store(lagging, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds since the start stay far below 2^53")]
    fn head_age_s(&self) -> Option<f64> {
        let heard_ms = self.head_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.now_ms().saturating_sub(heard_ms) as f64 / 1000.0)
    }

    fn floor_age_s(&self) -> Option<f64> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some((now_s - f64::from(self.replay.oldest_s()?)).max(0.0))
    }

    #[expect(clippy::cast_precision_loss, reason = "sessions fit in memory")]
    fn sum(&self, of: fn(&(AtomicUsize, AtomicUsize)) -> &AtomicUsize) -> f64 {
        self.shards.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum::<usize>() as f64
    }
}

/// The feeds of a process. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    feeds: BTreeMap<String, Arc<FeedView>>,
    budgets: Option<Budgets>,
}

impl Gauges {
    /// Shows a feed from now on.
    pub(crate) fn show(&self, name: &str, view: Arc<FeedView>, budgets: &Budgets) {
        let mut shown = self.shown();
        shown.feeds.insert(name.to_owned(), view);
        shown.budgets.get_or_insert_with(|| budgets.clone());
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type OfFeed = (&'static str, &'static str, fn(&FeedView) -> Option<f64>);

#[expect(clippy::cast_precision_loss, reason = "changes and bugs fit in memory")]
const OF_FEEDS: [OfFeed; 6] = [
    ("sessions", "Sessions, of all transports.", |view| Some(view.sum(|shard| &shard.0))),
    ("sessions_lagging", "Sessions whose socket took no more.", |view| Some(view.sum(|shard| &shard.1))),
    ("ring_changes", "Changes kept for clients that come back.", |view| Some(view.replay.changes() as f64)),
    ("ring_bugs", "Bugs whose newest change is kept.", |view| Some(view.replay.bugs() as f64)),
    ("floor_age_seconds", "Age of the oldest change that is kept.", FeedView::floor_age_s),
    ("head_age_seconds", "Time since a publisher said last where it is.", FeedView::head_age_s),
];

type OfBudget = (&'static str, &'static str, fn(&Budgets) -> usize);

const OF_BUDGETS: [OfBudget; 2] = [
    ("subscriptions", "Bugs that sessions watch, each counted once for each session.", |budgets| {
        budgets.subscriptions.taken()
    }),
    ("unfinished_message_bytes", "Bytes of messages that have begun and not ended.", |budgets| {
        budgets.message_bytes.taken()
    }),
];

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let shown = self.shown();
        for (name, help, of) in OF_FEEDS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (feed, view) in &shown.feeds {
                if let Some(value) = of(view) {
                    metric.encode_family(&[("feed", feed.as_str())])?.encode_gauge(&value)?;
                }
            }
        }
        let Some(budgets) = &shown.budgets else { return Ok(()) };
        for (name, help, of) in OF_BUDGETS {
            let value = i64::try_from(of(budgets)).unwrap_or(i64::MAX);
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
