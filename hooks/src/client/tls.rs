//! TLS: which servers are trusted.
//!
//! ring's algorithms, the certificates that this machine trusts (or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`). Never
//! shows a certificate of its own, and never connects without checking the server's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Mutex;

use super::Fault;

/// The machine's certificates are read again after so long, because they may have changed.
const READ_AGAIN: Duration = Duration::from_secs(600);

/// The name of HTTP/2 within TLS.
pub(super) const HTTP_2: &[u8] = b"h2";

/// Which certificate authorities are trusted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that this machine trusts.
    Machine,
    /// These.
    Only(Arc<RootCertStore>),
}

/// The configuration of TLS, made when it is first needed.
#[derive(Debug)]
pub(super) struct Tls {
    trust: Trust,
    http2: bool,
    made: Mutex<Option<(Instant, Made)>>,
}

/// For HTTP, which names its version within TLS, and for other protocols.
#[derive(Clone, Debug)]
struct Made {
    http: Arc<ClientConfig>,
    other: Arc<ClientConfig>,
}

impl Made {
    fn of(&self, is_http: bool) -> Arc<ClientConfig> {
        Arc::clone(if is_http { &self.http } else { &self.other })
    }
}

impl Tls {
    /// `http2`: that HTTP/2 is spoken is offered to servers.
    pub(super) fn new(trust: Trust, http2: bool) -> Tls {
        Tls { trust, http2, made: Mutex::new(None) }
    }

    pub(super) async fn config(&self, is_http: bool) -> Result<Arc<ClientConfig>, Fault> {
        let mut made = self.made.lock().await;
        if let Some((at, configs)) = &*made
            && at.elapsed() < READ_AGAIN
        {
            return Ok(configs.of(is_http));
        }
        let roots = match &self.trust {
            Trust::Only(roots) => Arc::clone(roots),
            Trust::Machine => Arc::new(machine().await),
        };
        if roots.is_empty() {
            return Err(Fault::NoTrust);
        }
        let other = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = other.clone();
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        if self.http2 {
            http.alpn_protocols.insert(0, HTTP_2.to_vec());
        }
        let configs = Made { http: Arc::new(http), other: Arc::new(other) };
        *made = Some((Instant::now(), configs.clone()));
        Ok(configs.of(is_http))
    }
}

async fn machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Ok(loaded) = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await {
        roots.add_parsable_certificates(loaded.certs);
    }
    roots
}
