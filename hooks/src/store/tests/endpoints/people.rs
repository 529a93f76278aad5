//! What people make, change and read.

use std::collections::BTreeSet;

use bugfeed_core::endpoints::orders::{Order, Refused, carry_out};
use bugfeed_core::endpoints::policy::{Bar, State};
use bugfeed_core::endpoints::question::Watch;
use bugfeed_protocol::BugId;

use super::super::rig::{NOON_US, Rig, count};
use super::{create, hold_all, id, moved, row, save, settings, watch};
use crate::store::audit::Deed;
use crate::store::endpoints::columns;
use crate::store::endpoints::read::{EndpointFilter, StateCounts};
use crate::store::endpoints::{ChangeError, CreateError, EndpointId, FeedChoice, MAX_BUGS, Saved, Settings, Stored};
use crate::store::{Store, StoreError};

async fn order(store: &Store, id: &EndpointId, order: Order) -> Result<Stored, ChangeError<Refused>> {
    Ok(store.change_endpoint(id, None, |_, row| carry_out(row, &order)).await?.0)
}

/// Changes the endpoint of this number.
async fn edit<T>(
    store: &Store,
    n: u32,
    mut change: impl FnMut(&mut Settings, &mut super::Row) -> T + Send,
) -> (Stored, T) {
    store.change_endpoint(&id(n), None, |settings, row| Ok::<_, ()>(change(settings, row))).await.unwrap()
}

async fn list(store: &Store, filter: &EndpointFilter) -> Vec<EndpointId> {
    let page = store.endpoints(filter, None, 1000).await.unwrap().unwrap();
    page.into_iter().map(|stored| stored.id).collect()
}

pub(in crate::store::tests) async fn an_endpoint_is_made_and_read_back(rig: &Rig) {
    let store = &rig.store;
    let deed = Deed::new(NOON_US, "me", "endpoints.create", "ep", String::new());
    let made = store.create_endpoint(&id(1), &settings(1), &row(&[5, 3]), Some(&deed)).await.unwrap();
    let found = store.endpoint(&id(1)).await.unwrap().unwrap();
    assert_eq!((found.row.clone(), found.mark, found.id.clone()), (made.row, made.mark, id(1)));
    assert_eq!(found.row.watch, watch(&[3, 5]));
    let want = settings(1);
    assert_eq!((&found.settings.url, &found.settings.description), (&want.url, &want.description));
    assert_eq!((&found.settings.headers, &found.settings.feeds), (&want.headers, &want.feeds));
    assert_eq!(found.settings.secret.expose(), want.secret.expose());
    assert_eq!(store.audited(None, 10).await.unwrap(), [deed]);
    assert!(store.endpoint(&id(2)).await.unwrap().is_none());
    let again = store.create_endpoint(&id(1), &settings(1), &row(&[]), None).await;
    assert!(matches!(again, Err(CreateError::Store(_))), "an identifier names one endpoint");
    assert_eq!(store.endpoint_feeds().await.unwrap(), (vec!["f".into()], false));
}

