//! Histories that fork: lineage tags, copies that are put back, new epochs, ledgers of the version before.

use bugfeed_protocol::{Cursor, Epoch, Numbered};
use bugfeed_shim::ledger::{Holds, Keep, Ledger, LedgerError, Prefix};
use bugfeed_shim::source::Row;

use crate::support::{Collector, Place, Session, T1, lease, on_each_database, open_ledger, relay_once, rows, when};

const TABLES: [&str; 6] = ["meta", "changes", "runs", "marks", "owed", "set_aside"];

on_each_database!(
    each_tenure_has_a_tag_of_its_own,
    a_state_that_is_read_again_gets_a_fresh_tag,
    a_ledger_set_back_is_noticed_by_its_holder,
    marks_of_a_future_that_was_lost_hide_no_row,
    a_new_epoch_keeps_what_is_unpublished,
    what_a_ledger_says_of_a_number,
    the_watermark_is_of_this_history,
    a_ledger_of_version_1_is_brought_up_to_date,
);

/// Puts all tables aside, as a copy would.
pub(crate) async fn copy(session: &mut Session) {
    for table in TABLES {
        session.exec(&format!("CREATE TABLE copy_{table} AS SELECT * FROM bugfeed_{table}")).await;
    }
}

/// Puts the copy back, as restoring a backup or promoting a replica that is behind would.
pub(crate) async fn put_back(session: &mut Session) {
    for table in TABLES {
        session.exec(&format!("DELETE FROM bugfeed_{table}")).await;
        session.exec(&format!("INSERT INTO bugfeed_{table} SELECT * FROM copy_{table}")).await;
    }
}

fn seqs(changes: &[Numbered]) -> Vec<u64> {
    changes.iter().map(|change| change.cursor.seq).collect()
}

fn bugs(changes: &[Numbered]) -> Vec<u64> {
    changes.iter().map(|change| change.change.bug.get()).collect()
}

async fn each_tenure_has_a_tag_of_its_own(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(9).await;
    let mut all = Vec::new();
    let mut held = Vec::new();
    for part in rows.chunks(3) {
        let lease = lease(&ledger).await;
        all.extend(lease.recorder().record(&part[..1], when(T1)).await.unwrap().changes);
        let mut recorder = lease.recorder();
        for row in &part[1..] {
            all.extend(recorder.record(std::slice::from_ref(row), when(T1)).await.unwrap().changes);
        }
        held.push(lease.begin().await.unwrap().0.tag);
        lease.published(&all.last().unwrap().cursor).await.unwrap();
        lease.release().await.unwrap();
    }
    let tags: Vec<_> = all.iter().map(|change| change.cursor.tag.unwrap()).collect();
    assert_eq!(held, [tags[2], tags[5], tags[8]].map(Some));
    // Each recorder reads the ledger anew and cannot know what happened before, so it has a tag of its own.
    let different: std::collections::BTreeSet<_> = tags.iter().collect();
    assert_eq!((different.len(), tags[1] == tags[2], tags[0] == tags[1]), (6, true, false));
    let after: Vec<_> = all.iter().map(|change| change.after).collect();
    let want = [None, Some(tags[0]), None, Some(tags[2]), Some(tags[3]), None, Some(tags[5]), Some(tags[6]), None];
    assert_eq!(after, want, "the tag of the number before, where it is another one");
    assert_eq!(seqs(&all), (1..=9).collect::<Vec<_>>());
    // The ledger's history says the same, wherever one begins to read, also after older changes were pruned.
    for after in 0..=9 {
        for limit in [1, 3, 100] {
            let end = 9.min(after + limit);
            assert_eq!(ledger.history(after as u64, limit).await.unwrap(), all[after..end], "{after} {limit}");
        }
    }
    let lease = lease(&ledger).await;
    for kept in (0..9).rev() {
        let keep = Keep { age: std::time::Duration::from_secs(1_000_000_000), max: kept };
        lease.prune(keep, when(T1)).await.unwrap();
        let first = 9 - usize::try_from(kept).unwrap();
        assert_eq!(ledger.history(0, 100).await.unwrap(), all[first..], "{kept} kept");
    }
    assert_eq!(ledger.latest_tag().await.unwrap(), Some((tags[8], when(T1))));
}

