//! Options of every port for clients: its certificate.

use std::path::PathBuf;

use bugfeed_runtime::http::tls::{CertificateFiles, ServerTls};
use clap::Args;

/// The certificate of the port for clients.
#[derive(Clone, Debug, Args)]
pub struct TlsArgs {
    /// The certificate with which the port for clients speaks TLS (https, wss), and those of its authorities, in PEM. When the
    /// file changes, or at SIGHUP, it is read again [default: no TLS; a proxy in front does it]
    #[arg(long, env = "BUGFEED_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM
    #[arg(long, env = "BUGFEED_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// The server's side of TLS, if there is a certificate.
    ///
    /// # Errors
    /// If the certificate cannot be used; the error names the file and the option.
    pub fn load(&self) -> Result<Option<ServerTls>, String> {
        let (Some(chain), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else { return Ok(None) };
        ServerTls::load(CertificateFiles { chain, key }).map(Some).map_err(|error| error.to_string())
    }
}
