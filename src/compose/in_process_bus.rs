//! The bus of the all-in-one: the shim's publisher on one side, the feed's ingest on the other, a channel between.
//!
//! Goes in: the ledger when the relay begins to work on it, then batches from the relay. Comes out: the same changes in the
//! feed. A batch counts as published once every change of it is in the replay cache, as an acknowledgement to the broker
//! would mean.
//!
//! The replay cache is filled from the ledger only when the relay holds its lease: who waits for its turn does not know
//! what the other one still records. Until then the feed is not current, and nobody is told that nothing came.

use std::sync::Arc;
use std::time::SystemTime;

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{Numbered, When};
use bugfeed_shim::events::Telemetry;
use bugfeed_shim::ledger::{Ledger, LedgerError};
use bugfeed_shim::publish::{Publish, PublishError, PublishFault};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use bugfeed_gateway::feed::{self, Came, Ingest};
use bugfeed_gateway::health::{FeedHealth, FeedState};

/// Changes read from the ledger at a time.
const PAGE: usize = 10_000;

enum Order {
    /// Read what this ledger has and the feed has not.
    Begin(Box<Ledger>, oneshot::Sender<Result<(), LedgerError>>),
    /// The ledger is somebody else's now.
    Rest,
    Batch(Vec<Numbered>, oneshot::Sender<usize>),
}

/// The relay's side.
#[derive(Debug)]
pub(super) struct LocalPublisher(mpsc::Sender<Order>);

/// The feed's side.
#[derive(Debug)]
pub(super) struct LocalBus {
    orders: mpsc::Receiver<Order>,
    /// Changes that are read from the ledger at most.
    max: u64,
}

/// Both sides. `max` is how many changes the replay cache holds.
pub(super) fn channel(max: u64) -> (LocalPublisher, LocalBus) {
    let (sender, orders) = mpsc::channel(1);
    (LocalPublisher(sender), LocalBus { orders, max })
}

impl Publish for LocalPublisher {
    async fn begin(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        let (done, read) = oneshot::channel();
        // A gateway that has stopped takes no batches either, and says so then.
        if self.0.send(Order::Begin(Box::new(ledger.clone()), done)).await.is_err() {
            return Ok(());
        }
        read.await.unwrap_or(Ok(()))
    }

    async fn rest(&mut self) {
        // The same.
        let _ = self.0.send(Order::Rest).await;
    }

    async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        let (done, published) = oneshot::channel();
        let gone = || PublishError {
            published: 0,
            fault: PublishFault::Lost,
            reason: "the gateway in this process has stopped".to_owned(),
        };
        self.0.send(Order::Batch(batch.to_vec(), done)).await.map_err(|_| gone())?;
        published.await.map_err(|_| gone())
    }

    fn place(&self) -> Option<String> {
        Some("the gateway in the same process".to_owned())
    }
}

impl LocalBus {
    /// Feeds batches to the ingest until `stop`. The relay's word on what does not work is passed on to clients.
    pub(super) async fn run(
        mut self,
        ingest: Ingest,
        health: FeedHealth,
        relay: Arc<Telemetry>,
        stop: CancellationToken,
    ) {
        let mut ticks = feed::ticks();
        let mut feed = LocalFeed { ingest, health, max: self.max, current: false, paused: false };
        feed.health.set(FeedState::Starting("waiting for the ledger".to_owned()), Vec::new());
        loop {
            tokio::select! {
                order = self.orders.recv() => {
                    let Some(order) = order else { return };
                    feed.follow(order).await;
                }
                _ = ticks.tick() => feed.ingest.tick(),
                () = stop.cancelled() => return,
            }
            feed.pause(relay.paused().is_some()).await;
        }
    }
}

/// What the orders are carried out on.
struct LocalFeed {
    ingest: Ingest,
    health: FeedHealth,
    max: u64,
    current: bool,
    paused: bool,
}

impl LocalFeed {
    async fn follow(&mut self, order: Order) {
        match order {
            Order::Begin(ledger, done) => {
                let read = warm(&ledger, &mut self.ingest, self.max).await;
                if read.is_ok() {
                    // There is no way to be cut off from here on.
                    self.current = true;
                    self.ingest.current(true).await;
                    self.health.set(FeedState::Up, Vec::new());
                    self.ingest.events.feed_is_up(&self.ingest.feed, true);
                }
                // A relay that stopped waiting begins again.
                let _ = done.send(read);
            }
            Order::Rest => {
                self.current = false;
                self.ingest.current(false).await;
                let reason = "another process works on the ledger, and this one waits for its turn";
                self.health.set(FeedState::Down(reason.to_owned()), Vec::new());
                self.ingest.events.feed_is_up(&self.ingest.feed, false);
            }
            Order::Batch(batch, done) => {
                let count = batch.len();
                for numbered in batch {
                    let recorded = numbered.recorded;
                    take(&mut self.ingest, numbered.into(), Some(recorded)).await;
                }
                // A relay that stopped waiting publishes again, with the same numbers.
                let _ = done.send(count);
            }
        }
    }

    /// Tells clients whether anything can come, when that changes.
    async fn pause(&mut self, nothing_can_be_read: bool) {
        let paused = nothing_can_be_read || !self.current;
        if paused != self.paused {
            self.paused = paused;
            self.ingest.events.feed_is_up(&self.ingest.feed, !paused);
            self.ingest.feed_state(paused, When::from_system_time(SystemTime::now())).await;
        }
    }
}

/// Fills the replay cache with what the ledger has published and the feed does not have yet: everything, so that clients can
/// catch up over a restart, or what another holder of the lease published meanwhile. What is recorded and not published comes
/// by the relay, with its number, when its row is dealt with.
async fn warm(ledger: &Ledger, ingest: &mut Ingest, max: u64) -> Result<(), LedgerError> {
    let meta = ledger.meta().await?;
    let (head, published) = (meta.cursor(), meta.published);
    let known = ingest.head().filter(|known| known.epoch == head.epoch && known.seq <= head.seq);
    if published == 0 && known.is_none() {
        ingest.begin(head.epoch).await;
        return Ok(());
    }
    let mut after = published.saturating_sub(max).max(known.map_or(0, |known| known.seq));
    loop {
        let page = ledger.history(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.cursor.seq;
        for numbered in page {
            if numbered.cursor.seq > published {
                return Ok(());
            }
            let recorded = numbered.recorded;
            take(ingest, numbered.into(), Some(recorded)).await;
        }
    }
}

/// Takes in a change that came straight from the ledger, which has no holes. Should one show all the same, because the
/// ledger was pruned or exchanged, it is a gap.
async fn take(ingest: &mut Ingest, message: BusMessage, recorded: Option<When>) {
    if let Came::Hole(hole) = ingest.take(message, recorded).await {
        ingest.take_anyway(&hole.message, hole.recorded).await;
    }
}
