//! The processor of received events, simulated: sources, trackers, workers, people, and a clock that jumps.
//!
//! Goes in: one number. Comes out: what happened, or the first promise that was broken. The planners are the real ones;
//! store, workers and trackers are models.
//!
//! `BUGFEED_SIM_SEED=7 cargo test --test sim -- hooks::seeds --nocapture` replays one seed.

mod check;
mod heal;
pub mod store;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::action::{Action, Mapped, Question};
use bugfeed_core::hooks::arrival::{Duplicates, Mapping, receive};
use bugfeed_core::hooks::breaker::{Answer, Breaker, Options};
use bugfeed_core::hooks::event::{
    ContentHash, Delivery, ErrorClass, Event, EventId, Progress, State, Trigger, WhenOrigin,
};
use bugfeed_core::hooks::lane::{DeadLetters, Gate, Older, Private, Settings, World as View};
use bugfeed_core::hooks::orders::{Order, carry_out};
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_core::hooks::pace::Bucket;
use bugfeed_core::hooks::schedule::Schedule;
use bugfeed_core::hooks::states::{Cause, TRANSITIONS};
use bugfeed_protocol::{BugId, When};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use store::{LEASE_US, Store};
use worker::{Claim, Job};

type Checked<T = ()> = Result<T, String>;

/// How many seeds the normal run takes.
const SEEDS: u64 = 200;
/// So many seeds make every transition of the table happen, except these: two of one family must be processed at one moment in
/// two lanes, which takes a reload between them. A test of the core has them (`of_two_of_a_family_in_two_lanes_…`).
const MANY: u64 = 1500;
const RARE: [(State, Cause); 2] = [(State::Processing, Cause::Repeated), (State::Processing, Cause::Superseded)];
const WORKERS: usize = 3;

pub struct Source {
    name: Arc<str>,
    feed: Arc<str>,
    settings: Settings,
    duplicates: Duplicates,
    breaker: Breaker,
    pace: Bucket,
    up: bool,
    mapping_fits: bool,
}

/// What happened in a run.
type Happened = BTreeSet<(Option<State>, Cause)>;

