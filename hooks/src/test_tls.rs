//! The other end of a TLS connection: a certificate for `localhost`, made by openssl, and those who trust it.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_testbed::{Run, skipped, tool};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::client::{Client, Options, Trust};

/// A server's side of TLS, and a client that trusts it. Nothing where openssl is not installed.
pub(crate) async fn pair() -> Option<(TlsAcceptor, Client)> {
    if tool("openssl").is_err() {
        skipped("the program openssl is not installed; install the Debian package openssl");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
                -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
                -keyout key.pem -out cert.pem";
    let run = Run::new("openssl").dir(folder.path()).args(args.split_whitespace());
    run.succeeds(Duration::from_secs(20)).await.unwrap();
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
    let client = Client::new(Options { trust: Trust::Only(Arc::new(roots)), ..Options::default() });
    Some((TlsAcceptor::from(Arc::new(config)), client))
}
