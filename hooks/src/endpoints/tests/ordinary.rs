//! What a receiver is sent while all goes well, and after a pause.

use bugfeed_core::endpoints::orders::{Order, Recovery};
use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::Watch;
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::hooks::event::Trigger;

use super::rig::{Feed, Place, bugs, is_signed, json, number, secret, settings, told, until};
use crate::endpoints::FeedTap;
use crate::store::endpoints::{FeedChoice, Settings};
use crate::test_server::{Reply, Server};

fn ok() -> Reply {
    Reply::full(200, "", "thanks")
}

#[tokio::test]
async fn a_change_is_posted_and_its_attempt_is_in_the_log() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let id = place.endpoint(&server.url("/hook?a=b"), bugs(&[1, 2])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(3);
    place.feed.change(1);
    place.until_cursor(&id, 2).await;
    let got = server.got();
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].method.as_str(), got[0].target.as_str()), ("POST", "/hook?a=b"));
    assert!(is_signed(&got[0], &secret(1)) && !is_signed(&got[0], &secret(2)));
    assert_eq!(got[0].header("x-own"), Some("value"));
    let body = json(&got[0]);
    assert_eq!((&body["command"], &body["feed"], &body["bug"]), (&"update".into(), &"kde".into(), &1.into()));
    let webhook_id = got[0].header("webhook-id").unwrap();
    assert!(webhook_id.starts_with(&format!("{id}-epoch-kde-2-2-")), "{webhook_id}");
    let attempts = place.attempts(&id).await;
    let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!((attempt.status, attempt.trigger, attempt.counts), (Some(200), Trigger::Live, true));
    assert_eq!((attempt.response.as_str(), attempt.webhook_id.as_str()), ("thanks", webhook_id));
    assert_eq!((attempt.request.as_str(), attempt.feed.as_deref()), (got[0].body.as_str(), Some("kde")));
    endpoints.stop().await;
}

/// More than are read at a time.
#[tokio::test]
async fn all_of_many_endpoints_are_served() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let mut ids = Vec::new();
    for _ in 0..=500 {
        ids.push(place.endpoint(&server.url("/"), bugs(&[1])).await);
    }
    // They are read in this order.
    ids.sort_by_key(|id| (id.partition(), id.clone()));
    let endpoints = place.start();
    place.until_row(&ids[500], "it has begun", |row| row.cursor("kde").is_some()).await;
    endpoints.stop().await;
}

/// What the log has is written once, however many writes follow.
#[tokio::test]
async fn the_log_is_counted_as_it_is() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    for _ in 0..5 {
        let seq = place.feed.change(1);
        place.until_cursor(&id, seq).await;
    }
    endpoints.stop().await;
    let sizes: usize =
        place.attempts(&id).await.iter().map(|attempt| attempt.request.len() + attempt.response.len() + 300).sum();
    assert_eq!(usize::try_from(place.store.attempt_bytes()).unwrap(), sizes);
}

#[tokio::test]
async fn a_paused_endpoint_owes_the_newest_change_of_each_bug() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let id = place.endpoint(&server.url("/"), Watch::All).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.order(&id, Order::Pause).await;
    endpoints.stop().await;
    let endpoints = place.start();
    for number in [1, 2, 1, 3, 1] {
        place.feed.change(number);
    }
    place.order(&id, Order::Resume).await;
    place.until_cursor(&id, 5).await;
    let got = server.got();
    assert_eq!(got.iter().map(told).collect::<Vec<_>>(), [[2, 3, 1]]);
    assert_eq!((number(&got[0]), &json(&got[0])["replay"]), (5, &"latest".into()));
    endpoints.stop().await;
}

#[tokio::test]
async fn a_backlog_has_a_verdict_and_a_restart_goes_on_where_it_was() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let id = place.endpoint(&server.url("/"), Watch::All).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    endpoints.stop().await;
    place.feed.change(1);
    place.feed.change(2);
    let endpoints = place.start();
    place.until_cursor(&id, 2).await;
    endpoints.stop().await;
    place.feed.change(1);
    place.feed.change(1);
    let endpoints = place.start();
    place.until_cursor(&id, 4).await;
    let verdicts: Vec<String> =
        server.got().iter().map(|got| json(got)["replay"].as_str().unwrap().to_owned()).collect();
    assert_eq!(verdicts, ["complete", "latest"]);
    assert_eq!(server.got().iter().map(told).collect::<Vec<_>>(), [vec![1, 2], vec![1]]);
    endpoints.stop().await;
}

