//! What becomes of a message of the bus: recorded, known already, or the sign of a hole.
//!
//! Goes in: messages in order of arrival, from the live queue or from history. Comes out: an [`Update`] for the shards
//! (and, where continuity was lost, the cursor to tell first), or [`Taken::Hole`]: fill it from history, then offer the
//! message again with [`Intake::anyway`].

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{Cursor, Epoch, When};

use super::frame;
use super::input::Update;
use super::numbering::Continuity;
use super::replay::{Recorder, Replay};
use super::sequence::{Admit, Sequence};

/// What became of a message.
#[derive(Debug)]
pub enum Taken {
    /// It is in the replay cache; hand it to the shards.
    New(New),
    /// It was seen before; nothing to do.
    Known,
    /// Numbers before it have not come.
    Hole {
        /// How many; none where it cannot be told, because the epoch is new.
        missing: Option<u64>,
        /// Its number.
        before: Cursor,
    },
}

/// A recorded change.
#[derive(Debug)]
pub struct New {
    /// For every shard.
    pub update: Update,
    /// Tell this first: continuity is lost, and what follows comes after the cursor.
    pub gap: Option<Cursor>,
    /// It came after later ones.
    pub late: bool,
}

/// The one writer of a feed.
#[derive(Debug)]
pub struct Intake {
    recorder: Recorder,
    sequence: Sequence,
    /// Numbers the changes of producers that give none.
    own: Cursor,
}

impl Intake {
    /// Fills `recorder`'s cache. `own_epoch` numbers the changes of producers that give no number.
    pub fn new(recorder: Recorder, own_epoch: Epoch) -> Intake {
        Intake { recorder, sequence: Sequence::default(), own: Cursor { epoch: own_epoch, seq: 0 } }
    }

    /// Takes a message in, unless it is known or shows a hole. `now` stands in for a producer's word on when it had it.
    pub fn offer(&mut self, message: &BusMessage, recorded: Option<When>, now: When) -> Taken {
        if let Some(cursor) = &message.cursor {
            match self.sequence.judge(cursor) {
                Admit::Ahead { missing } => return Taken::Hole { missing: Some(missing), before: cursor.clone() },
                Admit::NewEpoch if cursor.seq > 1 => return Taken::Hole { missing: None, before: cursor.clone() },
                _ => {}
            }
        }
        self.anyway(message, recorded, now)
    }

    /// Takes a message in, unless it is known. A hole before it is given up: what is missing is a gap.
    pub fn anyway(&mut self, message: &BusMessage, recorded: Option<When>, now: When) -> Taken {
        let cursor = message.cursor.clone().unwrap_or_else(|| {
            self.own.seq += 1;
            self.own.clone()
        });
        let continuity = match self.sequence.admit(&cursor) {
            Admit::Next => Continuity::Next,
            Admit::NewEpoch | Admit::Ahead { .. } => Continuity::Broken,
            Admit::Late => Continuity::Late,
            Admit::Known => return Taken::Known,
        };
        let change = message.change;
        // A producer whose clock is wrong must not make everything look new for good.
        let latest = When::from_micros(now.as_micros() + 60_000_000).unwrap_or(now);
        let pos = self.recorder.record(change, recorded.unwrap_or(now).min(latest), &cursor, continuity);
        let replay = self.recorder.replay();
        let shown = if continuity == Continuity::Late { replay.cursor_at(pos) } else { Some(cursor.clone()) };
        let (mut classic, mut modern) = (Vec::with_capacity(96), Vec::with_capacity(160));
        frame::push_update(&mut classic, change);
        frame::push_update_with_cursor(&mut modern, change, shown.as_ref().unwrap_or(&cursor));
        let number = (continuity != Continuity::Late).then_some(cursor);
        let gap = if continuity == Continuity::Broken { replay.cursor_before(pos) } else { None };
        let update = Update { pos, bug: change.bug, number, classic: classic.into(), modern: modern.into() };
        Taken::New(New { update, gap, late: continuity == Continuity::Late })
    }

    /// The newest number of the epoch that was used last.
    pub fn head(&self) -> Option<Cursor> {
        self.sequence.head()
    }

    /// The cache that is filled.
    pub fn replay(&self) -> &Replay {
        self.recorder.replay()
    }

    /// Lets go of what has become too old.
    pub fn tick(&mut self, now: When) {
        self.recorder.tick(now);
    }
}