pub(in crate::store::tests) async fn endpoints_are_listed(rig: &Rig) {
    let store = &rig.store;
    for n in 1..=6 {
        create(store, n).await;
    }
    // One that was made at the same time as another.
    let mut twin = settings(3);
    twin.feeds = FeedChoice::All;
    store.create_endpoint(&id(30), &twin, &super::Row { watch: Watch::All, ..row(&[]) }, None).await.unwrap();
    let all = list(store, &EndpointFilter::default()).await;
    let mut twins = [id(3), id(30)];
    twins.sort();
    assert_eq!(all, [id(6), id(5), id(4), twins[1].clone(), twins[0].clone(), id(2), id(1)]);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.endpoints(&EndpointFilter::default(), after.as_ref(), 2).await.unwrap().unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        paged.extend(page.into_iter().map(|stored| stored.id));
    }
    assert_eq!(paged, all);
    assert!(store.endpoints(&EndpointFilter::default(), Some(&id(99)), 2).await.unwrap().is_none());
    let named = |stored: &mut Settings, feeds: &[&str]| {
        stored.feeds = FeedChoice::Named(feeds.iter().map(|feed| (*feed).into()).collect());
    };
    for (n, feeds, bugs) in [(1, vec!["F"], vec![12]), (2, vec!["f%", "f"], vec![123, 2]), (4, vec!["f_g"], vec![1])] {
        let changed = edit(store, n, |settings, row| {
            named(settings, &feeds);
            row.watch = watch(&bugs);
        });
        changed.await;
    }
    let of_feed = async |feed: &str| {
        list(store, &EndpointFilter { feed: Some(feed.to_owned()), ..EndpointFilter::default() }).await
    };
    assert_eq!(of_feed("F").await, [id(30), id(1)], "capitals count");
    assert_eq!(of_feed("f%").await, [id(30), id(2)]);
    assert_eq!(of_feed("fxg").await, [id(30)]);
    assert_eq!(of_feed("f").await.len(), 5);
    let of_bug =
        async |bug: u64| list(store, &EndpointFilter { bug: BugId::new(bug), ..EndpointFilter::default() }).await;
    assert_eq!(of_bug(12).await, [id(30), id(1)]);
    assert_eq!(of_bug(123).await, [id(30), id(2)]);
    assert_eq!(of_bug(23).await, [id(30)]);
    let (feeds, all) = store.endpoint_feeds().await.unwrap();
    assert_eq!((feeds.iter().map(|feed| &**feed).collect::<Vec<_>>(), all), (vec!["F", "f", "f%", "f_g"], true));
    states(store).await;
}

async fn states(store: &Store) {
    order(store, &id(1), Order::Pause).await.unwrap();
    for (n, until_us, bar) in [(2, None, Some(Bar::Gone)), (3, Some(NOON_US), None), (4, Some(NOON_US - 1), None)] {
        let changed = edit(store, n, |_, row| {
            (row.health.disabled_until_us, row.health.bar) = (until_us, bar);
        });
        changed.await;
    }
    let failed = edit(store, 5, |_, row| {
        row.health.recent_failures = 4;
    });
    failed.await;
    for (state, want) in [
        (State::Paused, vec![id(1)]),
        (State::Disabled, vec![id(5), id(2)]),
        (State::Cooling, vec![id(3)]),
        (State::Active, vec![id(6), id(4), id(30)]),
    ] {
        let filter = EndpointFilter { state: Some((state, NOON_US)), ..EndpointFilter::default() };
        assert_eq!(list(store, &filter).await, want, "{state}");
        let all = store.endpoints(&EndpointFilter::default(), None, 1000).await.unwrap().unwrap();
        let of_core = all.into_iter().filter(|stored| stored.row.state(NOON_US) == state);
        assert_eq!(of_core.map(|stored| stored.id).collect::<Vec<_>>(), want, "{state}");
    }
    let counts = store.count_endpoints(NOON_US).await.unwrap();
    assert_eq!(counts, StateCounts { active: 3, cooling: 1, disabled: 2, paused: 1 });
}

