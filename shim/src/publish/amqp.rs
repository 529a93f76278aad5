//! Publishing to AMQP (RabbitMQ): a durable topic exchange, persistent and mandatory messages, pipelined confirms.
//!
//! Goes in: numbered changes. Comes out: messages of which it is known that the broker has them *and* that a queue took
//! them. Connects again when asked to publish; the pauses between attempts are the relay's. Never waits without a bound,
//! except while the broker itself says that it blocks publishers.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_protocol::bus::{Format, encode};
use bugfeed_protocol::{Cursor, Numbered};
use futures::future::{MaybeDone, maybe_done};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};

use super::{Publish, PublishError, PublishFault};
use crate::amqp::{self, AmqpError, BrokerUrl, HistoryBounds};
use crate::events::{Part, Telemetry};

/// The longest wait for a channel and the exchange on a new connection.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for the next confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a wait for confirms looks whether the broker blocks publishers.
const LOOK: Duration = Duration::from_secs(1);

/// Where and how to publish.
#[derive(Clone, Debug)]
pub struct AmqpOptions {
    /// The broker.
    pub url: BrokerUrl,
    /// The topic exchange; created when missing.
    pub exchange: String,
    /// How messages are written.
    pub format: Format,
    /// Whether the broker keeps history, so that nothing is unroutable, and the bounds it is made with.
    pub history: Option<HistoryBounds>,
}

/// Publishes to an AMQP exchange.
#[derive(Debug)]
pub struct AmqpPublisher {
    options: AmqpOptions,
    telemetry: Arc<Telemetry>,
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    connection: Connection,
    channel: Channel,
}

type Pending = Pin<Box<MaybeDone<Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>>>>;

impl AmqpPublisher {
    /// A publisher that connects at first use.
    pub fn new(options: AmqpOptions, telemetry: Arc<Telemetry>) -> AmqpPublisher {
        AmqpPublisher { options, telemetry, link: None }
    }

    /// Connects now, so that wrong settings are found at the start. A broker that is not there is no error.
    ///
    /// # Errors
    /// When waiting cannot help: wrong credentials, unknown virtual host, an exchange of another type.
    pub async fn open(options: AmqpOptions, telemetry: Arc<Telemetry>) -> Result<AmqpPublisher, AmqpError> {
        let mut publisher = AmqpPublisher::new(options, telemetry);
        match publisher.connect().await {
            Ok(()) => {}
            Err(e) if !e.needs_a_person() => publisher.telemetry.down(Part::Bus, &e),
            Err(e) => return Err(e),
        }
        Ok(publisher)
    }

    async fn connect(&mut self) -> Result<(), AmqpError> {
        if self
            .link
            .as_ref()
            .is_some_and(|link| link.connection.status().connected() && link.channel.status().connected())
        {
            return Ok(());
        }
        self.link = None;
        self.link = Some(connect(&self.options).await?);
        Ok(())
    }

    fn lost(&mut self, published: usize, reason: impl fmt::Display) -> PublishError {
        self.link = None;
        let reason = format!("broker {}: {reason}", self.options.url);
        PublishError { published, fault: PublishFault::Lost, reason }
    }

    /// Hands every message to the connection, in order, without waiting for any.
    fn send(&self, channel: &Channel, batch: &[Numbered]) -> Vec<Pending> {
        let AmqpOptions { exchange, format, .. } = &self.options;
        batch
            .iter()
            .map(|numbered| {
                let (channel, exchange) = (channel.clone(), exchange.clone());
                let body = encode(numbered, *format, &exchange);
                let properties = properties(numbered);
                let key = numbered.change.bug.to_string();
                let sent: Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>> = Box::pin(async move {
                    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                    let confirm: PublisherConfirm =
                        channel.basic_publish(exchange.into(), key.into(), options, &body, properties).await?;
                    confirm.await
                });
                let mut pending = Box::pin(maybe_done(sent));
                // The first poll takes a delivery tag and queues the frames: this is what makes the order.
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                let _ = pending.as_mut().poll(&mut context);
                pending
            })
            .collect()
    }

    /// Waits for one confirm, for as long as confirms may take.
    async fn confirmed(&self, connection: &Connection, pending: &mut Pending) -> Result<(), String> {
        let mut waited = Duration::ZERO;
        while tokio::time::timeout(LOOK, pending.as_mut()).await.is_err() {
            if connection.status().blocked() {
                self.telemetry.down(Part::Bus, &"the broker blocks publishers (memory or disk alarm); free some of it");
                continue;
            }
            waited += LOOK;
            if waited >= CONFIRM_TIMEOUT {
                return Err(format!("no confirm within {} s", CONFIRM_TIMEOUT.as_secs()));
            }
        }
        Ok(())
    }

    async fn publish_batch(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        let lost = |reason: String| PublishError { published: 0, fault: PublishFault::Lost, reason };
        self.connect().await.map_err(|e| lost(one_line(e)))?;
        let Some(link) = self.link.take() else { return Err(lost("not connected".to_owned())) };
        let mut outcome = Outcome::default();
        let mut pending = self.send(&link.channel, batch);
        for (index, confirm) in pending.iter_mut().enumerate() {
            match self.confirmed(&link.connection, confirm).await {
                Ok(()) => outcome.add(index, confirm.as_mut().take_output()),
                Err(reason) => {
                    outcome.failed.get_or_insert(reason);
                    break;
                }
            }
        }
        let published = outcome.safe(batch);
        if let Some(reason) = outcome.failed {
            return Err(self.lost(published, reason));
        }
        self.link = Some(link);
        if published == batch.len() {
            return Ok(published);
        }
        let exchange = &self.options.exchange;
        let (fault, reason) = if outcome.returned.is_empty() {
            (PublishFault::Refused, format!("the broker refused messages to exchange '{exchange}' (nack); see its log"))
        } else {
            let bug = batch[published].change.bug;
            let reason = format!(
                "no queue is bound to exchange '{exchange}' for bug {bug}; waiting for a gateway, or a binding with key #"
            );
            (PublishFault::Unroutable, reason)
        };
        Err(PublishError { published, fault, reason })
    }
}

