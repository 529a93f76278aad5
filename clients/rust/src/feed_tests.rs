//! What the conversations of clients/conformance do not show: the stream, the cursor that is stored, real connections.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_protocol::{BugId, When};
use bugfeed_testbed::eventually;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::{Builder, Error, Event, Feed, Protocol, State, Store};

/// Long enough for a busy machine; nothing here waits this long unless it fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const WHEN: &str = "2014-04-03T21:13:45";

/// A gateway whose messages the test sends.
pub(crate) struct Gateway(TcpListener);

impl Gateway {
    pub(crate) async fn new() -> Gateway {
        Gateway(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn builder(&self) -> Builder {
        Feed::builder(&format!("http://{}/", self.0.local_addr().unwrap())).unwrap()
    }

    pub(crate) fn port(&self) -> String {
        self.0.local_addr().unwrap().port().to_string()
    }

    /// Answers the first byte, whatever it is.
    pub(crate) async fn say_at_once(&self, answer: &[u8]) {
        let mut stream = self.tcp().await;
        stream.read_exact(&mut [0]).await.unwrap();
        stream.write_all(answer).await.unwrap();
        // Read to the end: with unread bytes, the system would reset the connection.
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    async fn tcp(&self) -> TcpStream {
        timeout(SOON, self.0.accept()).await.expect("a connection in time").unwrap().0
    }

    pub(crate) async fn client(&self) -> Client {
        Client(tokio_tungstenite::accept_async(self.tcp().await).await.unwrap())
    }

    /// Answers an attempt with something else than a feed.
    pub(crate) async fn refuse(&self, answer: &str) {
        let mut stream = self.tcp().await;
        let mut head = [0; 4096];
        let mut read = 0;
        while !head[..read].ends_with(b"\r\n\r\n") {
            read += stream.read(&mut head[read..]).await.unwrap();
        }
        let answer = format!("HTTP/1.1 {answer}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// A connection as the gateway sees it.
pub(crate) struct Client(WebSocketStream<TcpStream>);

impl Client {
    pub(crate) async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    pub(crate) async fn update(&mut self, bug: u64, seq: u64) {
        let cursor = format!("E.{seq}");
        self.say(json!({ "command": "update", "bug": bug, "when": WHEN, "cursor": cursor })).await;
    }

    /// The next message of the client; the pongs that its library sends are skipped.
    async fn hear(&mut self) -> Message {
        loop {
            match timeout(SOON, self.0.next()).await.expect("a message in time").expect("a message").unwrap() {
                Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    async fn hear_json(&mut self) -> Value {
        serde_json::from_str(self.hear().await.to_text().unwrap()).unwrap()
    }

    /// Reads hello and subscribe, answers both, and returns the subscribe.
    pub(crate) async fn greet(&mut self, seq: u64) -> Value {
        assert_eq!(self.hear_json().await["command"], "hello");
        let subscribe = self.hear_json().await;
        let cursor = format!("E.{seq}");
        self.say(json!({ "command": "hello", "result": "ok", "heartbeat": 30, "cursor": cursor })).await;
        let replay = subscribe["cursor"].is_string().then_some("complete");
        self.say(json!({ "command": "subscribe", "result": "ok", "count": 1, "replay": replay, "cursor": cursor }))
            .await;
        subscribe
    }
}

#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Vec<String>>>);

impl Memory {
    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().unwrap().last().cloned()
    }

    /// Waits until this cursor is stored.
    pub(crate) async fn holds(&self, cursor: &str) {
        let holds = async || if self.last().as_deref() == Some(cursor) { Ok(()) } else { Err(self.last()) };
        eventually(SOON, format!("{cursor} to be stored"), holds).await.unwrap();
    }
}

impl Store for Memory {
    fn load(&mut self) -> io::Result<Option<String>> {
        Ok(self.last())
    }

    fn save(&mut self, cursor: &str) -> io::Result<()> {
        self.0.lock().unwrap().push(cursor.to_owned());
        Ok(())
    }
}

/// The next event that is about bugs.
pub(crate) async fn next(feed: &mut Feed) -> Event {
    loop {
        let event = timeout(SOON, feed.next()).await.expect("an event in time").expect("an event").unwrap();
        if !event.bugs().is_empty() {
            return event;
        }
    }
}

pub(crate) fn bugs(event: &Event) -> Vec<u64> {
    event.bugs().iter().map(|bug| bug.get()).collect()
}

/// The next state other than connecting.
pub(crate) async fn state(feed: &mut Feed) -> State {
    loop {
        match timeout(SOON, feed.next()).await.expect("an event in time").expect("an event") {
            Ok(Event::State(State::Connecting)) => {}
            Ok(Event::State(state)) => return state,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_cursor_is_stored_when_the_next_event_is_asked_for_not_before() {
    let (gateway, memory) = (Gateway::new().await, Memory::default());
    let mut feed = gateway.builder().bugs([1, 2]).store(memory.clone()).connect();
    let mut client = gateway.client().await;
    let greeted = client.greet(1).await;
    assert_eq!(greeted, json!({ "command": "subscribe", "bugs": [1, 2] }));
    client.update(1, 5).await;
    client.update(2, 6).await;
    assert_eq!(bugs(&next(&mut feed).await), [1]);
    // The subscription's cursor lies before the change.
    memory.holds("E.1").await;
    client.say(json!({ "command": "heartbeat", "cursor": "E.7" })).await;
    let handle = feed.handle();
    eventually(SOON, "the heartbeat", async || handle.cursor().as_deref() == Some("E.7")).await.unwrap();
    assert_eq!(memory.last().as_deref(), Some("E.1"), "bug 1 is being dealt with");
    assert_eq!(bugs(&next(&mut feed).await), [2]);
    memory.holds("E.5").await;
    let more = tokio::spawn(async move { next(&mut feed).await });
    memory.holds("E.7").await;
    client.update(1, 8).await;
    assert_eq!(bugs(&more.await.unwrap()), [1]);
    // The feed was dropped with this event in hand, so the next run gets it again.
    let mut feed = gateway.builder().bugs([1, 2]).store(memory.clone()).connect();
    let mut client = gateway.client().await;
    assert_eq!(client.greet(7).await["cursor"], "E.7");
    client.update(1, 8).await;
    assert_eq!(bugs(&next(&mut feed).await), [1]);
    feed.finish().await.unwrap();
    assert_eq!(memory.last().as_deref(), Some("E.8"), "finished: dealt with");
}

#[tokio::test]
async fn dropping_the_stream_ends_everything() {
    let (gateway, memory) = (Gateway::new().await, Memory::default());
    let mut feed = gateway.builder().bugs([1]).store(memory.clone()).connect();
    let mut client = gateway.client().await;
    client.greet(1).await;
    client.update(1, 2).await;
    next(&mut feed).await;
    let handle = feed.handle();
    drop(feed);
    let end = timeout(SOON, client.0.next()).await.expect("the connection ends");
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    assert_eq!(handle.state(), State::Closed);
    // The feed's task has ended and freed the store.
    eventually(SOON, "nothing keeps the store", async || Arc::strong_count(&memory.0) == 1).await.unwrap();
}

#[tokio::test]
async fn finishing_closes_in_order_and_closing_ends_the_stream() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1]).connect();
    let mut client = gateway.client().await;
    client.greet(1).await;
    client.update(1, 2).await;
    client.update(1, 3).await;
    next(&mut feed).await;
    let (finished, close) = tokio::join!(feed.finish(), client.hear());
    finished.unwrap();
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1000), "{close:?}");

    let mut feed = gateway.builder().bugs([1]).connect();
    let mut client = gateway.client().await;
    client.greet(1).await;
    client.update(1, 2).await;
    next(&mut feed).await;
    client.update(1, 3).await;
    feed.handle().close();
    assert!(matches!(feed.next().await, Some(Ok(Event::State(State::Closed)))));
    assert!(feed.next().await.is_none());
    assert!(feed.next().await.is_none(), "for good");
}

#[tokio::test]
async fn a_slow_reader_is_never_cut_and_gets_the_newest_of_each_bug() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1, 2]).connect();
    let mut client = gateway.client().await;
    client.greet(0).await;
    for seq in 1..=30_000_u32 {
        let when = When::from_micros(i64::from(seq) * 1_000_000).unwrap();
        let update = json!({ "command": "update", "bug": 1 + seq % 2, "when": when, "cursor": format!("E.{seq}") });
        client.0.feed(Message::text(update.to_string())).await.unwrap();
    }
    client.0.flush().await.unwrap();
    let handle = feed.handle();
    let all_read = async || handle.cursor().as_deref() == Some("E.30000");
    eventually(SOON, "it reads whether or not the application does", all_read).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&When::from_micros(30_000_000_000).unwrap()) {
        let Event::Change(change) = next(&mut feed).await else { panic!("no gap") };
        seen.push(change.when);
    }
    assert!(seen.len() <= 10_010, "{} of 30000", seen.len());
    assert!(seen.is_sorted(), "only newer ones");
    assert!(seen.contains(&When::from_micros(29_999_000_000).unwrap()), "the newest of the other bug");
}

#[tokio::test]
async fn it_comes_back_and_resumes() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1]).connect();
    let mut client = gateway.client().await;
    client.greet(1).await;
    assert_eq!(state(&mut feed).await, State::Open);
    assert_eq!(feed.handle().protocol(), Some(Protocol::Modern));
    client.say(json!({ "command": "goaway", "retry_after_ms": 20, "cursor": "E.4" })).await;
    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 1012.into(), reason: "restarts".into() };
    client.0.send(Message::Close(Some(frame))).await.unwrap();
    let (delay, reason) = (Duration::from_millis(20), "closed (1012): restarts".to_owned());
    assert_eq!(state(&mut feed).await, State::Waiting { delay, reason });
    // Two changes while there is no connection become one command.
    feed.handle().subscribe([2]).unwrap();
    feed.handle().unsubscribe([1]).unwrap();
    let mut client = gateway.client().await;
    assert_eq!(client.greet(4).await, json!({ "command": "subscribe", "bugs": [2], "cursor": "E.4" }));
    feed.handle().subscribe([3]).unwrap();
    feed.handle().subscribe([4]).unwrap();
    assert_eq!(client.hear_json().await, json!({ "command": "subscribe", "bugs": [3, 4] }));
    drop(client);
    assert_eq!(state(&mut feed).await, State::Open);
    assert!(matches!(state(&mut feed).await, State::Waiting { .. }));
}

