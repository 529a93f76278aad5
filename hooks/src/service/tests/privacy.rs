//! A bug that is private, then public, then private: only what was public is announced.

use bugfeed_core::hooks::event::{DropReason, State};
use serde_json::json;

use super::rig::{Place, read};

const BUGZILLA: &str = "[[source]]\nname = \"bz\"\npreset = \"bugzilla\"\n";

/// What Bugzilla posts of an edit at this second.
fn edit(second: u32, is_private: bool, what: &str) -> String {
    let mut event = json!({"target": "bug", "action": "modify", "routing_key": format!("bug.modify:{what}"),
        "time": format!("2026-11-26T10:00:{second:02}"), "user": {"id": 7}});
    if !is_private {
        event["changes"] = json!([{"field": what, "removed": "0", "added": "1"}]);
    }
    json!({"bug": {"id": 4711, "is_private": is_private}, "event": event}).to_string()
}

#[tokio::test]
async fn private_then_public_then_private() {
    let service = Place::sqlite().await.start(BUGZILLA).await;
    assert_eq!(service.post("bz", &edit(1, true, "status")).await, ["dropped"]);
    assert_eq!(service.post("bz", &edit(2, false, "status")).await, ["queued"]);
    // When it becomes private, two messages of one second come: of the public bug as it was, and of the private one.
    assert_eq!(service.post("bz", &edit(3, false, "is_private")).await, ["queued"]);
    assert_eq!(service.post("bz", &edit(3, true, "is_private")).await, ["dropped"]);
    assert_eq!(service.post("bz", &edit(4, true, "status")).await, ["dropped"]);
    assert_eq!(service.until_rows("default", 2).await, [4711, 4711]);
    let events = service.events(4711).await;
    let states: Vec<State> = events.iter().map(|stored| stored.event.progress.state).collect();
    assert_eq!(states.iter().filter(|state| **state == State::Completed).count(), 2, "{states:?}");
    let dropped = events.iter().filter(|stored| stored.event.progress.state == State::Dropped);
    let reasons: Vec<_> = dropped.map(|stored| stored.event.progress.drop).collect();
    assert_eq!(reasons, [Some(DropReason::Private); 3]);
    // Of what was private, number and time are all that is kept.
    let store = service.hooks.store().unwrap();
    assert_eq!(store.kept_held().await.unwrap(), []);
    assert_eq!(store.body_bytes(), 0);
    service.stop().await;
}

#[tokio::test]
async fn a_source_may_announce_private_bugs() {
    let service = Place::sqlite().await.start(&format!("{BUGZILLA}private = \"announce\"\n")).await;
    assert_eq!(service.post("bz", &edit(1, true, "status")).await, ["queued"]);
    assert_eq!(service.until_rows("default", 1).await, [4711]);
    // From now on it does not.
    service.hooks.reload(read(BUGZILLA)).unwrap();
    assert_eq!(service.post("bz", &edit(2, true, "status")).await, ["dropped"]);
    service.stop().await;
}
