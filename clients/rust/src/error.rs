//! The errors. Each text says what happened and, if there is a remedy, what to do.

use std::io;
use std::path::PathBuf;

use bugfeed_protocol::BugId;

/// An error of a feed. If [`Error::is_final`] holds, the error has ended the feed, because trying again would not help;
/// after any other error the feed goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a gateway's address.
    #[error("'{0}' is not a gateway's address; write ws://HOST:PORT/, or wss://HOST/ for TLS")]
    Address(String),
    /// The number is not a bug number.
    #[error("{0} is not a bug number; use a whole number from 1 to 9223372036854775807")]
    Bug(u64),
    /// The gateway itself answered the handshake, but not with a feed. (Such an answer of a proxy is never final.)
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
    /// The gateway wants a token, and there is none, or the only one was refused or has expired. Never final where the
    /// application gives tokens ([`Builder::token_from`](crate::Builder::token_from)).
    #[error("the gateway {url} does not let this client in: {text}; give it a new token")]
    Token {
        /// The address, without what may be secret in it.
        url: String,
        /// The HTTP status, if that was the answer to the handshake.
        status: Option<u16>,
        /// What was said. The token itself is no part of it.
        text: String,
    },
    /// The gateway refused this client: it answered `hello` with an error other than "invalid command" (which only
    /// means a classic gateway).
    #[error("the gateway refuses this client: {0}")]
    NotWelcome(String),
    /// The gateway refused a command. The bugs of that command are not watched; the feed goes on with the others.
    #[error("the gateway refuses to {command} {}: {text}", which(bugs))]
    Refused {
        /// `subscribe` or `unsubscribe`.
        command: &'static str,
        /// Which bugs, ascending; none if it was about all.
        bugs: Vec<BugId>,
        /// What it said.
        text: String,
    },
    /// The cursor of the last run cannot be read, so it is unknown where to go on.
    #[error("cannot read the stored cursor: {0}; mend that, or remove it to start from now")]
    Load(#[source] io::Error),
    /// The cursor was not stored. The next cursor is tried again; if the program ends before that succeeds, events that
    /// were dealt with come again in the next run.
    #[error("cannot store the cursor: {0}")]
    Save(#[source] io::Error),
    /// The feed has ended.
    #[error("the feed has ended; its stream tells why")]
    Ended,
}

fn which(bugs: &[BugId]) -> String {
    if bugs.is_empty() { "all bugs".to_owned() } else { format!("{} bugs", bugs.len()) }
}

impl Error {
    /// Whether this error has ended the feed.
    pub fn is_final(&self) -> bool {
        !matches!(self, Error::Refused { .. } | Error::Save(_))
    }
}

/// The same error, with the file's path in its text.
pub(crate) fn about(path: &std::path::Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", PathBuf::from(path).display()))
}
