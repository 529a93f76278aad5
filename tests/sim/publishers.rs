//! Who publishes on the exchange: the shims of one ledger, which say heads; now and then those of a second ledger, or of
//! a copy of the first; and a producer that gives no numbers.
//!
//! Goes in: steps and the time. Comes out: messages and heads at the broker.

use std::rc::Rc;

use bugfeed_protocol::bus::Head;
use bugfeed_protocol::{BugId, Change, Epoch, When};
use rand::RngExt as _;

use crate::broker::{Confirm, Item};
use crate::shadow::Fact;
use crate::shim::{Ledger, Shim, Table};
use crate::swarm::Act;
use crate::world::World;

/// How often a head is said.
pub const INTERVAL_MS: u64 = 2000;
/// How many epochs there may be in a run; a gateway remembers the numbers of eight.
pub const EPOCHS: usize = 5;

/// A tracker with its ledger and shims.
pub struct Tracker {
    pub table: Table,
    pub ledger: Ledger,
    pub shims: [Shim; 2],
    /// Changes that the ledger published before it was set back, as long as no shim has looked at the end of history.
    pub orphans: Vec<Fact>,
    /// It began as a copy of another one, and these changes are its own.
    copy: bool,
    pub facts: Vec<Fact>,
    /// When each shim says its next head.
    heads_ms: [u64; 2],
}

impl Tracker {
    pub fn new(ledger: Ledger, copy: bool) -> Tracker {
        Tracker {
            table: Table::default(),
            ledger,
            shims: [Shim::default(), Shim::default()],
            orphans: Vec::new(),
            copy,
            facts: Vec::new(),
            heads_ms: [0; 2],
        }
    }
}

impl World {
    /// One step of some shim; where there are two ledgers, of either.
    pub fn shim_step(&mut self) {
        if self.second.is_none() || self.random.random_bool(0.5) {
            return self.tracker_step();
        }
        self.on_second(World::tracker_step);
    }

    /// Does something to the second ledger as if it were the first.
    pub fn on_second(&mut self, act: impl FnOnce(&mut World)) {
        let Some(second) = self.second.take() else { return };
        let first = std::mem::replace(&mut self.tracker, second);
        act(self);
        self.second = Some(std::mem::replace(&mut self.tracker, first));
    }

    /// One step of one shim: sequencer or outlet.
    fn tracker_step(&mut self) {
        let (at, now) = (self.random.random_range(0..2), self.now());
        let Tracker { shims, ledger, table, .. } = &mut self.tracker;
        let other_lives = shims[1 - at].lives() && shims[1 - at].holds(ledger);
        if !shims[at].up {
            shims[at].up = self.random.random_bool(0.1);
            return;
        }
        if !shims[at].lives() && !shims[at].asleep && !other_lives {
            self.tags += 1;
            shims[at].acquire(ledger, self.tags);
        }
        if self.random.random_bool(0.5) {
            if self.step < self.table_back_at {
                return;
            }
            let fails = self.swarm.has(Act::ShimFailsCommit) && self.random.random_bool(0.05);
            let trouble = fails.then(|| self.random.random_bool(0.5));
            let numbered = shims[at].sequencer(table, ledger, self.swarm.batch, now, trouble);
            for numbered in numbered {
                let fact = self.truth.of(numbered.change.when).unwrap();
                self.say(|| format!("shim {at} numbers {} {}", numbered.change.bug, numbered.cursor));
                self.truth.number(fact, &numbered);
            }
            return;
        }
        self.outlet_step(at);
    }

    fn outlet_step(&mut self, at: usize) {
        let Tracker { shims, ledger, .. } = &mut self.tracker;
        if shims[at].must_compare(ledger) {
            // A stream that is away for a moment is waited for; not one that never answers.
            let answers = !self.broker.streams || self.broker.stream_up || self.stream_up_at == usize::MAX;
            if self.broker.up && answers {
                self.broker.connect_shim();
                self.compare(at);
                self.tracker.heads_ms[at] = self.now_ms;
            }
            return;
        }
        let Some(message) = shims[at].next_message(ledger, self.swarm.batch) else { return };
        let refused = self.swarm.has(Act::Refuse) && self.random.random_bool(self.swarm.refusals);
        let lost = self.swarm.has(Act::PublishLost) && self.random.random_bool(0.03);
        let confirm = self.broker.publish(&Item::Change(Rc::clone(&message)), refused, lost, &mut self.random);
        self.stats.faults += u64::from(confirm != Confirm::Ack);
        self.say(|| format!("shim {at} publishes {}: {confirm:?}", message.cursor));
        let Tracker { shims, ledger, .. } = &mut self.tracker;
        shims[at].confirmed(confirm, ledger);
        if confirm == Confirm::Lost {
            // Its next connection makes the exchange anew, should it be gone.
            shims[at].reconnects();
        }
    }

