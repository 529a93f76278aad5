//! `amqps://` without a broker: what reaches the other end, and whom the gateway trusts. With a broker: `real::amqps`.

use bugfeed_testbed::Run;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::commands::bugfeed;
use crate::support::{SOON, tls};

/// A gateway for the broker at this port.
fn gateway(port: u16) -> Run {
    gateway_of(&format!("amqps://user:sekrit@localhost:{port}/"))
}

fn gateway_of(url: &str) -> Run {
    Run::new(bugfeed())
        .args(["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env_remove("RUST_LOG")
        .env("BUGFEED_AMQP", url)
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
    assert!(said.contains("?cacertfile=FILE"), "{said}");
    assert_eq!(wary.wait(SOON).await.unwrap().code(), Some(1), "a person must mend this");
}

#[tokio::test]
async fn the_url_names_an_authority_a_name_and_a_certificate_of_this_side() {
    let dir = tempfile::tempdir().unwrap();
    let Some(acceptor) = tls::acceptor_for_known(dir.path()).await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let trusting = format!("amqps://user:sekrit@127.0.0.1:{port}/?cacertfile={}", certificate.display());
    let named = format!("{trusting}&server_name_indication=localhost");
    let known = format!("{named}&certfile={}&keyfile={}", certificate.display(), key.display());
    for (url, want) in
        [(trusting, Some("for another name")), (named, Some("a certificate of this side")), (known, None)]
    {
        let mut gateway = gateway_of(&url).spawn().unwrap();
        let talk = async {
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = acceptor.accept(stream).await;
            let mut head = [0; 8];
            match accepted {
                Ok(mut stream) if want.is_none() => {
                    stream.read_exact(&mut head).await.unwrap();
                    assert_eq!(&head, b"AMQP\0\0\x09\x01");
                }
                accepted => assert!(want.is_some() && accepted.is_err(), "{url}"),
            }
        };
        tokio::time::timeout(SOON, talk).await.unwrap();
        if let Some(want) = want {
            let said = gateway.wait_for_line(want, SOON).await.unwrap();
            assert!(said.contains("in the URL") && !said.contains("sekrit"), "{said}");
            assert_eq!(gateway.wait(SOON).await.unwrap().code(), Some(1));
        }
    }
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
    gateway.wait_for_line("no TLS is spoken there", SOON).await.unwrap();
}
