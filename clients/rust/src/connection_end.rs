//! Why a connection ended, as `link` reports it.

use std::time::Duration;

/// The close code of a session whose token has expired, or that has shown none.
const TOKEN_CODE: u16 = bugfeed_protocol::close::Close::TokenExpired.code();

/// How a connection ended, or why it could not be opened.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    /// The handshake got another answer than 101: from the gateway itself, or from a proxy in between.
    Refused { status: u16, text: String, retry_after: Option<Duration>, by_gateway: bool },
    /// There was no answer, for a known reason. `fault` is a short name of the reason, by which the same fault is
    /// recognised at the next attempt.
    Unreachable { reason: String, fault: &'static str },
    /// There was no token that could be shown, though there should be one.
    NoToken(String),
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

impl ConnectionEnd {
    /// What was said, if the connection has ended because of its token, and another one may help.
    pub(crate) fn about_token(&self) -> Option<&str> {
        match self {
            ConnectionEnd::Refused { status: 401, text, by_gateway: true, .. }
            | ConnectionEnd::Closed { code: TOKEN_CODE, text }
            | ConnectionEnd::NoToken(text) => Some(text),
            _ => None,
        }
    }
}

/// Whether the same would be closed with this code again.
pub(crate) fn is_final_code(code: u16) -> bool {
    bugfeed_protocol::close::Close::ALL.iter().any(|close| close.code() == code && !close.reconnect())
}
