//! One run: everything there is, what happens to it step by step, and what must hold in the end.
//!
//! Goes in: a seed. Comes out: [`Stats`], or the first promise that was broken.

use std::rc::Rc;

use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::broker::{Broker, Confirm};
use crate::client::Client;
use crate::pod::{Around, Life};
use crate::shadow::{Fact, Truth};
use crate::shim::{Ledger, Shim, Table};
use crate::swarm::{Act, Swarm};

/// What happened, so that it can be seen that something did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub steps: u64,
    pub changes: u64,
    pub heard: u64,
    pub sessions: u64,
    pub complete: u64,
    pub latest: u64,
    pub gaps: u64,
    pub lagged: u64,
    pub caught_up: u64,
    pub breaks: u64,
    pub dropped: u64,
    pub faults: u64,
    pub renumbered: u64,
    pub forks: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.steps += other.steps;
        self.changes += other.changes;
        self.heard += other.heard;
        self.sessions += other.sessions;
        self.complete += other.complete;
        self.latest += other.latest;
        self.gaps += other.gaps;
        self.lagged += other.lagged;
        self.caught_up += other.caught_up;
        self.breaks += other.breaks;
        self.dropped += other.dropped;
        self.faults += other.faults;
        self.renumbered += other.renumbered;
        self.forks += other.forks;
    }

    pub fn assert_all_happened(&self) {
        let Stats { changes, heard, complete, latest, gaps, lagged, caught_up, breaks, dropped, faults, .. } = *self;
        let Stats { renumbered, forks, .. } = *self;
        for count in
            [changes, heard, complete, latest, gaps, lagged, caught_up, breaks, dropped, faults, renumbered, forks]
        {
            assert!(count > 0, "{self:?}");
        }
    }
}

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
    pub table: Table,
    pub open: Vec<Open>,
    pub ledger: Ledger,
    pub backup: Option<Ledger>,
    /// Changes that a ledger published before it was set back, as long as no shim has looked at the end of history.
    pub orphans: Vec<Fact>,
    /// How many lineage tags were drawn.
    pub tags: u32,
    pub shims: [Shim; 2],
    pub broker: Broker,
    pub pods: Vec<Option<Life>>,
    pub expects: Vec<Option<Cursor>>,
    pub clients: Vec<Client>,
    pub named: usize,
    pub epochs: usize,
    pub broker_up_at: usize,
    pub stream_up_at: usize,
    pub stats: Stats,
}

type Checked<T = ()> = Result<T, String>;

