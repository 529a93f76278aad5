//! What a session that watches all bugs costs at a time: its share of the shard's time and memory depends on the size of a
//! page, and not on how many changes follow its cursor or how many bugs there are.
//!
//! Time is counted as the entries of the ring and of the table that are looked at, so that no clock is needed.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::tests::{Bed, Wire, change};
use super::*;
use crate::replay::ReplayLimits;

const PLENTY: usize = usize::MAX / 4;
const PAGE: usize = 64;
/// A page looks at twice as many positions as it may find, and asks the table about each of them.
const LOOKS_OF_PAGE: u64 = 4 * PAGE as u64;
/// A session goes through this many pages at most, before it is the turn of another one.
const LOOKS_OF_TURN: u64 = PIECES as u64 * LOOKS_OF_PAGE;

fn bed(ring: ReplayLimits) -> Bed {
    Bed::new(SessionLimits { all: true, page: PAGE, catch_up: 1000, ..SessionLimits::default() }, ring)
}

/// The entries that were looked at since this was last called.
fn looks(bed: &Bed) -> u64 {
    bed.shard.replay.looks.swap(0, Ordering::Relaxed)
}

fn hello(bed: &mut Bed) -> Rc<Wire> {
    let wire = bed.connect(PLENTY);
    bed.send(&wire, r#"{"command":"hello"}"#);
    wire.take();
    wire
}

/// How many changes a session that waits has in memory.
fn kept(bed: &Bed, wire: &Wire) -> usize {
    match &bed.shard.sessions[wire.slot.get() as usize].state {
        State::Lagging(backlog) => backlog.found_capacity(),
        State::Open | State::Ended => 0,
    }
}

/// The bugs and dates that were told, in order.
fn told(texts: &[String]) -> Vec<(u64, String)> {
    let updates = texts.iter().filter_map(|text| text.strip_prefix(r#"{"command":"update","bug":"#));
    let parts = updates.map(|text| {
        let (bug, rest) = text.split_once(r#","when":""#).unwrap();
        (bug.parse().unwrap(), rest.split_once('"').unwrap().0.to_owned())
    });
    parts.collect()
}

/// A client comes back that lacks twenty times as much as is sent one by one. Every change may be of another bug, or all of
/// one bug, so that hundreds of pages are empty.
#[test]
fn a_resume_far_behind_takes_a_page_at_a_time_and_lets_others_have_their_turn() {
    const CHANGES: i64 = 20_000;
    for bugs in [20_000, 300, 1] {
        let mut bed = bed(ReplayLimits::default());
        let mut newest = BTreeMap::new();
        bed.publish(change(1, 0));
        for second in 1..=CHANGES {
            let change = change(second.unsigned_abs() % bugs + 1, second);
            newest.insert(change.bug.get(), change.when.to_string());
            bed.publish(change);
        }
        let (other, wire) = (hello(&mut bed), hello(&mut bed));
        bed.send(&other, r#"{"command":"subscribe","bugs":[7777777]}"#);
        other.take();
        looks(&bed);
        bed.send(&wire, r#"{"command":"subscribe","bugs":"all","cursor":"E.1"}"#);
        let mut turns = 0;
        loop {
            let looks = looks(&bed);
            assert!(looks <= LOOKS_OF_TURN, "{bugs} bugs: {looks} entries were looked at in one turn");
            assert!(kept(&bed, &wire) <= PAGE, "{bugs} bugs: {} changes are kept", kept(&bed, &wire));
            if !wire.wants.get() {
                break;
            }
            turns += 1;
            bed.publish(change(7_777_777, CHANGES + turns));
            assert_eq!(other.take().len(), 1, "another session gets its change in between");
            bed.shard.replay.looks.store(0, Ordering::Relaxed);
            bed.read(&wire, 0);
        }
        assert!(turns >= 5, "{turns} turns");
        let texts = wire.take();
        assert!(texts[0].contains(r#""replay":"latest""#), "{}", texts[0]);
        let of_feed: Vec<(u64, String)> = told(&texts).into_iter().filter(|(bug, _)| *bug != 7_777_777).collect();
        assert_eq!(of_feed.len(), newest.len(), "once each");
        assert_eq!(of_feed.into_iter().collect::<BTreeMap<_, _>>(), newest);
    }
}

/// What has left the ring costs a pass over the table of all bugs for each page, and not for each few bytes that a slow socket
/// takes: for who comes back, and for who was there and did not read.
#[test]
fn who_reads_slowly_from_before_the_ring_costs_a_pass_for_each_page() {
    const BUGS: u64 = 4000;
    for comes_back in [true, false] {
        let mut bed = bed(ReplayLimits { max: 100, ..ReplayLimits::default() });
        bed.publish(change(1, 0));
        let wire = hello(&mut bed);
        if !comes_back {
            bed.send(&wire, r#"{"command":"subscribe","bugs":"all"}"#);
            wire.take();
            wire.room.set(10);
        }
        (1..=BUGS).for_each(|bug| bed.publish(change(bug, 1)));
        wire.room.set(10);
        looks(&bed);
        if comes_back {
            bed.send(&wire, r#"{"command":"subscribe","bugs":"all","cursor":"E.1"}"#);
        }
        let mut reads = 0;
        while wire.wants.get() {
            assert!(kept(&bed, &wire) <= PAGE, "{} changes are kept", kept(&bed, &wire));
            bed.read(&wire, 500);
            reads += 1;
        }
        let (passes, pages) = (looks(&bed) / BUGS, BUGS / PAGE as u64);
        assert!(reads > 5 * pages, "{reads} reads");
        assert!(passes <= pages + 3, "comes back {comes_back}: {passes} passes for {pages} pages, {reads} reads");
        let bugs: Vec<u64> = told(&wire.take()).into_iter().map(|(bug, _)| bug).collect();
        assert!(bugs.into_iter().eq(1..=BUGS), "each once, in order");
    }
}

/// A client that hardly reads is sent, of bugs that change over and over, the newest change of each; and its session holds
/// no more than the rest of one write all the time.
#[test]
fn a_slow_session_is_sent_the_newest_of_each_bug_and_holds_nothing() {
    const BUGS: u64 = 500;
    let mut bed = bed(ReplayLimits::default());
    let wire = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":"all"}"#);
    wire.take();
    wire.room.set(10);
    for second in 0..40_000_i64 {
        bed.publish(change(second.unsigned_abs() % BUGS + 1, second));
        if second % 10 == 0 {
            bed.read(&wire, 30);
        }
        if let State::Lagging(backlog) = &bed.shard.sessions[wire.slot.get() as usize].state {
            assert_eq!(backlog.found_capacity(), 0);
            assert!(backlog.outgoing.capacity() <= 2 * PIECE, "{}", backlog.outgoing.capacity());
        }
    }
    wire.room.set(PLENTY);
    while wire.wants.get() {
        bed.read(&wire, 0);
    }
    let told = told(&wire.take());
    assert!(told.len() < 3000, "{} of 40,000 were sent", told.len());
    let last: BTreeMap<u64, String> = told.into_iter().collect();
    let newest = (39_500..40_000_i64).map(|second| change(second.unsigned_abs() % BUGS + 1, second));
    assert_eq!(last, newest.map(|change| (change.bug.get(), change.when.to_string())).collect());
}
