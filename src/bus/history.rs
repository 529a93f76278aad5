//! A feed's history: the RabbitMQ stream that is bound to its exchange beside the gateways' own queues.
//!
//! Goes in: a connection, and the feed's ingest. Comes out: everything the stream holds, offered to the ingest in order,
//! up to what was published before the reading began. A gateway reads it before it becomes ready, after each reconnect,
//! and whenever a number is missing.
//!
//! How the end is known: a stream has no end that a consumer is told of, so the reader first publishes a *marker* into
//! the stream, past the exchange, and reads until it meets it. Gateways pass over markers.
//!
//! Where to begin: each change is in the stream at least once and in order, so the offset of number n + k is at least
//! that of n plus k. From the last number read here the next one is looked for there; a stream that was made anew, or
//! cut off at its beginning, shows by the first number read, and then everything is read. So it is where a hole is not
//! filled from there: what the stream refused at first lies further on in it, and what is sought may lie before that.

use std::time::Duration;

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{Cursor, When};
use bugfeed_shim::amqp::{self, AmqpError, BrokerUrl, HistoryBounds};
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};

use crate::hub::Ingest;

/// The type of a marker, as a message property.
const MARKER: &str = "bugfeed.marker";
/// How long the stream may take to send the next message.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to confirm the marker. A stream that is just being recovered may never do so: ask again.
const MARKER_PATIENCE: Duration = Duration::from_secs(3);
/// Messages on their way from the stream at a time.
const PREFETCH: u16 = 2000;

/// Reads a feed's history.
#[derive(Debug)]
pub struct History {
    exchange: String,
    bounds: HistoryBounds,
    /// A number, and where it lies in the stream.
    known: Option<(Cursor, i64)>,
}

/// Why history could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The broker said no, or the connection is lost.
    #[error(transparent)]
    Amqp(Box<AmqpError>),
    /// Nothing came for a while.
    #[error("history '{0}' does not answer; it may be recovering")]
    Silent(String),
}

impl HistoryError {
    /// Whether trying again is of no use: no streams here, or no permission.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, HistoryError::Amqp(error) if error.needs_a_person())
    }
}

impl From<AmqpError> for HistoryError {
    fn from(error: AmqpError) -> HistoryError {
        HistoryError::Amqp(Box::new(error))
    }
}

impl History {
    /// The history of an exchange's feed.
    pub fn new(exchange: &str, bounds: HistoryBounds) -> History {
        History { exchange: exchange.to_owned(), bounds, known: None }
    }

    /// Makes sure that the stream exists and is bound.
    ///
    /// # Errors
    /// When the broker has no streams, or refuses.
    pub async fn declare(&self, url: &BrokerUrl, connection: &Connection) -> Result<(), HistoryError> {
        Ok(amqp::declare_history(url, connection, &self.exchange, &self.bounds).await?)
    }

    /// Offers everything that was published before now, and is not known yet, to the ingest. Holes in the history
    /// itself are given up: they are gaps. `sought` is the message whose hole is to be filled.
    ///
    /// # Errors
    /// When it could not be read to its end; what was read until then has been taken in.
    pub async fn read(
        &mut self,
        url: &BrokerUrl,
        connection: &Connection,
        ingest: &mut Ingest,
        sought: Option<&BusMessage>,
    ) -> Result<u64, HistoryError> {
        let head = ingest.head();
        let begin = head.as_ref().and_then(|head| self.offset_of(head));
        if let (Some(offset), Some(head)) = (begin, head)
            && let Some(read) =
                self.read_from(AMQPValue::LongLongInt(offset), Some(&head), url, connection, ingest).await?
            && sought.is_none_or(|message| ingest.continues(message))
        {
            return Ok(read);
        }
        self.known = None;
        let read = self.read_from(AMQPValue::LongString("first".into()), None, url, connection, ingest).await?;
        Ok(read.unwrap_or(0))
    }

    /// An offset at or before that of a number, if it can be told.
    fn offset_of(&self, head: &Cursor) -> Option<i64> {
        let (known, offset) = self.known.as_ref()?;
        let ahead = head.seq.checked_sub(known.seq).filter(|_| known.epoch == head.epoch)?;
        offset.checked_add(i64::try_from(ahead).ok()?)
    }

