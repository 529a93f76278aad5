//! The words between the policy of the bus and its other parts.

use bugfeed_protocol::bus::Head;
use bugfeed_protocol::{Cursor, Epoch};

use super::words::{Queue, Why};
use crate::sequencer::HeadStands;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened<'a> {
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
        /// It is the last one of its delivery.
        last: bool,
    },
    /// A publisher says where it is.
    Head {
        /// What it says.
        head: &'a Head,
        /// How that lies to what was taken in.
        stands: HeadStands,
    },
    /// The answer to [`Step::Judge`].
    Judged(HeadStands),
    /// Whether heads can be heard on the connection that is there, or is being made.
    HeadsBound(bool),
    /// The publisher in this process waits for this, or for nothing.
    Waits(Option<&'a str>),
    /// About once a second.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read history; hand in [`Happened::HistoryRead`] or [`Happened::HistoryFailed`].
    ReadHistory {
        /// How long it may take to begin.
        patience_ms: u64,
        /// Only what came since the last reading is wanted.
        from_mark: bool,
    },
    /// Look again how the head in hand lies; hand in [`Happened::Judged`].
    Judge,
    /// Make exchanges, bindings and the stream of history, should they be gone.
    Rebind,
    /// The message that showed a hole goes on as it is.
    TakeWithGap,
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
