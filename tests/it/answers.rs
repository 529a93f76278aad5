//! The headers that every answer of a gateway has, so that clients can tell it from an answer of a proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{SOON, Serve};

const T: &str = "2014-04-03T21:13:45";

/// An answer: status, headers, and as much of the body as came with them.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Sends a request line with these headers; reads the head of the answer, and its body where it has a length.
async fn ask(address: SocketAddr, line: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").as_bytes()).await.unwrap();
    let reading = async {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(stream.read_u8().await.expect("a whole head"));
        }
        let head = String::from_utf8(bytes).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pairs = lines.map(|line| line.split_once(": ").expect("a header"));
        let headers: BTreeMap<_, _> = pairs.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; if line.starts_with("HEAD") { 0 } else { len }];
        stream.read_exact(&mut body).await.unwrap();
        Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
    };
    tokio::time::timeout(SOON, reading).await.expect("an answer in time")
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn every_answer_carries_the_version_and_every_refusal_says_why_in_json() {
    let serve = Serve::start(&["--allow-origin", "https://a.example", "--max-subscriptions", "2"]).await;
    let here = serve.clients;
    let foreign = format!("{UPGRADE}Origin: https://b.example\r\n");
    let no_version = UPGRADE.replace("13", "14");
    for (line, headers, want) in [
        ("GET /", "", 200),
        ("GET /", UPGRADE, 101),
        ("GET /default/", UPGRADE, 101),
        ("GET /page.json", "", 200),
        ("GET /page/main.js", "", 200),
        ("GET /client.js", "", 200),
        ("GET /sse?bugs=1", "", 200),
        ("HEAD /sse?bugs=1", "", 200),
        ("GET /changes?bugs=1", "", 200),
        ("HEAD /changes?bugs=1", "", 200),
        ("OPTIONS /changes", "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n", 200),
        ("GET /default", "", 307),
        ("GET /", &foreign, 403),
        ("GET /", &no_version, 426),
        ("GET /kde/", UPGRADE, 404),
        ("GET /kde/", "", 404),
        ("GET /kde", "", 404),
        ("GET /a/b/c", "", 404),
        ("GET /kde/sse?bugs=1", "", 404),
        ("GET /kde/changes?bugs=1", "", 404),
        ("GET /page/none.js", "", 404),
        ("GET /changes", "", 400),
        ("GET /changes?bugs=1,2,3", "", 400),
        ("GET /sse?bugs=x", "", 400),
        ("PUT /sse", "", 405),
        ("DELETE /", "", 405),
        ("GET /demo/touch", "", 405),
        ("POST /demo/touch", "Content-Length: 0\r\n", 403),
    ] {
        let answer = ask(here, line, headers).await;
        assert_eq!(answer.status, want, "{line} {headers}: {}", answer.body);
        assert_eq!(answer.header("bugfeed-version"), env!("CARGO_PKG_VERSION"), "{line} {headers}");
        if want >= 400 {
            assert_eq!(answer.header("content-type"), "application/json", "{line}");
            assert!(answer.body.ends_with('\n'), "{line}: people read answers in a terminal");
            let body: Value = serde_json::from_str(&answer.body).expect("JSON");
            assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{line}: {body}");
        }
    }
    for path in ["/livez", "/readyz", "/status", "/metrics", "/none"] {
        assert_eq!(
            ask(serve.admin, &format!("GET {path}"), "").await.header("bugfeed-version"),
            env!("CARGO_PKG_VERSION")
        );
    }
}

#[tokio::test]
async fn pages_of_other_sites_get_to_see_whose_word_it_is() {
    let open = Serve::start(&["--max-connections", "2"]).await;
    let named = Serve::start(&["--allow-origin", "https://a.example"]).await;
    let site = "Origin: https://a.example\r\n";
    for path in
        ["/changes?bugs=1", "/changes", "/kde/changes?bugs=1", "/kde/sse?bugs=1", "/a/b/changes?bugs=1", "/client.js"]
    {
        for (serve, origin) in [(&open, "*"), (&named, "https://a.example")] {
            let answer = ask(serve.clients, &format!("GET {path}"), site).await;
            assert_eq!(answer.header("access-control-allow-origin"), origin, "{path}");
            let exposed = answer.header("access-control-expose-headers");
            assert!(exposed.contains("bugfeed-version") && exposed.contains("retry-after"), "{path}: {exposed}");
            // `withCredentials`, which browsers allow to a site that is named only.
            let credentials = if origin == "*" { "" } else { "true" };
            assert_eq!(answer.header("access-control-allow-credentials"), credentials, "{path}");
        }
    }
    let asked = format!("{site}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-anything\r\n");
    for serve in [&open, &named] {
        let answer = ask(serve.clients, "OPTIONS /changes", &asked).await;
        assert_eq!(
            answer.header("access-control-allow-headers"),
            "x-anything",
            "with credentials, '*' would mean a star"
        );
    }
    let places = [TcpStream::connect(open.clients).await.unwrap(), TcpStream::connect(open.clients).await.unwrap()];
    let full = loop {
        // The connections before this one may not have been accepted yet.
        let answer = ask(open.clients, "GET /changes?bugs=1", site).await;
        if answer.status == 503 {
            break answer;
        }
    };
    drop(places);
    assert_eq!(full.header("bugfeed-version"), env!("CARGO_PKG_VERSION"));
    assert_eq!((full.header("retry-after"), full.header("access-control-allow-origin")), ("5", "*"));
    assert!(full.header("access-control-expose-headers").contains("bugfeed-version"));
    let body: Value = serde_json::from_str(&full.body).unwrap();
    assert_eq!(body, json!({ "error": "this gateway is full; try again later" }));
}

/// A page that cannot read the answer's status (EventSource) has its gateway asked again by its library.
#[tokio::test]
async fn polyfills_of_event_source_resume_by_the_query() {
    let serve = Serve::start(&[]).await;
    let changes = async |query: &str| -> Value {
        let answer = ask(serve.clients, &format!("GET /changes?bugs=1&wait=20&{query}"), "").await;
        serde_json::from_str(&answer.body).unwrap()
    };
    // The first answer shows that the table exists.
    changes("wait=0").await;
    serve.touch(1, T).await;
    let start = changes("since=2014-01-01").await;
    assert_eq!(start["changes"].as_array().unwrap().len(), 1);
    let cursor = start["cursor"].as_str().unwrap();
    serve.touch(1, "2014-04-03T21:13:46").await;
    for name in ["lastEventId", "evs_last_event_id", "cursor"] {
        let answer = changes(&format!("{name}={cursor}")).await;
        assert_eq!((&answer["replay"], answer["changes"].as_array().unwrap().len()), (&json!("complete"), 1), "{name}");
    }
    for query in ["cursor=", "lastEventId=x", "cursor[]=", "cursor=x&since=2014-01-01"] {
        assert_eq!(changes(query).await["replay"], "gap", "{query}");
    }
}
