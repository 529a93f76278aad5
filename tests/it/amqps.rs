//! `amqps://` without a broker: what reaches the other end, and whom the gateway trusts. With a broker: `real::amqps`.

use bugfeed_testbed::Run;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::commands::bugfeed;
use crate::support::{SOON, tls};

/// A gateway for the broker at this port.
fn gateway(port: u16) -> Run {
    let url = format!("amqps://user:sekrit@localhost:{port}/");
    Run::new(bugfeed())
        .args(["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env_remove("RUST_LOG")
        .env("BUGFEED_AMQP", &url)
}

#[tokio::test]
async fn the_connection_is_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let Some(acceptor) = tls::acceptor(dir.path()).await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let run = gateway(listener.local_addr().unwrap().port()).env("SSL_CERT_FILE", dir.path().join("cert.pem"));
    let _gateway = run.spawn().unwrap();
    let talk = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.expect("a TLS handshake");
        assert_eq!(stream.get_ref().1.server_name(), Some("localhost"));
        let mut head = [0; 8];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"AMQP\0\0\x09\x01");
    };
    tokio::time::timeout(SOON, talk).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_is_not_trusted_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(acceptor) = tls::acceptor(dir.path()).await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut wary = gateway(listener.local_addr().unwrap().port()).spawn().unwrap();
    let talk = async {
        let (stream, _) = listener.accept().await.unwrap();
        assert!(acceptor.accept(stream).await.is_err(), "it hangs up within the handshake");
    };
    tokio::time::timeout(SOON, talk).await.unwrap();
    drop(listener);
    let said = wary.wait_for_line("invalid peer certificate", SOON).await.unwrap();
    assert!(said.contains("amqps://user@localhost:") && !said.contains("sekrit"), "{said}");
}

#[tokio::test]
async fn a_broker_that_speaks_no_tls_gets_no_login() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut gateway = gateway(listener.local_addr().unwrap().port()).spawn().unwrap();
    let talk = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first, [22], "a TLS handshake");
        // A broker without TLS answers in this way: it has not understood the handshake.
        stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    };
    tokio::time::timeout(SOON, talk).await.unwrap();
    gateway.wait_for_line("corrupt message", SOON).await.unwrap();
}