#[tokio::test]
async fn an_answer_that_means_later_is_tried_again_and_retry_after_is_honoured() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1]).connect();
    let full = "503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 5\r\n\r\nfull\n";
    gateway.refuse(full).await;
    let State::Waiting { delay, reason } = state(&mut feed).await else { panic!("it waits") };
    // The delay is the first back-off (half a second to a second) plus what was asked for.
    assert!((2.5..=3.0).contains(&delay.as_secs_f64()), "{delay:?}");
    assert!(reason.ends_with("answers 503 full"), "{reason}");
    for answer in ["429 Slow Down\r\nRetry-After: 86400", "408 Timeout", "425 Early", "500 Oops\r\nRetry-After: 9"] {
        let mut feed = gateway.builder().bugs([1]).connect();
        gateway.refuse(&format!("{answer}\r\nContent-Length: 0\r\n\r\n")).await;
        let State::Waiting { delay, .. } = state(&mut feed).await else { panic!("it waits") };
        let least = if answer.starts_with("429") { 300.5 } else { 0.5 };
        assert!((least..=least + 0.5).contains(&delay.as_secs_f64()), "{answer}: {delay:?}");
    }
}

#[tokio::test]
async fn what_trying_again_would_not_mend_ends_the_feed() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1]).connect();
    let answer = "404 Not Found\r\nBugfeed-Version: 0.1.0\r\nContent-Length: 27\r\n\r\n{\"error\":\"Feeds: default.\"}";
    gateway.refuse(answer).await;
    let error = loop {
        match feed.next().await.expect("an item") {
            Ok(event) => assert!(matches!(event, Event::State(_)), "{event:?}"),
            Err(error) => break error,
        }
    };
    assert!(error.is_final());
    assert!(matches!(&error, Error::NotAFeed { status: 404, text, .. } if text == "Feeds: default."), "{error}");
    assert!(matches!(feed.next().await, Some(Ok(Event::State(State::Closed)))));
    assert!(feed.next().await.is_none());
    assert!(matches!(feed.start_from_head().await, Err(Error::Ended)));

    let mut feed = gateway.builder().bugs([1, 0]).connect();
    assert!(matches!(feed.next().await, Some(Err(Error::Bug(0)))));
    assert!(matches!(feed.handle().subscribe([u64::MAX]), Err(Error::Bug(u64::MAX))));
}

