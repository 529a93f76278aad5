//! Endpoints, simulated: replicas that take turns, die and stall, feeds that lag and forget, receivers that fail, hang and
//! are away, people who give orders, and a clock that jumps.
//!
//! Goes in: one number. Comes out: what happened, or the first promise that was broken. The planners, the schedule, the
//! sequencer and the replay cache are the real ones; store, receivers and leases are models.
//!
//! `BUGFEED_SIM_SEED=7 cargo test --test sim -- endpoints::seeds --nocapture` replays one seed.

mod act;
mod check;
mod feed;
mod node;
mod receiver;

use std::collections::BTreeMap;
use std::sync::Arc;

use bugfeed_core::endpoints::SECOND_US;
use bugfeed_core::endpoints::batch::Batch;
use bugfeed_core::endpoints::endpoint::{Endpoint, Fence, Input, REQUEST_US, Send};
use bugfeed_core::endpoints::orders::carry_out;
use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::{Bound, Since, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::replay::ReplayLimits;
use bugfeed_protocol::{BugId, When};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use feed::{Ledger, Local, Start};
use node::{Node, Served};
use receiver::Receiver;

type Checked<T = ()> = Result<T, String>;

/// How many seeds the normal run takes.
const SEEDS: u64 = 300;
/// So many seeds make everything happen that is counted.
const MANY: u64 = 300;
const NODES: usize = 2;
const BUGS: u64 = 7;
/// A lease that was not renewed for so long is taken over.
const SILENCE_US: i64 = 6 * SECOND_US;
/// Its holder stops a second before that.
const HELD_US: i64 = 5 * SECOND_US;
const BEGIN_US: i64 = 20_000 * 86_400 * SECOND_US;

/// Who serves an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    term: u64,
    /// Replica and life.
    holder: Option<(usize, u64)>,
    beat_us: i64,
}

/// A request that is under way.
struct Request {
    endpoint: usize,
    /// Replica, life and term.
    from: (usize, u64, u64),
    send: Send,
    /// How often its feed had been recovered by hand.
    turn: u32,
    /// Its receiver has it, and what it did with it.
    done: bool,
}

/// What is counted, so that a simulation in which nothing happens is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Happens {
    Update,
    Complete,
    Latest,
    Gap,
    NotYet,
    Ahead,
    Retry,
    SameAgain,
    SameElsewhere,
    Dissolved,
    Probe,
    Ready,
    Test,
    Redelivery,
    Cooling,
    Disabled,
    Warning,
    Recovered,
    Conflict,
    Unknown,
    Takeover,
    Crash,
    Lost,
    Recovery,
    Late,
    Aborted,
    Quiet,
    Deleted,
}

type Happened = BTreeMap<Happens, u64>;

struct World {
    random: SmallRng,
    trace: bool,
    now_us: i64,
    ledgers: Vec<Ledger>,
    limits: ReplayLimits,
    bound: Bound,
    rows: Vec<Row>,
    leases: Vec<Lease>,
    receivers: Vec<Receiver>,
    nodes: Vec<Option<Node>>,
    lives: u64,
    requests: Vec<Request>,
    /// What was sent last and failed, by endpoint and feed, and what the endpoint watched then.
    failed: BTreeMap<(usize, usize), (Arc<Batch>, Watch)>,
    /// The term in which each endpoint was sent to last.
    sender: BTreeMap<usize, u64>,
    /// The number that each receiver must know in the end, by endpoint, feed and bug.
    owed: BTreeMap<(usize, usize, BugId), u64>,
    happened: Happened,
    weights: [u32; 14],
    /// How much this world likes holes in a feed, and faults of the store.
    holes: f64,
    faults: f64,
}

impl World {
    fn new(seed: u64, trace: bool) -> World {
        let mut random = SmallRng::seed_from_u64(seed);
        let ledger = |name: &str| Ledger { name: name.into(), changes: Vec::new() };
        let mut weights = [30, 40, 160, 40, 30, 1, 1, 20, 4, 3, 1, 40, 40, 1];
        for at in [0, 1, 3, 5, 6, 8, 9, 10, 13] {
            weights[at] *= random.random_range(0..3);
        }
        weights[0] = weights[0].max(10);
        weights[1] = weights[1].max(20);
        weights[3] = weights[3].max(20);
        let bugs = if random.random_bool(0.15) { 5 } else { 1000 };
        let limits = ReplayLimits { max: random.random_range(4..60), age_s: 86_400, bugs };
        let entries = if random.random_bool(0.5) { 2 } else { 100 };
        let bytes = if random.random_bool(0.3) { 150 } else { 19_700 };
        let mut world = World {
            trace,
            now_us: BEGIN_US,
            ledgers: vec![ledger("x"), ledger("y")],
            limits,
            bound: Bound { entries, bytes },
            rows: Vec::new(),
            leases: Vec::new(),
            receivers: Vec::new(),
            nodes: Vec::new(),
            lives: 0,
            requests: Vec::new(),
            failed: BTreeMap::new(),
            sender: BTreeMap::new(),
            owed: BTreeMap::new(),
            happened: Happened::new(),
            weights,
            holes: if random.random_bool(0.3) { 0.05 } else { 0.0 },
            faults: if random.random_bool(0.5) { 0.05 } else { 0.0 },
            random,
        };
        for _ in 0..world.random.random_range(1..4) {
            let row = world.new_row();
            world.rows.push(row);
            world.leases.push(Lease::default());
            world.receivers.push(Receiver::new());
        }
        world.nodes.extend((0..NODES).map(|_| None));
        world
    }

