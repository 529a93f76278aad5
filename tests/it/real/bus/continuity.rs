//! Continuity is proven or broken: where a change may have been missed, every client is told `gap`.

use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{eventually, shared, unique};
use serde_json::json;

use super::publisher::{Publisher, Watcher, cable};
use crate::real::network::{Line, Network};
use crate::real::split::Gateway;
use crate::support::{SOON, counted, get};

/// Cuts the gateway's connection, publishes meanwhile, and lets it come back.
async fn while_cut(gateway: &Gateway, network: &Network, meanwhile: impl Future<Output = ()>) {
    network.line.send_replace(Line::Cut);
    eventually(SOON, "the gateway notices", async || {
        !gateway.metrics().await.contains("bugfeed_bus_up{feed=\"default\"} 1")
    })
    .await
    .unwrap();
    meanwhile.await;
    network.line.send_replace(Line::Up);
}

async fn hears_heads(gateway: &Gateway) {
    let heard = async || counted(&gateway.metrics().await, "bugfeed_heads_total") > 0;
    eventually(SOON, "a head is heard", async || heard().await).await.unwrap();
}

#[tokio::test]
async fn what_was_missed_without_history_is_told_at_once() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let publisher = Publisher::start(&rabbit.url, &unique("cut"), "e1").await;
    let (network, url) = cable(&rabbit.url).await;
    let feed = format!("default={}", publisher.exchange);
    let gateway = Gateway::start(&url, &["--history", "false", "--feed", &feed]).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let first = publisher.publish().await;
    assert_eq!(client.update().await, first);
    while_cut(&gateway, &network, async { drop(publisher.publish().await) }).await;
    client.next("gap").await;
    let (_, verdict) = Watcher::resume(&gateway, Some(&first)).await;
    assert_eq!(verdict, json!("gap"));
    let third = publisher.publish().await;
    client.next("gap").await;
    assert_eq!(client.update().await, third);
    publisher.delete_exchanges().await;
}

/// After a cut, the publisher's head says whether anything was missed. Until it comes, resumes wait.
#[tokio::test]
async fn a_head_proves_that_nothing_was_missed_or_that_something_was() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut publisher = Publisher::start(&rabbit.url, &unique("heads"), "e1").await;
    let (network, url) = cable(&rabbit.url).await;
    let feed = format!("default={}", publisher.exchange);
    publisher.say_heads();
    let mut gateway = Gateway::start(&url, &["--history", "false", "--feed", &feed]).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let first = publisher.publish().await;
    assert_eq!(client.update().await, first);
    hears_heads(&gateway).await;
    while_cut(&gateway, &network, async {}).await;
    gateway.wait_ready().await;
    assert_eq!(Watcher::resume(&gateway, Some(&first)).await.1, json!("complete"));
    let mut second = String::new();
    while_cut(&gateway, &network, async { second = publisher.publish().await }).await;
    assert_eq!(client.next("gap").await["cursor"], json!(second));
    assert_eq!(Watcher::resume(&gateway, Some(&first)).await.1, json!("gap"));
    assert_eq!(Watcher::resume(&gateway, Some(&second)).await.1, json!("complete"));
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("bugfeed_gaps_total{feed=\"default\"} 1\n"), "{metrics}");
    publisher.hush();
    publisher.delete_exchanges().await;
}

/// The bindings of an exchange are deleted with it, so nothing comes any more although everything is connected.
#[tokio::test]
async fn an_exchange_that_was_deleted_and_made_anew_is_bound_to_again() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    for queue in [&[][..], &["--queue-name", "one"]] {
        let mut publisher = Publisher::start(&rabbit.url, &unique("remade"), "e1").await;
        let feed = format!("default={}", publisher.exchange);
        let named = unique("queue");
        let queue: Vec<&str> = queue.iter().map(|word| if *word == "one" { &named } else { *word }).collect();
        publisher.say_heads();
        let mut gateway = Gateway::start(&rabbit.url, &[&["--feed", &feed][..], &queue].concat()).await;
        let (mut client, _) = Watcher::resume(&gateway, None).await;
        let first = publisher.publish().await;
        assert_eq!(client.update().await, first);
        hears_heads(&gateway).await;
        publisher.delete_exchanges().await;
        publisher.declare().await;
        publisher.bind_history().await;
        let second = publisher.publish().await;
        assert_eq!(client.update().await, second, "without a gap");
        let third = publisher.publish().await;
        assert_eq!(client.update().await, third);
        gateway.wait_ready().await;
        drop(gateway);
        if !queue.is_empty() {
            publisher.channel.queue_delete(format!("{named}.default").into(), Default::default()).await.unwrap();
        }
        publisher.clean_up().await;
    }
}

