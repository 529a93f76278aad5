//! All states of up to three processes and five partitions, and all turns that they may take.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Who holds each partition: a process by its number, or nobody.
type Holders = Vec<Option<usize>>;

/// What a process sees while these live. Who does not live has been silent for long.
fn view<'a>(holders: &Holders, live: &[usize], me: usize) -> View<'a> {
    let lease = |(partition, holder): (u16, &Option<usize>)| Lease {
        partition,
        holder: holder.map(|holder| NAMES[holder]),
        is_silent: holder.is_some_and(|holder| !live.contains(&holder)),
    };
    View {
        me: NAMES[me],
        members: live.iter().map(|process| NAMES[*process]).collect(),
        leases: (0..).zip(holders).map(lease).collect(),
    }
}

/// All states of so many partitions.
fn all(partitions: u32) -> impl Iterator<Item = Holders> {
    let digit = move |state: usize, place: u32| Some(state / 4_usize.pow(place) % 4).filter(|holder| *holder < 3);
    (0..4_usize.pow(partitions)).map(move |state| (0..partitions).map(|place| digit(state, place)).collect())
}

/// All sets of processes that live, and all orders of their turns.
fn turns() -> Vec<Vec<usize>> {
    let orders: [&[usize]; 15] = [
        &[0],
        &[1],
        &[2],
        &[0, 1],
        &[1, 0],
        &[0, 2],
        &[2, 0],
        &[1, 2],
        &[2, 1],
        &[0, 1, 2],
        &[0, 2, 1],
        &[1, 0, 2],
        &[1, 2, 0],
        &[2, 0, 1],
        &[2, 1, 0],
    ];
    orders.iter().map(|order| order.to_vec()).collect()
}

/// Carries a plan out that was made when the holders were others: a lease is taken if nobody has changed it since.
fn carry_out(holders: &mut Holders, seen: &Holders, me: usize, plan: &Plan) {
    for partition in plan.take.iter().map(|partition| usize::from(*partition)) {
        if holders[partition] == seen[partition] {
            holders[partition] = Some(me);
        }
    }
    for partition in plan.give.iter().map(|partition| usize::from(*partition)) {
        if holders[partition] == Some(me) {
            holders[partition] = None;
        }
    }
}

fn is_balanced(holders: &Holders, live: &[usize]) -> bool {
    let shares: Vec<usize> =
        live.iter().map(|process| holders.iter().filter(|holder| **holder == Some(*process)).count()).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    most - least <= 1 && shares.iter().sum::<usize>() == holders.len()
}

/// Each takes its turn with what it sees then, until nobody does anything; returns how many rounds that took.
fn settle(holders: &mut Holders, order: &[usize]) -> usize {
    for round in 0..10 {
        let mut is_quiet = true;
        for me in order {
            let seen = holders.clone();
            let plan = plan(&view(&seen, order, *me));
            is_quiet &= plan == Plan::default();
            carry_out(holders, &seen, *me, &plan);
        }
        if is_quiet {
            return round;
        }
    }
    panic!("partitions go round and round: {holders:?}, {order:?}");
}

#[test]
fn shares_become_equal_from_every_state_and_then_nothing_moves() {
    for partitions in 1..=5 {
        for holders in all(partitions) {
            for order in turns() {
                let mut now = holders.clone();
                let rounds = settle(&mut now, &order);
                assert!(is_balanced(&now, &order), "{holders:?} became {now:?}, {order:?}");
                assert!(rounds <= 3, "{rounds} rounds: {holders:?}, {order:?}");
            }
        }
    }
}

