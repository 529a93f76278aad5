//! Attach, subscribe and resume against publish: not some interleavings, all of them.
//!
//! Goes in: a small history and what a client does. Comes out: nothing, or the order of steps in which the client
//! misses something, hears it twice, or is given a cursor that claims too much. The steps are those that tasks take
//! without looking at each other: recording a change, putting it into one shard's queue, putting a command there, one
//! shard's processing of one input, a socket becoming writable.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bugfeed_core::input::{About, Input, SessionLimits, Work};
use bugfeed_core::replay::{ReplayLimits, replay};
use bugfeed_core::sequencer::{New, Sequencer, Taken};
use bugfeed_core::shard::Shard;
use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When, client};
use serde_json::Value;

use crate::wire::{End, Frame, Wire, take_frame};

/// A path through a tree of choices, and the way to the next one.
#[derive(Default)]
pub struct Choices {
    path: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    /// One of `count`.
    pub fn choose(&mut self, count: usize) -> usize {
        if self.at == self.path.len() {
            self.path.push((0, count));
        }
        let (choice, counted) = self.path[self.at];
        assert_eq!(counted, count, "a run is a function of its choices");
        self.at += 1;
        choice
    }

    /// Goes on to the next path; whether there is one.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, count)) = self.path.pop() {
            if choice + 1 < count {
                self.path.push((choice + 1, count));
                return true;
            }
        }
        false
    }
}

