//! A gateway that starts, and clients that do not wait for it.

use bugfeed_testbed::{eventually, shared, unique};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::publisher::{Publisher, Watcher, cable};
use crate::real::network::Line;
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
#[tokio::test]
async fn what_a_gateway_reads_at_its_start_is_not_sent_as_if_it_were_new() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let publisher = Publisher::start(&rabbit.url, &unique("start"), "e1").await;
    let feed = format!("default={}", publisher.exchange);
    // This gateway creates the history.
    drop(Gateway::start(&rabbit.url, &["--feed", &feed]).await);
    for _ in 0..5 {
        publisher.publish().await;
    }
    // The broker cannot be reached for a while, as if the history took that long to read.
    let (network, url) = cable(&rabbit.url).await;
    network.line.send_replace(Line::Cut);
    let mut gateway = Gateway::start_unready(&url, &["--feed", &feed]).await;
    eventually(SOON, "it says why it is not ready", async || {
        let (status, body) = get(gateway.admin, "/readyz").await;
        if status == 503 && body.contains("feed default: broker") { Ok(()) } else { Err(body) }
    })
    .await
    .unwrap();
    assert!(Client::try_connect(&gateway.url()).await.is_err());
    assert_eq!(get(gateway.clients, "/changes?bugs=1").await.0, 503);
    let mut early = Sse::open(&gateway).await;
    early.says("retry: ").await;
    early.says(": not ready yet").await;
    assert!(early.text.contains(" 200 "), "{}", early.text);
    network.line.send_replace(Line::Up);
    early.says(r#"{"command":"subscribe""#).await;
    gateway.wait_ready().await;
    let (mut client, _) = Watcher::resume(&gateway, None).await;
    let sixth = publisher.publish().await;
    assert_eq!(client.update().await, sixth);
    early.says(&format!("id: {sixth}")).await;
    assert_eq!(early.text.matches("update").count(), 1, "{}", early.text);
    assert_eq!(Watcher::resume(&gateway, Some("e1.2.5e3c9a01")).await.1, json!("complete"), "all is known here");
    drop(gateway);
    publisher.clean_up().await;
}
