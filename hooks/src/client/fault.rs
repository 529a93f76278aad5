//! What prevents a response.

use std::error::Error as _;
use std::io;
use std::time::Duration;

/// Why there is no response. The texts name the server at most, never a path or a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The name could not be looked up. This may be our fault: the name server that this machine uses.
    #[error("the name {host} cannot be looked up: {why}")]
    Name {
        /// The name.
        host: String,
        /// What the system says.
        why: String,
    },
    /// The rule for addresses forbids all addresses of the host.
    #[error("{why}")]
    Forbidden {
        /// The rule's words.
        why: String,
        /// The address stood in the URL, so the rule will say the same again.
        is_final: bool,
    },
    /// Nobody listens there, or the connection was refused.
    #[error("cannot connect to {server}: {why}")]
    Connect {
        /// Scheme, host and port.
        server: String,
        /// What the system says.
        why: String,
    },
    /// The server cannot prove that it is the host of the URL.
    #[error("no secure connection to {server}: {why}")]
    Tls {
        /// Scheme, host and port.
        server: String,
        /// Why.
        why: String,
    },
    /// This machine trusts no certificate authority, so it can connect to nobody.
    #[error("this machine trusts no certificate authority; install ca-certificates, or set SSL_CERT_FILE")]
    NoTrust,
    /// Connecting took too long.
    #[error("connecting to {server} took longer than {} s", within.as_secs_f32())]
    ConnectTooSlow {
        /// Scheme, host and port.
        server: String,
        /// The bound.
        within: Duration,
    },
    /// The whole took too long.
    #[error("no complete response within {} s", within.as_secs_f32())]
    TooSlow {
        /// The bound.
        within: Duration,
    },
    /// The connection was closed before the response was complete.
    #[error("the connection was closed before the response was complete")]
    Closed,
    /// The body is longer than the request allows.
    #[error("the response is longer than {longest} bytes")]
    TooLong {
        /// The bound.
        longest: usize,
    },
    /// What the server sent is no HTTP/1.1.
    #[error("the response is no HTTP: {0}")]
    NoHttp(String),
    /// The request cannot be written as HTTP.
    #[error("the request cannot be written as HTTP")]
    BadRequest,
}

impl Fault {
    /// Whether the cause is on this machine or in its network rather than at the server: looking up names, and the
    /// certificates that it trusts. (A server that is away and a network that is away look the same, and count as the
    /// server's.)
    pub fn is_ours(&self) -> bool {
        matches!(self, Fault::Name { .. } | Fault::NoTrust | Fault::BadRequest)
    }

    pub(super) fn of_hyper(error: &hyper::Error) -> Fault {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_io(error) {
            return Fault::Closed;
        }
        Fault::NoHttp(error.to_string())
    }
}

/// Whether hyper failed because reading or writing the socket did.
pub(super) fn is_io(error: &hyper::Error) -> bool {
    error.source().is_some_and(|source| source.is::<io::Error>())
}
