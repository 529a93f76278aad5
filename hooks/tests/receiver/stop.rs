//! SIGTERM while bodies arrive. (The signal cancels the token; here the test does.)

use std::time::Duration;

use bugfeed_hooks::receive::http::ReceiverLimits;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Options, Rig, head, read};

const BODY: &str = r#"{"bug":7}"#;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_arrive_are_taken_and_slow_ones_are_told_503() {
    let limits = ReceiverLimits { stop_grace: Duration::from_secs(2), ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    let bearer = format!("Bearer {}", rig.key.expose());
    let framing = format!("Content-Length: {}", BODY.len());
    let head = head("/hooks/plain", &[("Authorization", &bearer), ("Expect", "100-continue")], &framing);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = rig.connect().await;
        stream.write_all(&head).await.unwrap();
        // The server asks for the body: so it has read the head, and waits.
        let mut asked = [0; 25];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut asked).await.unwrap();
        assert!(asked.starts_with(b"HTTP/1.1 100"));
        streams.push(stream);
    }
    rig.stop.cancel();
    let [quick, slow] = &mut streams[..] else { unreachable!() };
    quick.write_all(BODY.as_bytes()).await.unwrap();
    read(quick).await.is(200, "ok", &["queued"]);
    slow.write_all(b"{").await.unwrap();
    let answer = read(slow).await;
    answer.is(503, "error", &[]);
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(rig.store.rows(|rows| rows.requests.len()), 1);
    rig.tracker.close();
    tokio::time::timeout(Duration::from_secs(10), rig.tracker.wait()).await.expect("something still works");
}
