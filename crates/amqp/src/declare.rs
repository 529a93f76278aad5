//! Declares what a feed has at the broker: its exchange, and its history.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};

use crate::consuming::{self, QueueSettings};
use crate::error::protocol_error;
use crate::{AmqpError, BrokerUrl};

/// Makes sure that a feed's durable topic exchange exists.
///
/// # Errors
/// [`AmqpError::Exchange`] and [`AmqpError::Permission`] can only be mended by a person.
pub async fn declare_exchange(url: &BrokerUrl, channel: &Channel, exchange: &str) -> Result<(), AmqpError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default()).await;
    declared.map_err(|error| AmqpError::exchange(url, exchange, error))
}

/// The same on a consuming connection.
///
/// # Errors
/// As [`declare_exchange`].
pub async fn declare_exchange_on(
    url: &BrokerUrl,
    connection: &mut consuming::Connection,
    channel: u16,
    exchange: &str,
) -> Result<(), AmqpError> {
    let declared = connection.declare_exchange(channel, exchange, "topic").await;
    declared.map_err(|error| AmqpError::exchange(url, exchange, error))
}

/// How long the broker keeps a feed's history, and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// The largest age, in seconds.
    pub age_s: u64,
    /// The largest size, in bytes on disk.
    pub bytes: u64,
}

impl Default for HistoryBounds {
    fn default() -> HistoryBounds {
        HistoryBounds { age_s: 7 * 24 * 3600, bytes: 1 << 30 }
    }
}

impl HistoryBounds {
    /// What the stream is declared with.
    fn arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        arguments.insert("x-max-age".into(), AMQPValue::LongString(format!("{}s", self.age_s).into()));
        let bytes = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
        // The broker removes whole segments, so they are made small; otherwise the bounds on age and size would
        // hold only roughly.
        let segment = (bytes / 10).clamp(1_000_000, 100_000_000);
        arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(segment));
        arguments
    }
}

/// The name of a feed's history.
pub fn history_name(exchange: &str) -> String {
    format!("{exchange}.history")
}

/// Makes sure that a feed's history exists: a RabbitMQ stream bound to its exchange. An existing one stays as it is,
/// even if its bounds differ. Returns whether it was made now.
///
/// # Errors
/// Also if the broker has no streams (RabbitMQ before 3.9, or another broker).
pub async fn declare_history(
    url: &BrokerUrl,
    connection: &Connection,
    exchange: &str,
    bounds: &HistoryBounds,
) -> Result<bool, AmqpError> {
    let failed = |error| AmqpError::broker(url, error);
    let name = history_name(exchange);
    // A refusal closes the channel, so each attempt has its own channel.
    let channel = connection.create_channel().await.map_err(failed)?;
    let look = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let (channel, made) = match channel.queue_declare(name.as_str().into(), look, FieldTable::default()).await {
        Ok(_) => (channel, false),
        Err(error) if protocol_error(&error).is_some_and(|(code, _)| code == 404) => {
            let channel = connection.create_channel().await.map_err(failed)?;
            let declare = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let arguments = bounds.arguments();
            let declared = channel.queue_declare(name.as_str().into(), declare, arguments).await;
            declared.map_err(|error| AmqpError::queue(url, &name, error))?;
            (channel, true)
        }
        Err(error) => return Err(failed(error)),
    };
    let everything = QueueBindOptions::default();
    channel
        .queue_bind(name.as_str().into(), exchange.into(), "#".into(), everything, FieldTable::default())
        .await
        .map_err(failed)?;
    channel.close(200, "done".into()).await.map_err(failed)?;
    Ok(made)
}

/// The same on a channel of a consuming connection, which a refusal closes. Only made where `make` says so: returns whether
/// it is there now.
///
/// # Errors
/// As [`declare_history`].
pub async fn declare_history_on(
    url: &BrokerUrl,
    connection: &mut consuming::Connection,
    channel: u16,
    exchange: &str,
    make: Option<&HistoryBounds>,
) -> Result<bool, AmqpError> {
    let name = history_name(exchange);
    let settings = match make {
        Some(bounds) => QueueSettings { durable: true, arguments: bounds.arguments(), ..QueueSettings::default() },
        None => QueueSettings { passive: true, durable: true, ..QueueSettings::default() },
    };
    match connection.declare_queue(channel, &name, settings).await {
        Ok(_) => {}
        Err(error) if make.is_none() && protocol_error(&error).is_some_and(|(code, _)| code == 404) => {
            return Ok(false);
        }
        Err(error) => return Err(AmqpError::queue(url, &name, error)),
    }
    connection.bind_queue(channel, &name, exchange).await.map_err(|error| AmqpError::broker(url, error))?;
    Ok(true)
}
