//! The shims of `bugfeed hooks`: one for each feed that a source names. It reads the feed's change table in the store, keeps
//! the ledger in the same database, and publishes to RabbitMQ.
//!
//! Goes in: names of feeds. Comes out: published changes, and how far each feed is. Nothing here ends the process: whatever
//! does not work, also what a person must mend, is said in the log and in readiness, and tried again. Meanwhile webhooks are
//! received, and their rows wait in the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_amqp::{BrokerUrl, HistoryBounds};
use bugfeed_hooks::service::Hooks;
use bugfeed_hooks::store::Store;
use bugfeed_hooks::store::change_table::table_of;
use bugfeed_protocol::bus::Format;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_protocol::{Cursor, Epoch};
use bugfeed_runtime::health::Health;
use bugfeed_shim::events::{Part, Telemetry};
use bugfeed_shim::ledger::{Keep, Ledger, Prefix};
use bugfeed_shim::metrics::ShimsByFeed;
use bugfeed_shim::publish::amqp::{AmqpOptions, AmqpPublisher, BatchOptions};
use bugfeed_shim::relay::{self, RelayError, RelayOptions};
use bugfeed_shim::source::{Source, TableSpec};
use bugfeed_sql::{DbUrl, Name};
use jiff::tz::TimeZone;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::numbers::{Follower, Matching, Noting};
use super::rival::{self, Listener};

/// What does not work is tried again after this time.
const AGAIN: Duration = Duration::from_secs(2);
/// How long an end waits for the batches in hand.
const LAST_ROUND: Duration = Duration::from_secs(8);
/// The longest part of a feed's name in the names of its ledger's tables.
const LONGEST: usize = 34;

/// How changes get to the broker.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// The broker.
    pub amqp: BrokerUrl,
    /// The exchanges of feeds that have none of the usual name, `bugfeed.FEED`.
    pub exchanges: BTreeMap<String, String>,
    /// The history that the broker keeps, if any.
    pub history: Option<HistoryBounds>,
    /// The longest pause between two looks at an idle change table.
    pub poll_interval: Duration,
    /// How much published history the ledgers keep.
    pub keep: Keep,
}

impl PublishOptions {
    /// The exchange of a feed.
    pub(super) fn exchange(&self, feed: &str) -> String {
        self.exchanges.get(feed).cloned().unwrap_or_else(|| format!("bugfeed.{feed}"))
    }
}

/// The shims of this process.
pub(super) struct Shims {
    options: PublishOptions,
    store_url: DbUrl,
    health: Health,
    by_feed: ShimsByFeed,
    /// Which feeds have a shim.
    feeds: Vec<String>,
    matching: watch::Sender<Option<Matching>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shims {
    pub(super) fn new(options: PublishOptions, store_url: DbUrl, health: Health, by_feed: ShimsByFeed) -> Shims {
        let (matching, tasks, stop) = (watch::Sender::new(None), TaskTracker::new(), CancellationToken::new());
        Shims { options, store_url, health, by_feed, feeds: Vec::new(), matching, tasks, stop }
    }

    /// Where numbers go, to be set once the store is open.
    pub(super) fn matching(&self) -> watch::Sender<Option<Matching>> {
        self.matching.clone()
    }

    /// Gives each of these feeds a shim, unless it has one. Feeds that are not named any more keep theirs: rows may wait.
    pub(super) fn serve<'a>(&mut self, feeds: impl IntoIterator<Item = &'a str>, hooks: &Hooks) {
        for feed in feeds {
            if self.feeds.iter().any(|known| known == feed) {
                continue;
            }
            self.feeds.push(feed.to_owned());
            let telemetry = Arc::new(Telemetry::of_feed(self.health.clone(), feed));
            telemetry.starting();
            self.by_feed.add(Some(feed), Arc::clone(&telemetry));
            let shim = Shim {
                feed: feed.into(),
                store_url: self.store_url.clone(),
                publish: self.amqp(feed),
                relaying: RelayOptions {
                    poll_interval: self.options.poll_interval,
                    keep: self.options.keep,
                    telemetry: Arc::clone(&telemetry),
                    ..RelayOptions::default()
                },
                telemetry,
                matching: self.matching.subscribe(),
            };
            let (opened, stop) = (hooks.opened(), self.stop.clone());
            let span = tracing::info_span!("shim", feed);
            let pulse = self.health.watchdog().pulse(format!("relay of feed {feed}"));
            self.tasks.spawn(
                pulse
                    .keep(async move {
                        let Some((store, _)) = stop.run_until_cancelled(opened).await else { return };
                        Box::pin(shim.run(&store, &stop)).await;
                    })
                    .instrument(span),
            );
        }
    }

    fn amqp(&self, feed: &str) -> AmqpOptions {
        AmqpOptions {
            url: self.options.amqp.clone(),
            exchange: self.options.exchange(feed),
            format: Format::Native,
            batch: BatchOptions::default(),
            history: self.options.history.clone(),
        }
    }

    /// Ends all of them, in good order as far as that takes no longer than a few seconds.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        // What is left ends with the process, as in a crash: the ledger has everything.
        let _ = tokio::time::timeout(LAST_ROUND, self.tasks.wait()).await;
    }
}

/// The shim of a feed.
struct Shim {
    feed: Arc<str>,
    store_url: DbUrl,
    publish: AmqpOptions,
    relaying: RelayOptions,
    telemetry: Arc<Telemetry>,
    matching: watch::Receiver<Option<Matching>>,
}

