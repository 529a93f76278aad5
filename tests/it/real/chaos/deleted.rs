//! Somebody deletes what a feed needs at the broker, while everything runs: the exchange, the exchange of heads, the stream.

use bugfeed_protocol::bus::head_exchange;
use bugfeed_testbed::{eventually, shared, unique};
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};

use super::scene::{PATIENCE, Parts, Scene};

/// Deletes things by AMQP.
pub struct Deleter {
    connection: Connection,
    exchange: String,
    /// How often something was deleted that was there.
    pub count: u32,
}

/// What can be deleted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Thing {
    Exchange,
    HeadExchange,
    Stream,
}

impl Deleter {
    pub async fn connect(amqp: &str, exchange: &str) -> Deleter {
        let connection = Connection::connect(amqp, ConnectionProperties::default()).await.unwrap();
        Deleter { connection, exchange: exchange.to_owned(), count: 0 }
    }

    /// Deletes a thing, once it is there.
    pub async fn delete(&mut self, thing: Thing) {
        let name = match thing {
            Thing::Exchange => self.exchange.clone(),
            Thing::HeadExchange => head_exchange(&self.exchange),
            Thing::Stream => format!("{}.history", self.exchange),
        };
        let delete = async || {
            // A thing that is not there costs the channel.
            let channel = self.connection.create_channel().await?;
            let (name, none) = (|| name.as_str().into(), FieldTable::default());
            match thing {
                Thing::Stream => {
                    let there = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
                    channel.queue_declare(name(), there, none).await?;
                    channel.queue_delete(name(), QueueDeleteOptions::default()).await?;
                }
                Thing::Exchange | Thing::HeadExchange => {
                    let kind = if thing == Thing::Exchange { ExchangeKind::Topic } else { ExchangeKind::Fanout };
                    let there = ExchangeDeclareOptions { passive: true, durable: true, ..Default::default() };
                    channel.exchange_declare(name(), kind, there, none).await?;
                    channel.exchange_delete(name(), ExchangeDeleteOptions::default()).await?;
                }
            }
            Ok::<_, lapin::Error>(())
        };
        eventually(PATIENCE, format!("{thing:?}, which is to be deleted"), delete).await.unwrap();
        self.count += 1;
    }

    /// Removes all that a test made.
    async fn clean_up(self, queue: &str) {
        let channel = self.connection.create_channel().await.unwrap();
        for name in [self.exchange.clone(), head_exchange(&self.exchange)] {
            channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
        for name in [format!("{}.history", self.exchange), format!("{queue}.default")] {
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        }
    }
}

async fn deleted(history: bool, rounds: &[&[Thing]]) {
    let Some(server) = shared::mariadb().await else { return };
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (exchange, queue) = (unique("deleted"), unique("queue"));
    let history = if history { "true" } else { "false" };
    let parts = Parts {
        shim_amqp: &rabbit.url,
        amqp: &rabbit.url,
        exchange: &exchange,
        shim: &["--history", history],
        gateways: &[&["--history", history], &["--history", history, "--queue-name", &queue]],
        before: 1,
    };
    let scene = Scene::start(server, &parts).await;
    let mut deleter = Deleter::connect(&rabbit.url, &exchange).await;
    for things in rounds {
        println!("deleted: {things:?}");
        scene.clients.send_away().await;
        for thing in *things {
            deleter.delete(*thing).await;
        }
        scene.clients.let_in();
        scene.flows().await;
    }
    let all: usize = rounds.iter().map(|things| things.len()).sum();
    assert_eq!(deleter.count as usize, all);
    scene.end().await;
    deleter.clean_up(&queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchange_and_stream_are_deleted() {
    use Thing::*;
    deleted(true, &[&[Exchange], &[Stream], &[Stream, Exchange, HeadExchange]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_are_deleted_where_there_is_no_history() {
    use Thing::*;
    deleted(false, &[&[Exchange], &[HeadExchange, Exchange]]).await;
}
