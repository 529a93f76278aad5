//! `bugfeed watch` when a proxy answers, when nothing can arrive, and when the address holds secrets.

use bugfeed_testbed::{Proc, Run};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::commands::bugfeed;
use crate::support::{SOON, connected};

const WHEN: &str = "2014-04-03T21:13:45";

/// What `watch` connects to; the test says what it answers.
struct Door(TcpListener);

impl Door {
    async fn new() -> Door {
        Door(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    fn watch(&self, args: &[&str]) -> Proc {
        let url = format!("ws://{}/", self.address());
        Run::new(bugfeed()).args(["watch", "1", "--url", &url]).args(args).spawn().unwrap()
    }

    async fn tcp(&self) -> TcpStream {
        timeout(SOON, self.0.accept()).await.expect("it connects").unwrap().0
    }

    /// Answers an attempt as a proxy does.
    async fn refuse(&self, answer: &str) {
        let mut stream = self.tcp().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
    }

    /// Greets a client, and sends this message (if there is one) between the two replies.
    async fn greet(&self, between: Option<Value>) -> Gateway {
        let mut gateway = Gateway(tokio_tungstenite::accept_async(self.tcp().await).await.unwrap());
        for _ in ["hello", "subscribe"] {
            timeout(SOON, gateway.0.next()).await.expect("in time").unwrap().unwrap();
        }
        gateway.say(json!({ "command": "hello", "result": "ok", "heartbeat": 20, "cursor": "E.1.5c0ffee1" })).await;
        if let Some(between) = between {
            gateway.say(between).await;
        }
        gateway.say(json!({ "command": "subscribe", "result": "ok", "count": 1, "cursor": "E.1.5c0ffee1" })).await;
        gateway
    }
}

struct Gateway(WebSocketStream<TcpStream>);

impl Gateway {
    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn a_proxy_without_a_gateway_behind_it_ends_nothing_and_is_told_once() {
    let door = Door::new().await;
    let mut proc = door.watch(&["--count", "1"]);
    for _ in 0..3 {
        door.refuse("404 Not Found\r\nConnection: close\r\n\r\n<title>404 Not Found</title>").await;
    }
    let mut gateway = door.greet(None).await;
    gateway.say(json!({ "command": "update", "bug": 1, "when": WHEN, "cursor": "E.2.5c0ffee1" })).await;
    proc.succeeds(SOON).await.unwrap();
    let output = proc.output();
    let told = "answers 404 Not Found, 3 times in a row; is the address right, and does the proxy in front of the gateway \
                pass its path on?; this client goes on trying";
    assert_eq!(output.matches(told).count(), 1, "{output}");
    assert_eq!(output.matches("answers 404 Not Found; trying again in").count(), 3, "{output}");
    assert!(output.contains("connected to ws://") && output.contains("bug 1 changed"), "{output}");
}

#[tokio::test]
async fn the_gateways_own_word_ends_it() {
    let door = Door::new().await;
    let mut proc = door.watch(&[]);
    door.refuse("404 Not Found\r\nBugfeed-Version: 0.1.0\r\n\r\n{\"error\":\"There is no feed here.\"}").await;
    assert_eq!(proc.wait(SOON).await.unwrap().code(), Some(1), "{}", proc.output());
    assert!(proc.output().contains("is no feed: 404 There is no feed here."), "{}", proc.output());
}

#[tokio::test]
async fn a_connection_to_a_feed_that_is_paused_is_no_good_news() {
    let door = Door::new().await;
    let mut proc = door.watch(&[]);
    let mut gateway = door.greet(Some(json!({ "command": "feed", "state": "paused", "since": WHEN }))).await;
    let paused = "updates are paused since 2014-04-03T21:13:45: nothing can arrive just now";
    let connected = connected(&mut proc).await;
    assert!(connected.ends_with(&format!("; {paused}")), "{connected}");
    assert!(proc.output().contains(&format!("bugfeed watch: {paused}\n")), "{}", proc.output());
    gateway.say(json!({ "command": "heartbeat", "cursor": "E.1.5c0ffee1" })).await;
    proc.wait_for_line("updates flow again", SOON).await.unwrap();
    // The client reconnects to another gateway, whose feed was paused before that.
    drop(gateway);
    let mut gateway = door.greet(None).await;
    gateway.say(json!({ "command": "heartbeat", "state": "paused", "cursor": "E.1.5c0ffee1" })).await;
    proc.wait_for_line("updates are paused: nothing can arrive just now", SOON).await.unwrap();
}

#[tokio::test]
async fn no_secret_of_the_address_is_told() {
    let door = Door::new().await;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("ws://user:hunter2@{}/?token=hunter2", door.address());
    let args = ["watch", "1", "--url", &url, "--state", "state"];
    let mut proc = Run::new(bugfeed()).dir(dir.path()).args(args).spawn().unwrap();
    door.refuse("301 Moved\r\nLocation: https://user:hunter2@example.org/?token=hunter2\r\n\r\n").await;
    let gateway = door.greet(None).await;
    proc.wait_for_line("connected to ws://…@127.0.0.1:", SOON).await.unwrap();
    drop(gateway);
    door.refuse("404 Not Found\r\nBugfeed-Version: 0.1.0\r\n\r\n").await;
    assert_eq!(proc.wait(SOON).await.unwrap().code(), Some(1));
    let output = proc.output();
    assert!(
        output.contains("which leads to https://…@example.org/?…") && output.contains("is no feed: 404"),
        "{output}"
    );
    assert!(!output.contains("hunter2"), "{output}");
    let state = std::fs::read_to_string(dir.path().join("state")).unwrap();
    assert!(state.contains("\"url\":\"ws://…@127.0.0.1:") && !state.contains("hunter2"), "{state}");
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_named_and_tls_on_the_wrong_port_too() {
    let args = ["watch", "1", "--url", "ws://no-such-host.invalid/"];
    let mut proc =
        Run::new(bugfeed()).env("https_proxy", "http://user:hunter2@127.0.0.1:1").args(args).spawn().unwrap();
    let said = proc.wait_for_line("cannot be resolved", SOON).await.unwrap();
    assert!(said.contains("(https_proxy is set; not used here)") && !said.contains("hunter2"), "{said}");

    let door = Door::new().await;
    let url = format!("wss://{}/", door.address());
    let mut proc = Proc::spawn(bugfeed(), &["watch", "1", "--url", &url], &[]).unwrap();
    let mut stream = door.tcp().await;
    stream.read_u8().await.unwrap();
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    proc.wait_for_line("answers without TLS; for a gateway without TLS write ws://", SOON).await.unwrap();
}
