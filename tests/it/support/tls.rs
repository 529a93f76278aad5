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

/// What openssl signs certificates by.
const RULES: &str = "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nunique_subject=no\nrand_serial=yes\nnew_certs_dir=.\n\
                     default_md=sha256\npolicy=names\nx509_extensions=more\n[names]\ncommonName=supplied\n[more]\n\
                     subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n";

/// Makes a certificate for `localhost` with openssl: `cert.pem` and `key.pem` in this folder. It counts since ten days ago,
/// and for so many more. Nothing where openssl is not installed.
pub async fn certificate(dir: &Path, days: i64) -> Option<()> {
    if tool("openssl").is_err() {
        skipped("the program openssl is not installed; install the Debian package openssl");
        return None;
    }
    std::fs::write(dir.join("rules"), RULES).unwrap();
    std::fs::write(dir.join("index"), "").unwrap();
    let at = |days: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        at.strftime("%Y%m%d%H%M%SZ").to_string()
    };
    let key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout key.pem -out request.pem";
    let times = format!("-startdate {} -enddate {}", at(-10), at(days));
    let sign =
        format!("ca -batch -selfsign -notext -config rules -in request.pem -keyfile key.pem {times} -out cert.pem");
    for args in [key, &sign] {
        Run::new("openssl").dir(dir).args(args.split_whitespace()).succeeds(SOON).await.unwrap();
    }
    Some(())
}

/// Makes a certificate for `localhost`, and speaks TLS with it. Nothing where openssl is not installed.
pub async fn acceptor(dir: &Path) -> Option<TlsAcceptor> {
    certificate(dir, 2).await?;
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
