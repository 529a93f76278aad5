//! Publishing to AMQP (RabbitMQ): a durable topic exchange, persistent and mandatory messages, pipelined confirms.
//!
//! Goes in: numbered changes. Comes out: messages of which it is known that the broker has them *and* that a queue took
//! them. Connects when asked to; the pauses between attempts are the relay's. Never waits without a bound, except while the
//! broker itself says that it blocks publishers.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bugfeed_protocol::{Cursor, Numbered, When};
use futures::future::{MaybeDone, maybe_done};
use lapin::options::BasicPublishOptions;
use lapin::{Confirmation, PublisherConfirm};

use super::connection::{PublisherConnection, SETUP_TIMEOUT};
use super::heads::Heads;
use super::message::{Message, messages, with_times};
use super::options::one_line;
pub use super::options::{AmqpOptions, BatchOptions};
use super::{Publish, PublishError, PublishFault, history};
use crate::events::{Part, Telemetry};
use bugfeed_amqp::AmqpError;
use bugfeed_protocol::log_event::LogEvent;

/// The longest wait for the end of the history.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for the next confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a wait for confirms looks whether the broker blocks publishers.
const LOOK: Duration = Duration::from_secs(1);
/// How often a way for heads is looked for where there is none.
const HEADS_RETRY: Duration = Duration::from_secs(30);

/// From one message that tells its exact times to the next, in milliseconds.
const SAMPLE_MS: u64 = 100;

/// Publishes to an AMQP exchange.
#[derive(Debug)]
pub struct AmqpPublisher {
    options: AmqpOptions,
    telemetry: Arc<Telemetry>,
    link: Option<PublisherConnection>,
    /// The connection is new since the relay last asked.
    fresh: bool,
    heads: Heads,
    heads_at: Option<Instant>,
    /// A refusal of the heads' exchange was said.
    heads_refused: bool,
    begun: Instant,
    /// When the next message is to tell its exact times, in milliseconds since `begun`.
    sample_ms: AtomicU64,
}

/// A message on its way.
struct Sent {
    /// How many changes it holds.
    changes: usize,
    /// The number of the last one.
    last: u64,
    pending: Pending,
}

type Pending = Pin<Box<MaybeDone<Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>>>>;

impl AmqpPublisher {
    /// A publisher that is not connected yet.
    pub fn new(options: AmqpOptions, telemetry: Arc<Telemetry>) -> AmqpPublisher {
        let heads = Heads::new(&options.exchange);
        AmqpPublisher {
            options,
            telemetry,
            link: None,
            fresh: false,
            heads,
            heads_at: None,
            heads_refused: false,
            begun: Instant::now(),
            sample_ms: AtomicU64::new(0),
        }
    }

    /// Connects now, so that wrong settings are found at the start. A broker that is not there is no error.
    ///
    /// # Errors
    /// When waiting cannot help: wrong credentials, unknown virtual host, an exchange of another type.
    pub async fn open(options: AmqpOptions, telemetry: Arc<Telemetry>) -> Result<AmqpPublisher, AmqpError> {
        let mut publisher = AmqpPublisher::new(options, telemetry);
        match publisher.make_link().await {
            Ok(()) => {}
            Err(e) if !e.needs_a_person() => publisher.telemetry.down(Part::Bus, &e),
            Err(e) => return Err(e),
        }
        Ok(publisher)
    }

    async fn make_link(&mut self) -> Result<(), AmqpError> {
        if !self.link.as_ref().is_some_and(PublisherConnection::is_open) {
            self.link = None;
            self.heads.close();
            self.heads_at = None;
            self.link = Some(PublisherConnection::open(&self.options).await?);
            self.fresh = true;
        }
        if let Some(mut link) = self.link.take() {
            // After an error the connection is not used any more: whether there is a history is not known.
            if link.keep_history(&self.options).await? {
                tracing::warn!(
                    exchange = self.options.exchange,
                    event = %LogEvent::HistoryMadeAnew,
                    "somebody has deleted the history; it was made anew, and begins here"
                );
                self.fresh = true;
            }
            self.link = Some(link);
        }
        self.make_way_for_heads().await;
        Ok(())
    }

