//! Why a connection ended, as `link` reports it.

use std::time::Duration;

/// How a connection ended, or why it could not be opened.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    /// The handshake got another answer than 101: from the gateway itself, or from a proxy in between.
    Refused { status: u16, text: String, retry_after: Option<Duration>, by_gateway: bool },
    /// There was no answer, for a known reason. `fault` is a short name of the reason, by which the same fault is
    /// recognised at the next attempt.
    Unreachable { reason: String, fault: &'static str },
    /// A close frame was received.
    Closed { code: u16, text: String },
    /// Anything else.
    Broken(String),
}
