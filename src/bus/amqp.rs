//! The bus over AMQP: this gateway's own queue on a feed's exchange.
//!
//! Goes in: the broker's deliveries. Comes out: the same changes in the feed, acknowledged once they are in its replay
//! cache. Connection loss is met with reconnecting for ever; clients stay connected meanwhile.

use std::time::Duration;

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::bus::BusMessage;
use bugfeed_shim::amqp::{self, AmqpError, BrokerUrl, HistoryBounds};
use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{History, HistoryError, recorded};
use crate::health::Health;
use crate::hub::{Hole, Ingest};

/// How often reading history is tried when a connection begins; with the pauses between, about half a minute.
const STREAM_ATTEMPTS: u32 = 10;
/// Deliveries that one acknowledgement covers at most; fewer where fewer may be on their way.
const ACK_EVERY: u16 = 200;
/// How long a delivery waits for others to be acknowledged with. Each acknowledgement is a write, and wakes the broker.
const ACK_AFTER: Duration = Duration::from_millis(50);

/// Where a feed comes from.
#[derive(Clone, Debug)]
pub struct AmqpOptions {
    /// The broker.
    pub url: BrokerUrl,
    /// The feed's exchange.
    pub exchange: String,
    /// A durable queue's name; without it the broker names one that goes with the connection.
    pub queue: Option<String>,
    /// Messages the queue holds before the oldest are dropped.
    pub queue_max: u32,
    /// Whether the broker keeps history, and the bounds it is made with.
    pub history: Option<HistoryBounds>,
    /// Messages on their way at a time. Without a bound the queue would never fill, and its limit never work.
    pub prefetch: u16,
}

/// A tick a second, none made up for.
pub(super) fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}

struct Link {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
}