    /// Without heads everything works; gateways only cannot tell silence from being cut off.
    async fn make_way_for_heads(&mut self) {
        let Some(link) = &self.link else { return };
        if self.heads.is_open() || self.heads_at.is_some_and(|at| at.elapsed() < HEADS_RETRY) {
            return;
        }
        self.heads_at = Some(Instant::now());
        let opening = tokio::time::timeout(SETUP_TIMEOUT, self.heads.open(&self.options.url, &link.connection)).await;
        if let Ok(Err(error)) = opening
            && error.needs_a_person()
            && !std::mem::replace(&mut self.heads_refused, true)
        {
            let reason = one_line(error);
            tracing::warn!(
                exchange = self.heads.exchange(),
                event = %LogEvent::HeadsNotSent,
                "heads cannot be said: {reason}; changes flow all the same, but gateways cannot tell a quiet feed from one \
                 that they are cut off from"
            );
        }
    }

    fn lost(&mut self, published: usize, reason: impl fmt::Display) -> PublishError {
        self.link = None;
        let reason = format!("broker {}: {reason}", self.options.url);
        PublishError { published, fault: PublishFault::Lost, reason }
    }

    /// Whether the next message is to tell its exact times: one every tenth of a second does.
    fn is_sample(&self) -> bool {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let is_due = now_ms >= self.sample_ms.load(Ordering::Relaxed);
        if is_due {
            self.sample_ms.store(now_ms + SAMPLE_MS, Ordering::Relaxed);
        }
        is_due
    }

    /// Hands every message to the connection, in order, without waiting for any.
    fn send(&self, link: &PublisherConnection, batch: &[Numbered]) -> Vec<Sent> {
        let mut sample = self.is_sample();
        messages(batch, &self.options, link.room(&self.options))
            .map(|message| {
                let Message { changes, last, recorded, key, mut properties, body } = message;
                if std::mem::take(&mut sample) {
                    properties = with_times(properties, recorded, When::from_system_time(SystemTime::now()));
                }
                let (channel, exchange) = (link.channel.clone(), self.options.exchange.clone());
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
                Sent { changes, last, pending }
            })
            .collect()
    }

    /// Waits for one confirm, for as long as confirms may take.
    async fn confirmed(&self, link: &PublisherConnection, pending: &mut Pending) -> Result<(), String> {
        let mut waited = Duration::ZERO;
        while tokio::time::timeout(LOOK, pending.as_mut()).await.is_err() {
            if let Some(reason) = link.blocked() {
                self.telemetry.down(Part::Bus, &format!("broker {}: {reason}", self.options.url));
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
        let Some(link) = self.link.take().filter(PublisherConnection::is_open) else {
            return Err(self.lost(0, "the connection is lost"));
        };
        let mut outcome = Outcome::default();
        let mut sent = self.send(&link, batch);
        for Sent { changes, last, pending } in &mut sent {
            match self.confirmed(&link, pending).await {
                Ok(()) => outcome.add(*changes, *last, pending.as_mut().take_output()),
                Err(reason) => {
                    outcome.failed.get_or_insert(reason);
                    break;
                }
            }
        }
        let published = outcome.safe();
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
            // Where there was a history, it was deleted, for it takes everything: the next connection makes it anew.
            self.link = self.link.take().filter(|link| !link.history);
            (PublishFault::Unroutable, reason)
        };
        Err(PublishError { published, fault, reason })
    }
}

impl Publish for AmqpPublisher {
    async fn connect(&mut self) -> Result<bool, PublishError> {
        let lost = |reason: String| PublishError { published: 0, fault: PublishFault::Lost, reason };
        self.make_link().await.map_err(|e| lost(one_line(e)))?;
        Ok(std::mem::take(&mut self.fresh))
    }

