//! A publisher in this process, and a modern client that looks at every message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bugfeed_protocol::bus::{HEAD_TYPE, Head, encode_head, head_exchange};
use bugfeed_protocol::{Cursor, Epoch, Tag};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::real::network::{Line, Network};
use crate::real::split::Gateway;
use crate::support::Client;

pub const T: &str = "2014-04-03T21:13:45";

/// Publishes what it is told to, as the shim does.
pub struct Publisher {
    connection: Arc<Connection>,
    pub channel: Channel,
    pub exchange: String,
    pub epoch: String,
    head: Arc<AtomicU64>,
    pub waits: Arc<AtomicBool>,
    heads: Option<AbortHandle>,
}

impl Publisher {
    /// Its ledger is empty.
    pub async fn start(url: &str, exchange: &str, epoch: &str) -> Publisher {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let publisher = Publisher {
            connection: Arc::new(connection),
            channel,
            exchange: exchange.to_owned(),
            epoch: epoch.to_owned(),
            head: Arc::default(),
            waits: Arc::default(),
            heads: None,
        };
        publisher.declare().await;
        publisher
    }

    /// Makes both exchanges, where they are missing.
    pub async fn declare(&self) {
        for (name, kind) in
            [(self.exchange.clone(), ExchangeKind::Topic), (head_exchange(&self.exchange), ExchangeKind::Fanout)]
        {
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            self.channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.unwrap();
        }
    }

    /// Binds the history, which is there, to the exchange.
    pub async fn bind_history(&self) {
        let stream = self.history();
        let bound = self.channel.queue_bind(
            stream.into(),
            self.exchange.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.unwrap();
    }

    pub fn history(&self) -> String {
        format!("{}.history", self.exchange)
    }

    /// Deletes both exchanges, and with them every binding.
    pub async fn delete_exchanges(&self) {
        for name in [self.exchange.clone(), head_exchange(&self.exchange)] {
            self.channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
    }

    pub async fn delete_history(&self) {
        self.channel.queue_delete(self.history().into(), Default::default()).await.unwrap();
    }

    /// Removes what it made.
    pub async fn clean_up(mut self) {
        self.hush();
        self.delete_exchanges().await;
        self.delete_history().await;
    }

    /// Gives a change of bug 1 the next number and publishes it; returns the cursor.
    pub async fn publish(&self) -> String {
        let seq = self.head.load(Ordering::SeqCst) + 1;
        let epoch = &self.epoch;
        let body = format!(r#"{{"bug":1,"when":"{T}","seq":{seq},"epoch":"{epoch}","tag":"5e3c9a01"}}"#);
        self.send(&self.exchange, body.as_bytes(), BasicProperties::default().with_delivery_mode(2)).await;
        self.head.store(seq, Ordering::SeqCst);
        format!("{epoch}.{seq}.5e3c9a01")
    }

    /// Gives a number that is never published.
    pub fn skip(&self) {
        self.head.fetch_add(1, Ordering::SeqCst);
    }

    async fn send(&self, exchange: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(exchange.into(), "1".into(), options, body, properties).await;
        sent.unwrap().await.unwrap();
    }

    /// Says its head ten times a second from now on, also when the exchange was deleted and made anew.
    pub fn say_heads(&mut self) {
        let (connection, exchange) = (Arc::clone(&self.connection), head_exchange(&self.exchange));
        let (head, waits) = (Arc::clone(&self.head), Arc::clone(&self.waits));
        let epoch = Epoch::parse(&self.epoch).unwrap();
        let saying = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            let mut channel = connection.create_channel().await.unwrap();
            loop {
                ticks.tick().await;
                if !channel.status().connected() {
                    channel = connection.create_channel().await.unwrap();
                }
                let seq = head.load(Ordering::SeqCst);
                let tag = Tag::parse("5e3c9a01").filter(|_| seq > 0);
                let paused = waits.load(Ordering::SeqCst).then(|| "change table".to_owned());
                let head =
                    Head { cursor: Cursor::new(epoch.clone(), seq).tagged(tag), interval_ms: 100, paused, sent: None };
                let properties = BasicProperties::default().with_type(HEAD_TYPE.into());
                let (exchange, options) = (exchange.as_str().into(), BasicPublishOptions::default());
                // If the exchange does not exist any more, this ends the channel.
                let _ = channel.basic_publish(exchange, "".into(), options, &encode_head(&head), properties).await;
            }
        });
        self.heads = Some(saying.abort_handle());
    }

    /// Says no heads any more.
    pub fn hush(&mut self) {
        if let Some(heads) = self.heads.take() {
            heads.abort();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.hush();
    }
}

/// A connection to a broker that a test can cut, and the URL by which it is used.
pub async fn cable(url: &str) -> (Network, String) {
    let (credentials, rest) = url.rsplit_once('@').unwrap();
    let (address, vhost) = rest.split_once('/').unwrap();
    let broker: SocketAddr = address.parse().expect("the broker listens on an address");
    let network = Network::to(broker, Line::Cut).await;
    let url = format!("{credentials}@{}/{vhost}", network.address);
    (network, url)
}

/// A modern client that watches bug 1.
pub struct Watcher(pub Client);

impl Watcher {
    /// The client, and the verdict on where it resumes.
    pub async fn resume(gateway: &Gateway, cursor: Option<&str>) -> (Watcher, Value) {
        let mut client = gateway.client().await;
        client.ask(r#"{"command":"hello","heartbeat":300}"#).await;
        client.send(json!({ "command": "subscribe", "bugs": [1], "cursor": cursor }).to_string()).await;
        let mut watcher = Watcher(client);
        let reply = watcher.next("subscribe").await;
        (watcher, reply["replay"].clone())
    }

    /// The next message that says this, passing over what is said of the feed.
    pub async fn next(&mut self, command: &str) -> Value {
        loop {
            let message = self.0.json().await;
            if message["command"] == command {
                return message;
            }
            assert_eq!(message["command"], "feed", "instead of {command}: {message}");
        }
    }

    /// The next update's cursor.
    pub async fn update(&mut self) -> String {
        self.next("update").await["cursor"].as_str().unwrap().to_owned()
    }

    /// Waits until the feed is said to be in this state.
    pub async fn feed_is(&mut self, state: &str) {
        loop {
            let message = self.0.json().await;
            assert_eq!(message["command"], "feed", "{message}");
            if message["state"] == state {
                return;
            }
        }
    }
}
