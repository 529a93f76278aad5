//! What becomes of a message of the bus: recorded, known already, or the sign of a hole.
//!
//! Goes in: messages in order of arrival, from the live queue or from history. Comes out: an [`Update`] for the shards
//! (and, where continuity was lost, the cursor to tell first), or [`Taken::Hole`]: fill it from history, then offer the
//! message again with [`Sequencer::accept_gap`].

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{Cursor, Epoch, When};

use super::input::Update;
use super::position_map::Continuity;
use super::replay::{Recorder, Replay};
pub use super::seen_numbers::HeadStands;
use super::seen_numbers::{Admit, SeenNumbers};

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
    /// Tell this first: continuity is lost, and whoever asks the tracker then has everything up to the cursor.
    pub gap: Option<Cursor>,
    /// It came after later ones.
    pub late: bool,
    /// Its number was given before, in another history of the same ledger, which was set back or copied.
    pub forked: bool,
}

/// The one writer of a feed.
#[derive(Debug)]
pub struct Sequencer {
    recorder: Recorder,
    seen: SeenNumbers,
    /// Numbers the changes of producers that give none.
    own: Cursor,
}

impl Sequencer {
    /// Fills `recorder`'s cache. `own_epoch` numbers the changes of producers that give no number.
    pub fn new(recorder: Recorder, own_epoch: Epoch) -> Sequencer {
        Sequencer { recorder, seen: SeenNumbers::default(), own: Cursor::new(own_epoch, 0) }
    }

    /// Before anything is taken in: the next change of this ledger will be its first. Returns the cursor of those who have
    /// been sent all there is, which is nothing.
    pub fn begin(&mut self, epoch: Epoch) -> Cursor {
        let start = Cursor::new(epoch, 0);
        self.go_on_after(&start)
    }

    /// Continuity is lost, and the next change follows this cursor, as a publisher's head says. Returns the cursor to tell
    /// with the gap.
    pub fn go_on_after(&mut self, cursor: &Cursor) -> Cursor {
        // A head that lies within what was seen, of an epoch from before, or in a history that cannot be told apart: it goes
        // on from there.
        let apart = matches!(self.seen.admit(cursor, cursor.tag), Admit::Known | Admit::Late);
        if apart {
            self.seen.fork(cursor);
        }
        self.recorder.go_on_after(cursor, apart);
        cursor.clone()
    }

    /// Continuity is lost, and nothing is known of what comes next. Returns the cursor to tell with the gap, which on this
    /// gateway stands for nothing until the next change has come.
    pub fn lose(&mut self) -> Option<Cursor> {
        self.recorder.lose();
        self.seen.head()
    }

    /// Where a publisher's head is, given what was taken in.
    pub fn judge_head(&self, head: &Cursor) -> HeadStands {
        self.seen.head_stands(head)
    }

    /// Takes a message in, unless it is known or shows a hole. `now` stands in for a producer's word on when it had it.
    pub fn offer(&mut self, message: &BusMessage, recorded: Option<When>, now: When) -> Taken {
        let is_next = self.is_next(message);
        if !is_next && let Some((missing, before)) = self.hole(message) {
            return Taken::Hole { missing, before: before.clone() };
        }
        self.take(message, is_next, recorded, now)
    }

    /// Takes in what history has before all that is known: late, and no sign of another history. Anything else is offered as
    /// always.
    pub fn offer_older(&mut self, message: &BusMessage, recorded: Option<When>, now: When) -> Taken {
        let before = message.tag_before();
        match &message.cursor {
            Some(cursor) if self.seen.admit_older(cursor, before) => {
                self.record(message, cursor.clone(), Continuity::Late, false, recorded, now)
            }
            _ => self.offer(message, recorded, now),
        }
    }

    /// Whether a number that was taken in leads to what is known after it.
    pub fn leads_on(&self, number: &Cursor) -> bool {
        self.seen.leads_on(number)
    }

