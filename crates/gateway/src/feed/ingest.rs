//! The one way into a feed: the sequencer of the core records a change, and the ingest hands it to every shard.
//!
//! Goes in: messages as the bus delivers them. Comes out: an entry in the replay cache, then an update in the queue of
//! every shard. When [`Ingest::take`] returns, the change is in the replay cache, and its message may be acknowledged
//! to the bus.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bugfeed_protocol::bus::{self, BadMessage, BusMessage};
use bugfeed_protocol::{Cursor, Epoch, When};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::{Breaks, ShardInput};
use crate::events::Events;
use bugfeed_core::bus_plan::Why;
use bugfeed_core::input::{Input, Update};
use bugfeed_core::intake::{HeadStands, Intake, New, Taken};
use bugfeed_core::replay::Recorder;
use bugfeed_runtime::throttle::Throttle;

/// The writing side of a feed, owned by the task that listens to its bus.
#[derive(Debug)]
pub struct Ingest {
    /// The feed's name, for logs and metrics.
    pub feed: String,
    intake: Intake,
    shards: Vec<mpsc::Sender<ShardInput>>,
    /// The bus of this feed logs and counts with these, too.
    pub events: Arc<Events>,
    changes: Counter,
    poison_lines: Throttle,
    fork_lines: Throttle,
    gap_lines: Throttle,
    current: bool,
    breaks: Breaks,
    /// The feed has been current once, so clients may already have been sent changes.
    begun: bool,
}

/// What a message turned out to be.
#[derive(Debug)]
pub enum Came {
    /// The change with the next number.
    Next,
    /// A change that came late, a duplicate, or a change without a number.
    Other,
    /// A change after which continuity is lost: clients are told of a gap.
    Broken,
    /// Numbers before this message are missing. It was not taken in.
    Hole(Hole),
}

/// A message before which others are missing: fill the hole from history, then pass the message to
/// [`Ingest::take_anyway`].
#[derive(Debug)]
pub struct Hole {
    /// The message.
    pub message: BusMessage,
    /// When its producer recorded it, by the producer's clock.
    pub recorded: Option<When>,
    /// How many messages are missing; `None` if that is unknown.
    pub missing: Option<u64>,
    /// The message's number.
    pub before: Cursor,
}

impl Ingest {
    pub(super) fn new(
        feed: String,
        recorder: Recorder,
        shards: Vec<mpsc::Sender<ShardInput>>,
        events: Arc<Events>,
        breaks: Breaks,
    ) -> Ingest {
        let intake = Intake::new(recorder, Epoch::from_random(rand::random()));
        let changes = events.changes(&feed);
        Ingest {
            feed,
            intake,
            shards,
            events,
            changes,
            poison_lines: Throttle::once_a_minute(),
            fork_lines: Throttle::once_a_minute(),
            gap_lines: Throttle::once_a_minute(),
            current: false,
            breaks,
            begun: false,
        }
    }

    /// Says that the next change will be the first of this ledger. Call it before anything is taken in and before any
    /// client is served.
    pub async fn begin(&mut self, epoch: Epoch) {
        let start = self.intake.begin(epoch);
        self.break_shards(Some(start)).await;
    }

    /// Reads the body of a message; one that cannot be read is logged and counted.
    pub fn read(&mut self, body: &[u8]) -> Option<BusMessage> {
        match bus::decode(body) {
            Ok(message) => Some(message),
            Err(reason) => {
                self.poison(body, &reason);
                None
            }
        }
    }

    /// Logs and counts a poison message: one that cannot be read as a change.
    pub fn poison(&mut self, body: &[u8], reason: &BadMessage) {
        let quiet = self.poison_lines.is_quiet();
        self.events.poison(&self.feed, body, reason, quiet);
    }

    /// Takes a change in, unless it is a duplicate or numbers before it are missing. `recorded` is when its producer
    /// recorded it, as the producer says.
    pub async fn take(&mut self, message: BusMessage, recorded: Option<When>) -> Came {
        match self.intake.offer(&message, recorded, now()) {
            Taken::New(new) => {
                let came = match &new {
                    New { gap: Some(_), .. } => Came::Broken,
                    // A late change, and one without a number, does not advance the newest number, so it proves nothing
                    // about continuity.
                    New { late: true, .. } | New { update: Update { number: None, .. }, .. } => Came::Other,
                    New { .. } => Came::Next,
                };
                self.deliver(new).await;
                came
            }
            Taken::Known => {
                self.events.repeated(&self.feed);
                Came::Other
            }
            Taken::Hole { missing, before } => Came::Hole(Hole { message, recorded, missing, before }),
        }
    }