/// The second at which every run begins.
const BEGIN_S: i64 = 1_700_000_000;

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
            expects: vec![None; swarm.pods],
            named: clients.len(),
            clients,
            ledger: Ledger::new(Epoch::from_random(random.random())),
            swarm,
            random,
            epochs: 0,
            backup: None,
            orphans: Vec::new(),
            tags: 0,
            trace,
            step: 0,
            now_ms: 1000,
            truth: Truth::default(),
            table: Table::default(),
            open: Vec::new(),
            shims: [Shim::default(), Shim::default()],
            broker_up_at: 0,
            stream_up_at: 0,
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
        // What shows a hole is the next change: one of a bug that nobody watches.
        let last = BugId::new(1_000_000).unwrap();
        let id = self.table.id();
        self.commit((id, last, BEGIN_S));
        self.settle()?;
        for _ in 0..3 {
            self.now_ms += 6000;
            self.tick();
            self.settle()?;
        }
        self.check_end()?;
        self.stats.steps = self.step as u64;
        self.stats.changes = self.truth.all.len() as u64;
        self.stats.dropped += self.broker.dropped;
        let breaks = self.pods.iter().flatten().map(|life| u64::from(life.shadow.borrow().breaks)).sum::<u64>();
        self.stats.breaks += breaks;
        Ok(self.stats)
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
                self.now_ms += if self.random.random_bool(0.1) { 4000 } else { self.random.random_range(1..300) };
                self.tick();
            }
            Act::Visit => self.visit(),
            fault => self.fault(fault),
        }
        Ok(())
    }

    fn begin_commit(&mut self) {
        if self.truth.all.len() + self.open.len() >= self.swarm.changes {
            return;
        }
        let bug = BugId::new(self.random.random_range(1..=self.swarm.bugs)).unwrap();
        let begun = (self.table.id(), bug, self.now().as_micros() / 1_000_000);
        self.open.push(begun);
        if self.open.len() > self.swarm.late_commits {
            let at = self.random.random_range(0..self.open.len());
            let open = self.open.swap_remove(at);
            self.commit(open);
        }
    }

    /// The change becomes visible; the date is that of the transaction's beginning, told apart by its fraction.
    fn commit(&mut self, (id, bug, second): Open) {
        let fraction = i64::try_from(self.truth.all.len()).unwrap();
        let change = Change { bug, when: When::from_micros(second * 1_000_000 + fraction).unwrap() };
        let fact = self.truth.commit(change);
        self.say(|| format!("commit {bug} at {}", change.when));
        let old = self.table.rows.iter().find(|(_, old)| self.swarm.one_row && old.bug == bug);
        match old.map(|(&id, old)| (id, *old)) {
            Some((id, old)) => {
                self.table.rows.insert(id, change);
                let old = self.truth.of(old.when).unwrap();
                // A ledger that was lost may have numbered it; if this one did not, nobody will.
                let when = self.truth.all[old].change.when;
                if !self.ledger.changes.iter().any(|numbered| numbered.change.when == when) {
                    self.void(old);
                }
            }
            None => {
                self.table.rows.insert(id, change);
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

    /// One step of one shim: intake or outlet.
    pub fn shim_step(&mut self) {
        let at = self.random.random_range(0..2);
        let other_lives = self.shims[1 - at].lives() && self.shims[1 - at].holds(&self.ledger);
        let shim = &mut self.shims[at];
        if !shim.up {
            shim.up = self.random.random_bool(0.1);
            return;
        }
        if !shim.lives() && !shim.asleep && !other_lives {
            self.tags += 1;
            shim.acquire(&mut self.ledger, self.tags);
        }
        if self.random.random_bool(0.5) {
            let fails = self.swarm.has(Act::ShimFailsCommit) && self.random.random_bool(0.05);
            let trouble = fails.then(|| self.random.random_bool(0.5));
            let now = self.now();
            let numbered = self.shims[at].intake(&mut self.table, &mut self.ledger, self.swarm.batch, now, trouble);
            for numbered in numbered {
                let fact = self.truth.of(numbered.change.when).unwrap();
                self.say(|| format!("shim {at} numbers {} {}", numbered.change.bug, numbered.cursor));
                self.truth.number(fact, &numbered);
            }
            return;
        }
        if self.shims[at].must_compare(&self.ledger) {
            // A stream that is away for a moment is waited for.
            if self.broker.up && (!self.broker.streams || self.broker.stream_up) {
                self.compare(at);
            }
            return;
        }
        let Some(message) = self.shims[at].next_message(&self.ledger, self.swarm.batch) else { return };
        let refused = self.swarm.has(Act::Refuse) && self.random.random_bool(self.swarm.refusals);
        let lost = self.swarm.has(Act::PublishLost) && self.random.random_bool(0.03);
        let confirm = self.broker.publish(&message, refused, lost, &mut self.random);
        self.stats.faults += u64::from(confirm != Confirm::Ack);
        self.say(|| format!("shim {at} publishes {}: {confirm:?}", message.cursor));
        self.shims[at].confirmed(confirm, &mut self.ledger);
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
    fn recover(&mut self) {
        self.broker.up |= self.step >= self.broker_up_at;
        self.broker.stream_up = self.broker.streams && self.step >= self.stream_up_at;
    }

    pub fn start_pod(&mut self, pod: usize) {
        self.say(|| format!("pod {pod} starts"));
        let mut life = Life::new(&self.swarm, &mut self.random);
        life.expects = self.expects[pod].take();
        life.tick(self.now_ms, self.now());
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
        };
        act(life, &mut around)?;
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

    pub fn tick(&mut self) {
        let now = self.now();
        for pod in 0..self.pods.len() {
            let Some(life) = &mut self.pods[pod] else { continue };
            life.tick(self.now_ms, now);
            if life.drains_until_ms.is_some_and(|until| self.now_ms >= until) {
                self.end_pod(pod, false);
            }
        }
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
