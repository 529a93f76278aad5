//! Places for bodies: who may take how many, and for how long.

use std::io::Write as _;
use std::time::Duration;

use bugfeed_hooks::receive::http::ReceiverLimits;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::store::Mode;
use crate::support::{Options, Rig, head, read, request};

const KIB: usize = 1024;

async fn rig(limits: ReceiverLimits, mode: Mode) -> Rig {
    Rig::with(Options { limits, mode, replays: false, ..Options::default() }).await
}

/// A body of about so many KiB with one item, which is a change or is not.
fn body(kib: usize, bug: &str) -> String {
    format!("{}{{\"bug\":{bug}}}", " ".repeat(kib * KIB))
}

/// A sender to the source `github` that was asked for its body, so it has a place, and sends nothing.
async fn silent(rig: &Rig) -> TcpStream {
    let mut stream = rig.connect().await;
    let head = head("/hooks/github", &[("Expect", "100-continue")], "Transfer-Encoding: chunked");
    stream.write_all(&head).await.unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_kept_has_its_place_until_somebody_has_it() {
    let ms = Duration::from_millis;
    let limits =
        ReceiverLimits { memory_bytes: 300 * KIB, place_wait: ms(50), store_wait: ms(1000), ..Default::default() };
    let rig = rig(limits, Mode::Hangs).await;
    let errored = rig.post("/hooks/plain", body(200, "\"x\""));
    let second = async {
        rig.store.is_asked().await;
        rig.post("/hooks/plain", body(200, "1")).await.is(503, "error", &[]);
    };
    let (errored, ()) = tokio::join!(errored, second);
    errored.is(200, "error", &["errored"]);
    assert_eq!(rig.spool.records(), 1);
    rig.post("/hooks/plain", body(200, "1")).await.is(200, "ok", &["spooled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_are_not_known_before_their_signature_leave_half_of_the_places() {
    let limits =
        ReceiverLimits { memory_bytes: 600 * KIB, place_wait: Duration::from_millis(50), ..Default::default() };
    let rig = rig(limits, Mode::Up).await;
    let mut first = silent(&rig).await;
    rig.post_with("/hooks/github", &[], body(200, "1")).await.is(503, "error", &[]);
    rig.post("/hooks/plain", body(200, "1")).await.is(200, "ok", &["queued"]);
    first.write_all(b"2\r\n{}\r\n0\r\n\r\n").await.unwrap();
    read(&mut first).await.is(200, "error", &[]);
    rig.post_with("/hooks/github", &[], body(200, "1")).await.is(200, "error", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_compressed_bodies_do_not_wait_for_each_other() {
    let limits = ReceiverLimits { place_wait: Duration::from_secs(15), ..Default::default() };
    let rig = rig(limits, Mode::Up).await;
    // Random text, so that it is large also when it is compressed.
    let random: String = (0..600 * KIB).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(format!("{{\"bug\":1,\"text\":\"{random}\"}}").as_bytes()).unwrap();
    let compressed = gzip.finish().unwrap();
    assert!(compressed.len() > limits.file_from_bytes, "{}", compressed.len());
    let bearer = format!("Bearer {}", rig.key.expose());
    let headers = [("Authorization", bearer.as_str()), ("Content-Encoding", "gzip")];
    let bytes = request("/hooks/plain", &headers, &compressed);
    for answer in join_all((0..6).map(|_| rig.send(&bytes))).await {
        answer.is(200, "ok", &["queued"]);
    }
}
