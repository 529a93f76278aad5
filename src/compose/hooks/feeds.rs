//! The feeds from which `bugfeed hooks` serves endpoints: each comes from its exchange, as a gateway's does, and is kept in
//! memory. Nobody connects to them.
//!
//! Goes in: names of feeds, and later the word that the store has an endpoint. Comes out: taps. A feed's connection to the
//! broker is made only then, and stays. Nothing here ends the process: what does not work is a warning in readiness, and is
//! tried again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugfeed_core::budget::Budgets;
use bugfeed_core::input::SessionLimits;
use bugfeed_gateway::bus::amqp::{self, AmqpOptions};
use bugfeed_gateway::events::Events;
use bugfeed_gateway::feed::{self, Clock, FeedOptions, FeedParts, Ingest};
use bugfeed_hooks::endpoints::{FeedTap, Taps};
use bugfeed_runtime::health::Health;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::shims::PublishOptions;
use crate::compose::taps;

/// Messages on their way from the broker at a time.
const PREFETCH: u16 = 500;
/// Bounds of a feed's queue at the broker: messages and bytes.
const QUEUE_MAX: (u32, u64) = (1_000_000, 256 << 20);

/// The feeds of this process.
pub(super) struct Feeds {
    options: PublishOptions,
    /// Where people read about bugs, by feed.
    trackers: BTreeMap<String, String>,
    health: Health,
    events: Arc<Events>,
    clock: Clock,
    taps: watch::Sender<Vec<Arc<dyn FeedTap>>>,
    /// Turns true when the feeds are needed.
    wanted: watch::Sender<bool>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Feeds {
    /// No feed yet. What they count goes to `events`.
    pub(super) fn new(
        options: PublishOptions,
        trackers: BTreeMap<String, String>,
        health: Health,
        events: Arc<Events>,
    ) -> Feeds {
        Feeds {
            options,
            trackers,
            health,
            events,
            clock: Clock::start(),
            taps: watch::Sender::default(),
            wanted: watch::Sender::new(false),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The feeds, as endpoints are served from them.
    pub(super) fn taps(&self) -> Taps {
        self.taps.subscribe()
    }

    /// Makes these feeds, unless they are there. Feeds that are not named any more stay: endpoints may have them.
    pub(super) fn serve<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            let is_known = self.taps.borrow().iter().any(|tap| &**tap.name() == name);
            if !is_known {
                let tap = self.begin(name);
                self.taps.send_modify(|taps| taps.push(tap));
            }
        }
    }

    fn begin(&self, name: &str) -> Arc<dyn FeedTap> {
        // The one shard has no sessions.
        let options = FeedOptions {
            shards: 1,
            replay: bugfeed_core::replay::ReplayLimits::default(),
            session: SessionLimits::default(),
            budgets: Budgets::default(),
            access: None,
        };
        let FeedParts { feed, ingest, shards } = feed::feed(name, &options, self.clock, &self.events);
        for shard in shards {
            let pulse = self.health.watchdog().pulse(format!("shard of feed {name}"));
            self.tasks.spawn(pulse.keep(shard.run(self.stop.clone())));
        }
        self.tasks.spawn(self.consume(name, ingest));
        taps::tap(&feed, &self.trackers)
    }

    /// Takes the changes of a feed from the broker, once they are wanted, until the end.
    fn consume(&self, name: &str, ingest: Ingest) -> impl Future<Output = ()> + Send + use<> {
        let (queue_max, queue_max_bytes) = QUEUE_MAX;
        let options = AmqpOptions {
            url: self.options.amqp.clone(),
            exchange: self.options.exchange(name),
            queue: None,
            queue_max,
            queue_max_bytes,
            history: self.options.history.clone(),
            prefetch: PREFETCH,
            alone: false,
            patient: true,
        };
        let (mut wanted, stop, health) = (self.wanted.subscribe(), self.stop.clone(), self.health.clone());
        let shown = format!("{name} (for endpoints)");
        async move {
            match stop.run_until_cancelled(wanted.wait_for(|wanted| *wanted)).await {
                Some(Ok(_)) => {}
                // The process ends.
                Some(Err(_)) | None => return,
            }
            let health = health.feed_aside(&shown);
            // It ends with an error only where a person must mend something, and a patient one never does.
            let _ = Box::pin(amqp::run(options, ingest, health, stop)).await;
        }
    }

    /// Has the feeds begin once `any` turns true: the store has an endpoint.
    pub(super) fn begin_when(&self, mut any: watch::Receiver<bool>) {
        let wanted = self.wanted.clone();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if let Some(Ok(_)) = stop.run_until_cancelled(any.wait_for(|any| *any)).await {
                wanted.send_replace(true);
            }
        });
    }

    /// Ends them.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        // What is left ends with the process: nothing here is only here.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.tasks.wait()).await;
    }
}
