//! A feed's history: the RabbitMQ stream that is bound to its exchange beside the gateways' own queues.
//!
//! Goes in: a connection. Comes out: everything the stream holds, in order, up to what was published before the reading
//! began; where to begin, given what is known already. A gateway reads it before it becomes ready, after each reconnect, and
//! whenever a number is missing. What a message means is the intake's to say, and when to read the plan's.
//!
//! How the end is known: a stream has no end that a consumer is told of, so the reader first publishes a *marker* into
//! the stream, past the exchange, and reads until it meets it. Gateways pass over markers.
//!
//! Where to begin: each change is in the stream at least once and in order, so the offset of number n + k is at least
//! that of n plus k. From the last number read here the next one is looked for there; where nothing is numbered, the last
//! marker is where to go on. A stream that was made anew, or cut off at its beginning, shows by what is read first, or by
//! silence where the offset lies beyond its end; then everything is read. So it is where a hole is not filled from there:
//! what the stream refused at first lies further on in it, and what is sought may lie before that.

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
    /// A number, and where it lies in the stream.
    known: Option<(Cursor, i64)>,
    /// The last marker that was met, and where it lies.
    mark: Option<(String, i64)>,
}

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Everything.
    First,
    /// At or before the next number after this.
    After(Cursor, i64),
    /// At this marker.
    Mark(String, i64),
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
        History { exchange: exchange.to_owned(), bounds, known: None, mark: None }
    }

    /// Where to begin, given the newest number taken in.
    pub fn start(&self, head: Option<&Cursor>) -> Start {
        let after = |head: &Cursor| {
            let (known, offset) = self.known.as_ref()?;
            let ahead = head.seq.checked_sub(known.seq).filter(|_| known.epoch == head.epoch)?;
            let offset = offset.checked_add(i64::try_from(ahead).ok()?)?;
            Some(Start::After(head.clone(), offset))
        };
        let mark = || self.mark.clone().map(|(marker, offset)| Start::Mark(marker, offset));
        head.and_then(after).or_else(mark).unwrap_or(Start::First)
    }

    /// What was remembered is not of the stream that is there.
    pub fn forget(&mut self) {
        (self.known, self.mark) = (None, None);
    }

    /// Whether a message without a number lies before what was read to its end once, and so was taken in.
    pub fn has_passed(&self, message: &BusMessage, offset: i64) -> bool {
        message.cursor.is_none() && self.mark.as_ref().is_some_and(|(_, mark)| offset < *mark)
    }

    /// Remembers where a message lies.
    pub fn remember(&mut self, message: &BusMessage, offset: i64) {
        let Some(cursor) = &message.cursor else { return };
        // A repeat lies further on than where its number is first found.
        let repeat =
            self.known.as_ref().is_some_and(|(known, _)| known.epoch == cursor.epoch && cursor.seq <= known.seq);
        if !repeat {
            self.known = Some((cursor.clone(), offset));
        }
    }

    /// A reading came to its end, which lies there.
    pub fn ended(&mut self, reader: &Reader, offset: i64) {
        self.mark = Some((reader.marker.clone(), offset));
    }

    /// Makes sure that the stream exists and is bound.
    pub async fn keep(&self, url: &BrokerUrl, connection: &Connection) -> Result<(), AmqpError> {
        let declaring = amqp::declare_history(url, connection, &self.exchange, &self.bounds);
        amqp::within(PATIENCE, url, declaring, |error| error).await
    }

    /// Makes sure that the stream exists and is bound, and begins to read it.
    pub fn open<'a>(
        &self,
        url: &'a BrokerUrl,
        connection: &'a Connection,
        start: &Start,
    ) -> impl Future<Output = Result<Reader, HistoryError>> + use<'a> {
        let offset = match start {
            Start::First => AMQPValue::LongString("first".into()),
            Start::After(_, offset) | Start::Mark(_, offset) => AMQPValue::LongLongInt(*offset),
        };
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
    let name = amqp::history_name(&exchange);
    let declaring = amqp::declare_history(url, connection, &exchange, &bounds);
    amqp::within(PATIENCE, url, declaring, |error| error).await?;
    let opening = async {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    };
    let channel = amqp::within(PATIENCE, url, opening, failed).await?;
    let marker = format!("{:016x}", rand::random::<u64>());
    match tokio::time::timeout(FIRST_PATIENCE, publish_marker(&channel, &name, &marker)).await {
        Ok(published) => published.map_err(failed)?,
        Err(_) => return Err(HistoryError::Silent(name)),
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), offset);
    let consuming = channel.basic_consume(name.as_str().into(), "".into(), BasicConsumeOptions::default(), arguments);
    let consumer = amqp::within(PATIENCE, url, consuming, failed).await?;
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
    marker: String,
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
            amqp::within(PATIENCE, &self.url, acknowledging, |error| AmqpError::broker(&self.url, error)).await?;
        }
        Ok(Some(item))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn close(self) -> Result<(), HistoryError> {
        let closing = self.channel.close(200, "read".into());
        Ok(amqp::within(PATIENCE, &self.url, closing, |error| AmqpError::broker(&self.url, error)).await?)
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
