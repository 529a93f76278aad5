//! Sessions that watch all bugs: held against sessions that watch every bug by name.

use std::collections::VecDeque;
use std::rc::Rc;

use bugfeed_protocol::Epoch;
use bugfeed_protocol::close::Close;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::tests::{Bed, Wire, change};
use super::*;
use crate::budget::Budgets;
use crate::position_map::Continuity;
use crate::replay::ReplayLimits;

const PLENTY: usize = usize::MAX / 4;

fn limits() -> SessionLimits {
    SessionLimits { all: true, page: 3, ..SessionLimits::default() }
}

fn bed() -> Bed {
    Bed::new(limits(), ReplayLimits::default())
}

fn update(number: u64, second: i64, seq: u64) -> String {
    let when = change(number, second).when;
    format!(r#"{{"command":"update","bug":{number},"when":"{when}","cursor":"E.{seq}"}}"#)
}

fn hello(bed: &mut Bed) -> Rc<Wire> {
    let wire = bed.connect(PLENTY);
    bed.send(&wire, r#"{"command":"hello"}"#);
    wire.take();
    wire
}

fn all(bed: &mut Bed) -> Rc<Wire> {
    let wire = hello(bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":"all"}"#);
    wire.take();
    wire
}

#[test]
fn the_conversation() {
    let mut bed = bed();
    bed.publish(change(9, 1));
    let wire = hello(&mut bed);
    for (command, reply) in [
        (
            r#"{"command":"subscribe","bugs":"all"}"#,
            r#"{"command":"subscribe","result":"ok","count":1,"all":true,"cursor":"E.1"}"#,
        ),
        (
            r#"{"command":"subscribe","bugs":"all"}"#,
            r#"{"command":"subscribe","result":"ok","count":1,"all":true,"cursor":"E.1"}"#,
        ),
        (
            r#"{"command":"subscribe","bugs":[5,3]}"#,
            r#"{"command":"subscribe","result":"ok","count":3,"all":true,"cursor":"E.1"}"#,
        ),
        (r#"{"command":"subscriptions"}"#, r#"{"command":"subscriptions","result":"ok","bugs":[3,5],"all":true}"#),
        (
            r#"{"command":"unsubscribe","bugs":[5]}"#,
            r#"{"command":"unsubscribe","result":"ok","count":2,"all":true,"cursor":"E.1"}"#,
        ),
    ] {
        bed.send(&wire, command);
        assert_eq!(wire.take(), [reply], "{command}");
    }
    for number in 2..=3 {
        bed.publish(change(number, 7));
    }
    assert_eq!(wire.take(), [update(2, 7, 2), update(3, 7, 3)], "once, though it is watched twice");
    bed.send(&wire, r#"{"command":"hello"}"#);
    wire.take();
    bed.publish(change(4, 8));
    assert_eq!(wire.take(), [update(4, 8, 4)], "another hello changes nothing");
    for reply in [
        r#"{"command":"unsubscribe","result":"ok","count":1,"cursor":"E.4"}"#,
        r#"{"command":"unsubscribe","result":"ok","count":1,"cursor":"E.4"}"#,
    ] {
        bed.send(&wire, r#"{"command":"unsubscribe","bugs":"all"}"#);
        assert_eq!(wire.take(), [reply]);
    }
    bed.publish(change(4, 9));
    bed.publish(change(3, 9));
    assert_eq!(wire.take(), [update(3, 9, 6)], "the single bugs stay");
    assert_eq!(bed.shard.take_tally().all, 0);
}

/// The classic protocol knows nothing of it, also where it is allowed.
#[test]
fn a_classic_client_asks_for_a_bug_that_is_none() {
    let mut bed = bed();
    let wire = bed.connect(PLENTY);
    for command in ["subscribe", "unsubscribe"] {
        bed.send(&wire, &format!(r#"{{"command":"{command}","bugs":"all"}}"#));
        let want = format!(r#"{{"command":"{command}","result":"error","error":"invalid bug id; must be integer"}}"#);
        assert_eq!(wire.take(), [want]);
    }
    bed.publish(change(1, 1));
    assert_eq!(wire.take(), Vec::<String>::new());
}

#[test]
fn it_is_allowed_and_bounded_by_the_operator() {
    let mut forbidden = Bed::new(SessionLimits { all: false, ..limits() }, ReplayLimits::default());
    let wire = hello(&mut forbidden);
    forbidden.send(&wire, r#"{"command":"subscribe","bugs":"all","cursor":"E.1"}"#);
    let refused = wire.take();
    assert!(refused.len() == 1 && refused[0].contains("--allow-all"), "{refused:?}");
    forbidden.publish(change(1, 1));
    assert_eq!(wire.take(), Vec::<String>::new());

    let budgets =
        Budgets { all: Arc::new(Budget::new(2)), subscriptions: Arc::new(Budget::new(3)), ..Budgets::default() };
    let mut bed = Bed::new(SessionLimits { subscriptions: 1, ..limits() }, ReplayLimits::default());
    bed.shard = bed.shard.within(&budgets);
    let (first, second) = (all(&mut bed), all(&mut bed));
    assert_eq!((budgets.all.taken(), budgets.subscriptions.taken(), bed.shard.take_tally().all), (2, 2, 2));
    let third = all(&mut bed);
    assert!(third.ended.get(), "no room in this process");
    bed.send(&second, r#"{"command":"subscribe","bugs":[1]}"#);
    assert!(second.take()[0].contains("too many subscriptions"), "it counts as one of those of its session");
    bed.shard.handle(Input::Detach(third.slot.get()));
    bed.shard.handle(Input::Detach(first.slot.get()));
    bed.send(&second, r#"{"command":"unsubscribe","bugs":"all"}"#);
    assert_eq!((budgets.all.taken(), budgets.subscriptions.taken(), bed.shard.take_tally().all), (0, 0, -2));
    let fourth = all(&mut bed);
    assert!(!fourth.ended.get());
    let Budgets { subscriptions, .. } = &budgets;
    assert!(subscriptions.take(2));
    let fifth = all(&mut bed);
    assert!(fifth.ended.get(), "and as one of those of all sessions");
    assert_eq!((budgets.all.taken(), fourth.take().len()), (1, 0));
    assert_eq!(fifth.take(), Vec::<String>::new());
    bed.shard.handle(Input::Work(fourth.slot.get(), Work::Close(Close::Normal)));
}

/// A feed with numbers that are late, changes that have left the ring, and bugs that are forgotten.
fn some_feed(random: &mut SmallRng, bugs: u64) -> Bed {
    let ring = ReplayLimits {
        max: if random.random_bool(0.6) { random.random_range(1..30) } else { 1000 },
        bugs: if random.random_bool(0.2) { random.random_range(2..6) } else { 1000 },
        ..ReplayLimits::default()
    };
    let catch_up = if random.random_bool(0.4) { random.random_range(1..12) } else { 20_000 };
    let mut bed = Bed::new(SessionLimits { catch_up, page: random.random_range(1..20), ..limits() }, ring);
    let late = random.random_bool(0.3);
    for second in 1..random.random_range(2..80) {
        let change = change(random.random_range(1..=bugs), second);
        if late && second > 3 && random.random_bool(0.1) {
            let number = Cursor::new(Epoch::parse("E").unwrap(), 0);
            let update = bed.record_as(change, &number, Continuity::Late);
            bed.shard.handle(Input::Update(update));
        } else {
            bed.publish(change);
        }
    }
    bed
}

/// What an answer says but for how many subscriptions there are; and what comes after it.
fn told(wire: &Wire) -> (String, Vec<String>) {
    let mut texts = wire.take();
    let reply = texts.remove(0);
    let (_, reply) = reply.split_once(r#""count":"#).unwrap();
    (reply.trim_start_matches(|c: char| c.is_ascii_digit()).replace(r#","all":true"#, ""), texts)
}

/// The part of updates that does not depend on what holds the cursor back.
fn changes(texts: &[String]) -> Vec<&str> {
    texts.iter().map(|text| text.split(r#","cursor""#).next().unwrap()).collect()
}

/// From every cursor, and from dates: the verdict and the changes are those of who names all bugs.
#[test]
fn a_catch_up_is_the_same_as_with_every_bug_by_name() {
    for seed in 0..100 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let bugs = random.random_range(1..25);
        let mut bed = some_feed(random, bugs);
        let by_name: Vec<u64> = (1..=bugs).collect();
        let (late, head) = (bed.shard.replay.last_late_in(0, bed.shard.replay.head()), bed.seq);
        let dates = if bed.shard.limits.catch_up > 1000 { head } else { 0 };
        let cursors = (0..=head + 2).map(|seq| format!(r#""cursor":"E.{seq}""#));
        let dates =
            (0..dates).step_by(7).map(|second| format!(r#""since":"{}""#, change(1, second.cast_signed()).when));
        for from in cursors.chain(dates) {
            let (named, unnamed) = (hello(&mut bed), hello(&mut bed));
            bed.send(&named, &format!(r#"{{"command":"subscribe","bugs":{by_name:?},{from}}}"#));
            bed.send(&unnamed, &format!(r#"{{"command":"subscribe","bugs":"all",{from}}}"#));
            for wire in [&named, &unnamed] {
                while wire.wants.get() {
                    bed.read(wire, 0);
                }
            }
            let ((reply, want), (other_reply, got)) = (told(&named), told(&unnamed));
            let context = format!("seed {seed}, from {from}");
            assert_eq!(changes(&got), changes(&want), "{context}");
            if from.starts_with(r#""cursor"#) {
                assert_eq!(other_reply, reply, "{context}");
                if late.is_none() {
                    assert_eq!(got, want, "{context}");
                }
            }
            bed.shard.handle(Input::Detach(named.slot.get()));
            bed.shard.handle(Input::Detach(unnamed.slot.get()));
        }
    }
}

/// The reply to a catch-up by date is before everything that follows.
#[test]
fn the_cursor_of_a_catch_up_by_date_claims_nothing_that_is_yet_to_come() {
    let mut bed = Bed::new(SessionLimits { catch_up: 4, page: 1, ..limits() }, ReplayLimits::default());
    // Bug 1 changes so often that many pages are empty: only its newest change is sent.
    (1..40).for_each(|second| bed.publish(change(1, second)));
    let wire = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":"all","since":"1970-01-01T00:00:05"}"#);
    while wire.wants.get() {
        bed.read(&wire, 0);
    }
    let want = r#"{"command":"subscribe","result":"ok","count":1,"all":true,"cursor":"E.4"}"#;
    assert_eq!(wire.take(), [want.to_owned(), update(1, 39, 39)]);
}

/// Random sockets, updates that wait in the queue, gaps: what is never lagging is sent every change; what lags, in order, and
/// in the end the newest of each bug; and no more is kept than a page.
#[test]
fn a_slow_session_is_conflated_within_bounds() {
    for seed in 0..60 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let bugs = random.random_range(1..40);
        let page = random.random_range(1..30);
        let ring = ReplayLimits { max: 1000, ..ReplayLimits::default() };
        let mut bed = Bed::new(SessionLimits { page, ..limits() }, ring);
        let wires: Vec<_> = (0..4).map(|_| all(&mut bed)).collect();
        wires[1..].iter().for_each(|wire| wire.room.set(100));
        // This one watches some of them by name, too.
        wires[3].room.set(PLENTY);
        bed.send(&wires[3], r#"{"command":"subscribe","bugs":[1,2]}"#);
        wires[3].take();
        let (mut published, mut queue) = (Vec::new(), VecDeque::new());
        for second in 1..400 {
            let change = change(random.random_range(1..=bugs), second);
            published.push(change);
            queue.push_back(bed.record(change));
            while queue.len() > random.random_range(0..6) {
                bed.shard.handle(Input::Update(queue.pop_front().unwrap()));
            }
            let wire = &wires[random.random_range(1..3)];
            bed.read(wire, random.random_range(0..200));
            bed.shard.sessions.iter().for_each(|(_, session)| {
                if let State::Lagging(backlog) = &session.state {
                    assert!(backlog.found_capacity() <= page.max(4), "seed {seed}: {}", backlog.found_capacity());
                }
            });
        }
        queue.into_iter().for_each(|update| bed.shard.handle(Input::Update(update)));
        for (at, wire) in wires.iter().enumerate() {
            while wire.wants.get() {
                bed.read(wire, random.random_range(1..6000));
            }
            let texts = wire.take();
            let want: Vec<String> = (1..)
                .zip(&published)
                .map(|(seq, change)| update(change.bug.get(), change.when.as_micros() / 1_000_000, seq))
                .collect();
            if at == 0 || at == 3 {
                assert_eq!(texts, want, "seed {seed}, session {at}");
                continue;
            }
            let places: Vec<_> =
                texts.iter().map(|text| want.iter().position(|other| other == text).unwrap()).collect();
            assert!(places.is_sorted_by(|one, next| one < next), "seed {seed}: order, and once: {texts:?}");
            for number in 1..=bugs {
                let newest = published.iter().rposition(|change| change.bug.get() == number);
                assert!(newest.is_none_or(|newest| places.contains(&newest)), "seed {seed}: bug {number}, {texts:?}");
            }
        }
    }
}

#[test]
fn it_is_told_what_the_others_are_told() {
    let mut bed = bed();
    bed.publish(change(1, 1));
    let wire = all(&mut bed);
    bed.shard.handle(Input::Gap(Some(Cursor::parse("E.7").unwrap())));
    assert_eq!(wire.take(), [r#"{"command":"gap","cursor":"E.7"}"#]);
    bed.shard.tick(60_000);
    assert!(wire.take().contains(&r#"{"command":"heartbeat","cursor":"E.7"}"#.to_owned()));
    bed.shard.handle(Input::Drain { window_ms: 0 });
    let texts = wire.take();
    assert!(texts[0].contains(r#""command":"goaway""#) && texts[0].contains(r#""cursor":"E.7""#), "{texts:?}");
}

/// A client that has seen more elsewhere gets nothing twice; one on another history is told a gap.
#[test]
fn a_client_that_is_ahead() {
    let mut bed = bed();
    bed.publish(change(1, 1));
    let wire = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":"all","cursor":"E.3"}"#);
    assert!(wire.take()[0].contains(r#""replay":"complete","cursor":"E.3""#));
    (2..=4).for_each(|second| bed.publish(change(second, second.cast_signed())));
    assert_eq!(wire.take(), [update(4, 4, 4)]);
    let wire = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":"all","cursor":"E.5.aaaaaaaa"}"#);
    wire.take();
    bed.publish(change(5, 5));
    bed.publish(change(6, 6));
    bed.read(&wire, 0);
    let texts = wire.take();
    assert!(texts[0].contains(r#""command":"gap""#), "{texts:?}");
}

/// Numbers 8, 9 and 7 come in this order, and 8 and 7 are of one bug: with 9, the cursor must not claim 8, of which nothing was
/// sent yet. It is held back over all pages until 7 is sent: for who comes back, and for who did not read.
#[test]
fn the_cursor_is_held_back_over_all_pages_until_a_late_change_is_sent() {
    for (page, comes_back) in [(1, true), (8192, true), (1, false), (8192, false)] {
        let catch_up = if comes_back { 1 } else { 20_000 };
        let mut bed = Bed::new(SessionLimits { catch_up, page, ..limits() }, ReplayLimits::default());
        let wire = if comes_back { hello(&mut bed) } else { all(&mut bed) };
        wire.room.set(10);
        for (number, seq, continuity) in [
            (9, "E.6", Continuity::Next),
            (1, "E.8", Continuity::Broken),
            (2, "E.9", Continuity::Next),
            (1, "E.7", Continuity::Late),
        ] {
            let update = bed.record_as(change(number, 1), &Cursor::parse(seq).unwrap(), continuity);
            bed.shard.handle(Input::Update(update));
        }
        wire.room.set(PLENTY);
        if comes_back {
            bed.send(&wire, r#"{"command":"subscribe","bugs":"all","cursor":"E.7"}"#);
        }
        while wire.wants.get() {
            bed.read(&wire, 0);
        }
        let texts = wire.take();
        // Who was there is told the gap before everything, and stays before it.
        let held = [update(2, 1, if comes_back { 7 } else { 5 }), update(1, 1, 9)];
        assert_eq!(texts[texts.len() - 2..], held, "pages of {page}, comes back {comes_back}");
    }
}
