//! What the application is told. Plain values.

use std::fmt;
use std::time::Duration;

use bugfeed_protocol::server::{FeedState, Verdict};
use bugfeed_protocol::{BugId, Change, When};

/// What a feed has to say. More kinds may come: end a `match` with `_ => {}`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A bug changed. What changed is for the tracker's own API to say.
    Change(Change),
    /// Nobody can tell what these bugs went through: treat all of them as changed, ask the tracker. Ascending, never empty.
    Gap(Vec<BugId>),
    /// The connection has come, gone, or is on its way.
    State(State),
    /// The gateway has taken these bugs: from here on, what happens to them comes.
    Subscribed {
        /// The bugs of this one command, ascending.
        bugs: Vec<BugId>,
        /// The verdict, where this was a resume and the gateway gave one. A gap is told as [`Event::Gap`] besides.
        replay: Option<Verdict>,
    },
    /// Whether anything can arrive has changed, as the gateway says. While it is [`FeedState::Paused`] the connection
    /// stands, but the gateway itself hears of nothing; what was missed comes later, or is told as a gap.
    Feed {
        /// Whether anything can arrive.
        state: FeedState,
        /// Since when, where the gateway said so, by its clock.
        since: Option<When>,
    },
    /// Somebody should look at this, though the feed goes on and tries again: three attempts in a row ended alike, with
    /// a proxy's 404 for example, or a certificate that is not trusted.
    Trouble {
        /// The HTTP status, if that was it.
        status: Option<u16>,
        /// What it was and what may help, for people.
        text: String,
    },
}

impl Event {
    /// The bugs to look at: that of a change, those of a gap, none for other events.
    pub fn bugs(&self) -> &[BugId] {
        match self {
            Event::Change(change) => std::slice::from_ref(&change.bug),
            Event::Gap(bugs) => bugs,
            _ => &[],
        }
    }
}

/// How a feed stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// On the way, until the gateway has answered.
    Connecting,
    /// The gateway has answered.
    Open,
    /// There is no connection; the next attempt comes by itself.
    Waiting {
        /// How long until then.
        delay: Duration,
        /// What ended the connection, or kept it from beginning.
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
    /// That of 2014: it resumes by date, and cannot always tell what was missed.
    Classic,
}
