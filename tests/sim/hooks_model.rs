//! Every interleaving of three events of one bug, two workers, and a crash between any two steps.
//!
//! Goes in: the times of the events, the settings, and how many failures, crashes and passages of time there may be. Comes
//! out: nothing, or the way to a state in which a promise is broken. States that were seen are not explored again.
//! `BUGFEED_SIM_DEEP=1` allows more failures, more time, and an order by hand: millions of states, for an optimised build.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::arrival::{Duplicates, Mapping, receive};
use bugfeed_core::hooks::event::{
    ContentHash, Delivery, ErrorClass, Event, EventId, Progress, State as Word, Trigger, WhenOrigin,
};
use bugfeed_core::hooks::lane::{DeadLetters, Gate, Settings, World};
use bugfeed_core::hooks::orders::{Order, carry_out};
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_protocol::{BugId, When};

use crate::hooks::store::{LEASE_US, Store};
use crate::hooks::worker::Job;

/// The arrivals begin at this second.
const BEGIN_S: i64 = 1_000_000;

/// What arrives: its second before the beginning, and which of the items before it it repeats.
#[derive(Clone, Copy, Debug)]
struct Item {
    age_s: i64,
    repeats: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    items: [Item; 3],
    settings: Settings,
    failures: u8,
    crashes: u8,
    ticks: u8,
    orders: u8,
}

#[derive(Clone, Hash)]
struct State {
    store: Store,
    workers: [Job; 2],
    arrived: usize,
    now_us: i64,
    failures: u8,
    crashes: u8,
    ticks: u8,
    orders: u8,
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Arrive,
    /// Idle: reads the lane. With an answer: reads it again. With a lane: plans and commits.
    Work(usize),
    Answer(usize, Option<ErrorClass>),
    Crash(usize),
    /// The worker ends in order, and gives back what it has claimed.
    Stop(usize),
    /// Time passes, to the next time at which something is due.
    Tick,
    Order(u128, Order),
}

fn item(case: &Case, index: usize, now_us: i64) -> Event {
    let first = case.items[index].repeats.unwrap_or(index);
    let number = u8::try_from(first).unwrap();
    let when_s = BEGIN_S - case.items[first].age_s;
    Event {
        id: EventId(index as u128 + 1),
        source: Arc::from("s"),
        feed: Arc::from("f"),
        bug: BugId::new(1),
        when: When::from_micros(when_s * SECOND_US).unwrap(),
        origin: WhenOrigin::Tracker,
        received_us: now_us,
        kind: Arc::from(""),
        delivery: Some(Delivery { id: Arc::from(number.to_string()), item: 0 }),
        hash: ContentHash([number; 32]),
        private: false,
        retryable: true,
        expires_us: 0,
        repeat_of: None,
        progress: Progress::new(Word::Queued, Trigger::Live),
    }
}

