//! What the application is told, as plain values.

use std::fmt;
use std::time::Duration;

use bugfeed_protocol::server::{FeedState, Verdict};
use bugfeed_protocol::{BugId, Change, When};

/// An event of a feed. More kinds may be added: end a `match` with `_ => {}`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A bug changed. To learn what changed in it, ask the tracker's own API.
    Change(Change),
    /// Changes of these bugs may have been missed: treat all of them as changed, and ask the tracker. Ascending, never
    /// empty.
    Gap(Vec<BugId>),
    /// The same of a feed of all bugs ([`Builder::all`](crate::Builder::all)): changes of any bug may have been missed.
    GapOfAll,
    /// The state of the connection has changed.
    State(State),
    /// The gateway has accepted these bugs: from here on, their changes come.
    Subscribed {
        /// The bugs of this command, ascending; none if it was for all.
        bugs: Vec<BugId>,
        /// The verdict, if this was a resume and the gateway gave one. A gap is told as [`Event::Gap`] or
        /// [`Event::GapOfAll`] in addition.
        replay: Option<Verdict>,
    },
    /// The gateway says that changes can arrive again, or no longer. While the state is [`FeedState::Paused`], the
    /// connection is open, but the gateway itself receives no changes; those of this time come later, or are told as a
    /// gap.
    Feed {
        /// Whether changes can arrive.
        state: FeedState,
        /// Since when, by the gateway's clock, if it said so.
        since: Option<When>,
    },
    /// A person should look at this, although the feed goes on and tries again: three attempts in a row failed in the
    /// same way, for example with a proxy's 404 or a certificate that is not trusted.
    Trouble {
        /// The HTTP status, if the attempts ended with one.
        status: Option<u16>,
        /// What happened and what may help, for people.
        text: String,
    },
}

impl Event {
    /// The bugs to look at: that of a change, those of a gap; none for other events, also for [`Event::GapOfAll`].
    pub fn bugs(&self) -> &[BugId] {
        match self {
            Event::Change(change) => std::slice::from_ref(&change.bug),
            Event::Gap(bugs) => bugs,
            _ => &[],
        }
    }
}

/// The state of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Connecting: the gateway has not answered yet.
    Connecting,
    /// The gateway has answered.
    Open,
    /// There is no connection; the next attempt begins by itself.
    Waiting {
        /// Time until the next attempt.
        delay: Duration,
        /// Why the connection ended, or could not be opened.
        reason: String,
    },
    /// Ended for good.
    Closed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Connecting => f.write_str("connecting"),
            State::Open => f.write_str("open"),
            State::Waiting { delay, reason } => write!(f, "{reason}; trying again in {:.1} s", delay.as_secs_f64()),
            State::Closed => f.write_str("closed"),
        }
    }
}

/// Which protocol the gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// With cursors and verdicts.
    Modern,
    /// The protocol of 2014: it resumes by date, and cannot always tell what was missed.
    Classic,
}