/// A store that fails as long as it is told to.
#[derive(Clone, Default)]
struct Full {
    memory: Memory,
    is_full: Arc<Mutex<bool>>,
}

impl Store for Full {
    fn load(&mut self) -> io::Result<Option<String>> {
        if *self.is_full.lock().unwrap() { Err(io::Error::other("unreadable")) } else { Ok(None) }
    }

    fn save(&mut self, cursor: &str) -> io::Result<()> {
        if *self.is_full.lock().unwrap() { Err(io::Error::other("disk full")) } else { self.memory.save(cursor) }
    }
}

#[tokio::test]
async fn a_cursor_that_cannot_be_stored_is_told_and_tried_again() {
    let (gateway, store) = (Gateway::new().await, Full::default());
    let mut feed = gateway.builder().bugs([1]).store(store.clone()).connect();
    let mut client = gateway.client().await;
    *store.is_full.lock().unwrap() = true;
    client.greet(1).await;
    let error = loop {
        if let Err(error) = timeout(SOON, feed.next()).await.expect("an event in time").expect("an event") {
            break error;
        }
    };
    assert!(!error.is_final() && error.to_string().contains("disk full"), "{error}");
    client.update(1, 2).await;
    assert_eq!(bugs(&next(&mut feed).await), [1], "it goes on");
    *store.is_full.lock().unwrap() = false;
    feed.finish().await.unwrap();
    assert_eq!(store.memory.last().as_deref(), Some("E.2"));

    // The same failing store, but with no newer cursor at the end.
    let mut feed = gateway.builder().bugs([1]).store(store.clone()).connect();
    let mut client = gateway.client().await;
    *store.is_full.lock().unwrap() = true;
    client.greet(7).await;
    while !matches!(timeout(SOON, feed.next()).await.expect("an event in time"), Some(Err(Error::Save(_)))) {}
    *store.is_full.lock().unwrap() = false;
    feed.finish().await.unwrap();
    assert_eq!(store.memory.last().as_deref(), Some("E.7"));

    *store.is_full.lock().unwrap() = true;
    let mut feed = gateway.builder().bugs([1]).store(store.clone()).connect();
    assert!(matches!(feed.next().await, Some(Err(Error::Load(error))) if error.to_string() == "unreadable"));
}

