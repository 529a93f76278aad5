//! Publishes through RabbitMQ, in the messages of the shim: numbered without holes, persistent, confirmed; what is sent
//! together is one message.

use anyhow::{Context as _, Result, bail};
use bugfeed_amqp as amqp;
use bugfeed_protocol::{Change, Cursor, Epoch, Numbered, When};
use bugfeed_shim::publish::amqp::BatchOptions;
use bugfeed_shim::publish::message::{self, Message};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Connection, PublisherConfirm};
use tokio::runtime::{Builder, Runtime};

use super::Publish;

/// A publisher of one feed.
#[derive(Debug)]
pub struct AmqpPublisher {
    runtime: Runtime,
    _connection: Connection,
    channel: Channel,
    exchange: String,
    next: Cursor,
    recorded: When,
    /// What was handed over and not sent.
    waiting: Vec<Numbered>,
    confirms: Vec<PublisherConfirm>,
}

impl AmqpPublisher {
    /// Connects, and makes sure that the exchange is there. The feed's numbers begin at 1.
    ///
    /// # Errors
    /// When the broker does not take the connection.
    pub fn connect(url: &str, exchange: &str) -> Result<AmqpPublisher> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let url = amqp::parse_url(url).map_err(anyhow::Error::msg)?;
        let (connection, channel) = runtime.block_on(async {
            let connection = amqp::connect(&url, "bugfeed-bench", amqp::SMALL_FRAMES).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            amqp::declare_exchange(&url, &channel, exchange).await?;
            anyhow::Ok((connection, channel))
        })?;
        Ok(AmqpPublisher {
            runtime,
            _connection: connection,
            channel,
            exchange: exchange.to_owned(),
            next: Cursor::new(Epoch::parse("bench").context("an epoch")?, 1),
            recorded: When::from_system_time(std::time::SystemTime::now()),
            waiting: Vec::new(),
            confirms: Vec::new(),
        })
    }
}

impl Publish for AmqpPublisher {
    fn send(&mut self, change: Change) -> Result<()> {
        let cursor = self.next.clone();
        self.next.seq += 1;
        self.waiting.push(Numbered { change, cursor, after: None, recorded: self.recorded });
        if self.waiting.len() >= BatchOptions::default().max { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = BatchOptions::default();
        for message in message::native(&self.waiting, batch) {
            let Message { key, properties, body, .. } = message;
            let (exchange, key) = (self.exchange.as_str().into(), key.as_str().into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent = self.channel.basic_publish(exchange, key, options, &body, properties);
            self.confirms.push(self.runtime.block_on(sent)?);
        }
        self.waiting.clear();
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let confirms = std::mem::take(&mut self.confirms);
        self.runtime.block_on(async {
            for confirm in confirms {
                if !confirm.await?.is_ack() {
                    bail!("the broker refused an update");
                }
            }
            Ok(())
        })
    }
}
