//! SSE and long-poll over real sockets, from the change table on.

use std::collections::BTreeMap;
use std::time::Duration;

use bugfeed_testbed::eventually;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Client, SOON, Serve, get, request};

const T: &str = "2014-04-03T21:13:45";

/// One event, as EventSource would have it.
#[derive(Debug, Default, PartialEq)]
struct Event {
    id: Option<String>,
    retry: Option<u64>,
    comment: bool,
    data: Option<Value>,
}

/// Reads what `GET /sse` answers, over HTTP/1.0, which knows no chunks.
struct EventSource(BufReader<TcpStream>);

impl EventSource {
    async fn open(serve: &Serve, query: &str, last_event_id: Option<&str>) -> EventSource {
        EventSource::on(TcpStream::connect(serve.clients).await.unwrap(), query, last_event_id).await
    }

    async fn on(mut stream: TcpStream, query: &str, last_event_id: Option<&str>) -> EventSource {
        let id = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        stream.write_all(format!("GET /sse?{query} HTTP/1.0\r\nHost: x\r\n{id}\r\n").as_bytes()).await.unwrap();
        let mut source = EventSource(BufReader::new(stream));
        let head = source.block().await.expect("an answer").join("\n");
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        source
    }

    /// The lines up to an empty one; none at the end.
    async fn block(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(SOON, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
            match line.trim_end() {
                _ if read == 0 => return None,
                "" => return Some(lines),
                line => lines.push(line.to_owned()),
            }
        }
    }

    /// None at the end.
    async fn event(&mut self) -> Option<Event> {
        let mut event = Event::default();
        for line in self.block().await? {
            match line.split_once(": ").expect("a field") {
                ("id", id) => event.id = Some(id.to_owned()),
                ("retry", ms) => event.retry = Some(ms.parse().unwrap()),
                ("", _) => event.comment = true,
                ("data", data) => event.data = Some(serde_json::from_str(data).unwrap()),
                (field, _) => panic!("{field}"),
            }
        }
        Some(event)
    }

    /// The next message and its id, passing over hints.
    async fn message(&mut self) -> (Value, Option<String>) {
        loop {
            let event = self.event().await.expect("an event");
            if let Some(data) = event.data {
                return (data, event.id);
            }
        }
    }
}

