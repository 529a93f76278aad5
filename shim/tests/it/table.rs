//! How a change table behaves (docs/design/change-table.md), on each database.

use std::time::{Duration, Instant};

use bugfeed_shim::source::{self, Setup, SetupError, Source, SourceError, TableSpec};
use bugfeed_sql::Fault;
use jiff::tz::TimeZone;

use crate::support::{Collector, Kind, Place, Running, T1, bug, on_each_database, relay_once, when};

const T2: &str = "2014-04-03 21:13:46";

on_each_database!(
    a_lower_id_that_is_committed_later,
    a_row_updated_between_read_and_delete,
    two_edits_in_one_second,
    local_time_around_both_clock_changes,
    bad_rows_are_set_aside_while_the_others_flow,
    a_row_the_tracker_holds_does_not_stop_the_feed,
    a_held_row_that_changes_is_a_new_change,
    more_rows_than_a_batch,
    init_creates_once_and_checks,
    touch_writes_local_time,
    other_names,
    rows_that_somebody_else_deletes_are_counted,
    a_table_with_nothing_but_bad_rows_is_said,
);

async fn a_lower_id_that_is_committed_later(place: Place) {
    let source = place.table().await;
    let ledger = place.file_ledger().await;
    let mut collector = Collector::default();
    let mut late = place.session().await;
    let mut early = place.session().await;
    if place.kind == Kind::Sqlite {
        // One writer at a time; ids can still come in any order.
        early.exec(&format!("INSERT INTO push_notify VALUES (5, 2, '{T1}')")).await;
    } else {
        late.exec("START TRANSACTION").await;
        late.insert(&[(1, T1)]).await;
        early.insert(&[(2, T1)]).await;
    }
    relay_once(&source, &ledger, &mut collector).await;
    assert_eq!(collector.told(), [(1, 2, "2014-04-03T21:13:45".to_owned())]);
    if place.kind == Kind::Sqlite {
        late.exec(&format!("INSERT INTO push_notify VALUES (3, 1, '{T1}')")).await;
    } else {
        late.exec("COMMIT").await;
    }
    relay_once(&source, &ledger, &mut collector).await;
    assert_eq!(collector.told()[1..], [(2, 1, "2014-04-03T21:13:45".to_owned())]);
    assert_eq!(early.count("push_notify").await, 0);
}

async fn a_row_updated_between_read_and_delete(place: Place) {
    let source = place.table().await;
    let ledger = place.file_ledger().await;
    let mut tracker = place.session().await;
    tracker.exec("CREATE UNIQUE INDEX one_row_per_bug ON push_notify (bug_id)").await;
    tracker.insert(&[(7, T1), (8, T1)]).await;
    let lease = ledger.acquire(&Default::default(), |_| {}).await.unwrap().unwrap();
    let mut recorder = lease.recorder();
    let rows = source.read(10).await.unwrap();
    recorder.record(&rows, when(T1)).await.unwrap();
    tracker.exec(&format!("UPDATE push_notify SET delta_ts = '{T2}' WHERE bug_id = 7")).await;
    let keys: Vec<_> = rows.into_iter().map(|row| row.key).collect();
    let deleted = source.delete(&keys).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.held.len()), (2, 0));
    assert_eq!(tracker.count("push_notify").await, 1, "the updated row is not deleted");
    recorder.forget(&deleted.gone).await.unwrap();
    lease.release().await.unwrap();
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    let (first, second) = ("2014-04-03T21:13:45".to_owned(), "2014-04-03T21:13:46".to_owned());
    assert_eq!(collector.told(), [(1, 7, first.clone()), (2, 8, first), (3, 7, second)]);
    assert_eq!(tracker.count("push_notify").await, 0);
}

async fn two_edits_in_one_second(place: Place) {
    let source = place.table().await;
    let ledger = place.file_ledger().await;
    place.session().await.insert(&[(7, T1), (7, T1)]).await;
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    let at = "2014-04-03T21:13:45".to_owned();
    assert_eq!(collector.told(), [(1, 7, at.clone()), (2, 7, at)]);
}

