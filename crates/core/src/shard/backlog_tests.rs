//! Checks that every listed transition of a session's phases really happens. A table that allows more than that would
//! check nothing.

use std::rc::Rc;

use bugfeed_protocol::close::Close;

use super::tests::{Bed, Wire, bed, change};
use super::*;
use crate::backlog::KEEP;
use crate::backlog::tests::{happened, listed};

const PLENTY: usize = usize::MAX / 4;

/// How a session that lags goes on.
#[derive(Clone, Copy, Debug)]
enum Then {
    Reads,
    IsTold,
    Dies,
}

/// All ways to begin to lag, and from each all ways to go on.
#[test]
fn every_transition_that_is_listed_happens() {
    for then in [Then::Reads, Then::IsTold, Then::Dies] {
        for changes in [1, 200, KEEP as u64 + 200] {
            catch_up(changes, then);
        }
        pages(then);
        conflation(then);
        gap(then);
    }
    closing();
    feed();
    let (happened, listed) = (happened(), listed());
    let missing: Vec<_> = listed.difference(&happened).collect();
    assert!(missing.is_empty(), "listed, but it does not happen: {missing:?}");
}

fn modern(bed: &mut Bed) -> Rc<Wire> {
    let wire = bed.connect(PLENTY);
    bed.send(&wire, r#"{"command":"hello"}"#);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[2]}"#);
    wire.take();
    wire
}

fn go_on(bed: &mut Bed, wire: &Rc<Wire>, then: Then) {
    match then {
        Then::Reads => {}
        Then::IsTold => bed.shard.handle(Input::Gap(None)),
        Then::Dies => wire.broken.set(true),
    }
    wire.room.set(PLENTY);
    while wire.wants.get() && !wire.ended.get() {
        bed.read(wire, 0);
    }
    let broken = wire.broken.get() || wire.writes_left.get() == Some(0);
    assert_eq!(wire.ended.get(), broken, "{then:?}");
    if !broken {
        let told = wire.take().iter().any(|text| text.contains(r#""command":"gap""#));
        assert_eq!(told, matches!(then, Then::IsTold), "{then:?}");
    }
}

/// A catch-up that the socket does not take at once.
fn catch_up(changes: u64, then: Then) {
    let mut bed = bed();
    (0..changes).for_each(|second| bed.publish(change(1, second.cast_signed())));
    let wire = modern(&mut bed);
    wire.room.set(10);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1],"since":"1970-01-01"}"#);
    go_on(&mut bed, &wire, then);
}

/// The same for all bugs.
fn pages(then: Then) {
    let limits = SessionLimits { all: true, page: 100, ..SessionLimits::default() };
    let mut bed = Bed::new(limits, crate::replay::ReplayLimits::default());
    (0..350).for_each(|second| bed.publish(change(1, second)));
    let wire = modern(&mut bed);
    wire.room.set(10);
    bed.send(&wire, r#"{"command":"subscribe","bugs":"all","since":"1970-01-01"}"#);
    go_on(&mut bed, &wire, then);
}

/// Changes that a session misses because its socket is full, more than one piece.
fn conflation(then: Then) {
    let mut bed = bed();
    let wire = modern(&mut bed);
    let bugs: Vec<u64> = (3..200).collect();
    bed.send(&wire, &format!(r#"{{"command":"subscribe","bugs":{bugs:?}}}"#));
    wire.take();
    wire.room.set(10);
    bugs.iter().for_each(|&bug| bed.publish(change(bug, 1)));
    if matches!(then, Then::Dies) {
        // The socket takes the frame that was begun, and breaks when it is given what was missed.
        wire.writes_left.set(Some(1));
        return go_on(&mut bed, &wire, Then::Reads);
    }
    go_on(&mut bed, &wire, then);
}

/// A gap that a full socket does not take.
fn gap(then: Then) {
    let mut bed = bed();
    let wire = modern(&mut bed);
    wire.room.set(0);
    bed.shard.handle(Input::Gap(None));
    if matches!(then, Then::Dies) {
        bed.shard.handle(Input::Drain { window_ms: 0 });
        assert!(wire.ended.get());
    } else {
        go_on(&mut bed, &wire, Then::IsTold);
    }
}

/// A connection that asks for its end, and one whose write fails.
fn closing() {
    let mut bed = bed();
    let (wire, other) = (modern(&mut bed), modern(&mut bed));
    bed.shard.handle(Input::Work(wire.slot.get(), Work::Close(Close::Normal)));
    other.broken.set(true);
    bed.publish(change(2, 1));
    assert!(wire.ended.get() && other.ended.get());
}

/// A resume that has to wait until it is known whether changes were missed.
fn feed() {
    let mut bed = bed();
    bed.publish(change(1, 1));
    let wire = modern(&mut bed);
    bed.shard.handle(Input::Hold(true));
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1],"cursor":"E.1"}"#);
    assert_eq!(wire.take(), Vec::<String>::new());
    bed.shard.handle(Input::Hold(false));
    assert_eq!(wire.take().len(), 1);
}

/// While a catch-up waits for its socket, the table of the newest changes may forget bugs of which nothing was sent yet.
#[test]
fn what_is_forgotten_while_a_catch_up_waits_is_a_gap() {
    let many: Vec<u64> = (1..=2500).collect();
    for bugs in [format!("{many:?}"), r#""all""#.to_owned()] {
        let limits = SessionLimits { all: true, page: 100, ..SessionLimits::default() };
        let ring = crate::replay::ReplayLimits { bugs: 3000, ..crate::replay::ReplayLimits::default() };
        let mut bed = Bed::new(limits, ring);
        bed.publish(change(1, 0));
        many.iter().for_each(|&bug| bed.publish(change(bug, 1)));
        let wire = modern(&mut bed);
        wire.room.set(10);
        bed.send(&wire, &format!(r#"{{"command":"subscribe","bugs":{bugs},"cursor":"E.1"}}"#));
        (3000..6000).for_each(|bug| bed.publish(change(bug, 2)));
        assert!(bed.shard.replay.floor() > 2048, "{}", bed.shard.replay.floor());
        wire.room.set(usize::MAX / 4);
        while wire.wants.get() {
            bed.read(&wire, 0);
        }
        let told = wire.take().iter().filter(|text| text.contains(r#""command":"gap""#)).count();
        assert_eq!(told, 1, "{bugs:.10}");
    }
}