    fn new_row(&mut self) -> Row {
        let policy = Policy::ALL[self.random.random_range(0..3)];
        let watch = self.watch();
        let feeds = if self.random.random_bool(0.5) { 1 } else { 2 };
        let mut row = Row::new(policy, watch, self.ledgers[..feeds].iter().map(|ledger| Arc::clone(&ledger.name)));
        row.rate = self.random.random_bool(0.2).then_some(2);
        row
    }

    fn watch(&mut self) -> Watch {
        if self.random.random_bool(0.3) {
            return Watch::All;
        }
        let bugs = (1..=BUGS).filter(|_| self.random.random_bool(0.6)).filter_map(BugId::new).collect();
        Watch::Bugs(bugs)
    }

    fn run(mut self) -> Checked<Happened> {
        for _ in 0..self.random.random_range(200..1500) {
            self.act()?;
        }
        self.heal()?;
        self.check_end()?;
        Ok(self.happened)
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.3} {}", (self.now_us - BEGIN_US) as f64 / 1e6, text());
        }
    }

    fn happens(&mut self, what: Happens) {
        *self.happened.entry(what).or_default() += 1;
    }

    fn when(&self) -> When {
        When::from_micros(self.now_us).unwrap()
    }

    /// The tracker commits a change.
    fn commit(&mut self) {
        let feed = self.random.random_range(0..self.ledgers.len());
        let bug = BugId::new(self.random.random_range(1..=BUGS)).unwrap();
        // The fraction tells changes apart.
        let number = self.ledgers[feed].head() + 1;
        let when = When::from_micros(self.now_us / SECOND_US * SECOND_US + i64::try_from(number).unwrap()).unwrap();
        self.ledgers[feed].changes.push(bugfeed_protocol::Change { bug, when });
        self.say(|| format!("feed {feed}: {number} is bug {bug}"));
        for at in 0..self.rows.len() {
            let row = &self.rows[at];
            let line = row.lines.iter().find(|line| line.feed == self.ledgers[feed].name);
            let begun = line.is_some_and(|line| line.since != Since::Head);
            let watches = match &row.watch {
                Watch::All => true,
                Watch::Bugs(bugs) => bugs.contains(&bug),
            };
            if begun && watches && !row.deleted {
                self.owed.insert((at, feed, bug), number);
            }
        }
    }

    fn start(&mut self, node: usize) {
        self.lives += 1;
        let mut feeds = Vec::new();
        for ledger in self.ledgers.clone() {
            let start = match self.random.random_range(0..10) {
                0 => Start::Head,
                1 => Start::Nothing,
                _ => Start::History,
            };
            feeds.push(Local::new(&ledger, start, self.limits));
        }
        let places = self.random.random_range(1..4);
        self.say(|| format!("replica {node} starts"));
        self.nodes[node] = Some(Node::new(self.lives, feeds, places));
    }

    fn crash(&mut self, node: usize) {
        let Some(dead) = self.nodes[node].take() else { return };
        self.say(|| format!("replica {node} dies"));
        self.happens(Happens::Crash);
        for feed in &dead.feeds {
            self.count(feed);
        }
        // Its requests end; what was sent may have arrived, or not.
        for mut request in std::mem::take(&mut self.requests) {
            if request.from.1 != dead.life {
                self.requests.push(request);
            } else if self.random.random_bool(0.3) && !request.done {
                request.done = true;
                let _ = self.receive(&request, true);
            }
        }
    }

    fn count(&mut self, feed: &Local) {
        *self.happened.entry(Happens::NotYet).or_default() += feed.given[0].get();
        *self.happened.entry(Happens::Ahead).or_default() += feed.given[1].get();
    }

    /// A replica takes over an endpoint, renews its leases, or gives one back.
    fn leases(&mut self, node: usize) {
        let now_us = self.now_us;
        let Some(life) = self.nodes[node].as_ref().filter(|n| n.stalled_until_us <= now_us).map(|n| n.life) else {
            return;
        };
        for at in 0..self.leases.len() {
            let lease = self.leases[at];
            if lease.holder == Some((node, life)) {
                self.leases[at].beat_us = now_us;
                let fine = self.nodes[node].as_mut().unwrap();
                if let Some(served) = fine.served.get_mut(&at) {
                    (served.beat_us, _) = (now_us, served.inbox.push_back(Input::Renewed(now_us + HELD_US)));
                }
                continue;
            }
            // It notices that it has lost its lease.
            let served = self.nodes[node].as_ref().unwrap().served.contains_key(&at);
            if served {
                self.happens(Happens::Lost);
                self.hear(node, at, Input::Lost);
                self.abort(at, life);
                self.nodes[node].as_mut().unwrap().drop_served(at);
            }
            let free = lease.holder.is_none();
            if free || now_us - lease.beat_us >= SILENCE_US {
                self.take_over(node, at, free);
            }
        }
    }

    fn take_over(&mut self, node: usize, at: usize, free: bool) {
        if self.rows[at].deleted {
            return;
        }
        let now_us = self.now_us;
        let life = self.nodes[node].as_ref().unwrap().life;
        let term = self.leases[at].term + 1;
        self.happened.entry(Happens::Takeover).and_modify(|n| *n += 1).or_insert(1);
        self.leases[at] = Lease { term, holder: Some((node, life)), beat_us: now_us };
        let from_us = if free { now_us } else { now_us + REQUEST_US };
        let fence = Fence { term, from_us, until_us: now_us + HELD_US };
        let random = self.random.random();
        let planner = Endpoint::new(self.rows[at].clone(), fence, self.bound, random, now_us);
        self.say(|| format!("replica {node} serves {at} in term {term}, free {free}"));
        let on = self.nodes[node].as_mut().unwrap();
        let slot = on.schedule.add(&format!("host{}", at % 2));
        let inbox = [Input::Tick].into();
        let (outbox, unaccepted) = Default::default();
        let served = Served { planner, inbox, outbox, term, slot, decided: None, unaccepted, beat_us: now_us };
        on.served.insert(at, served);
    }

    /// Gives a lease back, if nothing is under way.
    fn give_back(&mut self, node: usize, at: usize) {
        let Some(on) = &mut self.nodes[node] else { return };
        let rests = |served: &Served| !served.planner.is_in_flight() && served.outbox.is_empty();
        if on.served.get(&at).is_some_and(rests) && self.leases[at].holder == Some((node, on.life)) {
            on.drop_served(at);
            self.leases[at].holder = None;
        }
    }

    fn abort(&mut self, at: usize, life: u64) {
        let mine = |request: &Request| request.endpoint == at && request.from.1 == life;
        if let Some(place) = self.requests.iter().position(mine) {
            self.requests.swap_remove(place);
            self.happens(Happens::Aborted);
        }
    }

    fn hear(&mut self, node: usize, at: usize, input: Input) {
        let now_us = self.now_us;
        if let Some(on) = &mut self.nodes[node] {
            on.hear(at, input, now_us, &self.ledgers);
        }
    }

    /// Writes an order into the store; whoever serves the endpoint may be told.
    fn order(&mut self, at: usize, order: &bugfeed_core::endpoints::orders::Order) -> bool {
        let mut row = self.rows[at].clone();
        if carry_out(&mut row, order).is_err() {
            return false;
        }
        self.say(|| format!("endpoint {at}: {order:?}"));
        self.rows[at] = row;
        if self.random.random_bool(0.8) {
            self.announce_row(at);
        }
        true
    }

    fn announce_row(&mut self, at: usize) {
        let row = self.rows[at].clone();
        for node in self.nodes.iter_mut().flatten() {
            if let Some(served) = node.served.get_mut(&at) {
                served.inbox.push_back(Input::Changed(Box::new(row.clone())));
            }
        }
    }
}

fn run(seed: u64, trace: bool) -> Checked<Happened> {
    let work = std::panic::AssertUnwindSafe(|| World::new(seed, trace).run());
    std::panic::catch_unwind(work).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

#[test]
fn seeds() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("BUGFEED_SIM_SEED") {
        if let Err(broken) = run(seed, true) {
            panic!("seed {seed}: {broken}");
        }
        return;
    }
    let end = number("BUGFEED_SIM_SEEDS").unwrap_or(SEEDS);
    let mut happened = Happened::new();
    for seed in 0..end {
        match run(seed, false) {
            Ok(more) => more.into_iter().for_each(|(what, count)| *happened.entry(what).or_default() += count),
            Err(broken) => panic!(
                "seed {seed}: {broken}\nreplay: BUGFEED_SIM_SEED={seed} cargo test --test sim -- endpoints::seeds --nocapture"
            ),
        }
    }
    println!("{happened:?}");
    // A simulation in which nothing happens proves nothing.
    let never: Vec<Happens> = check::ALL.iter().copied().filter(|what| !happened.contains_key(what)).collect();
    assert!(end < MANY || never.is_empty(), "these never happened: {never:?}");
}

#[test]
fn a_seed_is_all_there_is_to_a_run() {
    for seed in 0..10 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
