//! What a pod's planner says, compared with what must be.
//!
//! Goes in: what it tells the shards and the log. Comes out: inputs in the shards' queues, or the promise that was broken.

use bugfeed_core::bus::{Cause, Say, Tell, Why};
use bugfeed_core::input::Update;
use bugfeed_protocol::{Cursor, When};

use crate::broker::{Item, bus_message};
use crate::bus::{Around, Checked, Said};
use crate::pod::Life;
use crate::shadow::Judged;

impl Life {
    /// A durable queue that was kept gives all that the lives before had not recorded, of each history.
    pub fn check_queue(&mut self, item: &Item, around: &Around<'_>) -> Checked {
        let Some(cursor) = item.cursors().next() else { return Ok(()) };
        let first = !std::mem::replace(&mut self.delivered, true);
        let recorded =
            self.recorded[..self.inherited].iter().filter(|known| around.truth.is_one_history(known, cursor));
        if let Some(last) = recorded.max_by_key(|known| known.seq).filter(|_| first && around.broker.dropped == 0)
            && cursor.seq > last.seq + 1
        {
            return Err(format!("pod {}: its queue had all since {last}, but gives {cursor}", around.pod));
        }
        Ok(())
    }

    /// Something is logged or counted.
    pub fn said(&mut self, say: Say, around: &Around<'_>) -> Checked {
        let pod = around.pod;
        match say {
            Say::Late => self.bus.said.late = true,
            Say::Forked(..) => self.bus.said.forked = true,
            Say::Repeated => {
                let first = self.bus.first;
                let (item, _, _) = self.in_hand(pod)?;
                let (number, judged) = self.judge(&item, first, |judged| *judged == Judged::Known);
                if judged != Judged::Known {
                    return Err(format!("pod {pod}: {number} was never seen, but dropped"));
                }
                // A head may have said it: whoever was told that gap has it.
                self.recorded.extend(item.cursors().cloned());
            }
            Say::Hole(_, before) => {
                let first = self.bus.first;
                let (item, _, _) = self.in_hand(pod)?;
                if !self.judge(&item, first, |judged| judged.breaks()).1.breaks() {
                    return Err(format!("pod {pod}: no hole before {before}"));
                }
                (self.bus.held, self.bus.read_to) = (Some(item), None);
                self.bus.held_rest = std::mem::take(&mut self.bus.subjects);
            }
            Say::HeadHeard => self.bus.heard_ms = Some(around.now_ms),
            Say::Gap(_) | Say::HeadDiffers(_) | Say::HistoryRead(_) | Say::NoHistory { .. } => {}
        }
        Ok(())
    }

    /// The message that something is said of: the one handed in, or else the one that was held. Whether it came from the queue
    /// just now, and up to where history was read for it.
    fn in_hand(&mut self, pod: usize) -> Checked<(Item, bool, Option<u64>)> {
        self.bus.first = false;
        if let Some((item, live)) = self.bus.subjects.pop_front() {
            return Ok((item, live, None));
        }
        self.bus.older = false;
        let held = self.bus.held.take().map(|item| (item, false, self.bus.read_to));
        self.bus.subjects = std::mem::take(&mut self.bus.held_rest);
        held.ok_or_else(|| format!("pod {pod}: something is said of no message"))
    }

    /// What must become of a change, and whether that `fits` what was said of it. Only at the beginning of a message is it
    /// known whether it lies before all that is known; within one, a change may end that.
    fn judge(&mut self, item: &Item, first: bool, fits: impl Fn(&Judged) -> bool) -> (Cursor, Judged) {
        let judged = self.judge_as(item, self.bus.older);
        if first || !self.bus.older || fits(&judged.1) {
            return judged;
        }
        let later = self.judge_as(item, false);
        if !fits(&later.1) {
            return judged;
        }
        self.bus.older = false;
        later
    }

    fn judge_as(&self, item: &Item, older: bool) -> (Cursor, Judged) {
        let (message, _) = bus_message(item);
        self.shadow.borrow().judge_message(message.cursor.as_ref(), message.tag_before(), older)
    }