async fn a_state_that_is_read_again_gets_a_fresh_tag(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(3).await;
    let lease = lease(&ledger).await;
    let mut recorder = lease.recorder();
    let mut tag =
        async |rows: &[Row]| Ok::<_, LedgerError>(recorder.record(rows, when(T1)).await?.changes[0].cursor.tag);
    let first = tag(&rows[..1]).await.unwrap();
    let mut session = place.session().await;
    session.exec("ALTER TABLE bugfeed_changes RENAME TO elsewhere").await;
    tag(&rows[1..2]).await.unwrap_err();
    session.exec("ALTER TABLE elsewhere RENAME TO bugfeed_changes").await;
    let second = tag(&rows[1..2]).await.unwrap();
    assert!(first.is_some() && second.is_some() && first != second, "{first:?} {second:?}");
    assert_eq!(tag(&rows[2..]).await.unwrap(), second);
}

async fn a_ledger_set_back_is_noticed_by_its_holder(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(30).await;
    let held = lease(&ledger).await;
    let mut recorder = held.recorder();
    let mut session = place.session().await;
    recorder.record(&rows[..10], when(T1)).await.unwrap();
    copy(&mut session).await;
    let lost = recorder.record(&rows[10..20], when(T1)).await.unwrap().changes;
    put_back(&mut session).await;
    let set_back = |error: LedgerError| assert!(matches!(error, LedgerError::SetBack { .. }), "{error}");
    set_back(recorder.record(&rows[20..21], when(T1)).await.unwrap_err());
    set_back(held.published(&lost[9].cursor).await.unwrap_err());
    set_back(held.begin().await.unwrap_err());
    // It does not go on either after it has read the ledger again.
    set_back(recorder.record(&rows[20..30], when(T1)).await.unwrap_err());
    drop(recorder);
    held.release().await.unwrap();
    // A process that has not seen the lost numbers goes on: it gives the same numbers under another tag.
    let other = open_ledger(&place).await;
    assert_eq!(other.meta().await.unwrap().head, 10);
    let held = lease(&other).await;
    let again = held.recorder().record(&rows[20..30], when(T1)).await.unwrap().changes;
    assert_eq!(seqs(&again), seqs(&lost));
    assert!(again.iter().zip(&lost).all(|(one, two)| one.cursor.contradicts(&two.cursor)));
    assert_eq!(again[0].after, other.history(9, 1).await.unwrap()[0].cursor.tag);
    set_back(held.published(&lost[9].cursor).await.unwrap_err());
    held.published(&again[9].cursor).await.unwrap();
}

/// Rows that were recorded and marked after the copy was taken are not passed over once the copy is restored.
async fn marks_of_a_future_that_was_lost_hide_no_row(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, source, rows) = rows(20).await;
    let lease = lease(&ledger).await;
    let mut recorder = lease.recorder();
    let mut session = place.session().await;
    recorder.record(&rows[..10], when(T1)).await.unwrap();
    copy(&mut session).await;
    recorder.record(&rows[10..], when(T1)).await.unwrap();
    put_back(&mut session).await;
    drop(recorder);
    lease.release().await.unwrap();
    // All rows are still in the table. Those whose numbers were lost get numbers again.
    let mut collector = Collector::default();
    relay_once(&source, &ledger, &mut collector).await;
    let mut told = bugs(&collector.all());
    told.sort_unstable();
    assert_eq!(told, (1..=20).collect::<Vec<_>>());
}

