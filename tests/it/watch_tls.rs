//! `wss://`: a client behind a proxy that speaks TLS, with a certificate that the machine trusts, or does not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bugfeed_testbed::{Proc, Run, skipped, tool};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::commands::bugfeed;
use crate::support::{SOON, Serve, goes_on_trying};

/// A certificate for `localhost` and its key, made by openssl.
async fn certificate(dir: &Path) {
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
                -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
                -keyout key.pem -out cert.pem";
    Run::new("openssl").dir(dir).args(args.split_whitespace()).succeeds(SOON).await.unwrap();
}

/// Takes TLS off and passes everything on. Ends with the runtime.
async fn proxy(dir: &Path, gateway: SocketAddr) -> u16 {
    let certificates = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us says so in the handshake.
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(gateway).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn tls_with_the_certificates_of_this_machine() {
    if tool("openssl").is_err() {
        return skipped("the program openssl is not installed; install the Debian package openssl");
    }
    let serve = Serve::start(&[]).await;
    certificate(serve.dir.path()).await;
    let url = format!("https://localhost:{}/", proxy(serve.dir.path(), serve.clients).await);
    let args = ["watch", "1", "--count", "1", "--url", &url];
    let trusted = serve.dir.path().join("cert.pem");
    let mut trusting = Run::new(bugfeed()).env("SSL_CERT_FILE", &trusted).args(args).spawn().unwrap();
    trusting.wait_for_line("connected to wss://localhost:", SOON).await.unwrap();
    serve.touch(1, "2014-04-03T21:13:45").await;
    trusting.wait_for_line("bug 1 changed", SOON).await.unwrap();
    trusting.succeeds(SOON).await.unwrap();

    let mut wary = Proc::spawn(bugfeed(), &args, &[]).unwrap();
    let said = goes_on_trying(&mut wary).await;
    assert!(said.contains("not trusted here: invalid peer certificate"), "{said}");
    // Without TLS at such a port, and with TLS at the gateway's own.
    for (url, want) in [
        (url.replace("https://", "http://"), "if it wants TLS, write wss://"),
        (format!("https://localhost:{}/", serve.clients.port()), "for a gateway without TLS write ws://"),
    ] {
        let mut wrong = Proc::spawn(bugfeed(), &["watch", "1", "--url", &url], &[]).unwrap();
        let said = goes_on_trying(&mut wrong).await;
        assert!(said.contains(want), "{said}");
    }
}
