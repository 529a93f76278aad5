//! A feed's history: the RabbitMQ stream that is bound to its exchange beside the gateways' own queues.
//!
//! Goes in: a connection. Comes out: everything the stream holds, in order, up to what was published before the reading
//! began. When it is read, where reading begins, when it ends, and what a message means, is for
//! [`core::bus`](bugfeed_core::bus) to say.
//!
//! How the end is known: a stream has no end that a consumer is told of, so the reader first publishes a *marker* into
//! the stream, past the exchange, and reads until it meets it. Gateways pass over markers.

use std::time::Duration;

use bugfeed_amqp::consuming::{Connection, Delivery};
use bugfeed_amqp::{AmqpError, BrokerUrl, HistoryBounds, within};
use bugfeed_protocol::When;
use bugfeed_protocol::bus::MARKER_TYPE;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::timing::Stamps;

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the stream may take to confirm the marker. One that is just being recovered may never do so: ask again.
const MARK_PATIENCE: Duration = Duration::from_secs(3);
/// Messages on their way from the stream at a time. More than are acknowledged together (`core/bus/history.rs`); and so few
/// that, each with a batch as large as a frame, they fit into what a connection may hold.
const PREFETCH: u16 = 1000;

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
    pub(super) async fn keep(&self, url: &BrokerUrl, connection: &mut Connection) -> Result<(), AmqpError> {
        for make in [None, Some(&self.bounds)] {
            let opening = connection.open_channel();
            let channel = within(PATIENCE, url, opening, |error| AmqpError::broker(url, error)).await?;
            let declaring = bugfeed_amqp::declare_history_on(url, connection, channel, &self.exchange, make);
            let declared = within(PATIENCE, url, declaring, |error| error).await;
            // Whatever became of it: one that does not answer must not keep its channel.
            connection.abandon_channel(channel);
            if declared? {
                break;
            }
        }
        Ok(())
    }

    /// Makes sure that the stream exists and is bound, and marks its end as it is now.
    ///
    /// # Errors
    /// When the broker refuses, or does not answer in time.
    pub(super) async fn mark(&self, url: &BrokerUrl, connection: &mut Connection) -> Result<Reader, HistoryError> {
        self.keep(url, connection).await?;
        let failed = |error| AmqpError::broker(url, error);
        let channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
        let name = bugfeed_amqp::history_name(&self.exchange);
        match publish_marker(url, connection, channel, &name).await {
            Ok(marker) => Ok(Reader { url: url.clone(), name, channel, marker, last: 0 }),
            Err(error) => {
                connection.abandon_channel(channel);
                Err(error)
            }
        }
    }
}

/// Publishes a marker into the stream, and returns its name once the stream has it.
async fn publish_marker(
    url: &BrokerUrl,
    connection: &mut Connection,
    channel: u16,
    queue: &str,
) -> Result<String, HistoryError> {
    let failed = |error| AmqpError::broker(url, error);
    within(PATIENCE, url, connection.prefetch(channel, PREFETCH), failed).await?;
    within(PATIENCE, url, connection.confirm_select(channel), failed).await?;
    let marker = format!("{:016x}", rand::random::<u64>());
    let properties = BasicProperties::default().with_type(MARKER_TYPE.into()).with_message_id(marker.as_str().into());
    let publishing = connection.publish_to_queue(channel, queue, properties, b"{}");
    match tokio::time::timeout(MARK_PATIENCE, publishing).await {
        Ok(published) => published.map_err(failed)?,
        Err(_) => return Err(HistoryError::Silent(queue.to_owned())),
    }
    Ok(marker)
}

/// A reading under way.
#[derive(Debug)]
pub(super) struct Reader {
    url: BrokerUrl,
    name: String,
    /// The channel on which the stream delivers.
    pub(super) channel: u16,
    /// The marker at which it ends.
    pub(super) marker: String,
    /// The tag of the last delivery.
    pub(super) last: u64,
}

impl Reader {
    /// Reads from an offset, or from the first message.
    ///
    /// # Errors
    /// When the broker refuses, or does not answer in time.
    pub(super) async fn consume(&self, connection: &mut Connection, from: Option<i64>) -> Result<(), HistoryError> {
        let first = || AMQPValue::LongString("first".into());
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), from.map_or_else(first, AMQPValue::LongLongInt));
        let consuming = connection.consume(self.channel, &self.name, false, arguments);
        Ok(within(PATIENCE, &self.url, consuming, |error| AmqpError::broker(&self.url, error)).await?)
    }

    /// Acknowledges all that came.
    pub(super) fn acknowledge(&self, connection: &mut Connection) {
        connection.acknowledge(self.channel, self.last);
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn close(self, connection: &mut Connection) -> Result<(), HistoryError> {
        let closing = connection.close_channel(self.channel);
        Ok(within(PATIENCE, &self.url, closing, |error| AmqpError::broker(&self.url, error)).await?)
    }
}

/// When the producer had a change, where it says so.
pub(super) fn recorded(delivery: &Delivery) -> Option<When> {
    let seconds = i64::try_from(delivery.timestamp()?).ok()?;
    When::from_micros(seconds.checked_mul(1_000_000)?)
}

/// When exactly, where the message is one of the samples that say so.
pub(super) fn stamps(delivery: &Delivery) -> Stamps {
    let [recorded, published] = delivery.stamps().map(|us| us.and_then(When::from_micros));
    Stamps { recorded, published }
}
