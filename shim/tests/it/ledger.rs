//! The ledger's guarantees, on each database.

use std::collections::BTreeMap;
use std::time::Duration;

use bugfeed_protocol::When;
use bugfeed_shim::ledger::{Keep, Ledger, LedgerError, Prefix};

use crate::support::{Collector, Place, T1, lease, on_each_database, open_ledger, relay_once, rows, when};

on_each_database!(
    a_crash_after_each_step_is_harmless,
    epoch_and_numbers_survive,
    an_old_term_cannot_write,
    only_published_and_old_changes_are_pruned,
    ledgers_with_different_prefixes_do_not_meet,
    a_ledger_of_another_version_is_refused,
    marks_are_exact,
    one_mark_for_rows_in_a_row,
);

async fn a_crash_after_each_step_is_harmless(place: Place) {
    let tracker = Place::sqlite();
    let source = tracker.table().await;
    let mut seen: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    let mut note = |told: Vec<(u64, u64, String)>| {
        for (seq, bug, when) in told {
            let before = seen.insert(seq, (bug, when.clone()));
            assert!(before.as_ref().is_none_or(|before| *before == (bug, when)), "{seq} means two changes");
        }
        seen.keys().copied().collect::<Vec<_>>()
    };
    for step in 0..=5 {
        tracker.session().await.insert(&[(10 * step + 1, T1), (10 * step + 2, T1)]).await;
        let ledger = open_ledger(&place).await;
        let lease = lease(&ledger).await;
        let mut recorder = lease.recorder();
        let before = ledger.meta().await.unwrap();
        let mut steps = 0;
        // The process may die after each of these steps.
        'crash: {
            if steps == step {
                break 'crash;
            }
            let rows = source.read(100).await.unwrap();
            recorder.record(&rows, when(T1)).await.unwrap();
            steps += 1;
            if steps == step {
                break 'crash;
            }
            let keys: Vec<_> = rows.into_iter().map(|row| row.key).collect();
            let deleted = source.delete(&keys).await.unwrap();
            steps += 1;
            if steps == step {
                break 'crash;
            }
            recorder.forget(&deleted.gone).await.unwrap();
            steps += 1;
            if steps == step {
                break 'crash;
            }
            let mut collector = Collector::default();
            let batch = ledger.history(before.published, 100).await.unwrap();
            bugfeed_shim::publish::Publish::publish(&mut collector, &batch).await.unwrap();
            note(collector.told());
            steps += 1;
            if steps == step {
                break 'crash;
            }
            lease.published(&batch.last().unwrap().cursor).await.unwrap();
        }
        // Only the lease is released in good order, because waiting for a lease is tested elsewhere.
        lease.release().await.unwrap();
        drop((recorder, ledger));
        let ledger = open_ledger(&place).await;
        let mut collector = Collector::default();
        relay_once(&source, &ledger, &mut collector).await;
        let seqs = note(collector.told());
        assert_eq!(seqs, (1..=2 * (step + 1)).collect::<Vec<_>>(), "after step {step}");
        assert_eq!(tracker.session().await.count("push_notify").await, 0);
        let mut session = place.session().await;
        assert_eq!(session.count("bugfeed_marks").await, 0, "marks are kept only until the deletion is known");
        ledger.close().await;
    }
    let bugs: Vec<u64> = seen.values().map(|(bug, _)| *bug).collect();
    assert_eq!(bugs, (0..=5).flat_map(|step| [10 * step + 1, 10 * step + 2]).collect::<Vec<_>>());
}

async fn epoch_and_numbers_survive(place: Place) {
    let ledger = open_ledger(&place).await;
    let epoch = ledger.epoch().await.unwrap();
    assert_eq!(ledger.head().await.unwrap(), 0);
    let (_tracker, source, _) = rows(3).await;
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    ledger.close().await;
    let ledger = open_ledger(&place).await;
    assert_eq!((ledger.epoch().await.unwrap(), ledger.head().await.unwrap()), (epoch.clone(), 3));
    assert_eq!(ledger.history(0, 100).await.unwrap(), collector.all());
    assert_eq!(ledger.history(2, 100).await.unwrap(), collector.all()[2..]);
    assert_eq!(ledger.history(0, 1).await.unwrap(), collector.all()[..1]);
    assert!(collector.all().iter().all(|numbered| numbered.cursor.epoch == epoch));
}

async fn an_old_term_cannot_write(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(4).await;
    let old = lease(&ledger).await;
    let mut old_recorder = old.recorder();
    let recorded = old_recorder.record(&rows[..1], when(T1)).await.unwrap().changes;
    // The old holder only sleeps, but another shim takes it for dead.
    place.session().await.exec("UPDATE bugfeed_meta SET term = term + 1, holder = NULL").await;
    let refused = |result: Result<(), LedgerError>| assert!(matches!(result, Err(LedgerError::Fenced)), "{result:?}");
    old_recorder.forget(&[rows[0].key.clone()]).await.unwrap();
    assert_eq!(place.session().await.count("bugfeed_marks").await, 1, "not even a mark is forgotten");
    refused(old_recorder.record(&rows[1..2], when(T1)).await.map(drop));
    refused(old_recorder.record(&rows[1..2], when(T1)).await.map(drop));
    refused(old.published(&recorded[0].cursor).await);
    refused(old.beat().await);
    old.release().await.unwrap();
    let new = lease(&ledger).await;
    let recorded = new.recorder().record(&rows, when(T1)).await.unwrap();
    assert_eq!((recorded.numbered, recorded.known, recorded.head), (3, 1, 4));
}

