//! One active shim per ledger: the real binary, with the ledger on MariaDB and PostgreSQL.

use std::time::{Duration, Instant};

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{LinePattern as _, event, shared};

use super::queue::check_stream;
use crate::rig::{Rig, waits_for, works};
use crate::support::{Place, T1};

const LIMIT: Duration = Duration::from_secs(20);

async fn a_standby_takes_over(place: Place) {
    let Some(broker) = shared::rabbitmq().await else { return };
    let rig = Rig::new(Place::sqlite(), &broker.url).await;
    let queue = rig.queue().await;
    let mut first = works(rig.with_ledger(&place.url)).await;
    let mut second = waits_for(rig.with_ledger(&place.url), &first).await;
    rig.insert(&[(1, T1), (2, T1)]).await;
    let mut all = queue.collect(2, LIMIT).await;
    assert_eq!(second.events(LogEvent::LeaseTaken), 0, "one at a time");

    first.kill9();
    let killed = Instant::now();
    rig.insert(&[(3, T1)]).await;
    second.wait_for_event(LogEvent::LeaseTaken, LIMIT).await.unwrap();
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert!(killed.elapsed() > Duration::from_secs(3), "a holder that is only slow keeps it: {:?}", killed.elapsed());
    queue.collect_into(&mut all, 3, LIMIT).await;

    // A frozen shim is taken for dead; when it wakes up, it writes nothing and waits. (It is frozen only after the table is
    // empty: if it were frozen during a delete, it would hold SQLite's write lock, and nobody could insert the next row.)
    rig.emptied().await;
    second.sigstop();
    let mut third = works(rig.with_ledger(&place.url)).await;
    rig.insert(&[(4, T1)]).await;
    queue.collect_into(&mut all, 4, LIMIT).await;
    second.sigcont();
    second.wait_for_event(LogEvent::LeaseLost, LIMIT).await.unwrap();
    rig.insert(&[(5, T1), (6, T1)]).await;
    queue.collect_into(&mut all, 6, LIMIT).await;

    // A clean stop lets the next one in at once.
    third.stop(LIMIT).await.unwrap();
    let stopped = Instant::now();
    let taken = event(LogEvent::LeaseTaken);
    let mark = second.output().lines().position(|line| taken.is_in(line)).unwrap() + 1;
    second.wait_for_line_after(mark, taken, LIMIT).await.unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    rig.insert(&[(7, T1)]).await;
    queue.collect_into(&mut all, 7, LIMIT).await;
    assert_eq!(check_stream(&all, 7), [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn mariadb() {
    let Some(place) = Place::mariadb().await else { return };
    a_standby_takes_over(place).await;
}

#[tokio::test]
async fn postgres() {
    let Some(place) = Place::postgres().await else { return };
    a_standby_takes_over(place).await;
}
