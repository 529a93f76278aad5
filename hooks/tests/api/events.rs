//! Events, dead letters, orders, the way of a bug, pruning.

use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{EventId, State};
use bugfeed_hooks::receive::received::{Failure, ReceivedItem};
use bugfeed_hooks::store::tokens::Scope;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When};
use hyper::Method;
use serde_json::{Value, json};

use crate::support::{NOON_US, Rig, SECOND_US, failed, item};

fn ids(page: &Value) -> Vec<String> {
    page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn filters_and_one_event_with_its_history() {
    let rig = Rig::start().await;
    let first = rig.arrive(item(1, 0, "a")).await;
    let of_kde = rig.arrive(ReceivedItem { feed: "kde".to_owned(), ..item(2, 0, "b") }).await;
    rig.work(NOON_US + SECOND_US).await;
    let repeat = rig.arrive(item(1, 0, "a")).await;
    let errored = rig.arrive(failed("c")).await;
    let by = async |query: &str| ids(&rig.get(&format!("/events?{query}")).await.good());
    let text = |id: EventId| id.to_string();
    assert_eq!(by("").await, [errored, repeat, of_kde, first].map(text));
    assert_eq!(by("state=completed").await, [of_kde, first].map(text));
    assert_eq!(by("feed=kde").await, [text(of_kde)]);
    assert_eq!(by("bug=1&state=duplicate").await, [text(repeat)]);
    assert_eq!(by("source=other").await, [""; 0]);
    assert_eq!(by("from=2026-11-26T12:00:00.001&to=2026-11-26T12:00:00.003").await, [repeat, of_kde].map(text));
    let event = rig.get(&format!("/events/{first}")).await.good();
    assert_eq!((&event["state"], &event["row"], &event["bug"]), (&json!("completed"), &json!(1), &json!(1)));
    assert_eq!(event["linked_by"], json!([{ "kind": "duplicate_of", "event": text(repeat) }]));
    assert_eq!(rig.get(&format!("/events/{repeat}")).await.good()["links"][0]["event"], text(first));
    let event = rig.get(&format!("/events/{errored}")).await.good();
    assert_eq!((&event["class"], &event["error"]), (&json!("mapping"), &json!("there is no number of a bug")));
    assert_eq!(event["lines"][0]["cause"], "mapping_failed");
    assert!(event["next_try"].is_string() && event["expires"].is_string());
    let none = EventId(7);
    rig.get(&format!("/events/{none}")).await.refused(404, "no event");
}

#[tokio::test]
async fn items_and_headers_are_masked_without_the_scope_raw() {
    let rig = Rig::start().await;
    let errored = rig.arrive(failed("c")).await;
    let read = rig.token_with(&[Scope::Read]).await;
    for path in
        [format!("/events/{errored}"), "/requests".to_owned(), "/dead-letters/export".to_owned(), "/sources".to_owned()]
    {
        let masked = rig.call(&read, Method::GET, &path, "").await.good().to_string();
        assert!(!masked.contains("hidden"), "{path}: {masked}");
        let raw = rig.get(&path).await.good().to_string();
        assert!(raw.contains("hidden") && !raw.contains("hidden-secret"), "{path}: {raw}");
    }
    let masked = rig.call(&read, Method::GET, "/requests", "").await.good();
    let headers = json!([["User-Agent", "test"], ["X-Person", "…"], ["Content-Type", "application/json"]]);
    assert_eq!(masked["requests"][0]["headers"], headers);
}

#[tokio::test]
async fn orders_about_one() {
    let rig = Rig::start().await;
    let done = rig.arrive(item(1, 0, "done")).await;
    rig.work(NOON_US + SECOND_US).await;
    let dead = rig.arrive(failed("dead")).await;
    let order = async |id: EventId, order: &str| rig.post(&format!("/events/{id}/{order}"), json!({})).await;
    for word in ["retry", "drop", "release"] {
        order(done, word).await.refused(409, "the event is completed");
        order(EventId(7), word).await.refused(404, "no event");
    }
    assert_eq!(rig.told(), [""; 0]);
    let released = order(dead, "release").await.good();
    assert_eq!((&released["state"], &released["released"]), (&json!("errored"), &json!(true)));
    let retried = order(dead, "retry").await.good();
    assert_eq!((&retried["state"], &retried["trigger"]), (&json!("queued"), &json!("manual")));
    let dropped = order(dead, "drop").await.good();
    assert_eq!((&dropped["state"], &dropped["reason"]), (&json!("dropped"), &json!("by_hand")));
    order(dead, "drop").await.refused(409, "the event is dropped");
    assert_eq!(rig.told(), ["wake"; 3]);
    let who = format!("{} first", rig.token.id());
    let deeds: Vec<String> =
        ["release", "retry", "drop"].iter().map(|word| format!("{who} events.{word} {dead}")).collect();
    assert_eq!(rig.audited().await, deeds);
}

#[tokio::test]
async fn dead_letters_with_their_chains() {
    let rig = Rig::start().await;
    assert_eq!(rig.get("/dead-letters").await.good(), json!({ "dead_letters": [], "total": 0, "next": null }));
    let mut dead = Vec::new();
    for number in 0..3 {
        dead.push(rig.arrive(failed(&number.to_string())).await.to_string());
    }
    let page = rig.get("/dead-letters?limit=2").await.good();
    let letters = page["dead_letters"].as_array().unwrap();
    assert_eq!((letters.len(), &page["total"], &letters[0]["id"]), (2, &json!(3), &json!(dead[2])));
    assert_eq!((&letters[0]["error"], &letters[0]["waiting"]), (&json!("there is no number of a bug"), &json!(0)));
    let after = page["next"].as_str().unwrap();
    let rest = rig.get(&format!("/dead-letters?after={after}")).await.good();
    assert_eq!((&rest["dead_letters"][0]["id"], &rest["next"]), (&json!(dead[0]), &Value::Null));
    assert_eq!(rig.get("/dead-letters?source=other").await.good()["dead_letters"], json!([]));
    let files = rig.get("/dead-letters/export").await.good();
    assert_eq!(files["files"][0]["path"], format!("without-bug/{}.json", dead[2]));
    assert_eq!(files["files"][0]["event"]["kept_item"]["headers"], json!([["X-Event", "e"]]));
}

#[tokio::test]
async fn what_was_not_kept_has_no_next_try_and_is_named() {
    let rig = Rig::start().await;
    let lost = rig.arrive(ReceivedItem { kept: None, ..failed("lost") }).await;
    let kept = rig.arrive(failed("kept")).await;
    let letters = rig.get("/dead-letters").await.good()["dead_letters"].as_array().unwrap().clone();
    let next = |id: EventId| &letters.iter().find(|letter| letter["id"] == id.to_string()).unwrap()["next_try"];
    assert!(next(lost).is_null() && next(kept).is_string());
    let told = rig.post("/events/retry", json!({ "source": "plain" })).await.good();
    assert_eq!((&told["done"], &told["skipped"]), (&json!(1), &json!(1)));
    assert_eq!(told["refused"][0]["event"], lost.to_string());
    assert!(told["refused"][0]["error"].as_str().unwrap().contains("not kept"), "{told}");
}

#[tokio::test]
async fn a_remark_is_no_error_and_a_dropped_event_may_have_no_feed() {
    let rig = Rig::start().await;
    let remark = Failure { error: "the date cannot be read".to_owned(), fix: "tell its form".to_owned() };
    let odd = rig.arrive(ReceivedItem { failure: Some(remark.clone()), ..item(5, 0, "odd") }).await;
    let shown = rig.get(&format!("/events/{odd}")).await.good();
    assert_eq!((&shown["error"], &shown["note"]), (&Value::Null, &json!(remark)));
    let nowhere = ReceivedItem { feed: String::new(), mapping: Mapping::NotMapped, ..item(5, 0, "nowhere") };
    let nowhere = rig.arrive(nowhere).await;
    let shown = rig.get(&format!("/events/{nowhere}")).await.good();
    assert_eq!((&shown["state"], &shown["feed"], &shown["links"]), (&json!("dropped"), &Value::Null, &json!([])));
    assert_eq!(rig.get("/bugs/5").await.good()["steps"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_way_of_a_bug() {
    let rig = Rig::start().await;
    let first = rig.arrive(item(1234, 0, "a")).await;
    rig.work(NOON_US + SECOND_US).await;
    let repeat = rig.arrive(item(1234, 0, "a")).await;
    let waiting = rig.arrive(item(1234, 5, "b")).await;
    let says = async || {
        let way = rig.get("/bugs/1234").await.good();
        let steps = way["steps"].as_array().unwrap().clone();
        let said = |id: EventId| steps.iter().find(|step| step["id"] == id.to_string()).unwrap()["says"].clone();
        assert_eq!(steps[0]["came_with"]["address"], "192.0.2.1");
        [said(first), said(repeat), said(waiting)]
    };
    let [done, twice, queued] = says().await;
    assert_eq!(done, "written as row 1; not published yet, or its number is not known here yet");
    assert_eq!(twice, format!("repeats {first}"));
    assert!(queued.as_str().unwrap().starts_with("waits to be processed"), "{queued}");
    let when = When::from_micros(NOON_US).unwrap();
    let cursor = Cursor::new(Epoch::parse("e").unwrap(), 42);
    let change = Change { bug: BugId::new(1234).unwrap(), when };
    rig.store.match_changes("default", &[Numbered { change, cursor, after: None, recorded: when }]).await.unwrap();
    assert_eq!(says().await[0], "announced as e.42");
    assert_eq!(rig.get("/bugs/1234?feed=kde").await.good()["steps"], json!([]));
    assert_eq!(rig.get("/bugs/1234?limit=1").await.good()["steps"].as_array().unwrap().len(), 1);
    rig.get("/bugs/0").await.refused(400, "bug: '0'");
}

#[tokio::test]
async fn pruning_counts_first() {
    let rig = Rig::start().await;
    let done = rig.arrive(item(1, 0, "done")).await;
    rig.work(NOON_US + SECOND_US).await;
    let waiting = rig.arrive(item(2, 0, "waiting")).await;
    let errored = rig.arrive(failed("dead")).await;
    rig.post("/prune", json!({ "dry_run": true })).await.refused(400, "nothing is said");
    rig.post("/prune", json!({ "source": "plain" })).await.refused(400, "dry_run is not said");
    rig.post("/prune", json!({ "bug": 1, "dry_run": true })).await.refused(400, "unknown member `bug`");
    rig.post("/prune", json!({ "request": "x", "dry_run": true })).await.refused(400, "request: 'x'");
    let counted = rig.post("/prune", json!({ "key": "abcdef", "dry_run": true })).await.good();
    let events = json!({ "completed": 1, "queued": 1, "errored": 1 });
    assert_eq!(counted, json!({ "dry_run": true, "requests": 3, "events": events, "complete": true }));
    assert_eq!((rig.state(waiting).await, rig.audited().await.len()), (State::Queued, 0));
    let pruned = rig.post("/prune", json!({ "key": "abcdef", "dry_run": false })).await.good();
    assert_eq!(pruned, json!({ "dry_run": false, "canceled": 2, "erased": 1, "left": 0, "complete": true }));
    for id in [waiting, errored] {
        assert_eq!(rig.state(id).await, State::Canceled);
    }
    assert_eq!(rig.state(done).await, State::Completed);
    let who = format!("{} first", rig.token.id());
    assert_eq!(rig.audited().await, [format!("{who} prune abcdef"), format!("{who} prune.done abcdef")]);
}