#[tokio::test]
async fn a_fresh_start_from_the_head() {
    let (gateway, memory) = (Gateway::new().await, Memory::default());
    let mut feed = gateway.builder().store(memory.clone()).connect();
    let starting = async {
        feed.start_from_head().await.unwrap();
        feed.handle().subscribe([7]).unwrap();
    };
    let answering = async {
        let mut client = gateway.client().await;
        client.hear_json().await;
        client.say(json!({ "command": "hello", "result": "ok", "cursor": "E.9" })).await;
        assert_eq!(client.hear_json().await, json!({ "command": "subscribe", "bugs": [7], "cursor": "E.9" }));
    };
    tokio::join!(starting, answering);
    assert_eq!(feed.handle().bugs(), [BugId::new(7).unwrap()]);
    // With a stored cursor, this does not wait for the gateway.
    memory.0.lock().unwrap().push("E.3".to_owned());
    let mut feed = gateway.builder().store(memory).connect();
    timeout(SOON, feed.start_from_head()).await.expect("at once").unwrap();
    assert_eq!(feed.handle().cursor().as_deref(), Some("E.3"));
}

/// A gateway takes no further command before it has written what the last one asked for. Neither side may wait for the
/// other to read.
#[tokio::test]
async fn it_reads_while_it_cannot_write() {
    // Small buffers, so that neither message fits.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16_384).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gateway = Gateway(socket.listen(8).unwrap());
    let first = u64::try_from(i64::MAX).unwrap() - 250_000;
    let mut feed = gateway.builder().bugs(first..first + 250_000).connect();
    let mut client = gateway.client().await;
    let filler = "x".repeat(1 << 20);
    for seq in 0..10 {
        let update =
            json!({ "command": "update", "bug": first, "when": WHEN, "cursor": format!("E.{seq}"), "x": filler });
        timeout(SOON, client.say(update)).await.expect("it reads");
    }
    assert_eq!(client.hear_json().await["command"], "hello");
    assert_eq!(client.hear_json().await["bugs"].as_array().unwrap().len(), 250_000);
    assert_eq!(bugs(&next(&mut feed).await), [first]);
}

