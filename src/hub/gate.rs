//! The door of a feed: shut until the feed is current for the first time.
//!
//! Goes in: each shard's word that it has worked off everything up to there. Comes out: whether clients may come in. A client
//! that came earlier would be sent, as if it had just happened, what a gateway that starts reads from history.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Shut,
    Open,
    /// The gateway goes away before it was ever open.
    Left,
}

/// Opens once, when all shards have said so.
#[derive(Debug)]
pub(super) struct Gate {
    shards: AtomicUsize,
    door: watch::Sender<Door>,
}

impl Gate {
    /// A shut one.
    pub(super) fn new(shards: usize) -> Gate {
        Gate { shards: AtomicUsize::new(shards), door: watch::Sender::new(Door::Shut) }
    }

    /// One more shard is current; each says it once.
    pub(super) fn shard_is_current(&self) {
        if self.shards.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.turn(Door::Open);
        }
    }

    /// Whoever waits shall go: the gateway stops.
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

    /// Waits until it is open; false where it never will be.
    pub(super) async fn opened(&self) -> bool {
        let mut door = self.door.subscribe();
        let opened = door.wait_for(|door| *door != Door::Shut).await;
        opened.is_ok_and(|door| *door == Door::Open)
    }
}
