//! How a shard sends updates as they come: it stages them first, and then writes all that a socket is to be sent in one
//! write.
//!
//! A write costs a few microseconds whatever it holds, so updates that wait in the shard's queue together are sent
//! together: a session's share of them is a set of bits, and sessions with the same share are written the same bytes.
//! An update that nobody watches is never encoded.

use super::{Shard, Update};
use crate::backlog::{Backlog, Phase};
use crate::frame;
use crate::replay::Pos;
use crate::session::{Peer, Session, State, write};
use crate::subscriptions::Slot;

/// The most updates that are staged; a session's share is a set of this many bits.
const STAGE: usize = 64;

/// Updates on their way to the sessions that watch them.
#[derive(Debug, Default)]
pub(super) struct Staged {
    updates: Vec<Update>,
    /// By slot: which of `updates` have yet to be written to the session, a bit each.
    shares: Vec<u64>,
    /// The slots that have a share; those before `next` have been written theirs.
    slots: Vec<Slot>,
    next: usize,
    classic: Frames,
    modern: Frames,
}

impl Staged {
    fn share_with(&mut self, slot: Slot, bit: usize) {
        let at = slot as usize;
        if at >= self.shares.len() {
            self.shares.resize(at + 1, 0);
        }
        if self.shares[at] == 0 {
            self.slots.push(slot);
        }
        self.shares[at] |= 1 << bit;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn clear(&mut self) {
        self.updates.clear();
        self.slots.clear();
        self.next = 0;
        self.classic.clear();
        self.modern.clear();
    }
}

/// The frames of staged updates in one of the two protocols. Each frame is encoded once.
#[derive(Debug, Default)]
struct Frames {
    /// By place in `Staged::updates`; empty until needed.
    each: Vec<Vec<u8>>,
    /// The frames of the share that was asked for last, one after the other.
    joined: Vec<u8>,
    joined_share: u64,
}

fn bits(mut share: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = share.trailing_zeros() as usize;
        share &= share.wrapping_sub(1);
        (bit < STAGE).then_some(bit)
    })
}

impl Frames {
    fn clear(&mut self) {
        self.each.iter_mut().for_each(Vec::clear);
        self.joined_share = 0;
    }

    /// The frames of a share.
    fn of(&mut self, share: u64, updates: &[Update], encode: impl Fn(&mut Vec<u8>, &Update)) -> &[u8] {
        if share != self.joined_share {
            self.joined_share = share;
            self.joined.clear();
            for bit in bits(share) {
                if self.each.len() <= bit {
                    self.each.resize_with(bit + 1, Vec::new);
                }
                let frame = &mut self.each[bit];
                if frame.is_empty() {
                    encode(frame, &updates[bit]);
                }
                self.joined.extend_from_slice(frame);
            }
        }
        &self.joined
    }

    /// Where a write of a share's frames stopped after `written` bytes: how many frames were begun; the place of the
    /// first frame that is not completely written; and the rest of that frame (empty if it was not begun).
    fn cut(&self, share: u64, mut written: usize) -> (u64, usize, &[u8]) {
        for (whole, bit) in (0..).zip(bits(share)) {
            let frame = &self.each[bit];
            if written < frame.len() {
                return if written > 0 { (whole + 1, bit, &frame[written..]) } else { (whole, bit, &[]) };
            }
            written -= frame.len();
        }
        unreachable!("a cut write is shorter than its frames")
    }
}

/// What becomes of an update for one session.
enum Share {
    /// It is written to it.
    Live,
    /// Nothing: the session lags, or its client has the update.
    None,
    /// The client has seen more at another gateway, and nobody can tell whether it has the update.
    NotComparable,
    /// The update lies beyond what the client has seen at another gateway.
    Beyond,
}

