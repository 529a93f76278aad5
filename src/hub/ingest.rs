//! The one way into a feed: judges a message's number, records the change, hands it to the shards.
//!
//! Goes in: messages as the bus delivers them. Comes out: an entry in the replay cache, then an update in the queue of
//! every shard. When [`Ingest::message`] returns, the change is in the replay cache and may be acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bugfeed_protocol::bus::{self, BusMessage};
use bugfeed_protocol::{Cursor, Epoch, When};
use tokio::sync::mpsc;

use super::ShardInput;
use crate::core::frame;
use crate::core::replay::Recorder;
use crate::core::sequence::{Admit, Sequence};
use crate::core::shard::{Input, Update};
use crate::events::Events;

/// The writing side of a feed, owned by the task that listens to its bus.
#[derive(Debug)]
pub struct Ingest {
    /// The feed's name, for logs and metrics.
    pub feed: String,
    recorder: Recorder,
    sequence: Sequence,
    /// Numbers the changes of producers that give none.
    own: Cursor,
    shards: Vec<mpsc::Sender<ShardInput>>,
    /// For the bus that feeds it to log with.
    pub events: Arc<Events>,
    last_poison: Option<Instant>,
}

impl Ingest {
    pub(super) fn new(
        feed: String,
        recorder: Recorder,
        shards: Vec<mpsc::Sender<ShardInput>>,
        events: Arc<Events>,
    ) -> Ingest {
        let own = Cursor { epoch: Epoch::from_random(rand::random()), seq: 0 };
        Ingest { feed, recorder, sequence: Sequence::default(), own, shards, events, last_poison: None }
    }

    /// Reads a message of the bus and takes it in; one that cannot be read is logged and counted.
    pub async fn body(&mut self, body: &[u8], recorded: Option<When>) {
        match bus::decode(body) {
            Ok(message) => self.message(message, recorded).await,
            Err(reason) => {
                let quiet = self.last_poison.is_some_and(|last| last.elapsed() < Duration::from_secs(60));
                if !quiet {
                    self.last_poison = Some(Instant::now());
                }
                self.events.poison(&self.feed, body, &reason, quiet);
            }
        }
    }

    /// Takes a change in, unless it is known. `recorded` is the producer's word on when it had it.
    pub async fn message(&mut self, message: BusMessage, recorded: Option<When>) {
        let cursor = message.cursor.unwrap_or_else(|| {
            self.own.seq += 1;
            self.own.clone()
        });
        match self.sequence.admit(&cursor) {
            Admit::Next => {}
            Admit::NewEpoch => self.events.new_epoch(&self.feed, &cursor),
            Admit::Ahead { missing } => self.events.missing(&self.feed, missing, &cursor),
            Admit::Late => self.events.late(&self.feed),
            Admit::Known => return self.events.repeated(&self.feed),
        }
        let recorded = recorded.unwrap_or_else(|| When::from_system_time(SystemTime::now()));
        let pos = self.recorder.record(message.change, recorded);
        let mut classic = Vec::with_capacity(96);
        frame::push_update(&mut classic, message.change);
        let update = Update { pos, bug: message.change.bug, classic: classic.into() };
        self.events.change(&self.feed);
        for shard in &self.shards {
            // A shard is gone only when the process shuts down; its clients then come back elsewhere.
            let _ = shard.send(Input::Update(update.clone())).await;
        }
    }

    /// Lets go of what has become too old; call it about once a second.
    pub fn tick(&mut self) {
        self.recorder.tick(When::from_system_time(SystemTime::now()));
    }
}