pub(in crate::store::tests) async fn a_change_and_its_deed_are_one(rig: &Rig) {
    let store = &rig.store;
    let made = create(store, 1).await;
    let deed = |n: i64| Deed::new(NOON_US + 1000 * n, "me", "endpoints.pause", "ep", String::new());
    let change = async |deed: &Deed, order: Order| {
        store.change_endpoint(&id(1), Some(deed), |_, row| carry_out(row, &order)).await
    };
    let first = deed(1);
    let (paused, ()) = change(&first, Order::Pause).await.unwrap();
    assert_eq!((paused.row.version, paused.row.paused, paused.mark), (1, true, made.mark + 1));
    let (same, ()) = change(&deed(2), Order::Pause).await.unwrap();
    assert_eq!((same.row.version, same.mark), (1, paused.mark), "nothing changed");
    let refused = store.change_endpoint(&id(1), Some(&deed(3)), |_, _| Err::<(), _>("no")).await;
    assert!(matches!(refused, Err(ChangeError::Refused("no"))));
    assert_eq!(store.audited(None, 10).await.unwrap(), std::slice::from_ref(&first), "no deed without a change");
    // The deed cannot be written, because it is there: so nothing is changed.
    let again = change(&first, Order::Resume).await;
    assert!(matches!(again, Err(ChangeError::Store(StoreError::Contended))), "{again:?}");
    let now = store.endpoint(&id(1)).await.unwrap().unwrap();
    assert_eq!((now.row.version, now.row.paused, now.mark), (1, true, paused.mark));
    // The settings alone.
    let changed = edit(store, 1, |settings, row| {
        settings.description = "other".to_owned();
        settings.created_us = 0;
        row.version = 99;
        7
    });
    let (now, said) = changed.await;
    assert_eq!((now.row.version, said, now.settings.created_us), (2, 7, made.settings.created_us));
    let found = store.endpoint(&id(1)).await.unwrap().unwrap();
    assert_eq!((found.settings.description.as_str(), found.row, found.mark), ("other", now.row, now.mark));
    let missing = order(store, &id(2), Order::Pause).await;
    assert!(matches!(missing, Err(ChangeError::Missing)));
}

pub(in crate::store::tests) async fn changes_at_once_at_two_stores(rig: &Rig) {
    let other = rig.other().await;
    let made = create(&rig.store, 1).await;
    let work = async |store: &Store| {
        let mut marks = Vec::new();
        for _ in 0..10 {
            let changed = edit(store, 1, |settings, row| {
                settings.description.push('x');
                row.generation += 1;
            });
            marks.push(changed.await.0.mark);
        }
        marks
    };
    let (one, two) = tokio::join!(work(&rig.store), work(&other));
    let marks: BTreeSet<u64> = one.into_iter().chain(two).collect();
    assert_eq!(marks.len(), 20, "each change has its own number");
    let now = rig.store.endpoint(&id(1)).await.unwrap().unwrap();
    let added = now.settings.description.len() - made.settings.description.len();
    assert_eq!((now.row.version, now.row.generation, added), (20, 20, 20), "no change is lost");
    assert_eq!(Some(&now.mark), marks.last());
    other.close().await;
}

pub(in crate::store::tests) async fn what_was_changed_is_found(rig: &Rig) {
    let (store, other) = (&rig.store, rig.other().await);
    let begin = other.endpoints_mark().await.unwrap();
    assert_eq!(begin, 0);
    for n in 1..=3 {
        create(store, n).await;
    }
    let (found, mark) = other.endpoints_changed(begin).await.unwrap();
    assert_eq!(found.iter().map(|stored| stored.id.clone()).collect::<Vec<_>>(), [id(1), id(2), id(3)]);
    assert!(other.endpoints_changed(mark).await.unwrap().0.is_empty());
    order(store, &id(1), Order::Pause).await.unwrap();
    order(store, &id(2), Order::Delete).await.unwrap();
    order(store, &id(1), Order::Resume).await.unwrap();
    let (found, next) = other.endpoints_changed(mark).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|stored| (stored.id, stored.row.version, stored.row.deleted)).collect();
    assert_eq!(found, [(id(2), 1, true), (id(1), 2, false)]);
    assert_eq!(next, mark + 3);
    // What planners save is no change of people.
    hold_all(store, 1).await;
    let now = store.endpoint(&id(3)).await.unwrap().unwrap();
    let saved = store.save_endpoints(&[save(&id(3), &moved(&now.row, 1, 5), Vec::new())]).await.unwrap();
    assert_eq!(saved, [Saved::Stored]);
    assert_eq!(other.endpoints_mark().await.unwrap(), next);
    assert!(other.endpoints_changed(next).await.unwrap().0.is_empty());
    // An older copy was restored.
    assert_eq!(other.endpoints_changed(next + 100).await.unwrap().0.len(), 3);
    other.close().await;
}

