//! Who publishes on the exchange: the shims of one ledger, which say heads; now and then those of a second ledger, or of
//! a copy of the first; and a producer that gives no numbers.
//!
//! Goes in: steps and the time. Comes out: messages and heads at the broker.

use std::rc::Rc;

pub use bugfeed_core::relay::heads::INTERVAL_MS;
use bugfeed_core::relay::outlet;
use bugfeed_protocol::{BugId, Change, Epoch, When};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::broker::{Broker, Confirm, Item, Message};
use crate::ledger::{Ledger, Table};
use crate::shadow::Fact;
use crate::shim::{Bus, Given, Moment, Shim, end_with};
use crate::swarm::{Act, Swarm};
use crate::world::World;

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
}

/// The broker, as a shim's connection to it goes.
struct Way<'a> {
    broker: &'a mut Broker,
    swarm: &'a Swarm,
    random: &'a mut SmallRng,
    /// History is away, and never comes back.
    never: bool,
    published: Option<(Message, Confirm)>,
}

impl Bus for Way<'_> {
    fn connect(&mut self) -> bool {
        if self.broker.up {
            self.broker.connect_shim();
        }
        self.broker.up
    }

    fn end(&mut self) -> Option<outlet::Event> {
        if !self.broker.streams {
            return Some(outlet::Event::End(None));
        }
        if self.broker.stream_up {
            return Some(end_with(self.broker.last()));
        }
        // It is away for a moment only, and mostly waited for.
        let fails = self.never || self.random.random_bool(0.05);
        fails.then_some(outlet::Event::NoEnd(outlet::Fault::Refused))
    }

    fn publish(&mut self, message: &Message) -> Confirm {
        let refused = self.swarm.has(Act::Refuse) && self.random.random_bool(self.swarm.refusals);
        let lost = self.swarm.has(Act::PublishLost) && self.random.random_bool(0.03);
        let confirm = self.broker.publish(&Item::Change(Rc::clone(message)), refused, lost, self.random);
        self.published = Some((Rc::clone(message), confirm));
        confirm
    }

    fn keeps_history(&self) -> bool {
        self.broker.streams
    }

    fn together(&self) -> usize {
        // As the shim does: where nothing takes every message, each change goes alone.
        if self.broker.streams { self.swarm.together } else { 1 }
    }
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

    /// One step of one shim: poller or outlet.
    fn tracker_step(&mut self) {
        let at = self.random.random_range(0..2);
        let Tracker { shims, ledger, table, .. } = &mut self.tracker;
        let other_lives = shims[1 - at].lives() && shims[1 - at].holds(ledger);
        if !shims[at].up {
            shims[at].up = self.random.random_bool(0.1);
            return;
        }
        if !shims[at].lives() && !shims[at].asleep && !other_lives {
            shims[at].acquire(table, ledger, self.swarm.batch, self.now_ms);
        }
        self.tags += 1;
        let epoch = Epoch::from_random(self.random.random());
        let moment = Moment { now: self.now(), now_ms: self.now_ms, tag: self.tags, epoch };
        match self.random.random_bool(0.5) {
            true => self.poller_step(at, &moment),
            false => self.outlet_step(at, &moment),
        }
    }

    fn poller_step(&mut self, at: usize, moment: &Moment) {
        let away = self.step < self.table_back_at;
        let Tracker { shims, ledger, table, .. } = &mut self.tracker;
        let fails = self.swarm.has(Act::ShimFailsCommit) && self.random.random_bool(0.05);
        let trouble = fails.then(|| self.random.random_bool(0.5));
        for numbered in shims[at].poll(table, ledger, moment, trouble, away) {
            let fact = self.truth.of(numbered.change.when).unwrap();
            self.say(|| format!("shim {at} numbers {} {}", numbered.change.bug, numbered.cursor));
            self.truth.number(fact, &numbered);
        }
    }

    fn outlet_step(&mut self, at: usize, moment: &Moment) {
        let Tracker { shims, ledger, table, .. } = &mut self.tracker;
        let (never, swarm) = (self.stream_up_at == usize::MAX, &self.swarm);
        let mut way = Way { broker: &mut self.broker, swarm, random: &mut self.random, never, published: None };
        let given = shims[at].give(table, ledger, &mut way, self.swarm.batch, moment);
        if let Some((message, confirm)) = way.published {
            self.stats.faults += u64::from(confirm != Confirm::Ack);
            let numbers: Vec<String> = message.iter().map(|numbered| numbered.cursor.to_string()).collect();
            self.stats.batches += u64::from(numbers.len() > 1);
            self.say(|| format!("shim {at} publishes {}: {confirm:?}", numbers.join(" ")));
        }
        if given == Given::On {
            return;
        }
        let orphans = std::mem::take(&mut self.tracker.orphans);
        self.say(|| format!("shim {at} looked at the way: {given:?}"));
        if given == Given::Renumbered {
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
            let paused = (self.step < self.table_back_at).then(|| "change table".to_owned());
            let Some(head) = self.tracker.shims[at].head(self.now_ms, paused) else { continue };
            self.say(|| format!("shim {at} says {}, paused {:?}", head.cursor, head.paused));
            self.broker.say(&Rc::new(head));
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
            let busy = second.shims.iter().any(Shim::is_busy);
            second.table.rows.is_empty() && second.ledger.published == second.ledger.head() && !busy
        })
    }
}
