//! The gateway on a shared RabbitMQ, with messages published by hand.

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, bin, eventually, shared, unique};
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

use serde_json::{Value, json};

use super::split::Gateway;
use crate::support::{Client, SOON, get};

const T: &str = "2014-04-03T21:13:45";

/// A producer of its own exchanges.
struct Producer {
    _connection: Connection,
    channel: Channel,
}

impl Producer {
    async fn connect(url: &str) -> Producer {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Producer { _connection: connection, channel }
    }

    async fn publish(&self, exchange: &str, bodies: &[&str]) {
        for body in bodies {
            let options = BasicPublishOptions::default();
            let sent = self.channel.basic_publish(
                exchange.into(),
                "1".into(),
                options,
                body.as_bytes(),
                BasicProperties::default(),
            );
            sent.await.unwrap().await.unwrap();
        }
    }

    async fn publish_typed(&self, exchange: &str, kind: &str, body: &str) {
        let properties = BasicProperties::default().with_type(kind.into());
        let sent =
            self.channel.basic_publish(exchange.into(), "1".into(), Default::default(), body.as_bytes(), properties);
        sent.await.unwrap().await.unwrap();
    }

    async fn delete(&self, exchange: &str) {
        self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn every_form_of_message_reaches_the_clients_of_its_feed() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (one, two) = (unique("one"), unique("two"));
    let (feed_one, feed_two) = (format!("default={one}"), format!("two={two}"));
    let gateway = Gateway::start(&rabbit.url, &["--history", "false", "--feed", &feed_one, "--feed", &feed_two]).await;
    let producer = Producer::connect(&rabbit.url).await;
    let mut default = gateway.client().await;
    let mut named = Client::connect(&format!("{}two/", gateway.url())).await;
    for client in [&mut default, &mut named] {
        client.subscribe(&[1, 2, 3, 4, 5]).await;
    }
    let message = |bug: u64, seq: u64| format!(r#"{{"bug":{bug},"when":"{T}","seq":{seq},"epoch":"e1"}}"#);
    let bodies = [
        message(1, 10),
        message(1, 10), // published again
        r#"{"payload":{"id":2,"delta_ts":"2014-04-03 21:13:45"},"_meta":{"count":1}}"#.to_owned(),
        "this is poison".to_owned(),
        "{\"bug\":0,\"when\":\"never\"}".to_owned(),
        message(777, 11), // nobody watches it
        message(3, 13),   // 12 is missing
        message(4, 12),   // and comes late
        message(5, 14),
    ];
    producer.publish(&one, &bodies.each_ref().map(String::as_str)).await;
    producer.publish(&two, &[&message(5, 1)]).await;
    for bug in [1, 2, 3, 4, 5] {
        assert_eq!(default.update().await, (bug, T.to_owned()));
    }
    assert_eq!(named.update().await, (5, T.to_owned()), "and nothing of the other feed");
    let metrics = gateway.metrics().await;
    for line in [
        "bugfeed_messages_poison_total{feed=\"default\"} 2",
        "bugfeed_changes_total{feed=\"default\"} 6",
        "bugfeed_changes_repeated_total{feed=\"default\"} 1",
        "bugfeed_changes_missing_total{feed=\"default\"} 1",
        "bugfeed_changes_late_total{feed=\"default\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    // Poison is acknowledged like the rest: nothing is left in flight, and the log has one line of it, not two.
    assert_eq!(gateway.proc.events(LogEvent::MessageUnreadable), 1, "{}", gateway.proc.output());
    producer.delete(&one).await;
    producer.delete(&two).await;
}

#[tokio::test]
async fn several_changes_in_one_message_reach_the_clients() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let exchange = unique("exchange");
    let feed = format!("default={exchange}");
    let gateway = Gateway::start(&rabbit.url, &["--history", "false", "--feed", &feed]).await;
    let producer = Producer::connect(&rabbit.url).await;
    let mut client = gateway.client().await;
    client.ask(r#"{"command":"hello"}"#).await;
    client.ask(r#"{"command":"subscribe","bugs":[1,2,3,4,5,6,7,8,9]}"#).await;
    let members = |bugs: &[&str]| {
        let member = |bug: &&str| format!(r#"{{"bug":{bug},"when":"{T}"}}"#);
        bugs.iter().map(member).collect::<Vec<_>>().join(",")
    };
    let batch = |seq: u64, bugs: &[&str]| format!(r#"{{"epoch":"e1","seq":{seq},"changes":[{}]}}"#, members(bugs));
    let kind = "bugfeed.batch";
    producer.publish_typed(&exchange, kind, &batch(1, &["1", "777", "2"])).await;
    // Published again, put together otherwise.
    producer.publish_typed(&exchange, kind, &batch(2, &["777", "2", "3"])).await;
    // One of them cannot be read. The others count, and its number is missing.
    producer.publish_typed(&exchange, kind, &batch(5, &["4", "0", "5"])).await;
    // A producer that gives no numbers.
    producer.publish_typed(&exchange, kind, &format!(r#"{{"changes":[{}]}}"#, members(&["6", "7"]))).await;
    // What a later version may write is said to be unknown, and its number is missing.
    producer.publish_typed(&exchange, "bugfeed.later", &batch(8, &["8"])).await;
    producer.publish_typed(&exchange, kind, "poison").await;
    producer.publish_typed(&exchange, kind, &batch(9, &["9"])).await;
    let mut told = Vec::new();
    while told.len() < 10 {
        let message = client.json().await;
        match message["command"].as_str() {
            Some("update") => told.push(message["bug"].to_string()),
            Some("gap") => told.push(format!("gap {}", message["cursor"].as_str().unwrap_or("-"))),
            _ => {}
        }
    }
    assert_eq!(told[1..], ["2", "3", "4", "gap e1.6", "5", "6", "7", "gap e1.8", "9"]);
    assert_eq!(told[0], "1");
    let metrics = gateway.metrics().await;
    for line in [
        "bugfeed_messages_poison_total{feed=\"default\"} 3",
        "bugfeed_changes_total{feed=\"default\"} 9",
        "bugfeed_changes_repeated_total{feed=\"default\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    producer.delete(&exchange).await;
}

/// A poll of a feed on which nothing was published yet, and of another that is not touched by it.
#[tokio::test]
async fn plain_http_serves_each_feed_and_knows_when_it_knows_nothing() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (one, two) = (unique("one"), unique("two"));
    let (feed_one, feed_two) = (format!("default={one}"), format!("two={two}"));
    let gateway = Gateway::start(&rabbit.url, &["--history", "false", "--feed", &feed_one, "--feed", &feed_two]).await;
    let producer = Producer::connect(&rabbit.url).await;
    let changes = async |path: &str| {
        let (status, body) = get(gateway.clients, path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    // The session of this one is there before the change is.
    let waiting = changes("/two/changes?bugs=5&wait=60");
    let publishing = async {
        let open = async || gateway.metrics().await.contains("bugfeed_connections 1\n");
        eventually(SOON, "it waits", open).await.unwrap();
        producer.publish(&two, &[&format!(r#"{{"bug":5,"when":"{T}","seq":8,"epoch":"e1"}}"#)]).await;
    };
    let (answer, ()) = tokio::join!(waiting, publishing);
    assert_eq!(
        answer["replay"], "gap",
        "seven changes went before, and may have come too late for the session: {answer}"
    );
    let next = format!("/two/changes?bugs=5&cursor={}&wait=1", answer["cursor"].as_str().unwrap());
    let found = [answer, changes(&next).await].map(|answer| answer["changes"].as_array().unwrap().clone()).concat();
    assert_eq!(found, [json!({ "bug": 5, "when": T })], "with the gap or right after it, once");
    let nothing = changes("/changes?bugs=5").await;
    assert_eq!((&nothing["changes"], &nothing["replay"]), (&json!([]), &Value::Null));
    let again = format!("/changes?bugs=5&cursor={}", nothing["cursor"].as_str().unwrap());
    assert_eq!(changes(&again).await["replay"], "complete", "told in vain, and no news");
    assert_eq!(changes("/changes?bugs=5&cursor=unknown").await["replay"], "gap");
    // Who asks again and again is not answered each time at once.
    let begun = std::time::Instant::now();
    assert_eq!(changes("/changes?bugs=5&cursor=unknown&wait=1").await["replay"], "gap");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    producer.delete(&one).await;
    producer.delete(&two).await;
}

#[tokio::test]
async fn a_durable_queue_keeps_what_came_while_the_gateway_was_away() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (exchange, queue) = (unique("exchange"), unique("queue"));
    let feed = format!("default={exchange}");
    let options = ["--feed", &feed, "--queue-name", &queue];
    let mut gateway = Gateway::start(&rabbit.url, &options).await;
    gateway.proc.stop(SOON).await.unwrap();
    let producer = Producer::connect(&rabbit.url).await;
    producer.publish(&exchange, &[&format!(r#"{{"bug":1,"when":"{T}","seq":1,"epoch":"e1"}}"#)]).await;
    let gateway = Gateway::start(&rabbit.url, &options).await;
    let mut client = gateway.client().await;
    eventually(SOON, "the change is there", async || {
        client.send(r#"{"command":"subscribe","bugs":1,"since":"2014-01-01"}"#).await;
        client.send(r#"{"command":"subscriptions"}"#).await;
        client.text().await;
        client.text().await.contains("update")
    })
    .await
    .unwrap();
    drop(gateway);
    producer.channel.queue_delete(format!("{queue}.default").into(), Default::default()).await.unwrap();
    producer.delete(&exchange).await;
}

#[tokio::test]
async fn faults_that_a_person_must_mend_end_the_start_with_a_clear_error() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let producer = Producer::connect(&rabbit.url).await;
    let exchange = unique("fanout");
    let declared = producer.channel.exchange_declare(
        exchange.as_str().into(),
        ExchangeKind::Fanout,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declared.await.unwrap();
    let (head, tail) = rabbit.url.rsplit_once('@').unwrap();
    let scheme = head.split_once("://").unwrap().0;
    let host = tail.split_once('/').unwrap().0;
    let credentials = format!("{scheme}://guest:wrong-secret@{tail}");
    let vhost = format!("{head}@{host}/no-such-vhost");
    let feed = format!("default={exchange}");
    for (options, wants) in [
        (&["--amqp", &credentials][..], &["refuses the login", "check user, password"][..]),
        (&["--amqp", &vhost], &["refuses the login", "virtual host"]),
        (&["--amqp", &rabbit.url, "--feed", &feed], &[exchange.as_str(), "another type", "topic"]),
    ] {
        let ports = ["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let args = [&ports[..], options].concat();
        let mut proc = Proc::spawn(bin("bugfeed").unwrap(), &args, &[]).unwrap();
        let status = proc.wait(SOON).await.unwrap();
        let output = proc.output();
        assert_eq!(status.code(), Some(1), "{output}");
        for want in wants {
            assert!(output.contains(want), "no '{want}' in: {output}");
        }
        assert!(!output.contains("wrong-secret"), "{output}");
    }
    producer.delete(&exchange).await;
}

/// One that an earlier version made, or a person: it may hold changes, and there may be a reason for how it is.
#[tokio::test]
async fn a_queue_with_other_properties_is_used_as_it_is() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let producer = Producer::connect(&rabbit.url).await;
    let (exchange, queue) = (unique("exchange"), unique("other"));
    let (feed, name) = (format!("default={exchange}"), format!("{queue}.default"));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    producer.channel.queue_declare(name.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let gateway = Gateway::start(&rabbit.url, &["--feed", &feed, "--queue-name", &queue]).await;
    assert_eq!(gateway.proc.events(LogEvent::QueueDiffers), 1, "{}", gateway.proc.output());
    let mut client = gateway.client().await;
    client.subscribe(&[1]).await;
    producer.publish(&exchange, &[&format!(r#"{{"bug":1,"when":"{T}","seq":1,"epoch":"e1"}}"#)]).await;
    assert_eq!(client.update().await, (1, T.to_owned()));
    drop(gateway);
    producer.channel.queue_delete(name.into(), Default::default()).await.unwrap();
    producer.delete(&exchange).await;
}
