//! Rows that the database keeps, sometimes without an error, although the shim deletes them: they are found, reported, and
//! never numbered again.

use bugfeed_testbed::eventually;

use crate::binary::LIMIT;
use crate::support::{Collector, Kind, Place, Running, T1, on_each_database};

on_each_database!(a_row_that_a_trigger_keeps, in_a_burst_the_others_go, in_place_too);

/// A trigger that keeps the row of bug 7, silently where the database can do that.
async fn keep(place: &Place) {
    let sql = match place.kind {
        Kind::Sqlite => {
            "CREATE TRIGGER keep BEFORE DELETE ON push_notify WHEN OLD.bug_id = 7 BEGIN SELECT RAISE(IGNORE); END"
        }
        Kind::Postgres => {
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF OLD.bug_id = 7 THEN RETURN NULL; END IF; \
             RETURN OLD; END'; CREATE TRIGGER keep BEFORE DELETE ON push_notify FOR EACH ROW EXECUTE FUNCTION keep()"
        }
        Kind::MySql => {
            "CREATE TRIGGER keep BEFORE DELETE ON push_notify FOR EACH ROW IF OLD.bug_id = 7 THEN SIGNAL SQLSTATE '45000' \
             SET MESSAGE_TEXT = 'seven stays'; END IF"
        }
    };
    place.session().await.exec(sql).await;
}

async fn let_go(place: &Place) {
    let table = if place.kind == Kind::Postgres { " ON push_notify" } else { "" };
    place.session().await.exec(&format!("DROP TRIGGER keep{table}")).await;
}

async fn a_row_that_a_trigger_keeps(place: Place) {
    let (source, ledger) = (place.table().await, place.file_ledger().await);
    keep(&place).await;
    let mut tracker = place.session().await;
    tracker.insert(&[(7, T1), (8, T1)]).await;
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    running.until_ready_says(Some("trigger")).await;
    for (count, bug) in (3..).zip(9..=12) {
        tracker.insert(&[(bug, T1)]).await;
        collector.until(count).await;
    }
    running.until_ready_says(Some("1 recorded rows")).await;
    eventually(LIMIT, "all but one deleted", async || tracker.count("push_notify").await == 1).await.unwrap();
    let_go(&place).await;
    running.until_ready_says(None).await;
    assert_eq!(tracker.count("push_notify").await, 0);
    running.stop().await;
    let bugs: Vec<u64> = collector.told().into_iter().map(|(_, bug, _)| bug).collect();
    assert_eq!(bugs, [7, 8, 9, 10, 11, 12], "each of them once");
    assert_eq!(ledger.head().await.unwrap(), 6);
}

async fn in_a_burst_the_others_go(place: Place) {
    let source = place.table().await;
    keep(&place).await;
    let rows: Vec<(u64, &str)> = (1..=50).map(|bug| (bug, T1)).collect();
    place.session().await.insert(&rows).await;
    let rows = source.read(100).await.unwrap();
    let keys: Vec<_> = rows.iter().map(|row| row.key.clone()).collect();
    let deleted = source.delete(&keys).await.unwrap();
    let seven: Vec<_> = rows.iter().filter(|row| row.bug.as_deref() == Some("7")).map(|row| row.key.clone()).collect();
    assert_eq!((deleted.gone.len(), deleted.held.len(), deleted.kept), (49, 0, seven));
    assert_eq!(deleted.refusal.is_some(), place.kind == Kind::MySql, "{:?}", deleted.refusal);
}

async fn in_place_too(place: Place) {
    place.table().await;
    place.session().await.exec("CREATE UNIQUE INDEX one_row_per_bug ON push_notify (bug_id)").await;
    let (source, ledger) = (place.open(jiff::tz::TimeZone::UTC).await, place.file_ledger().await);
    keep(&place).await;
    let mut tracker = place.session().await;
    tracker.insert(&[(7, T1), (8, T1)]).await;
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    collector.until(2).await;
    running.until_ready_says(Some("trigger")).await;
    let_go(&place).await;
    collector.until(3).await;
    running.until_ready_says(None).await;
    running.stop().await;
    let bugs: Vec<u64> = collector.told().into_iter().map(|(_, bug, _)| bug).collect();
    assert_eq!(bugs, [7, 8, 7], "held back from nobody, and once more when it is gone");
}
