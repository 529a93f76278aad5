//! A fault of one feed is reported for that feed, and costs the other feeds nothing.

use bugfeed_protocol::bus::head_exchange;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{eventually, shared, unique};
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use super::publisher::{Publisher, Watcher};
use crate::real::split::Gateway;
use crate::support::{Client, SOON, counted, get, request};

/// Waits until `/readyz` says this; returns the status.
async fn says(gateway: &Gateway, text: &str) -> u16 {
    eventually(SOON, text, async || {
        let (status, body) = get(gateway.admin, "/readyz").await;
        if body.contains(text) { Ok(status) } else { Err(body) }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn an_exchange_of_another_type_stops_its_own_feed_only() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let publisher = Publisher::start(&rabbit.url, &unique("good"), "e1").await;
    let bad = unique("bad");
    let declared = publisher.channel.exchange_declare(
        bad.as_str().into(),
        ExchangeKind::Fanout,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declared.await.unwrap();
    let (good_feed, bad_feed) = (format!("default={}", publisher.exchange), format!("bad={bad}"));
    let gateway = Gateway::start(&rabbit.url, &["--feed", &good_feed, "--feed", &bad_feed]).await;
    assert_eq!(says(&gateway, "feed bad: exchange").await, 200);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("bugfeed_feed_up{feed=\"default\"} 1\n"), "{metrics}");
    assert!(metrics.contains("bugfeed_feed_up{feed=\"bad\"} 0\n"), "{metrics}");
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let cursor = publisher.publish().await;
    assert_eq!(client.update().await, cursor);
    assert_eq!(get(gateway.clients, "/bad/changes?bugs=1").await.0, 503);
    assert!(Client::try_connect(&format!("{}bad/", gateway.url())).await.is_err());
    publisher.channel.exchange_delete(bad.into(), Default::default()).await.unwrap();
    publisher.clean_up().await;
}

/// An exchange of heads that cannot be had is a warning, once.
#[tokio::test]
async fn without_heads_the_feed_works_all_the_same() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let publisher = Publisher::start(&rabbit.url, &unique("headless"), "e1").await;
    let heads = head_exchange(&publisher.exchange);
    publisher.channel.exchange_delete(heads.as_str().into(), Default::default()).await.unwrap();
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let topic = publisher.channel.exchange_declare(heads.into(), ExchangeKind::Topic, options, FieldTable::default());
    topic.await.unwrap();
    let mut gateway = Gateway::start(&rabbit.url, &["--feed", &format!("default={}", publisher.exchange)]).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let cursor = publisher.publish().await;
    assert_eq!(client.update().await, cursor);
    gateway.logs_once(LogEvent::HeadsNotHeard).await;
    publisher.clean_up().await;
}

#[tokio::test]
async fn an_exchange_on_which_nobody_publishes_is_named() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let exchange = unique("mistyped");
    let mut gateway = Gateway::start(&rabbit.url, &["--feed", &format!("default={exchange}")]).await;
    assert_eq!(says(&gateway, "no publisher seen here since").await, 200);
    assert_eq!(says(&gateway, &exchange).await, 200);
    gateway.proc.wait_for_event(LogEvent::NoPublisher, SOON).await.unwrap();
    let publisher = Publisher::start(&rabbit.url, &exchange, "e1").await;
    publisher.publish().await;
    eventually(SOON, "it is heard", async || get(gateway.admin, "/readyz").await.1 == "ready\n").await.unwrap();
    publisher.clean_up().await;
}

#[tokio::test]
async fn two_ledgers_on_one_exchange_are_named() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut one = Publisher::start(&rabbit.url, &unique("shared"), "e1").await;
    let mut two = Publisher::start(&rabbit.url, &one.exchange, "e2").await;
    let mut gateway = Gateway::start(&rabbit.url, &["--feed", &format!("default={}", one.exchange)]).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    one.publish().await;
    client.update().await;
    one.say_heads();
    two.say_heads();
    assert_eq!(says(&gateway, "two ledgers publish here").await, 200);
    assert_eq!(says(&gateway, "epochs e1 and e2").await, 200);
    assert_eq!(counted(&gateway.metrics().await, "bugfeed_gaps_total"), 0, "heads alone make no gaps");
    gateway.logs_once(LogEvent::TwoPublishers).await;
    two.hush();
    one.clean_up().await;
}

/// With two gateways on one queue, each would get half of the changes.
#[tokio::test]
async fn a_queue_has_one_gateway() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let publisher = Publisher::start(&rabbit.url, &unique("exclusive"), "e1").await;
    let (feed, queue) = (format!("default={}", publisher.exchange), unique("queue"));
    let options = ["--history", "false", "--feed", &feed, "--queue-name", &queue];
    let first = Gateway::start(&rabbit.url, &options).await;
    let mut second = Gateway::start_unready(&rabbit.url, &options).await;
    assert_eq!(says(&second, "has another consumer").await, 503);
    second.proc.wait_for_event(LogEvent::BusDown, SOON).await.unwrap();
    let (mut client, _) = Watcher::resume(&first, None).await;
    for _ in 0..20 {
        let cursor = publisher.publish().await;
        assert_eq!(client.update().await, cursor);
    }
    drop((client, first));
    second.wait_ready().await;
    // What the first one had not acknowledged comes again.
    let (mut client, _) = Watcher::resume(&second, None).await;
    let cursor = publisher.publish().await;
    while client.0.json().await["cursor"] != cursor.as_str() {}
    drop(second);
    publisher.channel.queue_delete(format!("{queue}.default").into(), Default::default()).await.unwrap();
    publisher.delete_exchanges().await;
}

/// A client that came in now would be sent old changes as if they had just happened.
#[tokio::test]
async fn before_the_feed_is_current_clients_are_asked_to_come_later() {
    // Nothing listens there.
    let nowhere = format!("amqp://guest:guest@127.0.0.1:{}/%2f", bugfeed_testbed::free_port().unwrap());
    let gateway = Gateway::start_unready(&nowhere, &[]).await;
    let (status, body) = get(gateway.admin, "/readyz").await;
    assert!(status == 503 && body.contains("feed default:"), "{body}");
    let handshake = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        gateway.clients
    );
    for (status, body) in [request(gateway.clients, &handshake).await, get(gateway.clients, "/changes?bugs=1").await] {
        assert!(status == 503 && body.contains(r#"{"error":"not ready yet"#), "{status} {body}");
    }
    for path in ["/", "/page.json", "/client.js"] {
        assert_eq!(get(gateway.clients, path).await.0, 200, "{path}");
    }
}
