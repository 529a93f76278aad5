//! Heads: what the shim says every few seconds of where the feed is, beside the changes.
//!
//! Goes in: a head. Comes out: a transient message on a fanout exchange of its own, or nothing while there is no way. Never
//! waits for long, and is never asked for twice: the next one comes soon.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bugfeed_protocol::bus::{HEAD_TYPE, Head, encode_head};
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionStatus, ExchangeKind};

use bugfeed_amqp::{AmqpError, BrokerUrl};

/// The longest time that a head may take to be handed to the connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// By which heads are said. Clones share the way, which comes and goes with the publisher's connection.
#[derive(Clone, Debug)]
pub struct Heads {
    exchange: Arc<str>,
    channel: Arc<Mutex<Option<HeadsChannel>>>,
}

#[derive(Clone)]
struct HeadsChannel {
    channel: Channel,
    connection: ConnectionStatus,
}

impl std::fmt::Debug for HeadsChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeadsChannel({})", self.channel.id())
    }
}

impl HeadsChannel {
    fn is_open(&self) -> bool {
        self.connection.connected() && self.channel.status().connected()
    }
}

impl Heads {
    pub(super) fn new(exchange: &str) -> Heads {
        Heads { exchange: bugfeed_protocol::bus::head_exchange(exchange).into(), channel: Arc::default() }
    }

    /// The exchange that heads go to.
    pub(super) fn exchange(&self) -> &str {
        &self.exchange
    }

    fn open_channel(&self) -> Option<HeadsChannel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open_channel().is_some_and(|open| open.is_open())
    }

    /// Makes the exchange and a channel of its own: where this is not allowed, the refusal ends only that one.
    pub(super) async fn open(&self, url: &BrokerUrl, connection: &Connection) -> Result<(), AmqpError> {
        let failed = |error| AmqpError::broker(url, error);
        let channel = connection.create_channel().await.map_err(failed)?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = self.exchange.as_ref();
        channel
            .exchange_declare(name.into(), ExchangeKind::Fanout, durable, FieldTable::default())
            .await
            .map_err(|error| AmqpError::exchange(url, name, error))?;
        let opened = HeadsChannel { channel, connection: connection.status().clone() };
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Ok(())
    }

    pub(super) fn close(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Says a head, if there is a way.
    pub async fn say(&self, head: &Head) {
        // What a blocked connection is given only waits: then silence says what is the case.
        let Some(open) = self.open_channel().filter(|open| open.is_open() && !open.connection.blocked()) else {
            return;
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(1)
            .with_type(HEAD_TYPE.into())
            .with_content_type("application/json".into())
            .with_app_id("bugfeed".into());
        let body = encode_head(head);
        let exchange = self.exchange.as_ref().into();
        let saying = open.channel.basic_publish(exchange, "".into(), BasicPublishOptions::default(), &body, properties);
        // One that is not said is one that the next replaces.
        let _ = tokio::time::timeout(PATIENCE, saying).await;
    }
}
