//! SIGTERM, kill -9, two processes: what was answered is announced.

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Receiver, head};
use crate::support::{SOON, get};

const BODY: &str = "{\"changes\":[{\"bug\":77}]}";

/// A body that is arriving at SIGTERM is received, and its change is not lost.
#[tokio::test]
async fn a_body_that_arrives_while_the_process_stops_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = Receiver::start(dir.path(), &[]).await;
    let key = serve.key(dir.path(), "plain").await;
    let mut sender = TcpStream::connect(serve.port).await.unwrap();
    let (begin, rest) = BODY.split_at(10);
    sender.write_all(head("/hooks/plain", &key, BODY.len(), begin).as_bytes()).await.unwrap();
    // Until its head was read: a second request on another connection is answered by then.
    serve.change("plain", &key, 1).await;
    serve.proc.sigterm();
    eventually(SOON, "a port that is closed", async || TcpStream::connect(serve.port).await.is_err()).await.unwrap();
    sender.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, sender.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"accepted\":1"), "{answer}");
    serve.proc.succeeds(SOON).await.unwrap();
    assert!(serve.proc.events(LogEvent::HooksStopped) == 1, "{}", serve.proc.output());

    let serve = Receiver::start(dir.path(), &[]).await;
    serve.way(dir.path(), "77", |step| step["cursor"].is_string()).await;
}

#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = Receiver::start(dir.path(), &[]).await;
    let key = serve.key(dir.path(), "plain").await;
    for bug in 1..=20 {
        serve.change("plain", &key, bug).await;
    }
    serve.proc.kill9();
    let serve = Receiver::start(dir.path(), &[]).await;
    for bug in 1..=20 {
        serve.way(dir.path(), &bug.to_string(), |step| step["cursor"].is_string()).await;
    }
}

/// A second process in the folder receives nothing, and says so; it takes over with everything that was received.
#[tokio::test]
async fn a_standby_receives_once_it_is_its_turn() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Receiver::start(dir.path(), &[]).await;
    let key = first.key(dir.path(), "plain").await;
    let mut second = Receiver::start_unready(dir.path(), &[]);
    let refused = async || match TcpStream::connect(second.port).await {
        Ok(_) => second.post("/hooks/plain", &key, BODY).await.0 == 503,
        Err(_) => false,
    };
    eventually(SOON, "a standby that refuses", refused).await.unwrap();
    let (status, body) = get(second.admin, "/api/keys").await;
    assert_eq!(status, 503, "{body}");
    first.change("plain", &key, 3).await;
    first.proc.kill9();
    second.proc.wait_ready(second.admin, SOON).await.unwrap();
    second.change("plain", &key, 4).await;
    for bug in ["3", "4"] {
        second.way(dir.path(), bug, |step| step["cursor"].is_string()).await;
    }
}