async fn changes(serve: &Serve, query: &str) -> Value {
    let (status, body) = get(serve.clients, &format!("/changes?{query}")).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn cursor(answer: &Value) -> &str {
    answer["cursor"].as_str().expect("a cursor, always")
}

/// The cursor after a change of bug 1, the feed's first.
async fn begin(serve: &Serve) -> String {
    let start = changes(serve, "bugs=1").await;
    assert!(cursor(&start).ends_with(".0"), "the beginning of a new ledger: {start}");
    serve.touch(1, T).await;
    let first = changes(serve, &format!("bugs=1&cursor={}&wait=60", cursor(&start))).await;
    assert_eq!((&first["changes"], &first["replay"]), (&json!([{"bug": 1, "when": T}]), &json!("complete")));
    cursor(&first).to_owned()
}

async fn metric(serve: &Serve, line: &str) -> Result<(), String> {
    let page = get(serve.admin, "/metrics").await.1;
    if page.lines().any(|found| found == line) { Ok(()) } else { Err(page) }
}

#[tokio::test]
async fn events_are_the_messages_of_the_modern_protocol_and_resume_from_their_ids() {
    let serve = Serve::start(&[]).await;
    let mut source = EventSource::open(&serve, "bugs=1234,5678", None).await;
    // The hint is a line of the first event: alone, it would be an empty event for some libraries.
    let first = source.event().await.unwrap();
    assert!((1000..=3000).contains(&first.retry.expect("a hint")), "{first:?}");
    let (reply, id) = (first.data.expect("data"), first.id);
    assert_eq!(reply, json!({"command": "subscribe", "result": "ok", "count": 2, "cursor": id}));
    for bug in [1234, 9999, 5678] {
        serve.touch(bug, T).await;
    }
    let (update, id) = source.message().await;
    let seen = id.expect("an id");
    assert_eq!(update, json!({"command": "update", "bug": 1234, "when": T, "cursor": seen}));
    drop(source);

    // EventSource reconnects with the same URL. The id that it saw last counts, not the cursor in the URL.
    let mut source = EventSource::open(&serve, "bugs=1234,5678&cursor=unknown", Some(&seen)).await;
    let (reply, id) = source.message().await;
    assert_eq!((&reply["replay"], &reply["cursor"]), (&json!("complete"), &json!(seen)));
    assert_eq!(id, Some(seen));
    assert_eq!(source.message().await.0["bug"], 5678);
    let (reply, _) = EventSource::open(&serve, "bugs=1234", Some("unknown")).await.message().await;
    assert_eq!(reply["replay"], "gap");
    let (reply, _) = EventSource::open(&serve, "bugs=1234&cursor=E.1", None).await.message().await;
    assert_eq!(reply["replay"], "gap");
    let mut source = EventSource::open(&serve, "bugs=5678&since=2014-04-03", None).await;
    assert_eq!(source.message().await.0["command"], "subscribe");
    assert_eq!(source.message().await.0["bug"], 5678);
}

#[tokio::test]
async fn who_asks_for_heartbeats_is_greeted_and_sent_them_as_events() {
    let serve = Serve::start(&["--ping-interval-ms", "40", "--idle-timeout-ms", "200"]).await;
    begin(&serve).await;
    let mut source = EventSource::open(&serve, "bugs=1&heartbeat=1", None).await;
    let (hello, id) = source.message().await;
    assert_eq!((&hello["command"], &hello["heartbeat"], id), (&json!("hello"), &json!(1), None));
    assert_eq!(source.message().await.0["command"], "subscribe");
    // The client sends nothing, and is kept nevertheless.
    let (heartbeat, id) = source.message().await;
    assert_eq!((&heartbeat["command"], heartbeat["cursor"].as_str()), (&json!("heartbeat"), id.as_deref()));
}

#[tokio::test]
async fn the_gateway_says_when_to_come_back_and_ends_in_time() {
    let serve = Serve::start(&["--drain-window-ms", "200", "--shards", "1"]).await;
    let mut source = EventSource::open(&serve, "bugs=1", None).await;
    source.message().await;
    let address = serve.clients;
    let polling = tokio::spawn(async move { get(address, "/changes?bugs=1&wait=60").await });
    eventually(SOON, "both are there", async || metric(&serve, "bugfeed_connections 2").await).await.unwrap();
    serve.stop().await;
    let mut last = Vec::new();
    while let Some(event) = source.event().await {
        last.push(event);
    }
    let [Event { data: Some(goaway), retry, .. }] = &last[..] else { panic!("{last:?}") };
    assert_eq!(goaway["command"], "goaway");
    assert_eq!(*retry, goaway["retry_after_ms"].as_u64());
    let (status, body) = polling.await.unwrap();
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["changes"]), (200, &json!([])));
    assert!(answer["retry_after_ms"].is_u64(), "{answer}");
}

/// A client of bugs 1 and 2 that has been sent more than it reads, and the time of the last change.
async fn unread(serve: &Serve) -> (EventSource, i64) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(serve.clients).await.unwrap();
    let mut source = EventSource::on(stream, "bugs=1,2", None).await;
    source.message().await;
    let mut sent = 0;
    // The kernel decides how much it takes.
    while metric(serve, "bugfeed_sessions_lagged_total 0").await.is_ok() {
        assert!(sent < 500_000, "the slow client never lags");
        serve.touch_many((0..5000).map(|i| (1 + u64::from(i % 2 == 1), sent + i))).await;
        sent += 5000;
        let taken = format!("bugfeed_changes_total{{feed=\"default\"}} {sent}");
        eventually(SOON, "they were taken in", async || metric(serve, &taken).await).await.unwrap();
    }
    (source, sent)
}

