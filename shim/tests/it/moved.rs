//! SQLite files that are moved, replaced or removed while the process has them open. A connection alone would not notice, and
//! would go on with a file that nobody else sees.

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_shim::ledger::LedgerError;
use bugfeed_shim::relay::RelayError;
use bugfeed_shim::source::Source;
use bugfeed_testbed::event;
use jiff::tz::TimeZone;

use crate::binary::LIMIT;
use crate::rig::Rig;
use crate::support::{Collector, Place, Running, T1};

/// A table in a file without a WAL. (A WAL would be a second file, which would have to be moved too.)
async fn table(rows: &[(u64, &str)]) -> (Place, Source) {
    let place = Place::sqlite();
    let columns = "id INTEGER PRIMARY KEY AUTOINCREMENT, bug_id INTEGER, delta_ts DATETIME";
    place.session().await.exec(&format!("CREATE TABLE push_notify ({columns})")).await;
    place.session().await.insert(rows).await;
    let source = place.open(TimeZone::UTC).await;
    (place, source)
}

#[tokio::test]
async fn a_table_whose_file_is_replaced_is_read_from_the_new_one() {
    let ((place, source), (other, _)) = (table(&[]).await, table(&[(2, T1)]).await);
    let ledger = place.file_ledger().await;
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    place.session().await.insert(&[(1, T1)]).await;
    collector.until(1).await;
    std::fs::rename(other.dir.path().join("tracker.db"), place.dir.path().join("tracker.db")).unwrap();
    collector.until(2).await;
    // The row of the new file has the id and the date of a row that was published before. It is another row all the same.
    assert_eq!(collector.told().iter().map(|(_, bug, _)| *bug).collect::<Vec<_>>(), [1, 2]);
    running.until_ready_says(None).await;
    running.stop().await;
}

/// Marks of rows that still exist in the old file do not apply to the rows of the new file.
#[tokio::test]
async fn marks_of_the_old_file_are_not_taken_for_rows_of_the_new_one() {
    let ((place, source), (other, _)) = (table(&[]).await, table(&[(2, T1)]).await);
    let ledger = place.file_ledger().await;
    let keep = "CREATE TRIGGER keep BEFORE DELETE ON push_notify BEGIN SELECT RAISE(IGNORE); END";
    place.session().await.exec(keep).await;
    place.session().await.insert(&[(1, T1)]).await;
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    running.until_ready_says(Some("trigger")).await;
    std::fs::rename(other.dir.path().join("tracker.db"), place.dir.path().join("tracker.db")).unwrap();
    collector.until(2).await;
    running.until_ready_says(None).await;
    running.stop().await;
    assert_eq!(collector.told().iter().map(|(_, bug, _)| *bug).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_table_whose_file_is_gone_is_said() {
    let place = Place::sqlite();
    let (source, ledger) = (place.table().await, place.file_ledger().await);
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    running.until_ready_says(None).await;
    let (here, there) = (place.dir.path().join("tracker.db"), place.dir.path().join("elsewhere.db"));
    std::fs::rename(&here, &there).unwrap();
    running.until_ready_says(Some("the file is gone")).await;
    std::fs::rename(&there, &here).unwrap();
    place.session().await.insert(&[(1, T1)]).await;
    collector.until(1).await;
    running.until_ready_says(None).await;
    running.stop().await;
}

/// There is nothing to record, so only a look at the file shows that it is gone.
#[tokio::test]
async fn a_ledger_whose_file_is_gone_is_said() {
    let place = Place::sqlite();
    let (source, ledger) = (place.table().await, place.file_ledger().await);
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    place.session().await.insert(&[(1, T1)]).await;
    collector.until(1).await;
    running.until_ready_says(None).await;
    let (here, there) = (place.dir.path().join("ledger.db"), place.dir.path().join("elsewhere.db"));
    std::fs::rename(&here, &there).unwrap();
    running.until_ready_says(Some("ledger: ledger sqlite://")).await;
    running.until_ready_says(Some("the file is gone")).await;
    std::fs::rename(&there, &here).unwrap();
    running.until_ready_says(None).await;
    place.session().await.insert(&[(2, T1)]).await;
    collector.until(2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_ledger_in_whose_place_is_another_ends_the_work_on_it() {
    let place = Place::sqlite();
    let (source, ledger) = (place.table().await, place.file_ledger().await);
    let running = Running::start(&source, &ledger, Collector::default());
    running.until_ready_says(None).await;
    let (here, there) = (place.dir.path().join("ledger.db"), place.dir.path().join("copy.db"));
    std::fs::copy(&here, &there).unwrap();
    std::fs::rename(&there, &here).unwrap();
    let ended = running.ended().await.unwrap_err();
    assert!(matches!(ended, RelayError::Ledger(LedgerError::Replaced(_))), "{ended}");
}

#[tokio::test]
async fn the_program_goes_on_with_the_ledger_that_is_there() {
    let rig = Rig::without_broker().await;
    let mut proc = rig.start().await;
    rig.insert(&[(1, T1)]).await;
    rig.emptied().await;
    // An old copy, with its WAL.
    let path = |name: &str| rig.place.dir.path().join(name);
    proc.sigstop();
    let mark = proc.lines();
    std::fs::copy(path("ledger.db"), path("copy.db")).unwrap();
    std::fs::copy(path("ledger.db-wal"), path("copy.db-wal")).unwrap();
    for part in ["", "-wal"] {
        std::fs::rename(path(&format!("copy.db{part}")), path(&format!("ledger.db{part}"))).unwrap();
    }
    std::fs::remove_file(path("ledger.db-shm")).unwrap();
    proc.sigcont();
    proc.wait_for_line_after(mark, event(LogEvent::PartDown).with("part", "ledger"), LIMIT).await.unwrap();
    proc.wait_for_line_after(mark, event(LogEvent::LeaseTaken), LIMIT).await.unwrap();
    rig.insert(&[(2, T1)]).await;
    rig.emptied().await;
    proc.stop(LIMIT).await.unwrap();
}
