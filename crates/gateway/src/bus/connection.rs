//! A connection to the broker with this gateway's own queue on it.
//!
//! Goes in: where the feed comes from. Comes out: deliveries, and the publisher's heads. Each call to the broker is bounded
//! in time. Never reconnects by itself.

use std::time::Duration;

use bugfeed_amqp::consuming::{Connection, Delivery, Ended, PREFETCH_MAX, QueueSettings};
use bugfeed_amqp::{AmqpError, BrokerUrl, within};
use bugfeed_protocol::bus;
use lapin::types::{AMQPValue, FieldTable};

use super::history::Reader;
use super::options::AmqpOptions;
use bugfeed_core::bus::Queue;

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Heads that wait beside a durable queue, and that are on their way at a time: only the newest counts.
const HEADS: u16 = 10;

/// One connection.
#[derive(Debug)]
pub(super) struct QueueConnection {
    pub(super) connection: Connection,
    pub(super) queue: Queue,
    /// Messages that waited in it when it was found.
    pub(super) waiting: u64,
    /// The queue was made with other properties than this gateway would make it: in which way, in the broker's words.
    pub(super) differs: Option<String>,
    name: String,
    channel: u16,
    /// Heads that come beside a durable queue: it must not fill with them while nobody takes them off. The name of their
    /// queue, and its channel.
    heads: Option<(String, u16)>,
}

/// Where a delivery comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This gateway's queue.
    Queue,
    /// The queue for heads beside it.
    Heads,
    /// The stream of history.
    History,
}

/// What comes next: a delivery, or why there is none any more.
pub(super) type Came = (Source, Result<Delivery, Ended>);

/// The channels whose deliveries are wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    channels: [u16; 3],
    from: [Source; 3],
    count: usize,
}

impl Wanted {
    fn add(&mut self, channel: u16, from: Source) {
        (self.channels[self.count], self.from[self.count]) = (channel, from);
        self.count += 1;
    }
}

impl QueueConnection {
    /// Connects, and makes and binds what is missing. Heads are another matter: see [`QueueConnection::bind_heads`].
    pub(super) async fn open(options: &AmqpOptions) -> Result<QueueConnection, AmqpError> {
        let url = &options.url;
        let failed = |error| AmqpError::broker(url, error);
        let mut connection = bugfeed_amqp::connect_consuming(url, "bugfeed gateway").await?;
        let mut channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
        let declaring = bugfeed_amqp::declare_exchange_on(url, &mut connection, channel, &options.exchange);
        within(PATIENCE, url, declaring, |error| error).await?;
        let queue = match &options.queue {
            None => Queue::New,
            Some(name) => Queue::Durable { kept: is_there(url, &mut connection, name).await? },
        };
        let name = options.queue.clone().unwrap_or_default();
        let declaring = connection.declare_queue(channel, &name, settings(options));
        let declared = within(PATIENCE, url, declaring, |error| AmqpError::queue(url, &name, error)).await;
        let (declared, differs) = match declared {
            // An earlier version made it, or a person, who may have had a reason.
            Err(AmqpError::Queue { reason, .. }) => {
                channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
                let as_it_is = QueueSettings { passive: true, durable: true, ..QueueSettings::default() };
                let finding = connection.declare_queue(channel, &name, as_it_is);
                (within(PATIENCE, url, finding, failed).await?, Some(reason))
            }
            declared => (declared?, None),
        };
        within(PATIENCE, url, connection.prefetch(channel, options.prefetch.min(PREFETCH_MAX)), failed).await?;
        let (name, waiting) = (declared.name, u64::from(declared.messages));
        within(PATIENCE, url, connection.bind_queue(channel, &name, &options.exchange), failed).await?;
        // Two gateways on one queue would each tell half.
        let consuming = connection.consume(channel, &name, true, FieldTable::default());
        within(PATIENCE, url, consuming, |error| AmqpError::consume(url, &name, error)).await?;
        Ok(QueueConnection { connection, queue, waiting, differs, name, channel, heads: None })
    }

    /// Binds to the exchange of heads, and makes it where it is missing. Refusals cost heads only.
    pub(super) async fn bind_heads(&mut self, options: &AmqpOptions) -> Result<(), AmqpError> {
        let url = &options.url;
        let failed = |error| AmqpError::broker(url, error);
        let exchange = bus::head_exchange(&options.exchange);
        let connection = &mut self.connection;
        // A refusal ends the channel, so each attempt has one of its own.
        let mut channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
        let declaring = connection.declare_exchange(channel, &exchange, "fanout");
        match within(PATIENCE, url, declaring, |error| AmqpError::exchange(url, &exchange, error)).await {
            Ok(()) => {}
            // Whoever may not make it may perhaps bind to it.
            Err(AmqpError::Permission(_)) => {
                channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
            }
            Err(error) => return Err(error),
        }
        if self.queue != Queue::New && self.heads.is_none() {
            self.heads = Some(head_queue(url, connection).await?);
        }
        let name = self.heads.as_ref().map_or(&self.name, |(name, _)| name);
        within(PATIENCE, url, connection.bind_queue(channel, name, &exchange), failed).await?;
        within(PATIENCE, url, connection.close_channel(channel), failed).await
    }

