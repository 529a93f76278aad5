//! The other end of a TLS connection: a certificate for `localhost`, and a server that uses it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bugfeed_testbed::{Run, skipped, tool};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::SOON;

/// Makes a certificate for `localhost` with openssl, `cert.pem` in this folder, and speaks TLS with it. Nothing where
/// openssl is not installed.
pub async fn acceptor(dir: &Path) -> Option<TlsAcceptor> {
    if tool("openssl").is_err() {
        skipped("the program openssl is not installed; install the Debian package openssl");
        return None;
    }
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
                -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
                -keyout key.pem -out cert.pem";
    Run::new("openssl").dir(dir).args(args.split_whitespace()).succeeds(SOON).await.unwrap();
    let certificates = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    Some(TlsAcceptor::from(Arc::new(config)))
}

/// Takes TLS off and passes everything on. Ends with the runtime.
pub async fn proxy(acceptor: TlsAcceptor, inside: SocketAddr) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us says so in the handshake.
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(inside).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}
