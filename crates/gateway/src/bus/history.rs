//! A feed's history: the RabbitMQ stream that is bound to its exchange beside the gateways' own queues.
//!
//! Goes in: a connection. Comes out: everything the stream holds, in order, up to what was published before the reading
//! began. When it is read, where reading begins, when it ends, and what a message means, is for
//! [`core::bus`](bugfeed_core::bus) to say.
//!
//! How the end is known: a stream has no end that a consumer is told of, so the reader first publishes a *marker* into
//! the stream, past the exchange, and reads until it meets it. Gateways pass over markers.

use std::time::Duration;

use bugfeed_amqp::{AmqpError, BrokerUrl, HistoryBounds};
use bugfeed_protocol::When;
use bugfeed_protocol::bus::MARKER_TYPE;
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the stream may take to confirm the marker. One that is just being recovered may never do so: ask again.
const MARK_PATIENCE: Duration = Duration::from_secs(3);
/// Messages on their way from the stream at a time.
const PREFETCH: u16 = 2000;

/// The stream of a feed's history.
#[derive(Clone, Debug)]
pub struct History {
    exchange: String,
    bounds: HistoryBounds,
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
    /// Whether trying again soon is of no use: no streams here, or no permission.
    pub fn is_for_good(&self) -> bool {
        matches!(self, HistoryError::Amqp(error) if error.is_permanent())
    }

    /// The same, where it is the connection that is lost.
    pub fn into_amqp(self, url: &BrokerUrl) -> AmqpError {
        match self {
            HistoryError::Amqp(error) => *error,
            HistoryError::Silent(_) => AmqpError::Timeout(url.clone()),
        }
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
        History { exchange: exchange.to_owned(), bounds }
    }

    /// Makes sure that the stream exists and is bound.
    pub async fn keep(&self, url: &BrokerUrl, connection: &Connection) -> Result<(), AmqpError> {
        let declaring = bugfeed_amqp::declare_history(url, connection, &self.exchange, &self.bounds);
        bugfeed_amqp::within(PATIENCE, url, declaring, |error| error).await
    }

    /// Makes sure that the stream exists and is bound, and marks its end as it is now.
    ///
    /// # Errors
    /// When the broker refuses, or does not answer in time.
    pub async fn mark(&self, url: &BrokerUrl, connection: &Connection) -> Result<Reader, HistoryError> {
        self.keep(url, connection).await?;
        let failed = |error| AmqpError::broker(url, error);
        let name = bugfeed_amqp::history_name(&self.exchange);
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let channel = bugfeed_amqp::within(PATIENCE, url, opening, failed).await?;
        let marker = format!("{:016x}", rand::random::<u64>());
        match tokio::time::timeout(MARK_PATIENCE, publish_marker(&channel, &name, &marker)).await {
            Ok(published) => published.map_err(failed)?,
            Err(_) => return Err(HistoryError::Silent(name)),
        }
        Ok(Reader { url: url.clone(), name, channel, consumer: None, marker, last: 0 })
    }
}

/// Publishes a marker into the stream; done once the stream has it.
async fn publish_marker(channel: &Channel, queue: &str, marker: &str) -> lapin::Result<()> {
    let properties = BasicProperties::default().with_type(MARKER_TYPE.into()).with_message_id(marker.into());
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.into(), options, b"{}", properties).await?.await.map(drop)
}

/// A reading under way.
#[derive(Debug)]
pub struct Reader {
    url: BrokerUrl,
    name: String,
    channel: Channel,
    consumer: Option<Consumer>,
    /// The marker at which it ends.
    pub(super) marker: String,
    /// The tag of the last delivery.
    last: u64,
}

impl Reader {
    /// Reads from an offset, or from the first message.
    ///
    /// # Errors
    /// When the broker refuses, or does not answer in time.
    pub async fn consume(&mut self, from: Option<i64>) -> Result<(), HistoryError> {
        let first = || AMQPValue::LongString("first".into());
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), from.map_or_else(first, AMQPValue::LongLongInt));
        let options = BasicConsumeOptions::default();
        let consuming = self.channel.basic_consume(self.name.as_str().into(), "".into(), options, arguments);
        let consuming =
            bugfeed_amqp::within(PATIENCE, &self.url, consuming, |error| AmqpError::broker(&self.url, error));
        self.consumer = Some(consuming.await?);
        Ok(())
    }

    /// The next delivery.
    ///
    /// # Errors
    /// When the broker ends the reading, or the connection is lost.
    pub async fn next(&mut self) -> Result<Delivery, HistoryError> {
        let Some(consumer) = &mut self.consumer else { return std::future::pending().await };
        let delivery = consumer.next().await.ok_or_else(|| AmqpError::Cancelled(self.url.clone()))?;
        let delivery = delivery.map_err(|error| AmqpError::broker(&self.url, error))?;
        self.last = delivery.delivery_tag;
        Ok(delivery)
    }

    /// Acknowledges all that came.
    ///
    /// # Errors
    /// When the connection is lost, or the broker does not answer in time.
    pub async fn acknowledge(&self) -> Result<(), HistoryError> {
        let acknowledging = self.channel.basic_ack(self.last, BasicAckOptions { multiple: true });
        let failed = |error| AmqpError::broker(&self.url, error);
        Ok(bugfeed_amqp::within(PATIENCE, &self.url, acknowledging, failed).await?)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn close(self) -> Result<(), HistoryError> {
        let closing = self.channel.close(200, "read".into());
        Ok(bugfeed_amqp::within(PATIENCE, &self.url, closing, |error| AmqpError::broker(&self.url, error)).await?)
    }
}

/// Where in the stream a delivery lies.
pub(super) fn offset(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-stream-offset")) {
        Some(AMQPValue::LongLongInt(offset)) => *offset,
        _ => 0,
    }
}

/// The type of a message, where it says one.
pub(super) fn kind(delivery: &Delivery) -> Option<&str> {
    delivery.properties.kind().as_ref().map(|kind| kind.as_str())
}

/// A marker's name.
pub(super) fn marker(delivery: &Delivery) -> &str {
    delivery.properties.message_id().as_ref().map_or("", |id| id.as_str())
}

/// When the producer had a change, where it says so.
pub(super) fn recorded(delivery: &Delivery) -> Option<When> {
    let seconds = i64::try_from((*delivery.properties.timestamp())?).ok()?;
    When::from_micros(seconds.checked_mul(1_000_000)?)
}
