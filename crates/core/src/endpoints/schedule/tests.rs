//! Ten thousand endpoints, with receivers that hang; and the bookkeeping against a plain model.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const MS: i64 = 1000;
const SECOND: i64 = 1_000_000;

fn limits(places: usize, of_host: usize) -> Limits {
    Limits { places, of_host, in_flight: places }
}

/// How long first attempts wait for a place from this second on, in microseconds, ascending. Every endpoint gets a change
/// every four seconds. Those that hang take 15 s and fail, and want to try again at once; the others take 5 ms.
fn waits(endpoints: u32, hanging: u32, hosts: u32, limits: Limits, seconds: std::ops::Range<i64>) -> Vec<i64> {
    let mut schedule = Schedule::new(limits);
    let slots: Vec<Slot> = (0..endpoints).map(|at| schedule.add(&format!("host{}", at % hosts))).collect();
    let hangs = |slot: Slot| slot < hanging;
    let mut proven = vec![false; slots.len()];
    let mut since = vec![0; slots.len()];
    let mut events: BinaryHeap<Reverse<(i64, u8, Slot)>> = BinaryHeap::new();
    for &slot in &slots {
        events.push(Reverse((i64::from(slot) * 100, 1, slot)));
    }
    let mut waits = Vec::new();
    while let Some(Reverse((now_us, kind, slot))) = events.pop() {
        if now_us > seconds.end * SECOND {
            break;
        }
        if kind == 0 {
            schedule.done(slot);
            proven[slot as usize] = !hangs(slot);
            if hangs(slot) {
                schedule.want(slot, Class::Again);
            }
        } else {
            since[slot as usize] = now_us;
            schedule.want(slot, if proven[slot as usize] { Class::First } else { Class::New });
            events.push(Reverse((now_us + 4 * SECOND, 1, slot)));
        }
        while let Some(slot) = schedule.next(now_us) {
            let takes_us = if hangs(slot) { 15 * SECOND } else { 5 * MS };
            events.push(Reverse((now_us + takes_us, 0, slot)));
            if !hangs(slot) && now_us >= seconds.start * SECOND {
                waits.push(now_us - since[slot as usize]);
            }
        }
        assert!(schedule.in_flight() <= limits.in_flight.max(limits.places));
    }
    waits.sort_unstable();
    waits
}

/// Also where all of them are on one host, as behind a proxy.
#[test]
fn a_thousand_that_hang_delay_nobody() {
    for hosts in [1000, 1] {
        let waits = |hanging| waits(10_000, hanging, hosts, Limits::default(), 5..20);
        let (without, with) = (waits(0), waits(1000));
        assert!(with.len() * 10 >= without.len() * 9 - 100, "{} of {}", with.len(), without.len());
        assert_eq!((without.last(), with.last()), (Some(&0), Some(&0)), "nobody waits for a place: {hosts}");
    }
}

/// Where there are few places, those that hang hold a quarter of them at most, once they are known to hang.
#[test]
fn probes_hold_a_quarter_of_the_places() {
    let waits = waits(500, 50, 1000, limits(20, 20), 80..120);
    assert!(waits.len() > 4000, "{}", waits.len());
    assert!(waits.last().is_some_and(|&us| us < SECOND), "they wait for one another only: {:?}", waits.last());
}

