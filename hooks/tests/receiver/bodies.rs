//! Bodies that are too large, too slow, compressed or broken.

use std::io::Write as _;
use std::time::Duration;

use bugfeed_hooks::receive::http::ReceiverLimits;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Options, Rig, head, read, request};

/// Short times, so that a test need not wait long.
fn short() -> ReceiverLimits {
    let ms = Duration::from_millis;
    ReceiverLimits {
        place_wait: ms(100),
        body_time: ms(300),
        discard_time: ms(200),
        discard_bytes: 2 * 1024 * 1024,
        body_bytes: 1024 * 1024,
        ..ReceiverLimits::default()
    }
}

async fn short_rig() -> Rig {
    Rig::with(Options { limits: short(), head_time: Duration::from_millis(300), ..Options::default() }).await
}

fn bearer(rig: &Rig) -> String {
    format!("Bearer {}", rig.key.expose())
}

/// The head of a request with the good key.
fn head_with_key(rig: &Rig, path: &str, framing: &str) -> Vec<u8> {
    head(path, &[("Authorization", &bearer(rig))], framing)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_is_refused_after_a_part_was_read() {
    let rig = short_rig().await;
    for (source, status) in [("plain", 200), ("honest", 413)] {
        let mut stream = rig.connect().await;
        let head = head_with_key(&rig, &format!("/hooks/{source}"), "Content-Length: 1073741824");
        stream.write_all(&head).await.unwrap();
        let sending = async {
            // More than is thrown away; the other end may close before all is sent.
            let _ = stream.write_all(&vec![b' '; 3 * 1024 * 1024]).await;
        };
        sending.await;
        let answer = read(&mut stream).await;
        answer.is(status, "error", &[]);
        assert_eq!(answer.header("connection"), Some("close"));
    }
    rig.store.rows(|rows| {
        assert!(rows.requests.iter().all(|r| r.failure.is_some() && r.envelope.size == 1 << 30));
        assert_eq!((rows.requests.len(), rows.events.len()), (2, 2), "it is seen among the events");
    });
    // One that nobody vouches for goes to quarantine, without its body.
    let mut stream = rig.connect().await;
    stream.write_all(&head("/hooks/plain", &[], "Content-Length: 1073741824")).await.unwrap();
    read(&mut stream).await.is(200, "error", &[]);
    rig.store.rows(|rows| assert_eq!((rows.quarantine.len(), &rows.quarantine[0].envelope.body), (1, &None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_asks_first_is_told_at_once() {
    // Long times: if anything were waited for, the test would fail.
    let limits = ReceiverLimits { discard_time: Duration::from_secs(60), ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    let headers = [("Authorization", bearer(&rig)), ("Expect", "100-continue".to_owned())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut stream = rig.connect().await;
    stream.write_all(&head("/hooks/honest", &headers, "Content-Length: 1073741824")).await.unwrap();
    read(&mut stream).await.is(413, "error", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_over_the_limit_and_without_an_end() {
    let rig = short_rig().await;
    let mut stream = rig.connect().await;
    let head = head_with_key(&rig, "/hooks/honest", "Transfer-Encoding: chunked");
    stream.write_all(&head).await.unwrap();
    let piece = format!("10000\r\n{}\r\n", " ".repeat(0x10000)).into_bytes();
    for _ in 0..17 {
        let _ = stream.write_all(&piece).await;
    }
    let _ = stream.write_all(b"0\r\n\r\n").await;
    read(&mut stream).await.is(413, "error", &[]);

    let mut stream = rig.connect().await;
    stream.write_all(&head).await.unwrap();
    stream.write_all(b"1\r\n{\r\n").await.unwrap();
    let answer = read(&mut stream).await;
    answer.is(408, "error", &[]);
    assert_eq!(answer.header("connection"), Some("close"));

    let mut stream = rig.connect().await;
    stream.write_all(&head).await.unwrap();
    stream.write_all(b"nonsense\r\n").await.unwrap();
    read(&mut stream).await.is(400, "error", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_bodies_are_told_408() {
    let rig = short_rig().await;
    let mut stream = rig.connect().await;
    stream.write_all(b"POST /hooks/plain HTTP/1.1\r\nHost: h\r\n").await.unwrap();
    assert_eq!(read(&mut stream).await.status, 408);
    for path in ["/hooks/plain", "/hooks/nobody", "/hooks/github"] {
        let mut stream = rig.connect().await;
        stream.write_all(&head_with_key(&rig, path, "Content-Length: 100")).await.unwrap();
        stream.write_all(b"{\"bug\"").await.unwrap();
        read(&mut stream).await.is(408, "error", &[]);
    }
    assert_eq!(rig.counter(r#"bugfeed_hooks_requests_total{source="plain",result="slow"}"#), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_places_are_taken_new_senders_wait_and_are_told_503() {
    let limits = ReceiverLimits { memory_bytes: 300 * 1024, body_time: Duration::from_secs(20), ..short() };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    let mut stream = rig.connect().await;
    let body = r#"{"bug":1}"#;
    // It holds the place of a body of unknown length.
    stream.write_all(&head_with_key(&rig, "/hooks/plain", "Transfer-Encoding: chunked")).await.unwrap();
    let large = " ".repeat(200 * 1024);
    let busy = loop {
        let answer = rig.post("/hooks/plain", format!("{large}{body}")).await;
        if answer.status == 503 {
            break answer;
        }
        // The first request has not come as far as to its body.
        answer.is(200, "ok", &["queued"]);
    };
    busy.is(503, "error", &[]);
    assert_eq!(busy.header("retry-after"), Some("5"));
    rig.post("/hooks/plain", body).await.is(200, "ok", &["queued"]);
    // What nobody vouches for has places of its own.
    rig.post_with("/hooks/plain", &[], format!("{large}{body}")).await.is(200, "error", &[]);
    let rest = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    stream.write_all(rest.as_bytes()).await.unwrap();
    read(&mut stream).await.is(200, "ok", &["queued"]);
    // Its place is free again.
    rig.post("/hooks/plain", format!("{large}{body}")).await.is(200, "ok", &["queued"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_goes_through_a_file_of_which_nothing_stays() {
    let rig = Rig::new().await;
    let items: Vec<String> = (1..=500).map(|bug| format!(r#"{{"bug":{bug},"text":"{}"}}"#, "x".repeat(2000))).collect();
    let body = format!(r#"{{"changes":[{}]}}"#, items.join(","));
    assert!(body.len() > 1_000_000);
    let answer = rig.post("/hooks/plain", &body).await;
    assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (200, Some(500)), "{answer:?}");
    let mut chunked = head_with_key(&rig, "/hooks/plain", "Transfer-Encoding: chunked");
    chunked.extend_from_slice(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
    assert_eq!(rig.send(&chunked).await.json()["accepted"].as_u64(), Some(500));
    let names: Vec<_> = std::fs::read_dir(rig.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["lock"]);
    let (ids, bodies) = rig.store.rows(|rows| {
        let ids: Vec<_> = rows.events.iter().take(500).map(|event| event.id).collect();
        (ids, rows.requests.iter().all(|request| request.envelope.body.is_none()))
    });
    assert!(ids.is_sorted() && bodies, "identifiers rise, and bodies of good requests are not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_read_within_the_limit() {
    let rig = short_rig().await;
    let bearer = bearer(&rig);
    let post = |path: &'static str, encoding: &'static str, body: Vec<u8>| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Encoding", encoding)];
        let bytes = request(path, &headers, &body);
        let rig = &rig;
        async move { rig.send(&bytes).await }
    };
    post("/hooks/plain", "gzip", gzip(br#"{"bug":1}"#)).await.is(200, "ok", &["queued"]);
    let bomb = gzip(&vec![b' '; 200 * 1024 * 1024]);
    assert!(bomb.len() < 1024 * 1024, "{}", bomb.len());
    post("/hooks/plain", "gzip", bomb).await.is(200, "error", &[]);
    post("/hooks/plain", "gzip", br#"{"bug":1}"#.to_vec()).await.is(200, "error", &[]);
    let unknown = post("/hooks/plain", "br", br#"{"bug":1}"#.to_vec()).await;
    unknown.is(200, "error", &[]);
    assert!(unknown.body.contains("Content-Encoding: gzip"), "{unknown:?}");
    let kept = rig.store.rows(|rows| rows.requests.iter().map(|r| r.envelope.body.is_some()).collect::<Vec<_>>());
    assert_eq!(kept, [false, true, true, true], "bodies of errored requests are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_no_request() {
    let rig = Rig::new().await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for (body, error) in [
        (deep.as_bytes(), "more than 128 levels"),
        (b"{\"bug\":\"\xff\"}", "not UTF-8"),
        (b"{\"bug\":1", "not JSON"),
        (b"", "empty"),
    ] {
        let answer = rig.post("/hooks/plain", body).await;
        answer.is(200, "error", &[]);
        assert!(answer.json()["error"].as_str().unwrap().contains(error), "{answer:?}");
    }
    // Of a name that is there twice, the last one counts.
    rig.post("/hooks/plain", r#"{"bug":1,"bug":2}"#).await.is(200, "ok", &["queued"]);
    rig.store.rows(|rows| {
        assert_eq!(rows.events.last().unwrap().bug.unwrap().get(), 2);
        assert_eq!(rows.events.len(), 5, "each is seen among the events");
    });
    assert_eq!(rig.counter(r#"bugfeed_hooks_items_total{source="plain",state="queued"}"#), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_wrong_types_and_odd_times() {
    let rig = Rig::new().await;
    let body = r#"{"changes":[{"bug":"12"},{"bug":1.5},{"bug":-1},{"bug":true},{"bug":[1]},{"when":"2026-01-01"},
        {"bug":1,"when":"soon"},{"bug":2,"when":"1970-01-01T00:00:00Z"},{"bug":3,"when":"2099-01-01T00:00:00Z"},
        {"bug":4,"when":{"at":1}},{"bug":5,"when":1764151200},"text",null]}"#;
    let answer = rig.post("/hooks/plain", body).await;
    let bad = "errored";
    let want = ["queued", bad, bad, bad, bad, bad, "queued", "queued", "queued", "queued", "queued", bad, bad];
    answer.is(200, "partly", &want);
    rig.store.rows(|rows| {
        let request = &rows.requests[0];
        let item = |bug: u64| request.items.iter().find(|item| item.bug.is_some_and(|b| b.get() == bug)).unwrap();
        let told = |bug| (item(bug).is_dated, item(bug).has_wrong_clock);
        assert_eq!([told(1), told(2), told(3), told(4), told(5)].map(|told| told.0), [false, true, false, false, true]);
        assert_eq!((told(3).1, told(1).1), (true, false), "a time in the future is a wrong clock");
        assert_eq!(item(2).when_us, 0);
        assert!(request.envelope.body.is_some() && request.items[1].kept.is_some());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn of_501_items_none_is_taken() {
    let rig = Rig::new().await;
    let body = |number| format!(r#"{{"changes":[{}]}}"#, vec![r#"{"bug":1}"#; number].join(","));
    for (source, status) in [("plain", 200), ("honest", 413)] {
        let answer = rig.post(&format!("/hooks/{source}"), body(501)).await;
        answer.is(status, "error", &[]);
        assert_eq!(answer.json()["accepted"], 0);
    }
    rig.store.rows(|rows| assert!(rows.requests.iter().all(|request| request.envelope.body.is_some())));
    let answer = rig.post("/hooks/honest", body(500)).await;
    assert_eq!(answer.json()["accepted"], 500);
    let lines = vec![r#"{"bug":1}"#; 501].join("\n");
    rig.post("/hooks/plain", lines).await.is(200, "error", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_the_source_says_so() {
    let rig = Rig::new().await;
    let answer = rig.post("/hooks/quiet", r#"{"bug":"x"}"#).await;
    answer.is(200, "error", &["errored"]);
    let item = &answer.json()["items"][0];
    assert_eq!(item["retryable"], false);
    assert!(item["fix"].as_str().unwrap().contains("send it again"), "{item}");
    rig.post_with("/hooks/quiet", &[], r#"{"bug":1}"#).await.is(200, "error", &[]);
    rig.store.rows(|rows| {
        assert_eq!((&rows.requests[0].envelope.body, &rows.requests[0].items[0].kept), (&None, &None));
        assert_eq!(rows.quarantine[0].envelope.body, None);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn only_post_is_received() {
    let rig = Rig::new().await;
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let text = format!("{method} /hooks/plain HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        let answer = rig.send(text.as_bytes()).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_requests_on_one_connection() {
    let rig = Rig::new().await;
    let one = request("/hooks/plain", &[("Authorization", &bearer(&rig))], br#"{"bug":1}"#);
    let open = String::from_utf8(one.clone()).unwrap().replace("Connection: close\r\n", "");
    let answer = rig.send(&[open.as_bytes(), open.as_bytes(), &one].concat()).await;
    assert_eq!(answer.body.matches("HTTP/1.1 200 OK").count() + 1, 3, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_leaves_frees_its_place() {
    let limits =
        ReceiverLimits { memory_bytes: 300 * 1024, place_wait: Duration::from_secs(10), ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    let mut stream = rig.connect().await;
    stream.write_all(&head_with_key(&rig, "/hooks/plain", "Content-Length: 250000")).await.unwrap();
    stream.write_all(b"{").await.unwrap();
    drop(stream);
    let body = format!("{}{{\"bug\":1}}", " ".repeat(200 * 1024));
    rig.post("/hooks/plain", body).await.is(200, "ok", &["queued"]);
}
