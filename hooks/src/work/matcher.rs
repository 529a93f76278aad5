//! Changes of the bus, matched to the events that they are of.
//!
//! Goes in: numbered changes of feeds, in the order of the bus. Comes out: events that know their (epoch, seq). What was
//! matched before, also by another process, is passed over. While the store is away, what came is kept and its sender
//! waits; whoever must not wait uses `try_send`, and offers everything after [`Store::matched_to`] again later.

use std::sync::Arc;

use bugfeed_protocol::Numbered;
use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::throttle::Throttle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// So many messages wait.
const QUEUE: usize = 64;
/// So many changes are matched together at most.
const TOGETHER: usize = 1000;

/// Changes of a feed.
pub type Matched = (Arc<str>, Vec<Numbered>);

/// The task that matches.
#[derive(Debug)]
pub struct MatcherTask {
    changes: mpsc::Receiver<Matched>,
}

/// Makes the two ends.
pub fn matcher() -> (mpsc::Sender<Matched>, MatcherTask) {
    let (sender, changes) = mpsc::channel(QUEUE);
    (sender, MatcherTask { changes })
}

impl MatcherTask {
    /// Works until `stop`, or until all senders are gone.
    pub async fn run(mut self, store: Store, stop: CancellationToken) {
        let mut backoff = Backoff::SERVER;
        let (mut next, lines) = (None::<Matched>, Throttle::once_a_minute());
        loop {
            let (feed, mut changes) = match next.take() {
                Some(one) => one,
                None => tokio::select! {
                    () = stop.cancelled() => return,
                    one = self.changes.recv() => match one {
                        Some(one) => one,
                        None => return,
                    },
                },
            };
            while changes.len() < TOGETHER {
                match self.changes.try_recv() {
                    Ok((other, more)) if other == feed => changes.extend(more),
                    Ok(one) => {
                        next = Some(one);
                        break;
                    }
                    Err(_) => break,
                }
            }
            // The worker says that the store is away.
            while let Err(error) = store.match_changes(&feed, &changes).await {
                // Two processes that match the same are sometimes in each other's way.
                if error.may_heal() || backoff.failures() < 5 || lines.is_quiet() {
                    tracing::debug!(%error, %feed, event = %LogEvent::HooksWait, "changes cannot be matched just now");
                } else {
                    tracing::error!(%error, %feed, event = %LogEvent::HooksWait, "changes cannot be matched; events do not learn their numbers");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.next(rand::random())) => {}
                }
            }
            backoff.reset();
        }
    }
}
