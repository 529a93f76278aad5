//! A durable queue on a real broker, read to the end.

use std::collections::BTreeMap;
use std::time::Duration;

use bugfeed_protocol::bus::{self, BusMessage, Message};
use bugfeed_testbed::eventually;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

/// A connection and the queue's name; the queue outlives it.
pub(crate) struct Queue {
    _connection: Connection,
    pub(crate) channel: Channel,
    pub(crate) name: String,
}

impl Queue {
    pub(crate) async fn connect(url: &str, name: &str) -> Queue {
        let properties = ConnectionProperties::default();
        let connecting = async || Connection::connect(url, properties.clone()).await;
        let connection = eventually(Duration::from_secs(30), "a connection", connecting).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Queue { _connection: connection, channel, name: name.to_owned() }
    }

    /// Declares the queue and the exchange.
    pub(crate) async fn declare(url: &str, exchange: &str) -> Queue {
        let queue = Queue::connect(url, exchange).await;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let none = FieldTable::default;
        queue.channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none()).await.unwrap();
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        queue.channel.queue_declare(exchange.into(), durable, none()).await.unwrap();
        queue
    }

    pub(crate) async fn bind(&self, key: &str) {
        let (queue, exchange, key) = (self.name.as_str().into(), self.name.as_str().into(), key.into());
        self.channel
            .queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default())
            .await
            .unwrap();
    }

    /// The next message, if there is one.
    pub(crate) async fn get(&self) -> Option<BasicGetMessage> {
        self.channel.basic_get(self.name.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap()
    }

    /// The changes of the next message, if there is one.
    pub(crate) async fn changes(&self) -> Option<Vec<BusMessage>> {
        let message = self.get().await?;
        let kind = message.properties.kind().as_ref().map(|kind| kind.as_str());
        match bus::read(kind, &message.data).unwrap() {
            Message::Change(change) => Some(vec![change]),
            Message::Batch(changes) => Some(changes.into_iter().map(Result::unwrap).collect()),
            Message::Head(_) | Message::Marker => Some(Vec::new()),
        }
    }

    /// Publishes are confirmed from now on.
    pub(crate) async fn confirms(&self) {
        self.channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    }

    /// What a gateway publishes into a history to know where it ends.
    pub(crate) async fn marker(&self, history: &str) {
        let properties = BasicProperties::default().with_type("bugfeed.marker".into()).with_message_id("m".into());
        let publishing =
            self.channel.basic_publish("".into(), history.into(), BasicPublishOptions::default(), b"{}", properties);
        publishing.await.unwrap().await.unwrap();
    }

    /// All changes until `count` different changes are there, and those that follow at once.
    pub(crate) async fn collect(&self, count: u64, limit: Duration) -> Vec<BusMessage> {
        let mut all = Vec::new();
        self.collect_into(&mut all, count, limit).await;
        all
    }

    /// The same, with what came before: a change that comes again after a crash is not taken for the next one.
    pub(crate) async fn collect_into(&self, all: &mut Vec<BusMessage>, count: u64, limit: Duration) {
        let seq = |message: &BusMessage| message.cursor.as_ref().unwrap().seq;
        let mut seqs: std::collections::BTreeSet<u64> = all.iter().map(seq).collect();
        let what = format!("{count} changes in the queue");
        eventually(limit, what, async || {
            while let Some(changes) = self.changes().await {
                seqs.extend(changes.iter().map(seq));
                all.extend(changes);
            }
            if seqs.len() as u64 >= count { Ok(()) } else { Err(format!("{} so far", seqs.len())) }
        })
        .await
        .unwrap();
    }
}

/// Every number from 1 to `count` at least once, none with two meanings, and in order once repeats are dropped.
/// Returns the bugs in the order of their numbers.
pub(crate) fn check_stream(all: &[BusMessage], count: u64) -> Vec<u64> {
    let mut meaning = BTreeMap::new();
    let mut newest = 0;
    for message in all {
        let seq = message.cursor.as_ref().unwrap().seq;
        assert_eq!(message.cursor.as_ref().unwrap().epoch, all[0].cursor.as_ref().unwrap().epoch);
        let before = meaning.insert(seq, message.change);
        assert!(before.is_none_or(|before| before == message.change), "{seq} means two changes");
        if before.is_none() {
            assert_eq!(seq, newest + 1, "out of order");
            newest = seq;
        }
    }
    assert_eq!(newest, count);
    meaning.values().map(|change| change.bug.get()).collect()
}
