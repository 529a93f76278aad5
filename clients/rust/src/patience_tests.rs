//! Tests that the application loses nothing by what it may do at any time, and how answers that are no feed are
//! reported.

use std::pin::pin;
use std::time::Duration;

use bugfeed_protocol::When;
use futures::FutureExt as _;
use serde_json::json;
use tokio::time::timeout;

use crate::feed_tests::{Gateway, Memory, SOON, WHEN, bugs, next, state};
use crate::{Error, Event, Feed, FeedState, State};

/// The application gives up waits before, while and after events come. Each event still comes once, in order, and no
/// cursor is stored before its event was handed out.
#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let (gateway, memory) = (Gateway::new().await, Memory::default());
    let mut feed = gateway.builder().bugs(1..=300).store(memory.clone()).connect();
    let mut client = gateway.client().await;
    client.greet(0).await;
    let sending = async {
        for seq in 1..=300 {
            client.update(seq, seq).await;
            if seq % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        client
    };
    let reading = async {
        let mut seen: Vec<u64> = Vec::new();
        let mut round = 0_u32;
        while seen.len() < 300 {
            round += 1;
            let event = match round % 4 {
                // Polled once, and dropped.
                0 => feed.next().now_or_never(),
                1 => timeout(Duration::from_micros(50), feed.next()).await.ok(),
                2 => tokio::select! {
                    biased;
                    () = tokio::task::yield_now() => None,
                    event = feed.next() => Some(event),
                },
                // Polled, left alone, and polled again.
                _ => {
                    let mut wait = pin!(feed.next());
                    match futures::poll!(wait.as_mut()) {
                        std::task::Poll::Ready(event) => Some(event),
                        std::task::Poll::Pending => {
                            tokio::task::yield_now().await;
                            wait.now_or_never()
                        }
                    }
                }
            };
            if let Some(event) = event {
                seen.extend(bugs(&event.expect("it goes on").unwrap()));
            }
            let stored = memory.last().and_then(|cursor| cursor.strip_prefix("E.")?.parse().ok()).unwrap_or(0);
            assert!(stored <= seen.last().copied().unwrap_or(0), "{stored} is stored, and {seen:?} handed out");
            tokio::task::yield_now().await;
        }
        assert!(seen.iter().copied().eq(1..=300), "{seen:?}");
    };
    let (_client, ()) = timeout(SOON, futures::future::join(sending, reading)).await.expect("in time");
    // The last event is still being dealt with.
    assert_ne!(memory.last().as_deref(), Some("E.300"));
    assert!(feed.next().now_or_never().is_none());
    memory.holds("E.300").await;
}

#[tokio::test]
async fn a_gap_is_told_when_it_is_due_and_no_cursor_passes_it_before() {
    let (gateway, memory) = (Gateway::new().await, Memory::default());
    let mut feed = gateway.builder().bugs([1, 2]).store(memory.clone()).connect();
    let mut client = gateway.client().await;
    client.greet(1).await;
    // The spread is so long that the gap is due before the change is read only with a chance of one in a million.
    client.say(json!({ "command": "gap", "cursor": "E.9", "spread_ms": 300_000 })).await;
    client.update(1, 10).await;
    assert_eq!(
        next(&mut feed).await,
        Event::Change(crate::Change { bug: crate::BugId::new(1).unwrap(), when: When::parse_utc(WHEN).unwrap() })
    );
    assert!(feed.next().now_or_never().is_none());
    assert_eq!(feed.handle().cursor().as_deref(), Some("E.10"));
    memory.holds("E.1").await;
    // A second gap is due at once, and is joined with the first.
    client.say(json!({ "command": "gap", "cursor": "E.11" })).await;
    assert_eq!(bugs(&next(&mut feed).await), [1, 2]);
    assert_eq!(memory.last().as_deref(), Some("E.1"), "the gap is being dealt with");
    client.update(2, 12).await;
    assert_eq!(bugs(&next(&mut feed).await), [2]);
    memory.holds("E.11").await;
    // The feed is finished before the next gap is told, so the stored cursor stays the one from before the gap.
    client.say(json!({ "command": "gap", "cursor": "E.20", "spread_ms": 300_000 })).await;
    client.update(2, 21).await;
    assert_eq!(bugs(&next(&mut feed).await), [2]);
    feed.finish().await.unwrap();
    assert_eq!(memory.last().as_deref(), Some("E.12"));
}

#[tokio::test]
async fn a_gap_with_a_short_spread_comes_by_itself() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1, 2]).connect();
    let mut client = gateway.client().await;
    client.greet(1).await;
    client.say(json!({ "command": "gap", "cursor": "E.9", "spread_ms": 50 })).await;
    assert_eq!(bugs(&next(&mut feed).await), [1, 2]);
}

#[tokio::test]
async fn whether_anything_can_arrive_is_told() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1]).connect();
    assert_eq!(feed.handle().feed_state(), FeedState::Live);
    let mut client = gateway.client().await;
    client.greet(1).await;
    client.say(json!({ "command": "feed", "state": "paused", "since": WHEN })).await;
    client.say(json!({ "command": "feed", "state": "live", "since": "yesterday" })).await;
    let mut told = Vec::new();
    while told.len() < 2 {
        if let Event::Feed { state, since } = timeout(SOON, feed.next()).await.unwrap().unwrap().unwrap() {
            told.push((state, since));
        }
    }
    assert_eq!(told, [(FeedState::Paused, Some(When::parse_utc(WHEN).unwrap())), (FeedState::Live, None)]);
}

