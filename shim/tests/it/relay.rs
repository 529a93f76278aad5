//! The poller and the outlet together: the outbox between them is only a shortcut, and the ledger decides.

use std::time::Duration;

use bugfeed_protocol::Numbered;
use bugfeed_shim::publish::{Publish, PublishError, PublishFault};
use bugfeed_shim::relay::{self, RelayOptions};
use tokio_util::sync::CancellationToken;

use crate::support::{Collector, Place, T1, options};

/// Takes the front of every other batch, and loses the rest.
#[derive(Default)]
struct Halves {
    collector: Collector,
    batches: usize,
}

impl Publish for Halves {
    async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        self.batches += 1;
        if self.batches.is_multiple_of(2) || batch.len() < 2 {
            return self.collector.publish(batch).await;
        }
        let published = self.collector.publish(&batch[..batch.len() / 2]).await?;
        Err(PublishError { published, fault: PublishFault::Lost, reason: "cut off".to_owned() })
    }
}

#[tokio::test]
async fn what_was_not_taken_is_given_again_in_order() {
    let place = Place::sqlite();
    let source = place.table().await;
    let ledger = place.file_ledger().await;
    let rows: Vec<(u64, &str)> = (1..=60).map(|bug| (bug, T1)).collect();
    place.session().await.insert(&rows).await;
    let mut publisher = Halves::default();
    let options = RelayOptions { once: true, once_timeout: Duration::from_secs(60), batch: 7, ..options() };
    relay::run(&source, &ledger, &mut publisher, &options, CancellationToken::new()).await.unwrap();
    let told: Vec<u64> = publisher.collector.told().iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(told, (1..=60).collect::<Vec<_>>());
    assert_eq!(publisher.collector.all(), ledger.history(0, 100).await.unwrap(), "what the ledger says");
    assert_eq!(ledger.meta().await.unwrap().published, 60, "the watermark is saved in the end");
}
