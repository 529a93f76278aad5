//! Requests, and receiving them again.

use bugfeed_core::hooks::event::State;
use bugfeed_hooks::receive::key::{Key, RANDOM_BYTES};
use bugfeed_hooks::receive::received::{Proof, ReceivedItem, ReceivedRequest, RequestId};
use bugfeed_hooks::store::keys::{KeyScopes, StoredKey};
use bugfeed_hooks::store::tokens::Scope;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::{NOON_US, Rig, SECOND_US, failed, item, suspect};

const BODY: &str = r#"{"changes":[{"bug":77,"when":"2026-11-26T11:00:00"}]}"#;

async fn with_body(rig: &Rig, body: &[u8]) -> ReceivedRequest {
    let mut request = rig.request(vec![item(77, 0, "")]);
    request.envelope.body = Some(body.to_vec().into());
    rig.store.accept(&[&request]).await.unwrap();
    request
}

#[tokio::test]
async fn lists_and_one_with_its_events_and_its_body() {
    let rig = Rig::start().await;
    let good = with_body(&rig, BODY.as_bytes()).await.envelope.id;
    let odd = with_body(&rig, &[255, 0, 1]).await.envelope.id;
    let bad = rig.request(vec![failed("x")]);
    rig.store.accept(&[&bad]).await.unwrap();
    let refused = suspect(NOON_US + SECOND_US, "hidden-body", Proof::default());
    rig.store.quarantine(&refused).await.unwrap();
    let by = async |query: &str| -> Vec<Value> {
        let page = rig.get(&format!("/requests?{query}")).await.good();
        page["requests"].as_array().unwrap().iter().map(|request| request["id"].clone()).collect()
    };
    let text = |id| json!(format!("{id}"));
    assert_eq!(by("").await, [text(refused.envelope.id), text(bad.envelope.id), text(odd), text(good)]);
    assert_eq!(by("state=quarantined").await, [text(refused.envelope.id)]);
    let listed = rig.get("/requests").await.good();
    let why = |place: usize| (listed["requests"][place]["error"].clone(), listed["requests"][place]["fix"].clone());
    assert_eq!((why(0), why(1)), ((json!("the key is not known"), json!("make one")), (Value::Null, Value::Null)));
    assert_eq!(by("state=error&source=plain&key=abcdef").await, [text(bad.envelope.id)]);
    assert_eq!(by("to=2026-11-26T12:00:00.001").await, [text(good)]);
    rig.get("/requests?state=good").await.refused(400, "state: 'good'");

    let one = rig.get(&format!("/requests/{good}?body=true")).await.good();
    assert_eq!((&one["body"], &one["body_base64"], &one["events"][0]["bug"]), (&json!(BODY), &Value::Null, &json!(77)));
    let one = rig.get(&format!("/requests/{odd}?body=true")).await.good();
    assert_eq!((&one["body"], &one["body_base64"]), (&Value::Null, &json!("/wAB")));
    let one = rig.get(&format!("/requests/{}", refused.envelope.id)).await.good();
    assert_eq!((&one["share"], &one["error"]), (&json!("known_source"), &json!("the key is not known")));
    assert!(one.get("body").is_none(), "only if it is asked for");
    let read = rig.token_with(&[Scope::Read]).await;
    let asked = rig.call(&read, Method::GET, &format!("/requests/{good}?body=true"), "").await;
    asked.refused(403, "needs a token with the scope raw");
    rig.get("/requests/01a1ee56-5e7b-7fff-bfff-ffff7fffffff").await.refused(404, "no request");
}

#[tokio::test]
async fn a_request_is_received_again_if_its_body_was_kept() {
    let rig = Rig::start().await;
    let first = with_body(&rig, BODY.as_bytes()).await;
    let told = rig.post(&format!("/requests/{}/replay", first.envelope.id), json!({})).await.good();
    let event = told["events"][0]["event"].as_str().unwrap();
    assert_eq!((&told["events"][0]["state"], &told["error"]), (&json!("queued"), &Value::Null));
    let again = rig.get(&format!("/requests/{}", told["request"].as_str().unwrap())).await.good();
    assert_eq!(
        (&again["replays"], &again["events"][0]["trigger"]),
        (&json!(first.envelope.id.to_string()), &json!("replay"))
    );
    assert_eq!(rig.get(&format!("/events/{event}")).await.good()["bug"], 77);
    let bare = rig.request(vec![item(1, 0, "x")]);
    rig.store.accept(&[&bare]).await.unwrap();
    let path = format!("/requests/{}/replay", bare.envelope.id);
    rig.post(&path, json!({})).await.refused(409, "body was not kept");
    rig.post(&path, json!({ "trusted": true })).await.refused(400, "unknown member `trusted`");
    assert_eq!(rig.told(), ["wake"]);
    assert_eq!(rig.audited().await, [format!("{} first requests.replay {}", rig.token.id(), first.envelope.id)]);
}