/// A first attempt without an answer gives its place back after a while; the request stays counted, and bounded.
#[test]
fn a_first_attempt_lingers_without_its_place() {
    let mut schedule = Schedule::new(Limits { places: 8, of_host: 4, in_flight: 12 });
    let slots: Vec<Slot> = (0..20).map(|_| schedule.add("one")).collect();
    slots.iter().for_each(|&slot| schedule.want(slot, Class::First));
    let all = |schedule: &mut Schedule, now_us| std::iter::from_fn(|| schedule.next(now_us)).count();
    assert_eq!(all(&mut schedule, 0), 3, "one place of the host is kept");
    assert_eq!((all(&mut schedule, YOUNG_US - 1), schedule.next_us()), (0, Some(YOUNG_US)));
    assert_eq!((all(&mut schedule, YOUNG_US), schedule.in_flight()), (3, 6), "a host has half of all");
    assert_eq!((all(&mut schedule, 3 * YOUNG_US), schedule.in_flight()), (0, 6));
    schedule.done(slots[0]);
    assert_eq!((all(&mut schedule, 3 * YOUNG_US), schedule.in_flight()), (1, 6));
    let other = schedule.add("other");
    schedule.want(other, Class::First);
    assert_eq!(schedule.next(3 * YOUNG_US), Some(other));
    // The clock is set back: what seems to begin in the future does not keep its place for ever.
    schedule.done(slots[1]);
    assert_eq!((all(&mut schedule, 0), schedule.in_flight()), (1, 7));
    slots.iter().chain([&other]).for_each(|&slot| schedule.remove(slot));
    assert_eq!((schedule.in_flight(), schedule.load, schedule.waiting), (0, Load::default(), 0));
}

/// Receivers of which nothing is known, probes and slow ones together leave a quarter to those that are known to be well.
#[test]
fn who_is_known_to_be_well_has_places_that_nobody_else_takes() {
    let mut schedule = Schedule::new(limits(16, 16));
    let slots: Vec<Slot> = (0..60).map(|at| schedule.add(&format!("h{at}"))).collect();
    for (class, at) in [(Class::New, 0), (Class::Slow, 20), (Class::Again, 40)] {
        slots[at..at + 20].iter().for_each(|&slot| schedule.want(slot, class));
    }
    let sent: Vec<Slot> = std::iter::from_fn(|| schedule.next(0)).collect();
    let of = |from: u32| sent.iter().filter(|&&slot| (from..from + 20).contains(&slot)).count();
    assert_eq!((of(0), of(20), of(40)), (8, 4, 0));
    let well: Vec<Slot> = (0..20).map(|at| schedule.add(&format!("w{at}"))).collect();
    well.iter().for_each(|&slot| schedule.want(slot, Class::First));
    assert_eq!(std::iter::from_fn(|| schedule.next(0)).count(), 4);
}

/// A thousand endpoints of one host share its places; others are not touched, and the endpoints take turns.
#[test]
fn a_host_gets_its_share_and_no_more() {
    let mut schedule = Schedule::new(limits(64, 16));
    let many: Vec<Slot> = (0..1000).map(|_| schedule.add("many")).collect();
    let one = schedule.add("one");
    many.iter().for_each(|&slot| schedule.want(slot, Class::First));
    let sent: Vec<Slot> = std::iter::from_fn(|| schedule.next(0)).collect();
    assert_eq!(sent, many[..15], "one is kept for probes");
    schedule.want(one, Class::First);
    assert_eq!(schedule.next(0), Some(one));
    schedule.done(many[3]);
    assert_eq!((schedule.next(0), schedule.next(0)), (Some(many[15]), None));
}

#[test]
fn first_attempts_go_before_probes_and_probes_are_not_forgotten() {
    let mut schedule = Schedule::new(limits(16, 16));
    let slots: Vec<Slot> = (0..100).map(|at| schedule.add(&format!("h{at}"))).collect();
    slots[..50].iter().for_each(|&slot| schedule.want(slot, Class::Again));
    slots[50..].iter().for_each(|&slot| schedule.want(slot, Class::First));
    let sent: Vec<Slot> = std::iter::from_fn(|| schedule.next(0)).collect();
    assert_eq!(sent.iter().filter(|&&slot| slot >= 50).count(), 15);
    assert_eq!(sent.len(), 16, "a probe has a place although first attempts wait");
    assert!(sent[..15].iter().all(|&slot| slot >= 50));
}

