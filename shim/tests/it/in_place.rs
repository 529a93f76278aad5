//! Tables with one row for each bug, updated in place: an edit is published even if it has the same date as the one before.

use bugfeed_protocol::Numbered;
use bugfeed_shim::ledger::Ledger;
use bugfeed_shim::publish::{Publish, PublishError};
use bugfeed_shim::source::Source;

use crate::support::{Collector, Kind, Place, Running, Session, T1, on_each_database, relay_once, when};

const AT: &str = "2014-04-03T21:13:45";

on_each_database!(
    which_tables_are_updated_in_place,
    a_change_is_published_when_its_row_is_gone,
    a_held_row_is_announced_once_more,
    a_held_row_is_announced_once_more_after_a_crash,
    a_held_row_with_a_new_date_is_announced_by_that,
    what_was_recorded_before_a_crash_is_published_after_its_row_is_gone,
    an_index_made_later_is_noticed,
    a_row_seen_to_change_is_enough,
);

async fn table(place: &Place) -> (Source, Ledger) {
    place.table().await;
    let mut tracker = place.session().await;
    tracker.exec("CREATE UNIQUE INDEX one_row_per_bug ON push_notify (bug_id)").await;
    if place.kind == Kind::Sqlite {
        // Without WAL, a writer of the tracker would keep every reader out.
        tracker.exec("PRAGMA journal_mode = WAL").await;
    }
    (place.open(jiff::tz::TimeZone::UTC).await, place.file_ledger().await)
}

async fn which_tables_are_updated_in_place(place: Place) {
    assert!(!place.table().await.in_place());
    for (index, want) in [("(delta_ts)", false), ("(bug_id, delta_ts)", true), ("(bug_id)", true)] {
        let mut tracker = place.session().await;
        tracker.exec(&format!("CREATE UNIQUE INDEX other ON push_notify {index}")).await;
        assert_eq!(place.open(jiff::tz::TimeZone::UTC).await.in_place(), want, "{index}");
        let table = if place.kind == Kind::MySql { " ON push_notify" } else { "" };
        tracker.exec(&format!("DROP INDEX other{table}")).await;
    }
}

/// A publisher that asks the tracker about each change that it gets, as a client does.
struct Asks {
    collector: Collector,
    tracker: Session,
    rows_left: i64,
}

impl Publish for Asks {
    async fn publish(&mut self, batch: &[Numbered]) -> Result<usize, PublishError> {
        if !batch.is_empty() {
            let left = self.tracker.count("push_notify").await;
            assert!(left <= self.rows_left, "published while its row is there: an edit with the same date may follow");
        }
        self.collector.publish(batch).await
    }
}

async fn a_change_is_published_when_its_row_is_gone(place: Place) {
    let (source, ledger) = table(&place).await;
    let collector = Collector::default();
    let asks = Asks { collector: collector.clone(), tracker: place.session().await, rows_left: 0 };
    let running = Running::start(&source, &ledger, asks);
    let mut tracker = place.session().await;
    for round in 1..=20 {
        tracker.insert(&[(7, T1)]).await;
        collector.until(round).await;
    }
    running.stop().await;
}

/// Edits the row of bug 7 without a new date, and does not commit yet.
async fn edit(place: &Place, date: &str) -> Session {
    let mut tracker = place.session().await;
    tracker.exec(if place.kind == Kind::Sqlite { "BEGIN IMMEDIATE" } else { "START TRANSACTION" }).await;
    tracker.exec(&format!("UPDATE push_notify SET delta_ts = '{date}' WHERE bug_id = 7")).await;
    tracker
}

async fn a_held_row_is_announced_once_more(place: Place) {
    let (source, ledger) = table(&place).await;
    place.session().await.insert(&[(7, T1)]).await;
    let mut tracker = edit(&place, T1).await;
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    collector.until(1).await;
    tracker.exec("COMMIT").await;
    collector.until(2).await;
    running.stop().await;
    assert_eq!(collector.told(), [(1, 7, AT.to_owned()), (2, 7, AT.to_owned())]);
    assert_eq!(tracker.count("push_notify").await, 0);
    assert_eq!(ledger.history(0, 10).await.unwrap(), collector.all(), "numbered like every change");
}

async fn a_held_row_is_announced_once_more_after_a_crash(place: Place) {
    let (source, ledger) = table(&place).await;
    place.session().await.insert(&[(7, T1)]).await;
    let mut tracker = edit(&place, T1).await;
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    collector.until(1).await;
    drop(running);
    tracker.exec("COMMIT").await;
    let collector = Collector::default();
    // One round may be spent on the first number, if it was not yet known to be published.
    bugfeed_testbed::eventually(std::time::Duration::from_secs(20), "the second number", async || {
        relay_once(&source, &ledger, &mut collector.clone()).await;
        collector.told().last().is_some_and(|last| *last == (2, 7, AT.to_owned()))
    })
    .await
    .unwrap();
    assert_eq!(tracker.count("push_notify").await, 0);
}

async fn a_held_row_with_a_new_date_is_announced_by_that(place: Place) {
    let (source, ledger) = table(&place).await;
    place.session().await.insert(&[(7, T1)]).await;
    let mut tracker = edit(&place, "2014-04-03 21:13:46").await;
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    collector.until(1).await;
    tracker.exec("COMMIT").await;
    collector.until(2).await;
    tracker.insert(&[(8, T1)]).await;
    collector.until(3).await;
    running.stop().await;
    let told: Vec<(u64, String)> = collector.told().into_iter().map(|(_, bug, when)| (bug, when)).collect();
    let want = [(7, AT), (7, "2014-04-03T21:13:46"), (8, AT)].map(|(bug, when)| (bug, when.to_owned()));
    assert_eq!(told, want, "never an older one once more");
}

async fn what_was_recorded_before_a_crash_is_published_after_its_row_is_gone(place: Place) {
    let (source, ledger) = table(&place).await;
    place.session().await.insert(&[(7, T1), (8, T1)]).await;
    let lease = ledger.acquire(&Default::default(), |_| {}).await.unwrap().unwrap();
    let rows = source.read(10).await.unwrap();
    lease.recorder().record(&rows, when(T1)).await.unwrap();
    // The rows are neither deleted nor published when another process takes over.
    lease.release().await.unwrap();
    let collector = Collector::default();
    let mut asks = Asks { collector: collector.clone(), tracker: place.session().await, rows_left: 0 };
    relay_once(&source, &ledger, &mut asks).await;
    assert_eq!(collector.told(), [(1, 7, AT.to_owned()), (2, 8, AT.to_owned())]);
}

async fn an_index_made_later_is_noticed(place: Place) {
    let source = place.table().await;
    assert!(!source.in_place());
    place.session().await.exec("CREATE UNIQUE INDEX one_row_per_bug ON push_notify (bug_id)").await;
    source.probe().await.unwrap();
    assert!(source.in_place());
}

/// No index shows that rows are updated in place: the tracker itself looks for the bug's row, and updates it or inserts one.
async fn a_row_seen_to_change_is_enough(place: Place) {
    let source = place.table().await;
    place.session().await.insert(&[(7, T1)]).await;
    let keys: Vec<_> = source.read(10).await.unwrap().into_iter().map(|row| row.key).collect();
    place.session().await.exec("UPDATE push_notify SET delta_ts = '2014-04-03 21:13:46'").await;
    assert_eq!(source.delete(&keys).await.unwrap().gone, keys, "what was read is not there any more");
    assert!(source.in_place());
}