#[tokio::test]
async fn what_a_key_may_not_send_is_not_announced_by_receiving_it_again() {
    let rig = Rig::start().await;
    let key = stored("abcdef", KeyScopes { sources: None, feeds: Some(vec!["kde".to_owned()]) });
    rig.store.add_key(&key).await.unwrap();
    let first = with_body(&rig, BODY.as_bytes()).await;
    let told = rig.post(&format!("/requests/{}/replay", first.envelope.id), json!({})).await.good();
    assert_eq!(
        (&told["events"][0]["state"], &told["events"][0]["reason"]),
        (&json!("dropped"), &json!("project_mismatch"))
    );
}

fn stored(id: &str, scopes: KeyScopes) -> StoredKey {
    let hash = Key::generate(&[9; RANDOM_BYTES]).hash();
    StoredKey {
        id: id.to_owned(),
        hash,
        previous: None,
        name: "k".to_owned(),
        owner: String::new(),
        scopes,
        created_us: NOON_US,
        expires_us: None,
        used_us: None,
        revoked_us: None,
    }
}

#[tokio::test]
async fn the_body_of_an_unknown_source_is_not_there_to_be_received_again() {
    let rig = Rig::start().await;
    for (body, want) in [(None, "its body was not kept"), (Some(BODY), "add it to the configuration")] {
        let mut refused = suspect(NOON_US, BODY, Proof::default());
        refused.envelope.id = RequestId::new(NOON_US, rand::random());
        refused.envelope.source = "nobody".to_owned();
        refused.envelope.body = body.map(Into::into);
        rig.store.quarantine(&refused).await.unwrap();
        let answer = rig.post(&format!("/requests/{}/replay", refused.envelope.id), json!({})).await;
        answer.refused(409, "there is no source 'nobody' now");
        assert!(answer.body["fix"].as_str().unwrap().starts_with(want), "{answer:?}");
    }
}

#[tokio::test]
async fn the_way_out_of_quarantine() {
    let rig = Rig::start().await;
    let key = stored("abcdef", KeyScopes::default());
    let proof = Proof { key: Some(key.hash), signature: Vec::new() };
    let refused = suspect(NOON_US, BODY, proof);
    rig.store.quarantine(&refused).await.unwrap();
    let path = format!("/requests/{}/replay", refused.envelope.id);
    rig.post(&path, json!({})).await.refused(409, "still refused: the key is not known");
    // The key is there now.
    rig.store.add_key(&key).await.unwrap();
    let told = rig.post(&path, json!({})).await.good();
    assert_eq!(told["events"][0]["state"], "queued");
    let again = told["request"].as_str().unwrap();
    let gone = rig.post(&path, json!({})).await;
    gone.refused(404, &format!("has left the quarantine: it was received again as {again}"));
    assert!(gone.body["fix"].as_str().unwrap().contains(&format!("requests show {again}")));
    rig.get(&format!("/requests/{}", refused.envelope.id)).await.refused(404, again);
    // Nobody vouches for this one but the caller.
    let other = suspect(NOON_US + SECOND_US, BODY, Proof::default());
    rig.store.quarantine(&other).await.unwrap();
    let path = format!("/requests/{}/replay", other.envelope.id);
    let answer = rig.post(&path, json!({})).await;
    answer.refused(409, "still refused");
    assert!(
        answer.body["fix"]
            .as_str()
            .unwrap()
            .contains(&format!("bugfeed requests replay {} --trust", other.envelope.id)),
        "{answer:?}"
    );
    let told = rig.post(&path, json!({ "trust": true })).await.good();
    let id = told["events"][0]["event"].as_str().unwrap();
    assert!(["queued", "duplicate"].contains(&told["events"][0]["state"].as_str().unwrap()), "{told}");
    assert_eq!(rig.get(&format!("/events/{id}")).await.good()["bug"], 77);
    let deeds = rig.get("/audit").await.good();
    assert_eq!(deeds["deeds"][0]["detail"]["trust"], true);
    assert_eq!(rig.store.quarantine_held().await.unwrap(), []);
}

