//! PostgreSQL's NOTIFY wakes the poll.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::Place;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_notification_wakes_whoever_waits() {
    let Some(place) = Place::postgres().await else { return };
    let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let (url, channel, waker, stopped) = (place.db(), "Bug_feed".parse().unwrap(), wake.clone(), stop.clone());
    let task = tokio::spawn(async move { url.notifier().unwrap().wake_on(&channel, waker, stopped).await });
    timeout(LIMIT, wake.notified()).await.expect("woken when the channel is open");
    let mut tracker = place.session().await;
    for _ in 0..3 {
        tracker.exec("NOTIFY \"Bug_feed\"").await;
        timeout(LIMIT, wake.notified()).await.expect("woken by a notification");
    }
    // A connection that is cut is opened again.
    tracker
        .exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bugfeed-shim listen' AND datname = current_database()")
        .await;
    let mut woken = timeout(Duration::from_millis(100), wake.notified()).await.is_ok();
    while !woken {
        tracker.exec("NOTIFY \"Bug_feed\"").await;
        woken = timeout(Duration::from_millis(100), wake.notified()).await.is_ok();
    }
    stop.cancel();
    timeout(LIMIT, task).await.unwrap().unwrap();
}
