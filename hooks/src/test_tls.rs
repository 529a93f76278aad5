//! The other end of a TLS connection: a certificate for `localhost`, made by openssl, and those who trust it.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_testbed::{Run, skipped, tool};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::client::{Client, Options, Trust};

/// A server's side of TLS, and those who trust it.
pub(crate) struct Tls {
    config: ServerConfig,
    roots: Arc<RootCertStore>,
}

impl Tls {
    /// A certificate that counts for two days, or has expired yesterday. Nothing where openssl is not installed.
    pub(crate) async fn made(is_expired: bool) -> Option<Tls> {
        if tool("openssl").is_err() {
            skipped("the program openssl is not installed; install the Debian package openssl");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("names"),
            "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n",
        )
        .unwrap();
        let key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout key.pem \
                   -out request.pem";
        let days = if is_expired { -1 } else { 2 };
        let sign = format!("x509 -req -in request.pem -signkey key.pem -days {days} -extfile names -out cert.pem");
        for args in [key, &sign] {
            let run = Run::new("openssl").dir(folder.path()).args(args.split_whitespace());
            run.succeeds(Duration::from_secs(20)).await.unwrap();
        }
        let certificate = CertificateDer::from_pem_file(folder.path().join("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.path().join("key.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Some(Tls { config, roots: Arc::new(roots) })
    }

    /// The server's side, which speaks these protocols; none is named where the list is empty.
    pub(crate) fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let mut config = self.config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A client's options with trust in the server.
    pub(crate) fn trusting(&self) -> Options {
        Options { trust: Trust::Only(Arc::clone(&self.roots)), ..Options::default() }
    }
}

/// A server's side of TLS, and a client that trusts it. Nothing where openssl is not installed.
pub(crate) async fn pair() -> Option<(TlsAcceptor, Client)> {
    let tls = Tls::made(false).await?;
    Some((tls.acceptor(&[]), Client::new(tls.trusting())))
}
