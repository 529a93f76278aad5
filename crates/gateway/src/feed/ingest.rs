//! The one way into a feed: hands what the core's intake has recorded to every shard.
//!
//! Goes in: messages as the bus delivers them. Comes out: an entry in the replay cache, then an update in the queue of
//! every shard. When a message was taken, the change is in the replay cache and may be acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

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

/// The writing side of a feed, owned by the task that listens to its bus.
#[derive(Debug)]
pub struct Ingest {
    /// The feed's name, for logs and metrics.
    pub feed: String,
    intake: Intake,
    shards: Vec<mpsc::Sender<ShardInput>>,
    /// For the bus that feeds it to log with.
    pub events: Arc<Events>,
    changes: Counter,
    last_poison: Option<Instant>,
    last_fork: Option<Instant>,
    last_gap: Option<Instant>,
    current: bool,
    breaks: Breaks,
    /// The feed was current once, so that somebody may have been told something.
    begun: bool,
}

/// What came of a message.
#[derive(Debug)]
pub enum Came {
    /// The change that was to come.
    Next,
    /// One that came late, or was known.
    Other,
    /// One that ended what went before: clients are told of a gap.
    Broken,
    /// The sign of a hole.
    Hole(Hole),
}

/// A message before which others are missing: fill the hole from history, then give it to [`Ingest::take_anyway`].
#[derive(Debug)]
pub struct Hole {
    /// The message.
    pub message: BusMessage,
    /// When its producer had it.
    pub recorded: Option<When>,
    /// How many are missing, where that can be told.
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
            last_poison: None,
            last_fork: None,
            last_gap: None,
            current: false,
            breaks,
            begun: false,
        }
    }

    /// Before anything is taken in and anybody is served: the next change of this ledger will be its first.
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

    /// A message cannot be read.
    pub fn poison(&mut self, body: &[u8], reason: &BadMessage) {
        let quiet = is_recent(&mut self.last_poison);
        self.events.poison(&self.feed, body, reason, quiet);
    }

    /// Takes a change in, unless it is known or shows a hole. `recorded` is the producer's word on when it had it.
    pub async fn take(&mut self, message: BusMessage, recorded: Option<When>) -> Came {
        match self.intake.offer(&message, recorded, now()) {
            Taken::New(new) => {
                let came = match &new {
                    New { gap: Some(_), .. } => Came::Broken,
                    // One that came late, or has no number, moves no number and proves nothing.
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

    /// Whether a message shows no hole any more.
    pub fn continues(&self, message: &BusMessage) -> bool {
        self.intake.continues(message)
    }

    /// Takes a change in, unless it is known. What is missing before it is given up, and clients are told.
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
            let quiet = !self.begun || is_recent(&mut self.last_fork);
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

    /// Tells the shards that continuity is lost. What happened before anybody was served is nobody's news.
    async fn tell_gap(&mut self, cursor: Option<Cursor>) {
        if self.begun {
            let quiet = is_recent(&mut self.last_gap);
            self.events.gap(&self.feed, cursor.as_ref(), quiet);
        }
        self.break_shards(cursor).await;
    }

    /// Continuity is lost, and nothing is known of what comes next.
    pub async fn lose(&mut self) {
        let cursor = self.intake.lose();
        self.tell_gap(cursor).await;
    }

    /// Continuity is lost; the next change follows this cursor.
    pub async fn go_on_after(&mut self, cursor: &Cursor, why: Why) {
        if why == Why::Forked {
            let quiet = !self.begun || is_recent(&mut self.last_fork);
            self.events.forked(&self.feed, cursor, quiet);
        }
        let cursor = self.intake.go_on_after(cursor);
        self.tell_gap(Some(cursor)).await;
    }

    /// Where a publisher's head is, given what was taken in.
    pub fn judge_head(&self, head: &Cursor) -> HeadStands {
        self.intake.judge_head(head)
    }

    /// Whether resumes wait until it is known if changes were missed.
    pub async fn hold(&self, held: bool) {
        self.to_shards(|| Input::Hold(held)).await;
    }

    /// Tells clients whether changes can arrive.
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
            // A shard is gone only when the process shuts down; its clients then come back elsewhere.
            let _ = shard.send(input()).await;
        }
    }

    /// Tells the shards whether the feed is current: the bus is connected, and what was published before was taken in.
    /// Only then can it be told that something ought to have come.
    pub async fn current(&mut self, current: bool) {
        if self.current != current {
            self.current = current;
            self.begun |= current;
            self.to_shards(|| Input::Current(current)).await;
        }
    }

    /// The newest number taken in.
    pub fn head(&self) -> Option<Cursor> {
        self.intake.head()
    }

    /// Lets go of what has become too old; call it about once a second.
    pub fn tick(&mut self) {
        self.intake.tick(now());
    }
}

/// Whether something was said within a minute; if not, it is said now.
fn is_recent(said: &mut Option<Instant>) -> bool {
    let recent = said.is_some_and(|last| last.elapsed() < Duration::from_secs(60));
    if !recent {
        *said = Some(Instant::now());
    }
    recent
}

fn now() -> When {
    When::from_system_time(SystemTime::now())
}

/// When [`Ingest::tick`] is due: once a second, and none is made up for.
pub fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}