    /// The shards are told something.
    pub fn told(&mut self, tell: &Tell, around: &Around<'_>) -> Checked {
        match tell {
            Tell::Update(update) => self.updated(update, around)?,
            Tell::Updates(updates) => updates.iter().try_for_each(|update| self.updated(update, around))?,
            Tell::Gap(cursor, Cause::Change) => self.bus.said.gap.clone_from(cursor),
            Tell::Gap(_, Cause::Unproven) => self.lose(around)?,
            Tell::Gap(Some(cursor), Cause::Head(why)) => self.go_on_after(cursor, *why, around)?,
            Tell::Gap(cursor, cause) => return Err(format!("a gap {cursor:?} for {cause:?}")),
            Tell::Hold(held) => {
                self.bus.hold = *held;
                let mut shadow = self.shadow.borrow_mut();
                shadow.holds += u32::from(*held);
                shadow.held = *held;
            }
            Tell::Current(current) => {
                self.bus.through |= current;
                self.bus.current = *current;
                self.shadow.borrow_mut().current(*current);
            }
            Tell::Feed { paused, .. } => {
                if !(*paused || self.bus.is_connected() && self.bus.through) {
                    return Err(format!("pod {}: live, without a connection or history", around.pod));
                }
                self.bus.pauses += u64::from(*paused);
                self.bus.paused = *paused;
            }
        }
        for lane in &mut self.lanes {
            lane.inputs.push_back(tell.input(|_: u64| -> When { around.now }));
        }
        Ok(())
    }

    /// A change is recorded, and handed to the shards.
    fn updated(&mut self, update: &Update, around: &Around<'_>) -> Checked {
        let pod = around.pod;
        let Said { late, forked, gap } = std::mem::take(&mut self.bus.said);
        let first = self.bus.first;
        let (item, live, filled) = self.in_hand(pod)?;
        let fits = |judged: &Judged| {
            let same = late == (*judged == Judged::Late) && forked == (*judged == Judged::Forked);
            same && gap.is_some() == judged.breaks()
        };
        let (number, judged) = self.judge(&item, first, fits);
        let (bus, _) = bus_message(&item);
        if bus.change != update.change {
            return Err(format!("pod {pod}: {update:?} was made of {item:?}"));
        }
        if judged == Judged::Known {
            return Err(format!("pod {pod}: {number} taken in twice"));
        }
        if live && gap.is_some() && number.seq > 1 {
            return Err(format!("pod {pod}: a gap before {item:?}, and history was not asked"));
        }
        let mut shadow = self.shadow.borrow_mut();
        if !fits(&judged) {
            return Err(format!(
                "pod {pod}: {number} after {:?}: late {late}, gap {gap:?}, forked {forked}; should be {judged:?}",
                shadow.head
            ));
        }
        let same = shadow.head.as_ref().is_some_and(|head| around.truth.is_one_history(head, &number));
        // What is known, of a history that has ended here, is not taken in again.
        let of = |other: &Cursor| around.truth.is_one_history(other, &number) && !shadow.has_ended(other);
        let has = |end| same && around.broker.in_stream(end, shadow.head.as_ref(), number.seq, of);
        if judged == Judged::Broken && filled.is_some_and(has) {
            return Err(format!("pod {pod}: gap before {number}, but history has what is missing"));
        }
        let fact = around.truth.of(bus.change.when).ok_or("a change that never was")?;
        let pos = shadow.record(fact, &number, bus.tag_before(), judged);
        if update.pos != pos {
            return Err(format!("pod {pod}: {number} at position {}, not {pos}", update.pos));
        }
        drop(shadow);
        self.recorded.extend(bus.cursor);
        around.swarm.check_bounds(&self.cache, pod)
    }

    /// Nothing proves that nothing was missed.
    fn lose(&mut self, around: &Around<'_>) -> Checked {
        if let (Some(end), Some(head)) = (self.bus.read_to, &self.bus.read_from)
            && around.broker.meets(end, head)
        {
            return Err(format!("pod {}: continuity given up, but history has {head}", around.pod));
        }
        self.bus.loses += 1;
        self.shadow.borrow_mut().lose();
        Ok(())
    }

    fn go_on_after(&mut self, cursor: &Cursor, why: Why, around: &Around<'_>) -> Checked {
        self.bus.said = Said::default();
        let head = self.shadow.borrow().head.clone();
        // What is known, of a history that has ended here, is not taken in again.
        let of = |other: &Cursor| around.truth.is_one_history(other, cursor) && !self.shadow.borrow().has_ended(other);
        if let Some(end) = self.bus.read_to.filter(|_| why == Why::Missing)
            && head.as_ref().is_some_and(|head| around.truth.is_one_history(head, cursor))
            // The numbers up to a head that was taken in itself, before another ledger was heard, are not missing.
            && !self.shadow.borrow().has_seen(cursor)
            && around.broker.in_stream(end, head.as_ref(), cursor.seq + 1, of)
        {
            return Err(format!("pod {}: gap up to {cursor} after {head:?}, but history has it", around.pod));
        }
        self.bus.head_gaps += 1;
        self.shadow.borrow_mut().go_on_after(cursor);
        Ok(())
    }
}