#[tokio::test]
async fn the_classic_protocol_only() {
    let gateway = Gateway::new().await;
    let since = When::parse_utc("2014-04-03T21:13:40").unwrap();
    let mut feed = gateway.builder().bugs([1]).since(since).classic(true).connect();
    let mut client = gateway.client().await;
    let want = json!({ "command": "subscribe", "bugs": [1], "since": "2014-04-03T21:13:40" });
    assert_eq!(client.hear_json().await, want, "no hello");
    client.say(json!({ "command": "subscribe", "result": "ok", "bugs": [1] })).await;
    client.say(json!({ "command": "update", "bug": 1, "when": WHEN })).await;
    assert_eq!(bugs(&next(&mut feed).await), [1]);
    assert_eq!(feed.handle().protocol(), Some(Protocol::Classic));
    assert_eq!(feed.handle().cursor().unwrap(), format!("since:{WHEN}"));
    client.say(json!({ "command": "update", "bug": 1, "when": "yesterday" })).await;
    assert_eq!(next(&mut feed).await, Event::Gap(vec![BugId::new(1).unwrap()]), "it changed; when, nobody knows");
    // A cursor of a modern gateway says nothing to a classic one.
    let memory = Memory::default();
    memory.0.lock().unwrap().push("E.5".to_owned());
    let mut feed = gateway.builder().bugs([1]).store(memory).classic(true).connect();
    let mut client = gateway.client().await;
    assert_eq!(client.hear_json().await, json!({ "command": "subscribe", "bugs": [1] }));
    client.say(json!({ "command": "subscribe", "result": "ok", "bugs": [1] })).await;
    assert_eq!(next(&mut feed).await, Event::Gap(vec![BugId::new(1).unwrap()]));
}

#[tokio::test]
async fn wss_is_tls() {
    let gateway = Gateway::new().await;
    let url = format!("https://{}/", gateway.0.local_addr().unwrap());
    let mut feed = Feed::builder(&url).unwrap().bugs([1]).connect();
    let mut stream = gateway.tcp().await;
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, [0x16], "a TLS handshake begins");
    drop(stream);
    assert!(matches!(state(&mut feed).await, State::Waiting { .. }));
}
