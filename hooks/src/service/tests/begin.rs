//! Where an endpoint begins that the API makes.

use std::sync::Arc;

use bugfeed_core::endpoints::question::Since;
use bugfeed_protocol::When;
use tokio::sync::watch;

use super::rig::{PLAIN, Place};
use crate::endpoints::tests::rig::Feed;
use crate::endpoints::{EndpointsOptions, FeedTap};

#[tokio::test]
async fn an_endpoint_begins_at_the_known_cursor_or_else_at_the_time() {
    let service = Place::sqlite().await.start(PLAIN).await;
    let desk = service.hooks.desk();
    assert!(desk.feeds().is_empty(), "nothing is delivered yet, so no endpoint can be made");
    let (there, away, empty) = (Feed::new("kde"), Feed::new("gnome"), Feed::new("new"));
    for feed in [&there, &away] {
        feed.change(1);
        feed.change(2);
    }
    away.set_current(false);
    let taps: Vec<Arc<dyn FeedTap>> = vec![there.clone(), away.clone(), empty.clone()];
    let taps = watch::Sender::new(taps);
    let endpoints = service.hooks.endpoints(taps.subscribe(), EndpointsOptions::default());
    assert_eq!(desk.feeds(), ["kde", "gnome", "new"]);
    let now_us = 1_795_694_400_000_000;
    let now = When::from_micros(now_us).unwrap();
    assert_eq!(desk.begin("kde", now_us), Since::Cursor(there.cursor(2)));
    assert_eq!(desk.begin("new", now_us), Since::Cursor(empty.cursor(0)));
    for feed in ["gnome", "gone"] {
        assert_eq!(desk.begin(feed, now_us), Since::Time(now), "{feed}");
    }
    away.set_current(true);
    assert_eq!(desk.begin("gnome", now_us), Since::Cursor(away.cursor(2)));
    assert_eq!(desk.begin("kde", i64::MIN), Since::Unknown, "nobody knows what is owed");
    endpoints.stop().await;
    service.stop().await;
}
