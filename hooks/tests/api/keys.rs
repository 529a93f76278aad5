//! Keys of senders.

use hyper::Method;
use serde_json::{Value, json};

use crate::support::{NOON_US, Rig, SECOND_US};
use bugfeed_hooks::receive::key::Key;

#[tokio::test]
async fn a_key_is_made_shown_once_changed_rotated_and_revoked() {
    let rig = Rig::start().await;
    let body = json!({ "name": " build ", "owner": "me", "scopes": { "sources": ["plain", "plain"] }, "expires": "2027-01-01" });
    let made = rig.post("/keys", body).await;
    assert_eq!(made.status, 201);
    let text = made.body["key"].as_str().unwrap().to_owned();
    let (key, id) = (Key::parse(&text).unwrap(), made.body["id"].as_str().unwrap().to_owned());
    assert_eq!((key.id(), text.len()), (id.as_str(), 32));
    assert_eq!((&made.body["name"], &made.body["state"]), (&json!("build"), &json!("active")));
    assert_eq!(made.body["scopes"], json!({ "sources": ["plain"], "feeds": null }));
    assert_eq!(made.body["expires"], "2027-01-01T00:00:00");
    assert_eq!(rig.told(), ["keys"]);
    let stored = rig.store.key(&id).await.unwrap().unwrap();
    assert!(key.is(&stored.hash));
    let listed = rig.get("/keys").await;
    assert_eq!(listed.body["keys"][0]["id"], json!(id));
    assert!(!listed.body.to_string().contains(&text), "shown once");

    let change = json!({ "owner": "", "scopes": { "feeds": ["kde"] }, "expires": null });
    let changed = rig.call(&rig.token, Method::PATCH, &format!("/keys/{id}"), &change.to_string()).await.good();
    assert_eq!(changed["scopes"], json!({ "sources": null, "feeds": ["kde"] }));
    assert_eq!((&changed["owner"], &changed["expires"]), (&json!(""), &Value::Null));
    let stored = rig.store.key(&id).await.unwrap().unwrap();
    assert_eq!((stored.owner.as_str(), stored.expires_us), ("", None));
    let same = rig.call(&rig.token, Method::PATCH, &format!("/keys/{id}"), "{\"name\":\"build\"}").await;
    same.refused(400, "nothing is to be changed");

    let rotated = rig.post(&format!("/keys/{id}/rotate"), json!({ "overlap_hours": 1 })).await.good();
    let fresh = Key::parse(rotated["key"].as_str().unwrap()).unwrap();
    let stored = rig.store.key(&id).await.unwrap().unwrap();
    assert!(fresh.is(&stored.hash) && key.is(&stored.previous.unwrap().0) && fresh.id() == id);
    assert!(rotated["old_until"].as_str().unwrap().starts_with("2026-11-26T14:"));
    rig.post(&format!("/keys/{id}/rotate"), json!({ "overlap_hours": 169 })).await.refused(400, "169 is too much");

    for _ in 0..2 {
        let revoked = rig.call(&rig.token, Method::DELETE, &format!("/keys/{id}"), "").await.good();
        assert_eq!(revoked["state"], "revoked");
    }
    for (method, path, body) in
        [(Method::PATCH, format!("/keys/{id}"), "{\"name\":\"x\"}"), (Method::POST, format!("/keys/{id}/rotate"), "")]
    {
        rig.call(&rig.token, method, &path, body).await.refused(409, "was revoked");
    }
    assert_eq!(rig.told(), ["keys"; 3]);
    let who = format!("{} first", rig.token.id());
    let deeds: Vec<String> =
        ["create", "change", "rotate", "revoke"].iter().map(|deed| format!("{who} keys.{deed} {id}")).collect();
    assert_eq!(rig.audited().await, deeds, "the second revocation is none");
    let log = rig.get("/audit").await.body;
    assert!(!log.to_string().contains(&text) && !log.to_string().contains(fresh.expose()), "no key is in the log");
    assert_eq!(log["deeds"][3]["detail"]["name"], "build");
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_said() {
    let rig = Rig::start().await;
    for (body, want) in [
        (json!({}), "no name"),
        (json!({ "name": " " }), "name: this is no name"),
        (json!({ "name": "a\nb" }), "name: this is no name"),
        (json!({ "name": "x".repeat(201) }), "name"),
        (json!({ "name": "x", "owner": "a\u{7}" }), "owner"),
        (json!({ "name": "x", "scopes": { "sources": [] } }), "scopes.sources is empty"),
        (json!({ "name": "x", "scopes": { "feeds": [] } }), "scopes.feeds is empty"),
        (json!({ "name": "x", "scopes": { "sources": ["plian"] } }), "no source 'plian'"),
        (json!({ "name": "x", "scopes": { "feeds": ["gnome"] } }), "no feed 'gnome'"),
        (json!({ "name": "x", "scopes": { "source": ["plain"] } }), "unknown member `source`"),
        (json!({ "name": "x", "expires": "soon" }), "expires: 'soon'"),
        (json!({ "name": "x", "expires": "2026-11-26" }), "has passed"),
    ] {
        rig.post("/keys", body).await.refused(400, want);
    }
    for (method, path) in
        [(Method::PATCH, "/keys/none"), (Method::DELETE, "/keys/none"), (Method::POST, "/keys/none/rotate")]
    {
        rig.call(&rig.token, method, path, "").await.refused(404, "no key none");
    }
    assert_eq!((rig.store.keys().await.unwrap().len(), rig.audited().await.len()), (0, 0));
}

#[tokio::test]
async fn keys_are_listed_in_pages_and_by_state() {
    let rig = Rig::start().await;
    let mut made = Vec::new();
    for number in 0..25 {
        let key = rig.post("/keys", json!({ "name": format!("key {number}") })).await.good();
        made.insert(0, key["id"].clone());
    }
    let (mut found, mut path) = (Vec::new(), "/keys?limit=10".to_owned());
    loop {
        let page = rig.get(&path).await.good();
        found.extend(page["keys"].as_array().unwrap().iter().map(|key| key["id"].clone()));
        match page["next"].as_str() {
            Some(next) => path = format!("/keys?limit=10&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, made, "newest first");
    let id = made[3].as_str().unwrap();
    rig.call(&rig.token, Method::DELETE, &format!("/keys/{id}"), "").await.good();
    let revoked = rig.get("/keys?state=revoked").await.good();
    assert_eq!((revoked["keys"].as_array().unwrap().len(), &revoked["keys"][0]["id"]), (1, &made[3]));
    assert_eq!(rig.get("/keys?state=active").await.good()["keys"].as_array().unwrap().len(), 24);
    rig.get("/keys?state=good").await.refused(400, "state: 'good'");
}

#[tokio::test]
async fn a_key_that_has_expired_is_rotated_only_with_a_time_to_come() {
    let rig = Rig::start().await;
    let made = rig.post("/keys", json!({ "name": "k", "expires": "2026-11-27" })).await.good();
    let id = made["id"].as_str().unwrap();
    let path = format!("/keys/{id}/rotate");
    // The old one goes on no longer than the key.
    let rotated = rig.post(&path, json!({ "overlap_hours": 168 })).await.good();
    assert_eq!(rotated["old_until"], rotated["expires"]);
    let past = bugfeed_hooks::store::keys::KeyChange { expires_us: Some(Some(NOON_US)), ..Default::default() };
    rig.store.change_key(id, &past).await.unwrap();
    let before = rig.store.key(id).await.unwrap();
    let refused = rig.post(&path, json!({})).await;
    refused.refused(409, "has expired");
    let fix = refused.body["fix"].as_str().unwrap();
    assert!(fix.contains(&format!("keys rotate {id} --expires")) && fix.contains("keys change"), "{fix}");
    assert_eq!(rig.store.key(id).await.unwrap(), before);
    rig.post(&path, json!({ "expires": "2026-11-01" })).await.refused(400, "has passed");
    let rotated = rig.post(&path, json!({ "expires": "2027-01-01" })).await.good();
    assert_eq!((&rotated["state"], &rotated["old_until"]), (&json!("active"), &json!(null)));
    assert_eq!(rotated["expires"], "2027-01-01T00:00:00");
    let stored = rig.store.key(id).await.unwrap().unwrap();
    assert!(stored.previous.is_some_and(|(_, until_us)| until_us < NOON_US + 2 * 3600 * SECOND_US), "not valid again");
}