#[tokio::test]
async fn a_loss_of_continuity_is_told_as_a_gap_and_what_follows_is_told() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.feed.change(1);
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some_and(|cursor| cursor.seq >= 1)).await;
    place.feed.miss();
    place.feed.change(2);
    until("a gap", async || server.got().iter().any(|got| json(got)["command"] == "gap").then_some(())).await;
    place.feed.change(1);
    place.until_cursor(&id, 4).await;
    assert_eq!(told(server.got().last().unwrap()), [1]);
    endpoints.stop().await;
}

#[tokio::test]
async fn while_a_feed_is_not_current_nothing_is_told_and_then_everything() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1, 2])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.set_current(false);
    place.feed.change(1);
    place.feed.change(2);
    place.order(&id, Order::Test).await;
    until("the test", async || server.got().iter().any(|got| json(got)["command"] == "test").then_some(())).await;
    assert_eq!(server.got().len(), 1);
    place.feed.set_current(true);
    place.until_cursor(&id, 2).await;
    assert_eq!(server.got().iter().flat_map(told).collect::<Vec<_>>(), [1, 2]);
    endpoints.stop().await;
}

#[tokio::test]
async fn a_test_a_redelivery_and_a_recovery_by_hand() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let id = place.endpoint(&server.url("/"), bugs(&[1])).await;
    let endpoints = place.start();
    place.until_row(&id, "it has begun", |row| row.cursor("kde").is_some()).await;
    place.feed.change(1);
    place.until_cursor(&id, 1).await;
    let first = place.attempts(&id).await.remove(0);
    place.order(&id, Order::Redeliver { attempt: first.id }).await;
    place.until_row(&id, "it is sent again", |row| row.wishes.is_empty()).await;
    place.order(&id, Order::Redeliver { attempt: 7 }).await;
    place.until_row(&id, "there is none", |row| row.wishes.is_empty()).await;
    place.order(&id, Order::Recover { feed: None, to: Recovery::Cursor(place.feed.cursor(0)) }).await;
    until("three requests", async || (server.got().len() == 3).then_some(())).await;
    let got = server.got();
    assert_eq!((&got[0].body, got[0].header("webhook-id")), (&got[1].body, got[1].header("webhook-id")));
    assert!(got[2].header("webhook-id").unwrap().ends_with("-g1"), "{:?}", got[2]);
    place.until_cursor(&id, 1).await;
    let attempts =
        until("four attempts", async || Some(place.attempts(&id).await).filter(|attempts| attempts.len() == 4)).await;
    assert_eq!(attempts.iter().map(|attempt| attempt.counts).collect::<Vec<_>>(), [true, false, false, true]);
    assert!(attempts[2].error.as_deref().unwrap().contains("not kept"), "{:?}", attempts[2]);
    assert_eq!(place.row(&id).await.health.recent_failures, 0);
    endpoints.stop().await;
}

#[tokio::test]
async fn an_endpoint_of_all_feeds_gets_those_that_come_later() {
    let (place, server) = (Place::new().await, Server::start(|_| ok()).await);
    let settings = Settings { feeds: FeedChoice::All, ..settings(&server.url("/")) };
    let id = place.endpoint_with(settings, Row::new(Policy::Classic, Watch::All, ["kde".into()])).await;
    let endpoints = place.start();
    assert!(endpoints.has_any().wait_for(|any| *any).await.is_ok());
    let other = Feed::new("gnome");
    place.taps.send_modify(|taps| taps.push(other.clone() as std::sync::Arc<dyn FeedTap>));
    place.until_row(&id, "it has both", |row| row.cursor("gnome").is_some()).await;
    other.change(7);
    place.feed.change(8);
    until("both are told", async || (server.got().len() == 2).then_some(())).await;
    let mut feeds: Vec<String> = server.got().iter().map(|got| json(got)["feed"].to_string()).collect();
    feeds.sort();
    assert_eq!(feeds, ["\"gnome\"", "\"kde\""]);
    endpoints.stop().await;
}