async fn local_time_around_both_clock_changes(place: Place) {
    place.table().await;
    let source = place.open(TimeZone::get("America/Los_Angeles").unwrap()).await;
    let cases = [
        ("2014-03-09 01:59:59", "2014-03-09T09:59:59"),
        ("2014-03-09 02:30:00", "2014-03-09T10:30:00"), // skipped: as if the clocks had not been changed
        ("2014-03-09 03:00:00", "2014-03-09T10:00:00"),
        ("2014-11-02 00:59:59", "2014-11-02T07:59:59"),
        ("2014-11-02 01:30:00", "2014-11-02T08:30:00"), // repeated: the first pass
        ("2014-11-02 01:10:00", "2014-11-02T08:10:00"), // in the second pass: never reordered
        ("2014-11-02 02:00:00", "2014-11-02T10:00:00"),
    ];
    let rows: Vec<(u64, &str)> = cases.iter().map(|(local, _)| (7, *local)).collect();
    place.session().await.insert(&rows).await;
    let mut collector = Collector::default();
    relay_once(&source, &place.file_ledger().await, &mut collector).await;
    let got: Vec<String> = collector.told().into_iter().map(|(_, _, when)| when).collect();
    assert_eq!(got, cases.map(|(_, utc)| utc));
}

async fn bad_rows_are_set_aside_while_the_others_flow(place: Place) {
    let mut tracker = place.session().await;
    let (id, when_type) = match place.kind {
        Kind::MySql => ("BIGINT AUTO_INCREMENT PRIMARY KEY", "DATETIME"),
        Kind::Postgres => ("BIGSERIAL PRIMARY KEY", "TIMESTAMP"),
        Kind::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT", "DATETIME"),
    };
    tracker.exec(&format!("CREATE TABLE push_notify (id {id}, bug_id BIGINT, delta_ts {when_type})")).await;
    let at = format!("'{T1}'");
    let mut bad =
        vec![("NULL", at.as_str(), "bug number NULL"), ("-5", &at, "bug number -5"), ("0", &at, "bug number 0")];
    bad.extend([("7", "NULL", "the date is NULL"), ("7", "'9999-12-31 00:00:00'", "9999-12-31")]);
    match place.kind {
        Kind::MySql => {
            tracker.exec("SET SESSION sql_mode = ''").await;
            bad.push(("7", "'0000-00-00 00:00:00'", "0000-00-00"));
        }
        Kind::Postgres => bad.extend([("7", "'infinity'", "infinity"), ("7", "'-infinity'", "-infinity")]),
        Kind::Sqlite => bad.extend([
            ("'seven'", at.as_str(), "bug number seven"),
            ("7", "'rubbish'", "rubbish"),
            ("7", "x'ff00fe'", "xFF00FE"),
            ("7", "CAST(x'c328' AS TEXT)", "xC328"),
            ("7", "'a' || char(0) || 'b'", "x610062"),
            ("7", "42", "'42'"),
        ]),
    }
    for (number, (bug, when, _)) in bad.iter().enumerate() {
        tracker.exec(&format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES ({bug}, {when})")).await;
        tracker.insert(&[(100 + number as u64, T1)]).await;
    }
    let (source, ledger) = (place.open(TimeZone::UTC).await, place.file_ledger().await);
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    let good: Vec<(u64, u64)> = collector.told().into_iter().map(|(seq, bug, _)| (seq, bug)).collect();
    let want: Vec<(u64, u64)> = (0..bad.len() as u64).map(|n| (n + 1, 100 + n)).collect();
    assert_eq!(good, want, "the others flow, and bad rows leave no hole");
    assert_eq!(tracker.count("push_notify").await, 0, "set aside means out of the way");
    let mut set_aside = ledger.set_aside(100).await.unwrap();
    set_aside.reverse();
    assert_eq!(set_aside.len(), bad.len());
    for (row, (_, _, reason)) in set_aside.iter().zip(&bad) {
        assert!(row.reason.contains(reason), "{row:?}: {reason}");
    }
    assert_eq!(ledger.meta().await.unwrap().set_aside, bad.len() as u64);
}

/// Takes a lock that keeps others from deleting a row.
async fn hold(place: &Place, id: i64, new_when: &str) -> crate::support::Session {
    let mut tracker = place.session().await;
    let begin = if place.kind == Kind::Sqlite { "BEGIN IMMEDIATE" } else { "START TRANSACTION" };
    tracker.exec(begin).await;
    tracker.exec(&format!("UPDATE push_notify SET delta_ts = '{new_when}' WHERE id = {id}")).await;
    tracker
}

async fn a_row_the_tracker_holds_does_not_stop_the_feed(place: Place) {
    let source = place.table().await;
    let ledger = place.file_ledger().await;
    if place.kind == Kind::Sqlite {
        // Without WAL, a writer of the tracker would keep every reader out.
        place.session().await.exec("PRAGMA journal_mode = WAL").await;
    }
    place.session().await.insert(&[(3, T1), (1, T1), (2, T1)]).await;
    let mut tracker = hold(&place, 2, T2).await;
    let mut collector = Collector::default();
    let started = Instant::now();
    relay_once(&source, &ledger, &mut collector).await;
    assert_eq!(collector.told().iter().map(|(_, bug, _)| *bug).collect::<Vec<_>>(), [3, 1, 2]);
    let limit = if place.kind == Kind::Sqlite { 8 } else { 2 };
    assert!(started.elapsed() < Duration::from_secs(limit), "{:?}", started.elapsed());
    if place.kind != Kind::Sqlite {
        place.session().await.insert(&[(4, T1)]).await;
        relay_once(&source, &ledger, &mut collector).await;
        assert_eq!(collector.told().len(), 4, "read on past the held row");
        assert_eq!(place.session().await.count("push_notify").await, 1, "all but the held row are deleted");
    }
    tracker.exec("ROLLBACK").await;
    let before = collector.told().len();
    relay_once(&source, &ledger, &mut collector).await;
    assert_eq!(collector.told().len(), before, "the held row is not numbered again");
    assert_eq!(tracker.count("push_notify").await, 0);
}

async fn a_held_row_that_changes_is_a_new_change(place: Place) {
    let source = place.table().await;
    let ledger = place.file_ledger().await;
    if place.kind == Kind::Sqlite {
        place.session().await.exec("PRAGMA journal_mode = WAL").await;
    }
    place.session().await.insert(&[(1, T1)]).await;
    let mut tracker = hold(&place, 1, T2).await;
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    tracker.exec("COMMIT").await;
    relay_once(&source, &ledger, &mut collector).await;
    let (first, second) = ("2014-04-03T21:13:45".to_owned(), "2014-04-03T21:13:46".to_owned());
    assert_eq!(collector.told(), [(1, 1, first), (2, 1, second)]);
    assert_eq!(tracker.count("push_notify").await, 0);
}

async fn more_rows_than_a_batch(place: Place) {
    let source = place.table().await;
    let ledger = place.file_ledger().await;
    let rows: Vec<_> = (1..=3210).map(|n| (bug(n), when(T1))).collect();
    source::touch_many(&place.db(), &TableSpec::default(), &rows, &TimeZone::UTC).await.unwrap();
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    let got: Vec<(u64, u64)> = collector.told().into_iter().map(|(seq, bug, _)| (seq, bug)).collect();
    assert_eq!(got, (1..=3210).map(|n| (n, n)).collect::<Vec<_>>());
    assert_eq!(ledger.history(3208, 10).await.unwrap(), collector.all()[3208..]);
    assert_eq!(place.session().await.count("push_notify").await, 0);
}

async fn init_creates_once_and_checks(place: Place) {
    let (url, spec) = (place.db(), TableSpec::default());
    assert_eq!(source::init(&url, &spec).await.unwrap(), Setup::Created);
    place.session().await.insert(&[(1, T1)]).await;
    assert_eq!(source::init(&url, &spec).await.unwrap(), Setup::Existed);
    assert_eq!(place.session().await.count("push_notify").await, 1, "nothing is changed");
    let other = TableSpec { bug: "bug".parse().unwrap(), ..spec.clone() };
    let error = source::init(&url, &other).await.unwrap_err();
    assert!(matches!(error, SetupError::OtherColumns { .. }), "{error}");
    let SourceError::Sql { source: error, .. } = Source::open(&url, &other, TimeZone::UTC).await.unwrap_err();
    assert_eq!(error.fault, Fault::Missing);
    let missing = TableSpec::named("nothing_here").unwrap();
    let SourceError::Sql { source: error, .. } = Source::open(&url, &missing, TimeZone::UTC).await.unwrap_err();
    assert_eq!(error.fault, Fault::Missing, "{error}");
    assert!(error.to_string().contains("bugfeed-shim init"), "{error}");
}

async fn touch_writes_local_time(place: Place) {
    place.table().await;
    let zone = TimeZone::get("Asia/Kolkata").unwrap();
    let source = place.open(zone.clone()).await;
    source::touch(&place.db(), &TableSpec::default(), &[bug(1), bug(2)], when(T1), &zone).await.unwrap();
    let mut collector = Collector::default();
    relay_once(&source, &place.file_ledger().await, &mut collector).await;
    let at = "2014-04-03T21:13:45".to_owned();
    assert_eq!(collector.told(), [(1, 1, at.clone()), (2, 2, at)]);
}

async fn other_names(place: Place) {
    let spec = TableSpec {
        table: "Select".parse().unwrap(),
        id: "Order".parse().unwrap(),
        bug: "Group".parse().unwrap(),
        when: "When".parse().unwrap(),
    };
    source::init(&place.db(), &spec).await.unwrap();
    source::touch(&place.db(), &spec, &[bug(1)], when(T1), &TimeZone::UTC).await.unwrap();
    let source = Source::open(&place.db(), &spec, TimeZone::UTC).await.unwrap();
    let mut collector = Collector::default();
    relay_once(&source, &place.file_ledger().await, &mut collector).await;
    assert_eq!(collector.told().len(), 1);
}

/// A wrong column: no row can be published, and no statement fails.
async fn a_table_with_nothing_but_bad_rows_is_said(place: Place) {
    place.table().await;
    let mut tracker = place.session().await;
    tracker.exec("ALTER TABLE push_notify ADD COLUMN other BIGINT").await;
    let spec = TableSpec { bug: "other".parse().unwrap(), ..TableSpec::default() };
    let source = Source::open(&place.db(), &spec, TimeZone::UTC).await.unwrap();
    let (ledger, collector) = (place.file_ledger().await, Collector::default());
    let running = Running::start(&source, &ledger, collector.clone());
    for _ in 0..4 {
        tracker.insert(&[(1, T1), (2, T1), (3, T1)]).await;
    }
    running.until_ready_says(Some("--bug-column")).await;
    tracker.exec(&format!("INSERT INTO push_notify (bug_id, delta_ts, other) VALUES (1, '{T1}', 1)")).await;
    collector.until(1).await;
    running.until_ready_says(None).await;
    running.stop().await;
}

/// Somebody else deletes rows, as another shim with another ledger does.
async fn rows_that_somebody_else_deletes_are_counted(place: Place) {
    let source = place.table().await;
    let mut tracker = place.session().await;
    tracker.insert(&[(1, T1), (2, T1), (3, T1)]).await;
    let keys: Vec<_> = source.read(10).await.unwrap().into_iter().map(|row| row.key).collect();
    tracker.exec("DELETE FROM push_notify WHERE bug_id <> 2").await;
    let deleted = source.delete(&keys).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.kept.len(), deleted.vanished), (3, 0, 2));
    assert!(!source.in_place());
}