impl State {
    fn moves(&self, case: &Case) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.arrived < case.items.len() {
            moves.push(Move::Arrive);
        }
        for (worker, job) in self.workers.iter().enumerate() {
            match job {
                Job::Idle if self.store.due(self.now_us).is_empty() => {}
                Job::Asks(_) => {
                    moves.push(Move::Answer(worker, None));
                    if self.failures < case.failures {
                        moves.push(Move::Answer(worker, Some(ErrorClass::Tracker)));
                    }
                }
                _ => moves.push(Move::Work(worker)),
            }
            if *job != Job::Idle && self.crashes < case.crashes {
                moves.push(Move::Crash(worker));
            }
            if matches!(job, Job::Asks(_)) && self.crashes < case.crashes {
                moves.push(Move::Stop(worker));
            }
        }
        if self.ticks < case.ticks && self.store.next_due(self.now_us).is_some() {
            moves.push(Move::Tick);
        }
        if self.orders < case.orders {
            for (id, event) in &self.store.events {
                for order in [Order::Release, Order::Drop, Order::Retry, Order::Mended(ErrorClass::Tracker)] {
                    if event.progress.state == Word::Errored && carry_out(order, event, self.now_us).is_ok() {
                        moves.push(Move::Order(id.0, order));
                    }
                }
            }
        }
        moves
    }

    fn make(&mut self, case: &Case, one: Move) -> Result<(), String> {
        match one {
            Move::Arrive => {
                let event = item(case, self.arrived, self.now_us);
                let known = self.store.known(&event);
                let actions = receive(event, Mapping::Fits, &known, &case.settings, Duplicates::ByContent, None);
                assert!(self.store.commit(&actions)?);
                self.arrived += 1;
            }
            Move::Work(worker) => self.work(case, worker)?,
            Move::Answer(worker, fault) => {
                let Job::Asks(claim) = &self.workers[worker] else { return Ok(()) };
                self.failures += u8::from(fault.is_some());
                let outcome = fault.map_or(Outcome::Visible, Outcome::Failed);
                self.workers[worker] = Job::Knows(claim.clone(), outcome);
            }
            Move::Crash(worker) => {
                self.workers[worker] = Job::Idle;
                self.crashes += 1;
            }
            Move::Stop(worker) => {
                let Job::Asks(claim) = std::mem::take(&mut self.workers[worker]) else { return Ok(()) };
                self.workers[worker] = Job::Knows(claim, Outcome::GivenBack);
                self.crashes += 1;
            }
            Move::Tick => {
                self.now_us = self.store.next_due(self.now_us).unwrap_or(self.now_us);
                self.ticks += 1;
            }
            Move::Order(id, order) => {
                let event = &self.store.events[&EventId(id)];
                let actions = carry_out(order, event, self.now_us).unwrap_or_default();
                self.store.commit(&actions)?;
                self.orders += 1;
            }
        }
        Ok(())
    }

    fn work(&mut self, case: &Case, worker: usize) -> Result<(), String> {
        let settings = |_: &Event| case.settings;
        let source = |_: &Event| (case.settings, Gate::OPEN);
        let world = World { now_us: self.now_us, lease_us: LEASE_US, batch: 8, source: &source };
        let job = std::mem::take(&mut self.workers[worker]);
        self.workers[worker] = match job {
            Job::Idle => {
                let Some(key) = self.store.due(self.now_us).into_iter().next() else { return Ok(()) };
                let lane = Rc::new(self.store.lane(&key, self.now_us));
                Job::Read(key, lane, self.now_us)
            }
            Job::Knows(claim, outcome) => {
                let lane = Rc::new(self.store.lane(&claim.key, self.now_us));
                Job::Concludes(claim, outcome, lane, self.now_us)
            }
            job => {
                let (actions, seen) = job.plan(&world).ok_or("nothing to do")?;
                let committed = self.store.commit(&actions)?;
                if committed {
                    self.store.check_order(seen, &actions, &settings)?;
                }
                self.store.happened.clear();
                job.after(&actions, committed)
            }
        };
        Ok(())
    }

    fn digest(&self) -> u128 {
        // The workers are alike, so it does not matter which one is where.
        let mut jobs = self.workers.each_ref().map(digest_of);
        jobs.sort_unstable();
        let counts = (self.arrived, self.now_us, self.failures, self.crashes, self.ticks, self.orders);
        digest_of(&(&self.store, jobs, counts))
    }

    /// Nothing fails any more: everything must end, within a bounded number of steps.
    fn ends(mut self, case: &Case) -> Result<(), String> {
        let mut way = Vec::new();
        for _ in 0..200 {
            let next = if self.arrived < case.items.len() {
                Move::Arrive
            } else if let Some(worker) = self.workers.iter().position(|job| *job != Job::Idle) {
                if matches!(self.workers[worker], Job::Asks(_)) {
                    Move::Answer(worker, None)
                } else {
                    Move::Work(worker)
                }
            } else if !self.store.due(self.now_us).is_empty() {
                Move::Work(0)
            } else if self.store.next_due(self.now_us).is_some() {
                Move::Tick
            } else {
                break;
            };
            way.push(next);
            self.ticks = 0;
            self.make(case, next)?;
        }
        let open = self.store.events.values().find(|event| !event.progress.state.is_terminal());
        match open {
            Some(event) => {
                let rows: Vec<_> = self.store.events.values().map(|event| &event.progress).collect();
                way.truncate(12);
                Err(format!("{} stays {}: {way:?}\n{rows:#?}", event.id, event.progress.state))
            }
            None => self.announced(),
        }
    }

    /// At the end, each delivery was announced once, or something newer speaks for it, or a person dropped it.
    fn announced(&self) -> Result<(), String> {
        for event in self.store.events.values() {
            let same: Vec<&Event> =
                self.store.events.values().map(Rc::as_ref).filter(|other| event.is_same_item(other)).collect();
            let count = same.iter().filter(|other| other.progress.state == Word::Completed).count();
            let spoken_for = same.iter().any(|other| matches!(other.progress.state, Word::Dropped | Word::Canceled));
            if count > 1 || count == 0 && !spoken_for {
                return Err(format!("the delivery of {} was announced {count} times", event.id));
            }
        }
        Ok(())
    }
}

