//! Brokers of their own: a history that is away for a while, or for good.

use bugfeed_testbed::{RabbitMq, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::publisher::{Publisher, Watcher};
use crate::real::history::chaos::{GIVE_BACK, TAKE_AWAY};
use crate::real::split::Gateway;
use crate::support::{Client, SOON, get};

/// An endless answer, as far as it has come.
struct Sse {
    stream: TcpStream,
    text: String,
}

impl Sse {
    async fn open(gateway: &Gateway) -> Sse {
        let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
        let request = format!("GET /sse?bugs=1 HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.clients);
        stream.write_all(request.as_bytes()).await.unwrap();
        Sse { stream, text: String::new() }
    }

    /// Reads until it has said this.
    async fn says(&mut self, text: &str) {
        let mut piece = [0; 4096];
        while !self.text.contains(text) {
            let read = tokio::time::timeout(SOON, self.stream.read(&mut piece)).await;
            let read = read.unwrap_or_else(|_| panic!("no {text} in: {}", self.text)).unwrap();
            assert!(read > 0, "ended before {text}: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    }
}

/// A restart of the only gateway must not flood every bot with the changes of the last days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_reads_at_its_start_is_not_sent_as_if_it_were_new() {
    let Some(rabbit) = RabbitMq::start_or_skip().await else { return };
    let publisher = Publisher::start(&rabbit.url(), "bugfeed.default", "e1").await;
    drop(Gateway::start(&rabbit.url(), &[]).await);
    for _ in 0..5 {
        publisher.publish().await;
    }
    // It cannot be read for a while: so much time a long one takes.
    let stream = publisher.history();
    rabbit.ctl(&["eval", &TAKE_AWAY.replace("{QUEUE}", &stream)]).await.unwrap();
    let gateway = Gateway::start_unready(&rabbit.url(), &[]).await;
    eventually(SOON, "it reads", async || {
        let (_, body) = get(gateway.admin, "/readyz").await;
        if body.contains("reading history") { Ok(()) } else { Err(body) }
    })
    .await
    .unwrap();
    assert!(Client::try_connect(&gateway.url()).await.is_err());
    assert_eq!(get(gateway.clients, "/changes?bugs=1").await.0, 503);
    let mut early = Sse::open(&gateway).await;
    early.says("retry: ").await;
    early.says(": not ready yet").await;
    assert!(early.text.contains(" 200 "), "{}", early.text);
    rabbit.ctl(&["eval", &GIVE_BACK.replace("{QUEUE}", &stream)]).await.unwrap();
    early.says(r#"{"command":"subscribe""#).await;
    gateway.wait_ready().await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let sixth = publisher.publish().await;
    assert_eq!(client.update().await, sixth);
    early.says(&format!("id: {sixth}")).await;
    assert_eq!(early.text.matches("update").count(), 1, "{}", early.text);
    assert_eq!(Watcher::resume(&gateway, Some("e1.2.5e3c9a01")).await.1, json!("complete"), "all is known here");
}

/// The broker's disk is lost. What a gateway remembers of where things lay is of no use any more.
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
    let gateway = Gateway::start(&rabbit.url(), &[]).await;
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

/// Each hole would wait for it once more.
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

/// A user who may do what one feed needs, and nothing else: no heads, and not the other feed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_permitted_costs_that_and_nothing_else() {
    let Some(rabbit) = RabbitMq::start_or_skip().await else { return };
    let publisher = Publisher::start(&rabbit.url(), "good", "e1").await;
    rabbit.ctl(&["add_user", "narrow", "secret"]).await.unwrap();
    let own = r"^(good|good\.history|amq\.gen.*)$";
    let write = r"^(good|good\.history|amq\.gen.*|amq\.default)$";
    rabbit.ctl(&["set_permissions", "narrow", own, write, own]).await.unwrap();
    let url = rabbit.url().replace("guest:guest", "narrow:secret");
    let gateway = Gateway::start(&url, &["--feed", "default=good", "--feed", "bad=bad"]).await;
    eventually(SOON, "the other feed is named", async || {
        let (status, body) = get(gateway.admin, "/readyz").await;
        if status == 200 && body.contains("feed bad: not permitted") { Ok(()) } else { Err(body) }
    })
    .await
    .unwrap();
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let cursor = publisher.publish().await;
    assert_eq!(client.update().await, cursor);
    let logged = async || gateway.proc.output().matches("heads cannot be heard").count();
    eventually(SOON, "it is in the log", async || logged().await > 0).await.unwrap();
    assert_eq!(logged().await, 1, "{}", gateway.proc.output());
    // Nobody may end the gateway's start for it, but where it is all that was asked for.
    let mut alone = bugfeed_testbed::Proc::spawn(
        bugfeed_testbed::bin("bugfeed").unwrap(),
        &["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--amqp", &url, "--feed", "bad=bad"],
        &[],
    )
    .unwrap();
    assert_eq!(alone.wait(SOON).await.unwrap().code(), Some(1));
}
