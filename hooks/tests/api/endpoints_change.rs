//! Endpoints: changed and deleted.

use bugfeed_core::endpoints::policy::{Outcome, Policy};
use bugfeed_core::endpoints::question::{Since, Watch};
use bugfeed_core::endpoints::row::Line;
use bugfeed_hooks::store::endpoints::FeedChoice;
use bugfeed_protocol::Cursor;
use hyper::Method;
use serde_json::{Value, json};

use crate::endpoints::{SECRET, body, fail, shows_nothing_hidden};
use crate::support::{NOON_US, Rig};

#[tokio::test]
async fn what_is_named_is_changed_and_the_rest_stays() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let before = rig.stored(&id).await;
    rig.told();
    let changed = rig.patch(&id, json!({ "description": "bot", "rate": 7 })).await.good();
    assert_eq!((&changed["description"], &changed["rate"]), (&json!("bot"), &json!(7)));
    let after = rig.stored(&id).await;
    assert_eq!((&after.settings.url, &after.row.watch), (&before.settings.url, &before.row.watch));
    assert_eq!(after.settings.secret.expose(), before.settings.secret.expose());
    assert_eq!((after.row.version, after.row.rate), (before.row.version + 1, Some(7)));
    assert_eq!(rig.told(), [format!("endpoint {id}")]);

    let many = json!({ "bugs": "all", "feeds": ["kde", "default", "kde"], "policy": "current", "rate": null,
        "template": null, "headers": { "x-api-key": null, "X-New": "hidden-value" } });
    let changed = rig.patch(&id, many).await.good();
    assert_eq!((&changed["bugs"], &changed["feeds"]), (&json!("all"), &json!(["kde", "default"])));
    assert_eq!(changed["headers"], json!({ "x-new": "hidden-value" }));
    let last = rig.stored(&id).await;
    assert_eq!((last.row.version, last.row.policy), (after.row.version + 1, Policy::Current), "one write");
    assert_eq!((&last.row.watch, last.row.rate, &last.settings.template), (&Watch::All, None, &None));
    assert_eq!(rig.patch(&id, json!({ "headers": null })).await.good()["headers"], json!({}));
    rig.patch(&id, json!({ "feeds": "all" })).await.good();
    assert_eq!(rig.stored(&id).await.settings.feeds, FeedChoice::All);

    let log = rig.get("/audit").await.good();
    shows_nothing_hidden(&log.to_string());
    assert_eq!(log["deeds"][2]["detail"]["headers"], json!(["X-New", "x-api-key"]));
    assert_eq!(log["deeds"][3]["detail"], json!({ "description": "bot", "rate": 7 }), "only what was changed");
}

#[tokio::test]
async fn a_feed_that_stays_keeps_its_cursor_and_a_new_url_begins_with_clean_counters() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let cursor = Since::Cursor(Cursor::parse("E.5").unwrap());
    rig.plan(&id, |row| {
        row.lines[0].since = Since::Cursor(Cursor::parse("E.5").unwrap());
        fail(row, Outcome::Refused, 4);
    })
    .await;
    let changed = rig.patch(&id, json!({ "feeds": ["kde", "default"] })).await.good();
    assert_eq!(changed["cursors"], json!({ "kde": null, "default": "E.5" }));
    assert_eq!((&changed["state"], &changed["reason"]), (&json!("disabled"), &json!("failures")));
    // The same URL is no other one.
    rig.patch(&id, json!({ "url": body()["url"] })).await.good();
    assert_eq!(rig.stored(&id).await.row.turn, 0);
    let changed = rig.patch(&id, json!({ "url": "https://new.example/hidden-path#part" })).await.good();
    assert_eq!((&changed["state"], &changed["recent_failures"]), (&json!("active"), &json!(0)));
    let stored = rig.stored(&id).await;
    assert_eq!((stored.settings.url.as_str(), stored.row.turn), ("https://new.example/hidden-path", 1));
    assert_eq!(stored.row.lines[1].since, cursor);
    shows_nothing_hidden(&rig.get("/audit").await.good().to_string());
}

