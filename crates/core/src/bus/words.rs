//! The words of the bus: what happens to it, what is to be done, and what people should know.

use std::sync::Arc;

use bugfeed_protocol::bus::{BusMessage, Head};
use bugfeed_protocol::{Cursor, Epoch, When};

use super::publishers::Publisher;
use crate::input::{Input, Update};

/// The time, on the two clocks that count.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds of a clock that never falls.
    pub ms: u64,
    /// By the wall clock.
    pub wall: When,
}

/// A change, as it was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// What it says.
    pub message: BusMessage,
    /// When its producer had it, where it says so.
    pub recorded: Option<When>,
}

/// What happens to a feed's bus.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Whether heads can be heard on the connection that is there, or is being made.
    HeadsBound(bool),
    /// The queue is bound, and delivers.
    Connected {
        /// Which queue.
        queue: Queue,
        /// Messages that waited in it.
        waiting: u64,
    },
    /// The connection is lost, or could not be made.
    Lost,
    /// The queue delivers a change. `tag` is what it is acknowledged by, where that must be.
    Change(Arrival, Option<u64>),
    /// The queue delivers several changes in one message, in order. Those that could not be read are left out.
    Batch(Vec<Arrival>, Option<u64>),
    /// A delivery that cannot be read, and goes no further.
    Unreadable(Option<u64>),
    /// A publisher says where it is.
    Head(&'a Head, Option<u64>),
    /// The publisher in this process waits for this, or for nothing.
    Waits(Option<&'a str>),
    /// The ledger in this process holds no change: the next one will be its first.
    Begins(Epoch),
    /// The marker of that name is in the stream ([`Ask::Mark`]).
    Marked(String),
    /// The stream delivers what lies at this offset.
    Read(Item, i64),
    /// The stream refuses, or its answer did not come in time.
    ReadingFailed {
        /// It will be the same the next time: the broker has none, or refuses.
        for_good: bool,
        /// Uniform in 0..1: many gateways must not ask again together.
        random: f64,
    },
    /// [`Bus::due_ms`](super::Bus::due_ms) has come.
    Due,
    /// About once a second.
    Tick,
}

/// What lies in the stream of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The changes of one message, in order. Those that could not be read are left out.
    Changes(Vec<Arrival>),
    /// A marker of this name.
    Marker(String),
    /// Something that cannot be read.
    Unreadable,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Action {
    /// Tell every shard.
    Tell(Tell),
    /// Log and count.
    Say(Say),
    /// Ask the broker.
    Ask(Ask),
}

/// What every shard is told.
#[derive(Clone, Debug)]
pub enum Tell {
    /// A change; it is in the replay cache.
    Update(Update),
    /// Several changes, in order; they are in the replay cache.
    Updates(Arc<Vec<Update>>),
    /// Continuity is lost; what comes next follows this cursor.
    Gap(Option<Cursor>, Cause),
    /// Whether resumes wait.
    Hold(bool),
    /// Whether the feed is current.
    Current(bool),
    /// Whether changes can arrive.
    Feed {
        /// They cannot.
        paused: bool,
        /// Since when, on the clock of [`Now::ms`].
        since_ms: u64,
    },
}

impl Tell {
    /// The same as a shard's input. `when` tells a moment of [`Now::ms`] by the wall clock.
    pub fn input<P>(&self, when: impl Fn(u64) -> When) -> Input<P> {
        match self {
            Tell::Update(update) => Input::Update(update.clone()),
            Tell::Updates(updates) => Input::Updates(Arc::clone(updates)),
            Tell::Gap(cursor, _) => Input::Gap(cursor.clone()),
            Tell::Hold(held) => Input::Hold(*held),
            Tell::Current(current) => Input::Current(*current),
            Tell::Feed { paused, since_ms } => Input::Feed { paused: *paused, since: when(*since_ms) },
        }
    }
}

/// Why continuity is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The update that follows shows it.
    Change,
    /// Nothing proves that nothing was missed, and nothing is known of what comes next.
    Unproven,
    /// A publisher's head, or the end of history.
    Head(Why),
    /// A ledger begins.
    Begins,
}

/// What is worth a word, or a count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// A change that was known came again.
    Repeated,
    /// A change came after later ones.
    Late,
    /// A number came again in another history of its ledger. `news`: somebody may have been told something before.
    Forked(Cursor, bool),
    /// Continuity is lost, for those who were told something before.
    Gap(Option<Cursor>),
    /// Changes are missing before this one; so many, where that can be told.
    Hole(Option<u64>, Cursor),
    /// A publisher said where it is.
    HeadHeard,
    /// Its head shows that something is missing.
    HeadDiffers(Cursor),
    /// History was read; so many messages were taken in.
    HistoryRead(u64),
    /// History cannot be had. `silent`: it did not answer, rather than refuse.
    NoHistory {
        /// It did not answer.
        silent: bool,
    },
}

/// What the broker is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Acknowledge all deliveries up to this one.
    Acknowledge(u64),
    /// Make exchanges, bindings and the stream of history, should they be gone.
    Rebind,
    /// Make and bind the stream, should it be gone, and publish a new marker into it; hand in [`Event::Marked`].
    Mark,
    /// Read the stream from this offset, or from its first message; hand in [`Event::Read`].
    Consume(Option<i64>),
    /// Acknowledge all that the stream has delivered.
    AcknowledgeRead,
    /// The reading is over, or of no use.
    Cancel,
}

/// Where a gateway's changes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Made for this connection; heads come through it, in order with the changes.
    New,
    /// A durable one, in which changes may wait. Heads come beside it.
    Durable {
        /// It was there already, so that it has missed nothing, as far as is known.
        kept: bool,
    },
    /// The ledger in the same process, which has been read: nothing can be missed.
    Ledger,
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
    /// Two ledgers, or two copies of one, publish on it.
    TwoPublishers(Publisher, Publisher),
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
            Note::TwoPublishers(one, two) if one.epoch == two.epoch => format!(
                "two copies of one ledger publish here (exchange '{exchange}', epoch {}, tags {} and {}): clients are told a \
                 gap each time they take turns; stop one of the two shims",
                one.epoch,
                one.tag_text(),
                two.tag_text()
            ),
            Note::TwoPublishers(one, two) => format!(
                "two ledgers publish here (exchange '{exchange}', epochs {} and {}): clients are told a gap each \
                 time they take turns; give each tracker an exchange of its own",
                one.epoch, two.epoch
            ),
            Note::HistoryAway { since_ms } => format!(
                "history cannot be read since {} (stream '{exchange}.history'); changes that are missing are told as gaps",
                when(*since_ms)
            ),
        }
    }
}
