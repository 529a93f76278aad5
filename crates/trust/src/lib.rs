//! Whom bugfeed trusts when it connects to a server by TLS.
//!
//! Goes in: names of PEM files; the error of a handshake. Comes out: a configuration that verifies certificate and name of the
//! server; the cause of a refusal, in words. Never connects, and never switches a check off.

mod refused;

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

pub use refused::{Cause, Refused, refused};

/// A file, or what this machine trusts, is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTrust {
    /// The file is not there, or this user may not read it.
    #[error("the file {file} cannot be read: {why}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system says.
        why: String,
    },
    /// The file holds something else.
    #[error("the file {file} holds no {wanted} in the form PEM (-----BEGIN …){why}")]
    NotPem {
        /// Which file.
        file: String,
        /// What was looked for.
        wanted: &'static str,
        /// More about it, with a colon before it; empty if there is nothing more to say.
        why: String,
    },
    /// The two files do not belong together.
    #[error("the key in {key} cannot be used with the certificate in {certificate}: {why}")]
    Mismatch {
        /// The file with the certificate.
        certificate: String,
        /// The file with the key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// No authority's certificate was found on this machine.
    #[error(
        "this machine trusts no certificate authority; install ca-certificates, or set SSL_CERT_FILE{}",
        if .0.is_empty() { String::new() } else { format!(": {}", .0) }
    )]
    NoAuthority(
        /// What went wrong on the way; perhaps empty.
        String,
    ),
}

/// What a client shows of itself: the files of its certificate (with those of the authorities in between) and of its key.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The certificate's file.
    pub certificate: &'a Path,
    /// The key's file.
    pub key: &'a Path,
}

/// How to connect to a server whose certificate and name are verified: by the authorities in this file alone, or by those that
/// this machine trusts (or `SSL_CERT_FILE` and `SSL_CERT_DIR` name). Reads files: it takes a while, and belongs into a thread
/// that may wait.
///
/// # Errors
/// If one of the files is of no use, or this machine trusts nobody.
pub fn client_config(authorities: Option<&Path>, identity: Option<Identity<'_>>) -> Result<ClientConfig, BadTrust> {
    let roots = match authorities {
        Some(file) => roots_in(file)?,
        None => roots_here()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of both TLS versions")
        .with_root_certificates(roots);
    let Some(Identity { certificate, key }) = identity else { return Ok(config.with_no_client_auth()) };
    let chain = certificates_in(certificate)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, "private key without a password", error))?;
    config.with_client_auth_cert(chain, secret).map_err(|error| BadTrust::Mismatch {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        why: error.to_string(),
    })
}

fn roots_in(file: &Path) -> Result<RootCertStore, BadTrust> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(file)? {
        roots.add(certificate).map_err(|error| BadTrust::NotPem {
            file: file.display().to_string(),
            wanted: "certificate",
            why: format!(": {error}"),
        })?;
    }
    Ok(roots)
}

fn certificates_in(file: &Path) -> Result<Vec<CertificateDer<'static>>, BadTrust> {
    let read = CertificateDer::pem_file_iter(file).and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    match read {
        Ok(found) if found.is_empty() => Err(bad(file, "certificate", pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(file, "certificate", error)),
    }
}

fn bad(file: &Path, wanted: &'static str, error: pem::Error) -> BadTrust {
    let file = file.display().to_string();
    match error {
        pem::Error::Io(error) => BadTrust::Unreadable { file, why: error.to_string() },
        pem::Error::NoItemsFound => BadTrust::NotPem { file, wanted, why: String::new() },
        // Its text may hold a part of the file.
        _ => BadTrust::NotPem { file, wanted, why: ": the text between the lines of dashes is damaged".to_owned() },
    }
}

/// What this machine trusts now. It is not kept, because it may change.
fn roots_here() -> Result<RootCertStore, BadTrust> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let errors: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
        return Err(BadTrust::NoAuthority(errors.join("; ")));
    }
    Ok(roots)
}