#[test]
fn those_who_see_the_same_take_different_ones_and_give_no_more_than_they_must() {
    for holders in all(5) {
        for live in turns() {
            let plans: BTreeMap<usize, Plan> = live.iter().map(|me| (*me, plan(&view(&holders, &live, *me)))).collect();
            let mut taken = BTreeSet::new();
            for (me, plan) in &plans {
                for partition in &plan.take {
                    let holder = holders[usize::from(*partition)];
                    assert!(holder.is_none_or(|holder| !live.contains(&holder)), "{holders:?}: it is held");
                    assert!(taken.insert(*partition), "{holders:?}: two take it");
                }
                let mine = holders.iter().filter(|holder| **holder == Some(*me)).count();
                assert!(plan.give.is_empty() || mine - plan.give.len() >= 5 / live.len(), "{holders:?}");
                assert!(plan.give.is_empty() || plan.take.is_empty());
                assert!(plan.give.iter().all(|partition| holders[usize::from(*partition)] == Some(*me)));
            }
            if is_balanced(&holders, &live) {
                assert!(plans.values().all(|plan| *plan == Plan::default()), "{holders:?}: nothing need move");
            }
        }
    }
}

/// What each process saw, and planned, but has not carried out yet.
type Plans = [Option<(Holders, Plan)>; 3];

/// Everything that may happen to three processes of which each looks at one moment and acts at any later one. Two act on
/// what they saw together; then all settle.
#[test]
fn what_was_seen_too_long_ago_does_no_harm() {
    let live = [0, 1, 2];
    for begin in all(4) {
        let mut known: BTreeSet<(Holders, Vec<Option<Holders>>)> = BTreeSet::new();
        let mut open: Vec<(Holders, Plans, u32)> = vec![(begin.clone(), Plans::default(), 0)];
        while let Some((holders, plans, depth)) = open.pop() {
            let seen = plans.iter().map(|plan| plan.as_ref().map(|(seen, _)| seen.clone())).collect();
            if !known.insert((holders.clone(), seen)) || depth > 6 {
                continue;
            }
            let mut settled = holders.clone();
            settle(&mut settled, &live);
            assert!(is_balanced(&settled, &live));
            for me in live {
                let (mut next, mut later) = (holders.clone(), plans.clone());
                match later[me].take() {
                    None => later[me] = Some((holders.clone(), plan(&view(&holders, &live, me)))),
                    Some((seen, plan)) => {
                        carry_out(&mut next, &seen, me, &plan);
                        // Nobody loses what it holds without its own doing.
                        for (before, after) in holders.iter().zip(&next) {
                            assert!(before == after || before.is_none() || *before == Some(me), "{begin:?}");
                        }
                    }
                }
                open.push((next, later, depth + 1));
            }
        }
    }
}

#[test]
fn thirty_two_partitions_and_a_process_that_comes_and_goes() {
    let mut holders: Holders = vec![None; usize::from(PARTITIONS)];
    let count = |holders: &Holders, process| holders.iter().filter(|holder| **holder == Some(process)).count();
    settle(&mut holders, &[0]);
    assert_eq!(count(&holders, 0), 32);
    settle(&mut holders, &[0, 1]);
    assert_eq!([0, 1].map(|process| count(&holders, process)), [16, 16]);
    let before = holders.clone();
    settle(&mut holders, &[0, 1, 2]);
    assert_eq!([0, 1, 2].map(|process| count(&holders, process)), [11, 11, 10]);
    let moved = before.iter().zip(&holders).filter(|(before, after)| before != after).count();
    assert_eq!(moved, 10, "no more than the new one gets");
    settle(&mut holders, &[0, 2]);
    assert_eq!([0, 2].map(|process| count(&holders, process)), [16, 16]);
    assert!(!holders.contains(&Some(1)));
}

#[test]
fn a_member_without_a_row_of_its_own_counts_by_what_it_holds() {
    let lease = |partition, holder| Lease { partition, holder, is_silent: false };
    let leases = vec![lease(0, Some("a")), lease(1, Some("a")), lease(2, Some("b")), lease(3, None)];
    let view = View { me: "b", members: BTreeSet::new(), leases };
    assert_eq!(plan(&view), Plan { take: vec![3], give: Vec::new() });
}