async fn a_new_epoch_keeps_what_is_unpublished(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(12).await;
    let lease = lease(&ledger).await;
    let mut recorder = lease.recorder();
    let first = recorder.record(&rows[..7], when(T1)).await.unwrap().changes;
    lease.published(&first[3].cursor).await.unwrap();
    let former = ledger.epoch().await.unwrap();
    let done = lease.new_epoch(when(T1)).await.unwrap();
    assert_eq!((&done.former, done.unpublished), (&former, 3));
    let meta = ledger.meta().await.unwrap();
    assert_eq!((&meta.epoch, meta.head, meta.published, meta.former_epoch), (&done.epoch, 3, 0, Some(former.clone())));
    assert_ne!(done.epoch, former);
    let all = ledger.history(0, 100).await.unwrap();
    assert_eq!((seqs(&all), bugs(&all)), (vec![1, 2, 3], vec![5, 6, 7]));
    let tag = all[0].cursor.tag;
    assert!(tag.is_some() && tag != first[0].cursor.tag, "{tag:?}");
    assert!(all.iter().all(|one| one.cursor.epoch == done.epoch && one.cursor.tag == tag && one.after.is_none()));
    // Whoever still works with the old numbers must begin again.
    assert!(matches!(recorder.record(&rows[7..8], when(T1)).await, Err(LedgerError::SetBack { .. })));
    assert!(matches!(lease.published(&first[6].cursor).await, Err(LedgerError::SetBack { .. })));
    let (meta, published) = lease.begin().await.unwrap();
    assert_eq!((meta.head, published), (3, Cursor::new(done.epoch.clone(), 0)));
    let more = recorder.record(&rows[7..], when(T1)).await.unwrap().changes;
    assert_eq!((seqs(&more), more[0].after), ((4..=8).collect(), tag));
    lease.published(&more[4].cursor).await.unwrap();
    // With nothing unpublished there is nothing to number.
    let again = lease.new_epoch(when(T1)).await.unwrap();
    assert_eq!((again.unpublished, ledger.meta().await.unwrap().head), (0, 0));
    assert_eq!((ledger.history(0, 100).await.unwrap(), ledger.oldest().await.unwrap()), (vec![], None));
    // The changes of former epochs are pruned like others.
    let keep = Keep { age: std::time::Duration::from_secs(1_000_000_000), max: 0 };
    assert_eq!(lease.prune(keep, when(T1)).await.unwrap(), 12);
}

async fn what_a_ledger_says_of_a_number(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(6).await;
    let lease = lease(&ledger).await;
    let one = lease.recorder().record(&rows[..3], when(T1)).await.unwrap().changes;
    let two = lease.recorder().record(&rows[3..], when(T1)).await.unwrap().changes;
    let (one, two) = (one[2].cursor.clone(), two[2].cursor.clone());
    let at = |seq, tag| Cursor::new(one.epoch.clone(), seq).tagged(tag);
    let check = async |cursor: Cursor, want: Holds| assert_eq!(ledger.holds(&cursor).await.unwrap(), want, "{cursor}");
    for seq in 1..=3 {
        check(at(seq, one.tag), Holds::Same).await;
        check(at(seq, two.tag), Holds::OtherTag(one.tag)).await;
        check(at(seq, None), Holds::OtherTag(one.tag)).await;
    }
    check(at(0, None), Holds::Same).await;
    check(at(4, two.tag), Holds::Same).await;
    check(at(4, one.tag), Holds::OtherTag(two.tag)).await;
    check(at(7, two.tag), Holds::Beyond(two.clone())).await;
    let stranger = Cursor::new(Epoch::from_random(7), 3);
    check(stranger.clone(), Holds::OtherLedger).await;
    // The same is true when the changes themselves were pruned.
    lease.published(&two).await.unwrap();
    let keep = Keep { age: std::time::Duration::from_secs(1_000_000_000), max: 0 };
    assert_eq!(lease.prune(keep, when(T1)).await.unwrap(), 6);
    check(at(2, one.tag), Holds::Same).await;
    check(at(2, two.tag), Holds::OtherTag(one.tag)).await;
    let done = lease.new_epoch(when(T1)).await.unwrap();
    check(one, Holds::Former).await;
    check(stranger, Holds::OtherLedger).await;
    check(Cursor::new(done.epoch.clone(), 1), Holds::Beyond(Cursor::new(done.epoch, 0))).await;
}

