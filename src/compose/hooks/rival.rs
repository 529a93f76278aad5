//! Another ledger on a feed's exchange: a feed has exactly one, because numbers of two would have clients told `gap` again
//! and again. So the hooks do not publish while another one is heard.
//!
//! Goes in: heads, which every publisher says on `EXCHANGE.head` every two seconds. Comes out: whether one of another epoch
//! was heard lately. Where the broker does not permit to listen, nothing is heard, which is said once.

use std::time::Duration;

use bugfeed_amqp::consuming::{Connection, QueueSettings};
use bugfeed_amqp::{AmqpError, BrokerUrl, connect_consuming, within};
use bugfeed_protocol::Epoch;
use bugfeed_protocol::bus::{Message, head_exchange, read};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_shim::ledger::Ledger;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Another publisher that was not heard for so long is gone: several of the intervals at which heads are said.
const GONE: Duration = Duration::from_secs(8);
/// After a fault, it is tried again to listen.
const AGAIN: Duration = Duration::from_secs(5);
/// The same, where the broker does not permit it.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// Heads on their way at a time.
const PREFETCH: u16 = 10;

/// Listens for other publishers of an exchange.
pub(super) struct Listener {
    pub(super) url: BrokerUrl,
    pub(super) exchange: String,
    /// The feed's own ledger.
    pub(super) ledger: Ledger,
    /// The epoch of the other ledger, while it is heard.
    pub(super) rival: watch::Sender<Option<Epoch>>,
}

impl Listener {
    /// Listens for ever.
    pub(super) async fn run(&self) {
        let mut was_refused = false;
        loop {
            let error = self.listen().await;
            // Nothing is known while nothing is heard.
            self.rival.send_replace(None);
            let is_refused = matches!(error, AmqpError::Permission(_));
            if is_refused && !std::mem::replace(&mut was_refused, true) {
                tracing::warn!(%error, exchange = self.exchange, event = %LogEvent::HooksRivalUnknown, "it is not heard whether another ledger publishes to this exchange");
            }
            tokio::time::sleep(if is_refused { REFUSED_AGAIN } else { AGAIN }).await;
        }
    }

    /// Listens until something is wrong.
    async fn listen(&self) -> AmqpError {
        let (mut connection, channel) = match self.connect().await {
            Ok(connected) => connected,
            Err(error) => return error,
        };
        let mut heard: Option<Instant> = None;
        loop {
            let next = tokio::time::timeout(GONE, connection.next(&[channel])).await;
            match next {
                Ok(Err(error)) => return AmqpError::broker(&self.url, error),
                Ok(Ok((_, Err(_)))) => return AmqpError::Cancelled(self.url.clone()),
                Ok(Ok((_, Ok(delivery)))) => {
                    connection.acknowledge(channel, delivery.tag());
                    if let Ok(Message::Head(head)) = read(delivery.kind(), delivery.body())
                        && self.is_another(&head.cursor.epoch).await
                    {
                        heard = Some(Instant::now());
                        self.rival.send_if_modified(|rival| rival.replace(head.cursor.epoch.clone()) != *rival);
                    }
                }
                Err(_) => {}
            }
            if heard.is_none_or(|heard| heard.elapsed() >= GONE) {
                self.rival.send_if_modified(|rival| rival.take().is_some());
            }
        }
    }

    /// Whether an epoch is not this feed's ledger's. What the ledger was before counts as its own: the last words of a
    /// process that did not know yet that a new epoch has begun.
    async fn is_another(&self, epoch: &Epoch) -> bool {
        match self.ledger.meta().await {
            Ok(meta) => meta.epoch != *epoch && meta.former_epoch.as_ref() != Some(epoch),
            // Then nothing is published either.
            Err(_) => false,
        }
    }

    /// A queue that goes with the connection, bound to the exchange of heads.
    async fn connect(&self) -> Result<(Connection, u16), AmqpError> {
        let url = &self.url;
        let failed = |error| AmqpError::broker(url, error);
        let exchange = head_exchange(&self.exchange);
        let mut connection = connect_consuming(url, "bugfeed hooks").await?;
        let channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
        let declaring = connection.declare_exchange(channel, &exchange, "fanout");
        within(PATIENCE, url, declaring, |error| AmqpError::exchange(url, &exchange, error)).await?;
        within(PATIENCE, url, connection.prefetch(channel, PREFETCH), failed).await?;
        let settings = QueueSettings { exclusive: true, auto_delete: true, ..QueueSettings::default() };
        let declared = within(PATIENCE, url, connection.declare_queue(channel, "", settings), failed).await?;
        within(PATIENCE, url, connection.bind_queue(channel, &declared.name, &exchange), failed).await?;
        let consuming = connection.consume(channel, &declared.name, true, QueueSettings::default().arguments);
        within(PATIENCE, url, consuming, failed).await?;
        Ok((connection, channel))
    }
}

/// Why nothing is published, and what to do.
pub(super) fn reason(exchange: &str, feed: &str, table: &str, epoch: &Epoch) -> String {
    format!(
        "another ledger (epoch {epoch}) publishes to exchange '{exchange}', and a feed has one ledger only; changes wait. Stop \
         that shim, or give the feed an exchange of its own with --feed {feed}=EXCHANGE; where a tracker's rows and its \
         webhooks are one feed, let the tracker write its rows into the table {table} of the store"
    )
}