/// What is explored.
#[derive(Clone, Debug)]
struct Case {
    /// The bug of each change; the first `before` of them are there, and processed, before anything else happens.
    bugs: &'static [u64],
    before: usize,
    shards: usize,
    ring: u64,
    /// What each client says: its bugs, and the cursor it asks from. Clients are spread over the shards.
    clients: Vec<Vec<(&'static [u64], Option<u64>)>>,
    /// How much its socket takes before it has to wait; none for all of it.
    room: Option<usize>,
    /// Who asks for both bugs asks for all bugs as one subscription, which is looked up in pages of this size.
    page: Option<usize>,
}

struct Talker {
    wire: Rc<Wire>,
    lane: usize,
    says: VecDeque<(&'static [u64], Option<u64>)>,
    answers: VecDeque<(&'static [u64], Option<u64>)>,
    busy: bool,
    /// Of each bug: the number from which on everything is owed.
    owed: BTreeMap<u64, u64>,
    heard: Vec<(u64, u64)>,
    cursor: u64,
    conflated: bool,
    room_given: bool,
}

struct Model {
    sequencer: Sequencer,
    shards: Vec<(Shard<End>, VecDeque<Input<End>>)>,
    talkers: Vec<Talker>,
    published: usize,
    /// The change that is recorded, and the shards that have yet to get it.
    handing: Option<(New, usize)>,
    names_all: bool,
}

fn change(bug: u64, number: usize) -> Change {
    let when = When::from_micros(i64::try_from(number).unwrap() * 1_000_000).unwrap();
    Change { bug: BugId::new(bug).unwrap(), when }
}

impl Model {
    fn new(case: &Case) -> Model {
        let (recorder, cache) = replay(ReplayLimits { max: case.ring, ..ReplayLimits::default() });
        let about = || About { version: "1".into(), feed: "default".into() };
        let page = case.page.unwrap_or(8192);
        let limits = SessionLimits { all: true, page, ..SessionLimits::default() };
        let shard = || (Shard::new(Arc::clone(&cache), limits, about()), VecDeque::new());
        let mut model = Model {
            shards: (0..case.shards).map(|_| shard()).collect(),
            sequencer: Sequencer::new(recorder, Epoch::from_random(0)),
            talkers: Vec::new(),
            published: 0,
            handing: None,
            names_all: case.page.is_some(),
        };
        for _ in 0..case.before {
            model.record(case);
            model.hand_over();
        }
        for (at, says) in case.clients.iter().enumerate() {
            let (wire, lane) = (Rc::new(Wire::default()), at % case.shards);
            wire.room.set(10_000);
            model.shards[lane].1.push_back(Input::Attach(End(Rc::clone(&wire))));
            model.process(lane);
            model.say(lane, &wire, r#"{"command":"hello"}"#);
            model.process(lane);
            assert!(matches!(take_frame(&mut wire.bytes.borrow_mut()), Some(Frame::Text(_))));
            wire.room.set(case.room.unwrap_or(1 << 30));
            model.talkers.push(Talker {
                wire,
                lane,
                says: says.iter().copied().collect(),
                answers: VecDeque::new(),
                busy: false,
                owed: BTreeMap::new(),
                heard: Vec::new(),
                cursor: 0,
                conflated: false,
                room_given: case.room.is_none(),
            });
        }
        model
    }

    fn process(&mut self, lane: usize) {
        while self.step(lane) {}
    }

    fn step(&mut self, lane: usize) -> bool {
        let (shard, inputs) = &mut self.shards[lane];
        let Some(input) = inputs.pop_front() else { return false };
        shard.handle(input);
        true
    }

    fn say(&mut self, lane: usize, wire: &Wire, text: &str) {
        wire.ready.set(false);
        let slot = wire.slot.get().expect("attached");
        self.shards[lane].1.push_back(Input::Work(slot, Work::Command(client::parse(text))));
    }

    fn record(&mut self, case: &Case) {
        self.published += 1;
        let seq = self.published as u64;
        let change = change(case.bugs[self.published - 1], self.published);
        let cursor = Some(Cursor::new(Epoch::parse("E").unwrap(), seq));
        match self.sequencer.offer(&BusMessage { change, cursor, after: None }, None, change.when) {
            Taken::New(new) => self.handing = Some((new, 0)),
            other => panic!("{other:?}"),
        }
    }

    /// Hands the recorded change to all shards at once, and lets them process it.
    fn hand_over(&mut self) {
        while self.handing.is_some() {
            self.hand();
        }
        (0..self.shards.len()).for_each(|lane| self.process(lane));
    }

    fn hand(&mut self) {
        let Some((new, lane)) = self.handing.take() else { return };
        self.shards[lane].1.push_back(Input::Update(new.update.clone()));
        if lane + 1 < self.shards.len() {
            self.handing = Some((new, lane + 1));
        }
    }

    /// Everything that may happen next, one of which is chosen; false when nothing may.
    fn next(&mut self, case: &Case, choices: &mut Choices) -> bool {
        let mut enabled: Vec<(u8, usize)> = Vec::new();
        if self.handing.is_some() {
            enabled.push((0, 0));
        } else if self.published < case.bugs.len() {
            enabled.push((1, 0));
        }
        enabled.extend((0..self.shards.len()).filter(|&lane| !self.shards[lane].1.is_empty()).map(|lane| (2, lane)));
        for (at, talker) in self.talkers.iter().enumerate() {
            let waits = talker.busy && !talker.wire.ready.get();
            if !talker.says.is_empty() && !waits {
                enabled.push((3, at));
            }
            if talker.wire.wants.get() && !talker.room_given {
                enabled.push((4, at));
            }
        }
        if enabled.is_empty() {
            return false;
        }
        match enabled[choices.choose(enabled.len())] {
            (0, _) => self.hand(),
            (1, _) => self.record(case),
            (2, lane) => {
                self.step(lane);
            }
            (3, at) => self.speak(at),
            (_, at) => {
                let talker = &mut self.talkers[at];
                talker.room_given = true;
                talker.wire.wants.set(false);
                talker.wire.room.set(1 << 30);
                let slot = talker.wire.slot.get().unwrap();
                self.shards[talker.lane].1.push_back(Input::Writable(slot));
            }
        }
        true
    }

    fn speak(&mut self, at: usize) {
        let talker = &mut self.talkers[at];
        let (bugs, from) = talker.says.pop_front().unwrap();
        talker.answers.push_back((bugs, from));
        talker.busy = true;
        let from = from.map_or(String::new(), |seq| format!(r#","cursor":"E.{seq}""#));
        let bugs = if self.names_all && bugs.len() > 1 { r#""all""#.to_owned() } else { format!("{bugs:?}") };
        let text = format!(r#"{{"command":"subscribe","bugs":{bugs}{from}}}"#);
        let (lane, wire) = (talker.lane, Rc::clone(&talker.wire));
        self.say(lane, &wire, &text);
    }

    fn check(&mut self, case: &Case) -> Result<(), String> {
        for talker in &mut self.talkers {
            talker.hear_all(case)?;
            for (number, &bug) in (1..).zip(case.bugs) {
                let Some(&owed) = talker.owed.get(&bug) else { continue };
                let times = talker.heard.iter().filter(|heard| heard.1 == number).count();
                let newest = (1..).zip(case.bugs).filter(|(_, other)| **other == bug).map(|(n, _)| n).max();
                let must = number > owed && (!talker.conflated || newest == Some(number));
                if times > 1 || (number <= owed && times > 0) || (must && times == 0) {
                    return Err(format!("change {number} of bug {bug}: heard {times} times, owed after {owed}"));
                }
            }
        }
        Ok(())
    }
}

impl Talker {
    fn hear_all(&mut self, case: &Case) -> Result<(), String> {
        let lagged = self.wire.lagged.get();
        loop {
            let Some(frame) = take_frame(&mut self.wire.bytes.borrow_mut()) else { break };
            let Frame::Text(text) = frame else { continue };
            let value: Value = serde_json::from_str(&text).unwrap();
            let cursor = value["cursor"].as_str().and_then(Cursor::parse).map_or(0, |cursor| cursor.seq);
            if value["command"] == "update" {
                let bug = value["bug"].as_u64().unwrap();
                let when = When::parse_utc(value["when"].as_str().unwrap()).unwrap();
                let number = when.as_micros().unsigned_abs() / 1_000_000;
                if self.heard.iter().any(|&(other, heard)| other == bug && heard >= number) {
                    return Err(format!("bug {bug}: {number} is not newer"));
                }
                self.heard.push((bug, number));
            } else {
                let (bugs, from) = self.answers.pop_front().ok_or("an answer to nothing")?;
                self.conflated |= value["replay"] == "latest";
                if from.is_some_and(|from| from != cursor) || value["replay"] == "gap" {
                    return Err(format!("asked from {from:?}: {text}"));
                }
                self.owed.extend(bugs.iter().map(|&bug| (bug, cursor)));
                // Bugs asked for without a cursor begin at the session's.
                if cursor < self.cursor && from.is_none() {
                    return Err(format!("{cursor} after {}", self.cursor));
                }
            }
            self.conflated |= lagged;
            self.cursor = cursor;
            self.claims(case)?;
        }
        if self.answers.is_empty() { Ok(()) } else { Err("no answer".to_owned()) }
    }

    /// What the last cursor claims has been heard, or something newer is still to come.
    fn claims(&self, case: &Case) -> Result<(), String> {
        for (number, bug) in (1..).zip(case.bugs).take_while(|(number, _)| *number <= self.cursor) {
            let owed = self.owed.get(bug).is_some_and(|&after| number > after);
            let newer = (1..).zip(case.bugs).any(|(other, b)| b == bug && other > self.cursor);
            if owed && !self.heard.contains(&(*bug, number)) && !(self.conflated && newer) {
                // A newer one that was heard stands for it.
                let newest = self.heard.iter().filter(|(other, _)| other == bug).map(|heard| heard.1).max();
                if !(self.conflated && newest > Some(number)) {
                    return Err(format!("cursor {} claims {number} of bug {bug}", self.cursor));
                }
            }
        }
        Ok(())
    }
}

/// Runs a case in every order; how many there were.
fn explore(case: &Case) -> u64 {
    let mut choices = Choices::default();
    let mut orders = 0;
    loop {
        let mut model = Model::new(case);
        while model.next(case, &mut choices) {}
        orders += 1;
        if let Err(broken) = model.check(case) {
            let path: Vec<usize> = choices.path.iter().map(|(choice, _)| *choice).collect();
            panic!("{case:?}\norder {orders}, {path:?}: {broken}");
        }
        if !choices.advance() {
            return orders;
        }
    }
}

#[test]
fn every_order_of_resume_and_publish() {
    let mut orders = 0;
    let base =
        Case { bugs: &[1, 2, 1, 1], before: 1, shards: 1, ring: 100, clients: Vec::new(), room: None, page: None };
    let both: &[u64] = &[1, 2];
    for from in [None, Some(0), Some(1), Some(2), Some(3), Some(5)] {
        // Behind, in the middle, ahead of what there will ever be; with a ring that holds all, or almost nothing.
        for (ring, page) in [(100, None), (2, None), (100, Some(1)), (2, Some(1)), (2, Some(8192))] {
            orders += explore(&Case { ring, page, clients: vec![vec![(both, from)]], ..base.clone() });
        }
        // A second command, which adds a bug.
        let more = vec![vec![(&[1][..], from), (&[2][..], None)]];
        orders += explore(&Case { clients: more, ..base.clone() });
    }
    println!("{orders} orders");
    assert!(orders > 5_000);
}

#[test]
fn every_order_of_a_slow_socket() {
    let mut orders = 0;
    for from in [None, Some(0), Some(2)] {
        // Room for nothing, for a piece of the answer, for the answer and a piece of a change.
        for room in [0, 30, 130] {
            let clients = vec![vec![(&[1, 2][..], from)]];
            for page in [None, Some(1), Some(8192)] {
                let clients = clients.clone();
                let case = Case { bugs: &[1, 2, 1], before: 1, shards: 1, ring: 100, clients, room: Some(room), page };
                orders += explore(&case);
                orders += explore(&Case { ring: 1, ..case });
            }
        }
    }
    println!("{orders} orders");
    assert!(orders > 1_000);
}

#[test]
fn every_order_of_two_shards() {
    let clients = vec![vec![(&[1, 2][..], Some(0))], vec![(&[2][..], None)]];
    let orders = explore(&Case { bugs: &[1, 2], before: 1, shards: 2, ring: 100, clients, room: None, page: None });
    println!("{orders} orders");
    assert!(orders > 1_000);
}