/// Explores everything; returns the number of states.
fn explore(case: &Case) -> usize {
    let begin = State {
        store: Store::default(),
        workers: [Job::Idle, Job::Idle],
        arrived: 0,
        now_us: BEGIN_S * SECOND_US,
        failures: 0,
        crashes: 0,
        ticks: 0,
        orders: 0,
    };
    let mut seen = HashSet::from([begin.digest()]);
    let mut ended = HashSet::new();
    let mut stack = vec![(begin, Vec::new())];
    while let Some((state, way)) = stack.pop() {
        let rests = state.workers.iter().all(|job| *job == Job::Idle);
        if rests && ended.insert(digest_of(&(&state.store, state.arrived, state.now_us))) {
            state.clone().ends(case).unwrap_or_else(|broken| panic!("{broken}\n{case:?}\n{way:?}"));
        }
        for one in state.moves(case) {
            let mut next = state.clone();
            next.store.happened.clear();
            let mut way = way.clone();
            way.push(one);
            if let Err(broken) = next.make(case, one) {
                panic!("{broken}\n{case:?}\n{way:?}");
            }
            if seen.insert(next.digest()) {
                stack.push((next, way));
            }
        }
    }
    seen.len()
}

/// A hash of 128 bits, so that two states are never taken for one.
#[derive(Default)]
struct Digest(u64, u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 = (self.1.rotate_left(23) ^ word ^ self.0 >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn digest_of<T: Hash>(value: &T) -> u128 {
    let mut digest = Digest::default();
    value.hash(&mut digest);
    u128::from(digest.0) << 64 | u128::from(digest.1)
}

fn cases(dead_letters: DeadLetters) -> Vec<Case> {
    let item = |age_s| Item { age_s, repeats: None };
    let again = Item { age_s: 0, repeats: Some(0) };
    let arrivals = [
        [item(30), item(20), item(10)],
        [item(10), item(30), item(20)],
        [item(20), item(20), item(30)],
        [item(20), again, item(10)],
        [item(20), again, again],
    ];
    let settings = Settings { verify: true, dead_letters, ..Settings::DEFAULT };
    let deep = std::env::var_os("BUGFEED_SIM_DEEP").is_some();
    let (failures, ticks, orders) = if deep { (2, 2, 1) } else { (1, 1, 0) };
    let case = |items| Case { items, settings, failures, crashes: 1, ticks, orders };
    let mut cases: Vec<Case> = arrivals.into_iter().map(case).collect();
    let unasked = Settings { verify: false, ..settings };
    cases.extend(arrivals.into_iter().map(|items| Case { settings: unasked, ..case(items) }));
    cases
}

fn explore_all(dead_letters: DeadLetters) {
    let mut total = 0;
    for case in cases(dead_letters) {
        let states = explore(&case);
        total += states;
    }
    println!("{dead_letters}: {total} states");
    assert!(total > 1000, "a model in which nothing happens proves nothing: {total}");
}

#[test]
fn three_events_of_one_bug_under_hold() {
    explore_all(DeadLetters::Hold);
}

#[test]
fn three_events_of_one_bug_under_supersede() {
    explore_all(DeadLetters::Supersede);
}
