//! The words of the plan of the bus: what it is told, what it says, and what people should know.

use bugfeed_protocol::bus::Head;
use bugfeed_protocol::{Cursor, Epoch, When};

use crate::intake::HeadStands;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The queue is bound, and delivers.
    Connected {
        /// Which queue.
        queue: Queue,
        /// Messages that waited in it.
        waiting: u64,
    },
    /// The connection is lost.
    Lost,
    /// History was read to its end.
    HistoryRead {
        /// The newest number known here was met in it, so that nothing lies between.
        proven: bool,
    },
    /// It could not be read.
    HistoryFailed {
        /// It will be the same the next time: the broker has none, or refuses.
        for_good: bool,
    },
    /// A message shows that others are missing before it.
    Hole,
    /// A change came from the queue.
    Taken {
        /// Its ledger; none where its producer gives no number.
        epoch: Option<&'a Epoch>,
        /// It is the number that was to come.
        next: bool,
    },
    /// A publisher says where it is.
    Head {
        /// What it says.
        head: &'a Head,
        /// How that lies to what was taken in.
        stands: HeadStands,
    },
    /// The answer to [`Action::Judge`].
    Judged(HeadStands),
    /// About once a second.
    Tick,
}

/// A gateway's own queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Made for this connection; heads come through it, in order with the changes.
    New,
    /// A durable one, in which changes may wait. Heads come beside it.
    Durable {
        /// It was there already, so that it has missed nothing, as far as is known.
        kept: bool,
    },
}

/// Why the feed goes on after a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// What lies before it did not come, and is not in history.
    Missing,
    /// It is of another history of the same ledger.
    Forked,
    /// It is of another ledger.
    OtherLedger,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read history; hand in [`Event::HistoryRead`] or [`Event::HistoryFailed`].
    ReadHistory {
        /// How long it may take to begin.
        patience_ms: u64,
    },
    /// Look again how the head in hand lies; hand in [`Event::Judged`].
    Judge,
    /// Make exchanges, bindings and the stream of history, should they be gone.
    Rebind,
    /// The message that showed a hole goes on as it is.
    TakeAnyway,
    /// Whether resumes wait.
    Hold(bool),
    /// Continuity is lost, and nothing is known of what comes next.
    Lose,
    /// Continuity is lost; what comes next follows this cursor.
    GoOnAfter(Cursor, Why),
    /// Whether the feed is current.
    Current(bool),
    /// Whether changes can arrive.
    Feed {
        /// They cannot.
        paused: bool,
        /// Since when.
        since_ms: u64,
    },
}

/// Why nothing can arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// No connection to the broker.
    NotConnected,
    /// Connected, and not through with what came before.
    ReadingHistory,
    /// The publisher said its head regularly, and does not any more.
    Silent,
    /// The publisher says that it waits for this.
    Publisher(String),
}

/// What people should know of a feed that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Nobody was heard on this exchange, since then.
    NoPublisher {
        /// Since the connection was made.
        since_ms: u64,
    },
    /// Two ledgers publish on it.
    TwoPublishers(Epoch, Epoch),
    /// History cannot be had; what is missing is told as a gap.
    HistoryAway {
        /// Since when.
        since_ms: u64,
    },
}

impl Note {
    /// The note in words. `when` tells a moment of the plan's clock.
    pub fn text(&self, exchange: &str, when: impl Fn(u64) -> When) -> String {
        match self {
            Note::NoPublisher { since_ms } => format!(
                "no publisher seen here since {} (exchange '{exchange}'); does the shim publish to it?",
                when(*since_ms)
            ),
            Note::TwoPublishers(one, two) => format!(
                "two ledgers publish here (exchange '{exchange}', epochs {one} and {two}): clients are told a gap each \
                 time they take turns; give each tracker an exchange of its own"
            ),
            Note::HistoryAway { since_ms } => format!(
                "history cannot be read since {} (stream '{exchange}.history'); changes that are missing are told as gaps",
                when(*since_ms)
            ),
        }
    }
}
