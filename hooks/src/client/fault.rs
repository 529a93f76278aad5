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
    #[error("no {} within {} s", if *after_head { "complete response" } else { "response" }, within.as_secs_f32())]
    TooSlow {
        /// The bound.
        within: Duration,
        /// The head of the response had come, its body had not.
        after_head: bool,
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
    /// What the server sent is no HTTP.
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
        // This is how hyper says that the pieces of a body are wrong.
        let is_invalid =
            |error: &&io::Error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
        if let Some(error) = io_of(error).filter(is_invalid) {
            return Fault::NoHttp(error.to_string());
        }
        if is_closed(error) {
            return Fault::Closed;
        }
        match h2_of(error).and_then(h2::Error::reason) {
            Some(reason) => Fault::NoHttp(format!("HTTP/2 {reason:?}, {}", reason.description())),
            None => Fault::NoHttp(error.to_string()),
        }
    }
}

/// Whether the connection was closed rather than used wrongly. A server may close a kept connection just as a request is
/// sent; with HTTP/2 it may also say so (`GOAWAY`), or that it has not begun with the request (`REFUSED_STREAM`).
pub(super) fn is_closed(error: &hyper::Error) -> bool {
    let by_word = h2_of(error).is_some_and(|error| {
        error.is_io() || error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote())
    });
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || io_of(error).is_some() || by_word
}

fn h2_of(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

/// The error of reading or writing the socket that hyper failed with.
fn io_of(error: &hyper::Error) -> Option<&io::Error> {
    error.source().and_then(|source| source.downcast_ref())
}