/// The new stream can be read, but it says nothing about the time before it was made.
#[tokio::test]
async fn a_stream_that_was_made_anew_proves_nothing() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let publisher = Publisher::start(&rabbit.url, &unique("stream"), "e1").await;
    let (network, url) = cable(&rabbit.url).await;
    let feed = format!("default={}", publisher.exchange);
    let gateway = Gateway::start(&url, &["--feed", &feed]).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let first = publisher.publish().await;
    assert_eq!(client.update().await, first);
    // Here history has everything that was missed.
    let mut second = String::new();
    while_cut(&gateway, &network, async { second = publisher.publish().await }).await;
    assert_eq!(client.update().await, second);
    while_cut(&gateway, &network, async {
        publisher.publish().await;
        publisher.delete_history().await;
    })
    .await;
    client.next("gap").await;
    assert_eq!(Watcher::resume(&gateway, Some(&second)).await.1, json!("gap"));
    publisher.clean_up().await;
}

#[tokio::test]
async fn a_ledger_that_was_replaced_long_ago_is_no_news() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let exchange = unique("past");
    let feed = format!("default={exchange}");
    let mut first = Gateway::start(&rabbit.url, &["--feed", &feed]).await;
    for epoch in ["e1", "e2"] {
        let publisher = Publisher::start(&rabbit.url, &exchange, epoch).await;
        publisher.publish().await;
        publisher.publish().await;
    }
    first.proc.wait_for_event(LogEvent::ContinuityLost, SOON).await.unwrap();
    let mut second = Gateway::start(&rabbit.url, &["--feed", &feed]).await;
    assert_eq!(second.proc.events(LogEvent::ContinuityLost), 0, "{}", second.proc.output());
    assert_eq!(counted(&second.metrics().await, "bugfeed_gaps_total"), 0);
    let publisher = Publisher::start(&rabbit.url, &exchange, "e3").await;
    publisher.publish().await;
    second.proc.wait_for_event(LogEvent::ContinuityLost, SOON).await.unwrap();
    publisher.clean_up().await;
}

#[tokio::test]
async fn clients_hear_that_nothing_can_arrive_and_that_it_can_again() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut publisher = Publisher::start(&rabbit.url, &unique("state"), "e1").await;
    let (network, url) = cable(&rabbit.url).await;
    let feed = format!("default={}", publisher.exchange);
    let mut gateway = Gateway::start(&url, &["--feed", &feed]).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let cursor = publisher.publish().await;
    client.update().await;
    let paused = async |client: &mut Watcher, why: &str| {
        client.feed_is("paused").await;
        let (status, body) = get(gateway.admin, "/readyz").await;
        assert!(status == 503 && body.contains(why), "{status} {body}");
        let (_, answer) = get(gateway.clients, &format!("/changes?bugs=1&cursor={cursor}")).await;
        assert!(answer.contains(r#""state":"paused""#), "{answer}");
        let mut late = gateway.client().await;
        late.ask(r#"{"command":"hello"}"#).await;
        let notice = late.json().await;
        assert_eq!((&notice["command"], &notice["state"]), (&json!("feed"), &json!("paused")));
    };
    network.line.send_replace(Line::Cut);
    paused(&mut client, "feed default: broker").await;
    network.line.send_replace(Line::Up);
    client.feed_is("live").await;
    publisher.say_heads();
    publisher.waits.store(true, std::sync::atomic::Ordering::SeqCst);
    paused(&mut client, "change table").await;
    publisher.waits.store(false, std::sync::atomic::Ordering::SeqCst);
    client.feed_is("live").await;
    publisher.hush();
    paused(&mut client, "no publisher heard").await;
    publisher.say_heads();
    client.feed_is("live").await;
    gateway.wait_ready().await;
    let (_, answer) = get(gateway.clients, &format!("/changes?bugs=1&cursor={cursor}")).await;
    assert!(!answer.contains("state"), "{answer}");
    publisher.clean_up().await;
}

/// Heads must not fill a queue that outlives its gateway.
#[tokio::test]
async fn a_durable_queue_holds_changes_only() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut publisher = Publisher::start(&rabbit.url, &unique("durable"), "e1").await;
    publisher.say_heads();
    let (feed, queue) = (format!("default={}", publisher.exchange), unique("queue"));
    let options = ["--history", "false", "--feed", &feed, "--queue-name", &queue];
    let mut gateway = Gateway::start(&rabbit.url, &options).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let first = publisher.publish().await;
    assert_eq!(client.update().await, first);
    gateway.proc.kill9();
    publisher.publish().await;
    // Ten heads, at least.
    let _passed = tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
    let name = format!("{queue}.default");
    let look = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    eventually(SOON, "one change waits, and whatever was not acknowledged", async || {
        let declared = publisher.channel.queue_declare(name.as_str().into(), look, Default::default()).await.unwrap();
        if (1..=2).contains(&declared.message_count()) { Ok(()) } else { Err(declared.message_count()) }
    })
    .await
    .unwrap();
    let gateway = Gateway::start(&rabbit.url, &options).await;
    assert_eq!(Watcher::resume(&gateway, Some(&first)).await.1, json!("complete"));
    drop(gateway);
    publisher.hush();
    publisher.channel.queue_delete(name.into(), Default::default()).await.unwrap();
    publisher.delete_exchanges().await;
}
