//! A connection to the broker with this gateway's own queue on it.
//!
//! Goes in: where the feed comes from. Comes out: deliveries, and the publisher's heads. Each call to the broker is bounded
//! in time. Never reconnects by itself.

use std::time::Duration;

use bugfeed_amqp::{AmqpError, BrokerUrl, SMALL_FRAMES};
use bugfeed_protocol::bus;
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer, ExchangeKind};

use super::options::AmqpOptions;
use bugfeed_core::bus::Queue;

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Heads that wait beside a durable queue: only the newest counts.
const HEADS: i64 = 10;

/// One connection.
#[derive(Debug)]
pub(super) struct QueueConnection {
    pub(super) connection: Connection,
    pub(super) queue: Queue,
    /// Messages that waited in it when it was found.
    pub(super) waiting: u64,
    name: String,
    channel: Channel,
    consumer: Consumer,
    /// Heads that come beside a durable queue: it must not fill with them while nobody takes them off.
    heads: Option<(String, Consumer)>,
}

impl QueueConnection {
    /// Connects, and makes and binds what is missing. Heads are another matter: see [`QueueConnection::bind_heads`].
    pub(super) async fn open(options: &AmqpOptions) -> Result<QueueConnection, AmqpError> {
        let url = &options.url;
        let failed = |error| AmqpError::broker(url, error);
        let connection = bugfeed_amqp::connect(url, "bugfeed gateway", SMALL_FRAMES).await?;
        let channel = bugfeed_amqp::within(PATIENCE, url, connection.create_channel(), failed).await?;
        let declaring = bugfeed_amqp::declare_exchange(url, &channel, &options.exchange);
        bugfeed_amqp::within(PATIENCE, url, declaring, |error| error).await?;
        let qos = channel.basic_qos(options.prefetch, BasicQosOptions::default());
        bugfeed_amqp::within(PATIENCE, url, qos, failed).await?;
        let own = options.queue.is_none();
        let queue = match &options.queue {
            None => Queue::New,
            Some(name) => Queue::Durable { kept: is_there(url, &connection, name).await? },
        };
        let name = options.queue.clone().unwrap_or_default();
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::from(options.queue_max)));
        // Dropping the oldest hurts this gateway only; refusing the newest would fail the publisher, for all.
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let declare = QueueDeclareOptions { exclusive: own, auto_delete: own, durable: !own, ..Default::default() };
        let declaring = channel.queue_declare(name.as_str().into(), declare, arguments);
        let declared =
            bugfeed_amqp::within(PATIENCE, url, declaring, |error| AmqpError::queue(url, &name, error)).await?;
        let (name, waiting) = (declared.name().to_string(), u64::from(declared.message_count()));
        bind(url, &channel, &name, &options.exchange).await?;
        // Two gateways on one queue would each tell half.
        let consume = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let consuming = channel.basic_consume(name.as_str().into(), "".into(), consume, FieldTable::default());
        let consumer =
            bugfeed_amqp::within(PATIENCE, url, consuming, |error| AmqpError::consume(url, &name, error)).await?;
        Ok(QueueConnection { connection, queue, waiting, name, channel, consumer, heads: None })
    }

    /// Binds to the exchange of heads, and makes it where it is missing. Refusals cost heads only.
    pub(super) async fn bind_heads(&mut self, options: &AmqpOptions) -> Result<(), AmqpError> {
        let url = &options.url;
        let exchange = bus::head_exchange(&options.exchange);
        let declare = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declaring = async {
            // A refusal ends the channel, so each attempt has one of its own.
            let channel = self.connection.create_channel().await?;
            let made = channel.exchange_declare(
                exchange.as_str().into(),
                ExchangeKind::Fanout,
                declare,
                FieldTable::default(),
            );
            made.await.map(|()| channel)
        };
        let declared =
            bugfeed_amqp::within(PATIENCE, url, declaring, |error| AmqpError::exchange(url, &exchange, error)).await;
        let channel = match declared {
            Ok(channel) => channel,
            // Whoever may not make it may perhaps bind to it.
            Err(AmqpError::Permission(_)) => {
                let failed = |error| AmqpError::broker(url, error);
                bugfeed_amqp::within(PATIENCE, url, self.connection.create_channel(), failed).await?
            }
            Err(error) => return Err(error),
        };
        if self.queue != Queue::New && self.heads.is_none() {
            self.heads = Some(head_queue(url, &self.channel).await?);
        }
        let name = self.heads.as_ref().map_or(&self.name, |(name, _)| name);
        bind(url, &channel, name, &exchange).await?;
        let closing = channel.close(200, "bound".into());
        bugfeed_amqp::within(PATIENCE, url, closing, |error| AmqpError::broker(url, error)).await
    }

    /// Makes the exchange and its binding, should they be gone.
    pub(super) async fn rebind(&self, options: &AmqpOptions) -> Result<(), AmqpError> {
        let url = &options.url;
        let failed = |error| AmqpError::broker(url, error);
        let channel = bugfeed_amqp::within(PATIENCE, url, self.connection.create_channel(), failed).await?;
        let declaring = bugfeed_amqp::declare_exchange(url, &channel, &options.exchange);
        bugfeed_amqp::within(PATIENCE, url, declaring, |error| error).await?;
        bind(url, &channel, &self.name, &options.exchange).await?;
        bugfeed_amqp::within(PATIENCE, url, channel.close(200, "bound".into()), failed).await
    }

    /// The next delivery, or a head that came beside the queue. An error is the end of the connection.
    pub(super) async fn next(&mut self, url: &BrokerUrl) -> Result<Came, AmqpError> {
        let head = async {
            match &mut self.heads {
                Some((_, heads)) => heads.next().await,
                None => std::future::pending().await,
            }
        };
        let (delivery, beside) = tokio::select! {
            delivery = self.consumer.next() => (delivery, false),
            head = head => (head, true),
        };
        let delivery = delivery.ok_or_else(|| AmqpError::Cancelled(url.clone()))?;
        let delivery = delivery.map_err(|error| AmqpError::broker(url, error))?;
        Ok(Came { delivery, beside })
    }

    /// Acknowledges everything up to a delivery.
    pub(super) async fn acknowledge(&self, url: &BrokerUrl, tag: u64) -> Result<(), AmqpError> {
        let acknowledging = self.channel.basic_ack(tag, BasicAckOptions { multiple: true });
        bugfeed_amqp::within(PATIENCE, url, acknowledging, |error| AmqpError::broker(url, error)).await
    }
}

