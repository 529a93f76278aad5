//! Two processes of which one works: the real planners and the real book, around models of table, ledger and broker.
//!
//! Goes in: one step at a time. Comes out: numbered changes at the broker. Every step carries out one action of a planner:
//! one statement, transaction or message, with what happens in memory around it. (In the shim, too, the two loops are one
//! task, which goes over from one to the other only where it waits.) Between any two steps the process may die, sleep, or
//! be replaced.

mod term;

use std::collections::VecDeque;

use bugfeed_core::relay::book::Book;
use bugfeed_core::relay::heads::{self, Heads};
use bugfeed_core::relay::outbox::Outbox;
use bugfeed_core::relay::outlet::{self, Outlet};
use bugfeed_core::relay::poller::{self, Poller, PollerOptions};
use bugfeed_protocol::bus::Head;
use bugfeed_protocol::{Cursor, Epoch, Numbered, When};

use crate::broker::{Confirm, Message};
use crate::ledger::{Ledger, Table};
use term::Carried;

/// When a step is made, and what it may draw.
#[derive(Clone, Debug)]
pub struct Moment {
    pub now: When,
    pub now_ms: u64,
    /// A lineage tag that was never drawn before.
    pub tag: u32,
    /// An epoch that was never drawn before.
    pub epoch: Epoch,
}

/// The broker, as a shim sees it.
pub trait Bus {
    /// Opens a connection, if there is a broker.
    fn connect(&mut self) -> bool;
    /// What history ends with; `None` as long as that is not answered.
    fn end(&mut self) -> Option<outlet::Event>;
    fn publish(&mut self, message: &Message) -> Confirm;
    /// The broker keeps history, so that a message that is returned shows that its stream was deleted.
    fn keeps_history(&self) -> bool;
    /// Most changes in one message.
    fn together(&self) -> usize;
}

/// What an outlet's step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    On,
    /// The way was compared, as far as it could be.
    Compared,
    /// The ledger has begun a new epoch.
    Renumbered,
}

/// A batch on its way.
#[derive(Clone, Debug)]
struct Sending {
    batch: Vec<Message>,
    confirms: Vec<Confirm>,
}

/// Why a tenure ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Another has taken over.
    Fenced,
    /// A commit was not answered.
    Unanswered,
}

/// One lease, with the planners of its present tenure.
#[derive(Clone, Debug)]
struct Term {
    epoch: Epoch,
    number: u64,
    /// What the ledger holds, once it was read in this tenure.
    book: Option<Book>,
    poller: Poller,
    polls: VecDeque<poller::Action>,
    outbox: Outbox,
    /// The outbox has news that the outlet was not told of.
    news: bool,
    outlet: Outlet,
    gives: VecDeque<outlet::Action>,
    /// The outlet's pause ends then.
    wait_at_ms: u64,
    sending: Option<Sending>,
    /// The poller failed on the ledger: the outlet finishes what it has in hand.
    ending: bool,
    heads: Heads,
}

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Shim {
    pub up: bool,
    pub asleep: bool,
    connected: bool,
    term: Option<Term>,
}

impl Shim {
    pub fn crash(&mut self) {
        *self = Shim::default();
    }

    /// Whether it works, as far as others can see.
    pub fn lives(&self) -> bool {
        self.up && !self.asleep && self.term.is_some()
    }

    /// Whether its term is the ledger's.
    pub fn holds(&self, ledger: &Ledger) -> bool {
        self.term.as_ref().is_some_and(|term| term.holds(ledger))
    }

    /// Whether its next step writes into the ledger.
    pub fn is_recording(&self) -> bool {
        use poller::Action::{Forget, Owe, Record, Settle};
        let writes = |action: &poller::Action| match action {
            Record(rows) => !rows.is_empty(),
            Settle(rows) => !rows.is_empty(),
            Owe(_) | Forget(_) => true,
            _ => false,
        };
        self.term.as_ref().and_then(|term| term.polls.front()).is_some_and(writes)
    }

