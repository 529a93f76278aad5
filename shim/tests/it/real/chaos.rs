//! Servers and shims that die: every committed row arrives, with one number, in order.

use std::collections::BTreeSet;
use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{LinePattern as _, MariaDb, RabbitMq, event, eventually};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::queue::{Queue, check_stream};
use crate::binary::status;
use crate::rig::{Rig, works};
use crate::support::{Kind, Place, Session, T1};

const LIMIT: Duration = Duration::from_secs(60);

/// Inserts one row per bug, 1 to `count`, in small transactions, some of which end later than others that began later.
async fn write(url: String, bugs: std::ops::Range<u64>) {
    let (mut one, mut two) = (Session::connect(&url).await, Session::connect(&url).await);
    let bugs: Vec<u64> = bugs.collect();
    for group in bugs.chunks(7) {
        let (late, soon) = group.split_at(group.len() / 2);
        let rows = |bugs: &[u64]| bugs.iter().map(|bug| (*bug, T1)).collect::<Vec<_>>();
        one.exec("START TRANSACTION").await;
        one.insert(&rows(late)).await;
        two.insert(&rows(soon)).await;
        one.exec("COMMIT").await;
    }
}

#[tokio::test]
async fn the_broker_is_killed_mid_stream() {
    let Some(mut broker) = RabbitMq::start_or_skip().await else { return };
    let Some(place) = Place::mariadb().await else { return };
    let rig = Rig::new(place, &broker.url()).await;
    rig.queue().await;
    let mut proc = rig.start().await;
    let count = 4000;
    let writer = tokio::spawn(write(rig.place.url.clone(), 1..count + 1));
    for round in 1..=2 {
        let ledger = rig.ledger();
        eventually(LIMIT, "progress", async || status(&ledger, "published").await > Some(300 * round)).await.unwrap();
        let mark = proc.lines();
        broker.kill9().await;
        proc.wait_for_line_after(mark, event(LogEvent::PartDown).with("part", "bus"), LIMIT).await.unwrap();
        broker.start_again().await.unwrap();
        proc.wait_for_line_after(mark, event(LogEvent::PartUp).with("part", "bus"), LIMIT).await.unwrap();
    }
    writer.await.unwrap();
    let queue = Queue::connect(&broker.url(), &rig.exchange).await;
    let all = queue.collect(count, LIMIT).await;
    let bugs: BTreeSet<u64> = check_stream(&all, count).into_iter().collect();
    assert_eq!(bugs, (1..=count).collect());
    let output = proc.output();
    let said = event(LogEvent::PartDown).with("part", "bus").count(&output);
    assert!((2..=4).contains(&said), "an outage is said once, not per row or attempt: {output}");
    proc.stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn the_shim_is_killed_at_random_moments() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let Some(place) = Place::mariadb().await else { return };
    killed_at_random_moments(&broker, place, 10).await;
}

#[tokio::test]
async fn the_shim_is_killed_at_random_moments_with_postgres() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let Some(place) = Place::postgres().await else { return };
    killed_at_random_moments(&broker, place, 10).await;
}

async fn killed_at_random_moments(broker: &RabbitMq, place: Place, kills: u32) {
    let seed: u64 =
        std::env::var("BUGFEED_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(rand::random());
    println!("BUGFEED_TEST_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let rig = Rig::new(place, &broker.url()).await;
    let queue = rig.queue().await;
    let count = 3000;
    let writer = tokio::spawn(write(rig.place.url.clone(), 1..count + 1));
    for _ in 0..kills {
        let mut proc = rig.start().await;
        // Not a wait for something: the moment of death is the input of this test.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..300_000))).await;
        proc.kill9();
    }
    let mut proc = rig.run().spawn().unwrap();
    writer.await.unwrap();
    let all = queue.collect(count, LIMIT).await;
    let bugs = check_stream(&all, count);
    assert_eq!(bugs.len() as u64, count, "as many numbers as rows: none numbered twice");
    assert_eq!(bugs.into_iter().collect::<BTreeSet<_>>(), (1..=count).collect());
    rig.emptied().await;
    proc.stop(LIMIT).await.unwrap();
}

/// Both the change table and the ledger go away, and come back.
#[tokio::test]
async fn the_database_is_gone_and_back() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let Some(mut server) = MariaDb::start_or_skip().await else { return };
    let place = Place::on(Kind::MySql, server.client().clone()).await;
    let rig = Rig::new(place, &broker.url()).await;
    let queue = rig.queue().await;
    let mut on_file = rig.start().await;
    write(rig.place.url.clone(), 1..101).await;
    let mut all = queue.collect(100, LIMIT).await;
    let mark = on_file.lines();
    server.kill9().await;
    let down = event(LogEvent::PartDown).with("part", "change table");
    on_file.wait_for_line_after(mark, down.clone(), LIMIT).await.unwrap();
    server.start_again().await.unwrap();
    write(rig.place.url.clone(), 101..201).await;
    queue.collect_into(&mut all, 200, LIMIT).await;
    assert_eq!(check_stream(&all, 200).len(), 200);
    let output = on_file.output();
    assert_eq!(down.count(&output), 1, "said once: {output}");
    assert!(!output.contains("panicked"), "{output}");
}

#[tokio::test]
async fn a_ledger_on_a_server_is_gone_and_back() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let Some(mut server) = MariaDb::start_or_skip().await else { return };
    let place = Place::on(Kind::MySql, server.client().clone()).await;
    let rig = Rig::new(place, &broker.url()).await;
    let queue = rig.queue().await;
    let mut proc = works(rig.with_ledger(&rig.place.url)).await;
    write(rig.place.url.clone(), 1..501).await;
    server.kill9().await;
    proc.wait_for_event(LogEvent::PartDown, LIMIT).await.unwrap();
    server.start_again().await.unwrap();
    write(rig.place.url.clone(), 501..1001).await;
    let all = queue.collect(1000, LIMIT).await;
    assert_eq!(check_stream(&all, 1000).into_iter().collect::<BTreeSet<_>>(), (1..=1000).collect());
}

