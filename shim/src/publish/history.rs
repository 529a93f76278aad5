//! The end of a feed's history, as the shim looks at it before it publishes: which numbers were given out last.
//!
//! Goes in: a connection. Comes out: the numbers at the end of the stream, without repeats of a run: the highest of each
//! (epoch, tag). How the end is known: a marker is published into the stream first, as gateways do, and everything up to it
//! is read; where only markers lie before it, the reading begins further back.

use std::time::Duration;

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::{self, MARKER_TYPE, Message};
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};

use bugfeed_amqp::{AmqpError, BrokerUrl, history_name};

/// Messages on their way from the stream at a time.
const PREFETCH: u16 = 1000;
/// How far back the second reading begins; each further one begins sixteen times as far.
const BACK: i64 = 64;
/// The longest that [`look`] takes.
const LOOK: Duration = Duration::from_secs(20);
/// Runs that are compared; a history that holds more of them near its end is compared by the latest.
const RUNS: usize = 32;

/// The same on a connection of its own, for who only looks.
///
/// # Errors
/// If the history cannot be read, or not within 20 s.
pub async fn look(url: &BrokerUrl, exchange: &str) -> Result<Vec<Cursor>, AmqpError> {
    let looking = async {
        let connection = bugfeed_amqp::connect(url, "bugfeed check", bugfeed_amqp::SMALL_FRAMES).await?;
        let ended = end(url, &connection, exchange).await;
        // The broker notices the end by itself, if this cannot be said.
        let _ = connection.close(200, "done".into()).await;
        ended
    };
    tokio::time::timeout(LOOK, looking).await.map_err(|_| AmqpError::Timeout(url.clone()))?
}

/// The numbers at the end of the history.
pub(super) async fn end(url: &BrokerUrl, connection: &Connection, exchange: &str) -> Result<Vec<Cursor>, AmqpError> {
    let failed = |error| AmqpError::broker(url, error);
    let name = history_name(exchange);
    let channel = connection.create_channel().await.map_err(failed)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(failed)?;
    let marker = format!("{:016x}", rand::random::<u64>());
    let properties = BasicProperties::default().with_type(MARKER_TYPE.into()).with_message_id(marker.as_str().into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publishing = channel.basic_publish("".into(), name.as_str().into(), options, b"{}", properties);
    publishing.await.map_err(failed)?.await.map_err(failed)?;
    let mut page = read(url, &channel, &name, AMQPValue::LongString("last".into()), &marker).await?;
    let mut back = BACK;
    while page.runs.is_empty() && page.first > 0 {
        let from = page.first.saturating_sub(back).max(0);
        page = read(url, &channel, &name, AMQPValue::LongLongInt(from), &marker).await?;
        if page.first > from {
            // The stream begins here.
            break;
        }
        back = back.saturating_mul(16);
    }
    channel.close(200, "read".into()).await.map_err(failed)?;
    Ok(page.runs)
}

/// What lies between an offset and the marker.
struct Page {
    /// The offset of the first message.
    first: i64,
    runs: Vec<Cursor>,
}

async fn read(
    url: &BrokerUrl,
    channel: &Channel,
    name: &str,
    from: AMQPValue,
    marker: &str,
) -> Result<Page, AmqpError> {
    let failed = |error| AmqpError::broker(url, error);
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), from);
    let consuming = channel.basic_consume(name.into(), "".into(), BasicConsumeOptions::default(), arguments);
    let mut consumer = consuming.await.map_err(failed)?;
    let mut first = None;
    let mut runs = Vec::new();
    let mut count: u64 = 0;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.map_err(failed)?;
        first = first.or_else(|| offset(&delivery));
        let properties = &delivery.properties;
        let message = bus::read(properties.kind().as_ref().map(|kind| kind.as_str()), &delivery.data);
        let is_marker = matches!(message, Ok(Message::Marker));
        let ended = is_marker && properties.message_id().as_ref().is_some_and(|id| id.as_str() == marker);
        if let Some(cursor) = message.ok().and_then(last_number) {
            add(&mut runs, cursor);
        }
        count += 1;
        if ended || count.is_multiple_of(u64::from(PREFETCH) / 2) {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await.map_err(failed)?;
        }
        if ended {
            let tag = consumer.tag();
            channel.basic_cancel(tag, Default::default()).await.map_err(failed)?;
            return Ok(Page { first: first.unwrap_or(0), runs });
        }
    }
    Err(AmqpError::Cancelled(url.clone()))
}

/// The highest number of a message. All numbers of a batch are of one history.
fn last_number(message: Message) -> Option<Cursor> {
    match message {
        Message::Change(change) => change.cursor,
        Message::Batch(elements) => elements.into_iter().rev().find_map(Result::ok)?.cursor,
        Message::Head(_) | Message::Marker => None,
    }
}

fn offset(delivery: &Delivery) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => Some(*offset),
        _ => None,
    }
}

/// Keeps the highest number of each run, in the order in which they were last seen.
fn add(runs: &mut Vec<Cursor>, cursor: Cursor) {
    let same = runs.iter().position(|run| run.epoch == cursor.epoch && run.tag == cursor.tag);
    let run = match same {
        Some(at) => {
            let run = runs.remove(at);
            if run.seq > cursor.seq { run } else { cursor }
        }
        None => cursor,
    };
    runs.push(run);
    if runs.len() > RUNS {
        runs.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_number_of_each_run_in_the_order_of_the_stream() {
        let check = |stream: &[&str], want: &[&str]| {
            let mut runs = Vec::new();
            stream.iter().for_each(|text| add(&mut runs, Cursor::parse(text).unwrap()));
            let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
            assert_eq!(runs, want, "{stream:?}");
        };
        check(&[], &[]);
        check(&["E.1.0000000a", "E.2.0000000a", "E.3.0000000b"], &["E.2.0000000a", "E.3.0000000b"]);
        // What is published again after a crash comes after higher numbers.
        check(&["E.8.0000000a", "E.9.0000000b", "E.7.0000000a"], &["E.9.0000000b", "E.8.0000000a"]);
        check(&["F.1", "E.9", "F.2", "E.10"], &["F.2", "E.10"]);
    }
}