impl<P> Session<P> {
    #[inline(always)]
    fn share(&self, update: &Update) -> Share {
        if !matches!(self.state, State::Open) {
            return Share::None;
        }
        match self.modern.as_deref().filter(|modern| modern.watermark.is_some()) {
            None => Share::Live,
            Some(modern) if update.number.as_ref().is_some_and(|number| modern.has(number)) => Share::None,
            Some(modern) if modern.cannot_tell(update.number.as_ref()) => Share::NotComparable,
            Some(_) => Share::Beyond,
        }
    }
}

impl<P: Peer> Shard<P> {
    /// Whether the next update cannot be staged before [`Shard::flush`].
    pub fn stage_is_full(&self) -> bool {
        self.staged.updates.len() == STAGE || self.staged.next > 0
    }

    /// How many sessions have yet to be written what is staged.
    pub fn staged(&self) -> usize {
        self.staged.slots.len() - self.staged.next
    }

    /// Takes in an update: from here on it counts as processed. It is written by [`Shard::flush`]; where the stage is full,
    /// what it holds is written at once.
    pub fn stage(&mut self, update: &Update) {
        if self.stage_is_full() {
            self.flush(usize::MAX);
        }
        if update.pos == 1 && update.number.as_ref().is_some_and(|number| number.seq > 1) {
            // A client that came while nothing was known may lack changes that were published meanwhile and did not
            // come here.
            self.gap(self.replay.cursor_before(1));
        }
        self.processed = update.pos;
        self.resumes_at = None;
        let bit = self.staged.updates.len();
        let watchers = self.index.watchers(update.change.bug);
        let mut is_watched = !watchers.is_empty();
        let (mut not_comparable, mut beyond) = (Vec::new(), Vec::new());
        for &slot in watchers {
            match self.sessions[slot as usize].share(update) {
                Share::Live => self.staged.share_with(slot, bit),
                Share::None => {}
                Share::NotComparable => not_comparable.push(slot),
                Share::Beyond => beyond.push(slot),
            }
        }
        if !self.all.is_empty() {
            is_watched = true;
            self.stage_for_all(update, bit, &mut not_comparable, &mut beyond);
        }
        let pos = update.pos;
        // The update lies beyond what these clients have seen at another gateway. So it is known now whether that was
        // the same history.
        let (forked, same_history): (Vec<Slot>, Vec<Slot>) =
            beyond.into_iter().partition(|&slot| self.is_on_fork(slot));
        for slot in same_history {
            self.staged.share_with(slot, bit);
        }
        if is_watched {
            self.staged.updates.push(update.clone());
        }
        if !not_comparable.is_empty() {
            self.lag_behind(&not_comparable, pos - 1, false);
        }
        if !forked.is_empty() {
            self.lag_behind(&forked, pos, true);
        }
    }

    /// Adds an update to the shares of the sessions that watch all bugs. Kept apart from [`Shard::stage`], whose loop is the
    /// hot path. A session that also watches this very bug is looked at twice, and has one share all the same.
    #[cold]
    #[inline(never)]
    fn stage_for_all(&mut self, update: &Update, bit: usize, not_comparable: &mut Vec<Slot>, beyond: &mut Vec<Slot>) {
        for &slot in &self.all {
            match self.sessions[slot as usize].share(update) {
                Share::Live => self.staged.share_with(slot, bit),
                Share::None => {}
                Share::NotComparable => not_comparable.push(slot),
                Share::Beyond => beyond.push(slot),
            }
        }
    }

    /// Makes these sessions lag, so that they get the update by a catch-up from position `after`. They are not sent the
    /// update's frame, because its cursor says how far this gateway is, and their clients have seen more at another
    /// gateway. What was staged before is written first. `gap`: the clients are on another history, and are told a gap
    /// first. Kept apart from [`Shard::stage`], whose loop is the hot path.
    #[cold]
    #[inline(never)]
    fn lag_behind(&mut self, slots: &[Slot], after: Pos, gap: bool) {
        self.flush(usize::MAX);
        for &slot in slots {
            let session = &mut self.sessions[slot as usize];
            if matches!(session.state, State::Open) {
                session.progress_ms = self.now_ms;
                self.tally.gaps += u64::from(gap);
                session.lag(Backlog::new(if gap { Phase::GapOwed } else { Phase::behind(after) }, Vec::new()));
            }
        }
    }