/// Without AUTOINCREMENT, SQLite gives the id of the last deleted row to the next one.
#[tokio::test]
async fn an_id_that_sqlite_uses_again() {
    let place = Place::sqlite();
    let mut tracker = place.session().await;
    tracker.exec("CREATE TABLE push_notify (id INTEGER PRIMARY KEY, bug_id INTEGER, delta_ts DATETIME)").await;
    let (source, ledger) = (place.open(TimeZone::UTC).await, place.file_ledger().await);
    let mut collector = Collector::default();
    for round in 1..=3 {
        tracker.insert(&[(7, T1)]).await;
        relay_once(&source, &ledger, &mut collector).await;
        assert_eq!(collector.told().len(), round, "same id, same bug, same second: still another change");
        assert_eq!(tracker.count("push_notify").await, 0);
    }
}

/// A row whose id is no integer could never be deleted by its number.
#[tokio::test]
async fn an_sqlite_id_that_is_no_integer_is_left_alone() {
    let place = Place::sqlite();
    let mut tracker = place.session().await;
    tracker.exec("CREATE TABLE push_notify (id, bug_id INTEGER, delta_ts DATETIME)").await;
    tracker.exec(&format!("INSERT INTO push_notify VALUES ('abc', 1, '{T1}'), (2, 2, '{T1}')")).await;
    let (source, ledger) = (place.open(TimeZone::UTC).await, place.file_ledger().await);
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    relay_once(&source, &ledger, &mut collector).await;
    assert_eq!(collector.told().len(), 1);
}
