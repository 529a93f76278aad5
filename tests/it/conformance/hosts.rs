//! `--host`: other hosts are refused, so that no page whose own name leads here reads an answer (DNS rebinding).

use std::net::SocketAddr;

use bugfeed_testbed::eventually;
use tokio::net::TcpStream;

use crate::hooks::Receiver;
use crate::support::{SOON, Serve, get, request};

const UPGRADE: &str = "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn ask(address: SocketAddr, path: &str, host: &str, more: &str) -> (u16, String) {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")).await
}

#[tokio::test]
async fn only_the_hosts_that_are_named_are_served() {
    let close = "Connection: close\r\n";
    let serve = Serve::start(&["--host", "feeds.example.org,192.0.2.7", "--host", "localhost"]).await;
    let port = serve.clients.port();
    for (host, by_clients, by_admin) in [
        ("feeds.example.org".to_owned(), 200, 200),
        (format!("FEEDS.example.org.:{port}"), 200, 200),
        ("192.0.2.7:80".to_owned(), 200, 200),
        (format!("localhost:{port}"), 200, 200),
        // Probes ask the admin port by its address.
        (format!("127.0.0.1:{port}"), 421, 200),
        ("[::1]:80".to_owned(), 421, 200),
        ("evil.example".to_owned(), 421, 421),
        ("feeds.example.org.evil.example".to_owned(), 421, 421),
    ] {
        for (address, path, want) in [
            (serve.clients, "/", by_clients),
            (serve.clients, "/changes?bugs=1", by_clients),
            (serve.admin, "/livez", by_admin),
            (serve.admin, "/metrics", by_admin),
        ] {
            let (status, body) = ask(address, path, &host, close).await;
            assert_eq!(status, want, "{host} {path}: {body}");
            assert!(status != 421 || body.contains("--host"), "{body}");
        }
    }
    for path in ["/", "/sse?bugs=1", "/hooks/plain"] {
        assert_eq!(ask(serve.clients, path, "evil.example", UPGRADE).await.0, 421, "{path}");
    }
    assert_eq!(ask(serve.admin, "/api/keys", "evil.example", close).await.0, 421);
    // The address in the first line counts more than the header.
    assert_eq!(ask(serve.clients, "http://evil.example/", "localhost", close).await.0, 421);
    let page = get(serve.admin, "/metrics").await.1;
    assert!(page.contains("bugfeed_connections_refused_total{kind=\"host\"}"), "{page}");
}

/// Without the option all is as it was.
#[tokio::test]
async fn without_names_every_host_is_served() {
    let serve = Serve::start(&[]).await;
    for address in [serve.clients, serve.admin] {
        assert_ne!(ask(address, "/metrics", "any.example", "Connection: close\r\n").await.0, 421);
    }
}

#[tokio::test]
async fn the_role_hooks_has_the_option_too() {
    let dir = tempfile::tempdir().unwrap();
    // No broker is needed for this.
    let args = ["hooks", "--amqp", "amqp://127.0.0.1:1", "--host", "hooks.example.org"];
    let receiver = Receiver::start_unready(dir.path(), &args);
    eventually(SOON, "a port", async || TcpStream::connect(receiver.port).await.is_ok()).await.unwrap();
    let close = "Connection: close\r\n";
    for (address, path, host, want) in [
        (receiver.port, "/hooks/plain", "hooks.example.org", 405),
        (receiver.port, "/hooks/plain", "127.0.0.1", 421),
        (receiver.port, "/endpoints/x/changes", "evil.example", 421),
        (receiver.admin, "/livez", "127.0.0.1", 200),
        (receiver.admin, "/livez", "hooks.example.org", 200),
        (receiver.admin, "/api/keys", "evil.example", 421),
    ] {
        let (status, body) = ask(address, path, host, close).await;
        assert_eq!(status, want, "{path} {host}: {body}");
    }
}
