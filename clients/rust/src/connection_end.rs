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

/// Whether the gateway's answer to the handshake would be the same after another attempt. Three of the 4xx codes (408,
/// 425, 429) mean "later".
pub(crate) fn is_final_status(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 425 | 429)
}

/// Whether the same would be closed with this code again.
pub(crate) fn is_final_code(code: u16) -> bool {
    bugfeed_protocol::close::Close::ALL.iter().any(|close| close.code() == code && !close.reconnect())
}