    /// The shim compares the end of history with its ledger, if it can.
    fn compare(&mut self, at: usize) {
        let fresh = Epoch::from_random(self.random.random());
        let end = self.broker.last().cloned().filter(|_| self.broker.streams && self.broker.stream_up);
        let Tracker { shims, ledger, orphans, .. } = &mut self.tracker;
        let renumbers = shims[at].compare(ledger, end.as_ref(), fresh);
        let orphans = std::mem::take(orphans);
        self.say(|| format!("shim {at} compares {end:?}, renumbers: {renumbers}"));
        if renumbers {
            self.stats.renumbered += 1;
            for numbered in self.tracker.ledger.changes.clone() {
                let fact = self.truth.of(numbered.change.when).unwrap();
                self.truth.number(fact, &numbered);
            }
        } else {
            // Nobody can tell: without history, only gateways that had them see that the numbers come again.
            orphans.into_iter().for_each(|fact| self.void(fact));
        }
    }

    /// Who has the way to the broker says where it is, when that is due.
    pub fn say_heads(&mut self) {
        if !self.swarm.heads {
            return;
        }
        self.tracker_heads();
        self.on_second(World::tracker_heads);
    }

    fn tracker_heads(&mut self) {
        for at in 0..2 {
            let Tracker { shims, heads_ms, .. } = &mut self.tracker;
            let Some(cursor) = shims[at].head().filter(|_| self.now_ms >= heads_ms[at]) else { continue };
            heads_ms[at] = self.now_ms + INTERVAL_MS;
            let paused = (self.step < self.table_back_at).then(|| "change table".to_owned());
            self.say(|| format!("shim {at} says {cursor}, paused {paused:?}"));
            self.broker.say(&Rc::new(Head { cursor, interval_ms: INTERVAL_MS, paused }));
            self.stats.heads += 1;
        }
    }

    /// A change of a producer without numbers, straight to the exchange.
    pub fn publish_foreign(&mut self, bug: BugId) {
        let micros = self.now().as_micros() / 1_000_000 * 1_000_000;
        let fraction = i64::try_from(self.truth.all.len()).unwrap();
        let change = Change { bug, when: When::from_micros(micros + fraction).unwrap() };
        self.truth.commit(change, true);
        self.stats.foreign += 1;
        let confirm = self.broker.publish(&Item::Foreign(change), false, false, &mut self.random);
        self.say(|| format!("foreign {bug} at {}: {confirm:?}", change.when));
    }

    /// Another ledger begins to publish on the same exchange, or a copy of the same one; the one before ends.
    pub fn begin_second(&mut self, copy: bool) {
        self.end_second();
        if self.epochs >= EPOCHS {
            return;
        }
        self.epochs += 1;
        if copy {
            self.stats.copies += 1;
            self.second = Some(Tracker::new(self.tracker.ledger.clone(), true));
        } else {
            self.stats.seconds += 1;
            self.second = Some(Tracker::new(Ledger::new(Epoch::from_random(self.random.random())), false));
        }
        self.second_left = if copy { 12 } else { 40 };
    }

    /// The second ledger is taken away. What it has not published is lost, unless the first has it; of a copy all that the
    /// first does not have: it is of a history that has ended, of which nobody can tell who never heard of it.
    pub fn end_second(&mut self) {
        let Some(second) = self.second.take() else { return };
        let published = usize::try_from(second.ledger.published).unwrap();
        let kept = if second.copy { &[] } else { &second.ledger.changes[..published] };
        // A gateway that starts when history has lost what this ledger published cannot know that there was one.
        let lost = [Act::Unbind, Act::Wipe, Act::Retention].into_iter().any(|act| self.swarm.has(act));
        let kept = if lost { &[] } else { kept };
        for fact in second.facts {
            let change = self.truth.all[fact].change;
            let Tracker { ledger, table, .. } = &self.tracker;
            let mut safe = kept.iter().chain(&ledger.changes).map(|numbered| numbered.change);
            if !safe.any(|safe| safe == change) && !table.rows.values().any(|row| *row == change) {
                self.void(fact);
            }
        }
    }

    /// Nothing is left to do for the second ledger.
    pub fn second_is_done(&self) -> bool {
        self.second.as_ref().is_none_or(|second| {
            let sending = second.shims.iter().any(Shim::is_sending);
            second.table.rows.is_empty() && second.ledger.published == second.ledger.head() && !sending
        })
    }
}
