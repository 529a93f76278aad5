//! A feed's history: the RabbitMQ stream that is bound to its exchange beside the gateways' own queues.
//!
//! Goes in: a connection. Comes out: everything the stream holds, in order, up to what was published before the reading
//! began. A gateway reads it before it becomes ready, after each reconnect, and whenever a number is missing. Where to begin
//! is for [`Places`] to say, what a message means for the intake, and when to read for the plan.
//!
//! How the end is known: a stream has no end that a consumer is told of, so the reader first publishes a *marker* into
//! the stream, past the exchange, and reads until it meets it. Gateways pass over markers.

use std::time::Duration;

use bugfeed_amqp::{AmqpError, BrokerUrl, HistoryBounds};
use bugfeed_protocol::When;
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};

use bugfeed_core::places::{Places, Start};

/// The type of a marker, as a message property.
const MARKER: &str = "bugfeed.marker";
/// How long the stream may take for one answer, or to send the next message. One that is just being recovered may never
/// answer: ask again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to confirm the marker, and to send the first message from an offset that may lie beyond its end.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
/// Messages on their way from the stream at a time.
const PREFETCH: u16 = 2000;

/// What is known of a feed's history.
#[derive(Debug)]
pub struct History {
    exchange: String,
    bounds: HistoryBounds,
    /// Where its messages lie.
    pub(super) places: Places,
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
        matches!(self, HistoryError::Amqp(error) if error.will_be_the_same())
    }
}

impl From<AmqpError> for HistoryError {
    fn from(error: AmqpError) -> HistoryError {
        HistoryError::Amqp(Box::new(error))
    }
}

/// What the stream holds next.
#[derive(Debug)]
pub enum Item {
    /// A message, and where it lies.
    Message(Box<Delivery>, i64),
    /// Another reading's marker.
    Marker(String),
    /// The marker of this reading: the end.
    End(i64),
}

impl History {
    /// The history of an exchange's feed.
    pub fn new(exchange: &str, bounds: HistoryBounds) -> History {
        History { exchange: exchange.to_owned(), bounds, places: Places::default() }
    }

    /// Makes sure that the stream exists and is bound.
    pub async fn keep(&self, url: &BrokerUrl, connection: &Connection) -> Result<(), AmqpError> {
        let declaring = bugfeed_amqp::declare_history(url, connection, &self.exchange, &self.bounds);
        bugfeed_amqp::within(PATIENCE, url, declaring, |error| error).await
    }

    /// Makes sure that the stream exists and is bound, and begins to read it.
    pub fn open<'a>(
        &self,
        url: &'a BrokerUrl,
        connection: &'a Connection,
        start: &Start,
    ) -> impl Future<Output = Result<Reader, HistoryError>> + use<'a> {
        let first = || AMQPValue::LongString("first".into());
        let offset = start.offset().map_or_else(first, AMQPValue::LongLongInt);
        open(url, connection, self.exchange.clone(), self.bounds.clone(), offset)
    }
}

async fn open(
    url: &BrokerUrl,
    connection: &Connection,
    exchange: String,
    bounds: HistoryBounds,
    offset: AMQPValue,
) -> Result<Reader, HistoryError> {
    let failed = |error| AmqpError::broker(url, error);
    let name = bugfeed_amqp::history_name(&exchange);
    let declaring = bugfeed_amqp::declare_history(url, connection, &exchange, &bounds);
    bugfeed_amqp::within(PATIENCE, url, declaring, |error| error).await?;
    let opening = async {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    };
    let channel = bugfeed_amqp::within(PATIENCE, url, opening, failed).await?;
    let marker = format!("{:016x}", rand::random::<u64>());
    match tokio::time::timeout(FIRST_PATIENCE, publish_marker(&channel, &name, &marker)).await {
        Ok(published) => published.map_err(failed)?,
        Err(_) => return Err(HistoryError::Silent(name)),
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), offset);
    let consuming = channel.basic_consume(name.as_str().into(), "".into(), BasicConsumeOptions::default(), arguments);
    let consumer = bugfeed_amqp::within(PATIENCE, url, consuming, failed).await?;
    Ok(Reader { url: url.clone(), name, channel, consumer, marker, unacknowledged: 0, begun: false })
}

/// Publishes a marker into the stream; done once the stream has it.
async fn publish_marker(channel: &Channel, queue: &str, marker: &str) -> lapin::Result<()> {
    let properties = BasicProperties::default().with_type(MARKER.into()).with_message_id(marker.into());
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.into(), options, b"{}", properties).await?.await.map(drop)
}

/// A reading under way.
#[derive(Debug)]
pub struct Reader {
    url: BrokerUrl,
    name: String,
    channel: Channel,
    consumer: Consumer,
    pub(super) marker: String,
    unacknowledged: u32,
    begun: bool,
}

impl Reader {
    /// The next message; none where not even the first comes from an offset that may lie beyond the end.
    ///
    /// # Errors
    /// When nothing comes, or the connection is lost.
    pub async fn next(&mut self, start: &Start) -> Result<Option<Item>, HistoryError> {
        let doubtful = !self.begun && *start != Start::First;
        let patience = if doubtful { FIRST_PATIENCE } else { PATIENCE };
        let delivery = match tokio::time::timeout(patience, self.consumer.next()).await {
            Err(_) if doubtful => return Ok(None),
            Err(_) => return Err(HistoryError::Silent(self.name.clone())),
            Ok(None) => return Err(AmqpError::Cancelled(self.url.clone()).into()),
            Ok(Some(delivery)) => delivery.map_err(|error| AmqpError::broker(&self.url, error))?,
        };
        self.begun = true;
        let (offset, tag) = (offset(&delivery), delivery.delivery_tag);
        let item = match marker(&delivery).map(ToOwned::to_owned) {
            Some(marker) if marker == self.marker => Item::End(offset),
            Some(marker) => Item::Marker(marker),
            None => Item::Message(Box::new(delivery), offset),
        };
        self.unacknowledged += 1;
        if self.unacknowledged == 500 || matches!(item, Item::End(_)) {
            self.unacknowledged = 0;
            let acknowledging = self.channel.basic_ack(tag, BasicAckOptions { multiple: true });
            bugfeed_amqp::within(PATIENCE, &self.url, acknowledging, |error| AmqpError::broker(&self.url, error))
                .await?;
        }
        Ok(Some(item))
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

fn offset(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-stream-offset")) {
        Some(AMQPValue::LongLongInt(offset)) => *offset,
        _ => 0,
    }
}

/// A marker's name.
pub(super) fn marker(delivery: &Delivery) -> Option<&str> {
    let properties = &delivery.properties;
    let is_marker = properties.kind().as_ref().is_some_and(|kind| kind.as_str() == MARKER);
    properties.message_id().as_ref().map(|id| id.as_str()).filter(|_| is_marker)
}

/// When the producer had a change, where it says so.
pub(super) fn recorded(delivery: &Delivery) -> Option<When> {
    let seconds = i64::try_from((*delivery.properties.timestamp())?).ok()?;
    When::from_micros(seconds.checked_mul(1_000_000)?)
}