#[tokio::test]
async fn a_feed_begins_at_its_known_cursor_or_else_now() {
    let rig = Rig::start().await;
    let at = |seq: u64| Since::Cursor(Cursor::parse(&format!("E.{seq}")).unwrap());
    let knows = |feed: &str, seq: u64| {
        rig.told.heads.lock().unwrap().insert(feed.to_owned(), Cursor::parse(&format!("E.{seq}")).unwrap());
    };
    knows("default", 7);
    let mut all = body();
    all["feeds"] = json!("all");
    let id = rig.endpoint(all).await;
    let begins = async || {
        let lines = rig.stored(&id).await.row.lines;
        lines.into_iter().map(|line| (line.feed.to_string(), line.since)).collect::<Vec<_>>()
    };
    let [(one, known), (two, unknown)] = &begins().await[..] else { panic!() };
    assert_eq!((one.as_str(), known, two.as_str()), ("default", &at(7), "kde"));
    assert!(matches!(unknown, Since::Time(when) if when.as_micros() >= NOON_US), "{unknown:?}");
    // One that stays keeps its place; one that was taken away and comes again begins anew.
    knows("default", 9);
    knows("kde", 3);
    rig.patch(&id, json!({ "feeds": ["default"] })).await.good();
    rig.patch(&id, json!({ "feeds": ["kde", "default"] })).await.good();
    assert_eq!(begins().await, [("kde".to_owned(), at(3)), ("default".to_owned(), at(7))]);
    // A feed that only another replica has so far stays where it is, when all are asked for once more.
    rig.plan(&id, |row| row.lines.push(Line { since: at(5), ..Line::new("later".into()) })).await;
    rig.patch(&id, json!({ "feeds": "all" })).await.good();
    let feeds = ["kde", "default", "later"].map(str::to_owned).into_iter().zip([at(3), at(7), at(5)]);
    assert_eq!(begins().await, feeds.collect::<Vec<_>>());
}

#[tokio::test]
async fn what_cannot_be_changed_is_said() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    rig.told();
    let before = rig.stored(&id).await;
    for (sent, want) in [
        (json!({}), "nothing is to be changed"),
        (json!({ "secret": SECRET }), "secret: it is not changed here"),
        (json!({ "url": "http://10.0.0.1/" }), "url: 10.0.0.1 is"),
        (json!({ "feeds": ["gnome"] }), "there is no feed 'gnome'"),
        (json!({ "headers": { "Content-Type": "x" } }), "content-type cannot be set"),
        (json!({ "url": null }), "nothing is to be changed"),
        (json!({ "state": "paused" }), "unknown member `state`"),
    ] {
        rig.patch(&id, sent).await.refused(400, want);
    }
    // Together with those that are there already, it would be too many.
    let headers: serde_json::Map<String, Value> = (0..20).map(|n| (format!("X-{n}"), json!("v"))).collect();
    rig.patch(&id, json!({ "headers": headers })).await.refused(400, "21 headers");
    let after = rig.stored(&id).await;
    assert_eq!((&after.row, &after.settings.url), (&before.row, &before.settings.url));
    assert_eq!((rig.audited().await.len(), rig.told()), (1, vec![]), "what is refused is no deed");
}

#[tokio::test]
async fn a_deleted_endpoint_is_gone() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    rig.told();
    let path = format!("/endpoints/{id}");
    let deleted = rig.call(&rig.token, Method::DELETE, &path, "").await.good();
    assert_eq!((&deleted["id"], deleted["secret"].is_null()), (&json!(id.as_str()), true));
    assert_eq!(rig.told(), [format!("endpoint {id}")]);
    assert!(rig.store.endpoint(&id).await.unwrap().is_none());
    assert_eq!(rig.get("/endpoints").await.good()["endpoints"], json!([]));
    for (method, path, sent) in [
        (Method::GET, path.clone(), ""),
        (Method::DELETE, path.clone(), ""),
        (Method::PATCH, path.clone(), "{\"description\":\"x\"}"),
        (Method::GET, format!("{path}/attempts"), ""),
        (Method::POST, format!("{path}/test"), ""),
        (Method::POST, format!("{path}/enable"), ""),
        (Method::POST, format!("{path}/reset"), ""),
        (Method::POST, format!("{path}/pause"), ""),
        (Method::POST, format!("{path}/resume"), ""),
        (Method::POST, format!("{path}/rotate"), ""),
        (Method::POST, format!("{path}/recover"), "{\"cursor\":\"E.1\"}"),
        (Method::GET, "/endpoints/none".to_owned(), ""),
        (Method::POST, "/endpoints/none/pause".to_owned(), ""),
    ] {
        rig.call(&rig.token, method, &path, sent).await.refused(404, "there is no endpoint");
    }
    let who = format!("{} first", rig.token.id());
    assert_eq!(rig.audited().await, [format!("{who} endpoints.create {id}"), format!("{who} endpoints.delete {id}")]);
}
