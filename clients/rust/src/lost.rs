//! The end of a connection, as the one who holds it tells it.

use std::time::Duration;

/// How a connection ended, or why there was none.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The handshake was answered by something else: by the gateway itself, or by what is in between.
    Refused { status: u16, text: String, retry_after: Option<Duration>, by_gateway: bool },
    /// There was no answer, for a reason that is known; and a word for it, by which the same one is noticed.
    Unreachable { reason: String, fault: &'static str },
    /// A close frame came.
    Closed { code: u16, text: String },
    /// Anything else.
    Broken(String),
}
