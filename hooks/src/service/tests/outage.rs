//! The store is away: at the start, and while requests come.

use super::rig::{PLAIN, Place, changes, until};

#[tokio::test]
async fn what_comes_while_the_store_is_away_is_spooled_and_comes_in_order_when_it_is_back() {
    let place = Place::sqlite().await;
    let service = place.start(PLAIN).await;
    service.post("plain", &changes(&[1], 1)).await;
    service.until_rows("default", 1).await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    assert_eq!(service.post("plain", &changes(&[2], 2)).await, ["spooled"]);
    assert_eq!(service.post("plain", &changes(&[3], 3)).await, ["spooled"]);
    let report = service.health.report();
    assert!(report.ready && report.lines.iter().any(|line| line.contains("store")), "{report:?}");
    drop(lock);
    let mut rows = service.until_rows("default", 3).await;
    rows.sort_unstable();
    assert_eq!(rows, [1, 2, 3]);
    until("all is well", async || {
        let report = service.health.report();
        report.lines.is_empty().then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
    assert!(service.hooks.spool().is_empty());
    locking.close().await;
    service.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_stops_nothing() {
    let place = Place::sqlite().await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    let service = place.start_with(place.options(PLAIN)).await;
    assert!(service.hooks.store().is_none());
    // The keys are not known yet: it is checked later.
    assert_eq!(service.post("plain", &changes(&[4], 1)).await, ["spooled"]);
    drop(lock);
    assert_eq!(service.until_rows("default", 1).await, [4]);
    locking.close().await;
    service.stop().await;
}

#[tokio::test]
async fn a_service_that_ends_while_the_store_is_away_leaves_the_spool() {
    let place = Place::sqlite().await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    let service = place.start_with(place.options(PLAIN)).await;
    assert_eq!(service.post("plain", &changes(&[4, 5], 1)).await, ["spooled", "spooled"]);
    service.stop().await;
    drop(lock);
    locking.close().await;
    let service = place.start(PLAIN).await;
    assert_eq!(service.until_rows("default", 2).await, [4, 5]);
    service.stop().await;
}