    /// Reads from an offset up to a fresh marker; none if what is read first shows that the offset is of no use, because
    /// it comes after what is sought.
    async fn read_from(
        &mut self,
        offset: AMQPValue,
        after: Option<&Cursor>,
        url: &BrokerUrl,
        connection: &Connection,
        ingest: &mut Ingest,
    ) -> Result<Option<u64>, HistoryError> {
        let failed = |error| HistoryError::from(AmqpError::broker(url, error));
        let name = amqp::history_name(&self.exchange);
        let channel = connection.create_channel().await.map_err(failed)?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(failed)?;
        let marker = self.publish_marker(&name, &channel).await.map_err(|error| match error {
            Some(error) => failed(error),
            None => HistoryError::Silent(name.clone()),
        })?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), offset);
        let mut consumer = channel
            .basic_consume(name.as_str().into(), "".into(), BasicConsumeOptions::default(), arguments)
            .await
            .map_err(failed)?;
        let mut read = 0;
        let mut first = true;
        loop {
            let delivery = next(&mut consumer, url, &name).await?;
            let ended = is_marker(&delivery, Some(&marker));
            if !ended && !is_marker(&delivery, None) {
                let Some(message) = ingest.read(&delivery.data) else { continue };
                let beyond = after
                    .zip(message.cursor.as_ref())
                    .is_some_and(|(after, cursor)| cursor.epoch != after.epoch || cursor.seq > after.seq + 1);
                if first && beyond {
                    break;
                }
                first = false;
                self.remember(&message, &delivery);
                let recorded = recorded(&delivery);
                if let Some(hole) = ingest.take(message, recorded).await {
                    ingest.take_anyway(&hole.message, hole.recorded).await;
                }
                read += 1;
            }
            if ended || read % 500 == 499 {
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await.map_err(failed)?;
            }
            if ended {
                channel.close(200, "read".into()).await.map_err(failed)?;
                return Ok(Some(read));
            }
        }
        channel.close(200, "from the beginning".into()).await.map_err(failed)?;
        Ok(None)
    }

    fn remember(&mut self, message: &BusMessage, delivery: &Delivery) {
        let offset = delivery.properties.headers().as_ref().and_then(|headers| headers.inner().get("x-stream-offset"));
        if let (Some(cursor), Some(AMQPValue::LongLongInt(offset))) = (&message.cursor, offset) {
            // A repeat lies further on than where its number is first found.
            let repeat =
                self.known.as_ref().is_some_and(|(known, _)| known.epoch == cursor.epoch && cursor.seq <= known.seq);
            if !repeat {
                self.known = Some((cursor.clone(), *offset));
            }
        }
    }

    /// Publishes a marker into the stream and returns its name, once the stream has it.
    async fn publish_marker(&self, queue: &str, channel: &Channel) -> Result<String, Option<lapin::Error>> {
        let marker = format!("{:016x}", rand::random::<u64>());
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let properties = BasicProperties::default().with_type(MARKER.into()).with_message_id(marker.as_str().into());
        let publishing = async {
            let published =
                channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), b"{}", properties);
            published.await?.await
        };
        match tokio::time::timeout(MARKER_PATIENCE, publishing).await {
            Ok(published) => {
                published?;
                Ok(marker)
            }
            Err(_) => Err(None),
        }
    }
}

async fn next(consumer: &mut Consumer, url: &BrokerUrl, name: &str) -> Result<Delivery, HistoryError> {
    match tokio::time::timeout(PATIENCE, consumer.next()).await {
        Err(_) => Err(HistoryError::Silent(name.to_owned())),
        Ok(None) => Err(AmqpError::Cancelled(url.clone()).into()),
        Ok(Some(Err(error))) => Err(AmqpError::broker(url, error).into()),
        Ok(Some(Ok(delivery))) => Ok(delivery),
    }
}

/// Whether a message is a marker (this one, or any).
fn is_marker(delivery: &Delivery, which: Option<&str>) -> bool {
    let properties = &delivery.properties;
    let marker = properties.kind().as_ref().is_some_and(|kind| kind.as_str() == MARKER);
    let this = |which: &str| properties.message_id().as_ref().is_some_and(|id| id.as_str() == which);
    marker && which.is_none_or(this)
}

/// When the producer had a change, where it says so.
pub(super) fn recorded(delivery: &Delivery) -> Option<When> {
    let seconds = i64::try_from((*delivery.properties.timestamp())?).ok()?;
    When::from_micros(seconds.checked_mul(1_000_000)?)
}