    /// Whether numbers before a message's have not come: how many, and its own.
    fn hole<'a>(&self, message: &'a BusMessage) -> Option<(Option<u64>, &'a Cursor)> {
        let cursor = message.cursor.as_ref()?;
        match self.seen.judge(cursor, message.tag_before()) {
            Admit::Ahead { missing } => Some((Some(missing), cursor)),
            Admit::NewEpoch | Admit::Forked if cursor.seq > 1 => Some((None, cursor)),
            Admit::Known if cursor.seq > 1 && self.contradicts(message, cursor) => Some((None, cursor)),
            _ => None,
        }
    }

    /// Whether a message just continues what was recorded last, which most do.
    fn is_next(&self, message: &BusMessage) -> bool {
        message.after.is_none() && message.cursor.as_ref().is_some_and(|cursor| self.recorder.expects(cursor))
    }

    /// Whether a known number came with another content than the ring holds under it.
    fn contradicts(&self, message: &BusMessage, number: &Cursor) -> bool {
        self.recorder.replay().change_at(number).is_some_and(|held| held != message.change)
    }

    /// Whether a message would be taken in, or is known: numbers before it have come.
    pub fn continues(&self, message: &BusMessage) -> bool {
        self.hole(message).is_none()
    }

    /// Takes a message in, unless it is known. A hole before it is given up: what is missing is a gap.
    pub fn accept_gap(&mut self, message: &BusMessage, recorded: Option<When>, now: When) -> Taken {
        self.take(message, self.is_next(message), recorded, now)
    }

    fn take(&mut self, message: &BusMessage, is_next: bool, recorded: Option<When>, now: When) -> Taken {
        let cursor = message.cursor.clone().unwrap_or_else(|| {
            self.own.seq += 1;
            self.own.clone()
        });
        // Between numbered changes, one without a number moves no cursor: it is told, and that is all.
        let beside = message.cursor.is_none() && self.seen.head().is_some_and(|head| head.epoch != self.own.epoch);
        let before = message.tag_before();
        let has_before = !is_next && self.seen.has_before(&cursor);
        let admit = if beside { Admit::Late } else { self.seen.admit(&cursor, before) };
        let broken = if has_before { Continuity::Apart } else { Continuity::Broken };
        let (continuity, forked) = match admit {
            Admit::Next => (Continuity::Next, false),
            Admit::NewEpoch | Admit::Ahead { .. } => (broken, false),
            Admit::Late => (Continuity::Late, false),
            Admit::Known if self.contradicts(message, &cursor) => {
                self.seen.fork(&cursor);
                (Continuity::Apart, true)
            }
            Admit::Known => return Taken::Known,
            Admit::Forked => (Continuity::Apart, true),
        };
        let mut taken = self.record(message, cursor, continuity, forked, recorded, now);
        if let Taken::New(new) = &mut taken {
            new.late &= !beside;
        }
        taken
    }

    fn record(
        &mut self,
        message: &BusMessage,
        cursor: Cursor,
        continuity: Continuity,
        forked: bool,
        recorded: Option<When>,
        now: When,
    ) -> Taken {
        let (change, before) = (message.change, message.tag_before());
        // A producer whose clock is wrong must not make everything look new for good.
        let latest = When::from_micros(now.as_micros() + 60_000_000).unwrap_or(now);
        let pos = self.recorder.record(change, recorded.unwrap_or(now).min(latest), &cursor, before, continuity);
        let replay = self.recorder.replay();
        let shown = if continuity == Continuity::Late { replay.cursor_at(pos) } else { Some(cursor.clone()) };
        let shown = shown.unwrap_or_else(|| cursor.clone());
        let gap = match continuity {
            Continuity::Next | Continuity::Late => None,
            Continuity::Broken => replay.cursor_before(pos),
            // Who has the number before may lack what came after it in the other history. Whoever is told of the gap asks the
            // tracker, which has this change already.
            Continuity::Apart => Some(cursor.clone()),
        };
        let number = (continuity != Continuity::Late).then_some(cursor);
        let update = Update { pos, change, number, cursor: shown };
        Taken::New(New { update, gap, late: continuity == Continuity::Late, forked })
    }

    /// The newest number of the epoch that was used last.
    pub fn head(&self) -> Option<Cursor> {
        self.seen.head()
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

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, Change};

    use super::*;
    use crate::replay::{CursorPlace, ReplayLimits, replay};

    /// What a message becomes: its cursor as shown, `!` after a gap, `late`.
    fn take(sequencer: &mut Sequencer, number: Option<&str>) -> String {
        let change = Change { bug: BugId::new(1).unwrap(), when: When::MIN };
        let message = BusMessage { change, cursor: number.map(|text| Cursor::parse(text).unwrap()), after: None };
        match sequencer.accept_gap(&message, None, When::MIN) {
            Taken::New(New { update, gap, late, .. }) => {
                let shown = sequencer.replay().cursor_at(update.pos).unwrap();
                format!("{shown}{}{}", if gap.is_some() { "!" } else { "" }, if late { " late" } else { "" })
            }
            other => format!("{other:?}"),
        }
    }

    fn take_all(numbers: &[Option<&str>]) -> Vec<String> {
        let (recorder, _) = replay(ReplayLimits::default());
        let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
        numbers.iter().map(|number| take(&mut sequencer, *number)).collect()
    }

    #[test]
    fn a_hole_is_filled_when_its_message_continues() {
        let (recorder, _) = replay(ReplayLimits::default());
        let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
        let message = |number: &str| {
            let change = Change { bug: BugId::new(1).unwrap(), when: When::MIN };
            BusMessage { change, cursor: Cursor::parse(number), after: None }
        };
        for (number, continues) in [("E.1", true), ("E.4", false), ("E.2", true), ("E.4", false), ("E.3", true)] {
            let message = message(number);
            assert_eq!(sequencer.continues(&message), continues, "{number}");
            assert_eq!(
                !matches!(sequencer.offer(&message, None, When::MIN), Taken::Hole { .. }),
                continues,
                "{number}"
            );
        }
        assert!(sequencer.continues(&message("E.4")) && sequencer.continues(&message("E.2")));
        assert!(!sequencer.continues(&message("F.2")) && sequencer.continues(&message("F.1")));
    }

    /// Tags that cannot be compared are no reason to take a change for one that it is not.
    #[test]
    fn a_known_number_with_another_content_is_another_history() {
        let (recorder, _) = replay(ReplayLimits::default());
        let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
        let message = |number: &str, second: i64| {
            let when = When::from_micros(second * 1_000_000).unwrap();
            BusMessage {
                change: Change { bug: BugId::new(1).unwrap(), when },
                cursor: Cursor::parse(number),
                after: None,
            }
        };
        let mut taken = |number, second| match sequencer.accept_gap(&message(number, second), None, When::MIN) {
            Taken::New(New { gap, forked, .. }) => format!("{number} gap {} forked {forked}", gap.is_some()),
            other => format!("{number} {other:?}"),
        };
        let got: Vec<String> = [("E.1", 1), ("E.2", 2), ("E.3", 3), ("E.2", 2), ("E.2", 9), ("E.3", 10), ("E.4", 11)]
            .map(|(n, s)| taken(n, s))
            .into();
        assert_eq!(
            got,
            [
                "E.1 gap false forked false",
                "E.2 gap false forked false",
                "E.3 gap false forked false",
                "E.2 Known",
                "E.2 gap true forked true",
                "E.3 gap false forked false",
                "E.4 gap false forked false",
            ]
        );
    }

    /// Found by the simulation: a head among numbers that were seen before another ledger published was taken for a
    /// straggler, and told as a gap with each head.
    #[test]
    fn a_head_of_an_epoch_from_before_is_where_the_feed_goes_on() {
        for head in ["E.3", "E.5", "E.7"] {
            let (recorder, _) = replay(ReplayLimits::default());
            let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
            for number in ["E.1", "E.5", "F.1"] {
                take(&mut sequencer, Some(number));
            }
            let head = Cursor::parse(head).unwrap();
            assert_eq!(sequencer.judge_head(&head), HeadStands::OtherEpoch);
            sequencer.go_on_after(&head);
            assert_eq!(sequencer.judge_head(&head), HeadStands::Even, "{head}");
            let next = format!("E.{}", head.seq + 1);
            assert_eq!(take(&mut sequencer, Some(&next)), next);
        }
    }

    /// Who was told the beginning of a ledger can come back to it, unless it turns out to be another one's.
    #[test]
    fn a_ledger_without_changes_has_a_beginning() {
        for (numbers, shown, standing) in [
            (&["E.1", "E.2"][..], &["E.1", "E.2"][..], CursorPlace::InRing(0)),
            (&["E.3"], &["E.3!"], CursorPlace::Unknown),
            (&["F.1"], &["F.1!"], CursorPlace::Unknown),
        ] {
            let (recorder, replay) = replay(ReplayLimits::default());
            let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
            let start = sequencer.begin(Epoch::parse("E").unwrap());
            assert_eq!(replay.place_of(&start), CursorPlace::InRing(0));
            assert_eq!(replay.cursor_at(0), Some(start.clone()));
            let got: Vec<String> = numbers.iter().map(|number| take(&mut sequencer, Some(number))).collect();
            assert_eq!(got, shown, "{numbers:?}");
            assert_eq!(replay.place_of(&start), standing, "{numbers:?}");
        }
    }

    #[test]
    fn epochs_beside_each_other() {
        for (numbers, want) in [
            (&[None, None][..], &["own.1", "own.2"][..]),
            // A producer without numbers beside the shim moves no cursor, and breaks nothing.
            (&[Some("E.1"), None, Some("E.2"), None], &["E.1", "E.1", "E.2", "E.2"]),
            (&[None, Some("E.1"), None, Some("E.2")], &["own.1", "E.1!", "E.1", "E.2"]),
            // A straggler of a ledger that was replaced: found by the simulation. Its cursor would claim what another
            // gateway, where it came earlier, has yet to send.
            (&[Some("E.1"), Some("F.1"), Some("E.2"), Some("F.2")], &["E.1", "F.1!", "E.2!", "F.2!"]),
            (&[Some("E.2"), Some("F.1"), Some("E.1"), Some("F.2")], &["E.2", "F.1!", "F.1 late", "F.2"]),
        ] {
            assert_eq!(take_all(numbers), want, "{numbers:?}");
        }
    }
}