/// Feeds the queue to the ingest until `stop`.
///
/// # Errors
/// Only for what a person must mend, and only before the first connection succeeded.
pub async fn run(
    options: AmqpOptions,
    mut ingest: Ingest,
    health: Health,
    stop: CancellationToken,
) -> Result<(), AmqpError> {
    let part = format!("feed {}", ingest.feed);
    let mut backoff = Backoff::SERVER;
    let mut connected_before = false;
    let mut history = options.history.clone().map(|bounds| History::new(&options.exchange, bounds));
    health.down(&part, "not yet connected to the broker");
    loop {
        let attempt = tokio::select! {
            attempt = connect(&options) => attempt,
            () = stop.cancelled() => return Ok(()),
        };
        let lost = match attempt {
            Ok(link) => {
                ingest.events.bus_up(&ingest.feed, &format!("{} exchange {}", options.url, options.exchange));
                connected_before = true;
                match consume(link, &options, history.as_mut(), &mut ingest, &health, &mut backoff, &stop).await {
                    None => return Ok(()),
                    Some(lost) => lost,
                }
            }
            Err(error) if error.needs_a_person() && !connected_before => return Err(error),
            Err(error) => error,
        };
        ingest.events.bus_down(&ingest.feed, &lost, backoff.failures() == 0);
        health.down(&part, lost.to_string());
        ingest.current(false).await;
        let delay = backoff.next(rand::random());
        let waited = tokio::time::sleep(delay);
        tokio::pin!(waited);
        let mut ticks = ticks();
        loop {
            tokio::select! {
                () = &mut waited => break,
                _ = ticks.tick() => ingest.tick(),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

async fn connect(options: &AmqpOptions) -> Result<Link, AmqpError> {
    let url = &options.url;
    let failed = |error| AmqpError::broker(url, error);
    let connection = amqp::connect(url, "bugfeed gateway").await?;
    let channel = connection.create_channel().await.map_err(failed)?;
    amqp::declare_exchange(url, &channel, &options.exchange).await?;
    channel.basic_qos(options.prefetch, BasicQosOptions::default()).await.map_err(failed)?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::from(options.queue_max)));
    // Dropping the oldest hurts this gateway only; refusing the newest would fail the publisher, for all.
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    let own = options.queue.is_none();
    let declare = QueueDeclareOptions { exclusive: own, auto_delete: own, durable: !own, ..Default::default() };
    let name = options.queue.clone().unwrap_or_default();
    let declared = channel.queue_declare(name.as_str().into(), declare, arguments).await;
    let queue = declared.map_err(|error| AmqpError::queue(url, &name, error))?;
    let queue = queue.name().clone();
    let everything = "#".into();
    channel
        .queue_bind(
            queue.clone(),
            options.exchange.as_str().into(),
            everything,
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(failed)?;
    let consumer = channel
        .basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .map_err(failed)?;
    Ok(Link { connection, channel, consumer })
}

/// Takes deliveries until the connection is lost (why) or `stop` (none).
async fn consume(
    mut link: Link,
    options: &AmqpOptions,
    mut history: Option<&mut History>,
    ingest: &mut Ingest,
    health: &Health,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> Option<AmqpError> {
    let failed = |error| Some(AmqpError::broker(&options.url, error));
    // The queue is bound already: what is published from now on waits there.
    if let Some(history) = history.as_deref_mut() {
        health.down(&format!("feed {}", ingest.feed), "reading history");
        let caught_up = tokio::select! {
            caught_up = catch_up(history, options, &link.connection, ingest, None) => caught_up,
            () = stop.cancelled() => return None,
        };
        if let Err(lost) = caught_up {
            return Some(lost);
        }
    }
    health.up(&format!("feed {}", ingest.feed));
    ingest.current(true).await;
    backoff.reset();
    let mut ticks = ticks();
    let ack_every = ACK_EVERY.min(options.prefetch / 2).max(1);
    // Deliveries taken and not yet acknowledged: how many, and the last one's tag.
    let (mut taken, mut last) = (0, 0);
    let ack_due = tokio::time::sleep(ACK_AFTER);
    tokio::pin!(ack_due);
    loop {
        tokio::select! {
            delivery = link.consumer.next() => {
                if taken == 0 {
                    ack_due.as_mut().reset(Instant::now() + ACK_AFTER);
                }
                // This one, and what has arrived already.
                let mut next = Some(delivery);
                while let Some(delivery) = next {
                    let delivery = match delivery {
                        Some(Ok(delivery)) => delivery,
                        Some(Err(error)) => return failed(error),
                        None => return Some(AmqpError::Cancelled(options.url.clone())),
                    };
                    if let Err(lost) = take(&delivery, options, &link.connection, history.as_deref_mut(), ingest).await {
                        return Some(lost);
                    }
                    (last, taken) = (delivery.delivery_tag, taken + 1);
                    next = if taken < ack_every { link.consumer.next().now_or_never() } else { None };
                }
                if taken < ack_every {
                    continue;
                }
            }
            () = &mut ack_due, if taken > 0 => {}
            _ = ticks.tick() => {
                ingest.tick();
                continue;
            }
            () = stop.cancelled() => {
                // The broker also notices by itself, and gives what was not acknowledged to whoever comes next.
                if taken > 0 {
                    let _ = link.channel.basic_ack(last, BasicAckOptions { multiple: true }).await;
                }
                let _ = link.connection.close(200, "gateway stops".into()).await;
                return None;
            }
        }
        if let Err(error) = link.channel.basic_ack(last, BasicAckOptions { multiple: true }).await {
            return failed(error);
        }
        taken = 0;
    }
}

/// Reads history from where the ingest stands, also for what comes before the message that is `sought`. A connection that
/// is lost is an error; a broker that has no history to give is not: the gateway then works without.
async fn catch_up(
    history: &mut History,
    options: &AmqpOptions,
    connection: &Connection,
    ingest: &mut Ingest,
    sought: Option<&BusMessage>,
) -> Result<(), AmqpError> {
    // Right after a broker's restart a stream can be away for a moment.
    let mut backoff = Backoff::SERVER;
    let mut last = None;
    while backoff.failures() < STREAM_ATTEMPTS {
        let read = async {
            history.declare(&options.url, connection).await?;
            history.read(&options.url, connection, ingest, sought).await
        };
        match read.await {
            Ok(read) => {
                ingest.events.history_read(&ingest.feed, read);
                return Ok(());
            }
            Err(error) if !connection.status().connected() => return Err(lost(&options.url, error)),
            Err(error) => {
                let permanent = error.needs_a_person();
                last = Some(error);
                if permanent {
                    break;
                }
            }
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
    if let Some(error) = last {
        ingest.events.no_history(&ingest.feed, &error);
    }
    Ok(())
}

fn lost(url: &BrokerUrl, error: HistoryError) -> AmqpError {
    match error {
        HistoryError::Amqp(error) => *error,
        HistoryError::Silent(_) => AmqpError::Timeout(url.clone()),
    }
}

async fn take(
    delivery: &Delivery,
    options: &AmqpOptions,
    connection: &Connection,
    history: Option<&mut History>,
    ingest: &mut Ingest,
) -> Result<(), AmqpError> {
    let Some(message) = ingest.read(&delivery.data) else { return Ok(()) };
    let Some(hole) = ingest.take(message, recorded(delivery)).await else { return Ok(()) };
    fill(hole, options, connection, history, ingest).await
}

/// Fills a hole from history before the message that showed it goes on; where that is impossible, clients are told.
async fn fill(
    hole: Hole,
    options: &AmqpOptions,
    connection: &Connection,
    history: Option<&mut History>,
    ingest: &mut Ingest,
) -> Result<(), AmqpError> {
    let Hole { message, recorded, missing, before } = hole;
    ingest.events.hole(&ingest.feed, missing, &before);
    if let Some(history) = history {
        // Until it is read, nothing else comes.
        ingest.current(false).await;
        catch_up(history, options, connection, ingest, Some(&message)).await?;
    }
    ingest.take_anyway(&message, recorded).await;
    ingest.current(true).await;
    Ok(())
}