async fn the_watermark_is_of_this_history(place: Place) {
    let ledger = open_ledger(&place).await;
    let (_tracker, _source, rows) = rows(6).await;
    let lease = lease(&ledger).await;
    let changes = lease.recorder().record(&rows, when(T1)).await.unwrap().changes;
    let last = &changes[5].cursor;
    let other_tag = Cursor { tag: None, ..last.clone() };
    let beyond = Cursor { seq: 7, ..last.clone() };
    let stranger = Cursor { epoch: Epoch::from_random(7), ..last.clone() };
    for cursor in [other_tag, beyond, stranger] {
        let refused = lease.published(&cursor).await;
        assert!(matches!(refused, Err(LedgerError::SetBack { .. })), "{cursor}: {refused:?}");
    }
    assert_eq!(ledger.meta().await.unwrap().published, 0);
    lease.published(last).await.unwrap();
    assert_eq!(lease.begin().await.unwrap().1, *last);
}

/// The tables as version 1 made them.
async fn make_version_1(place: &Place) {
    let mut session = place.session().await;
    let key = if place.kind == crate::support::Kind::Sqlite { "INTEGER" } else { "BIGINT" };
    for sql in [
        format!(
            "CREATE TABLE bugfeed_changes (seq {key} NOT NULL PRIMARY KEY, bug BIGINT NOT NULL, when_us BIGINT NOT NULL, \
             recorded_us BIGINT NOT NULL)"
        ),
        "CREATE TABLE bugfeed_marks (row_key VARCHAR(255) NOT NULL PRIMARY KEY)".to_owned(),
        format!(
            "CREATE TABLE bugfeed_set_aside (n {key} NOT NULL PRIMARY KEY, row_key VARCHAR(255) NOT NULL, bug \
             VARCHAR(255), reason VARCHAR(500) NOT NULL, at_us BIGINT NOT NULL)"
        ),
        format!(
            "CREATE TABLE bugfeed_meta (one {key} NOT NULL PRIMARY KEY, version BIGINT NOT NULL, epoch VARCHAR(64) NOT \
             NULL, last_seq BIGINT NOT NULL, published_seq BIGINT NOT NULL, set_aside_count BIGINT NOT NULL, term BIGINT \
             NOT NULL, beat BIGINT NOT NULL, holder VARCHAR(255))"
        ),
        "INSERT INTO bugfeed_changes VALUES (2, 12, 1396559625000000, 1), (3, 13, 1396559625000000, 1)".to_owned(),
        "INSERT INTO bugfeed_marks VALUES ('7/t2014-04-03 21:13:45')".to_owned(),
        "INSERT INTO bugfeed_meta VALUES (1, 1, 'OLD', 3, 2, 5, 9, 9, NULL)".to_owned(),
    ] {
        session.exec(&sql).await;
    }
}

async fn a_ledger_of_version_1_is_brought_up_to_date(place: Place) {
    make_version_1(&place).await;
    let error = Ledger::open_existing(&place.db(), &Prefix::default()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Older { .. }) && error.to_string().contains("`bugfeed-shim run`"), "{error}");
    // One process died in the middle of the migration; two others then migrate at the same time.
    place.session().await.exec("ALTER TABLE bugfeed_meta ADD COLUMN epoch_base BIGINT NOT NULL DEFAULT 0").await;
    let (one, two) = tokio::join!(open_ledger(&place), open_ledger(&place));
    one.close().await;
    let ledger = two;
    let meta = ledger.meta().await.unwrap();
    assert_eq!((meta.epoch.as_str(), meta.head, meta.published, meta.set_aside, meta.tag), ("OLD", 3, 2, 5, None));
    let old = ledger.history(0, 10).await.unwrap();
    assert_eq!((seqs(&old), bugs(&old)), (vec![2, 3], vec![12, 13]));
    assert!(old.iter().all(|change| change.cursor.tag.is_none() && change.after.is_none()));
    let (_tracker, _source, rows) = rows(1).await;
    let lease = lease(&ledger).await;
    assert_eq!(lease.recorder().pending_deletes().await.unwrap().len(), 1);
    assert_eq!(lease.begin().await.unwrap().1.to_string(), "OLD.2");
    let new = lease.recorder().record(&rows, when(T1)).await.unwrap().changes;
    assert!(new[0].cursor.seq == 4 && new[0].cursor.tag.is_some() && new[0].after.is_none(), "{new:?}");
    assert_eq!(ledger.holds(&Cursor::parse("OLD.3").unwrap()).await.unwrap(), Holds::Same);
    lease.published(&old[1].cursor).await.unwrap();
    lease.published(&new[0].cursor).await.unwrap();
}