    /// Whether its next step deletes rows.
    pub fn is_deleting(&self) -> bool {
        let next = self.term.as_ref().and_then(|term| term.polls.front());
        matches!(next, Some(poller::Action::Delete { .. }))
    }

    /// Whether its outlet has anything in hand; of a ledger that is gone, perhaps.
    pub fn is_busy(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term.ending || !term.outlet_waits())
    }

    /// Whether the next step of its outlet is a message.
    pub fn is_sending(&self) -> bool {
        let next = self.term.as_ref().and_then(|term| term.gives.front());
        matches!(next, Some(outlet::Action::Publish(_)))
    }

    /// Whether the poller would only look and find nothing.
    pub fn poller_idles(&self, table: &Table, ledger: &Ledger) -> bool {
        let idles = |term: &Term| {
            let all = term.outbox.allowed(0, usize::MAX) as u64 >= ledger.head();
            matches!(term.polls.front(), Some(poller::Action::Wait { .. })) && all && term.holds(ledger)
        };
        table.rows.is_empty() && ledger.marks.is_empty() && self.term.as_ref().is_some_and(idles)
    }

    /// Whether the outlet would only look and find nothing.
    pub fn outlet_idles(&self, ledger: &Ledger) -> bool {
        let idles = |term: &Term| term.outlet_waits() && !term.news && term.holds(ledger);
        ledger.published == ledger.head() && self.term.as_ref().is_some_and(idles)
    }

    /// It wakes up. If another has taken over, its beat shows that at once; what is on its way to the table or to the broker
    /// gets there all the same.
    pub fn wakes(&mut self, ledger: &Ledger) {
        self.asleep = false;
        let (deletes, sends) = (self.is_deleting(), self.is_sending());
        let Some(term) = self.term.as_mut().filter(|term| !term.holds(ledger)) else { return };
        term.ending = true;
        term.polls.truncate(usize::from(deletes));
        if !deletes && !sends {
            self.term = None;
        }
    }

    /// Everything that its behaviour depends on.
    pub fn key(&self, ledger: &Ledger) -> String {
        if self.asleep && !self.holds(ledger) {
            let mut awake = self.clone();
            awake.wakes(ledger);
            return format!("asleep {}", awake.key(ledger));
        }
        let Shim { up, asleep, connected, term } = self;
        let Some(term) = term else { return format!("{up}{asleep}{connected}") };
        let Term { poller, polls, outbox, news, outlet, gives, sending, ending, .. } = term;
        let confirms = sending.as_ref().map(|sending| &sending.confirms);
        if *ending && !term.holds(ledger) {
            return format!("{up}{asleep}{connected}{polls:?}{gives:?}{confirms:?}");
        }
        let book = term.book.as_ref().map(|book| (book.head(), book.pending(), book.owed()));
        format!(
            "{up}{asleep}{connected}{book:?}{poller:?}{polls:?}{outbox:?}{news}{outlet:?}{gives:?}{confirms:?}{ending}"
        )
    }

    /// What it says of where it is, if that is due.
    pub fn head(&mut self, now_ms: u64, paused: Option<String>) -> Option<Head> {
        if !self.lives() || !self.connected {
            return None;
        }
        self.term.as_mut()?.heads.on(now_ms, heads::Event::Tick { paused })
    }

    /// Takes over.
    pub fn acquire(&mut self, table: &Table, ledger: &mut Ledger, batch: usize, now_ms: u64) {
        ledger.term += 1;
        let mut term = Term {
            epoch: ledger.epoch.clone(),
            number: ledger.term,
            book: None,
            poller: Poller::new(PollerOptions { poll_interval_ms: 0, batch, once: false }),
            polls: VecDeque::new(),
            outbox: Outbox::default(),
            news: false,
            outlet: Outlet::new(batch),
            gives: VecDeque::new(),
            wait_at_ms: 0,
            sending: None,
            ending: false,
            heads: Heads::default(),
        };
        term.begin(table, ledger, batch, now_ms);
        self.term = Some(term);
    }

    /// Its connection to the broker is gone.
    pub fn loses_connection(&mut self) {
        self.connected = false;
    }

    /// One step of the poller. `trouble`: the commit's answer is lost, and (false) the commit with it; or the tracker
    /// holds a row that is to be deleted. `away`: the table cannot be reached. Returns what was numbered.
    pub fn poll(
        &mut self,
        table: &mut Table,
        ledger: &mut Ledger,
        moment: &Moment,
        trouble: Option<bool>,
        away: bool,
    ) -> Vec<Numbered> {
        let Some(term) = self.term.as_mut().filter(|_| self.up && !self.asleep) else { return Vec::new() };
        let before = (ledger.epoch.clone(), ledger.changes.len());
        let mut trouble = trouble;
        while let Some(action) = term.polls.pop_front() {
            match term.carry_out_poll(action, table, ledger, moment, trouble.take(), away) {
                Ok(Some(event)) => {
                    let actions = term.poller.on(moment.now_ms, event);
                    term.polls.extend(actions);
                }
                Ok(None) => {}
                Err(_) => {
                    term.polls.clear();
                    term.ending = true;
                }
            }
            if !term.polls.front().is_some_and(|next| polls_in_memory(next, away)) {
                break;
            }
        }
        assert_eq!(before.0, ledger.epoch, "the poller begins no epoch");
        ledger.changes[before.1..].to_vec()
    }

    /// One step of the outlet.
    pub fn give(
        &mut self,
        table: &Table,
        ledger: &mut Ledger,
        bus: &mut impl Bus,
        batch: usize,
        moment: &Moment,
    ) -> Given {
        let Some(term) = self.term.as_mut().filter(|_| self.up && !self.asleep) else { return Given::On };
        let mut given = Given::On;
        while let Some(action) = term.gives.front().cloned() {
            match action {
                outlet::Action::NoteRoute(_) => given = Given::Compared,
                outlet::Action::BeginEpoch { .. } if term.holds(ledger) => given = Given::Renumbered,
                _ => {}
            }
            match term.carry_out_give(action, ledger, bus, &mut self.connected, moment) {
                Ok(Carried::NotYet) => break,
                Ok(Carried::On) => drop(term.gives.pop_front()),
                Ok(Carried::Answer(event)) => {
                    term.gives.pop_front();
                    term.give_on(event, moment.now_ms);
                }
                Ok(Carried::Ended) | Err(_) if term.holds(ledger) => {
                    term.begin(table, ledger, batch, moment.now_ms);
                    break;
                }
                Ok(Carried::Ended) | Err(_) => {
                    self.term = None;
                    break;
                }
            }
            if !term.gives.front().is_some_and(gives_in_memory) {
                break;
            }
        }
        given
    }
}

/// Whether an action of the poller changes nothing that anybody else sees, nor depends on what others do meanwhile.
fn polls_in_memory(action: &poller::Action, away: bool) -> bool {
    use poller::Action::{Allow, Hand, Hold, Look, Probe, ReadPending, Record, Report, Settle, TableIsFull};
    match action {
        Probe => !away,
        Record(rows) => rows.is_empty(),
        Settle(rows) => rows.is_empty(),
        Hold | Allow(_) | Hand { .. } | Report { .. } | TableIsFull { .. } | Look | ReadPending => true,
        _ => false,
    }
}

/// The same of an action of the outlet.
fn gives_in_memory(action: &outlet::Action) -> bool {
    use outlet::Action::{BackOff, BeginEpoch, End, Publish, Save, SaveLast, SetBack, Wait};
    !matches!(
        action,
        Publish(_) | Save(_) | SaveLast(_) | Wait { .. } | BackOff { .. } | BeginEpoch { .. } | SetBack | End
    )
}

/// The end of history, as it is read.
pub fn end_with(last: Option<&Cursor>) -> outlet::Event {
    outlet::Event::End(Some(last.cloned().into_iter().collect()))
}
