//! A feed as one replica has it: the real sequencer and replay cache, behind the ledger by some messages.
//!
//! Goes in: the numbers of the ledger, in order or with holes. Comes out: the answers that planners get, each compared
//! with what this replica can prove.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use bugfeed_core::endpoints::question::{self, Answer, Ask, Since, Watch};
use bugfeed_core::replay::{Replay, ReplayLimits, replay};
use bugfeed_core::sequencer::{Sequencer, Taken};
use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};

/// What the tracker committed, by number (from 1).
#[derive(Clone)]
pub struct Ledger {
    pub name: Arc<str>,
    pub changes: Vec<Change>,
}

impl Ledger {
    pub fn epoch(&self) -> Epoch {
        Epoch::parse(&format!("epoch-{}", self.name)).unwrap()
    }

    pub fn cursor(&self, number: u64) -> Cursor {
        Cursor::new(self.epoch(), number)
    }

    pub fn head(&self) -> u64 {
        self.changes.len() as u64
    }

    /// The number of the newest change of a bug.
    pub fn newest(&self, bug: BugId) -> Option<u64> {
        self.changes.iter().rposition(|change| change.bug == bug).map(|at| at as u64 + 1)
    }

    pub fn message(&self, number: u64) -> BusMessage {
        let change = self.changes[usize::try_from(number).unwrap() - 1];
        BusMessage { change, cursor: Some(self.cursor(number)), after: None }
    }
}

/// How a replica's cache begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// History is there from the first number on.
    History,
    /// Only the head is known.
    Head,
    /// Nothing is known before the first message.
    Nothing,
}

pub struct Local {
    sequencer: Sequencer,
    pub cache: Arc<Replay>,
    /// The next number of the queue.
    pub next: u64,
    /// Numbers that were passed over, and may come late.
    pub held: BTreeSet<u64>,
    /// The numbers by position.
    order: Vec<u64>,
    /// Continuity can be proven from this number on; none as long as nothing is known.
    proven: Option<u64>,
    lates: u32,
    pub current: bool,
    /// How often each answer was given: not yet, ahead, gap, changes.
    pub given: [Cell<u64>; 4],
}

impl Local {
    pub fn new(ledger: &Ledger, start: Start, limits: ReplayLimits) -> Local {
        let (recorder, cache) = replay(limits);
        let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
        let head = ledger.head();
        let (next, proven) = match start {
            Start::History => {
                sequencer.begin(ledger.epoch());
                (1, Some(0))
            }
            Start::Head => {
                sequencer.go_on_after(&ledger.cursor(head));
                (head + 1, Some(head))
            }
            Start::Nothing => (head + 1, None),
        };
        let held = BTreeSet::new();
        let given = Default::default();
        Local { sequencer, cache, next, held, order: Vec::new(), proven, lates: 0, current: true, given }
    }

    /// Takes a number in. Returns the bug, and whether continuity was lost.
    pub fn take(&mut self, ledger: &Ledger, number: u64, now: When) -> Option<(BugId, bool)> {
        let message = ledger.message(number);
        match self.sequencer.accept_gap(&message, None, now) {
            Taken::New(new) => {
                self.order.push(number);
                self.lates += u32::from(new.late);
                if new.gap.is_some() || self.proven.is_none() && !new.late {
                    self.proven = Some(number - 1);
                }
                Some((message.change.bug, new.gap.is_some() || self.order.len() == 1))
            }
            Taken::Known | Taken::Hole { .. } => None,
        }
    }

    pub fn lose(&mut self) {
        self.sequencer.lose();
        self.proven = None;
    }

    pub fn tick(&mut self, now: When) {
        self.sequencer.tick(now);
    }

    /// The highest number that was taken in, or that the head said.
    pub fn head(&self) -> u64 {
        self.order.iter().copied().max().max(self.proven).unwrap_or(0)
    }

    /// Whether this replica has this number, or a later one, of a bug.
    pub fn has_newer(&self, ledger: &Ledger, bug: BugId, than: u64) -> bool {
        let is = |number: u64| ledger.changes[usize::try_from(number).unwrap() - 1].bug == bug;
        let of_bug: Vec<u64> = self.order.iter().copied().filter(|&number| is(number)).collect();
        of_bug.last().is_some_and(|&last| last != than)
    }

    /// The newest numbers of the watched bugs after this one, in their order; none where changes came late.
    pub fn newest_after(&self, ledger: &Ledger, after: u64, watch: &Watch) -> Option<Vec<u64>> {
        let bug = |number: u64| ledger.changes[usize::try_from(number).unwrap() - 1].bug;
        let watches = |bug| match watch {
            Watch::All => true,
            Watch::Bugs(bugs) => bugs.contains(&bug),
        };
        let of: Vec<u64> = self.order.iter().copied().filter(|&n| n > after && watches(bug(n))).collect();
        let newest = of.iter().copied().filter(|&n| !of.iter().any(|&later| later > n && bug(later) == bug(n)));
        (self.lates == 0).then(|| newest.collect())
    }

    pub fn ask(&self, ledger: &Ledger, ask: &Ask<'_>, stored: Option<u64>) -> Answer {
        let answer = if self.current { question::answer(&self.cache, ask) } else { Answer::NotYet(None) };
        let kind = match &answer {
            Answer::NotYet(_) => 0,
            Answer::Ahead(_) => 1,
            Answer::Gap(..) => 2,
            Answer::Changes(_) => 3,
        };
        self.given[kind].set(self.given[kind].get() + 1);
        if kind == 2 {
            self.check_gap(ask, stored);
        }
        if let Answer::Changes(batch) = &answer {
            let bugs: BTreeSet<BugId> = batch.changes.iter().map(|told| told.change.bug).collect();
            assert_eq!(bugs.len(), batch.changes.len(), "one change of each bug");
            assert!(batch.cursor.seq <= ledger.head());
        }
        answer
    }

    /// A gap is told only where it is the truth.
    fn check_gap(&self, ask: &Ask<'_>, stored: Option<u64>) {
        let lost_late = self.lates > 0 && self.cache.start() > 1;
        let floor = self.cache.floor();
        match (ask.since, stored) {
            (Since::Unknown, None) => {}
            // It waited for a number that does not come.
            (Since::Unknown, Some(stored)) => assert!(stored > self.head(), "{stored} is not ahead of {}", self.head()),
            (Since::Head, _) => assert!(self.order.first().is_some_and(|&first| first > 1)),
            (Since::Cursor(cursor), _) => {
                let position = self.order.iter().position(|&number| number == cursor.seq).map_or(0, |at| at as u64 + 1);
                let proven = self.proven.is_some_and(|proven| cursor.seq >= proven);
                let forgotten = position < floor;
                assert!(!proven || forgotten || lost_late, "a gap after {cursor} is not true: {:?}", self.order);
            }
            (Since::Time(_), _) => assert!(lost_late || floor > 0 || self.proven != Some(0)),
        }
    }
}
