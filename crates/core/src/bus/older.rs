//! Whether what comes lies before all that is known here.
//!
//! Goes in: what became of each change of a reading of history from its first message, or of what had waited in a durable
//! queue. Comes out: whether the next one is older than everything known. A number that is older may have a tag that nothing
//! known tells of, because the shim had started again in between; it is none the less of the same history, and comes
//! late. Both sources are in order, so everything before the first known number in them is older than that.
//!
//! Example: a gateway that could not read history knows 9 (tag c) only. Later it reads 4 (tag a), 7 (tag b), 8 (tag c), 9
//! (tag c). By its tag alone 4 would be of another history, and 9 would have ended with it.

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::BusMessage;

use crate::input::Update;
use crate::sequencer::{New, Sequencer, Taken};

/// How far a source is from what is known.
#[derive(Clone, Debug, Default)]
pub struct Older {
    /// Nothing known was met yet.
    before: bool,
    /// The last older number.
    last: Option<Cursor>,
    /// The same, where it does not lead to what is known.
    doubtful: Option<Cursor>,
}

impl Older {
    /// A source that begins before what is known, if anything is.
    pub fn new(anything_known: bool) -> Older {
        Older { before: anything_known, ..Older::default() }
    }

    /// Whether what comes next is older than all that is known, unless it is known.
    pub fn is_before(&self) -> bool {
        self.before
    }

    /// At the end of the source: its last number, where nothing in it led to what is known. It is of another history then, or
    /// what lies between is missing, which nobody can tell.
    pub fn leads_nowhere(&self) -> Option<&Cursor> {
        self.doubtful.as_ref().filter(|_| self.before)
    }

    /// Notes what became of a change. `head`: the newest number before it.
    pub fn note(&mut self, message: &BusMessage, taken: &Taken, head: Option<&Cursor>, sequencer: &Sequencer) {
        let Some(cursor) = message.cursor.as_ref().filter(|_| self.before) else { return };
        let other_ledger = head.is_some_and(|head| head.epoch != cursor.epoch);
        match taken {
            Taken::New(New { update: Update { number: None, .. }, .. }) => {
                self.doubtful = (!sequencer.leads_on(cursor)).then(|| cursor.clone());
                self.last = Some(cursor.clone());
            }
            // Published twice.
            Taken::Known
                if self.last.as_ref().is_some_and(|last| last.epoch == cursor.epoch && cursor.seq <= last.seq) => {}
            // What is known of its own ledger may come yet.
            Taken::New(_) | Taken::Hole { .. } if other_ledger => {}
            Taken::Known | Taken::New(_) | Taken::Hole { .. } => *self = Older::default(),
        }
    }
}
