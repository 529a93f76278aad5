//! Ledgers that were restored from a copy, copied to two machines, or failed over to a server that is behind. The shim
//! notices by the end of the broker's history, and begins a new epoch before it gives a number twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bugfeed_amqp::{HistoryBounds, parse_url};
use bugfeed_protocol::bus::{BusMessage, Format};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_shim::publish::amqp::{AmqpOptions, AmqpPublisher, BatchOptions};
use bugfeed_testbed::{Proc, event, eventually, shared, unique};

use super::queue::Queue;
use crate::binary::{ends, shim, status};
use crate::lineage::{copy, put_back};
use crate::rig::{Rig, works};
use crate::support::{Kind, Place, Running, T1};

const LIMIT: Duration = Duration::from_secs(30);

/// A machine whose ledger is worked on, copied and restored. Its exchange has a history.
impl Rig {
    /// One more machine that publishes to this exchange.
    async fn machine(amqp: &str, exchange: &str) -> Rig {
        Rig::on(Place::sqlite(), amqp, exchange).await
    }

    async fn touch(&self, bugs: std::ops::RangeInclusive<u64>) {
        let rows: Vec<(u64, &str)> = bugs.map(|bug| (bug, T1)).collect();
        self.insert(&rows).await;
    }

    /// Runs until so many changes are numbered and published.
    async fn publish(&self, head: u64) -> String {
        let mut proc = works(self.run().env("BUGFEED_SHIM_HISTORY", "true")).await;
        proc.wait_for_event(LogEvent::BrokerConnected, LIMIT).await.unwrap();
        self.until(proc, "published", head).await
    }

    /// Runs until so many changes are numbered, without a broker.
    async fn record(&self, head: u64) -> String {
        let proc = works(self.cut_off()).await;
        self.until(proc, "head", head).await
    }

    /// Waits until this number of the ledger (`head` or `published`) has this value, then stops the shim. Returns what the
    /// shim printed.
    async fn until(&self, mut proc: Proc, which: &str, head: u64) -> String {
        self.emptied().await;
        let ledger = self.ledger();
        eventually(LIMIT, format!("{which} {head}"), async || {
            let now = status(&ledger, which).await;
            if now == Some(head) { Ok(()) } else { Err(format!("{now:?} {}", proc.output())) }
        })
        .await
        .unwrap();
        proc.stop(LIMIT).await.unwrap();
        proc.output()
    }

    fn copy_ledger(&self, to: &Path) {
        std::fs::copy(self.place.dir.path().join("ledger.db"), to).unwrap();
    }

    fn restore_ledger(&self, from: &Path) {
        for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            // The files beside ledger.db may not exist.
            let _ = std::fs::remove_file(self.place.dir.path().join(file));
        }
        std::fs::copy(from, self.place.dir.path().join("ledger.db")).unwrap();
    }
}

/// A ledger that is at 20, and a copy of it that was taken at 10. Everything is published, and the history ends with 20.
struct OldCopy {
    rig: Rig,
    queue: Queue,
    copy: PathBuf,
    /// What the shim printed while it published the numbers 11 to 20.
    output: String,
}

impl OldCopy {
    /// `None` if there is no broker.
    async fn make() -> Option<OldCopy> {
        let broker = shared::rabbitmq().await?;
        let rig = Rig::new(Place::sqlite(), &broker.url).await;
        let queue = rig.queue().await;
        let copy = rig.place.dir.path().join("copy.db");
        rig.touch(1..=10).await;
        rig.publish(10).await;
        rig.copy_ledger(&copy);
        rig.touch(11..=20).await;
        let output = rig.publish(20).await;
        Some(OldCopy { rig, queue, copy, output })
    }
}

/// A machine whose ledger is at 10, a second machine with a copy of that ledger, and a queue with everything that both
/// publish. `None` if there is no broker.
async fn two_machines_with_one_ledger() -> Option<(Rig, Rig, Queue)> {
    let broker = shared::rabbitmq().await?;
    let one = Rig::new(Place::sqlite(), &broker.url).await;
    let queue = one.queue().await;
    one.touch(1..=10).await;
    one.publish(10).await;
    let two = Rig::machine(&broker.url, &one.exchange).await;
    one.copy_ledger(&two.place.dir.path().join("ledger.db"));
    Some((one, two, queue))
}

/// Whether a shim said that its ledger was set back.
fn set_back(output: &str) -> bool {
    event(LogEvent::LedgerSetBack).count(output) > 0
}

