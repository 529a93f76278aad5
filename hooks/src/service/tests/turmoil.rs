//! Two services on one store with clocks that differ, of which one is killed, while the store restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_core::hooks::event::State;
use tokio::runtime::Runtime;

use super::rig::{PLAIN, Place, Service, changes, post, until};
use crate::store::Store;

/// How far the clock of the second one is ahead, in seconds.
const SKEW: i64 = 10;
const BUGS: u64 = 20;

/// A runtime of its own, so that all tasks end at once when it is dropped.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What was answered: bug and second.
type Answered = Arc<Mutex<BTreeSet<(u64, i64)>>>;

/// Posts changes of all bugs, each a second newer than the one before, until it is told to stop or the connection fails.
async fn send(
    service: (std::net::SocketAddr, crate::receive::key::Key),
    odd: i64,
    told: Answered,
    stop: Arc<AtomicBool>,
) {
    for round in 0..40_000_i64 {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let (bug, second) = (1 + round.unsigned_abs() % BUGS, 2 * round + odd);
        let Some(answer) = post(service.0, &service.1, "plain", &changes(&[bug], second)).await else { return };
        // Where neither store nor spool took it, nothing was promised.
        assert!(answer.contains("queued") || answer.contains("spooled"), "{answer}");
        told.lock().unwrap().insert((bug, second));
    }
}

async fn until_answered(told: &Answered, count: usize) {
    until(&format!("{count} answers"), async || {
        let have = told.lock().unwrap().len();
        (have >= count).then_some(()).ok_or_else(|| have.to_string())
    })
    .await;
}

/// Who leads: the term of the lease, if somebody holds it.
async fn term(place: &Place) -> Result<i64, String> {
    let db = place.db();
    let rows = db.fetch("SELECT term FROM hooks_leases WHERE name = 'upkeep' AND holder IS NOT NULL", &[]).await;
    db.close().await;
    rows.ok().and_then(|rows| rows.first()?.first()?.int()).ok_or_else(|| "nobody leads".to_owned())
}

async fn check(service: &Service, store: &Store, answered: &BTreeSet<(u64, i64)>) {
    until("all is settled", async || {
        let mut open = u64::from(!service.hooks.spool().is_empty());
        for state in [State::Queued, State::Processing, State::Errored] {
            open +=
                store.in_state(state, None, None, None, 1000).await.map_err(|error| error.to_string())?.len() as u64;
        }
        (open == 0).then_some(()).ok_or_else(|| open.to_string())
    })
    .await;
    let mut completed = BTreeMap::new();
    for bug in 1..=BUGS {
        let mut of_bug = BTreeMap::new();
        let (mut after, filter) =
            (None, crate::store::events::EventFilter { bug: bugfeed_protocol::BugId::new(bug), ..Default::default() });
        loop {
            let page = store.list_events(&filter, after, 1000).await.unwrap();
            for stored in page.events {
                let (second, state) =
                    (stored.event.when.as_micros() / 1_000_000 - 1_795_651_200, stored.event.progress.state);
                let before = of_bug.insert(second, state);
                assert!(before.is_none(), "bug {bug}, second {second}: {before:?} and {state}");
                assert!(matches!(state, State::Completed | State::Dropped), "bug {bug}, second {second}: {state}");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let of_answered: Vec<i64> = answered.iter().filter(|(of, _)| *of == bug).map(|(_, second)| *second).collect();
        for second in &of_answered {
            assert!(of_bug.contains_key(second), "bug {bug}, second {second} was answered, and is lost");
        }
        let newest = of_bug.last_key_value().map(|(_, state)| *state);
        assert_eq!(newest, Some(State::Completed), "bug {bug}");
        completed.insert(bug.cast_signed(), of_bug.values().filter(|state| **state == State::Completed).count());
    }
    let mut rows = BTreeMap::new();
    for bug in service.rows("default").await {
        *rows.entry(bug).or_insert(0) += 1;
    }
    assert_eq!(rows, completed, "a row for each completed event, and no other");
}

/// `restart` kills the database's server and starts it again.
fn all_at_once(outer: &Runtime, place: &Place, restart: impl AsyncFnOnce()) {
    let (inner, other) = (runtime(), runtime());
    let ahead = place.elsewhere_ahead(SKEW);
    let leader = inner.block_on(place.start(PLAIN));
    let first_term = outer.block_on(until("somebody leads", async || term(place).await));
    let second = other.block_on(ahead.start(PLAIN));
    let (told, stop): (Answered, _) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let send_to = |service: &Service, odd| {
        let to = (service.address, place.key.clone());
        outer.spawn(send(to, odd, Arc::clone(&told), Arc::clone(&stop)))
    };
    let senders = [send_to(&leader, 0), send_to(&second, 1)];
    outer.block_on(async {
        until_answered(&told, 100).await;
        restart().await;
        let have = told.lock().unwrap().len();
        until_answered(&told, have + 100).await;
    });
    inner.shutdown_timeout(Duration::from_millis(1));
    let inside = outer.enter();
    drop(leader);
    drop(inside);
    outer.block_on(async {
        let have = told.lock().unwrap().len();
        until_answered(&told, have + 50).await;
        // The lease stands still for six seconds first.
        until("the other one leads", async || match term(place).await {
            Ok(term) if term > first_term => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        stop.store(true, Ordering::SeqCst);
        for sender in senders {
            sender.await.unwrap();
        }
        // What the killed one had only in its spool is there when it is started again.
        let again = place.start(PLAIN).await;
        let store = again.hooks.opened().await.0;
        let answered = told.lock().unwrap().clone();
        until("the spools are empty", async || {
            let are_empty = again.hooks.spool().is_empty() && second.hooks.spool().is_empty();
            are_empty.then_some(()).ok_or_else(String::new)
        })
        .await;
        check(&again, &store, &answered).await;
        again.stop().await;
    });
    other.block_on(second.stop());
}

mod real {
    use bugfeed_testbed::{MariaDb, Postgres};

    use super::super::rig::Place;
    use super::{all_at_once, runtime};

    #[test]
    fn clocks_a_kill_and_a_restart_on_mariadb() {
        let outer = runtime();
        let Some(mut server) = outer.block_on(MariaDb::start_or_skip()) else { return };
        let place = outer.block_on(Place::on(&server.client().clone()));
        all_at_once(&outer, &place, async || {
            server.kill9().await;
            server.start_again().await.unwrap();
        });
    }

    #[test]
    fn clocks_a_kill_and_a_restart_on_postgres() {
        let outer = runtime();
        let Some(mut server) = outer.block_on(Postgres::start_or_skip()) else { return };
        let place = outer.block_on(Place::on(&server.client().clone()));
        all_at_once(&outer, &place, async || {
            server.kill9().await;
            server.start_again().await.unwrap();
        });
    }
}