/// Any sequence of calls: everybody who wants is served once, bounds hold, and hosts that nobody uses are forgotten.
#[test]
fn against_a_plain_model() {
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (places, of_host) = (random.random_range(1..12), random.random_range(1..6));
        let limits = Limits { places, of_host, in_flight: places + random.random_range(0..6) };
        let mut schedule = Schedule::new(limits);
        let mut states: BTreeMap<Slot, Turn> = BTreeMap::new();
        let mut sends: BTreeMap<Slot, i64> = BTreeMap::new();
        for step in 0..2000_i64 {
            let pick = |random: &mut SmallRng, states: &BTreeMap<Slot, Turn>| {
                states.keys().nth(random.random_range(0..states.len().max(1))).copied()
            };
            let host = format!("h{}", random.random_range(0..4));
            let slot = pick(&mut random, &states);
            match (random.random_range(0..9), slot) {
                (0, _) | (_, None) => drop(states.insert(schedule.add(&host), Turn::Idle)),
                (1, Some(slot)) if random.random_bool(0.3) => {
                    schedule.remove(slot);
                    states.remove(&slot);
                    sends.remove(&slot);
                }
                (2, Some(slot)) => schedule.move_to(slot, &host),
                (3, Some(slot)) => {
                    schedule.cancel(slot);
                    if let Some(state @ Turn::Waits(_)) = states.get_mut(&slot) {
                        *state = Turn::Idle;
                    }
                }
                (4 | 5, Some(slot)) => {
                    schedule.done(slot);
                    if sends.remove(&slot).is_some() {
                        states.insert(slot, Turn::Idle);
                    }
                }
                (_, Some(slot)) => {
                    let class = BY_RANK[random.random_range(0..CLASSES)];
                    schedule.want(slot, class);
                    if states[&slot] == Turn::Idle {
                        states.insert(slot, Turn::Waits(class));
                    }
                }
            }
            if random.random_bool(0.5)
                && let Some(slot) = schedule.next(step * YOUNG_US / 3)
            {
                assert!(matches!(states[&slot], Turn::Waits(_)), "seed {seed}");
                states.insert(slot, Turn::Sends(Class::First, 0));
                sends.insert(slot, step);
            }
            assert_eq!(schedule.in_flight(), sends.len(), "seed {seed}");
            assert!(sends.len() <= limits.in_flight);
        }
        // Everybody is served in the end.
        for _ in 0..states.len() * 2 {
            let flying: Vec<Slot> = sends.keys().copied().collect();
            for slot in flying {
                schedule.done(slot);
                sends.remove(&slot);
                states.insert(slot, Turn::Idle);
            }
            while let Some(slot) = schedule.next(i64::MAX / 2) {
                states.insert(slot, Turn::Sends(Class::First, 0));
                sends.insert(slot, 0);
            }
        }
        assert!(states.values().all(|state| *state == Turn::Idle), "seed {seed}: {states:?}");
        states.keys().for_each(|&slot| schedule.remove(slot));
        while schedule.next(i64::MAX / 2).is_some() {}
        assert_eq!((schedule.hosts.len(), schedule.by_name.len()), (0, 0), "seed {seed}");
    }
}

#[test]
fn times_are_taken_in_order_and_once() {
    let mut schedule = Schedule::new(Limits::default());
    let slots: Vec<Slot> = (0..5).map(|_| schedule.add("h")).collect();
    for (&slot, at_us) in slots.iter().zip([50, 10, 30, 20, 40]) {
        schedule.wake(slot, Some(at_us));
    }
    schedule.wake(slots[2], Some(5));
    schedule.wake(slots[3], None);
    assert_eq!(schedule.next_us(), Some(5));
    let due: Vec<Slot> = std::iter::from_fn(|| schedule.due(45)).collect();
    assert_eq!(due, [slots[2], slots[1], slots[4]]);
    assert_eq!((schedule.due(49), schedule.next_us()), (None, Some(50)));
}

#[test]
fn an_idle_endpoint_takes_few_bytes() {
    // An entry, its time (a B-tree holds 6 to 11 in a node, so at most twice their size), and a host of its own.
    let bytes = std::mem::size_of::<Entry>() + 2 * std::mem::size_of::<(i64, Slot)>() + std::mem::size_of::<Host>();
    assert!(bytes <= 400, "{bytes}");
}