/// `EPOCH SEQ BUG` of each message, without repeats.
fn numbers(all: &[BusMessage]) -> Vec<(String, u64, u64)> {
    let mut numbers = Vec::new();
    for message in all {
        let cursor = message.cursor.as_ref().unwrap();
        let number = (cursor.epoch.to_string(), cursor.seq, message.change.bug.get());
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

/// Takes everything from the queue until this many different messages were in it.
async fn drain(queue: &Queue, count: usize) -> Vec<BusMessage> {
    let mut all = Vec::new();
    eventually(LIMIT, format!("{count} changes"), async || {
        while let Some(changes) = queue.changes().await {
            all.extend(changes);
        }
        let found = numbers(&all).len();
        if found >= count { Ok(()) } else { Err(format!("{found} so far")) }
    })
    .await
    .unwrap();
    all
}

/// The epochs in their order, each with its last number. Checks that the numbers of each epoch begin with 1 and have no
/// holes, and that no epoch comes again.
fn epochs(all: &[BusMessage]) -> Vec<(String, u64)> {
    let mut epochs: Vec<(String, u64)> = Vec::new();
    for (epoch, seq, _) in numbers(all) {
        match epochs.last_mut() {
            Some((last, head)) if *last == epoch => {
                assert_eq!(seq, *head + 1, "numbers of {epoch} have no holes, and none is given twice");
                *head = seq;
            }
            _ => {
                assert_eq!(seq, 1, "an epoch begins with 1: {epoch}");
                assert!(epochs.iter().all(|(other, _)| *other != epoch), "an epoch that ended does not go on");
                epochs.push((epoch, seq));
            }
        }
    }
    epochs
}

/// A ledger is at 20. The copy that was taken at 10 is restored, and 16 new changes come. If `recorded_first`, they are
/// recorded while the broker is away, so that the restored ledger is further than the old one was.
async fn a_copy_is_restored(recorded_first: bool) {
    let Some(OldCopy { rig, queue, copy, output }) = OldCopy::make().await else { return };
    assert!(!set_back(&output) && event(LogEvent::BrokerConnected).count(&output) == 1, "{output}");
    rig.restore_ledger(&copy);
    rig.touch(101..=116).await;
    if recorded_first {
        rig.record(26).await;
    }
    let output = rig.publish(16).await;
    assert_eq!(event(LogEvent::LedgerSetBack).count(&output), 1, "{output}");
    assert!(output.contains("ERROR") && output.contains(".20."), "{output}");
    let all = drain(&queue, 36).await;
    let told = epochs(&all);
    assert_eq!(told.iter().map(|(_, head)| *head).collect::<Vec<_>>(), [20, 16], "{told:?}");
    // The shim goes on in the new epoch, and says no more about it.
    rig.touch(117..=117).await;
    let output = rig.publish(17).await;
    assert!(!set_back(&output) && event(LogEvent::HistoryOfOtherLedger).count(&output) == 0, "{output}");
}

#[tokio::test]
async fn a_restored_copy_begins_a_new_epoch() {
    a_copy_is_restored(false).await;
}

#[tokio::test]
async fn a_restored_copy_that_overtakes_while_the_broker_is_away_begins_a_new_epoch() {
    a_copy_is_restored(true).await;
}

/// Without a history, the shim cannot compare anything. Readers of the messages notice by the tags.
#[tokio::test]
async fn without_history_the_tags_tell() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let rig = Rig::new(Place::sqlite(), &broker.url).await;
    let queue = rig.queue().await;
    let copy = rig.place.dir.path().join("copy.db");
    for (bugs, count) in [(1..=10, 10), (11..=20, 20), (101..=116, 36)] {
        rig.touch(bugs).await;
        if count == 36 {
            rig.restore_ledger(&copy);
        }
        let mut proc = rig.run().spawn().unwrap();
        let ledger = rig.ledger();
        let head = if count == 36 { 26 } else { count };
        eventually(LIMIT, "all published", async || status(&ledger, "published").await == Some(head)).await.unwrap();
        proc.stop(LIMIT).await.unwrap();
        if count == 10 {
            rig.copy_ledger(&copy);
        }
    }
    let all = drain(&queue, 36).await;
    let cursors: Vec<_> = all.iter().map(|message| message.cursor.clone().unwrap()).collect();
    assert_eq!(cursors.len(), 36);
    for (old, new) in cursors[10..20].iter().zip(&cursors[20..30]) {
        assert!(old.seq == new.seq && old.contradicts(new), "{old} {new}");
    }
    assert_eq!(all[10].after, cursors[9].tag);
    assert_eq!(all[20].after, cursors[9].tag, "the fork is seen from the message alone");
}

/// Two machines from one copy, each with changes of its own.
#[tokio::test]
async fn two_machines_from_one_copy() {
    let Some((one, two, queue)) = two_machines_with_one_ledger().await else { return };
    one.touch(11..=15).await;
    assert!(!set_back(&one.publish(15).await));
    two.touch(21..=28).await;
    let output = two.publish(8).await;
    assert!(set_back(&output) && output.contains("a second machine"), "{output}");
    one.touch(16..=16).await;
    let output = one.publish(16).await;
    assert!(!set_back(&output) && event(LogEvent::HistoryOfOtherLedger).count(&output) == 1, "{output}");
    let seqs: Vec<u64> = numbers(&drain(&queue, 24).await).iter().map(|(_, seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=15).chain(1..=8).chain(16..=16).collect::<Vec<_>>());
}

/// Both machines connect before either of them has published, and then give the same numbers. A shim notices when it
/// connects the next time.
#[tokio::test]
async fn two_machines_from_one_copy_that_published_at_the_same_time() {
    let Some((one, two, queue)) = two_machines_with_one_ledger().await else { return };
    let start = |machine: &Rig| machine.run().env("BUGFEED_SHIM_HISTORY", "true").spawn().unwrap();
    let (mut first, mut second) = (start(&one), start(&two));
    for proc in [&mut first, &mut second] {
        proc.wait_for_event(LogEvent::BrokerConnected, LIMIT).await.unwrap();
    }
    one.touch(11..=15).await;
    drain(&queue, 15).await;
    two.touch(21..=25).await;
    let forked = drain(&queue, 5).await;
    assert_eq!(forked[0].cursor.as_ref().unwrap().seq, 11, "given twice, under another tag");
    for mut proc in [first, second] {
        proc.stop(LIMIT).await.unwrap();
    }
    one.touch(16..=16).await;
    let output = one.publish(1).await;
    assert!(set_back(&output), "{output}");
}

#[tokio::test]
async fn another_ledger_at_the_end_of_history_is_a_warning() {
    let Some(broker) = shared::rabbitmq().await else { return };
    let one = Rig::new(Place::sqlite(), &broker.url).await;
    one.queue().await;
    one.touch(1..=3).await;
    let output = one.publish(3).await;
    assert!(
        output.contains("history=\"empty\"") && event(LogEvent::HistoryOfOtherLedger).count(&output) == 0,
        "{output}"
    );
    let two = Rig::machine(&broker.url, &one.exchange).await;
    two.touch(1..=3).await;
    let output = two.publish(3).await;
    assert!(event(LogEvent::HistoryOfOtherLedger).count(&output) == 1 && output.contains(&two.exchange), "{output}");
    assert!(!set_back(&output), "{output}");
    let (_, output) = ends(shim(&["status", "--ledger", &two.ledger()])).await;
    assert!(output.contains(&format!("publishes to exchange {} on amqp://guest@", two.exchange)), "{output}");
    assert!(!output.contains("guest:guest") && output.contains("tag          "), "{output}");
}

/// The end of the history consists of the markers of many gateways; the last change lies before them.
#[tokio::test]
async fn the_last_change_is_found_before_many_markers() {
    let Some(OldCopy { rig, queue, copy, .. }) = OldCopy::make().await else { return };
    queue.confirms().await;
    for _ in 0..300 {
        queue.marker(&format!("{}.history", rig.exchange)).await;
    }
    let output = rig.publish(20).await;
    assert!(output.contains(".20.") && !set_back(&output), "{output}");
    for _ in 0..300 {
        queue.marker(&format!("{}.history", rig.exchange)).await;
    }
    rig.restore_ledger(&copy);
    let output = rig.publish(0).await;
    assert!(set_back(&output), "{output}");
}

/// The tables go back to an older state under a shim that works on them, as when a replica that is behind takes over.
async fn a_replica_that_is_behind_takes_over(place: Place) {
    let Some(broker) = shared::rabbitmq().await else { return };
    let exchange = unique("exchange");
    let queue = Queue::declare(&broker.url, &exchange).await;
    queue.bind("#").await;
    let tracker = Place::sqlite();
    let source = tracker.table().await;
    let ledger = Ledger::open(&place.db(), &Prefix::default()).await.unwrap();
    let options = AmqpOptions {
        url: parse_url(&broker.url).unwrap(),
        exchange: exchange.clone(),
        format: Format::Native,
        batch: BatchOptions::default(),
        history: Some(HistoryBounds::default()),
    };
    let publisher = AmqpPublisher::open(options, std::sync::Arc::default()).await.unwrap();
    let running = Running::start(&source, &ledger, publisher);
    let touch = async |bugs: std::ops::RangeInclusive<u64>| {
        let rows: Vec<(u64, &str)> = bugs.map(|bug| (bug, T1)).collect();
        tracker.session().await.insert(&rows).await;
    };
    let published = async |count| {
        let what = format!("published {count}");
        eventually(LIMIT, what, async || ledger.meta().await.unwrap().published == count).await.unwrap();
    };
    let mut session = place.session().await;
    touch(1..=10).await;
    published(10).await;
    copy(&mut session).await;
    touch(11..=20).await;
    published(20).await;
    put_back(&mut session).await;
    touch(101..=116).await;
    published(16).await;
    let told = epochs(&drain(&queue, 36).await);
    assert_eq!(told.iter().map(|(_, head)| *head).collect::<Vec<_>>(), [20, 16], "{told:?}");
    let new_epochs = running.telemetry.metrics.new_epochs.get();
    assert_eq!((new_epochs, running.telemetry.ready()), (1, Ok(())));
    running.stop().await;
}

#[tokio::test]
async fn a_replica_that_is_behind_sqlite() {
    a_replica_that_is_behind_takes_over(Place::sqlite()).await;
}

#[tokio::test]
async fn a_replica_that_is_behind_mariadb() {
    let Some(place) = Place::mariadb().await else { return };
    a_replica_that_is_behind_takes_over(place).await;
}

#[tokio::test]
async fn a_replica_that_is_behind_postgres() {
    let Some(place) = Place::postgres().await else { return };
    a_replica_that_is_behind_takes_over(place).await;
}

/// A shim is killed in the middle of the transaction that begins a new epoch: the ledger is unchanged. The next attempt
/// succeeds.
async fn killed_while_a_new_epoch_begins(place: Place) {
    let rig = Rig::without_broker().await;
    rig.touch(1..=7).await;
    let mut proc = rig.with_ledger(&place.url).spawn().unwrap();
    rig.emptied().await;
    proc.stop(LIMIT).await.unwrap();
    let ledger = Ledger::open(&place.db(), &Prefix::default()).await.unwrap();
    let before = (ledger.meta().await.unwrap(), ledger.history(0, 100).await.unwrap());
    // The transaction changes the runs last. When it waits for them, it has changed the meta row already.
    let mut blocker = place.session().await;
    blocker
        .exec(match place.kind {
            Kind::Postgres => "BEGIN; LOCK TABLE bugfeed_runs IN EXCLUSIVE MODE",
            _ => "START TRANSACTION; SELECT * FROM bugfeed_runs FOR UPDATE",
        })
        .await;
    let new_epoch = ["new-epoch", "--ledger", &place.url, "--yes"];
    let mut proc = shim(&new_epoch).spawn().unwrap();
    let mut other = place.session().await;
    let waiting = match place.kind {
        Kind::Postgres => {
            "(SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock') AS w"
        }
        _ => {
            "information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE() AND info LIKE '%DELETE FROM%runs%'"
        }
    };
    eventually(LIMIT, "a transaction that waits", async || {
        if other.count(waiting).await > 0 { Ok(()) } else { Err(proc.output()) }
    })
    .await
    .unwrap();
    proc.kill9();
    proc.wait(LIMIT).await.unwrap();
    blocker.exec("ROLLBACK").await;
    let same = (ledger.meta().await.unwrap(), ledger.history(0, 100).await.unwrap());
    assert_eq!((&same.0.epoch, same.0.head, same.0.published), (&before.0.epoch, 7, 0));
    assert_eq!(same.1, before.1);
    // The lease of the killed process is free after a few seconds of silence.
    let (code, output) = ends(shim(&new_epoch)).await;
    assert!(code == 0 && output.contains("Done: epoch"), "{code}\n{output}");
    let meta = ledger.meta().await.unwrap();
    assert!(meta.epoch != before.0.epoch && meta.head == 7 && meta.published == 0, "{meta:?}");
}

#[tokio::test]
async fn killed_while_a_new_epoch_begins_on_mariadb() {
    let Some(place) = Place::mariadb().await else { return };
    killed_while_a_new_epoch_begins(place).await;
}

#[tokio::test]
async fn killed_while_a_new_epoch_begins_on_postgres() {
    let Some(place) = Place::postgres().await else { return };
    killed_while_a_new_epoch_begins(place).await;
}
