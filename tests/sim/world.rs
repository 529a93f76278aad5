//! One run: everything there is, what happens to it step by step, and what must hold in the end.
//!
//! Goes in: a seed. Comes out: [`Stats`], or the first promise that was broken.

use std::rc::Rc;

use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::broker::Broker;
use crate::bus::Around;
use crate::client::Client;
use crate::ledger::Ledger;
use crate::pod::Life;
use crate::publishers::Tracker;
use crate::shadow::{Fact, Truth};
use crate::stats::Stats;
use crate::swarm::{Act, Swarm};

/// A transaction that has begun: its row's id, bug and date.
type Open = (i64, BugId, i64);

/// Everything there is.
pub struct World {
    pub swarm: Swarm,
    pub random: SmallRng,
    pub trace: bool,
    pub step: usize,
    pub now_ms: u64,
    pub truth: Truth,
    pub tracker: Tracker,
    /// Another ledger that publishes on the same exchange, and how many changes it has yet to get.
    pub second: Option<Tracker>,
    pub second_left: usize,
    /// Shims do nothing.
    pub asleep: bool,
    pub open: Vec<Open>,
    pub backup: Option<Ledger>,
    /// How many lineage tags were drawn.
    pub tags: u32,
    pub broker: Broker,
    pub pods: Vec<Option<Life>>,
    /// What each pod has recorded of a queue that was kept.
    pub recorded: Vec<Vec<Cursor>>,
    pub clients: Vec<Client>,
    pub named: usize,
    pub epochs: usize,
    pub broker_up_at: usize,
    pub stream_up_at: usize,
    /// The change table can be read from then on.
    pub table_back_at: usize,
    pub stats: Stats,
}

type Checked<T = ()> = Result<T, String>;

