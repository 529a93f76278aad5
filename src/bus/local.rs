//! The bus of the all-in-one: the shim's publisher on one side, the feed's ingest on the other, a channel between.
//!
//! Goes in: batches from the relay. Comes out: the same changes in the feed. A batch counts as published once every
//! change of it is in the replay cache, as an acknowledgement to the broker would mean.

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{Numbered, When};
use bugfeed_shim::publish::{Publish, PublishError, PublishFault};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::health::{FeedHealth, FeedState};
use crate::hub::{Came, Ingest};

type Batch = (Vec<Numbered>, oneshot::Sender<usize>);

/// The relay's side.
#[derive(Debug)]
pub struct LocalPublisher(mpsc::Sender<Batch>);

/// The feed's side.
#[derive(Debug)]
pub struct LocalBus(mpsc::Receiver<Batch>);

/// Both sides.
pub fn channel() -> (LocalPublisher, LocalBus) {
    let (sender, receiver) = mpsc::channel(1);
    (LocalPublisher(sender), LocalBus(receiver))
}

impl Publish for LocalPublisher {
    async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        let (done, published) = oneshot::channel();
        let gone = || PublishError {
            published: 0,
            fault: PublishFault::Lost,
            reason: "the gateway in this process has stopped".to_owned(),
        };
        self.0.send((batch.to_vec(), done)).await.map_err(|_| gone())?;
        published.await.map_err(|_| gone())
    }
}

impl LocalBus {
    /// Feeds batches to the ingest until `stop`.
    pub async fn run(mut self, mut ingest: Ingest, health: FeedHealth, stop: CancellationToken) {
        let mut ticks = super::amqp::ticks();
        // There is no way to be cut off, and the ledger was read before.
        ingest.current(true).await;
        health.set(FeedState::Up, Vec::new());
        ingest.events.feed_is_up(&ingest.feed, true);
        loop {
            tokio::select! {
                batch = self.0.recv() => {
                    let Some((batch, done)) = batch else { return };
                    let count = batch.len();
                    for numbered in batch {
                        let recorded = numbered.recorded;
                        take(&mut ingest, numbered.into(), Some(recorded)).await;
                    }
                    // A relay that stopped waiting publishes again, with the same numbers.
                    let _ = done.send(count);
                }
                _ = ticks.tick() => ingest.tick(),
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Takes in a change that came straight from the ledger, which has no holes. Should one show all the same, because the
/// ledger was pruned or exchanged, it is a gap.
pub(crate) async fn take(ingest: &mut Ingest, message: BusMessage, recorded: Option<When>) {
    if let Came::Hole(hole) = ingest.take(message, recorded).await {
        ingest.take_anyway(&hole.message, hole.recorded).await;
    }
}