impl Shim {
    /// Works until `stop`.
    async fn run(&self, store: &Store, stop: &CancellationToken) {
        loop {
            let opened = stop.run_until_cancelled(self.open(store)).await;
            let Some((source, ledger)) = opened else { return };
            let (published, rival) = (watch::Sender::new(None), watch::Sender::new(None));
            let follower = Follower {
                feed: Arc::clone(&self.feed),
                ledger: ledger.clone(),
                published: published.subscribe(),
                matching: self.matching.clone(),
            };
            let listener = Listener {
                url: self.publish.url.clone(),
                exchange: self.publish.exchange.clone(),
                ledger: ledger.clone(),
                rival: rival.clone(),
            };
            let over = stop.child_token();
            let relaying = async {
                let outcome = self.relay(&source, &ledger, (&published, rival.subscribe()), stop).await;
                over.cancel();
                outcome
            };
            let listening = over.run_until_cancelled(listener.run());
            let (outcome, (), _) = tokio::join!(relaying, follower.run(over.clone()), listening);
            source.close().await;
            ledger.close().await;
            let Err(error) = outcome else {
                tracing::info!(event = %LogEvent::ShimStopped, "stopped");
                return;
            };
            self.telemetry.down(Part::Ledger, &error);
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    }

    /// Relays until `stop`, except while another ledger publishes to the exchange.
    async fn relay(
        &self,
        source: &Source,
        ledger: &Ledger,
        (published, mut rival): (&watch::Sender<Option<Cursor>>, watch::Receiver<Option<Epoch>>),
        stop: &CancellationToken,
    ) -> Result<(), RelayError> {
        loop {
            self.wait_for_silence(&mut rival, stop).await;
            if stop.is_cancelled() {
                return Ok(());
            }
            let exchange = &self.publish.exchange;
            tracing::info!(
                source = source.place(), ledger = ledger.place(), broker = %self.publish.url, exchange,
                event = %LogEvent::ShimStarted, "started"
            );
            let publisher = AmqpPublisher::new(self.publish.clone(), Arc::clone(&self.telemetry));
            let mut publisher = Noting::new(publisher, published.clone());
            let over = stop.child_token();
            let relaying = relay::run(source, ledger, &mut publisher, &self.relaying, over.clone());
            let heard = async {
                if rival.wait_for(Option::is_some).await.is_ok() {
                    over.cancel();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                outcome = relaying => outcome?,
                () = heard => {}
            }
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Waits while another ledger is heard.
    async fn wait_for_silence(&self, rival: &mut watch::Receiver<Option<Epoch>>, stop: &CancellationToken) {
        let Some(epoch) = rival.borrow_and_update().clone() else { return };
        let reason = rival::reason(&self.publish.exchange, &self.feed, &table_of(&self.feed), &epoch);
        tracing::error!(reason, event = %LogEvent::HooksRival, "nothing is published");
        self.telemetry.down(Part::Bus, &reason);
        // An error means that the listener is gone, and then this ends, too.
        let _ = stop.run_until_cancelled(rival.wait_for(Option::is_none)).await;
        self.telemetry.up(Part::Bus);
    }

    /// Opens table and ledger, as soon as they can be opened.
    async fn open(&self, store: &Store) -> (Source, Ledger) {
        loop {
            match self.try_open(store).await {
                Ok(opened) => {
                    self.telemetry.up(Part::Source);
                    self.telemetry.up(Part::Ledger);
                    return opened;
                }
                Err((part, reason)) => {
                    self.telemetry.down(part, &reason);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn try_open(&self, store: &Store) -> Result<(Source, Ledger), (Part, String)> {
        let table: Name = store.serve_feed(&self.feed, None).await.map_err(|e| (Part::Source, e.to_string()))?;
        let spec = TableSpec { table, ..TableSpec::default() };
        let source = Source::open(&self.store_url, &spec, TimeZone::UTC).await;
        let source = source.map_err(|error| (Part::Source, error.to_string()))?;
        match Ledger::open(&self.store_url, &prefix_of(&self.feed)).await {
            Ok(ledger) => Ok((source, ledger)),
            Err(error) => {
                source.close().await;
                Err((Part::Ledger, error.to_string()))
            }
        }
    }
}

/// What the names of a feed's ledger tables begin with, where several ledgers are in one database. Two feeds never have the
/// same one.
pub(in crate::compose) fn prefix_of(feed: &str) -> Prefix {
    let escaped: String = feed.replace('_', "__").replace('-', "_m");
    let middle = if escaped.len() <= LONGEST {
        escaped
    } else {
        let number = feed
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let begin: String = feed.chars().filter(char::is_ascii_alphanumeric).take(LONGEST - 18).collect();
        format!("{begin}_x{number:016x}")
    };
    format!("feed_{middle}_").parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_feed_has_a_prefix_of_its_own() {
        let long = ["x-".repeat(32), "x_".repeat(32), "x".repeat(64), format!("{}y", "x".repeat(63))];
        let names: Vec<&str> = ["kde", "a-b", "a_b", "a_mb", "a--b", "a_m_mb"].into_iter().collect();
        let all: Vec<&str> = names.into_iter().chain(long.iter().map(String::as_str)).collect();
        let prefixes: BTreeSet<String> = all.iter().map(|feed| prefix_of(feed).to_string()).collect();
        assert_eq!(prefixes.len(), all.len(), "{prefixes:?}");
        for prefix in prefixes {
            assert!(prefix.starts_with("feed_") && prefix.len() <= 40 && prefix != Prefix::default().to_string());
        }
        assert_eq!(prefix_of("kde").to_string(), "feed_kde_");
    }
}