pub struct World {
    random: StdRng,
    trace: bool,
    pub now_us: i64,
    pub store: Store,
    pub sources: Vec<Source>,
    pub jobs: Vec<Job>,
    /// What the mapping of an item gives once it fits.
    truth: BTreeMap<EventId, Mapped>,
    /// Bugs that trackers do not show.
    hidden: BTreeSet<u64>,
    replays: BTreeSet<EventId>,
    happened: Happened,
    /// Sources that did not always hold: what was claimed before a reload may be announced before a dead letter that holds
    /// since then.
    loose: BTreeSet<Arc<str>>,
    weights: [u32; 13],
}

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let now_us = 20_000 * 86_400 * SECOND_US;
        let sources = [("a", "x"), ("b", "x"), ("c", "y")].map(|(name, feed)| source(&mut random, name, feed));
        let mut weights = [25, 80, 4, 16, 2, 1, 3, 3, 2, 2, 4, 4, 3];
        for weight in &mut weights[2..] {
            *weight *= random.random_range(0..3);
        }
        World {
            random,
            trace,
            now_us,
            store: Store::default(),
            sources: sources.into(),
            jobs: vec![Job::Idle; WORKERS],
            truth: BTreeMap::new(),
            hidden: BTreeSet::new(),
            replays: BTreeSet::new(),
            happened: Happened::new(),
            loose: BTreeSet::new(),
            weights,
        }
    }

    pub fn run(mut self) -> Checked<Happened> {
        for _ in 0..self.random.random_range(50..400) {
            self.act()?;
        }
        self.heal()?;
        self.check_end()?;
        self.happened.extend(self.store.happened.iter().copied());
        Ok(self.happened)
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>14} {}", self.now_us / 1000 % 10_000_000_000, text());
        }
    }

    fn chance(&mut self, of: f64) -> bool {
        self.random.random_bool(of)
    }

    fn act(&mut self) -> Checked {
        let total: u32 = self.weights.iter().sum();
        let mut at = self.random.random_range(0..total);
        let act = self.weights.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let source = self.random.random_range(0..self.sources.len());
        let worker = self.random.random_range(0..WORKERS);
        match act.unwrap_or(0) {
            0 => self.arrive(source)?,
            1 => self.work(worker)?,
            2 => self.stop(worker)?,
            3 => self.now_us += self.random.random_range(1..40) * self.random.random_range(1_000..SECOND_US),
            4 => self.now_us += self.random.random_range(0..20 * 3600) * SECOND_US,
            5 => self.now_us -= self.random.random_range(0..2 * 3600) * SECOND_US,
            6 => self.sources[source].up ^= true,
            7 => {
                let bug = self.random.random_range(1..4);
                if !self.hidden.remove(&bug) {
                    self.hidden.insert(bug);
                }
            }
            8 => {
                self.sources[source].mapping_fits ^= true;
                self.order_all(source, Order::Mended(ErrorClass::Mapping))?;
            }
            9 => {
                let on = &mut self.sources[source].settings.on;
                *on ^= true;
                if *on {
                    // The process may die before it has given the order for all.
                    let most = if self.chance(0.5) { usize::MAX } else { self.random.random_range(0..4) };
                    self.order_some(source, Order::SwitchOn, most)?;
                }
            }
            10 => self.by_hand()?,
            11 => self.probe(source)?,
            _ => self.reload(source)?,
        }
        Ok(())
    }

    /// Another configuration of a source.
    fn reload(&mut self, at: usize) -> Checked {
        let what = self.random.random_range(0..5);
        let source = &mut self.sources[at];
        let settings = &mut source.settings;
        match what {
            0 => settings.verify ^= true,
            1 => settings.private = if settings.private == Private::Drop { Private::Announce } else { Private::Drop },
            2 => settings.older = if settings.older == Older::Drop { Older::Announce } else { Older::Drop },
            3 => {
                let holds = settings.dead_letters == DeadLetters::Hold;
                settings.dead_letters = if holds { DeadLetters::Supersede } else { DeadLetters::Hold };
                self.loose.insert(source.name.clone());
            }
            _ => source.feed = if &*source.feed == "x" { "y".into() } else { "x".into() },
        }
        let (name, feed, settings) = (source.name.clone(), source.feed.clone(), source.settings);
        self.say(|| format!("source {name} has other settings: {settings:?}, feed {feed}"));
        if self.chance(0.2) {
            // What nothing could be read of concerns no bug now.
            self.order_all(at, Order::Ignored)?;
        }
        self.order_all(at, Order::Mended(ErrorClass::Mapping))
    }

    /// The settings of an event's source.
    pub fn settings(&self) -> impl Fn(&Event) -> Settings + '_ {
        |event| self.sources.iter().find(|source| source.name == event.source).map_or(Settings::DEFAULT, |s| s.settings)
    }

    fn arrive(&mut self, source: usize) -> Checked {
        let event = self.item(source);
        let source = &self.sources[source];
        let mapping = match (event.bug, self.random.random_range(0..40)) {
            (Some(_), 0) => Mapping::NotMapped,
            (Some(_), 1) => Mapping::ProjectMismatch,
            (Some(_), _) => Mapping::Fits,
            (None, _) => Mapping::Failed,
        };
        let replays = (event.progress.trigger == Trigger::Replay).then_some(EventId(1));
        // Another process may have received something in between: then it is decided anew.
        let known = self.store.known(&event);
        let actions = receive(event.clone(), mapping, &known, &source.settings, source.duplicates, replays);
        self.say(|| format!("arrives {event:?} {mapping:?}"));
        if !self.store.commit(&actions)? {
            return Err("an arrival was not stored".to_owned());
        }
        if self.store.commit(&actions)? {
            return Err("an arrival was stored twice".to_owned());
        }
        if replays.is_some() {
            self.replays.insert(event.id);
        }
        Ok(())
    }

    /// A new item, or one that was sent before.
    fn item(&mut self, at: usize) -> Event {
        let id = EventId(self.truth.len() as u128 + 1);
        let earlier: Vec<EventId> =
            self.store.events.values().filter(|event| event.source == self.sources[at].name).map(|e| e.id).collect();
        let trigger = match self.random.random_range(0..12) {
            0 => Trigger::Reconcile,
            1 if !earlier.is_empty() => Trigger::Replay,
            _ => Trigger::Live,
        };
        let mut event = if !earlier.is_empty() && self.chance(0.35) {
            let of = earlier[self.random.random_range(0..earlier.len())];
            let mut event = Event::clone(&self.store.events[&of]);
            let truth = Mapped { feed: self.sources[at].feed.clone(), ..self.truth[&of].clone() };
            if self.chance(0.3) {
                event.hash.0[0] ^= 0x80;
            }
            (event.bug, event.feed, event.when, event.origin) =
                (Some(truth.bug), truth.feed.clone(), truth.when, truth.origin);
            event.private = truth.private;
            self.truth.insert(id, Mapped { hash: event.hash, ..truth });
            event
        } else {
            self.new_item(at, id)
        };
        if event.origin == WhenOrigin::Arrival {
            event.when = When::from_micros(self.now_us).unwrap();
        }
        if !self.sources[at].mapping_fits && self.chance(0.7) {
            event.bug = None;
        }
        event.retryable = self.chance(0.9);
        (event.id, event.received_us, event.repeat_of) = (id, self.now_us, None);
        event.progress = Progress::new(State::Queued, trigger);
        event
    }

    fn new_item(&mut self, at: usize, id: EventId) -> Event {
        let source = &self.sources[at];
        let (name, feed) = (source.name.clone(), source.feed.clone());
        let age_s = if self.chance(0.05) { 8 * 86_400 } else { self.random.random_range(0..120) };
        let bug = BugId::new(self.random.random_range(1..4)).unwrap();
        // Few different seconds, so that times are equal.
        let when_us = (self.now_us / SECOND_US / 20 * 20 - age_s / 20 * 20) * SECOND_US;
        let origin = if self.chance(0.15) { WhenOrigin::Arrival } else { WhenOrigin::Tracker };
        let private = self.chance(0.1);
        let when = When::from_micros(when_us).unwrap();
        let mut hash = [0; 32];
        self.random.fill_bytes(&mut hash[1..]);
        self.truth.insert(id, Mapped { feed: feed.clone(), bug, when, origin, private, hash: ContentHash(hash) });
        let delivery = self.chance(0.7).then(|| Delivery { id: id.to_string().into(), item: 0 });
        Event {
            id,
            source: name,
            feed,
            bug: Some(bug),
            when,
            origin,
            received_us: self.now_us,
            kind: "".into(),
            delivery,
            hash: ContentHash(hash),
            private,
            retryable: true,
            expires_us: 0,
            repeat_of: None,
            progress: Progress::new(State::Queued, Trigger::Live),
        }
    }

    /// A worker's next step.
    pub fn work(&mut self, worker: usize) -> Checked {
        let job = std::mem::take(&mut self.jobs[worker]);
        self.jobs[worker] = match job {
            Job::Idle => {
                let due = self.store.due(self.now_us);
                if due.is_empty() {
                    return Ok(());
                }
                let key = due[self.random.random_range(0..due.len())].clone();
                let lane = Rc::new(self.store.lane(&key, self.now_us));
                Job::Read(key, lane, self.now_us)
            }
            Job::Asks(claim) => {
                let outcome = self.find_out(&claim)?;
                self.say(|| format!("worker {worker}: {} {outcome:?}", claim.id));
                Job::Knows(claim, outcome)
            }
            Job::Knows(claim, outcome) => {
                let lane = Rc::new(self.store.lane(&claim.key, self.now_us));
                Job::Concludes(claim, outcome, lane, self.now_us)
            }
            job => self.commit(worker, job)?,
        };
        Ok(())
    }

    fn commit(&mut self, worker: usize, job: Job) -> Checked<Job> {
        let now_us = self.now_us;
        let gate = |event: &Event| {
            let source = self.sources.iter().find(|source| source.name == event.source).unwrap();
            let ask_from_us = source.breaker.ask_from(now_us);
            let (tokens, next_token_us) = (source.pace.tokens(now_us), source.pace.next_us(now_us));
            (source.settings, Gate { ask_from_us, tokens, next_token_us })
        };
        let view = View { now_us, lease_us: LEASE_US, batch: 4, source: &gate };
        let (actions, seen) = job.plan(&view).ok_or("nothing to plan")?;
        self.check_alone(&job, &actions)?;
        let committed = self.store.commit(&actions)?;
        self.say(|| format!("worker {worker}: {committed} {}", check::told(&actions)));
        if committed {
            self.check_commit(&job, seen, &actions)?;
            self.spend(&actions);
        }
        Ok(job.after(&actions, committed))
    }

    /// Takes the tokens of what was begun.
    fn spend(&mut self, actions: &[Action]) {
        let now_us = self.now_us;
        for action in actions {
            let Action::Step(step) = action else { continue };
            if matches!(step.cause, Cause::Claimed | Cause::Announced) && step.from != State::Processing {
                let event = &self.store.events[&step.id];
                let was_mapped = step.after.class.is_none() && step.after.attempts > 0;
                if step.from == State::Errored || event.progress.trigger.is_paced() && !was_mapped {
                    let source = self.sources.iter_mut().find(|source| source.name == event.source).unwrap();
                    source.pace.take(now_us);
                }
            }
        }
    }

    fn find_out(&mut self, claim: &Claim) -> Checked<Outcome> {
        let event = Rc::clone(&self.store.events[&claim.id]);
        let at = self.sources.iter().position(|source| source.name == event.source).unwrap();
        if self.chance(0.03) {
            return Ok(Outcome::Failed(ErrorClass::Ours));
        }
        if claim.what == Question::Map {
            return Ok(match self.random.random_range(0..30) {
                _ if !event.retryable => return Err("a mapping without its item".to_owned()),
                0 => Outcome::NotMapped,
                1 => Outcome::ProjectMismatch,
                2 => Outcome::Ignored,
                _ if self.sources[at].mapping_fits => {
                    Outcome::Mapped(Mapped { feed: self.sources[at].feed.clone(), ..self.truth[&claim.id].clone() })
                }
                _ => Outcome::Failed(ErrorClass::Mapping),
            });
        }
        if !self.sources[at].breaker.begin(self.now_us) {
            return Ok(Outcome::Failed(ErrorClass::Tracker));
        }
        let fine = self.sources[at].up && !self.chance(0.1);
        self.heard(at, fine)?;
        let hidden = event.bug.is_some_and(|bug| self.hidden.contains(&bug.get()));
        Ok(match (fine, hidden) {
            (false, _) => Outcome::Failed(ErrorClass::Tracker),
            (true, true) if self.chance(0.3) => Outcome::Private,
            (true, true) => Outcome::NotVisible,
            (true, false) => Outcome::Visible,
        })
    }

    fn heard(&mut self, source: usize, fine: bool) -> Checked {
        let answer = if fine { Answer::Fine } else { Answer::Fault };
        if self.sources[source].breaker.end(self.now_us, answer).recovered {
            self.order_all(source, Order::Mended(ErrorClass::Tracker))?;
        }
        Ok(())
    }

    pub fn probe(&mut self, source: usize) -> Checked {
        let now_us = self.now_us;
        let breaker = &mut self.sources[source].breaker;
        if breaker.probe_from(now_us).is_some_and(|from_us| from_us <= now_us) && breaker.begin(now_us) {
            let fine = self.sources[source].up;
            self.heard(source, fine)?;
        }
        Ok(())
    }

    /// A worker dies; or it ends in order, and gives back what it has claimed.
    fn stop(&mut self, worker: usize) -> Checked {
        let job = std::mem::take(&mut self.jobs[worker]);
        let (Job::Asks(claim) | Job::Knows(claim, _) | Job::Concludes(claim, ..)) = job else { return Ok(()) };
        if self.chance(0.5) {
            let lane = Rc::new(self.store.lane(&claim.key, self.now_us));
            let job = Job::Concludes(claim, Outcome::GivenBack, lane, self.now_us);
            // If somebody was quicker, that is all.
            self.commit(worker, job)?;
        }
        Ok(())
    }

    /// Gives an order for every event of a source that it concerns.
    pub fn order_all(&mut self, source: usize, order: Order) -> Checked {
        self.order_some(source, order, usize::MAX)
    }

    /// The same for some of them.
    fn order_some(&mut self, source: usize, order: Order, most: usize) -> Checked {
        let name = &self.sources[source].name;
        let of_source: Vec<Rc<Event>> = self.store.events.values().filter(|e| e.source == *name).cloned().collect();
        let mut given = 0;
        for event in of_source {
            if let Ok(actions) = carry_out(order, &event, self.now_us)
                && given < most
            {
                self.store.commit(&actions)?;
                given += 1;
            }
        }
        Ok(())
    }

    fn by_hand(&mut self) -> Checked {
        let all: Vec<Rc<Event>> = self.store.events.values().cloned().collect();
        let order = [Order::Retry, Order::Drop, Order::Release, Order::Release, Order::Prune];
        let order = order[self.random.random_range(0..order.len())];
        if all.is_empty() || matches!(order, Order::Drop | Order::Prune) && self.chance(0.7) {
            return Ok(());
        }
        let event = &all[self.random.random_range(0..all.len())];
        if let Ok(actions) = carry_out(order, event, self.now_us) {
            self.say(|| format!("by hand: {order:?} {}", event.id));
            self.store.commit(&actions)?;
        }
        Ok(())
    }
}

