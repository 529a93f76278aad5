//! Bounds: time to shake hands, silence, stalled sockets, the number of connections, shutting down.

use bugfeed_testbed::eventually;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::support::{Client, SOON, Serve, get};

const T: &str = "2014-04-03T21:13:45";

#[tokio::test]
async fn half_a_handshake_and_then_silence() {
    let serve = Serve::start(&["--handshake-timeout-ms", "200"]).await;
    for head in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: webso"] {
        let mut stream = TcpStream::connect(serve.clients).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("cut off").unwrap();
    }
    // A client that has completed the handshake may be silent.
    let mut client = serve.client().await;
    client.subscribe(&[1]).await;
    serve.touch(1, T).await;
    client.update().await;
}

#[tokio::test]
async fn living_clients_are_pinged_and_dead_ones_cut() {
    // The timeout is long enough for the living client to answer even on a busy machine.
    let options = ["--ping-interval-ms", "40", "--idle-timeout-ms", "3000"];
    let serve = Serve::start(&options).await;
    let mut living = serve.client().await;
    // This peer is connected, but answers nothing, because it does not read.
    let dead = serve.client().await;
    let connections = || async { get(serve.admin, "/metrics").await.1 };
    let (counter, pings) = tokio::sync::watch::channel(0);
    let reading = tokio::spawn(async move {
        while let Some(Ok(message)) = living.0.next().await {
            assert!(matches!(message, Message::Ping(_)), "{message:?}");
            counter.send_modify(|pings| *pings += 1);
            // tungstenite answers when next used.
            living.0.flush().await.unwrap();
        }
    });
    eventually(SOON, "the dead one is gone", async || {
        let metrics = connections().await;
        if metrics.contains("bugfeed_connections 1\n") { Ok(()) } else { Err(metrics) }
    })
    .await
    .unwrap();
    assert!(connections().await.contains("sessions_ended_total{kind=\"silent\"} 1"));
    let seen = *pings.borrow();
    eventually(SOON, "pings go on", async || *pings.borrow() > seen + 3).await.unwrap();
    assert!(!reading.is_finished());
    drop(dead);
}

/// A client that does not read stalls nobody, is skipped, and once it reads gets the newest state of its bugs.
#[tokio::test]
async fn a_client_that_does_not_read_lags_and_catches_up() {
    let serve = Serve::start(&["--send-buffer-bytes", "4096"]).await;
    let mut slow = serve.client().await;
    let mut quick = serve.client().await;
    let bugs: Vec<u64> = (1..=50).collect();
    slow.subscribe(&bugs).await;
    quick.subscribe(&bugs).await;
    let spec = bugfeed_shim::source::TableSpec::default();
    let url = format!("sqlite://{}/data/bugfeed.db", serve.dir.path().display()).parse().unwrap();
    let mut sent = 0;
    let lagged = "bugfeed_sessions_lagged_total 0\n";
    // Until its socket is full; the kernel decides how much that takes.
    while get(serve.admin, "/metrics").await.1.contains(lagged) {
        assert!(sent < 500_000, "the slow client never lags");
        let rows: Vec<_> = (0..5000)
            .map(|i: i64| {
                let bug = bugfeed_protocol::BugId::new(u64::try_from(i % 50).unwrap() + 1).unwrap();
                (bug, bugfeed_protocol::When::from_micros((sent + i) * 1_000_000).unwrap())
            })
            .collect();
        bugfeed_shim::source::touch_many(&url, &spec, &rows, &jiff::tz::TimeZone::UTC).await.unwrap();
        sent += 5000;
        // It may lag too, when this machine is busy; what it must get is the newest.
        let last = rows.last().unwrap().1.to_string();
        while quick.update().await.1 != last {}
    }
    serve.touch(50, "2015-01-01T00:00:00").await;
    assert_eq!(quick.update().await, (50, "2015-01-01T00:00:00".to_owned()), "not held up");
    let mut newest = std::collections::HashMap::new();
    let mut received = 0;
    while newest.get(&50).map(String::as_str) != Some("2015-01-01T00:00:00") {
        let (bug, when) = slow.update().await;
        let before = newest.insert(bug, when.clone());
        assert!(before.is_none_or(|before| before < when), "only newer ones");
        received += 1;
    }
    assert!(received < sent, "it got fewer: {received} of {sent}");
    assert_eq!(newest.len(), 50);
}

#[tokio::test]
async fn a_stalled_client_is_cut_after_the_write_timeout() {
    let options = ["--send-buffer-bytes", "4096", "--write-timeout-ms", "500"];
    let serve = Serve::start(&options).await;
    let mut stalled = serve.client().await;
    stalled.subscribe(&[1]).await;
    let catch_up = json!({ "command": "subscribe", "bugs": [1], "since": "1970-01-01" }).to_string();
    let url = format!("sqlite://{}/data/bugfeed.db", serve.dir.path().display()).parse().unwrap();
    let bug = bugfeed_protocol::BugId::new(1).unwrap();
    let rows: Vec<_> =
        (0..20_000).map(|i| (bug, bugfeed_protocol::When::from_micros(i * 1_000_000).unwrap())).collect();
    bugfeed_shim::source::touch_many(&url, &Default::default(), &rows, &jiff::tz::TimeZone::UTC).await.unwrap();
    let last = rows.last().unwrap().1.to_string();
    while stalled.update().await.1 != last {}
    // It asks for far more than its socket holds, again and again, and reads nothing of it.
    for _ in 0..20 {
        stalled.send(&catch_up).await;
    }
    eventually(SOON, "the stalled one is cut", async || {
        let metrics = get(serve.admin, "/metrics").await.1;
        if metrics.contains("sessions_ended_total{kind=\"stalled\"} 1") { Ok(()) } else { Err(metrics) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_full_gateway_says_so() {
    let serve = Serve::start(&["--max-connections", "2"]).await;
    let (one, _two) = (serve.client().await, serve.client().await);
    match Client::try_connect(&serve.url()).await.err().expect("refused") {
        WsError::Http(answer) => assert_eq!(answer.status(), 503),
        other => panic!("{other}"),
    }
    drop(one);
    eventually(SOON, "a place again", async || Client::try_connect(&serve.url()).await.is_ok()).await.unwrap();
}

#[tokio::test]
async fn shutting_down_closes_with_1001_and_does_not_wait_for_the_stubborn() {
    let serve = Serve::start(&["--shutdown-timeout-ms", "1000", "--drain-window-ms", "100"]).await;
    let mut polite = serve.client().await;
    polite.subscribe(&[1]).await;
    let _stubborn = serve.client().await;
    let _half = TcpStream::connect(serve.clients).await.unwrap();
    let stopping = tokio::spawn(serve.stop());
    assert_eq!(polite.close_code().await, 1001);
    tokio::time::timeout(SOON, stopping).await.expect("bounded").unwrap();
}
