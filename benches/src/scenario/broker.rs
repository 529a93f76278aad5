//! The broker alone: how long updates take from the publisher to a consumer that does nothing with them.
//!
//! Goes in: a phase and a pace. Comes out: latencies, below which no gateway behind this broker can be.

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bugfeed_amqp::consuming::QueueSettings;
use bugfeed_protocol::bus::{self, Message};
use lapin::types::FieldTable;
use tokio::time::timeout;

use super::{Bench, unique};
use crate::clock::{Stamps, now_ns};
use crate::load::tally::Latencies;
use crate::plan::{Phase, index_of};
use crate::publish::amqp::AmqpPublisher;
use crate::publish::{Pace, publish};

/// Deliveries that may be on their way without an acknowledgement, as for a gateway.
const PREFETCH: u16 = 500;
/// How many deliveries are acknowledged together.
const TOGETHER: u64 = 100;
/// The longest wait for one delivery.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes a phase through the broker, to one queue with all updates, and measures when each is delivered.
///
/// # Errors
/// When the broker refuses something, or not everything comes.
pub(super) fn alone(bench: &mut Bench, phase: &Phase, pace: Pace) -> Result<Latencies> {
    let (url, exchange) = (bench.broker()?, unique("broker"));
    let mut publisher = AmqpPublisher::connect(&url, &exchange)?;
    let stamps = Stamps::open(bench.stamps.path())?;
    let (ready, is_ready) = channel();
    thread::scope(|scope| {
        let consumer = scope.spawn(|| consume(&url, &exchange, phase, &stamps, ready));
        // It does not come where the consumer has failed, which says why.
        if is_ready.recv().is_ok() {
            publish(&mut publisher, phase, pace, &bench.stamps)?;
        }
        consumer.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))?
    })
}

fn consume(url: &str, exchange: &str, phase: &Phase, stamps: &Stamps, ready: Sender<()>) -> Result<Latencies> {
    let url = bugfeed_amqp::parse_url(url).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = bugfeed_amqp::connect_consuming(&url, "bugfeed-bench").await?;
        let channel = connection.open_channel().await?;
        let settings = QueueSettings { exclusive: true, auto_delete: true, ..QueueSettings::default() };
        let queue = connection.declare_queue(channel, "", settings).await?.name;
        connection.bind_queue(channel, &queue, exchange).await?;
        connection.prefetch(channel, PREFETCH).await?;
        connection.consume(channel, &queue, true, FieldTable::default()).await?;
        ready.send(()).context("nobody publishes")?;
        drop(ready);
        let mut latencies = Latencies::default();
        let mut left = phase.count;
        while left > 0 {
            let came = timeout(PATIENCE, connection.next(&[channel])).await.context("the broker delivers no more")?;
            let (_, Ok(delivery)) = came? else { bail!("the broker has ended the consumer") };
            let now = now_ns();
            let Ok(Message::Change(message)) = bus::read(delivery.kind(), delivery.body()) else {
                bail!("a message that holds no change came");
            };
            let index = index_of(message.change.when.to_string().as_bytes()).context("a change of somebody else")?;
            latencies.record(now.saturating_sub(stamps.get(index)));
            left -= 1;
            if delivery.tag() % TOGETHER == 0 {
                connection.acknowledge(channel, delivery.tag());
            }
        }
        Ok(latencies)
    })
}
