//! The gate of a feed: clients are let in when the feed is current for the first time.
//!
//! Goes in: the report of each shard that it has processed everything up to the moment at which the feed became
//! current. Comes out: whether clients may come in. Why: a gateway that starts reads old changes from history; a client
//! that came in earlier would be sent these changes as if they had just happened.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Shut,
    Open,
    /// The gateway stops before the gate was ever open.
    Left,
}

/// Opens once, when all shards have reported that they are current.
#[derive(Debug)]
pub(super) struct Gate {
    shards: AtomicUsize,
    door: watch::Sender<Door>,
}

impl Gate {
    /// A shut gate that waits for this many shards.
    pub(super) fn new(shards: usize) -> Gate {
        Gate { shards: AtomicUsize::new(shards), door: watch::Sender::new(Door::Shut) }
    }

    /// One more shard is current. Each shard reports this once.
    pub(super) fn shard_is_current(&self) {
        if self.shards.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.turn(Door::Open);
        }
    }

    /// The gateway stops: all who wait for the gate are sent away.
    pub(super) fn leave(&self) {
        self.turn(Door::Left);
    }

    fn turn(&self, to: Door) {
        self.door.send_if_modified(|door| {
            let shut = *door == Door::Shut;
            if shut {
                *door = to;
            }
            shut
        });
    }

    pub(super) fn is_shut(&self) -> bool {
        *self.door.borrow() == Door::Shut
    }

    /// Waits until the gate is open; false if the gateway stops before that.
    pub(super) async fn opened(&self) -> bool {
        let mut door = self.door.subscribe();
        let opened = door.wait_for(|door| *door != Door::Shut).await;
        opened.is_ok_and(|door| *door == Door::Open)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::events::Events;
    use crate::feed::{Clock, FeedOptions, feed};

    /// When the feed is current, old changes from history may still wait in a shard's queue.
    #[tokio::test]
    async fn a_feed_opens_when_every_shard_has_worked_off_what_came_before() {
        let options = FeedOptions::with_shards(2);
        let mut parts = feed("default", &options, Clock::start(), &Arc::new(Events::new()));
        let mut shards = parts.shards.into_iter();
        let stop = CancellationToken::new();
        let first = tokio::spawn(shards.next().unwrap().run(stop.clone()));
        parts.ingest.connect().await;
        while parts.feed.gate.shards.load(Ordering::Relaxed) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(parts.feed.is_shut() && parts.feed.opened().now_or_never().is_none());
        let second = tokio::spawn(shards.next().unwrap().run(stop.clone()));
        assert!(parts.feed.opened().await);
        // An outage does not shut it again.
        parts.ingest.reconnect().await;
        parts.feed.gate.leave();
        assert!(!parts.feed.is_shut() && parts.feed.opened().await);
        stop.cancel();
        first.await.unwrap();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_is_let_go_when_the_gateway_stops() {
        let gate = Gate::new(1);
        assert!(gate.opened().now_or_never().is_none());
        gate.leave();
        gate.shard_is_current();
        assert!(!gate.opened().await);
    }
}