/// A broker without memory, or without disk space, blocks publishers: the shim says which, waits, and goes on.
#[tokio::test]
async fn the_broker_blocks_publishers() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let place = Place::sqlite();
    let rig = Rig::new(place, &broker.url()).await;
    let queue = rig.queue().await;
    let mut proc = rig.run().spawn().unwrap();
    proc.wait_for_event(LogEvent::BrokerConnected, LIMIT).await.unwrap();
    let mut tracker = rig.place.session().await;
    let (mut count, mut all) = (0, Vec::new());
    for (limit, low, enough, reason) in [
        ("set_vm_memory_high_watermark", "0.000001", "0.8", "low on memory"),
        ("set_disk_free_limit", "900000000000000", "10MB", "low on disk"),
    ] {
        let mark = proc.lines();
        broker.ctl(&[limit, low]).await.unwrap();
        // The alarm reaches a connection with the first message after it.
        eventually(LIMIT, "a blocked publisher", async || {
            tracker.insert(&[(1, T1)]).await;
            count += 1;
            let down = event(LogEvent::PartDown).with("part", "bus");
            proc.output().lines().skip(mark).any(|line| down.is_in(line) && line.contains(reason))
        })
        .await
        .unwrap();
        broker.ctl(&[limit, enough]).await.unwrap();
        queue.collect_into(&mut all, count, LIMIT).await;
        check_stream(&all, count);
        proc.wait_for_line_after(mark, event(LogEvent::PartUp), LIMIT).await.unwrap();
    }
}

/// A shim that connects during an alarm cannot look at the history: it waits, and looks when it can.
#[tokio::test]
async fn an_alarm_at_the_start() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let place = Place::sqlite();
    let rig = Rig::new(place, &broker.url()).await;
    let queue = rig.queue().await;
    rig.insert(&[(1, T1), (2, T1)]).await;
    broker.ctl(&["set_disk_free_limit", "900000000000000"]).await.unwrap();
    let mut proc = rig.run().env("BUGFEED_SHIM_HISTORY", "true").spawn().unwrap();
    let low = |line: &str| event(LogEvent::PartDown).with("part", "bus").is_in(line) && line.contains("low on disk");
    proc.wait_for_line(low, LIMIT).await.unwrap();
    broker.ctl(&["set_disk_free_limit", "10MB"]).await.unwrap();
    proc.wait_for_event(LogEvent::BrokerConnected, LIMIT).await.unwrap();
    check_stream(&queue.collect(2, LIMIT).await, 2);
    assert_eq!(proc.events(LogEvent::HistoryNotCompared), 0, "{}", proc.output());
    proc.stop(LIMIT).await.unwrap();
}

/// A user that may neither make the heads' exchange nor read history: both are said, and changes flow.
#[tokio::test]
async fn with_few_permissions_changes_flow() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let place = Place::sqlite();
    let rig = Rig::new(place, &broker.url()).await;
    let queue = rig.queue().await;
    broker.ctl(&["add_user", "few", "pass"]).await.unwrap();
    let exchange = &rig.exchange;
    let own = format!("^{exchange}(\\.history)?$");
    let write = format!("^({exchange}(\\.history)?|amq\\.default)$");
    let read = format!("^{exchange}$");
    broker.ctl(&["set_permissions", "few", &own, &write, &read]).await.unwrap();
    let few = Rig { amqp: broker.url().replace("guest:guest", "few:pass"), ..rig };
    let mut proc = few.run().env("BUGFEED_SHIM_HISTORY", "true").spawn().unwrap();
    proc.wait_for_event(LogEvent::HeadsNotSent, LIMIT).await.unwrap();
    proc.wait_for_event(LogEvent::HistoryNotCompared, LIMIT).await.unwrap();
    few.insert(&[(1, T1), (2, T1)]).await;
    let all = queue.collect(2, LIMIT).await;
    check_stream(&all, 2);
    proc.stop(LIMIT).await.unwrap();
    let output = proc.output();
    assert!(!output.contains("few:pass"), "{output}");
    assert_eq!(proc.events(LogEvent::HistoryRefused), 0, "{output}");
}

/// A database that accepts and then says nothing: every wait is bounded, and it heals.
#[tokio::test]
async fn the_database_freezes() {
    let Some(broker) = RabbitMq::start_or_skip().await else { return };
    let Some(mut server) = MariaDb::start_or_skip().await else { return };
    let place = Place::on(Kind::MySql, server.client().clone()).await;
    let rig = Rig::new(place, &broker.url()).await;
    let queue = rig.queue().await;
    let mut proc = rig.start().await;
    server.process().unwrap().sigstop();
    proc.wait_for_line(event(LogEvent::PartDown).with("part", "change table"), LIMIT).await.unwrap();
    server.process().unwrap().sigcont();
    write(rig.place.url.clone(), 1..101).await;
    let all = queue.collect(100, LIMIT).await;
    assert_eq!(check_stream(&all, 100).len(), 100);
    // Frozen again: a stop does not wait for it.
    server.process().unwrap().sigstop();
    proc.sigterm();
    assert!(proc.wait(Duration::from_secs(15)).await.unwrap().success());
    server.process().unwrap().sigcont();
}