    async fn end(&mut self) -> Result<Option<Vec<Cursor>>, PublishError> {
        let AmqpOptions { url, exchange, .. } = &self.options;
        let failed = |reason: String| PublishError { published: 0, fault: PublishFault::Refused, reason };
        let Some(link) = self.link.as_ref().filter(|link| link.is_open()) else {
            return Err(self.lost(0, "the connection is lost"));
        };
        if !link.history {
            return Ok(None);
        }
        match tokio::time::timeout(END_TIMEOUT, history::end(url, &link.connection, exchange)).await {
            Ok(Ok(end)) => Ok(Some(end)),
            Ok(Err(error)) => Err(failed(one_line(error))),
            Err(_) => Err(match link.blocked() {
                Some(reason) => {
                    let reason = format!("broker {url}: {reason}");
                    PublishError { published: 0, fault: PublishFault::Blocked, reason }
                }
                None => failed(format!("history '{}' does not answer", bugfeed_amqp::history_name(exchange))),
            }),
        }
    }

    fn heads(&self) -> Option<Heads> {
        Some(self.heads.clone())
    }

    fn place(&self) -> Option<String> {
        Some(format!("exchange {} on {}", self.options.exchange, self.options.url))
    }

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
    /// In order: how many changes each message holds, the number of the last one, and whether it was acknowledged.
    messages: Vec<(usize, u64, bool)>,
    /// By number, not by position: when one acknowledgement covers several messages, the library may hand a returned
    /// message to another one's confirm.
    returned: HashSet<u64>,
    failed: Option<String>,
}

impl Outcome {
    fn add(&mut self, changes: usize, last: u64, confirmation: Option<lapin::Result<Confirmation>>) {
        let (acknowledged, returned) = match confirmation {
            Some(Ok(Confirmation::Ack(returned))) => (true, returned),
            Some(Ok(Confirmation::Nack(returned))) => (false, returned),
            Some(Ok(Confirmation::NotRequested)) | None => {
                self.failed.get_or_insert_with(|| "the channel does not confirm".to_owned());
                (false, None)
            }
            Some(Err(e)) => {
                self.failed.get_or_insert_with(|| one_line(e));
                (false, None)
            }
        };
        self.messages.push((changes, last, acknowledged));
        if let Some(message) = returned {
            let id = message.delivery.properties.message_id().as_ref().and_then(|id| Cursor::parse(id.as_str()));
            // Every message sent here carries its last number; one without could be any of the batch.
            self.returned.insert(id.map_or(0, |cursor| cursor.seq));
        }
    }

    /// How many changes, from the front, are in messages that are acknowledged and were not returned.
    fn safe(&self) -> usize {
        if self.returned.contains(&0) {
            return 0;
        }
        let safe = |(_, last, acknowledged): &&(usize, u64, bool)| *acknowledged && !self.returned.contains(last);
        self.messages.iter().take_while(safe).map(|(changes, ..)| changes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_front_that_is_acked_and_not_returned_is_safe() {
        for (acked, returned, want) in [
            (&[true, true, true, true][..], &[][..], 9),
            (&[true, true, false, true], &[], 4),
            (&[false, true, true, true], &[], 0),
            (&[true, true, true, true], &[9], 4),
            (&[true, true, true, true], &[5], 0),
            (&[true, true, true, true], &[0], 0),
            (&[true, true], &[], 4),
            (&[], &[], 0),
        ] {
            let messages = [(1, 5), (3, 8), (1, 9), (4, 13)];
            let outcome = Outcome {
                messages: messages
                    .iter()
                    .zip(acked)
                    .map(|((changes, last), acked)| (*changes, *last, *acked))
                    .collect(),
                returned: returned.iter().copied().collect(),
                failed: None,
            };
            assert_eq!(outcome.safe(), want, "{acked:?} {returned:?}");
        }
    }
}
