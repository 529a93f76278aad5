//! What planners save.

use std::time::Duration;

use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::row::Row;
use bugfeed_sql::CountedIds;
use futures::future::join_all;

use super::super::crash::cut;
use super::super::rig::{Rig, count};
use super::{attempt, create, hold_all, id, moved, row, save, settings};
use crate::store::Store;
use crate::store::endpoints::{EndpointId, Save, SaveQueue, Saved, leases};

async fn now(store: &Store, id: &EndpointId) -> Row {
    store.endpoint_rows(std::slice::from_ref(id)).await.unwrap().pop().unwrap().1
}

async fn pause(store: &Store, id: &EndpointId) -> Row {
    store.change_endpoint(id, None, |_, row| carry_out(row, &Order::Pause)).await.unwrap().0.row
}

pub(in crate::store::tests) async fn many_rows_are_saved_and_taken_over(rig: &Rig) {
    let store = &rig.store;
    hold_all(store, 1).await;
    let mut saves = Vec::new();
    for n in 1..=300 {
        let made = create(store, n).await;
        saves.push(save(&made.id, &moved(&made.row, 1, u64::from(n)), vec![attempt(&made.id, i64::from(n))]));
    }
    assert_eq!(store.save_endpoints(&saves).await.unwrap(), vec![Saved::Stored; 300]);
    assert_eq!(count(store, "hooks_attempts").await, 300);
    let (mut found, mut after) = (Vec::new(), None);
    let partitions: Vec<u16> = (0..32).rev().filter(|partition| *partition != 3).collect();
    loop {
        let page = store.endpoints_of(&partitions, after.as_ref(), 70).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        found.extend(page);
    }
    assert!(found.is_sorted_by_key(|stored| (stored.id.partition(), stored.id.clone())));
    for save in &saves {
        let stored = found.iter().find(|stored| stored.id == save.id);
        if save.partition == 3 {
            assert!(stored.is_none());
        } else {
            let stored = stored.unwrap();
            assert_eq!(Some(&stored.row), save.row.as_ref());
            assert_eq!(stored.settings.secret.expose(), settings(1).secret.expose());
        }
    }
    assert!(store.endpoints_of(&[], None, 10).await.unwrap().is_empty());
    assert!(store.save_endpoints(&[]).await.unwrap().is_empty());
}

pub(in crate::store::tests) async fn somebody_else_was_quicker(rig: &Rig) {
    let store = &rig.store;
    hold_all(store, 1).await;
    let (one, two) = (create(store, 1).await, create(store, 2).await);
    let changed = pause(store, &one.id).await;
    let saves = [
        save(&one.id, &moved(&one.row, 1, 5), vec![attempt(&one.id, 1)]),
        save(&two.id, &moved(&two.row, 1, 6), vec![]),
    ];
    let saved = store.save_endpoints(&saves).await.unwrap();
    assert_eq!(saved, [Saved::Conflict(Some(Box::new(changed.clone()))), Saved::Stored]);
    assert_eq!(now(store, &one.id).await, changed, "what a person ordered stands");
    assert_eq!(now(store, &two.id).await, moved(&two.row, 1, 6));
    assert_eq!(store.attempts(&one.id, None, 10).await.unwrap().len(), 1, "it was sent all the same");
    let again = moved(&changed, 1, 5);
    assert_eq!(store.save_endpoints(&[save(&one.id, &again, vec![])]).await.unwrap(), [Saved::Stored]);
    assert!(now(store, &one.id).await.paused, "a save changes only what planners change");
    // One that is gone.
    let gone = save(&id(9), &moved(&row(&[]), 1, 5), vec![attempt(&id(9), 2)]);
    assert_eq!(store.save_endpoints(&[gone]).await.unwrap(), [Saved::Conflict(None)]);
    assert_eq!(store.attempts(&id(9), None, 10).await.unwrap().len(), 1);
}

