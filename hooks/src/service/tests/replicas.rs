//! Two services on one store.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bugfeed_core::hooks::event::State;
use bugfeed_runtime::health::Health;

use super::rig::{PLAIN, Place, changes, until};
use super::trackers::{Bugzilla, config, now_us};
use crate::service::{Hooks, StartError};
use crate::store::StoreError;

#[tokio::test]
async fn sqlite_refuses_a_second_one() {
    let place = Place::sqlite().await;
    let service = place.start(PLAIN).await;
    let second = Hooks::start(place.elsewhere().options(PLAIN), Health::new()).await;
    let Err(StartError::Store(StoreError::InUse { .. })) = second else { panic!("{second:?}") };
    service.post("plain", &changes(&[1], 1)).await;
    service.until_rows("default", 1).await;
    service.stop().await;
}

/// Both receive, some deliveries at once, and one of them is killed in between.
async fn both_work_and_nothing_is_announced_twice(place: Option<Place>) {
    let Some(place) = place else { return };
    let (one, two) = (place.start(PLAIN).await, place.elsewhere().start(PLAIN).await);
    let bugs: Vec<u64> = (1..=40).collect();
    for second in 0..5 {
        let (body, other, third) = (changes(&bugs, second), changes(&bugs, second + 100), changes(&bugs, second + 200));
        // The same delivery at both, and one more at each.
        tokio::join!(one.post("plain", &body), two.post("plain", &body));
        tokio::join!(one.post("plain", &other), two.post("plain", &third));
    }
    let store = one.hooks.opened().await.0;
    until("all is settled", async || {
        let open = [State::Queued, State::Processing, State::Errored];
        // A store that was slow for a moment has sent some to the spool.
        let mut count = if one.hooks.spool().is_empty() && two.hooks.spool().is_empty() { 0 } else { 1 };
        for state in open {
            count += store.in_state(state, None, None, None, 1000).await.unwrap().len();
        }
        (count == 0).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    let mut completed = BTreeMap::new();
    for bug in &bugs {
        let events = one.events(*bug).await;
        let done: Vec<_> = events.iter().filter(|stored| stored.event.progress.state == State::Completed).collect();
        assert!(events.iter().all(|stored| stored.event.progress.state.is_terminal()));
        let rows: std::collections::BTreeSet<_> = done.iter().map(|stored| stored.row.unwrap()).collect();
        assert_eq!(rows.len(), done.len(), "bug {bug}: a row of its own for each");
        completed.insert(i64::try_from(*bug).unwrap(), done.len());
    }
    let mut rows = BTreeMap::new();
    for bug in one.rows("default").await {
        *rows.entry(bug).or_insert(0) += 1;
    }
    assert_eq!(rows, completed, "a row for each completed event, and no other");
    // One goes, the other goes on.
    one.stop().await;
    two.post("plain", &changes(&[7777], 9)).await;
    two.until_state(7777, State::Completed).await;
    two.stop().await;
}

/// A person asks the one that does not lead to have a tracker asked.
async fn whoever_is_asked_has_a_tracker_reconciled(place: Option<Place>) {
    let Some(place) = place else { return };
    let (tracker, server) = Bugzilla::start(&place).await;
    let config = config(&server, "reconcile = \"24h\"");
    let leader = place.start(&config).await;
    until("the first round", async || {
        server.got().iter().any(|got| got.path() == "/rest/time").then_some(()).ok_or_else(String::new)
    })
    .await;
    let other = place.elsewhere().start(&config).await;
    leader.ahead(400);
    tracker.change(35, now_us() + place.ahead_us.load(Ordering::SeqCst));
    other.hooks.desk().reconcile("bz").await.unwrap();
    assert_eq!(other.until_rows("default", 1).await, [35]);
    other.stop().await;
    leader.stop().await;
}

mod real {
    use super::{Place, both_work_and_nothing_is_announced_twice, whoever_is_asked_has_a_tracker_reconciled};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wish_on_mariadb() {
        whoever_is_asked_has_a_tracker_reconciled(Place::mariadb().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wish_on_postgres() {
        whoever_is_asked_has_a_tracker_reconciled(Place::postgres().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_on_mariadb() {
        both_work_and_nothing_is_announced_twice(Place::mariadb().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_on_postgres() {
        both_work_and_nothing_is_announced_twice(Place::postgres().await).await;
    }
}