fn source(random: &mut StdRng, name: &str, feed: &str) -> Source {
    let mut either = |of: f64| random.random_bool(of);
    let verify = either(0.5);
    let settings = Settings {
        on: true,
        verify,
        private: if verify || either(0.5) { Private::Drop } else { Private::Announce },
        older: if either(0.7) { Older::Announce } else { Older::Drop },
        dead_letters: if either(0.6) { DeadLetters::Hold } else { DeadLetters::Supersede },
        retry: if either(0.7) { Schedule::Current } else { Schedule::Classic },
    };
    let duplicates = if either(0.7) { Duplicates::ByContent } else { Duplicates::ByTime };
    let options = Options { per_second: 5, burst: 5, faults: 3, ..Options::default() };
    let (breaker, pace) = (Breaker::new(options), Bucket::new(2, 3));
    let (name, feed) = (name.into(), feed.into());
    Source { name, feed, settings, duplicates, breaker, pace, up: true, mapping_fits: true }
}

#[test]
fn seeds() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("BUGFEED_SIM_SEED") {
        if let Err(broken) = World::new(seed, true).run() {
            panic!("seed {seed}: {broken}");
        }
        return;
    }
    let end = number("BUGFEED_SIM_SEEDS").unwrap_or(SEEDS);
    let mut happened = Happened::new();
    for seed in 0..end {
        match World::new(seed, false).run() {
            Ok(mut more) => happened.append(&mut more),
            Err(broken) => panic!(
                "seed {seed}: {broken}\nreplay: BUGFEED_SIM_SEED={seed} cargo test --test sim -- hooks::seeds --nocapture"
            ),
        }
    }
    // A simulation in which nothing happens proves nothing.
    let is_rare = |from: Option<State>, cause| RARE.iter().any(|rare| from == Some(rare.0) && cause == rare.1);
    let missing = TRANSITIONS.iter().filter(|line| !happened.contains(&(line.from, line.cause)));
    let never: Vec<_> = missing.filter(|line| !is_rare(line.from, line.cause)).collect();
    assert!(end < MANY || never.is_empty(), "these transitions never happened: {never:?}");
}
