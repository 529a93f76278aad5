//! The limits on one connection, over real sockets: time for a message, number of fragments, memory, and turns of its
//! thread.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_testbed::eventually;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::feed::{Feed, FeedOptions, feed};
use bugfeed_core::budget::{Budget, Budgets};
use bugfeed_core::input::SessionLimits;

/// The limit of every wait. A wait that takes this long has failed.
const SOON: Duration = Duration::from_secs(20);

struct Bed {
    feed: Arc<Feed>,
    events: Arc<Events>,
    listener: TcpListener,
    tracker: TaskTracker,
}

impl Bed {
    async fn new(session: SessionLimits, budgets: Budgets) -> Bed {
        let options = FeedOptions { session, budgets, ..FeedOptions::with_shards(1) };
        let events = Arc::new(Events::new());
        let parts = feed("default", &options, Clock::start(), &events);
        for shard in parts.shards {
            tokio::spawn(shard.run(CancellationToken::new()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Bed { feed: parts.feed, events, listener, tracker: TaskTracker::new() }
    }

    /// A connection after its handshake: the peer's end, and the gateway's.
    async fn pair(&self) -> (TcpStream, Hijacked) {
        let connecting = TcpStream::connect(self.listener.local_addr().unwrap());
        let (peer, accepted) = tokio::join!(connecting, self.listener.accept());
        let permit = Place::only();
        (peer.unwrap(), Hijacked { stream: accepted.unwrap().0.into(), rest: Bytes::new(), permit })
    }

    async fn client(&self) -> TcpStream {
        let (peer, hijacked) = self.pair().await;
        self.feed.attach(hijacked, None, &self.tracker);
        peer
    }

    fn counted(&self, line: &str) -> bool {
        crate::events::page(&self.events).lines().any(|found| found == line)
    }
}

/// A frame masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let mut bytes = match u8::try_from(len) {
        Ok(short @ ..126) => vec![first, 0x80 | short],
        _ => {
            let long = u16::try_from(len).unwrap().to_be_bytes();
            vec![first, 0x80 | 126, long[0], long[1]]
        }
    };
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

const BEGIN: u8 = 0x01;
const GO_ON: u8 = 0x00;
const END: u8 = 0x80;
const WHOLE: u8 = 0x81;
const PING: u8 = 0x89;

/// Reads the next frame: its first byte and its payload.
async fn next(peer: &mut TcpStream) -> (u8, Vec<u8>) {
    let reading = async {
        let (first, short) = (peer.read_u8().await.unwrap(), peer.read_u8().await.unwrap());
        let len = if short == 126 { peer.read_u16().await.unwrap() } else { u16::from(short) };
        let mut payload = vec![0; usize::from(len)];
        peer.read_exact(&mut payload).await.unwrap();
        (first, payload)
    };
    tokio::time::timeout(SOON, reading).await.expect("a frame in time")
}

async fn reply(peer: &mut TcpStream) -> String {
    let (first, payload) = next(peer).await;
    assert_eq!(first, WHOLE, "{payload:?}");
    String::from_utf8(payload).unwrap()
}

/// The close code that ends the connection; messages before it are skipped.
async fn closed(peer: &mut TcpStream) -> u16 {
    loop {
        let (first, payload) = next(peer).await;
        if first == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

#[tokio::test]
async fn a_message_that_does_not_end_is_closed_and_nobody_else_is() {
    let limits = SessionLimits { message_timeout_ms: 400, ..SessionLimits::default() };
    let bed = Bed::new(limits, Budgets::default()).await;
    // This client is silent, but between two messages: it has left no message unfinished.
    let mut idle = bed.client().await;
    idle.write_all(&frame(WHOLE, br#"{"command":"version"}"#)).await.unwrap();
    reply(&mut idle).await;
    let mut half = bed.client().await;
    half.write_all(&frame(WHOLE, &[b' '; 200])[..100]).await.unwrap();
    assert_eq!(closed(&mut half).await, 1008);
    assert!(bed.counted("bugfeed_sessions_ended_total{kind=\"unfinished\"} 1"), "{}", crate::events::page(&bed.events));
    // Neither control frames between the pieces nor a byte now and then extend the time.
    let mut busy = bed.client().await;
    busy.write_all(&frame(BEGIN, b"{")).await.unwrap();
    let mut pieces = 0;
    let code = loop {
        pieces += 1;
        let piece = if pieces < 1000 { frame(GO_ON, b" ") } else { Vec::new() };
        busy.write_all(&[frame(PING, b"x"), piece].concat()).await.unwrap();
        let (first, payload) = next(&mut busy).await;
        if first == 0x88 {
            break u16::from_be_bytes([payload[0], payload[1]]);
        }
        assert_eq!((first, &payload[..]), (0x8A, &b"x"[..]), "the pong");
    };
    assert_eq!(code, 1008);
    idle.write_all(&frame(WHOLE, br#"{"command":"version"}"#)).await.unwrap();
    reply(&mut idle).await;
}

/// Each read ends in the middle of a message. The time limit is that of each message, not of all of them together.
#[tokio::test]
async fn who_sends_one_message_after_the_other_is_not_slow() {
    let bed = Bed::new(SessionLimits::default(), Budgets::default()).await;
    let (mut peer, hijacked) = bed.pair().await;
    let (sender, _inputs) = mpsc::channel(16);
    let (conn, _) = take_over(hijacked, sender, Arc::clone(&bed.feed.common));
    let (mut reader, mut want_writable) = (None, false);
    let mut turn = async || {
        let mut busy = false;
        poll_fn(|cx| Poll::Ready(super::next(&conn, &mut reader, &mut busy, &mut want_writable, cx))).await
    };
    let message = frame(WHOLE, br#"{"command":"version"}"#);
    let mut bytes = message[..10].to_vec();
    let mut before = 0;
    for _ in 0..3 {
        peer.write_all(&bytes).await.unwrap();
        while !(turn().await.is_ready() || before == 0 && conn.begun_ms().is_some()) {
            tokio::task::yield_now().await;
        }
        assert!(turn().await.is_pending());
        let begun = conn.begun_ms().expect("the rest of the next one is waited for");
        assert!(begun > before, "{begun} after {before}");
        before = begun;
        while conn.common.clock.now_ms() <= before {
            tokio::task::yield_now().await;
        }
        bytes = [&message[10..], &message[..10]].concat();
    }
    peer.write_all(&message[10..]).await.unwrap();
    while turn().await.is_pending() {
        tokio::task::yield_now().await;
    }
    assert!(turn().await.is_pending());
    assert_eq!(conn.begun_ms(), None);
}

#[tokio::test]
async fn unfinished_messages_together_take_only_so_much() {
    let budgets = Budgets { message_bytes: Arc::new(Budget::new(60_000)), ..Budgets::default() };
    let bed = Bed::new(SessionLimits::default(), budgets.clone()).await;
    let message = frame(WHOLE, &[&vec![b' '; 40_000][..], br#"{"command":"version"}"#].concat());
    let mut first = bed.client().await;
    first.write_all(&message[..30_000]).await.unwrap();
    eventually(SOON, "it is held", async || budgets.message_bytes.taken() > 30_000).await.unwrap();
    let mut second = bed.client().await;
    // The gateway may close the connection before all is written.
    let _ = second.write_all(&message[..40_000]).await;
    assert_eq!(closed(&mut second).await, 1013);
    assert!(bed.counted("bugfeed_sessions_ended_total{kind=\"no_room\"} 1"), "{}", crate::events::page(&bed.events));
    // Short messages pass all the time, and the client that came first completes its message.
    let mut third = bed.client().await;
    third.write_all(&frame(WHOLE, br#"{"command":"version"}"#)).await.unwrap();
    reply(&mut third).await;
    first.write_all(&message[30_000..]).await.unwrap();
    reply(&mut first).await;
    drop((first, second, third));
    bed.tracker.close();
    bed.tracker.wait().await;
    assert_eq!(budgets.message_bytes.taken(), 0);
}

#[tokio::test]
async fn all_sessions_together_watch_only_so_much() {
    let budgets = Budgets { subscriptions: Arc::new(Budget::new(5)), ..Budgets::default() };
    let bed = Bed::new(SessionLimits::default(), budgets.clone()).await;
    let subscribe = |bugs: &str| frame(WHOLE, format!(r#"{{"command":"subscribe","bugs":[{bugs}]}}"#).as_bytes());
    let (mut first, mut second) = (bed.client().await, bed.client().await);
    first.write_all(&subscribe("1,2,3")).await.unwrap();
    reply(&mut first).await;
    second.write_all(&subscribe("1,2,3")).await.unwrap();
    assert_eq!(closed(&mut second).await, 1013);
    assert!(bed.counted("bugfeed_sessions_ended_total{kind=\"no_room\"} 1"), "{}", crate::events::page(&bed.events));
    // Bugs that the session watches already are not counted twice.
    first.write_all(&subscribe("1,2,3,4")).await.unwrap();
    reply(&mut first).await;
    first.write_all(&frame(WHOLE, br#"{"command":"unsubscribe","bugs":[1,2,9]}"#)).await.unwrap();
    reply(&mut first).await;
    assert_eq!(budgets.subscriptions.taken(), 2);
    drop((first, second));
    bed.tracker.close();
    bed.tracker.wait().await;
    eventually(SOON, "all is given back", async || budgets.subscriptions.taken() == 0).await.unwrap();
}

#[tokio::test]
async fn a_message_in_too_many_pieces_ends_the_connection() {
    let bed = Bed::new(SessionLimits::default(), Budgets::default()).await;
    let text = br#"{"command":"version"}"#;
    for (piece, pieces, want) in
        [(&b""[..], 1023, None), (b" ", 1023, None), (b"", 1024, Some(1009)), (b" ", 1024, Some(1009))]
    {
        let mut peer = bed.client().await;
        let mut bytes = frame(BEGIN, b"");
        (0..pieces).for_each(|_| bytes.extend(frame(GO_ON, piece)));
        bytes.extend(frame(END, text));
        peer.write_all(&bytes).await.unwrap();
        match want {
            None => assert!(reply(&mut peer).await.contains("version"), "{pieces}"),
            Some(code) => assert_eq!(closed(&mut peer).await, code, "{pieces}"),
        }
    }
    assert!(bed.counted("bugfeed_sessions_ended_total{kind=\"fragments\"} 2"), "{}", crate::events::page(&bed.events));
}

/// One turn of a connection reads a bounded amount, whatever its peer has sent.
#[tokio::test]
async fn a_turn_is_bounded_whatever_is_sent() {
    let bed = Bed::new(SessionLimits::default(), Budgets::default()).await;
    let pieces = |first: u8, payload: &[u8], count: usize| frame(first, payload).repeat(count);
    for (name, bytes) in [
        ("a long message", frame(BEGIN, &vec![b' '; 60_000])),
        ("pongs", pieces(0x8A, b"", 10_000)),
        ("long pongs", pieces(0x8A, &[0; 125], 500)),
        ("one-byte pieces", [frame(BEGIN, b""), pieces(GO_ON, b"x", 1000), pieces(0x8A, &[0; 125], 400)].concat()),
    ] {
        let (mut peer, hijacked) = bed.pair().await;
        let (sender, _inputs) = mpsc::channel(16);
        let (conn, _) = take_over(hijacked, sender, Arc::clone(&bed.feed.common));
        peer.write_all(&bytes).await.unwrap();
        let (mut reader, mut busy, mut want_writable) = (None, false, false);
        let (mut turns, mut left) = (0, bytes.len());
        while left > 0 {
            conn.stream.readable().await.unwrap();
            let turn = poll_fn(|cx| Poll::Ready(super::next(&conn, &mut reader, &mut busy, &mut want_writable, cx)));
            assert!(turn.await.is_pending(), "{name}");
            let read = left - unread(conn.stream.tcp());
            assert!(read <= 17 * 1024, "{name}: {read} bytes in one turn");
            left -= read;
            turns += 1;
        }
        assert!(turns > 2, "{name}: {turns}");
    }
}

/// How many bytes the socket holds that were not read.
fn unread(stream: &TcpStream) -> usize {
    let mut buffer = Vec::with_capacity(1 << 20);
    socket2::SockRef::from(stream).peek(buffer.spare_capacity_mut()).unwrap_or(0)
}