    /// Whether no number is missing before this message any more.
    pub fn continues(&self, message: &BusMessage) -> bool {
        self.intake.continues(message)
    }

    /// Takes a change in, unless it is a duplicate. The numbers missing before it are given up, and clients are told of
    /// a gap.
    pub async fn take_anyway(&mut self, message: &BusMessage, recorded: Option<When>) {
        match self.intake.anyway(message, recorded, now()) {
            Taken::New(new) => self.deliver(new).await,
            Taken::Known | Taken::Hole { .. } => self.events.repeated(&self.feed),
        }
    }

    async fn deliver(&mut self, new: New) {
        let New { update, gap, late, forked } = new;
        self.changes.inc();
        if forked {
            let quiet = !self.begun || self.fork_lines.is_quiet();
            self.events.forked(&self.feed, update.number.as_ref().unwrap_or(&update.cursor), quiet);
        }
        if late {
            self.events.late(&self.feed);
        }
        if let Some(cursor) = gap {
            self.tell_gap(Some(cursor)).await;
        }
        self.to_shards(|| Input::Update(update.clone())).await;
    }

    /// Tells the shards that continuity is lost. The loss is logged only if clients may have been served before it.
    async fn tell_gap(&mut self, cursor: Option<Cursor>) {
        if self.begun {
            let quiet = self.gap_lines.is_quiet();
            self.events.gap(&self.feed, cursor.as_ref(), quiet);
        }
        self.break_shards(cursor).await;
    }

    /// Continuity is lost, and it is unknown which change comes next.
    pub async fn lose(&mut self) {
        let cursor = self.intake.lose();
        self.tell_gap(cursor).await;
    }

    /// Continuity is lost; the next change follows this cursor.
    pub async fn go_on_after(&mut self, cursor: &Cursor, why: Why) {
        if why == Why::Forked {
            let quiet = !self.begun || self.fork_lines.is_quiet();
            self.events.forked(&self.feed, cursor, quiet);
        }
        let cursor = self.intake.go_on_after(cursor);
        self.tell_gap(Some(cursor)).await;
    }

    /// Compares a publisher's head with what was taken in.
    pub fn judge_head(&self, head: &Cursor) -> HeadStands {
        self.intake.judge_head(head)
    }

    /// Tells the shards whether resumes must wait (`held`) until it is known if changes were missed.
    pub async fn hold(&self, held: bool) {
        self.to_shards(|| Input::Hold(held)).await;
    }

    /// Tells clients whether changes can arrive (not `paused`), and since when that is so.
    pub async fn feed_state(&self, paused: bool, since: When) {
        self.to_shards(|| Input::Feed { paused, since }).await;
    }

    async fn break_shards(&self, cursor: Option<Cursor>) {
        self.breaks.step();
        self.to_shards(|| Input::Gap(cursor.clone())).await;
        self.breaks.step();
    }

    async fn to_shards(&self, input: impl Fn() -> ShardInput) {
        for shard in &self.shards {
            // A shard ends only when the process shuts down; its clients then reconnect to another gateway.
            let _ = shard.send(input()).await;
        }
    }

    /// Tells the shards whether the feed is current: the bus is connected, and everything published before was taken
    /// in. Only then can a shard conclude that a change, which a client has seen on another gateway, should have
    /// arrived here.
    pub async fn current(&mut self, current: bool) {
        if self.current != current {
            self.current = current;
            self.begun |= current;
            self.to_shards(|| Input::Current(current)).await;
        }
    }

    /// The newest number that was taken in; `None` before the first.
    pub fn head(&self) -> Option<Cursor> {
        self.intake.head()
    }

    /// Forgets changes that have become too old. Call it about once a second.
    pub fn tick(&mut self) {
        self.intake.tick(now());
    }
}

fn now() -> When {
    When::from_system_time(SystemTime::now())
}

/// A timer for [`Ingest::tick`]: once a second; missed ticks are not made up for.
pub fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}
