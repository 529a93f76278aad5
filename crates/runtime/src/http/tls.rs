//! TLS on a listener: the certificate, and replacing it while the process runs.
//!
//! Goes in: two PEM files. Comes out: connections after their handshake. When the files change, or at SIGHUP, they are read again; new
//! connections get the new certificate, and those that are there go on. Files that cannot be used change nothing: the
//! certificate before stays, and log, metrics and readiness say so. Never shows the private key.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::wire::Wire;

/// The first byte of a connection that begins with a TLS handshake (RFC 8446 §5.1: the content type `handshake`).
const HANDSHAKE: u8 = 22;

/// The two files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and those between it and the authority, in PEM, the certificate first.
    pub chain: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// A certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFault {
    /// A file cannot be read as PEM.
    #[error("{path}: {reason} (--{option})", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The option that names it.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is not the certificate's.
    #[error("the key in {key} is not the one of the first certificate in {chain}; a chain begins with the server's own certificate", key = key.display(), chain = chain.display())]
    OtherKey {
        /// The certificate's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate counts no more.
    #[error("the certificate in {path} has expired: it counted until {until}; renew it", path = path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Its end, in UTC.
        until: jiff::Timestamp,
    },
}

/// A certificate with its key, and the time for which it counts.
#[derive(Clone, Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    /// When it begins and ends to count, in seconds since 1970; `None` if that cannot be read.
    begin_s: Option<u64>,
    until_s: Option<u64>,
}

/// What reading the files again has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The files hold what they held before.
    Same,
    /// A new certificate is used from now on.
    New,
}

/// The server's side of TLS. A clone shares the certificate.
#[derive(Clone)]
pub struct ServerTls {
    files: Arc<CertificateFiles>,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
    again: Arc<Notify>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The certificate that new connections get.
#[derive(Debug)]
struct Current(Mutex<Certificate>);

impl Current {
    fn get(&self) -> Certificate {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().key)
    }
}

impl ServerTls {
    /// TLS 1.2 and 1.3 with the certificate in these files.
    ///
    /// # Errors
    /// If a file cannot be read, the key is another certificate's, or the certificate has expired.
    pub fn load(files: CertificateFiles) -> Result<ServerTls, CertificateFault> {
        let provider = Arc::new(default_provider());
        let current = Arc::new(Current(Mutex::new(read(&files, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both TLS versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients that come back resume their TLS session, which costs a tenth of a handshake. Without a ticketer, rustls would
        // keep their state in memory here.
        if let Ok(ticketer) = Ticketer::new() {
            config.ticketer = ticketer;
        }
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(ServerTls { files: Arc::new(files), current, acceptor, again: Arc::default() })
    }

    /// The files of the certificate.
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }

    /// Notified when the files are to be read again at once.
    pub fn again(&self) -> &Arc<Notify> {
        &self.again
    }

    /// When the certificate in use expires, in seconds since 1970; `None` if that cannot be read from it.
    pub fn expires_s(&self) -> Option<u64> {
        self.current.get().until_s
    }

    /// For how long the certificate in use counts, from its beginning to its end, in seconds; `None` if that cannot be read.
    pub fn lifetime_s(&self) -> Option<u64> {
        let current = self.current.get();
        Some(current.until_s?.saturating_sub(current.begin_s?))
    }

    /// Reads the files again. New connections get what is in them.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; then the certificate before stays.
    pub fn reload(&self) -> Result<Reloaded, CertificateFault> {
        let read = read(&self.files, &default_provider())?;
        let mut current = self.current.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.key.cert == read.key.cert {
            return Ok(Reloaded::Same);
        }
        *current = read;
        Ok(Reloaded::New)
    }

    /// Does the handshake of a new connection.
    ///
    /// # Errors
    /// [`NotTls::Plain`] if the peer does not speak TLS; its bytes are still unread then.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Wire, NotTls> {
        let mut first = [0];
        match tcp.peek(&mut first).await {
            Ok(1) if first[0] == HANDSHAKE => {}
            Ok(1) => return Err(NotTls::Plain(tcp)),
            Ok(_) => return Err(NotTls::Handshake(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(NotTls::Handshake(error)),
        }
        let encrypted = self.acceptor.accept(tcp).await.map_err(NotTls::Handshake)?;
        Ok(Wire::from(encrypted.into_inner()))
    }
}

/// Why a connection is not encrypted.
#[derive(Debug)]
pub enum NotTls {
    /// The peer does not speak TLS: it has most likely asked for `http:` or `ws:`.
    Plain(TcpStream),
    /// The handshake failed.
    Handshake(io::Error),
}

/// Reads a certificate, and checks it as far as its own server can.
fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, CertificateFault> {
    let fault = |path: &Path, option, reason: String| CertificateFault::File { path: path.to_owned(), option, reason };
    let of_chain = |reason| fault(&files.chain, "tls-cert", reason);
    let of_key = |reason| fault(&files.key, "tls-key", reason);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect)
        .map_err(|error| of_chain(in_words(&error, "certificate")))?;
    let Some(own) = chain.first().cloned() else { return Err(of_chain(NO_CERTIFICATE.to_owned())) };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| of_key(in_words(&error, "private key")))?;
    let key = match CertifiedKey::from_der(chain, key, provider) {
        Ok(key) => Arc::new(key),
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(CertificateFault::OtherKey { chain: files.chain.clone(), key: files.key.clone() });
        }
        Err(error @ rustls::Error::InvalidCertificate(_)) => return Err(of_chain(error.to_string())),
        Err(error) => return Err(of_key(error.to_string())),
    };
    let (begin_s, until_s) = validity_s(&own, provider);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Some(until_s) = until_s.filter(|&until_s| until_s < now_s) {
        let until = jiff::Timestamp::from_second(i64::try_from(until_s).unwrap_or(i64::MAX)).unwrap_or_default();
        return Err(CertificateFault::Expired { path: files.chain.clone(), until });
    }
    Ok(Certificate { key, begin_s, until_s })
}

const NO_CERTIFICATE: &str =
    "no certificate in PEM format is in it; the file has a line -----BEGIN CERTIFICATE----- for each";

fn in_words(error: &rustls::pki_types::pem::Error, what: &str) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound if what == "certificate" => NO_CERTIFICATE.to_owned(),
        Error::NoItemsFound => {
            format!("no {what} in PEM format is in it; one that has a password must be stored without")
        }
        other => format!("its {what} cannot be read: {other:?}"),
    }
}

/// When a certificate begins and ends to count. It is asked whether it counts in 1970, and at a time after every end that a
/// certificate can have (9999, RFC 5280 §4.1.2.5); the answers name the begin and the end. So no parser of certificates is
/// needed but that of rustls.
fn validity_s(certificate: &CertificateDer<'_>, provider: &CryptoProvider) -> (Option<u64>, Option<u64>) {
    const AFTER_ALL: Duration = Duration::from_secs(1 << 40);
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return (None, None) };
    let asked_at = |then| {
        let (roots, then) = (RootCertStore::empty(), UnixTime::since_unix_epoch(then));
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], then, algorithms)
    };
    let begin = match asked_at(Duration::ZERO) {
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            Some(not_before.as_secs())
        }
        _ => None,
    };
    let end = match asked_at(AFTER_ALL) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(not_after.as_secs())
        }
        _ => None,
    };
    (begin, end)
}
