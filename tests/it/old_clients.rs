//! Every form in which clients of 2014 to 2017 connect and ask: `tests/old-clients/forms.json`, which also has what the
//! original server answered. `docs/old-clients.md` says where the forms are from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{SOON, Serve};

#[derive(Deserialize)]
struct Forms {
    changes: Vec<(u64, String)>,
    messages: Vec<Message>,
    handshakes: Vec<Handshake>,
}

#[derive(Deserialize)]
struct Message {
    send: String,
    original: Vec<Value>,
    gateway: Option<Vec<Value>>,
    differs: Option<String>,
}

#[derive(Deserialize)]
struct Handshake {
    form: String,
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    original: u16,
    gateway: Option<u16>,
    differs: Option<String>,
}

fn forms() -> Forms {
    serde_json::from_str(include_str!("../old-clients/forms.json")).unwrap()
}

#[test]
fn what_differs_from_the_original_is_said_with_its_reason() {
    let Forms { messages, handshakes, .. } = forms();
    assert!(messages.len() > 50 && handshakes.len() > 15);
    for Message { send, original, gateway, differs } in messages {
        assert!(gateway.is_some() == differs.is_some() && gateway != Some(original), "{send}");
    }
    for Handshake { form, original, gateway, differs, .. } in handshakes {
        assert!(gateway.is_some() == differs.is_some() && gateway != Some(original), "{form}");
    }
}

#[tokio::test]
async fn messages() {
    let serve = Serve::start(&[]).await;
    let Forms { changes, messages, .. } = forms();
    let mut watcher = serve.client().await;
    watcher.subscribe(&[1, 2]).await;
    for (bug, when) in changes {
        serve.touch(bug, &when).await;
        assert_eq!(watcher.update().await, (bug, when));
    }
    let end = json!({ "command": "end", "result": "error", "error": "invalid command" });
    for Message { send, original, gateway, .. } in messages {
        let mut client = serve.client().await;
        client.subscribe(&[7]).await;
        client.send(&send).await;
        client.send(r#"{"command":"end"}"#).await;
        let mut got = Vec::new();
        loop {
            let mut message = client.json().await;
            if message == end {
                break;
            }
            if let Some(version) = message.get_mut("version") {
                *version = json!("VERSION");
            }
            got.push(message);
        }
        assert_eq!(got, gateway.unwrap_or(original), "{send:?}");
    }
}

/// A masked text frame, as clients send it.
fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 126);
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

#[tokio::test]
async fn handshakes() {
    let serve = Serve::start(&[]).await;
    for Handshake { form, path, headers, original, gateway, .. } in forms().handshakes {
        let mut all: BTreeMap<&str, Option<&str>> = BTreeMap::from([
            ("Host", Some("bugzfeed.mozilla.org")),
            ("Connection", Some("Upgrade")),
            ("Upgrade", Some("websocket")),
            ("Sec-WebSocket-Version", Some("13")),
            ("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ==")),
        ]);
        all.extend(headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
        let mut request = format!("GET {} HTTP/1.1\r\n", path.as_deref().unwrap_or("/"));
        for (name, value) in all {
            if let Some(value) = value {
                write!(request, "{name}: {value}\r\n").unwrap();
            }
        }
        let mut stream = TcpStream::connect(serve.clients).await.unwrap();
        // The first command at once: some clients do not wait for the answer.
        let first = [request.as_bytes(), b"\r\n", &frame(r#"{"command":"version"}"#)].concat();
        stream.write_all(&first).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(SOON, stream.read_u8()).await.expect("an answer").unwrap();
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let want = gateway.unwrap_or(original);
        assert!(head.starts_with(&format!("http/1.1 {want} ")), "{form}: {head}");
        if want == 101 {
            // RFC 6455, 1.3 and 4.2.2: its example, and nothing that the client would have to speak.
            let example = head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=");
            assert!(example || headers.contains_key("Sec-WebSocket-Key"), "{form}: {head}");
            assert!(!head.contains("sec-websocket-protocol") && !head.contains("sec-websocket-extensions"), "{form}");
            let mut answer = [0; 2];
            tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.expect("a reply").unwrap();
            assert_eq!(answer[0], 0x81, "{form}");
        } else if want != 404 {
            assert!(head.contains("sec-websocket-version: 13"), "{form}: {head}");
        }
    }
}
