//! The way to the bus, looked at before it is used: does what was published there belong to this ledger's history?
//!
//! Goes in: what the bus keeps, and what the ledger says about it. Comes out: an open way, a pause, or a new epoch. A
//! ledger that was set back (a copy was restored, a replica that is behind took over) would give numbers out twice. What
//! the bus keeps shows it: at every new connection, and before the first batch of a term, the numbers that history ends
//! with are compared with the ledger's own, tag by tag. Where history cannot be read, gateways decide, by the tags.

use bugfeed_protocol::Cursor;

use super::{Action, Batch, Fault, Holds, Outbox, Outlet, Phase};

/// How often history is asked before changes go on without having been compared.
const ATTEMPTS: u32 = 3;

impl Outlet {
    pub(super) fn connected(
        &mut self,
        now_ms: u64,
        batch: Batch,
        fresh: bool,
        outbox: &mut Outbox,
        out: &mut Vec<Action>,
    ) {
        if fresh {
            self.compared = false;
            self.confirm(None, out);
        }
        if self.compared {
            self.use_way(now_ms, batch, outbox, out);
        } else {
            self.phase = Phase::ReadingEnd(batch);
            out.push(Action::ReadEnd);
        }
    }

    pub(super) fn end_not_read(&mut self, batch: Batch, fault: Fault, out: &mut Vec<Action>) {
        // Where the broker blocks, nothing could be published either: no reason to go on without.
        self.failures += u32::from(fault != Fault::Blocked);
        if fault == Fault::Blocked || self.failures < ATTEMPTS {
            return self.failed(fault, 0, out);
        }
        out.push(Action::NotCompared);
        self.end_read(batch, None, out);
    }

    pub(super) fn end_read(&mut self, batch: Batch, end: Option<Vec<Cursor>>, out: &mut Vec<Action>) {
        self.failures = 0;
        match end {
            None => self.note(batch, None, out),
            Some(end) => self.compare(batch, end, 0, out),
        }
    }

    /// Compares the numbers that history ends with, from one of them on.
    fn compare(&mut self, batch: Batch, end: Vec<Cursor>, at: usize, out: &mut Vec<Action>) {
        match end.get(at) {
            None => self.note(batch, Some(end.last().cloned()), out),
            Some(found) => {
                out.push(Action::LookUp(found.clone()));
                self.phase = Phase::Comparing { batch, end, at };
            }
        }
    }

    pub(super) fn looked_up(&mut self, batch: Batch, end: Vec<Cursor>, at: usize, holds: Holds, out: &mut Vec<Action>) {
        let Some(found) = end.get(at) else { return };
        match holds {
            Holds::OtherTag(_) | Holds::Beyond(_) => {
                self.confirm(None, out);
                out.push(Action::BeginEpoch { found: found.clone(), holds });
                return;
            }
            Holds::OtherLedger if at + 1 == end.len() => out.push(Action::OtherLedger(found.clone())),
            Holds::OtherLedger | Holds::Same | Holds::Former => {}
        }
        self.compare(batch, end, at + 1, out);
    }

    fn note(&mut self, batch: Batch, last: Option<Option<Cursor>>, out: &mut Vec<Action>) {
        self.phase = Phase::Noting(batch);
        out.push(Action::NoteRoute(last));
    }
}