/// A client that reads nothing costs other clients nothing. Its updates are skipped; when it reads again, it gets the newest
/// change of each of its bugs.
#[tokio::test]
async fn a_slow_reader_gets_the_newest_of_each_bug() {
    let serve = Serve::start(&["--send-buffer-bytes", "4096"]).await;
    let mut other = serve.client().await;
    other.subscribe(&[3]).await;
    let (mut slow, sent) = unread(&serve).await;
    serve.touch_many([(3, sent)]).await;
    assert_eq!(other.update().await.0, 3, "not held up");
    serve.touch_many([(1, sent + 1), (2, sent + 2)]).await;
    let (mut newest, mut count) = (BTreeMap::new(), 0);
    let last = bugfeed_protocol::When::from_micros((sent + 2) * 1_000_000).unwrap().to_string();
    while newest.get(&2) != Some(&last) {
        let (update, _) = slow.message().await;
        let when = update["when"].as_str().unwrap().to_owned();
        let before = newest.insert(update["bug"].as_u64().unwrap(), when.clone());
        assert!(before.is_none_or(|before| before < when), "only newer ones");
        count += 1;
    }
    assert!(count < sent, "it got fewer: {count} of {sent}");
}

#[tokio::test]
async fn clients_that_are_gone_leave_nothing_behind() {
    let serve = Serve::start(&[]).await;
    let mut gone = EventSource::open(&serve, "bugs=1", None).await;
    gone.message().await;
    let mut polling = TcpStream::connect(serve.clients).await.unwrap();
    polling.write_all(b"GET /changes?bugs=1&wait=60 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    eventually(SOON, "both are there", async || metric(&serve, "bugfeed_connections 2").await).await.unwrap();
    drop((gone, polling));
    eventually(SOON, "both are gone", async || metric(&serve, "bugfeed_connections 0").await).await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_at_all_is_cut() {
    let options = ["--write-timeout-ms", "300", "--send-buffer-bytes", "4096", "--max-connections", "1"];
    let serve = Serve::start(&options).await;
    let _stalled = unread(&serve).await;
    eventually(SOON, "its place is free", async || match get(serve.clients, "/changes?bugs=3").await {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    // Either the shard or the kernel (TCP_USER_TIMEOUT) ends the connection, whichever is first. Only the shard counts it,
    // so the counter is not checked.
}

/// A gateway that stops waits for clients that still read, but not for a client that reads nothing.
#[tokio::test]
async fn a_client_that_takes_nothing_does_not_keep_a_gateway_from_stopping() {
    let options = ["--shutdown-timeout-ms", "3600000", "--drain-window-ms", "100", "--send-buffer-bytes", "4096"];
    let serve = Serve::start(&options).await;
    let _stalled = unread(&serve).await;
    serve.stop().await;
}

#[tokio::test]
async fn a_poll_answers_at_once_or_when_something_changes() {
    let serve = Serve::start(&[]).await;
    let start = begin(&serve).await;
    // The client has no place to resume from, so nobody can tell what it has missed.
    let gap = changes(&serve, "bugs=1&cursor=unknown&wait=60").await;
    assert_eq!((&gap["changes"], &gap["replay"]), (&json!([]), &json!("gap")));
    let waiting = async { changes(&serve, &format!("bugs=1,2&cursor={start}&wait=60")).await };
    let touching = async {
        eventually(SOON, "it waits", async || metric(&serve, "bugfeed_connections 1").await).await.unwrap();
        serve.touch(9, T).await;
        serve.touch(2, T).await;
    };
    let (answer, ()) = tokio::join!(waiting, touching);
    assert_eq!(answer["changes"], json!([{"bug": 2, "when": T}]));
    assert_eq!(answer["replay"], "complete");
    let again = changes(&serve, &format!("bugs=1,2&cursor={}", cursor(&answer))).await;
    assert_eq!((&again["changes"], cursor(&again)), (&json!([]), cursor(&answer)), "nothing twice");
    // Changes of other bugs advance the cursor of a client that waits in vain.
    let waiting = async { changes(&serve, &format!("bugs=1&cursor={}&wait=2", cursor(&again))).await };
    let touching = async {
        eventually(SOON, "it waits", async || metric(&serve, "bugfeed_connections 1").await).await.unwrap();
        serve.touch(9, T).await;
    };
    let (in_vain, ()) = tokio::join!(waiting, touching);
    assert_eq!(in_vain["changes"], json!([]));
    assert_ne!(cursor(&in_vain), cursor(&again));
    let by_date = changes(&serve, "bugs=1,2&since=2014-04-03").await;
    assert_eq!(by_date["changes"].as_array().unwrap().len(), 2);
}

/// There are more changes than one answer holds. Each answer's cursor is where the next request goes on.
#[tokio::test]
async fn a_long_catch_up_comes_in_several_answers_with_nothing_lost_or_twice() {
    let serve = Serve::start(&[]).await;
    let mut at = begin(&serve).await;
    serve.touch_many((1..=2500).map(|bug| (bug, 1_400_000_000))).await;
    let bugs: Vec<String> = (1..=2500).map(|bug: u64| bug.to_string()).collect();
    let (mut seen, mut fullest) = (Vec::new(), 0);
    while seen.len() < 2500 {
        // Too long for a URL.
        let form = format!("bugs={}&cursor={at}&wait=30", bugs.join("%2C"));
        let head =
            "POST /changes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded";
        let (status, body) =
            request(serve.clients, &format!("{head}\r\nContent-Length: {}\r\n\r\n{form}", form.len())).await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["replay"], "complete");
        let found = answer["changes"].as_array().unwrap();
        assert_eq!(answer["more"] == true, found.len() >= 1000, "{}", found.len());
        fullest = fullest.max(found.len());
        seen.extend(found.iter().map(|change| change["bug"].as_u64().unwrap()));
        cursor(&answer).clone_into(&mut at);
    }
    assert_eq!(seen, (1..=2500).collect::<Vec<u64>>());
    assert!(fullest <= 1000, "{fullest}");
}

/// Polls of all lengths against a stream of changes.
#[tokio::test]
async fn polling_loses_nothing_and_repeats_nothing() {
    let serve = Serve::start(&[]).await;
    let mut at = begin(&serve).await;
    let when = |number: u64| format!("2014-04-03T{:02}:{:02}:{:02}", number / 3600, number / 60 % 60, number % 60);
    let writing = async {
        for number in 1..=300 {
            serve.touch(1 + number % 3, &when(number)).await;
        }
    };
    let reading = async {
        let mut seen = Vec::new();
        for turn in 0.. {
            let answer = changes(&serve, &format!("bugs=1,2&cursor={at}&wait={}", [0, 1, 60][turn % 3])).await;
            cursor(&answer).clone_into(&mut at);
            assert_eq!(answer["replay"], "complete");
            seen.extend(answer["changes"].as_array().unwrap().iter().map(|change| change["when"].clone()));
            if seen.len() >= 200 {
                return seen;
            }
        }
        unreachable!()
    };
    let ((), seen) = tokio::join!(writing, reading);
    let want: Vec<Value> = (1..=300).filter(|number| number % 3 != 2).map(|number| when(number).into()).collect();
    assert_eq!(seen, want);
}

/// The ledger was set back: the changes that the client has seen will never reach this gateway.
#[tokio::test]
async fn a_poll_from_beyond_the_head_is_told_of_the_gap_even_if_it_does_not_wait() {
    let serve = Serve::start(&[]).await;
    let head = begin(&serve).await;
    let beyond = head.replace(".1", ".7");
    let answer = changes(&serve, &format!("bugs=1&cursor={beyond}")).await;
    assert_eq!(answer, json!({"changes": [], "replay": "gap", "cursor": head}));
}

#[tokio::test]
async fn requests_that_ask_for_nothing_sensible_are_told_what_would_be() {
    let serve = Serve::start(&["--max-subscriptions", "3", "--max-message-bytes", "1024"]).await;
    for (path, status, want) in [
        ("/sse", 400, "?bugs=1234,5678"),
        ("/changes?bugs=x", 400, "must be integer: 'x'"),
        ("/changes?bugs=1,2,3,4", 400, "at most 3"),
        ("/changes?bugs=1&wait=3600", 400, "0 to 60"),
        ("/sse?bugs=1&since=soon", 400, "2014-04-03T21:13:45"),
        ("/kde/sse?bugs=1", 404, "feeds: /"),
        ("/kde/changes?bugs=1", 404, "feeds: /"),
        ("/default/changes?bugs=1", 200, "cursor"),
    ] {
        let (got, body) = get(serve.clients, path).await;
        assert_eq!(got, status, "{path}: {body}");
        assert!(body.contains(want), "{path}: {body}");
    }
    let post = |length: usize, body: String| {
        format!("POST /changes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    assert_eq!(request(serve.clients, &post(2000, "x".repeat(2000))).await.0, 413);
    assert_eq!(request(serve.clients, &post(6, "bugs=1".to_owned())).await.0, 200);
    let (status, _) = request(serve.clients, "PUT /sse?bugs=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 405);
    let head = "HEAD /sse?bugs=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(request(serve.clients, head).await, (200, String::new()));
}

#[tokio::test]
async fn pages_of_other_sites_are_let_in_or_not_as_configured() {
    let ask = async |serve: &Serve, method: &str, path: &str, origin: &str| {
        let mut stream = TcpStream::connect(serve.clients).await.unwrap();
        let preflight = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-anything";
        let text = format!("{method} {path} HTTP/1.0\r\nHost: feed.example\r\nOrigin: {origin}\r\n{preflight}\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let (site, other) = ("https://bugs.example.org", "https://other.example.org");
    let open = Serve::start(&[]).await;
    let closed = Serve::start(&["--allow-origin", site]).await;
    for (method, path) in
        [("GET", "/changes?bugs=1"), ("GET", "/sse?bugs=1"), ("OPTIONS", "/changes"), ("GET", "/client.js")]
    {
        let answer = ask(&open, method, path, other).await;
        assert!(answer.contains("access-control-allow-origin: *"), "{answer}");
        let answer = ask(&closed, method, path, site).await;
        assert!(answer.contains(&format!("access-control-allow-origin: {site}")), "{answer}");
        let answer = ask(&closed, method, path, other).await;
        assert!(!answer.contains("access-control-allow-origin"), "{answer}");
    }
    let handshake = async |serve: &Serve, origin: &str| {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        let mut request = serve.url().into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        tokio::time::timeout(SOON, tokio_tungstenite::connect_async(request)).await.unwrap().is_ok()
    };
    assert!(handshake(&open, other).await);
    assert!(handshake(&closed, site).await);
    assert!(handshake(&closed, &format!("http://{}", closed.clients)).await, "its own page");
    assert!(!handshake(&closed, other).await);
    Client::connect(&closed.url()).await.subscribe(&[1]).await;
    metric(&closed, "bugfeed_connections_refused_total{kind=\"origin\"} 1").await.unwrap();
}

/// Most HTTP libraries write all of a request before they read the answer.
#[tokio::test]
async fn who_is_refused_before_all_was_read_gets_to_see_the_answer() {
    let serve = Serve::start(&[]).await;
    for (path, want) in [("/changes", 413), ("/kde/changes", 404)] {
        let form = "x".repeat(20_000_000);
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", form.len());
        assert_eq!(request(serve.clients, &(head + &form)).await.0, want);
    }
}

/// A form that never ends, and one that ends in the middle.
#[tokio::test]
async fn half_a_form_holds_nothing() {
    let serve = Serve::start(&[]).await;
    let mut stream = TcpStream::connect(serve.clients).await.unwrap();
    stream.write_all(b"POST /changes HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbugs=1").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    // The HTTP library decides whether the client gets an answer or is only closed.
    let _ = tokio::time::timeout(Duration::from_secs(15), stream.read_to_string(&mut answer)).await.expect("an end");
    assert!(!answer.contains("200 OK"), "{answer}");
    metric(&serve, "bugfeed_connections 0").await.unwrap();
}