    /// Writes what is staged, to `at_most` sessions. Returns whether nothing is left.
    pub fn flush(&mut self, at_most: usize) -> bool {
        let Staged { updates, shares, slots, next, classic, modern } = &mut self.staged;
        let end = next.saturating_add(at_most).min(slots.len());
        for &slot in &slots[*next..end] {
            let share = std::mem::take(&mut shares[slot as usize]);
            let session = &mut self.sessions[slot as usize];
            debug_assert!(matches!(session.state, State::Open), "others have no share");
            let frames = if session.modern.is_some() { &mut *modern } else { &mut *classic };
            let bytes = frames.of(share, updates, |out, update| match session.modern {
                Some(_) => frame::push_update_with_cursor(out, update.change, &update.cursor),
                None => frame::push_update(out, update.change),
            });
            match write(&session.peer, bytes) {
                Ok(written) if written == bytes.len() => self.tally.live += u64::from(share.count_ones()),
                Ok(written) => {
                    // A frame that was begun is finished first. Frames that were not begun are dropped, and their
                    // changes are found again by the catch-up.
                    let (begun, bit, rest) = frames.cut(share, written);
                    let pos = updates[bit].pos;
                    let after = if rest.is_empty() { pos - 1 } else { pos };
                    self.tally.live += begun;
                    self.tally.lagged += 1;
                    session.progress_ms = self.now_ms;
                    session.lag(Backlog::new(Phase::behind(after), rest.to_vec()));
                }
                Err(_) => session.end(),
            }
        }
        *next = end;
        let done = end == slots.len();
        if done {
            self.staged.clear();
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use crate::input::{Input, SessionLimits};
    use crate::replay::ReplayLimits;
    use crate::shard::tests::{Bed, Wire, bug, change};

    fn stage(bed: &mut Bed, number: u64, second: i64) {
        let update = bed.record(change(number, second));
        bed.shard.take(Input::Update(update));
    }

    fn classic(number: u64, second: i64) -> String {
        format!(r#"{{"command":"update","bug":{number},"when":"1970-01-01T00:00:{second:02}"}}"#)
    }

    #[test]
    fn what_waits_together_is_written_together_in_order() {
        let mut bed = Bed::new(SessionLimits::default(), ReplayLimits::default());
        let wires: Vec<Rc<Wire>> = (0..3).map(|_| bed.connect(usize::MAX / 4)).collect();
        bed.send(&wires[0], r#"{"command":"subscribe","bugs":[1,2]}"#);
        bed.send(&wires[1], r#"{"command":"hello"}"#);
        bed.send(&wires[1], r#"{"command":"subscribe","bugs":[2]}"#);
        wires.iter().for_each(|wire| drop(wire.take()));
        let writes = |at: usize| wires[at].writes.replace(0);
        for at in 0..3 {
            writes(at);
        }
        for (number, second) in [(9, 1), (1, 2), (9, 3), (2, 4), (1, 5)] {
            stage(&mut bed, number, second);
        }
        assert_eq!((writes(0), writes(1)), (0, 0), "nothing is written before the flush");
        assert!(!bed.shard.flush(1), "the other session is left");
        assert_eq!((writes(0), writes(1)), (1, 0));
        assert!(bed.shard.flush(1));
        assert_eq!((writes(0), writes(1), writes(2)), (0, 1, 0));
        assert_eq!(wires[0].take(), [classic(1, 2), classic(2, 4), classic(1, 5)]);
        assert_eq!(wires[1].take(), [r#"{"command":"update","bug":2,"when":"1970-01-01T00:00:04","cursor":"E.4"}"#]);
        assert!(bed.shard.flush(1));
        assert_eq!((writes(0), writes(1)), (0, 0), "written once");
    }

    #[test]
    fn a_command_comes_after_what_was_staged_before_it() {
        let mut bed = Bed::new(SessionLimits::default(), ReplayLimits::default());
        let wire = bed.connect(usize::MAX / 4);
        bed.send(&wire, r#"{"command":"subscribe","bugs":[1]}"#);
        wire.take();
        stage(&mut bed, 1, 1);
        bed.send(&wire, r#"{"command":"unsubscribe","bugs":[1]}"#);
        let unsubscribed = r#"{"command":"unsubscribe","result":"ok","bugs":[]}"#.to_owned();
        assert_eq!(wire.take(), [classic(1, 1), unsubscribed]);
        bed.send(&wire, r#"{"command":"subscribe","bugs":[1]}"#);
        wire.take();
        stage(&mut bed, 1, 2);
        bed.shard.take(Input::Gap(None));
        assert_eq!(wire.take(), [classic(1, 2)], "a gap is told after it");
        stage(&mut bed, 1, 3);
        bed.shard.tick(1);
        assert_eq!(wire.take(), [classic(1, 3)], "a tick writes it");
        stage(&mut bed, 1, 4);
        bed.shard.take(Input::Detach(wire.slot.get()));
        assert_eq!(wire.take(), [classic(1, 4)]);
    }

    /// A socket takes any number of bytes. Every change is sent once and in order, or replaced by the newest of its
    /// bug.
    #[test]
    fn a_write_that_is_cut_anywhere_loses_and_repeats_nothing() {
        for room in 0..300 {
            let mut bed = Bed::new(SessionLimits::default(), ReplayLimits::default());
            let wire = bed.connect(usize::MAX / 4);
            bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,3,4]}"#);
            wire.take();
            wire.room.set(room);
            for number in 1..=4 {
                stage(&mut bed, number, i64::try_from(number).unwrap());
            }
            bed.shard.flush(usize::MAX);
            stage(&mut bed, 9, 9);
            bed.shard.flush(usize::MAX);
            wire.room.set(usize::MAX / 4);
            if wire.wants.take() {
                bed.shard.handle(Input::Writable(wire.slot.get()));
            }
            assert_eq!(wire.take(), [classic(1, 1), classic(2, 2), classic(3, 3), classic(4, 4)], "room {room}");
            let tally = bed.shard.take_tally();
            assert_eq!(tally.live + tally.caught_up, 4, "room {room}: {tally:?}");
        }
    }

    /// More updates than one stage holds, many sessions, and flushes of any size in between.
    #[test]
    fn stages_of_any_size_send_what_one_by_one_sends() {
        for seed in 0..50 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut bed = Bed::new(SessionLimits::default(), ReplayLimits::default());
            let wires: Vec<Rc<Wire>> = (0..20).map(|_| bed.connect(usize::MAX / 4)).collect();
            let mut want: Vec<(Vec<u64>, Vec<String>)> = Vec::new();
            for wire in &wires {
                let bugs: Vec<u64> = (1..10).filter(|_| random.random_bool(0.3)).collect();
                for &number in &bugs {
                    bed.send(wire, &format!(r#"{{"command":"subscribe","bugs":[{}]}}"#, bug(number)));
                }
                wire.take();
                want.push((bugs, Vec::new()));
            }
            for step in 0..200 {
                let (number, second) = (random.random_range(1..10), step % 60);
                stage(&mut bed, number, second);
                for (bugs, texts) in &mut want {
                    if bugs.contains(&number) {
                        texts.push(classic(number, second));
                    }
                }
                if random.random_bool(0.02) {
                    bed.shard.flush(random.random_range(0..10));
                }
            }
            bed.shard.flush(usize::MAX);
            for (wire, (_, texts)) in wires.iter().zip(want) {
                assert_eq!(wire.take(), texts, "seed {seed}");
            }
        }
    }
}
