//! Which of the numbers that arrive on a bus are new.
//!
//! Goes in: the cursor of each message, in order of arrival. Comes out: whether it was seen before, whether numbers
//! before it are missing, and whether it is of another history of the same ledger, which its tag tells. A shim that crashed or lost its broker publishes again with the same numbers; a message may
//! also come after later ones, when its first publication was refused and those behind it were not.

use bugfeed_protocol::{Cursor, Epoch, Tag};

/// What a number means, given those seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// The next one, or the first ever.
    Next,
    /// Another epoch than the last one's, also where it is one from before that goes on: the ledger was made anew, or
    /// there are two producers. How their numbers lie between each other may differ from gateway to gateway.
    NewEpoch,
    /// Later than the next one; this many between have not come (yet).
    Ahead {
        /// How many.
        missing: u64,
    },
    /// Earlier than the newest one, but not seen before.
    Late,
    /// Seen before: drop it.
    Known,
    /// Of another history of the same epoch: the ledger was set back or copied, and gives numbers a second time. What was
    /// seen from this number on belongs to a history that has ended.
    Forked,
}

impl Admit {
    /// Whether the number is newer than all of its epoch, or begins another history of it.
    fn goes_on(self) -> bool {
        matches!(self, Admit::Next | Admit::Ahead { .. } | Admit::Forked)
    }
}

/// Where a publisher's head is, given the numbers seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadStands {
    /// At the newest number seen: nothing is missing.
    Even,
    /// Beyond it: so many numbers have been published and not come.
    Behind {
        /// How many.
        missing: u64,
    },
    /// Before the newest number seen, in the same history as far as can be told.
    Within,
    /// In another history of the same epoch.
    Forked,
    /// In another epoch than the one that went on last.
    OtherEpoch,
}

/// The runs of consecutive numbers seen, of the epochs seen last.
#[derive(Debug, Default)]
pub struct SeenNumbers {
    /// The one that went on last is last.
    epochs: Vec<(Epoch, Runs)>,
}

/// How many epochs are remembered. More than one only where a ledger was made anew or producers share an exchange.
const MAX_EPOCHS: usize = 8;
/// How many separate runs of an epoch are remembered; beyond it the oldest two are taken as one, so that what was
/// missing between them would be dropped if it still came.
const MAX_RUNS: usize = 1024;
/// How many runs of histories that have ended are remembered. A repeat of what is forgotten looks like a fork, which is
/// told as a gap.
const MAX_ENDED: usize = 64;

/// Consecutive numbers that were given under one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    tag: Option<Tag>,
    /// The tag of the number before the first, where it is known.
    before: Option<Tag>,
}

/// What is known of one epoch.
#[derive(Debug, Default)]
struct Runs {
    /// Ascending and disjoint; two that are adjacent have different tags.
    seen: Vec<Run>,
    /// Seen, and of histories that have ended since.
    ended: Vec<Run>,
}

