//! Feeds that come while endpoints of all feeds are served.

use std::sync::Arc;

use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::{Since, Watch};
use bugfeed_core::endpoints::row::Row;

use super::rig::{Feed, Place, json, settings, told, until};
use crate::endpoints::FeedTap;
use crate::endpoints::around::add_feeds;
use crate::store::endpoints::{EndpointId, FeedChoice, Settings};
use crate::test_server::{Reply, Server};

/// An endpoint of all feeds, and so of `kde`.
async fn of_all_feeds(place: &Place, server: &Server) -> EndpointId {
    let settings = Settings { feeds: FeedChoice::All, ..settings(&server.url("/")) };
    place.endpoint_with(settings, Row::new(Policy::Classic, Watch::All, ["kde".into()])).await
}

fn add(place: &Place, feed: &Arc<Feed>) {
    place.taps.send_modify(|taps| taps.push(Arc::clone(feed) as Arc<dyn FeedTap>));
}

fn since(row: &Row, feed: &str) -> Option<Since> {
    row.lines.iter().find(|line| &*line.feed == feed).map(|line| line.since.clone())
}

/// The process dies before the new feed has answered anything; what changes until the next one has begun is owed.
#[tokio::test]
async fn a_new_feed_begins_when_it_is_added_although_the_process_dies() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = of_all_feeds(&place, &server).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let away = Feed::new("gnome");
    away.set_current(false);
    add(&place, &away);
    let row = place.until_row(&id, "it has the feed", |row| since(row, "gnome").is_some()).await;
    assert!(matches!(since(&row, "gnome"), Some(Since::Time(_))), "{row:?}");
    // As a crash.
    drop(endpoints);
    away.change(7);
    away.set_current(true);
    let endpoints = place.start();
    until("the change", async || server.got().iter().any(|got| told(got) == [7]).then_some(())).await;
    let got = server.got();
    assert_eq!((got.len(), &json(&got[0])["feed"]), (1, &"gnome".into()));
    endpoints.stop().await;
}

#[tokio::test]
async fn a_new_feed_begins_at_its_head_where_that_is_known() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = of_all_feeds(&place, &server).await;
    let there = Feed::new("gnome");
    there.change(7);
    there.change(8);
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    add(&place, &there);
    let row = place.until_row(&id, "it has the feed", |row| since(row, "gnome").is_some()).await;
    assert_eq!(since(&row, "gnome"), Some(Since::Cursor(there.cursor(2))));
    there.change(9);
    until("the change", async || (!server.got().is_empty()).then_some(())).await;
    assert_eq!(server.got().iter().map(told).collect::<Vec<_>>(), [[9]], "nothing of before");
    endpoints.stop().await;
}

/// Nobody says again that a feed is new, so what the store did not take is tried again.
#[tokio::test]
async fn a_feed_that_comes_while_the_store_is_away_is_added_when_it_is_back() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    let id = of_all_feeds(&place, &server).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    let (new, locking) = (Feed::new("gnome"), place.db());
    let lock = locking.begin().await.unwrap();
    add(&place, &new);
    until("a warning", async || place.health.report().lines.iter().any(|line| line.contains("wait")).then_some(()))
        .await;
    // It begins when it came, not when the store was back.
    new.change(7);
    drop(lock);
    locking.close().await;
    until("the change", async || server.got().iter().any(|got| told(got) == [7]).then_some(())).await;
    assert_eq!(since(&place.row(&id).await, "kde"), Some(Since::Cursor(place.feed.cursor(0))));
    endpoints.stop().await;
}

/// As another replica made or changed them that did not have the feed yet.
#[tokio::test]
async fn what_an_endpoint_of_all_feeds_lacks_is_added_whenever_it_shows() {
    let (place, server) = (Place::new().await, Server::start(|_| Reply::full(200, "", "")).await);
    add(&place, &Feed::new("gnome"));
    let all = of_all_feeds(&place, &server).await;
    let named = place.endpoint(&server.url("/named"), Watch::All).await;
    let endpoints = place.start();
    place.until_row(&all, "it has both", |row| since(row, "gnome").is_some()).await;
    place.until_row(&named, "it has begun", |row| row.cursor("kde").is_some()).await;
    assert_eq!(place.row(&named).await.lines.len(), 1);
    let changed = place.store.change_endpoint(&named, None, |settings, _| {
        settings.feeds = FeedChoice::All;
        Ok::<(), ()>(())
    });
    changed.await.unwrap();
    place.until_row(&named, "it has both", |row| since(row, "gnome").is_some()).await;
    endpoints.stop().await;
}

/// A person names feeds in the moment in which one more is added.
#[test]
fn feeds_are_added_to_who_still_wants_all() {
    let gnome = [(Arc::from("gnome"), Since::Unknown)];
    let mut settings = settings("https://h.example/");
    let mut row = Row::new(Policy::Classic, Watch::All, ["kde".into()]);
    add_feeds(&settings, &mut row, &gnome).unwrap();
    assert_eq!((row.version, row.lines.len()), (0, 1), "it names its feeds");
    settings.feeds = FeedChoice::All;
    add_feeds(&settings, &mut row, &gnome).unwrap();
    assert_eq!((since(&row, "gnome"), since(&row, "kde")), (Some(Since::Unknown), Some(Since::Head)));
    let before = row.clone();
    add_feeds(&settings, &mut row, &[(Arc::from("gnome"), Since::Head), (Arc::from("kde"), Since::Unknown)]).unwrap();
    assert_eq!(row, before, "what is there keeps its place");
}
