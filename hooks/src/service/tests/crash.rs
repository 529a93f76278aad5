//! A service is killed at any step: all of its tasks are dropped where they are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_core::hooks::event::State;

use super::rig::{PLAIN, Place, changes, post, rows, until};

/// A runtime of its own, so that all tasks end at once when it is dropped.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn killed_again_and_again_nothing_that_was_answered_is_lost() {
    let outer = runtime();
    let place = outer.block_on(Place::sqlite());
    let answered: Arc<Mutex<BTreeSet<i64>>> = Arc::default();
    for round in 0..10_u64 {
        let inner = runtime();
        let service = inner.block_on(place.start(PLAIN));
        let (address, key, told) = (service.address, place.key.clone(), Arc::clone(&answered));
        // Senders are outside, and go on until the connection fails.
        let sending = outer.spawn(async move {
            for number in 0.. {
                let bug = 1 + round * 1_000_000 + number;
                let Some(answer) = post(address, &key, "plain", &changes(&[bug], 1)).await else { return number };
                assert!(answer.contains("queued") || answer.contains("spooled"), "{answer}");
                told.lock().unwrap().insert(bug.cast_signed());
            }
            0
        });
        // Wherever it is after so many rows, it is killed.
        let before = answered.lock().unwrap().len();
        let count = rounds_rows(&outer, &place, &answered, before, round);
        inner.shutdown_timeout(Duration::from_millis(1));
        // What it holds of the database wants a runtime when it goes.
        let inside = outer.enter();
        drop(service);
        drop(inside);
        let sent = outer.block_on(sending).unwrap();
        assert!(sent > 0 || round == 0, "round {round}: {count} rows, nothing was sent");
    }
    outer.block_on(async {
        let service = place.start(PLAIN).await;
        let answered = answered.lock().unwrap().clone();
        let found = until("all that was answered", async || {
            let found = service.rows("default").await;
            let is_there: BTreeSet<i64> = found.iter().copied().collect();
            let missing: Vec<_> = answered.difference(&is_there).take(3).collect();
            if missing.is_empty() { Ok(found) } else { Err(format!("{} and {missing:?}", is_there.len())) }
        })
        .await;
        let bugs: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(bugs.len(), found.len(), "none is announced twice");
        let store = service.hooks.opened().await.0;
        let open = store.in_state(State::Processing, None, None, None, 10).await.unwrap();
        assert_eq!(open, [], "nothing hangs");
        service.stop().await;
    });
}

/// Waits until there are a few more rows than were answered before, and something was answered in this round: rows of
/// earlier rounds, whose answers were cut off, come as well.
fn rounds_rows(
    outer: &tokio::runtime::Runtime,
    place: &Place,
    answered: &Mutex<BTreeSet<i64>>,
    before: usize,
    round: u64,
) -> usize {
    let wanted = before + usize::try_from(round * 3 % 17).unwrap();
    outer.block_on(async {
        let db = place.db();
        let count = until("more rows", async || {
            let count = rows(&db, "default").await.len();
            let is_told = round == 0 || answered.lock().unwrap().len() > before;
            (count >= wanted && is_told).then_some(count).ok_or_else(|| count.to_string())
        })
        .await;
        db.close().await;
        count
    })
}
