//! A server that refuses or blocks what the shim does: readiness names the cause, and does not guess.

use bugfeed_shim::relay::RelayOptions;
use bugfeed_shim::source::{Source, TableSpec};
use bugfeed_testbed::MariaDb;
use jiff::tz::TimeZone;

use crate::support::{Collector, Kind, Place, Running, T1, options};

/// The tracker holds locks on so many rows that the table is read no further. Readiness says so.
#[tokio::test]
async fn too_many_rows_that_are_held() {
    let Some(place) = Place::mariadb().await else { return };
    let (source, ledger) = (place.table().await, place.file_ledger().await);
    let mut tracker = place.session().await;
    let rows = vec![format!("(1, '{T1}')"); 20_500].join(",");
    tracker.exec(&format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES {rows}")).await;
    tracker.exec("START TRANSACTION; UPDATE push_notify SET bug_id = 2").await;
    let collector = Collector::default();
    let running = Running::with(&source, &ledger, collector.clone(), RelayOptions { batch: 10_000, ..options() });
    running.until_ready_says(Some("read no further")).await;
    tracker.exec("ROLLBACK").await;
    running.until_ready_says(None).await;
    collector.until(20_500).await;
    running.stop().await;
}

/// An ALTER TABLE that waits for a transaction keeps everybody else out.
async fn a_table_that_is_locked(place: Place, lock: &str, begin: &str) {
    let (source, ledger) = (place.table().await, place.file_ledger().await);
    let running = Running::start(&source, &ledger, Collector::default());
    running.until_ready_says(None).await;
    let mut tracker = place.session().await;
    tracker.exec(begin).await;
    tracker.exec(lock).await;
    running.until_ready_says(Some("the whole table is locked")).await;
    tracker.exec(if place.kind == Kind::MySql { "UNLOCK TABLES" } else { "ROLLBACK" }).await;
    running.until_ready_says(None).await;
    running.stop().await;
}

#[tokio::test]
async fn a_table_that_is_locked_in_mariadb() {
    let Some(place) = Place::mariadb().await else { return };
    a_table_that_is_locked(place, "LOCK TABLES push_notify WRITE", "SELECT 1").await;
}

#[tokio::test]
async fn a_table_that_is_locked_in_postgres() {
    let Some(place) = Place::postgres().await else { return };
    a_table_that_is_locked(place, "LOCK TABLE push_notify IN ACCESS EXCLUSIVE MODE", "BEGIN").await;
}

#[tokio::test]
async fn a_statement_based_binary_log() {
    let Some(server) = MariaDb::start_with_or_skip(&["--log-bin=binlog"]).await else { return };
    let place = Place::on(Kind::MySql, server.client().clone()).await;
    place.table().await;
    server.sql("", "SET GLOBAL binlog_format = 'STATEMENT'").await.unwrap();
    let opened = Source::open(&place.db(), &TableSpec::default(), TimeZone::UTC).await;
    let error = opened.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("binlog_format") && error.contains("ROW or MIXED"), "{error}");
    server.sql("", "SET GLOBAL binlog_format = 'MIXED'").await.unwrap();
    place.open(TimeZone::UTC).await;
}

/// A statement that hangs is reported long before it is given up.
#[tokio::test]
async fn a_statement_that_hangs() {
    let Some(place) = Place::postgres().await else { return };
    let (source, ledger) = (place.table().await, place.file_ledger().await);
    let running = Running::start(&source, &ledger, Collector::default());
    running.until_ready_says(None).await;
    let mut tracker = place.session().await;
    tracker
        .exec(
            "ALTER TABLE push_notify RENAME TO rows; CREATE VIEW push_notify AS SELECT r.* FROM rows r, LATERAL (SELECT \
             pg_sleep(15 + 0 * r.id)) s",
        )
        .await;
    tracker.exec(&format!("INSERT INTO rows (bug_id, delta_ts) VALUES (1, '{T1}')")).await;
    running.until_ready_says(Some("no answer for 10 s")).await;
    tracker.exec("DROP VIEW push_notify; ALTER TABLE rows RENAME TO push_notify").await;
    running.until_ready_says(None).await;
    running.stop().await;
}