fn contradict(one: Option<Tag>, other: Option<Tag>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

impl SeenNumbers {
    /// Judges a number and remembers it. `before` is the tag of the number before it, where that is known.
    pub fn admit(&mut self, cursor: &Cursor, before: Option<Tag>) -> Admit {
        let first_ever = self.epochs.is_empty();
        if let Some(at) = self.epochs.iter().position(|(epoch, _)| *epoch == cursor.epoch) {
            let admit = self.epochs[at].1.admit(cursor.seq, cursor.tag, before);
            if at + 1 == self.epochs.len() || !admit.goes_on() {
                return admit;
            }
            self.epochs[at..].rotate_left(1);
            return Admit::NewEpoch;
        }
        if self.epochs.len() == MAX_EPOCHS {
            self.epochs.remove(0);
        }
        let mut runs = Runs::default();
        let admit = runs.admit(cursor.seq, cursor.tag, before);
        self.epochs.push((cursor.epoch.clone(), runs));
        if first_ever { admit } else { Admit::NewEpoch }
    }

    /// Remembers a number that lies before all that is known of its epoch, whatever its tag: history is read from its
    /// beginning, and nothing known was met yet. False where that cannot be, because it is known or newer.
    pub fn admit_older(&mut self, cursor: &Cursor, before: Option<Tag>) -> bool {
        let Some((_, runs)) = self.epochs.iter_mut().find(|(epoch, _)| *epoch == cursor.epoch) else { return false };
        let older = runs.is_older(cursor.seq, cursor.tag);
        if older {
            runs.insert(Run { first: cursor.seq, last: cursor.seq, tag: cursor.tag, before });
            runs.bound();
        }
        older
    }

    /// Whether a number that was admitted leads to the ones known after it: they have its tag, or begin after it.
    pub fn leads_on(&self, cursor: &Cursor) -> bool {
        let runs = self.epochs.iter().find(|(epoch, _)| *epoch == cursor.epoch).map(|(_, runs)| runs);
        runs.is_some_and(|runs| {
            let at = runs.seen.partition_point(|run| run.last < cursor.seq);
            let own = runs.seen.get(at).filter(|run| run.first <= cursor.seq);
            let right = runs.seen.get(at + usize::from(own.is_some()));
            own.is_some_and(|own| own.last > cursor.seq)
                || right.is_some_and(|right| right.tag == cursor.tag || right.before == cursor.tag)
        })
    }

    /// Judges a number without remembering it.
    pub fn judge(&self, cursor: &Cursor, before: Option<Tag>) -> Admit {
        let Some(at) = self.epochs.iter().position(|(epoch, _)| *epoch == cursor.epoch) else {
            return if self.epochs.is_empty() { Admit::Next } else { Admit::NewEpoch };
        };
        let admit = self.epochs[at].1.judge(cursor.seq, cursor.tag, before);
        if at + 1 < self.epochs.len() && admit.goes_on() { Admit::NewEpoch } else { admit }
    }

    /// Begins another history of a number's epoch with this number, whatever its tag says: it was seen with another
    /// content.
    pub fn fork(&mut self, cursor: &Cursor) {
        if let Some(at) = self.epochs.iter().position(|(epoch, _)| *epoch == cursor.epoch) {
            self.epochs[at].1.fork(cursor.seq, cursor.tag, None);
            self.epochs[at..].rotate_left(1);
        }
    }

    /// Whether the number before this one was seen, under whatever tag, also in a history that has ended: somebody may have
    /// it, and lack what this history had up to here.
    pub fn has_before(&self, cursor: &Cursor) -> bool {
        let before = cursor.seq.saturating_sub(1);
        let ended = |runs: &Runs| runs.ended.iter().any(|run| (run.first..=run.last).contains(&before));
        let seen = |runs: &Runs| runs.find(before).is_some() || ended(runs);
        self.epochs.iter().any(|(epoch, runs)| *epoch == cursor.epoch && seen(runs))
    }

    /// Where a publisher's head is. Nothing published is even with nothing seen.
    pub fn head_stands(&self, head: &Cursor) -> HeadStands {
        let Some((epoch, runs)) = self.epochs.last() else {
            return if head.seq == 0 { HeadStands::Even } else { HeadStands::Behind { missing: head.seq } };
        };
        if *epoch != head.epoch {
            return HeadStands::OtherEpoch;
        }
        let newest = runs.seen.last().map_or(0, |run| run.last);
        if head.seq > newest {
            return HeadStands::Behind { missing: head.seq - newest };
        }
        let same = match runs.find(head.seq) {
            Some(run) => !contradict(run.tag, head.tag),
            None => head.seq == 0 || runs.may_lie_between(head.seq, head.tag, None),
        };
        match (same, head.seq == newest) {
            (false, _) => HeadStands::Forked,
            (true, true) => HeadStands::Even,
            (true, false) => HeadStands::Within,
        }
    }

    /// The newest number of the epoch that was used last.
    pub fn head(&self) -> Option<Cursor> {
        let (epoch, runs) = self.epochs.last()?;
        let newest = runs.seen.last()?;
        Some(Cursor::new(epoch.clone(), newest.last).tagged(newest.tag))
    }
}

impl Runs {
    fn find(&self, seq: u64) -> Option<&Run> {
        let at = self.seen.partition_point(|run| run.last < seq);
        self.seen.get(at).filter(|run| run.first <= seq)
    }

    /// Whether a number was seen under this tag, in a history that has ended.
    fn has_ended(&self, seq: u64, tag: Option<Tag>) -> bool {
        tag.is_some() && self.ended.iter().any(|run| run.tag == tag && (run.first..=run.last).contains(&seq))
    }

    /// Whether a number lies before the newest one, and neither it nor its history is known.
    fn is_older(&self, seq: u64, tag: Option<Tag>) -> bool {
        self.seen.last().is_some_and(|newest| seq < newest.last)
            && self.find(seq).is_none()
            && !self.has_ended(seq, tag)
    }

    fn judge(&self, seq: u64, tag: Option<Tag>, before: Option<Tag>) -> Admit {
        let Some(newest) = self.seen.last() else { return Admit::Next };
        if self.has_ended(seq, tag) {
            return Admit::Known;
        }
        if seq > newest.last {
            return match seq - newest.last - 1 {
                0 if contradict(newest.tag, before) => Admit::Forked,
                0 => Admit::Next,
                missing => Admit::Ahead { missing },
            };
        }
        let at = self.seen.partition_point(|run| run.last < seq);
        let right = self.seen[at];
        if right.first <= seq {
            return if contradict(right.tag, tag) { Admit::Forked } else { Admit::Known };
        }
        if self.may_lie_between(seq, tag, before) { Admit::Late } else { Admit::Forked }
    }

    /// Whether a number that was not seen can be of the history of those seen on both sides of it. A tag's numbers follow one
    /// another: it has the tag of one side, or begins right after the other. A tag of which nothing else is known cannot be
    /// compared, and counts as another history's: of a ledger that was set back to before what was seen here.
    fn may_lie_between(&self, seq: u64, tag: Option<Tag>, before: Option<Tag>) -> bool {
        let at = self.seen.partition_point(|run| run.last < seq);
        let left = at.checked_sub(1).and_then(|left| self.seen.get(left));
        let right = self.seen.get(at);
        let (left_tag, right_tag) = (left.and_then(|left| left.tag), right.and_then(|right| right.tag));
        if tag.is_none() || left_tag.or(right_tag).is_none() {
            return true;
        }
        let begins = left.is_some_and(|left| left.last + 1 == seq && left.tag == before);
        tag == right_tag
            || right.is_some_and(|right| tag == right.before)
            || left_tag != right_tag && (tag == left_tag || begins)
    }

    fn admit(&mut self, seq: u64, tag: Option<Tag>, before: Option<Tag>) -> Admit {
        // Most numbers are the next one, under the same tag.
        if let Some(newest) = self.seen.last_mut()
            && self.ended.is_empty()
            && newest.last.checked_add(1) == Some(seq)
            && newest.tag == tag
            && before == tag
        {
            newest.last = seq;
            return Admit::Next;
        }
        let admit = self.judge(seq, tag, before);
        match admit {
            Admit::Known => return admit,
            Admit::Forked => self.fork(seq, tag, before),
            _ => self.insert(Run { first: seq, last: seq, tag, before }),
        }
        self.bound();
        admit
    }

    /// Adds one number that is in no run.
    fn insert(&mut self, new: Run) {
        let seq = new.first;
        let at = self.seen.partition_point(|run| run.last < seq);
        let joins_left = at > 0 && self.seen[at - 1].last + 1 == seq && self.seen[at - 1].tag == new.tag;
        let joins_right = self.seen.get(at).is_some_and(|right| right.first - 1 == seq && right.tag == new.tag);
        match (joins_left, joins_right) {
            (true, true) => {
                (self.seen[at].first, self.seen[at].before) = (self.seen[at - 1].first, self.seen[at - 1].before);
                self.seen.remove(at - 1);
            }
            (true, false) => self.seen[at - 1].last = seq,
            (false, true) => (self.seen[at].first, self.seen[at].before) = (seq, new.before),
            (false, false) => self.seen.insert(at, new),
        }
    }

    /// The history goes on with this number: what was seen from it on has ended.
    fn fork(&mut self, seq: u64, tag: Option<Tag>, before: Option<Tag>) {
        while let Some(mut run) = self.seen.pop() {
            if run.last < seq {
                self.seen.push(run);
                break;
            }
            if run.first < seq {
                self.seen.push(Run { last: seq - 1, ..run });
                run.first = seq;
            }
            // What has the same tag is of the same history, and comes again in its place.
            if run.tag.is_some() && run.tag != tag {
                self.ended.push(run);
            }
        }
        self.insert(Run { first: seq, last: seq, tag, before });
        let over = self.ended.len().saturating_sub(MAX_ENDED);
        self.ended.drain(..over);
    }

    fn bound(&mut self) {
        if self.seen.len() > MAX_RUNS {
            let oldest = self.seen.remove(0);
            let next = &mut self.seen[0];
            (next.first, next.before) = (oldest.first, oldest.before);
            next.tag = next.tag.filter(|tag| oldest.tag == Some(*tag));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit_all(cursors: &[(&str, u64)]) -> Vec<Admit> {
        let mut seen = SeenNumbers::default();
        let cursor = |&(epoch, seq): &(&str, u64)| Cursor::new(Epoch::parse(epoch).unwrap(), seq);
        cursors.iter().map(|c| seen.admit(&cursor(c), None)).collect()
    }

    #[test]
    fn numbers_in_every_order() {
        use Admit::*;
        for (cursors, want) in [
            (&[("E", 1), ("E", 2), ("E", 3)][..], &[Next, Next, Next][..]),
            (&[("E", 88), ("E", 88), ("E", 87), ("E", 89)], &[Next, Known, Late, Next]),
            (
                &[("E", 1), ("E", 4), ("E", 2), ("E", 3), ("E", 3), ("E", 5)],
                &[Next, Ahead { missing: 2 }, Late, Late, Known, Next],
            ),
            // 50 was refused, 51 and 52 were not; the shim starts over from 50.
            (
                &[("E", 51), ("E", 52), ("E", 50), ("E", 51), ("E", 52), ("E", 53)],
                &[Next, Next, Late, Known, Known, Next],
            ),
            (&[("E", 9), ("F", 1), ("E", 9), ("E", 10), ("F", 1)], &[Next, NewEpoch, Known, NewEpoch, Known]),
            (&[("E", u64::MAX), ("E", 1), ("E", u64::MAX)], &[Next, Late, Known]),
        ] {
            assert_eq!(admit_all(cursors), want, "{cursors:?}");
        }
    }

    #[test]
    fn against_a_set_of_all_numbers_seen() {
        use rand::{RngExt as _, SeedableRng as _};
        for seed in 0..200 {
            let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
            let (mut runs, mut seen) = (Runs::default(), std::collections::BTreeSet::new());
            for _ in 0..300 {
                let seq = random.random_range(1..120);
                let judged = runs.judge(seq, None, None);
                let admitted = runs.admit(seq, None, None);
                assert_eq!(judged, admitted, "seed {seed}, number {seq}");
                let known = admitted == Admit::Known;
                assert_eq!(known, !seen.insert(seq), "seed {seed}, number {seq}");
                assert!(runs.seen.windows(2).all(|w| w[0].last + 1 < w[1].first), "seed {seed}: {runs:?}");
            }
        }
    }

    /// Numbers of one epoch, as `SEQ.TAG` or `SEQ.TAG after TAG`.
    fn admit_tagged(numbers: &[&str]) -> Vec<Admit> {
        let mut seen = SeenNumbers::default();
        let admit = |text: &&str| {
            let (number, before) = text.split_once(" after ").unwrap_or((text, ""));
            let cursor = Cursor::parse(&format!("E.{number}")).unwrap();
            let before = Tag::parse(before).or(cursor.tag);
            let judged = seen.judge(&cursor, before);
            assert_eq!(seen.admit(&cursor, before), judged, "{text}");
            judged
        };
        numbers.iter().map(admit).collect()
    }

    #[test]
    fn a_history_that_was_set_back_is_told_by_its_tags() {
        use Admit::*;
        let ahead = Ahead { missing: 2 };
        for (numbers, want) in [
            // A shim that starts over goes on with another tag.
            (&["1.a", "2.a", "3.b after a", "4.b"][..], &[Next, Next, Next, Next][..]),
            // Set back to 1: number 2 comes again. What was published before, and comes once more, is known.
            (
                &["1.a", "2.a", "3.a", "2.b after a", "3.b", "3.a", "4.b"],
                &[Next, Next, Next, Forked, Next, Known, Next],
            ),
            // Set back, and as far again by now: what is next does not follow from what was seen.
            (&["1.a", "2.a", "3.a", "4.b"], &[Next, Next, Next, Forked]),
            // ... and then the numbers between come too, from history.
            (
                &["1.a", "2.a", "3.a", "4.b", "2.b after a", "3.b", "4.b"],
                &[Next, Next, Next, Forked, Forked, Next, Next],
            ),
            // Two machines that started from one copy.
            (&["1.a", "2.b after a", "2.c after a", "3.b", "3.c", "4.c"], &[Next, Next, Forked, Forked, Forked, Next]),
            // A number without a tag cannot be told apart.
            (&["1.a", "2", "2.b", "3.b"], &[Next, Next, Known, Next]),
            // What lies between two numbers of one tag has that tag.
            (&["1.a", "4.a", "2.a", "3.b"], &[Next, ahead, Late, Forked]),
            (&["1.a", "4.b", "2.b after a", "3.b"], &[Next, ahead, Late, Late]),
            (&["1.a", "4.c", "2.b after a", "3.b"], &[Next, ahead, Late, Late]),
            // Set back to before all that was seen here.
            (&["8.a", "7.a", "1.b", "2.b"], &[Next, Late, Forked, Next]),
        ] {
            assert_eq!(admit_tagged(numbers), want, "{numbers:?}");
        }
    }

    /// Found by the simulation: a gateway that first could read no history, and has only the newest number, later reads all
    /// there is, over two tags.
    #[test]
    fn what_lies_before_all_that_is_known_is_of_the_same_history() {
        let cursor = |text| Cursor::parse(text).unwrap();
        let mut seen = SeenNumbers::default();
        seen.admit(&cursor("E.9.c"), Tag::parse("c"));
        assert_eq!(seen.judge(&cursor("E.4.a"), None), Admit::Forked, "it cannot be told");
        let mut older = |number, before| {
            let number = cursor(number);
            let admitted = seen.admit_older(&number, Tag::parse(before));
            (admitted, seen.leads_on(&number))
        };
        assert_eq!(older("E.4.a", "a"), (true, false));
        assert_eq!(older("E.5.a", "a"), (true, false));
        assert_eq!(older("E.7.b", "b"), (true, false));
        assert_eq!(older("E.8.c", "b"), (true, true), "it leads to what is known");
        for (number, why) in [("E.5.a", "known"), ("E.9.d", "another's"), ("E.10.d", "newer"), ("F.1", "new")] {
            assert!(!older(number, "a").0, "{why}");
        }
        assert_eq!(seen.admit(&cursor("E.9.c"), Tag::parse("c")), Admit::Known);
        assert_eq!(seen.head(), Some(cursor("E.9.c")));
    }

    #[test]
    fn where_a_head_stands() {
        use HeadStands::*;
        let cursor = |text| Cursor::parse(text).unwrap();
        let mut seen = SeenNumbers::default();
        assert_eq!(seen.head_stands(&cursor("E.0")), Even);
        assert_eq!(seen.head_stands(&cursor("E.5.a")), Behind { missing: 5 });
        for number in ["D.7", "E.1.a", "E.2.a", "E.3.b"] {
            seen.admit(&cursor(number), None);
        }
        for (head, want) in [
            ("E.3.b", Even),
            ("E.3", Even),
            ("E.3.c", Forked),
            ("E.5.b", Behind { missing: 2 }),
            ("E.2.a", Within),
            ("E.2.c", Forked),
            ("E.0", Within),
            ("D.7", OtherEpoch),
            ("F.1", OtherEpoch),
        ] {
            assert_eq!(seen.head_stands(&cursor(head)), want, "{head}");
        }
        let mut seen = SeenNumbers::default();
        seen.admit(&cursor("E.8.a"), None);
        assert_eq!(seen.head_stands(&cursor("E.5.a")), Within, "the publisher starts over");
        assert_eq!(seen.head_stands(&cursor("E.5.b")), Forked, "it cannot be told");
        let mut seen = SeenNumbers::default();
        seen.admit(&cursor("E.8.b"), Tag::parse("a"));
        seen.admit(&cursor("E.9.b"), Tag::parse("b"));
        assert_eq!(seen.head_stands(&cursor("E.7.a")), Within, "the tag before the first number is known");
        assert_eq!(seen.head_stands(&cursor("E.7.c")), Forked);
    }

    #[test]
    fn memory_is_bounded() {
        let mut runs = Runs::default();
        for seq in 0..10_000 {
            runs.admit(seq * 2 + 1, None, None);
        }
        assert!(runs.seen.len() <= MAX_RUNS);
        let mut seen = SeenNumbers::default();
        for bits in 0..1000 {
            seen.admit(&Cursor::new(Epoch::from_random(bits), 1), None);
        }
        assert_eq!(seen.epochs.len(), MAX_EPOCHS);
        let mut runs = Runs::default();
        for bits in 1..1000 {
            runs.admit(1, Some(Tag::from_random(bits)), None);
        }
        assert!(runs.seen.len() == 1 && runs.ended.len() == MAX_ENDED);
    }
}
