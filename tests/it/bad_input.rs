//! Mistakes of peers: each costs only the peer that makes it.

use std::net::SocketAddr;

use futures::SinkExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::support::{Client, SOON, Serve, get, request};

const T: &str = "2014-04-03T21:13:45";

fn error(command: &Value, text: &str) -> Value {
    json!({ "command": command, "result": "error", "error": text })
}

#[tokio::test]
async fn every_malformed_command_is_answered_on_an_open_connection() {
    let serve = Serve::start(&[]).await;
    let mut bystander = serve.client().await;
    bystander.subscribe(&[1]).await;
    let mut client = serve.client().await;
    let (invalid, missing) = ("invalid bug id; must be integer", "missing mandatory arg: 'bugs'");
    let since = "invalid since; must be a UTC date from 1970 to 2199 such as 2014-04-03T21:13:45";
    let subscribe = json!("subscribe");
    for (text, want) in [
        ("hello", error(&json!(null), "invalid message; must be JSON")),
        ("", error(&json!(null), "invalid message; must be JSON")),
        ("\u{0}\u{feff}", error(&json!(null), "invalid message; must be JSON")),
        ("[1]", error(&json!(null), "invalid message; must be a JSON object")),
        ("{}", error(&json!(null), "missing mandatory arg: 'command'")),
        (r#"{"command":"nonsense"}"#, error(&json!("nonsense"), "invalid command")),
        (r#"{"command":"subscribe"}"#, error(&subscribe, missing)),
        (r#"{"command":"subscribe","bugs":null}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":-5}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":0}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":9223372036854775808}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":1e3}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":1.5}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":[[1]]}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":[2,"x"]}"#, error(&subscribe, invalid)),
        (r#"{"command":"subscribe","bugs":2,"since":"tomorrow"}"#, error(&subscribe, since)),
        (r#"{"command":"subscribe","bugs":2,"since":"0000-00-00 00:00:00"}"#, error(&subscribe, since)),
        (r#"{"command":"subscribe","bugs":2,"since":["2014-04-03"]}"#, error(&subscribe, since)),
        (r#"{"command":"unsubscribe","bugs":{}}"#, error(&json!("unsubscribe"), invalid)),
        (r#"{"command":"subscribe","bugs":[]}"#, json!({ "command": "subscribe", "result": "ok", "bugs": [] })),
    ] {
        let reply = client.ask(text).await;
        assert_eq!(serde_json::from_str::<Value>(&reply).unwrap(), want, "{text:?}");
    }
    serve.touch(1, T).await;
    assert_eq!(bystander.update().await, (1, T.to_owned()));
}

#[tokio::test]
async fn a_hundred_thousand_bugs() {
    let bugs: Vec<u32> = (1..=100_000).collect();
    let text = json!({ "command": "subscribe", "bugs": bugs }).to_string();
    let serve = Serve::start(&[]).await;
    let mut client = serve.client().await;
    client.send(&text).await;
    assert_eq!(client.close_code().await, 1009, "larger than a message may be");

    let serve = Serve::start(&["--max-message-bytes", "1000000"]).await;
    let mut client = serve.client().await;
    let reply = client.ask(&text).await;
    assert_eq!(reply, r#"{"command":"subscribe","result":"error","error":"too many subscriptions"}"#);
    let ten_thousand = json!({ "command": "subscribe", "bugs": bugs[..10_000] }).to_string();
    assert!(client.ask(ten_thousand).await.len() > 48_000, "the limit itself is fine");
    serve.touch(10_000, T).await;
    assert_eq!(client.update().await, (10_000, T.to_owned()));
}

#[tokio::test]
async fn frames_that_end_the_connection_with_a_code() {
    let serve = Serve::start(&[]).await;
    let mut bystander = serve.client().await;
    bystander.subscribe(&[1]).await;

    let mut client = serve.client().await;
    client.0.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(client.close_code().await, 1003);

    let mut client = serve.client().await;
    let huge = Message::text("x".repeat(10 * 1024 * 1024));
    // The gateway reads only so much of it before it closes.
    let _ = client.0.send(huge).await;
    assert_eq!(client.close_code().await, 1009);

    let mut client = serve.client().await;
    let bytes = vec![b'"', 0xff, 0xfe, b'"'];
    client.0.send(Message::Frame(Frame::message(bytes, OpCode::Data(Data::Text), true))).await.unwrap();
    assert_eq!(client.close_code().await, 1007);

    let mut client = serve.client().await;
    let mut opcode = OpCode::Data(Data::Text);
    let mut sent = 0;
    let code = loop {
        // A fragmented message that never ends; bounded here in case the gateway is not.
        assert!(sent < 10_000_000, "the gateway takes everything");
        let fragment = Frame::message(vec![b' '; 10_000], opcode, false);
        if client.0.send(Message::Frame(fragment)).await.is_err() || sent > 400_000 {
            break client.close_code().await;
        }
        sent += 10_000;
        opcode = OpCode::Data(Data::Continue);
    };
    assert_eq!(code, 1009);

    serve.touch(1, T).await;
    assert_eq!(bystander.update().await, (1, T.to_owned()));
}

/// A connection upgraded by hand, so that anything can be sent.
async fn raw(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

#[tokio::test]
async fn frames_against_the_rules_end_the_connection_with_1002() {
    let serve = Serve::start(&[]).await;
    for (name, bytes) in [
        ("not masked", &[0x81, 0x02, b'{', b'}'][..]),
        ("reserved bits", &[0xf1, 0x80, 0, 0, 0, 0]),
        ("reserved opcode", &[0x83, 0x80, 0, 0, 0, 0]),
        ("a continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0]),
        ("a fragmented ping", &[0x09, 0x80, 0, 0, 0, 0]),
        ("a ping of 126 bytes", &[&[0x89, 0xfe, 0, 126][..], &[0; 130]].concat()),
    ] {
        let mut stream = raw(serve.clients).await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect(name).unwrap();
        assert_eq!(answer[..1], [0x88], "{name}: {answer:?}");
        assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), 1002, "{name}");
    }
    // A frame that claims 2^63 bytes costs nobody that much.
    let mut stream = raw(serve.clients).await;
    stream.write_all(&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("closed").unwrap();
    assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), 1009);
}

/// A message may come in pieces, with pings and pauses in between: the gateway keeps what has come.
#[tokio::test]
async fn a_message_may_be_cut_anywhere() {
    const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];
    let serve = Serve::start(&[]).await;
    let text = br#"{"command":"version"}"#;
    // Masked with zeros.
    let frame =
        |opcode: u8, text: &[u8]| [&[opcode, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0], text].concat();
    let whole = frame(0x81, text);
    let in_one_frame = (1..whole.len()).map(|at| ([&PING, &whole[..at]].concat(), whole[at..].to_vec()));
    let in_two =
        (0..text.len()).map(|at| ([frame(0x01, &text[..at]), PING.to_vec()].concat(), frame(0x80, &text[at..])));
    for (first, rest) in in_one_frame.chain(in_two) {
        let mut stream = raw(serve.clients).await;
        stream.write_all(&first).await.unwrap();
        let mut pong = [0; 2];
        tokio::time::timeout(SOON, stream.read_exact(&mut pong)).await.expect("a pong").unwrap();
        assert_eq!(pong, [0x8a, 0]);
        // The gateway has read the first piece, and waits for the other.
        stream.write_all(&rest).await.unwrap();
        let mut answer = [0; 2];
        tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(answer[0], 0x81, "{first:?} {rest:?}");
        let mut answer = vec![0; usize::from(answer[1])];
        stream.read_exact(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(r#""result":"ok","version":"#), "{answer}: {first:?} {rest:?}");
    }
}

#[tokio::test]
async fn a_ping_is_answered_and_a_close_too() {
    let serve = Serve::start(&[]).await;
    let mut client = serve.client().await;
    client.0.send(Message::Ping(b"there?".to_vec().into())).await.unwrap();
    assert_eq!(client.next().await, Message::Pong(b"there?".to_vec().into()));
    client.0.close(None).await.unwrap();
    assert_eq!(client.close_code().await, 1000);
    assert!(matches!(futures::StreamExt::next(&mut client.0).await, None | Some(Err(WsError::ConnectionClosed))));
}

/// RFC 6455 §4.4: a client that learns which version is spoken tries again, on the same connection.
#[tokio::test]
async fn a_handshake_may_be_tried_again() {
    let serve = Serve::start(&[]).await;
    let head = |version: u8| {
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut stream = TcpStream::connect(serve.clients).await.unwrap();
    for (version, want) in [(14, "426"), (13, "101")] {
        stream.write_all(head(version).as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await.expect("an answer").unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{answer}");
    }
}

#[tokio::test]
async fn requests_that_are_no_client() {
    let serve = Serve::start(&[]).await;
    let (status, body) = get(serve.clients, "/nope/").await;
    assert_eq!(status, 404);
    assert!(body.contains("feeds: /"), "says where the feeds are: {body}");
    match Client::try_connect(&format!("{}nope/", serve.url())).await.err().expect("refused") {
        WsError::Http(answer) => assert_eq!(answer.status(), 404),
        other => panic!("{other}"),
    }
    let host = serve.clients;
    let post = format!("POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}");
    assert_eq!(request(host, &post).await.0, 405);
    let old = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 14\r\nSec-WebSocket-Key: x\r\n\r\n"
    );
    let (status, body) = request(host, &old).await;
    assert!(status == 426 && body.contains("Version: 13"), "{status} {body}");
    // A body that may never come must not hold a place for ever.
    let body = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nhello"
    );
    let (status, text) = request(host, &body).await;
    assert!(status == 400 && text.contains("no body"), "{status} {text}");
    let long = format!("GET /{} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", "x".repeat(100_000));
    assert!(matches!(request(host, &long).await.0, 414 | 431), "a head without end");
    assert_eq!(request(host, "\u{16}\u{3}\u{1} this is not HTTP\r\n\r\n").await.0, 400);
}