pub(in crate::store::tests) async fn a_save_may_be_repeated(rig: &Rig) {
    let store = &rig.store;
    hold_all(store, 1).await;
    let made = create(store, 1).await;
    let other = create(store, 2).await;
    let save_one = save(&made.id, &moved(&made.row, 1, 5), vec![attempt(&made.id, 1)]);
    assert_eq!(store.save_endpoints(std::slice::from_ref(&save_one)).await.unwrap(), [Saved::Stored]);
    // Its outcome was not known: it is saved again, with others.
    let with = [save_one.clone(), save(&other.id, &moved(&other.row, 1, 5), vec![])];
    assert_eq!(store.save_endpoints(&with).await.unwrap(), [Saved::Stored, Saved::Stored]);
    assert_eq!(store.attempts(&made.id, None, 10).await.unwrap().len(), 1);
    // Or a person was quicker afterwards: the row says that it includes the effect.
    let changed = pause(store, &made.id).await;
    let saved = store.save_endpoints(&[save_one]).await.unwrap();
    assert_eq!(saved, [Saved::Conflict(Some(Box::new(changed.clone())))]);
    assert_eq!(changed.applied, moved(&made.row, 1, 5).applied);
    // Attempts alone.
    let alone = Save { row: None, term: 0, ..save(&made.id, &changed, vec![attempt(&made.id, 2)]) };
    assert_eq!(store.save_endpoints(&[alone]).await.unwrap(), [Saved::Stored]);
    assert_eq!(store.attempts(&made.id, None, 10).await.unwrap().len(), 2);
}

pub(in crate::store::tests) async fn nothing_is_saved_under_a_lost_lease(rig: &Rig) {
    let store = &rig.store;
    hold_all(store, 1).await;
    let (one, two) = (create(store, 1).await, create(store, 2).await);
    assert_ne!(one.id.partition(), two.id.partition());
    let taken = format!("UPDATE hooks_leases SET term = 2 WHERE name = 'endpoints-{}'", one.id.partition());
    store.db.execute(&taken, &[]).await.unwrap();
    let saves = [
        save(&one.id, &moved(&one.row, 1, 5), vec![attempt(&one.id, 1)]),
        save(&two.id, &moved(&two.row, 1, 5), vec![]),
    ];
    assert_eq!(store.save_endpoints(&saves).await.unwrap(), [Saved::Lost, Saved::Stored]);
    assert_eq!(now(store, &one.id).await, one.row);
    assert_eq!(store.attempts(&one.id, None, 10).await.unwrap().len(), 1, "it was sent");
    let newer = moved(&one.row, 2, 6);
    assert_eq!(store.save_endpoints(&[save(&one.id, &newer, vec![])]).await.unwrap(), [Saved::Stored]);
    assert_eq!(now(store, &one.id).await, newer);
}

/// While a save has looked at the lease and has not committed, nobody takes the lease. So whoever has it reads the row as it
/// stays.
pub(in crate::store::tests) async fn a_takeover_waits_for_a_save(rig: &Rig) {
    let (store, other) = (&rig.store, rig.other().await);
    let made = create(store, 1).await;
    let partition = made.id.partition();
    let mut tx = store.db.begin().await.unwrap();
    leases::terms(&mut tx, store.db.dialect(), &[partition].into()).await.unwrap();
    let sql = format!("UPDATE hooks_leases SET term = 2 WHERE name = 'endpoints-{partition}'");
    let takeover = tokio::spawn(async move {
        let taken = other.db.execute(&sql, &[]).await;
        other.close().await;
        taken
    });
    let mut takeover = takeover;
    let early = tokio::time::timeout(Duration::from_millis(300), &mut takeover).await;
    assert!(early.is_err(), "{early:?}");
    tx.commit().await.unwrap();
    assert_eq!(takeover.await.unwrap().unwrap(), 1);
    // Two saves do not wait for each other's look, where there are several writers.
    if !matches!(store.db.dialect().counted_ids(), CountedIds::Query(sql) if sql.contains("last_insert_rowid")) {
        let second = rig.other().await;
        let (mut one, mut two) = (store.db.begin().await.unwrap(), second.db.begin().await.unwrap());
        leases::terms(&mut one, store.db.dialect(), &[partition].into()).await.unwrap();
        leases::terms(&mut two, store.db.dialect(), &[partition].into()).await.unwrap();
        one.commit().await.unwrap();
        two.commit().await.unwrap();
        second.close().await;
    }
}