/// A delivery.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) delivery: Delivery,
    /// It came beside the queue, and needs no acknowledgement.
    pub(super) beside: bool,
}

/// Whether a queue is there already.
async fn is_there(url: &BrokerUrl, connection: &Connection, name: &str) -> Result<bool, AmqpError> {
    let failed = |error| AmqpError::broker(url, error);
    let channel = bugfeed_amqp::within(PATIENCE, url, connection.create_channel(), failed).await?;
    let look = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let looking = channel.queue_declare(name.into(), look, FieldTable::default());
    match tokio::time::timeout(PATIENCE, looking).await {
        Err(_) => Err(AmqpError::Timeout(url.clone())),
        // The broker has closed the channel.
        Ok(Err(_)) => Ok(false),
        Ok(Ok(_)) => {
            bugfeed_amqp::within(PATIENCE, url, channel.close(200, "looked".into()), failed).await?;
            Ok(true)
        }
    }
}

async fn bind(url: &BrokerUrl, channel: &Channel, queue: &str, exchange: &str) -> Result<(), AmqpError> {
    let options = QueueBindOptions::default();
    let binding = channel.queue_bind(queue.into(), exchange.into(), "#".into(), options, FieldTable::default());
    bugfeed_amqp::within(PATIENCE, url, binding, |error| AmqpError::broker(url, error)).await
}

/// A queue for heads alone, that goes with the connection.
async fn head_queue(url: &BrokerUrl, channel: &Channel) -> Result<(String, Consumer), AmqpError> {
    let failed = |error| AmqpError::broker(url, error);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(HEADS));
    let declare = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let declared =
        bugfeed_amqp::within(PATIENCE, url, channel.queue_declare("".into(), declare, arguments), failed).await?;
    let name = declared.name().to_string();
    let consume = BasicConsumeOptions { no_ack: true, exclusive: true, ..Default::default() };
    let consuming = channel.basic_consume(name.as_str().into(), "".into(), consume, FieldTable::default());
    Ok((name, bugfeed_amqp::within(PATIENCE, url, consuming, failed).await?))
}