/// A request that nothing could be read of, with this body.
async fn unread(rig: &Rig, body: &str) -> ReceivedRequest {
    let mut request = rig.request(vec![ReceivedItem { kept: None, is_dated: false, ..failed("") }]);
    request.failure.clone_from(&request.items[0].failure);
    request.envelope.body = Some(body.to_owned().into());
    rig.store.accept(&[&request]).await.unwrap();
    request
}

#[tokio::test]
async fn a_request_that_nothing_could_be_read_of_is_received_again_as_a_whole() {
    let rig = Rig::start().await;
    let two = r#"{"changes":[{"bug":77},{"bug":78},{"bug":"x"}]}"#;
    let first = unread(&rig, two).await;
    let (id, dead) = (first.envelope.id, first.envelope.id.event(0));
    assert_eq!(rig.get(&format!("/events/{dead}")).await.good()["body_kept"], true);
    let command = format!("bugfeed requests replay {id}");
    let refused = rig.post(&format!("/events/{dead}/retry"), json!({})).await;
    refused.refused(409, "only the whole request");
    assert!(refused.body["fix"].as_str().unwrap().contains(&command), "{refused:?}");
    let told = rig.post("/events/retry", json!({ "state": "errored" })).await.good();
    let why = told["refused"][0]["error"].as_str().unwrap();
    assert!(why.contains(&command) && !why.contains("not kept"), "{told}");

    let told = rig.post(&format!("/requests/{id}/replay"), json!({})).await.good();
    let events = told["events"].as_array().unwrap();
    let states: Vec<&str> = events.iter().map(|event| event["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["queued", "queued", "errored"]);
    for event in events {
        assert_eq!(event["links"], json!([{ "kind": "same_delivery_as", "event": dead.to_string() }]), "it exists");
    }
    let ended = rig.get(&format!("/events/{dead}")).await.good();
    assert_eq!(ended["state"], "canceled");
    assert_eq!(ended["links"], json!([{ "kind": "canceled_by", "event": events[0]["event"] }]));
    let line = ended["lines"].as_array().unwrap().last().unwrap();
    assert!(line["at"].as_str().unwrap() > "2026-11-26T13", "when it was received again: {line}");
    // What failed still is a dead letter of its own.
    let dead: Vec<_> = rig.get("/dead-letters").await.good()["dead_letters"].as_array().unwrap().clone();
    assert_eq!((dead.len(), &dead[0]["id"]), (1, &events[2]["event"]));
}

#[tokio::test]
async fn receiving_again_what_cannot_be_read_still_leaves_no_second_dead_letter() {
    let rig = Rig::start().await;
    let first = unread(&rig, "no JSON").await;
    let answer = rig.post(&format!("/requests/{}/replay", first.envelope.id), json!({})).await;
    answer.refused(409, "nothing can be taken from it still: the body is not JSON");
    assert_eq!(rig.get("/dead-letters").await.good()["total"], 1);
    // Nothing became an event, and nothing waits.
    let empty = unread(&rig, r#"{"changes":[]}"#).await;
    rig.post(&format!("/requests/{}/replay", empty.envelope.id), json!({})).await.good();
    let event = rig.get(&format!("/events/{}", empty.envelope.id.event(0))).await.good();
    assert_eq!((&event["state"], &event["reason"]), (&json!("dropped"), &json!("by_hand")));
}

#[tokio::test]
async fn a_dead_letter_of_an_item_ends_too_when_its_request_comes_through() {
    let rig = Rig::start().await;
    let mut request = rig.request(vec![item(76, 0, "a"), failed("b")]);
    request.envelope.body = Some(r#"{"changes":[{"bug":76,"id":"a"},{"bug":77,"id":"b"}]}"#.into());
    rig.store.accept(&[&request]).await.unwrap();
    rig.post(&format!("/requests/{}/replay", request.envelope.id), json!({})).await.good();
    let states = [0, 1].map(|index| rig.state(request.envelope.id.event(index)));
    let [first, second] = states;
    assert_eq!((first.await, second.await), (State::Queued, State::Canceled));
}
