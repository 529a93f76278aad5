//! Who serves which partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::rig::{Rig, count};
use crate::store::Store;
use crate::store::endpoints::leases::{Leases, Round};
use crate::store::leases::SILENCE;

/// A clock that is put forward by hand.
#[derive(Clone)]
struct Clock {
    begin: Instant,
    ms: Arc<AtomicU64>,
}

impl Clock {
    fn new() -> Clock {
        Clock { begin: Instant::now(), ms: Arc::default() }
    }

    fn forward(&self, by: Duration) {
        self.ms.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    fn leases(&self, store: &Store) -> Leases {
        let clock = self.clone();
        Leases::with_clock(
            store,
            Arc::new(move || clock.begin + Duration::from_millis(clock.ms.load(Ordering::Relaxed))),
        )
    }
}

async fn round(leases: &mut Leases) -> Round {
    leases.round().await.unwrap()
}

/// A round that gives at once what it should.
async fn serve(leases: &mut Leases) -> Round {
    let round = round(leases).await;
    leases.release(&round.give).await.unwrap();
    round
}

/// Two processes have the store; none of them has its file alone.
async fn two(rig: &Rig) -> (Store, Store) {
    (rig.other().await, rig.other().await)
}

pub(in crate::store::tests) async fn two_processes_share(rig: &Rig) {
    let (clock, (one, two)) = (Clock::new(), two(rig).await);
    let (mut a, mut b) = (clock.leases(&one), clock.leases(&two));
    let first = round(&mut a).await;
    assert_eq!((first.held.len(), first.taken.len(), first.give.len()), (32, 32, 0));
    assert!(first.taken.iter().all(|taken| !taken.waits && taken.term == 1), "nobody held them");
    assert!(round(&mut b).await.held.is_empty(), "all are held");
    let next = round(&mut a).await;
    assert_eq!((next.held, next.taken.len(), next.lost.len()), (first.held, 0, 0));
    assert_eq!(next.give.len(), 16);
    assert!(round(&mut b).await.taken.is_empty(), "not before they are given back");
    a.release(&next.give).await.unwrap();
    let got = round(&mut b).await;
    assert_eq!(got.held.keys().copied().collect::<Vec<_>>(), next.give);
    assert!(got.taken.iter().all(|taken| !taken.waits && taken.term == 2), "they were given back");
    for _ in 0..5 {
        clock.forward(Duration::from_secs(1));
        for leases in [&mut a, &mut b] {
            let round = round(leases).await;
            assert_eq!((round.held.len(), round.taken.len(), round.lost.len(), round.give.len()), (16, 0, 0, 0));
        }
    }
    b.leave().await.unwrap();
    let all = round(&mut a).await;
    assert_eq!((all.held.len(), all.taken.len(), all.taken.iter().filter(|taken| taken.waits).count()), (32, 16, 0));
    a.leave().await.unwrap();
    assert_eq!(count(&one, "hooks_leases WHERE holder IS NOT NULL").await, 0);
    assert_eq!(count(&one, "hooks_leases WHERE name LIKE 'endpoints%'").await, 32);
    one.close().await;
    two.close().await;
}

pub(in crate::store::tests) async fn a_silent_process_loses_its_leases(rig: &Rig) {
    let (clock, (one, two)) = (Clock::new(), two(rig).await);
    let (mut a, mut b) = (clock.leases(&one), clock.leases(&two));
    round(&mut a).await;
    round(&mut b).await;
    clock.forward(SILENCE - Duration::from_millis(1));
    assert!(round(&mut b).await.taken.is_empty(), "not yet");
    clock.forward(Duration::from_millis(1));
    let got = round(&mut b).await;
    assert_eq!((got.taken.len(), got.held.len()), (32, 32));
    assert!(got.taken.iter().all(|taken| taken.waits && taken.term == 2), "the one before may be sending");
    // The other one was only slow.
    let lost = round(&mut a).await;
    assert_eq!((lost.lost.len(), lost.held.len(), lost.taken.len()), (32, 0, 0));
    assert_eq!(serve(&mut b).await.give.len(), 16);
    assert_eq!(round(&mut a).await.taken.iter().filter(|taken| !taken.waits && taken.term == 3).count(), 16);
    // It shows that it lives in time, and is left alone.
    for _ in 0..10 {
        clock.forward(SILENCE / 2);
        assert_eq!((round(&mut a).await.held.len(), round(&mut b).await.held.len()), (16, 16));
    }
    // What is left of one that ended long ago goes.
    clock.forward(Duration::from_secs(60));
    round(&mut b).await;
    assert_eq!(count(&two, "hooks_leases WHERE name LIKE 'endpoints:%'").await, 1);
    one.close().await;
    two.close().await;
}

/// What was let go is not held again under the same term, although the database failed when it was given back.
pub(in crate::store::tests) async fn what_was_let_go_is_given_back(rig: &Rig) {
    let (clock, (one, two)) = (Clock::new(), two(rig).await);
    let (mut a, mut b) = (clock.leases(&one), clock.leases(&two));
    round(&mut a).await;
    round(&mut b).await;
    let give = round(&mut a).await.give;
    one.db.execute("ALTER TABLE hooks_leases RENAME TO hooks_away", &[]).await.unwrap();
    a.release(&give).await.unwrap_err();
    a.round().await.unwrap_err();
    one.db.execute("ALTER TABLE hooks_away RENAME TO hooks_leases", &[]).await.unwrap();
    let next = round(&mut a).await;
    assert_eq!((next.held.len(), next.taken.len(), next.lost.len()), (16, 0, 0));
    assert!(round(&mut b).await.taken.iter().filter(|taken| !taken.waits && taken.term == 2).count() == 16);
    one.close().await;
    two.close().await;
}

/// A process that took leases, and was never told so, holds them; what it does not know waits.
pub(in crate::store::tests) async fn a_take_whose_outcome_is_not_known(rig: &Rig) {
    let (clock, (one, two)) = (Clock::new(), two(rig).await);
    let mut a = clock.leases(&one);
    round(&mut a).await;
    let holder = "SELECT holder FROM hooks_leases WHERE name = 'endpoints-0'";
    let me = one.db.fetch(holder, &[]).await.unwrap().remove(0).remove(0);
    let mut b = clock.leases(&two);
    round(&mut b).await;
    let give = round(&mut a).await.give;
    a.release(&give).await.unwrap();
    let sql = format!("UPDATE hooks_leases SET term = 7, holder = ? WHERE name = 'endpoints-{}'", give[0]);
    one.db.execute(&sql, &[me]).await.unwrap();
    let found = round(&mut a).await;
    assert_eq!(
        found.taken.iter().map(|taken| (taken.partition, taken.term, taken.waits)).collect::<Vec<_>>(),
        [(give[0], 7, true)]
    );
    one.close().await;
    two.close().await;
}

/// A process whose looks take long sees a silence only between the end of one and the beginning of another.
pub(in crate::store::tests) async fn a_slow_look_is_no_silence(rig: &Rig) {
    let (clock, (one, two)) = (Clock::new(), two(rig).await);
    let (mut a, slow) = (clock.leases(&one), clock.clone());
    round(&mut a).await;
    // Its clock goes on by a second each time that it is looked at: at the beginning, before it reads, and after that.
    let mut b = Leases::with_clock(
        &two,
        Arc::new(move || {
            slow.forward(Duration::from_secs(1));
            slow.begin + Duration::from_millis(slow.ms.load(Ordering::Relaxed))
        }),
    );
    // It has read at 3 s for the first time, and reads from 5 s and from 8 s on: the silence is 2 s, then 5 s, then 8 s.
    for _ in 0..3 {
        assert!(round(&mut b).await.taken.is_empty());
    }
    assert_eq!(round(&mut b).await.taken.len(), 32);
    one.close().await;
    two.close().await;
}

pub(in crate::store::tests) async fn many_processes_at_once(rig: &Rig) {
    let clock = Clock::new();
    let mut stores = Vec::new();
    for _ in 0..5 {
        stores.push(rig.other().await);
    }
    let mut all: Vec<Leases> = stores.iter().map(|store| clock.leases(store)).collect();
    let mut held: BTreeMap<u16, u64> = BTreeMap::new();
    for step in 0..12 {
        let rounds = futures::future::join_all(all.iter_mut().map(serve)).await;
        let mut now: BTreeMap<u16, usize> = BTreeMap::new();
        // Of rounds at the same time, nobody knows which one came first: a partition may have been given in one and taken in another.
        let before = held.clone();
        for round in &rounds {
            for (partition, term) in &round.held {
                assert!(before.get(partition).is_none_or(|before| before <= term), "terms only rise");
                held.entry(*partition).and_modify(|newest| *newest = (*newest).max(*term)).or_insert(*term);
                if !round.give.contains(partition) {
                    *now.entry(*partition).or_insert(0) += 1;
                }
            }
        }
        assert!(now.values().all(|holders| *holders == 1), "one holder: {now:?}");
        if step > 8 {
            let mut shares: Vec<usize> = rounds.iter().map(|round| round.held.len()).collect();
            shares.sort_unstable();
            assert_eq!(shares, [6, 6, 6, 7, 7]);
            assert!(rounds.iter().all(|round| round.taken.is_empty() && round.give.is_empty()));
        }
    }
    for store in stores {
        store.close().await;
    }
}
