//! TLS on the port for clients: every transport over it, slow readers, and a certificate that is replaced while clients are
//! connected.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bugfeed_protocol::When;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::http::certificates::Certificates;
use bugfeed_runtime::http::tls::{CertificateFiles, ServerTls};
use bugfeed_runtime::metrics::Metrics;
use bugfeed_testbed::signal::Signal;
use bugfeed_testbed::{Run, eventually};
use futures::{SinkExt as _, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::commands::bugfeed;
use crate::support::{SOON, Serve, free_address, get, request, tls};

/// Who trusts the certificate in this folder.
fn trusting(dir: &Path) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A connection with a small buffer, so that it is soon full.
async fn connect(address: SocketAddr, dir: &Path) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let tcp = socket.connect(address).await?;
    trusting(dir).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn websocket(address: SocketAddr, dir: &Path) -> Socket {
    let stream = connect(address, dir).await.unwrap();
    tokio_tungstenite::client_async("wss://localhost/", stream).await.unwrap().0
}

async fn next(socket: &mut Socket) -> Value {
    loop {
        match tokio::time::timeout(SOON, socket.next()).await.expect("a message in time").unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn send(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// An all-in-one with the certificate in this folder.
async fn serve(dir: &Path, options: &[&str]) -> Serve {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    Serve::start(&[&tls, options].concat()).await
}

/// Commands and replies are larger than a TLS record.
#[tokio::test]
async fn every_transport_goes_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let Some(()) = tls::certificate(dir.path(), 2).await else { return };
    let serve = serve(dir.path(), &[]).await;
    let mut socket = websocket(serve.clients, dir.path()).await;
    let bugs: Vec<u64> = (1_000_000..1_009_000).collect();
    send(&mut socket, &json!({"command": "subscribe", "bugs": bugs})).await;
    assert_eq!(next(&mut socket).await["bugs"].as_array().unwrap().len(), bugs.len());

    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut events = connect(serve.clients, dir.path()).await.unwrap();
    events.write_all(ask("/sse?bugs=1000007").as_bytes()).await.unwrap();
    let mut events = BufReader::new(events).lines();
    let mut event = async |want: &str| loop {
        let line = tokio::time::timeout(SOON, events.next_line()).await.expect("a line in time").unwrap().unwrap();
        if line.contains(want) {
            return;
        }
    };
    event(r#""command":"subscribe""#).await;
    let polling = async {
        let mut poll = connect(serve.clients, dir.path()).await.unwrap();
        poll.write_all(ask("/changes?bugs=1000007&cursor=unknown&wait=20").as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Without `close_notify`, this would be an error.
        poll.read_to_string(&mut answer).await.unwrap();
        answer
    };
    serve.touch(1_000_007, "2014-04-03T21:13:45").await;
    assert_eq!(next(&mut socket).await["bug"], 1_000_007);
    event("1000007").await;
    let answer = tokio::time::timeout(SOON, polling).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    // The end is announced over TLS, too.
    serve.stop().await;
    let end = tokio::time::timeout(SOON, async { while events.next_line().await.unwrap().is_some() {} });
    end.await.unwrap();
}

/// What waits in the TLS session goes out once the socket takes it, although nothing else is written then.
#[tokio::test]
async fn a_client_that_does_not_read_gets_the_newest_once_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let Some(()) = tls::certificate(dir.path(), 2).await else { return };
    let serve = serve(dir.path(), &["--send-buffer-bytes", "4096"]).await;
    let mut socket = websocket(serve.clients, dir.path()).await;
    send(&mut socket, &json!({"command": "subscribe", "bugs": (1..=50).collect::<Vec<u64>>()})).await;
    next(&mut socket).await;
    let rounds = 200;
    serve.touch_many((1..=rounds).flat_map(|round| (1..=50).map(move |bug| (bug, round)))).await;
    let last = When::from_micros(rounds * 1_000_000).unwrap().to_string();
    let lagged = async || {
        let (_, page) = get(serve.admin, "/metrics").await;
        if page.contains("\nbugfeed_sessions_lagged_total 0\n") { Err(page) } else { Ok(()) }
    };
    eventually(SOON, "a full socket", lagged).await.unwrap();
    let mut left: std::collections::BTreeSet<u64> = (1..=50).collect();
    while !left.is_empty() {
        let update = next(&mut socket).await;
        if update["when"] == last.as_str() {
            left.remove(&update["bug"].as_u64().unwrap());
        }
    }
}

#[tokio::test]
async fn http_without_tls_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(()) = tls::certificate(dir.path(), 2).await else { return };
    let serve = serve(dir.path(), &["--handshake-timeout-ms", "300"]).await;
    let (status, body) = request(serve.clients, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(status, 400);
    assert!(body.contains("this port speaks TLS") && body.contains("wss://"), "{body}");
    // Who says nothing, or not enough of a handshake, is cut.
    for begin in [&b""[..], b"\x16\x03\x01"] {
        let mut silent = TcpStream::connect(serve.clients).await.unwrap();
        silent.write_all(begin).await.unwrap();
        let end = tokio::time::timeout(SOON, silent.read(&mut [0; 100])).await.expect("the end in time");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    let (_, page) = get(serve.admin, "/metrics").await;
    assert!(page.contains("bugfeed_connections_refused_total{kind=\"not_tls\"} 1\n"), "{page}");
    assert!(page.contains("bugfeed_connections_refused_total{kind=\"tls_handshake\"} 2\n"), "{page}");
}

#[tokio::test]
async fn a_new_certificate_holds_for_new_connections_and_a_broken_one_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let Some(()) = tls::certificate(dir.path(), 2).await else { return };
    let file = |name: &str| dir.path().join(name);
    let tls = ServerTls::load(CertificateFiles { chain: file("cert.pem"), key: file("key.pem") }).unwrap();
    assert_eq!(tls.lifetime_s(), Some(12 * 24 * 60 * 60));
    let (health, stop) = (Health::new(), CancellationToken::new());
    let certificates = Certificates::new(tls.clone(), health.clone());
    let metrics = Metrics::of(&[&certificates]);
    let following = tokio::spawn(certificates.follow(stop.clone()));
    let seen = async |want: &str| {
        tls.again().notify_one();
        let lines = async || match health.report().lines.join("\n") {
            lines if lines == want || (!want.is_empty() && lines.contains(want)) => Ok(()),
            lines => Err(lines),
        };
        eventually(SOON, want, lines).await.unwrap();
    };
    seen("").await;
    let first = tls.expires_s();
    for (broken, want) in [
        ("nonsense", "no certificate in PEM format is in it"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "BadEncoding"),
    ] {
        std::fs::write(file("cert.pem"), broken).unwrap();
        seen(want).await;
        assert!(health.report().lines[0].starts_with("certificate: the new one cannot be used, the one before stays"));
        assert_eq!(tls.expires_s(), first);
    }
    assert!(metrics.page().contains("bugfeed_tls_certificates_refused_total 2\n"), "{}", metrics.page());
    // Another certificate, whose key is not there yet, then with its key.
    let key = std::fs::read(file("key.pem")).unwrap();
    tls::certificate(dir.path(), 1000).await.unwrap();
    let new = std::fs::read(file("key.pem")).unwrap();
    std::fs::write(file("key.pem"), key).unwrap();
    seen("is not the one of the first certificate").await;
    std::fs::write(file("key.pem"), new).unwrap();
    seen("").await;
    assert!(tls.expires_s() > first);
    // One that has expired never replaces one that counts.
    tls::certificate(dir.path(), -1).await.unwrap();
    seen("has expired").await;
    assert!(tls.expires_s() > first);
    stop.cancel();
    following.await.unwrap();
}

/// The process reads the files at SIGHUP. A connection that is there goes on.
#[tokio::test]
async fn the_certificate_is_read_again_at_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let Some(()) = tls::certificate(dir.path(), 2).await else { return };
    let (clients, admin) = (free_address(), free_address());
    let run = Run::new(bugfeed())
        .dir(dir.path())
        .args(["--listen", &clients.to_string(), "--admin-listen", &admin.to_string()])
        .args(["--tls-cert", "cert.pem", "--tls-key", "key.pem"])
        .env_remove("RUST_LOG");
    let mut serve = run.spawn().unwrap();
    serve.wait_ready(admin, SOON).await.unwrap();
    let mut before = websocket(clients, dir.path()).await;
    std::fs::write(dir.path().join("cert.pem"), "nonsense").unwrap();
    serve.signal(Signal::HUP);
    let said = serve.wait_for_event(LogEvent::CertificateRefused, SOON).await.unwrap();
    assert!(said.contains("cert.pem") && said.contains("no certificate in PEM format"), "{said}");
    assert!(get(admin, "/readyz").await.1.contains("certificate: the new one cannot be used"));
    tls::certificate(dir.path(), 3).await.unwrap();
    serve.signal(Signal::HUP);
    serve.wait_for_event(LogEvent::CertificateLoaded, SOON).await.unwrap();
    // It trusts the new certificate only.
    let mut after = websocket(clients, dir.path()).await;
    for socket in [&mut before, &mut after] {
        send(socket, &json!({"command": "version"})).await;
        assert_eq!(next(socket).await["command"], "version");
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let Some(()) = tls::certificate(dir.path(), -1).await else { return };
    std::fs::create_dir(dir.path().join("other")).unwrap();
    tls::certificate(&dir.path().join("other"), 2).await.unwrap();
    for role in [&[][..], &["gateway"], &["hooks"]] {
        for (options, want) in [
            (&["--tls-cert", "cert.pem", "--tls-key", "key.pem"][..], "has expired"),
            (&["--tls-cert", "other/cert.pem", "--tls-key", "key.pem"], "is not the one of the first certificate"),
            (&["--tls-cert", "other/cert.pem", "--tls-key", "other/cert.pem"], "no private key in PEM format"),
            (&["--tls-cert", "other/key.pem", "--tls-key", "other/key.pem"], "no certificate in PEM format"),
            (&["--tls-cert", "nowhere.pem", "--tls-key", "key.pem"], "(--tls-cert)"),
            (&["--tls-cert", "other/cert.pem"], "--tls-key"),
        ] {
            let mut proc = Run::new(bugfeed()).dir(dir.path()).args(role).args(options).spawn().unwrap();
            let ended = proc.wait(SOON).await.unwrap();
            let said = proc.output();
            assert_eq!(ended.code(), Some(2), "{role:?} {options:?}: {said}");
            assert!(said.contains(want), "{role:?} {options:?}: {said}");
        }
    }
}
