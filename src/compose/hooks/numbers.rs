//! The way back: events of webhooks learn the numbers that their changes got.
//!
//! Goes in: how far a feed is published, as its publisher says it, and the feed's ledger. Comes out: numbered changes, for
//! the matcher of the hooks. They are read from the ledger, which has them all: what this process has missed, because it was
//! stopped or the store was away, comes with the next reading. Never delays publishing.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_hooks::store::Store;
use bugfeed_hooks::work::Matched;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_protocol::{Cursor, Numbered};
use bugfeed_shim::ledger::{Ledger, LedgerError};
use bugfeed_shim::publish::{Heads, Publish, PublishError};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Changes read from the ledger at a time.
const PAGE: usize = 1000;
/// Changes of so long a time are read together: numbers of events are for people.
const PAUSE: Duration = Duration::from_millis(100);
/// After a failure it is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// Where numbers go.
#[derive(Clone)]
pub(in crate::compose) struct Matching {
    store: Store,
    matches: mpsc::Sender<Matched>,
}

impl Matching {
    /// The matcher of these hooks, whose store is open.
    pub(in crate::compose) fn new(store: Store, matches: mpsc::Sender<Matched>) -> Matching {
        Matching { store, matches }
    }
}

/// Tells how far a publisher is. Everything else goes to the publisher within.
#[derive(Debug)]
pub(in crate::compose) struct Noting<P> {
    inner: P,
    published: watch::Sender<Option<Cursor>>,
}

impl<P: Publish> Noting<P> {
    /// `published` hears how far it is, once this process works on the ledger.
    pub(in crate::compose) fn new(inner: P, published: watch::Sender<Option<Cursor>>) -> Noting<P> {
        Noting { inner, published }
    }

    fn note(&self, batch: &[Numbered], count: usize) {
        let last = count.checked_sub(1).and_then(|last| batch.get(last));
        if let Some(last) = last {
            self.published.send_replace(Some(last.cursor.clone()));
        }
    }
}

impl<P: Publish> Publish for Noting<P> {
    async fn begin(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        self.inner.begin(ledger).await?;
        let meta = ledger.meta().await?;
        if meta.published > 0 {
            self.published.send_replace(Some(Cursor { epoch: meta.epoch, seq: meta.published, tag: meta.tag }));
        }
        Ok(())
    }

    async fn rest(&mut self) {
        self.inner.rest().await;
    }

    async fn connect(&mut self) -> Result<bool, PublishError> {
        self.inner.connect().await
    }

    async fn end(&mut self) -> Result<Option<Vec<Cursor>>, PublishError> {
        self.inner.end().await
    }

    async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        let outcome = self.inner.publish(batch).await;
        let count = match &outcome {
            Ok(count) => *count,
            Err(error) => error.published,
        };
        self.note(batch, count);
        outcome
    }

    fn heads(&self) -> Option<Heads> {
        self.inner.heads()
    }

    fn place(&self) -> Option<String> {
        self.inner.place()
    }

    async fn close(&mut self) {
        self.inner.close().await;
    }
}

/// A feed whose numbers are followed.
pub(in crate::compose) struct Follower {
    pub(in crate::compose) feed: Arc<str>,
    pub(in crate::compose) ledger: Ledger,
    pub(in crate::compose) published: watch::Receiver<Option<Cursor>>,
    /// Where numbers go, once the store is open.
    pub(in crate::compose) matching: watch::Receiver<Option<Matching>>,
}

impl Follower {
    /// Works until `stop`, or until the publisher is gone.
    pub(in crate::compose) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(mut self) {
        let known = self.matching.wait_for(Option::is_some).await.ok().and_then(|known| known.clone());
        // Whoever would have told it is gone.
        let Some(matching) = known else { return };
        // Numbers up to here were handed over; `None`: the store knows.
        let mut place: Option<Cursor> = None;
        loop {
            let to = self.published.borrow_and_update().clone();
            let Some(to) = to else {
                if self.published.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if let Err(reason) = self.hand_over(&matching, &mut place, &to).await {
                let feed = &self.feed;
                tracing::debug!(%feed, reason, event = %LogEvent::HooksWait, "numbers cannot be read just now");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            if self.published.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Hands over what was published up to `to`.
    async fn hand_over(&self, matching: &Matching, place: &mut Option<Cursor>, to: &Cursor) -> Result<(), String> {
        let is_same = |known: &Cursor| known.epoch == to.epoch;
        let mut after = match place.as_ref().filter(|place| is_same(place)) {
            Some(place) => place.seq,
            None => {
                let matched = matching.store.matched_to(&self.feed).await.map_err(|error| error.to_string())?;
                matched.filter(is_same).map_or(0, |matched| matched.seq)
            }
        };
        while after < to.seq {
            let mut page = self.ledger.history(after, PAGE).await.map_err(|error| error.to_string())?;
            page.retain(|change| change.cursor.epoch == to.epoch && change.cursor.seq <= to.seq);
            // What is not in the ledger any more cannot be matched.
            let Some(last) = page.last().map(|last| last.cursor.clone()) else { break };
            after = last.seq;
            let sent = matching.matches.send((Arc::clone(&self.feed), page)).await;
            sent.map_err(|_| "the hooks have ended".to_owned())?;
            *place = Some(last);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, Change, Epoch, When};
    use bugfeed_shim::publish::PublishFault;

    use super::*;

    struct Half;

    impl Publish for Half {
        async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
            let published = batch.len() / 2;
            Err(PublishError { published, fault: PublishFault::Lost, reason: "half of it".to_owned() })
        }
    }

    #[tokio::test]
    async fn what_is_safe_is_noted_and_no_more() {
        let epoch = Epoch::from_random(1);
        let when = When::from_micros(0).unwrap();
        let numbered = |seq| Numbered {
            change: Change { bug: BugId::new(1).unwrap(), when },
            cursor: Cursor { epoch: epoch.clone(), seq, tag: None },
            after: None,
            recorded: when,
        };
        let (sender, published) = watch::channel(None);
        let mut publisher = Noting::new(Half, sender);
        let batch = [numbered(1), numbered(2), numbered(3), numbered(4)];
        assert!(publisher.publish(&batch[..1]).await.is_err());
        assert_eq!(*published.borrow(), None);
        assert!(publisher.publish(&batch).await.is_err());
        assert_eq!(published.borrow().as_ref().map(|cursor| cursor.seq), Some(2));
    }
}
