//! Looks at what a feed has at a broker, and at what this user may do there, as gateways and shims would use it.
//!
//! Goes in: the broker's address and the exchange. Comes out: what is there. It makes nothing that outlives its connection, and
//! publishes nothing to the exchange: that the shim may publish is shown by the heads that it says.

use std::time::Duration;

use bugfeed_protocol::bus::{self, Head, Message, head_exchange};
use futures::StreamExt as _;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};

use crate::error::protocol_error;
use crate::{AmqpError, BrokerUrl, SMALL_FRAMES, connect, history_name};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a feed has at a broker.
#[derive(Debug)]
pub struct Survey {
    /// The exchange of its changes.
    pub exchange: Place,
    /// The stream with its history.
    pub history: Place,
    /// Whether this user may have a queue of its own that is bound to the exchange, and consume from it, as gateways do.
    pub own_queue: Result<(), AmqpError>,
    /// The head that the shim said while this listened, which it does where the exchange is there: that proves that a shim
    /// publishes there.
    pub head: Option<Head>,
}

/// Something that a feed has at a broker.
#[derive(Debug)]
pub enum Place {
    /// It is there, as it should be.
    There,
    /// It is not there.
    Missing,
    /// It is there, and cannot be used; or this user may not look at it.
    Wrong(AmqpError),
}

/// Looks at a feed. It is listened for a head for so long.
///
/// # Errors
/// If the broker cannot be reached, or refuses the login.
pub async fn survey(url: &BrokerUrl, exchange: &str, listen: Duration) -> Result<Survey, AmqpError> {
    let connection = connect(url, "bugfeed check", SMALL_FRAMES).await?;
    let looking = async {
        let exchange_place = exchange_at(url, &connection, exchange).await?;
        let history = history_at(url, &connection, exchange).await?;
        let own_queue = match exchange_place {
            Place::There => own_queue(url, &connection, exchange).await,
            _ => Ok(()),
        };
        Ok::<_, AmqpError>((exchange_place, history, own_queue))
    };
    let looked = tokio::time::timeout(PATIENCE, looking).await.map_err(|_| AmqpError::Timeout(url.clone()))?;
    let (exchange_place, history, own_queue) = looked?;
    // Heads that cannot be heard are no fault of their own: gateways then go on without.
    let head = match exchange_place {
        Place::There => tokio::time::timeout(listen, head(url, &connection, exchange)).await.ok().and_then(Result::ok),
        _ => None,
    };
    let head = head.flatten();
    // The broker notices the end by itself, if this cannot be said.
    let _ = connection.close(200, "done".into()).await;
    Ok(Survey { exchange: exchange_place, history, own_queue, head })
}

/// A refusal closes its channel, so each question has its own.
async fn channel(url: &BrokerUrl, connection: &Connection) -> Result<Channel, AmqpError> {
    connection.create_channel().await.map_err(|error| AmqpError::broker(url, error))
}

async fn exchange_at(url: &BrokerUrl, connection: &Connection, exchange: &str) -> Result<Place, AmqpError> {
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let asked = channel(url, connection)
        .await?
        .exchange_declare(exchange.into(), ExchangeKind::Topic, passive, FieldTable::default())
        .await;
    if let Err(error) = asked {
        return Ok(missing_or_wrong(error, |error| AmqpError::exchange(url, exchange, error)));
    }
    // The question above looks at the name only. A declaration of what is there already changes nothing.
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel(url, connection)
        .await?
        .exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default())
        .await;
    Ok(declared.map_or_else(|error| Place::Wrong(AmqpError::exchange(url, exchange, error)), |()| Place::There))
}

async fn history_at(url: &BrokerUrl, connection: &Connection, exchange: &str) -> Result<Place, AmqpError> {
    let name = history_name(exchange);
    let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let asked =
        channel(url, connection).await?.queue_declare(name.as_str().into(), passive, FieldTable::default()).await;
    Ok(asked
        .map_or_else(|error| missing_or_wrong(error, |error| AmqpError::queue(url, &name, error)), |_| Place::There))
}

fn missing_or_wrong(error: lapin::Error, wrap: impl FnOnce(lapin::Error) -> AmqpError) -> Place {
    match protocol_error(&error) {
        Some((404, _)) => Place::Missing,
        _ => Place::Wrong(wrap(error)),
    }
}

/// A queue that goes with the connection, bound as a gateway's. What reaches it goes with it.
async fn own_queue(url: &BrokerUrl, connection: &Connection, exchange: &str) -> Result<(), AmqpError> {
    let channel = channel(url, connection).await?;
    let name = exclusive_queue(url, &channel, exchange, "#").await?;
    let consuming =
        channel.basic_consume(name.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    consuming.await.map_err(|error| AmqpError::consume(url, &name, error))?;
    channel.close(200, "looked".into()).await.map_err(|error| AmqpError::broker(url, error))
}

async fn exclusive_queue(url: &BrokerUrl, channel: &Channel, exchange: &str, key: &str) -> Result<String, AmqpError> {
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare("".into(), own, FieldTable::default()).await;
    let queue = declared.map_err(|error| AmqpError::queue(url, "(one of its own)", error))?;
    let name = queue.name().as_str().to_owned();
    let binding = channel.queue_bind(
        name.as_str().into(),
        exchange.into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    binding.await.map_err(|error| AmqpError::broker(url, error))?;
    Ok(name)
}

/// Waits for the next head.
async fn head(url: &BrokerUrl, connection: &Connection, exchange: &str) -> Result<Option<Head>, AmqpError> {
    let channel = channel(url, connection).await?;
    let name = exclusive_queue(url, &channel, &head_exchange(exchange), "").await?;
    let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consuming = channel.basic_consume(name.as_str().into(), "".into(), unacknowledged, FieldTable::default());
    let mut consumer = consuming.await.map_err(|error| AmqpError::consume(url, &name, error))?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.map_err(|error| AmqpError::broker(url, error))?;
        let kind = delivery.properties.kind().as_ref().map(|kind| kind.as_str().to_owned());
        if let Ok(Message::Head(head)) = bus::read(kind.as_deref(), &delivery.data) {
            return Ok(Some(head));
        }
    }
    Ok(None)
}