/// The second at which every run begins.
pub const BEGIN_S: i64 = 1_700_000_000;

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut random = SmallRng::seed_from_u64(seed);
        let swarm = Swarm::new(&mut random);
        if trace {
            println!("{swarm:?}");
        }
        let clients: Vec<Client> = (0..swarm.clients).map(|name| Client::new(name, &swarm, &mut random)).collect();
        World {
            broker: Broker::new(swarm.pods, swarm.queue_max, swarm.prefetch, swarm.history),
            pods: (0..swarm.pods).map(|_| None).collect(),
            recorded: vec![Vec::new(); swarm.pods],
            named: clients.len(),
            clients,
            tracker: Tracker::new(Ledger::new(Epoch::from_random(random.random())), false),
            second: None,
            second_left: 0,
            asleep: false,
            swarm,
            random,
            epochs: 0,
            backup: None,
            tags: 0,
            trace,
            step: 0,
            now_ms: 1000,
            truth: Truth::default(),
            open: Vec::new(),
            broker_up_at: 0,
            stream_up_at: 0,
            table_back_at: 0,
            stats: Stats::default(),
        }
    }

    pub fn now(&self) -> When {
        let micros = BEGIN_S * 1_000_000 + i64::try_from(self.now_ms).unwrap() * 1000;
        When::from_micros(micros).unwrap()
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>6} {:>7} ms  {}", self.step, self.now_ms, text());
        }
    }

    /// Runs to the end, and checks what must hold then.
    pub fn run(mut self) -> Checked<Stats> {
        for _ in 0..self.swarm.steps {
            self.step += 1;
            let act = self.swarm.next(&mut self.random);
            self.act(act).map_err(|broken| format!("step {}: {broken}", self.step))?;
        }
        self.settle()?;
        self.wait_for_heads()?;
        if self.random.random_bool(0.4) {
            self.quiet()?;
        }
        if self.random.random_bool(0.3) {
            self.outage()?;
        }
        if !(self.swarm.has_heads() || self.swarm.looks() && self.is_in_history()) || self.may_go_unheard() {
            self.wait_for_bindings()?;
            self.last_change();
            self.settle()?;
        }
        self.wait_for_heads()?;
        for _ in 0..3 {
            self.now_ms += 6000;
            self.tick()?;
            self.settle()?;
        }
        self.check_end()?;
        self.stats.steps = self.step as u64;
        self.stats.changes = self.truth.all.len() as u64;
        self.stats.dropped += self.broker.dropped;
        let breaks = self.pods.iter().flatten().map(|life| u64::from(life.shadow.borrow().breaks)).sum::<u64>();
        self.stats.breaks += breaks;
        self.stats.headless += u64::from(!self.swarm.heads);
        self.stats.looks += u64::from(self.swarm.heads && self.swarm.looks());
        Ok(self.stats)
    }

    /// A ledger that lies behind what its gateways have, and is silent, is like one whose head is on its way.
    fn may_go_unheard(&self) -> bool {
        self.swarm.has(Act::Copy) || self.swarm.has(Act::SetBack)
    }

    /// Whether history has all that was published, and ends with the ledger that goes on.
    fn is_in_history(&self) -> bool {
        let faults = [Act::Retention, Act::Wipe, Act::Unbind, Act::Refuse, Act::Second, Act::NewEpoch];
        !faults.into_iter().any(|act| self.swarm.has(act))
    }

    fn act(&mut self, act: Act) -> Checked {
        match act {
            Act::Commit => self.begin_commit(),
            Act::Shim => self.shim_step(),
            Act::Pod => return self.bus_step(),
            Act::Shard => {
                let (pod, lane) = (self.random.random_range(0..self.pods.len()), self.random.random_range(0..1000));
                let batch = [1, 1, 2, 5][self.random.random_range(0..4)];
                if let Some(life) = &mut self.pods[pod] {
                    life.shard_step(lane, batch);
                }
            }
            Act::Conn => {
                let (pod, pick) = (self.random.random_range(0..self.pods.len()), self.random.random_range(0..1000));
                if let Some(life) = &mut self.pods[pod] {
                    life.conn_step(pick);
                }
            }
            Act::Read => return self.read(),
            Act::Time => {
                let long = [(0.01, 20_000), (0.1, 4000)].into_iter().find(|(share, _)| self.random.random_bool(*share));
                self.now_ms += long.map_or_else(|| self.random.random_range(1..300), |(_, ms)| ms);
                return self.tick();
            }
            Act::Visit => self.visit(),
            fault => return self.fault(fault),
        }
        Ok(())
    }

    fn begin_commit(&mut self) {
        if self.truth.all.len() + self.open.len() >= self.swarm.changes {
            return;
        }
        let bug = BugId::new(self.random.random_range(1..=self.swarm.bugs)).unwrap();
        if self.random.random_bool(self.swarm.foreign) {
            return self.publish_foreign(bug);
        }
        let begun = (self.tracker.table.id(), bug, self.now().as_micros() / 1_000_000);
        self.open.push(begun);
        if self.open.len() > self.swarm.late_commits {
            let at = self.random.random_range(0..self.open.len());
            let mut open = self.open.swap_remove(at);
            if self.second.is_some() && self.random.random_bool(0.5) {
                self.on_second(|world| {
                    open.0 = world.tracker.table.id();
                    world.tracker.facts.push(world.truth.all.len());
                    world.commit(open);
                });
                self.second_left -= 1;
                if self.second_left == 0 {
                    self.end_second();
                }
                return;
            }
            self.commit(open);
        }
    }

    /// The change becomes visible; the date is that of the transaction's beginning, told apart by its fraction.
    pub fn commit(&mut self, (id, bug, second): Open) {
        let fraction = i64::try_from(self.truth.all.len()).unwrap();
        let change = Change { bug, when: When::from_micros(second * 1_000_000 + fraction).unwrap() };
        let fact = self.truth.commit(change, false);
        self.say(|| format!("commit {bug} at {}", change.when));
        let old = self.tracker.table.rows.iter().find(|(_, old)| self.swarm.one_row && old.bug == bug);
        match old.map(|(&id, old)| (id, *old)) {
            Some((id, old)) => {
                self.tracker.table.rows.insert(id, change);
                let old = self.truth.of(old.when).unwrap();
                // A ledger that was lost may have numbered it; if this one did not, nobody will.
                let when = self.truth.all[old].change.when;
                if !self.tracker.ledger.changes.iter().any(|numbered| numbered.change.when == when) {
                    self.void(old);
                }
            }
            None => {
                self.tracker.table.rows.insert(id, change);
            }
        }
        for client in &mut self.clients {
            client.committed(bug, fact);
        }
    }

    /// A change that will never get a number.
    pub fn void(&mut self, fact: Fact) {
        self.truth.all[fact].void = true;
        for client in &mut self.clients {
            client.missing.remove(&fact);
        }
    }

    fn bus_step(&mut self) -> Checked {
        self.recover();
        let pod = self.random.random_range(0..self.pods.len());
        if self.pods[pod].is_none() {
            if self.random.random_bool(0.1) {
                self.start_pod(pod);
            }
            return Ok(());
        }
        self.on_bus(pod, Life::bus_step)
    }

    /// What was away comes back when its time has come.
    pub fn recover(&mut self) {
        self.broker.up |= self.step >= self.broker_up_at;
        self.broker.stream_up = self.broker.streams && self.broker.up && self.step >= self.stream_up_at;
    }

    pub fn start_pod(&mut self, pod: usize) {
        self.say(|| format!("pod {pod} starts"));
        let mut life = Life::new(&self.swarm, &mut self.random, self.now_ms);
        life.recorded = std::mem::take(&mut self.recorded[pod]);
        life.inherited = life.recorded.len();
        life.tick(self.now_ms);
        self.pods[pod] = Some(life);
    }

    /// Lets a pod do something with the broker; classic clients of a pod that lost continuity cannot be told.
    pub fn on_bus<T>(&mut self, pod: usize, act: impl FnOnce(&mut Life, &mut Around<'_>) -> Checked<T>) -> Checked {
        let now = self.now();
        let Some(life) = &mut self.pods[pod] else { return Ok(()) };
        let breaks = life.shadow.borrow().breaks;
        let head = life.shadow.borrow().head.clone();
        let mut around = Around {
            pod,
            broker: &mut self.broker,
            truth: &self.truth,
            swarm: &self.swarm,
            random: &mut self.random,
            now,
            now_ms: self.now_ms,
            trace: self.trace,
        };
        act(life, &mut around)?;
        let foreign = std::mem::take(&mut life.shadow.borrow_mut().foreign);
        for client in &mut self.clients {
            client.recorded(&foreign, &life.shadow, &self.truth);
        }
        let shadow = life.shadow.borrow();
        if self.trace && head != shadow.head {
            println!("{:>6} {:>7} ms  pod {pod} has {:?}", self.step, self.now_ms, shadow.head);
        }
        if breaks != shadow.breaks {
            for client in self.clients.iter_mut().filter(|client| !client.modern) {
                if client.session.as_ref().is_some_and(|session| Rc::ptr_eq(&session.shadow, &life.shadow)) {
                    // What comes now may be older than what it has, and its memory is a date.
                    client.missing.retain(|&fact| self.truth.all[fact].numbers.is_empty());
                }
            }
        }
        Ok(())
    }

    pub fn tick(&mut self) -> Checked {
        self.say_heads();
        for pod in 0..self.pods.len() {
            self.on_bus(pod, Life::bus_tick)?;
            let Some(life) = &mut self.pods[pod] else { continue };
            life.tick(self.now_ms);
            if life.drains_until_ms.is_some_and(|until| self.now_ms >= until) {
                self.end_pod(pod, false);
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Checked {
        let at = self.random.random_range(0..self.clients.len());
        if self.clients[at].stalled_until > self.step {
            return Ok(());
        }
        let most = self.swarm.room.min(3000);
        let bytes = self.random.random_range(1..=most);
        self.client_reads(at, bytes)
    }

    /// A client reads; one whose gateway is gone may lose what it has not read.
    pub fn client_reads(&mut self, at: usize, bytes: usize) -> Checked {
        let client = &mut self.clients[at];
        let cut = client.is_cut();
        if cut && self.random.random_bool(0.3) {
            client.disconnect(true);
            return Ok(());
        }
        if self.trace
            && let Some(session) = &client.session
        {
            let waiting: Vec<u8> = session.wire.bytes.borrow().iter().copied().take(bytes).collect();
            if !waiting.is_empty() {
                let text: String = String::from_utf8_lossy(&waiting).chars().filter(|c| !c.is_control()).collect();
                println!("{:>6} {:>7} ms  client {} reads {text}", self.step, self.now_ms, client.name);
            }
        }
        client.read(bytes, &self.truth)?;
        self.stats.heard += 1;
        self.stats.told_all(&std::mem::take(&mut client.told_all));
        let empty = client.session.as_ref().is_some_and(|session| session.wire.bytes.borrow().is_empty());
        if cut && empty {
            client.disconnect(true);
        }
        Ok(())
    }

    /// A client connects, or changes its mind.
    pub fn visit(&mut self) {
        let at = self.random.random_range(0..self.clients.len());
        if self.clients[at].session.is_none() {
            self.connect(at);
        } else if self.random.random_bool(0.1)
            && let Some(bug) = BugId::new(self.random.random_range(1..=self.swarm.bugs))
        {
            self.clients[at].change_bugs(bug, &self.truth);
        }
    }

    pub fn connect(&mut self, at: usize) {
        let pod = self.random.random_range(0..self.pods.len());
        let lane = self.random.random_range(0..1000);
        let Some(life) = &mut self.pods[pod] else { return };
        if !life.is_open() {
            self.stats.turned_away += 1;
            return;
        }
        if life.drains_until_ms.is_none() {
            let room = self.random.random_range(self.swarm.room / 2..=self.swarm.room);
            self.clients[at].connect(pod, life, room, lane);
            self.stats.sessions += 1;
            let client = &self.clients[at];
            let from = client.cursor.as_ref().map(Cursor::to_string);
            self.say(|| format!("client {at} connects to pod {pod} from {from:?}, {:?}", client.since));
        }
    }
}
