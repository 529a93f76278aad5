//! A replica: its feeds, the endpoints that it serves, and what it is in the middle of. Every action of a planner and every
//! answer to it is a step of its own, between which the process may die.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bugfeed_core::endpoints::batch::Batch;
use bugfeed_core::endpoints::endpoint::{Action, Endpoint, Feeds, Input, View};
use bugfeed_core::endpoints::interest::Interest;
use bugfeed_core::endpoints::question::{Answer, Ask, Since, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::endpoints::schedule::{Limits, Schedule};

use super::feed::{Ledger, Local};

/// What was sent, to which URL and under which recovery, and what was watched.
type Unaccepted = (Arc<Batch>, (u32, u32), Watch);

pub struct Served {
    pub planner: Endpoint,
    pub inbox: VecDeque<Input>,
    pub outbox: VecDeque<Action>,
    pub term: u64,
    pub slot: u32,
    /// The row when its last request was decided. An order may come before it is sent.
    pub decided: Option<Row>,
    /// What was sent last of each feed and not accepted, and to which URL, under which recovery and which watch.
    pub unaccepted: BTreeMap<usize, Unaccepted>,
    /// When its lease was shown to be held last.
    pub beat_us: i64,
}

pub struct Node {
    pub life: u64,
    pub feeds: Vec<Local>,
    pub served: BTreeMap<usize, Served>,
    pub schedule: Schedule,
    /// It does nothing until then, as a process that is stopped for a while.
    pub stalled_until_us: i64,
}

/// The feeds of a replica, as one endpoint asks them.
pub struct Asking<'a> {
    pub feeds: &'a [Local],
    pub ledgers: &'a [Ledger],
    /// The endpoint's cursors.
    pub stored: Vec<Option<u64>>,
}

impl Feeds for Asking<'_> {
    fn ask(&self, feed: &str, ask: &Ask<'_>) -> Answer {
        match self.ledgers.iter().position(|ledger| &*ledger.name == feed) {
            Some(at) => self.feeds[at].ask(&self.ledgers[at], ask, self.stored[at]),
            None => Answer::NotYet(None),
        }
    }
}

impl Node {
    pub fn new(life: u64, feeds: Vec<Local>, places: usize) -> Node {
        let schedule = Schedule::new(Limits { places, of_host: places, in_flight: places + places / 2 });
        Node { life, feeds, served: BTreeMap::new(), schedule, stalled_until_us: 0 }
    }

    /// Whom a change of a feed concerns, by the real index.
    pub fn announce(&mut self, ledger: &Ledger, bug: Option<bugfeed_protocol::BugId>) {
        let mut interest = Interest::default();
        for (&at, served) in &self.served {
            if served.planner.row().lines.iter().any(|line| line.feed == ledger.name) {
                interest.add(u32::try_from(at).unwrap(), &served.planner.row().watch);
            }
        }
        let concerned: Vec<usize> = match bug {
            Some(bug) => interest.concerned(bug).map(|slot| slot as usize).collect(),
            None => self.served.keys().copied().collect(),
        };
        for at in concerned {
            if let Some(served) = self.served.get_mut(&at) {
                served.inbox.push_back(Input::News(Arc::clone(&ledger.name)));
            }
        }
    }

    /// Hands the next input to a planner.
    pub fn hear(&mut self, at: usize, input: Input, now_us: i64, ledgers: &[Ledger]) {
        let Some(served) = self.served.get_mut(&at) else { return };
        let row = served.planner.row();
        let stored = ledgers.iter().map(|ledger| row.cursor(&ledger.name).map(|cursor| cursor.seq)).collect();
        let asking = Asking { feeds: &self.feeds, ledgers, stored };
        let mut out = Vec::new();
        served.planner.step(input, &View { now_us, feeds: &asking }, &mut out);
        if out.iter().any(|action| matches!(action, Action::Send(_))) {
            served.decided = Some(served.planner.row().clone());
        }
        served.outbox.extend(out);
        self.schedule.wake(served.slot, served.planner.wake_us(now_us));
    }

    /// Stops serving an endpoint.
    pub fn drop_served(&mut self, at: usize) {
        if let Some(served) = self.served.remove(&at) {
            self.schedule.remove(served.slot);
        }
    }

    pub fn is_idle(&self) -> bool {
        self.served.values().all(|served| served.inbox.is_empty() && served.outbox.is_empty())
    }
}

/// The number of a line's cursor.
pub fn number(since: &Since) -> Option<u64> {
    match since {
        Since::Cursor(cursor) => Some(cursor.seq),
        _ => None,
    }
}