/// The reason why the first attempt failed, without its port.
async fn reason(gateway: &Gateway, url: &str, answer: &str) -> String {
    let port = gateway.port();
    let mut feed = Feed::builder(&url.replace("PORT", &port)).unwrap().bugs([1]).connect();
    gateway.refuse(answer).await;
    let State::Waiting { reason, .. } = state(&mut feed).await else { panic!("{answer}: it waits") };
    reason.replace(&port, "PORT")
}

#[tokio::test]
async fn what_is_not_the_gateways_word_means_later() {
    let gateway = Gateway::new().await;
    let url = "ws://user:secret@127.0.0.1:PORT/?token=secret";
    for (answer, want) in [
        ("404 Not Found\r\n\r\n<title>404 Not Found</title>", "404 Not Found"),
        ("404 Not Found\r\n\r\n{\"status\":404,\"error\":\"no message available\"}", "404 no message available"),
        ("401 Who\r\n\r\n", "401 Unauthorized"),
        ("403 No\r\n\r\n", "403 Forbidden"),
        ("407 Pay\r\n\r\n", "407 Proxy Authentication Required"),
        ("426 Up\r\n\r\n\u{1b}[2Jboo\n", "426 [2Jboo"),
        ("200 OK\r\n\r\n<title>Our wiki</title>", "200 Our wiki"),
        (
            "301 M\r\nLocation: https://u:secret@example.org/?key=secret\r\n\r\n",
            "301 Moved Permanently, which leads to https://…@example.org/?…",
        ),
        ("308 M\r\nLocation: /feed/\r\n\r\n", "308 Permanent Redirect, which leads to /feed/"),
        ("302 M\r\n\r\n", "302 Found"),
        ("502 B\r\n\r\n", "502 Bad Gateway"),
    ] {
        assert_eq!(reason(&gateway, url, answer).await, format!("ws://…@127.0.0.1:PORT/?… answers {want}"));
    }
}

#[tokio::test]
async fn three_answers_alike_are_told_and_end_nothing() {
    let gateway = Gateway::new().await;
    let mut feed = gateway.builder().bugs([1]).connect();
    for _ in 0..3 {
        gateway.refuse("404 Not Found\r\n\r\nnothing here").await;
    }
    let (status, text) = loop {
        match timeout(SOON, feed.next()).await.unwrap().unwrap().unwrap() {
            Event::Trouble { status, text } => break (status, text),
            Event::State(_) => {}
            event => panic!("{event:?}"),
        }
    };
    assert_eq!(status, Some(404));
    let want = "answers 404 nothing here, 3 times in a row; is the address right, and does the proxy in front of the \
                gateway pass its path on?; this client goes on trying";
    assert!(text.ends_with(want), "{text}");
    let mut client = gateway.client().await;
    client.greet(1).await;
    client.update(1, 2).await;
    assert_eq!(bugs(&next(&mut feed).await), [1]);
}

#[tokio::test]
async fn no_answer_at_all_is_told_plainly() {
    let gateway = Gateway::new().await;
    let mut feed = Feed::builder(&format!("wss://127.0.0.1:{}/", gateway.port())).unwrap().bugs([1]).connect();
    gateway.say_at_once(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let State::Waiting { reason, .. } = state(&mut feed).await else { panic!("it waits") };
    assert!(reason.ends_with("answers without TLS; for a gateway without TLS write ws://"), "{reason}");
    for _ in 0..2 {
        gateway.say_at_once(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    }
    let text = loop {
        if let Event::Trouble { status: None, text } = timeout(SOON, feed.next()).await.unwrap().unwrap().unwrap() {
            break text;
        }
    };
    assert!(text.ends_with("write ws://, 3 times in a row; this client goes on trying"), "{text}");
    drop(feed);

    // A TLS alert: the answer of a server that speaks only TLS.
    let mut feed = gateway.builder().bugs([1]).connect();
    gateway.say_at_once(&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x0a]).await;
    let State::Waiting { reason, .. } = state(&mut feed).await else { panic!("it waits") };
    assert!(reason.ends_with("does not answer as a web server does; if it wants TLS, write wss://"), "{reason}");

    for (url, want) in [
        ("ws://u:secret@no-such-host.invalid/?token=secret", "the name no-such-host.invalid cannot be resolved: "),
        ("ws://u:secret@127.0.0.1:1/?token=secret", "cannot connect to ws://…@127.0.0.1:1/?…: Connection refused"),
    ] {
        let mut feed = Feed::builder(url).unwrap().bugs([1]).connect();
        let State::Waiting { reason, .. } = state(&mut feed).await else { panic!("it waits") };
        assert!(reason.starts_with(want) && !reason.contains("secret"), "{reason}");
    }
    let wrong = Feed::builder("ftp://u:secret@host/").unwrap_err();
    assert!(matches!(&wrong, Error::Address(_)) && !wrong.to_string().contains("secret"), "{wrong}");
}
