//! The admin port over real sockets.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

struct Nobody;

impl ConnectionEvents for Nobody {
    fn accept_failed(&self, _error: &std::io::Error, _quiet: bool) {}
    fn turned_away(&self, _reason: &'static str) {}
}

const SOON: Duration = Duration::from_secs(20);

fn start(health: &Health, extra: Router) -> (AdminServer, SocketAddr, Metrics) {
    let listener = crate::http::bind("admin-listen", ([127, 0, 0, 1], 0).into(), LIMITS.send_buffer_bytes).unwrap();
    let (address, counted) = (listener.local_addr().unwrap(), Counted::default());
    let metrics = Metrics::of(&[&counted, health.watchdog()]);
    let router = router(health.clone(), metrics.clone()).merge(extra);
    let parts = AdminParts { listener, router, hosts: Hosts::default(), events: Arc::new(Nobody), counted };
    (AdminServer::start(parts, health).unwrap(), address, metrics)
}

async fn get_path(address: SocketAddr, path: &str) -> String {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(SOON, asking).await.unwrap()
}

#[test]
fn readiness_says_what_is_wrong() {
    let health = Health::new();
    assert_eq!(ready(&health).status(), StatusCode::OK);
    health.down("bus", "connection refused");
    assert_eq!(ready(&health).status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn idle_connections_give_way_the_oldest_first() {
    let health = Health::new();
    let (server, address, metrics) = start(&health, Router::new());
    let mut idle = Vec::new();
    for _ in 0..LIMITS.connections + 10 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(get_path(address, "/livez").await.starts_with("HTTP/1.1 200 "));
    let mut scratch = [0];
    for oldest in &mut idle[..11] {
        let read = tokio::time::timeout(SOON, oldest.read(&mut scratch)).await.unwrap();
        assert!(read.is_err() || read.is_ok_and(|count| count == 0), "the oldest ones are closed");
    }
    let newest = idle.last().unwrap();
    assert!(newest.try_read(&mut scratch).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    assert!(metrics.page().contains("bugfeed_admin_connections_evicted_total 11\n"), "{}", metrics.page());
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

/// This test's runtime has one thread, and a blocking call has it.
#[tokio::test]
async fn it_answers_while_the_runtime_of_the_process_is_blocked() {
    let health = Health::new();
    let extra = on_this_runtime(Router::new().route("/api", get(|| async { "from the other runtime" })));
    let (_server, address, _) = start(&health, extra);
    let blocking = |path: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        stream.write_all(b"").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/livez", "/readyz", "/metrics"] {
        assert!(blocking(path).starts_with("HTTP/1.1 200 "), "{path}");
    }
    assert!(get_path(address, "/api").await.ends_with("from the other runtime"));
    assert!(get_path(address, "/nothing").await.contains("This is the admin port"));
}

/// Whoever asks for what hangs has half of the places at most, and probes the others.
#[tokio::test]
async fn requests_that_hang_leave_room_for_probes() {
    let health = Health::new();
    let hang = || async {
        std::future::pending::<()>().await;
        "never"
    };
    let (_server, address, _) = start(&health, on_this_runtime(Router::new().route("/api", get(hang))));
    let mut hanging = Vec::new();
    for _ in 0..LIMITS.connections / 2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /api HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        hanging.push(stream);
    }
    let refused = async {
        while !get_path(address, "/api").await.starts_with("HTTP/1.1 503 ") {
            hanging.push(TcpStream::connect(address).await.unwrap());
        }
    };
    tokio::time::timeout(SOON, refused).await.unwrap();
    assert!(get_path(address, "/livez").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn livez_names_what_is_dead() {
    let health = Health::new();
    let (_server, address, _) = start(&health, Router::new());
    drop(health.watchdog().pulse("shard 1 of feed default"));
    let answer = get_path(address, "/livez").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("stuck\nshard 1 of feed default: dead: it has ended\n"), "{answer}");
}