async fn only_published_and_old_changes_are_pruned(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(30).await;
    let lease = lease(&ledger).await;
    let mut recorder = lease.recorder();
    let at = |seconds: i64| When::from_micros(seconds * 1_000_000).unwrap();
    let mut cursors = Vec::new();
    for (second, row) in (0..).zip(&rows) {
        let recorded = recorder.record(std::slice::from_ref(row), at(second)).await.unwrap();
        cursors.push(recorded.changes[0].cursor.clone());
    }
    lease.published(&cursors[19]).await.unwrap();
    let oldest = async || ledger.oldest().await.unwrap();
    let keep = |age_s, max| Keep { age: Duration::from_secs(age_s), max };
    assert_eq!(lease.prune(keep(1000, 1000), at(30)).await.unwrap(), 0);
    // The changes were recorded at the seconds 0 to 29. At second 13, those of the last ten seconds are kept: from second 3
    // on, which is number 4.
    assert_eq!(lease.prune(keep(10, 1000), at(13)).await.unwrap(), 3);
    assert_eq!(oldest().await, Some(4));
    assert_eq!(lease.prune(keep(1000, 10), at(13)).await.unwrap(), 7);
    assert_eq!(oldest().await, Some(11), "the latest ten published ones");
    assert_eq!(lease.prune(keep(1, 0), at(1_000_000)).await.unwrap(), 10);
    assert_eq!(oldest().await, Some(21), "an unpublished change is never removed");
    assert_eq!(ledger.history(0, 100).await.unwrap().len(), 10);
    lease.published(&cursors[29]).await.unwrap();
    assert_eq!(lease.prune(keep(1, 0), at(1_000_000)).await.unwrap(), 10);
    assert_eq!((oldest().await, ledger.head().await.unwrap()), (None, 30));
}

async fn ledgers_with_different_prefixes_do_not_meet(place: Place) {
    let (_tracker, _source, rows) = rows(3).await;
    let one = open_ledger(&place).await;
    let two = Ledger::open(&place.db(), &"other_".parse().unwrap()).await.unwrap();
    let (lease_one, lease_two) = (lease(&one).await, lease(&two).await);
    assert_ne!(one.epoch().await.unwrap(), two.epoch().await.unwrap());
    lease_one.recorder().record(&rows, when(T1)).await.unwrap();
    lease_two.recorder().record(&rows[..1], when(T1)).await.unwrap();
    assert_eq!((one.head().await.unwrap(), two.head().await.unwrap()), (3, 1));
}

async fn a_ledger_of_another_version_is_refused(place: Place) {
    let error = Ledger::open_existing(&place.db(), &Prefix::default()).await.unwrap_err();
    let empty = matches!(error, LedgerError::Empty { .. } | LedgerError::Sql(_));
    assert!(empty && !error.may_heal(), "{error}");
    open_ledger(&place).await.close().await;
    place.session().await.exec("UPDATE bugfeed_meta SET version = 99").await;
    let error = Ledger::open(&place.db(), &Prefix::default()).await.unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}

/// Keys that differ only in case, in blanks, or by NULL are different keys.
async fn marks_are_exact(place: Place) {
    let tracker = Place::sqlite();
    let mut session = tracker.session().await;
    session.exec("CREATE TABLE push_notify (id INTEGER, bug_id INTEGER, delta_ts TEXT)").await;
    for when in ["'x'", "'X'", "NULL", "'n'", "''"] {
        session.exec(&format!("INSERT INTO push_notify VALUES (1, 1, {when})")).await;
    }
    let source = tracker.open(jiff::tz::TimeZone::UTC).await;
    let ledger = open_ledger(&place).await;
    let lease = lease(&ledger).await;
    let mut recorder = lease.recorder();
    let rows = source.read(10).await.unwrap();
    assert_eq!(recorder.record(&rows, when(T1)).await.unwrap().set_aside.len(), 5);
    let mut marks = lease.recorder().pending_deletes().await.unwrap();
    let mut keys: Vec<_> = rows.iter().map(|row| row.key.clone()).collect();
    marks.sort();
    keys.sort();
    assert_eq!(marks, keys);
    recorder.forget(&[rows[0].key.clone()]).await.unwrap();
    assert!(!lease.recorder().pending_deletes().await.unwrap().contains(&rows[0].key));
    assert_eq!(lease.recorder().pending_deletes().await.unwrap().len(), 4);
}

/// Rows with consecutive ids share one mark, and each of them can still be forgotten alone.
async fn one_mark_for_rows_in_a_row(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(9).await;
    let lease_held = lease(&ledger).await;
    let mut recorder = lease_held.recorder();
    recorder.record(&rows, when(T1)).await.unwrap();
    assert_eq!(place.session().await.count("bugfeed_marks").await, 1);
    // The tracker holds locks on the first row and the fifth; the others are deleted.
    let gone: Vec<_> = rows.iter().map(|row| row.key.clone()).filter(|key| key.id != 1 && key.id != 5).collect();
    recorder.forget(&gone).await.unwrap();
    let mut left = lease_held.recorder().pending_deletes().await.unwrap();
    left.sort();
    assert_eq!(left, [rows[0].key.clone(), rows[4].key.clone()]);
    // An id that is used again is a new row, although the ids around it are still marked.
    assert_eq!(recorder.record(&rows[..4], when(T1)).await.unwrap().numbered, 3);
    recorder.forget(&rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(place.session().await.count("bugfeed_marks").await, 0);
    // Splitting a mark is fenced like every other write.
    assert_eq!(recorder.record(&rows, when(T1)).await.unwrap().numbered, 9);
    place.session().await.exec("UPDATE bugfeed_meta SET term = term + 1, holder = NULL").await;
    let refused = recorder.forget(&gone).await;
    assert!(matches!(refused, Err(LedgerError::Fenced)), "{refused:?}");
    assert_eq!(place.session().await.count("bugfeed_marks").await, 1, "as it was");
}