impl Publish for AmqpPublisher {
    async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        self.publish_batch(batch).await
    }

    async fn close(&mut self) {
        if let Some(link) = self.link.take() {
            let closing = link.connection.close(200, "OK".into());
            // Politeness only: the broker notices the end of the process anyway.
            let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
        }
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
struct Outcome {
    acked: HashSet<usize>,
    /// By number, not by position: when one acknowledgement covers several messages, the library may hand a returned
    /// message to another one's confirm.
    returned: HashSet<u64>,
    failed: Option<String>,
}

impl Outcome {
    fn add(&mut self, index: usize, confirmation: Option<lapin::Result<Confirmation>>) {
        let returned = match confirmation {
            Some(Ok(Confirmation::Ack(returned))) => {
                self.acked.insert(index);
                returned
            }
            Some(Ok(Confirmation::Nack(returned))) => returned,
            Some(Ok(Confirmation::NotRequested)) | None => {
                self.failed.get_or_insert_with(|| "the channel does not confirm".to_owned());
                None
            }
            Some(Err(e)) => {
                self.failed.get_or_insert_with(|| one_line(e));
                None
            }
        };
        if let Some(message) = returned {
            let id = message.delivery.properties.message_id().as_ref().and_then(|id| Cursor::parse(id.as_str()));
            // Every message sent here carries its cursor; one without could be any of the batch.
            self.returned.insert(id.map_or(0, |cursor| cursor.seq));
        }
    }

    /// How many, from the front, are acknowledged and were not returned.
    fn safe(&self, batch: &[Numbered]) -> usize {
        if self.returned.contains(&0) {
            return 0;
        }
        let safe = |(index, numbered): &(usize, &Numbered)| {
            self.acked.contains(index) && !self.returned.contains(&numbered.cursor.seq)
        };
        batch.iter().enumerate().take_while(safe).count()
    }
}

fn properties(numbered: &Numbered) -> BasicProperties {
    // Rounded up: a stream reader that starts "from this second on" must not begin after it.
    let recorded_s = numbered.recorded.as_micros().unsigned_abs().div_ceil(1_000_000);
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(numbered.cursor.number().into())
        .with_timestamp(recorded_s)
        .with_app_id("bugfeed".into())
}

async fn connect(options: &AmqpOptions) -> Result<Link, AmqpError> {
    let url = &options.url;
    let connection = amqp::connect(url, "bugfeed-shim").await?;
    let setting_up = async {
        let channel = connection.create_channel().await.map_err(|e| AmqpError::broker(url, e))?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        confirm.await.map_err(|e| AmqpError::broker(url, e))?;
        amqp::declare_exchange(url, &channel, &options.exchange).await?;
        Ok(channel)
    };
    let set_up = tokio::time::timeout(SETUP_TIMEOUT, setting_up).await;
    let channel = set_up.map_err(|_| AmqpError::Timeout(url.clone()))??;
    if let Some(bounds) = &options.history {
        let declaring = amqp::declare_history(url, &connection, &options.exchange, bounds);
        match tokio::time::timeout(SETUP_TIMEOUT, declaring).await {
            Ok(Ok(())) => {}
            // A broker without streams still carries changes to whoever is there.
            Ok(Err(error)) if error.will_be_the_same() => {
                let (exchange, reason) = (&options.exchange, one_line(error));
                tracing::warn!(exchange, "no history: {reason}; going on without (--history false says so)");
            }
            // Right after a broker's restart a stream can be away for a moment. What gateways took meanwhile would be
            // confirmed, and be missing in the history for ever.
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(AmqpError::Timeout(url.clone())),
        }
    }
    Ok(Link { connection, channel })
}

fn one_line(text: impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_front_that_is_acked_and_not_returned_is_safe() {
        use bugfeed_protocol::{BugId, Change, Epoch, When};
        let numbered = |seq| Numbered {
            change: Change { bug: BugId::new(1).unwrap(), when: When::MIN },
            cursor: Cursor::new(Epoch::from_random(1), seq),
            after: None,
            recorded: When::MIN,
        };
        let batch: Vec<Numbered> = (5..=8).map(numbered).collect();
        for (acked, returned, want) in [
            (&[0, 1, 2, 3][..], &[][..], 4),
            (&[0, 1, 3], &[], 2),
            (&[1, 2, 3], &[], 0),
            (&[0, 1, 2, 3], &[7], 2),
            (&[0, 1, 2, 3], &[5], 0),
            (&[0, 1, 2, 3], &[0], 0),
            (&[], &[], 0),
        ] {
            let outcome = Outcome {
                acked: acked.iter().copied().collect(),
                returned: returned.iter().copied().collect(),
                failed: None,
            };
            assert_eq!(outcome.safe(&batch), want, "{acked:?} {returned:?}");
        }
    }
}