pub(in crate::store::tests) async fn a_save_that_is_cut_off_happens_as_a_whole_or_not_at_all(rig: &Rig) {
    let store = &rig.store;
    hold_all(store, 1).await;
    let (mut one, mut two) = (create(store, 1).await.row, create(store, 2).await.row);
    for turn in 1..40 {
        (one, two) = (moved(&one, 1, u64::from(turn)), moved(&two, 1, u64::from(turn)));
        let attempts = [1, 2].map(|n| attempt(&id(n), i64::from(turn)));
        let [first, second] = attempts.map(|attempt| vec![attempt]);
        let saves = [save(&id(1), &one, first), save(&id(2), &two, second)];
        cut(store.save_endpoints(&saves), turn).await;
        // The database may still be committing, so both are read at once.
        let rows = store.endpoint_rows(&[id(1), id(2)]).await.unwrap();
        assert_eq!(rows[0].1.version, rows[1].1.version, "both or none");
        assert_eq!(store.save_endpoints(&saves).await.unwrap(), [Saved::Stored, Saved::Stored]);
        assert_eq!((now(store, &id(1)).await, now(store, &id(2)).await), (one.clone(), two.clone()));
        assert_eq!(count(store, "hooks_attempts").await, 2 * i64::from(turn));
    }
}

pub(in crate::store::tests) async fn the_queue_writes_what_waits_together(rig: &Rig) {
    let store = &rig.store;
    hold_all(store, 1).await;
    let mut rows = Vec::new();
    for n in 1..=50 {
        rows.push((id(n), create(store, n).await.row));
    }
    let queue = SaveQueue::start(store.clone());
    for round in 1..=5 {
        for (_, row) in &mut rows {
            *row = moved(row, 1, round);
        }
        let saves = rows.iter().map(|(id, row)| queue.save(save(id, row, vec![attempt(id, round.cast_signed())])));
        let saved = join_all(saves).await;
        assert!(saved.iter().all(|saved| matches!(saved, Ok(Saved::Stored))), "{saved:?}");
    }
    assert_eq!(count(store, "hooks_attempts").await, 250);
    // Nobody waits for this one; and the same endpoint again before it was written.
    let (id, row) = (&rows[0].0, &rows[0].1);
    let next = moved(row, 1, 6);
    drop(queue.save(save(id, &next, vec![])));
    let after = moved(&next, 1, 7);
    assert_eq!(queue.save(save(id, &after, vec![])).await.unwrap(), Saved::Stored);
    assert_eq!(now(store, id).await, after);
    // What waits when nobody has the queue any more is written.
    let last = moved(&after, 1, 8);
    let saved = queue.save(save(id, &last, vec![]));
    drop(queue);
    assert_eq!(saved.await.unwrap(), Saved::Stored);
    assert_eq!(now(store, id).await, last);
}

/// One database refuses a name that is too long, another one cuts it off, and another one takes it.
pub(in crate::store::tests) async fn a_row_that_the_database_refuses_holds_up_no_other(rig: &Rig) {
    let store = &rig.store;
    hold_all(store, 1).await;
    let (one, two) = (create(store, 1).await, create(store, 2).await);
    let mut bad = attempt(&one.id, 1);
    bad.took_us = 77;
    let refuse = match store.db.dialect().name() {
        "sqlite" => {
            "CREATE TRIGGER refuse BEFORE INSERT ON hooks_attempts WHEN NEW.took_us = 77 BEGIN SELECT RAISE(ABORT, 'refused'); END"
        }
        _ => "ALTER TABLE hooks_attempts ADD CONSTRAINT refuse CHECK (took_us <> 77)",
    };
    store.db.execute(refuse, &[]).await.unwrap();
    let queue = SaveQueue::start(store.clone());
    let bad = queue.save(save(&one.id, &moved(&one.row, 1, 5), vec![bad]));
    let good = queue.save(save(&two.id, &moved(&two.row, 1, 5), vec![attempt(&two.id, 1)]));
    let (bad, good) = tokio::join!(bad, good);
    assert_eq!(good.unwrap(), Saved::Stored);
    // INSERT IGNORE, by which MySQL passes over what is there already, passes over what is refused, too.
    assert_eq!(bad.is_err(), store.db.dialect().name() != "mysql", "{bad:?}");
    assert_eq!(store.attempts(&two.id, None, 10).await.unwrap().len(), 1);
}
