//! The bus of the all-in-one: a channel from the shim's publisher to the feed's ingest.
//!
//! Goes in: the ledger when the relay begins to work on it, then batches from the relay. Comes out: the same changes in
//! the feed. A batch counts as published once every change of it is in the replay cache; that has the same meaning as a
//! publisher confirm of a broker.
//!
//! The replay cache is filled from the ledger only after the relay has got the lease. A process that waits for the
//! lease does not know what the lease's holder still records. Until then the feed is not current, and no client is told
//! that nothing was missed.

use std::sync::Arc;

use bugfeed_protocol::Numbered;
use bugfeed_shim::events::Telemetry;
use bugfeed_shim::ledger::{Ledger, LedgerError};
use bugfeed_shim::publish::{Publish, PublishError, PublishFault};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use bugfeed_core::bus::{Event, Queue, Setup};
use bugfeed_gateway::feed::Ingest;
use bugfeed_runtime::health::{FeedHealth, FeedState};

/// Changes read from the ledger at a time.
const PAGE: usize = 10_000;

enum Order {
    /// Read the published changes that the ledger has and the feed does not have.
    Begin(Box<Ledger>, oneshot::Sender<Result<(), LedgerError>>),
    /// The lease is lost: another process works on the ledger.
    LeaseLost,
    Batch(Vec<Numbered>, oneshot::Sender<usize>),
}

/// The relay's side of the bus.
#[derive(Debug)]
pub(super) struct LocalPublisher(mpsc::Sender<Order>);

/// The feed's side of the bus.
#[derive(Debug)]
pub(super) struct LocalBus {
    orders: mpsc::Receiver<Order>,
    /// How many changes are read from the ledger, at most.
    max: u64,
}

/// Both sides of a new bus. `max` is how many changes the replay cache holds.
pub(super) fn channel(max: u64) -> (LocalPublisher, LocalBus) {
    let (sender, orders) = mpsc::channel(1);
    (LocalPublisher(sender), LocalBus { orders, max })
}

impl Publish for LocalPublisher {
    async fn begin(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        let (done, read) = oneshot::channel();
        // If the gateway has stopped, it refuses the next batch too; that error is reported.
        if self.0.send(Order::Begin(Box::new(ledger.clone()), done)).await.is_err() {
            return Ok(());
        }
        read.await.unwrap_or(Ok(()))
    }

    async fn rest(&mut self) {
        // A stopped gateway need not be told that the lease is lost, so an error is ignored.
        let _ = self.0.send(Order::LeaseLost).await;
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
        Some("the in-process bus (the gateway in the same process)".to_owned())
    }
}

impl LocalBus {
    /// Hands batches to the feed until `stop`. If the relay says that it cannot work, clients are told that the feed is
    /// paused.
    pub(super) async fn run(
        mut self,
        mut ingest: Ingest,
        health: FeedHealth,
        relay: Arc<Telemetry>,
        stop: CancellationToken,
    ) {
        let mut ticks = bugfeed_gateway::feed::ticks();
        // There is no grace time: while the lease is lost, another process has the ledger, and nothing comes back at once.
        ingest.set_up(Setup { grace_ms: 0, ..Setup::default() });
        let mut feed = LocalFeed { ingest, health, max: self.max };
        feed.health.set(FeedState::Starting("waiting for the ledger".to_owned()), Vec::new());
        loop {
            tokio::select! {
                order = self.orders.recv() => {
                    let Some(order) = order else { return };
                    let health = feed.health.clone();
                    health.pulse().alive_while(feed.follow(order)).await;
                }
                _ = ticks.tick() => {
                    feed.health.pulse().beat();
                    feed.hear(Event::Tick).await;
                }
                () = stop.cancelled() => return,
            }
            feed.hear(Event::Waits(relay.paused())).await;
        }
    }
}

/// The feed, and what orders change in it.
struct LocalFeed {
    ingest: Ingest,
    health: FeedHealth,
    max: u64,
}

impl LocalFeed {
    async fn follow(&mut self, order: Order) {
        match order {
            Order::Begin(ledger, done) => {
                let read = warm(&ledger, &mut self.ingest, self.max).await;
                if read.is_ok() {
                    self.hear(Event::Connected { queue: Queue::Ledger, waiting: 0 }).await;
                    self.ingest.opened().await;
                    self.health.set(FeedState::Up, Vec::new());
                }
                // If the relay has stopped waiting for the answer, it begins again.
                let _ = done.send(read);
            }
            Order::LeaseLost => {
                let reason = "another process works on the ledger, and this one waits for its turn";
                self.health.set(FeedState::Down(reason.to_owned()), Vec::new());
                self.hear(Event::Lost).await;
            }
            Order::Batch(batch, done) => {
                let count = batch.len();
                for numbered in batch {
                    take(&mut self.ingest, numbered).await;
                }
                // If the relay has stopped waiting for the answer, it publishes again, with the same numbers.
                let _ = done.send(count);
            }
        }
    }

    /// Hands an event to the ingest, and carries out what follows from it.
    async fn hear(&mut self, event: Event<'_>) {
        self.ingest.take(event).await;
        if self.ingest.bus.take_news() {
            let stopped = self.ingest.bus.stopped(self.ingest.now_ms());
            self.ingest.events.feed_is_up(&self.ingest.feed, stopped.is_none());
        }
    }
}

/// Fills the replay cache with the changes that the ledger has published and the feed does not have. These may be all
/// changes (then clients can catch up over a restart), or those that another holder of the lease has published
/// meanwhile. Changes that are recorded and not published come later from the relay, with their numbers.
async fn warm(ledger: &Ledger, ingest: &mut Ingest, max: u64) -> Result<(), LedgerError> {
    let meta = ledger.meta().await?;
    let (head, published) = (meta.cursor(), meta.published);
    let known = ingest.head().filter(|known| known.epoch == head.epoch && known.seq <= head.seq);
    if published == 0 && known.is_none() {
        ingest.take(Event::Begins(head.epoch)).await;
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
            take(ingest, numbered).await;
        }
    }
}

/// Takes in a change that was read from the ledger. The ledger has no holes, unless it was pruned or replaced; a hole
/// is therefore given up at once, and told as a gap.
async fn take(ingest: &mut Ingest, numbered: Numbered) {
    let recorded = numbered.recorded;
    ingest.take_change(numbered.into(), Some(recorded)).await;
}
