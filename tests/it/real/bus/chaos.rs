//! Tests with brokers of their own: history is away for a while, or for good.

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{RabbitMq, eventually};
use serde_json::json;

use super::publisher::{Publisher, Watcher};
use crate::real::history::chaos::TAKE_AWAY;
use crate::real::split::Gateway;
use crate::support::{SOON, get};

/// The broker's disk is lost. The offsets in the stream that a gateway remembers are of no use any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_empty_is_served_from_at_once() {
    let Some(mut rabbit) = RabbitMq::start_or_skip().await else { return };
    let publisher = Publisher::start(&rabbit.url(), "bugfeed.default", "e1").await;
    // Reads the changes from the stream, and so learns where they lie.
    drop(Gateway::start(&rabbit.url(), &[]).await);
    let mut cursor = String::new();
    for _ in 0..200 {
        cursor = publisher.publish().await;
    }
    let mut gateway = Gateway::start(&rabbit.url(), &[]).await;
    let (mut client, _) = Watcher::resume(&gateway, Some(&cursor)).await;
    rabbit.stop().await.unwrap();
    std::fs::remove_dir_all(rabbit.dir().join("mnesia")).unwrap();
    rabbit.start_again().await.unwrap();
    gateway.wait_ready().await;
    assert_eq!(client.next("gap").await["cursor"], json!(cursor));
    let after = Publisher::start(&rabbit.url(), "bugfeed.default", "e2").await;
    let first = after.publish().await;
    client.next("gap").await;
    assert_eq!(client.update().await, first);
}

/// Otherwise each hole would wait for history once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_does_not_answer_is_not_asked_for_each_hole() {
    let Some(rabbit) = RabbitMq::start_or_skip().await else { return };
    let publisher = Publisher::start(&rabbit.url(), "bugfeed.default", "e1").await;
    let gateway = Gateway::start(&rabbit.url(), &[]).await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    publisher.publish().await;
    client.update().await;
    rabbit.ctl(&["eval", &TAKE_AWAY.replace("{QUEUE}", &publisher.history())]).await.unwrap();
    for _ in 0..3 {
        publisher.skip();
        let cursor = publisher.publish().await;
        client.next("gap").await;
        assert_eq!(client.update().await, cursor);
    }
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("bugfeed_history_failed_total{feed=\"default\"} 1\n"), "{metrics}");
    let (status, body) = get(gateway.admin, "/readyz").await;
    assert!(status == 200 && body.contains("history cannot be read since"), "{status} {body}");
}

/// The broker's user may do what one feed needs, and nothing else: it gets no heads, and not the other feed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_permitted_costs_that_and_nothing_else() {
    let Some(rabbit) = RabbitMq::start_or_skip().await else { return };
    let publisher = Publisher::start(&rabbit.url(), "good", "e1").await;
    rabbit.ctl(&["add_user", "narrow", "secret"]).await.unwrap();
    let own = r"^(good|good\.history|amq\.gen.*)$";
    let write = r"^(good|good\.history|amq\.gen.*|amq\.default)$";
    rabbit.ctl(&["set_permissions", "narrow", own, write, own]).await.unwrap();
    let url = rabbit.url().replace("guest:guest", "narrow:secret");
    let mut gateway = Gateway::start(&url, &["--feed", "default=good", "--feed", "bad=bad"]).await;
    eventually(SOON, "the other feed is named", async || {
        let (status, body) = get(gateway.admin, "/readyz").await;
        if status == 200 && body.contains("feed bad: not permitted") { Ok(()) } else { Err(body) }
    })
    .await
    .unwrap();
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let cursor = publisher.publish().await;
    assert_eq!(client.update().await, cursor);
    gateway.logs_once(LogEvent::HeadsNotHeard).await;
    // A feed that is not permitted must not prevent the start of the gateway, unless it is the only feed.
    let mut alone = bugfeed_testbed::Proc::spawn(
        bugfeed_testbed::bin("bugfeed").unwrap(),
        &["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--amqp", &url, "--feed", "bad=bad"],
        &[],
    )
    .unwrap();
    assert_eq!(alone.wait(SOON).await.unwrap().code(), Some(1));
}