/// More than are read at a time, as after an import.
pub(in crate::store::tests) async fn many_changes_are_found_in_pages(rig: &Rig) {
    let store = &rig.store;
    let mut tx = store.db.begin().await.unwrap();
    for n in 1..=1001 {
        let cells = columns::cells(&id(n), &settings(n), &row(&[1]), u64::from(n));
        let marks = vec!["?"; cells.len()].join(",");
        let sql = format!("INSERT INTO hooks_endpoints ({}) VALUES ({marks})", columns::COLUMNS.join(","));
        tx.execute_kept(&sql, &cells).await.unwrap();
    }
    tx.execute("UPDATE hooks_counters SET value = 1001 WHERE name = 'endpoints'", &[]).await.unwrap();
    tx.commit().await.unwrap();
    let (first, mark) = store.endpoints_changed(0).await.unwrap();
    assert_eq!((first.len(), mark), (1000, 1000), "asked again from here, nothing is left out");
    let (rest, mark) = store.endpoints_changed(mark).await.unwrap();
    assert_eq!((rest.len(), rest[0].id.clone(), mark), (1, id(1001), 1001));
    assert!(store.endpoints_changed(mark).await.unwrap().0.is_empty());
}

pub(in crate::store::tests) async fn deleted_endpoints(rig: &Rig) {
    let store = &rig.store;
    create(store, 1).await;
    create(store, 2).await;
    assert_eq!(store.remove_endpoints(&[id(1)]).await.unwrap(), 0, "it was not deleted");
    order(store, &id(1), Order::Delete).await.unwrap();
    assert!(store.endpoint(&id(1)).await.unwrap().is_none());
    assert!(matches!(order(store, &id(1), Order::Pause).await, Err(ChangeError::Missing)));
    assert_eq!(list(store, &EndpointFilter::default()).await, [id(2)]);
    assert_eq!(store.count_endpoints(NOON_US).await.unwrap().active, 1);
    let partitions: Vec<u16> = (0..32).collect();
    let taken = store.endpoints_of(&partitions, None, 10).await.unwrap();
    assert_eq!(taken.iter().filter(|stored| stored.row.deleted).count(), 1, "who serves it lets it go");
    assert_eq!(store.remove_endpoints(&[id(1), id(2), id(3)]).await.unwrap(), 1);
    assert_eq!(count(store, "hooks_endpoints").await, 1);
    assert_eq!(store.endpoint_rows(&[id(1), id(2)]).await.unwrap().len(), 1);
}

pub(in crate::store::tests) async fn bounds(rig: &Rig) {
    let store = &rig.store;
    let bugs: Vec<u64> = (1..=MAX_BUGS as u64 + 1).map(|n| n * 1_000_000).collect();
    let most = store.create_endpoint(&id(1), &settings(1), &row(&bugs[..MAX_BUGS]), None).await.unwrap();
    assert_eq!(store.endpoint(&id(1)).await.unwrap().unwrap().row, most.row);
    let more = store.create_endpoint(&id(2), &settings(2), &row(&bugs), None).await;
    assert!(matches!(more, Err(CreateError::TooManyBugs)));
    let more = order(store, &id(1), Order::Watch(watch(&bugs))).await;
    assert!(matches!(more, Err(ChangeError::TooManyBugs)));
    let other = rig.other().await;
    let make = async |store: &Store, n| store.create_below(3, &id(n), &settings(n), &row(&[]), None).await.is_ok();
    let (a, b, c, d) = tokio::join!(make(store, 3), make(&other, 4), make(store, 5), make(&other, 6));
    assert_eq!([a, b, c, d].into_iter().filter(|made| *made).count(), 2, "at once at two stores");
    let more = store.create_below(3, &id(7), &settings(7), &row(&[]), None).await;
    assert!(matches!(more, Err(CreateError::TooMany)));
    assert_eq!(count(store, "hooks_endpoints").await, 3);
    other.close().await;
}
