//! What can go wrong. Each text says what it was and, where there is a remedy, what to do.

use std::io;
use std::path::PathBuf;

use bugfeed_protocol::BugId;

/// What went wrong. An error for which [`Error::is_final`] holds has ended the feed, since trying again would not mend
/// it; after any other the feed goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is none.
    #[error("'{0}' is not a gateway's address; write ws://HOST:PORT/, or wss://HOST/ for TLS")]
    Address(String),
    /// The number is none of a bug.
    #[error("{0} is not a bug number; use a whole number from 1 to 9223372036854775807")]
    Bug(u64),
    /// The gateway itself answered, but not with a feed. Other answers (a proxy's) are never final.
    #[error("{url} is no feed: {status} {text}")]
    NotAFeed {
        /// The address, without what may be secret in it.
        url: String,
        /// The HTTP status, 400 to 499.
        status: u16,
        /// What it said.
        text: String,
    },
    /// The gateway closed the connection because of what this client does.
    #[error("the gateway closed the connection for good ({code}): {text}")]
    Closed {
        /// The close code of RFC 6455.
        code: u16,
        /// What it said.
        text: String,
    },
    /// The gateway does not want this client.
    #[error("the gateway refuses this client: {0}")]
    NotWelcome(String),
    /// The gateway refused a command. Its bugs are not watched; the feed goes on with the others.
    #[error("the gateway refuses to {command} {} bugs: {text}", bugs.len())]
    Refused {
        /// `subscribe` or `unsubscribe`.
        command: &'static str,
        /// Which bugs, ascending.
        bugs: Vec<BugId>,
        /// What it said.
        text: String,
    },
    /// The cursor of the last run cannot be read, so that nobody knows where to go on.
    #[error("cannot read the stored cursor: {0}; mend that, or remove it to start from now")]
    Load(#[source] io::Error),
    /// The cursor was not stored. It is tried again with the next one; until then, what was dealt with would come again.
    #[error("cannot store the cursor: {0}")]
    Save(#[source] io::Error),
    /// The feed has ended.
    #[error("the feed has ended; its stream tells why")]
    Ended,
}

impl Error {
    /// Whether the feed has ended with this.
    pub fn is_final(&self) -> bool {
        !matches!(self, Error::Refused { .. } | Error::Save(_))
    }
}

/// The same, saying which file it was about.
pub(crate) fn about(path: &std::path::Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", PathBuf::from(path).display()))
}
