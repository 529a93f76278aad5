//! One active shim per ledger: the real binary, with the ledger on MariaDB and PostgreSQL.

use std::time::{Duration, Instant};

use bugfeed_testbed::{Proc, eventually, shared, unique};

use super::queue::{Queue, check_stream};
use crate::binary::shim;
use crate::support::Place;

const LIMIT: Duration = Duration::from_secs(20);
const T1: &str = "2014-04-03 21:13:45";

async fn a_standby_takes_over(place: Place) {
    let Some(broker) = shared::rabbitmq().await else { return };
    let tracker = Place::sqlite();
    tracker.table().await;
    let queue = Queue::declare(&broker.url, &unique("exchange")).await;
    queue.bind("#").await;
    let start = || -> Proc {
        let args = ["--source", &tracker.url, "--ledger", &place.url, "--amqp", &broker.url, "--exchange", &queue.name];
        shim(&args).spawn().unwrap()
    };
    let mut first = start();
    first.wait_for_line("working on this ledger", LIMIT).await.unwrap();
    let mut second = start();
    second.wait_for_line(format!("held by pid {}", first.pid()).as_str(), LIMIT).await.unwrap();
    tracker.session().await.insert(&[(1, T1), (2, T1)]).await;
    let mut all = queue.collect(2, LIMIT).await;
    assert!(!second.output().contains("working on this ledger"), "one at a time");

    first.kill9();
    let killed = Instant::now();
    tracker.session().await.insert(&[(3, T1)]).await;
    second.wait_for_line("working on this ledger", LIMIT).await.unwrap();
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert!(killed.elapsed() > Duration::from_secs(3), "a holder that is only slow keeps it: {:?}", killed.elapsed());
    queue.collect_into(&mut all, 3, LIMIT).await;

    // A frozen one is taken for dead; when it wakes up it writes nothing and waits. (Frozen while it deletes the row, it
    // would hold SQLite's one lock, and nobody could write the next.)
    let mut session = tracker.session().await;
    eventually(LIMIT, "the row's deletion", async || session.count("push_notify").await == 0).await.unwrap();
    second.sigstop();
    let mut third = start();
    third.wait_for_line("working on this ledger", LIMIT).await.unwrap();
    tracker.session().await.insert(&[(4, T1)]).await;
    queue.collect_into(&mut all, 4, LIMIT).await;
    second.sigcont();
    second.wait_for_line("another shim has taken over", LIMIT).await.unwrap();
    tracker.session().await.insert(&[(5, T1), (6, T1)]).await;
    queue.collect_into(&mut all, 6, LIMIT).await;

    // A clean stop lets the next one in at once.
    third.sigterm();
    assert!(third.wait(LIMIT).await.unwrap().success());
    let stopped = Instant::now();
    let again = |line: &str| line.contains("working on this ledger");
    let mark = second.output().lines().position(again).unwrap() + 1;
    second.wait_for_line_after(mark, "working on this ledger", LIMIT).await.unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    tracker.session().await.insert(&[(7, T1)]).await;
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