    /// Makes the exchange and its binding, should they be gone.
    pub(super) async fn rebind(&mut self, options: &AmqpOptions) -> Result<(), AmqpError> {
        let url = &options.url;
        let failed = |error| AmqpError::broker(url, error);
        let connection = &mut self.connection;
        let channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
        let declaring = bugfeed_amqp::declare_exchange_on(url, connection, channel, &options.exchange);
        within(PATIENCE, url, declaring, |error| error).await?;
        within(PATIENCE, url, connection.bind_queue(channel, &self.name, &options.exchange), failed).await?;
        within(PATIENCE, url, connection.close_channel(channel), failed).await
    }

    /// What is waited for: deliveries of the queue (with the heads beside it) or not, and those of a reading.
    fn wanted(&self, queue: bool, reader: Option<&Reader>) -> Wanted {
        let mut wanted = Wanted { channels: [0; 3], from: [Source::Queue; 3], count: 0 };
        if queue {
            wanted.add(self.channel, Source::Queue);
            if let Some((_, channel)) = &self.heads {
                wanted.add(*channel, Source::Heads);
            }
        }
        if let Some(reader) = reader {
            wanted.add(reader.channel, Source::History);
        }
        wanted
    }

    /// What comes next. What is not wanted is kept until it is.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn next(
        &mut self,
        url: &BrokerUrl,
        queue: bool,
        reader: Option<&Reader>,
    ) -> Result<Came, AmqpError> {
        let wanted = self.wanted(queue, reader);
        let came = self.connection.next(&wanted.channels[..wanted.count]).await;
        let (place, delivery) = came.map_err(|error| AmqpError::broker(url, error))?;
        Ok(self.came(wanted.from[place], delivery))
    }

    /// The same, where it has been read already.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn next_read(
        &mut self,
        url: &BrokerUrl,
        queue: bool,
        reader: Option<&Reader>,
    ) -> Result<Option<Came>, AmqpError> {
        let wanted = self.wanted(queue, reader);
        match self.connection.next_read(&wanted.channels[..wanted.count]) {
            None => Ok(None),
            Some(Err(lost)) => Err(AmqpError::broker(url, lost)),
            Some(Ok((place, delivery))) => Ok(Some(self.came(wanted.from[place], delivery))),
        }
    }

    fn came(&mut self, from: Source, delivery: Result<Delivery, Ended>) -> Came {
        if let (Source::Heads, Ok(delivery), Some((_, channel))) = (from, &delivery, &self.heads) {
            self.connection.acknowledge(*channel, delivery.tag());
        }
        (from, delivery)
    }

    /// Acknowledges everything up to a delivery of the queue.
    pub(super) fn acknowledge(&mut self, tag: u64) {
        self.connection.acknowledge(self.channel, tag);
    }
}

/// How a gateway makes its queue.
fn settings(options: &AmqpOptions) -> QueueSettings {
    let own = options.queue.is_none();
    let bytes = i64::try_from(options.queue_max_bytes).unwrap_or(i64::MAX);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::from(options.queue_max)));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
    // Dropping the oldest hurts this gateway only; refusing the newest would fail the publisher, for all.
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    QueueSettings { exclusive: own, auto_delete: own, durable: !own, passive: false, arguments }
}

/// Why a channel that should deliver does not.
pub(super) fn ended(url: &BrokerUrl, ended: Ended) -> AmqpError {
    match ended {
        Ended::Cancelled => AmqpError::Cancelled(url.clone()),
        Ended::Lost(error) => AmqpError::broker(url, error),
    }
}

/// Whether a queue is there already.
async fn is_there(url: &BrokerUrl, connection: &mut Connection, name: &str) -> Result<bool, AmqpError> {
    let failed = |error| AmqpError::broker(url, error);
    let channel = within(PATIENCE, url, connection.open_channel(), failed).await?;
    let look = QueueSettings { passive: true, durable: true, ..QueueSettings::default() };
    match tokio::time::timeout(PATIENCE, connection.declare_queue(channel, name, look)).await {
        Err(_) => Err(AmqpError::Timeout(url.clone())),
        // The broker has closed the channel.
        Ok(Err(_)) => Ok(false),
        Ok(Ok(_)) => {
            within(PATIENCE, url, connection.close_channel(channel), failed).await?;
            Ok(true)
        }
    }
}

/// A queue for heads alone, that goes with the connection: its name and its channel.
async fn head_queue(url: &BrokerUrl, connection: &mut Connection) -> Result<(String, u16), AmqpError> {
    let making = async {
        let channel = connection.open_channel().await?;
        connection.prefetch(channel, HEADS).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(HEADS.into()));
        let settings = QueueSettings { exclusive: true, auto_delete: true, arguments, ..QueueSettings::default() };
        let name = connection.declare_queue(channel, "", settings).await?.name;
        connection.consume(channel, &name, true, FieldTable::default()).await?;
        Ok((name, channel))
    };
    within(PATIENCE, url, making, |error| AmqpError::broker(url, error)).await
}
