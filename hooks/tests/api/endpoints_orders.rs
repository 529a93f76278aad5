//! What a person orders of an endpoint.

use bugfeed_core::endpoints::policy::Outcome;
use bugfeed_core::endpoints::question::Since;
use bugfeed_hooks::deliver::sign::SigningSecret;
use bugfeed_protocol::{Cursor, When};
use serde_json::{Value, json};

use crate::endpoints::{SECRET, body, fail, shows_nothing_hidden};
use crate::support::{NOON_US, Rig, SECOND_US};

#[tokio::test]
async fn pausing_and_resuming() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let order = async |word: &str| rig.post(&format!("/endpoints/{id}/{word}"), json!({})).await.good();
    let paused = order("pause").await;
    assert_eq!((&paused["state"], &paused["executable"]), (&json!("paused"), &json!(false)));
    assert!(rig.stored(&id).await.row.paused);
    rig.told();
    order("pause").await;
    assert_eq!(rig.told(), [""; 0], "nobody is told of what changes nothing");
    let resumed = order("resume").await;
    assert_eq!((&resumed["state"], &resumed["executable"]), (&json!("active"), &json!(true)));
    let who = format!("{} first", rig.token.id());
    let deeds = ["create", "pause", "resume"].map(|deed| format!("{who} endpoints.{deed} {id}"));
    assert_eq!(rig.audited().await, deeds, "what changes nothing is no deed");
}

#[tokio::test]
async fn enabling_and_resetting() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let order = async |word: &str| rig.post(&format!("/endpoints/{id}/{word}"), json!({})).await.good();
    rig.plan(&id, |row| fail(row, Outcome::Fault, 2)).await;
    rig.plan(&id, |row| fail(row, Outcome::Gone, 1)).await;
    rig.told();
    let reset = order("reset").await;
    assert_eq!((&reset["state"], &reset["reason"]), (&json!("disabled"), &json!("gone")), "410 stays");
    assert_eq!((&reset["backoff_count"], &reset["disabled_until"]), (&json!(0), &Value::Null));
    assert_eq!(rig.told(), [format!("endpoint {id}")]);
    let enabled = order("enable").await;
    assert_eq!((&enabled["state"], &enabled["reason"]), (&json!("active"), &Value::Null));
    assert_eq!(rig.told(), [format!("endpoint {id}")]);
    rig.plan(&id, |row| fail(row, Outcome::Fault, 1)).await;
    let cooling = rig.get(&format!("/endpoints/{id}")).await.good();
    assert_eq!((&cooling["state"], &cooling["backoff_count"]), (&json!("cooling"), &json!(1)));
    assert_eq!(
        (&cooling["disabled_until"], &cooling["next_try"]),
        (&json!("2026-11-26T13:10:00"), &json!("2026-11-26T13:10:00"))
    );
    assert_eq!(order("enable").await["state"], "active");
    assert_eq!(rig.told(), [format!("endpoint {id}")], "it was not disabled");
    rig.post(&format!("/endpoints/{id}/enable"), json!({ "force": true })).await.refused(400, "unknown member `force`");
}

#[tokio::test]
async fn a_secret_is_rotated_and_the_old_one_goes_on_for_a_while() {
    let rig = Rig::start().await;
    let made = rig.post("/endpoints", body()).await.good();
    let (path, old) = (format!("/endpoints/{}", made["id"].as_str().unwrap()), made["secret"].as_str().unwrap());
    let id = bugfeed_hooks::store::endpoints::EndpointId::parse(made["id"].as_str().unwrap()).unwrap();
    let rotated = rig.post(&format!("{path}/rotate"), json!({ "overlap_hours": 1 })).await.good();
    let fresh = rotated["secret"].as_str().unwrap();
    assert!(SigningSecret::parse(fresh).is_ok() && fresh != old);
    assert!(rotated["old_secret_until"].as_str().unwrap().starts_with("2026-11-26T14:0"), "{rotated}");
    let stored = rig.stored(&id).await.settings;
    let (previous, until_us) = stored.previous.clone().unwrap();
    assert_eq!((stored.secret.expose(), previous.expose()), (fresh, old));
    assert!((NOON_US + 2 * 3600 * SECOND_US..NOON_US + 7300 * SECOND_US).contains(&until_us));
    assert!(!rig.get(&path).await.good().to_string().contains("whsec_"));
    // Given, and at once.
    let rotated = rig.post(&format!("{path}/rotate"), json!({ "overlap_hours": 0, "secret": SECRET })).await.good();
    assert_eq!((&rotated["secret"], &rotated["old_secret_until"]), (&json!(SECRET), &Value::Null));
    assert!(rig.stored(&id).await.settings.previous.is_none());
    // The usual time is a day.
    let rotated = rig.post(&format!("{path}/rotate"), json!({})).await.good();
    assert!(rotated["old_secret_until"].as_str().unwrap().starts_with("2026-11-27T13:0"), "{rotated}");
    // Once it is over, nothing is said of it.
    let over = rig.store.change_endpoint(&id, None, |settings, _| {
        settings.previous.as_mut().unwrap().1 = NOON_US;
        Ok::<(), ()>(())
    });
    over.await.unwrap();
    assert_eq!(rig.get(&path).await.good()["old_secret_until"], Value::Null);
    for (sent, want) in [
        (json!({ "overlap_hours": 169 }), "169 is too much"),
        (json!({ "overlap_hours": -1 }), "overlap_hours: a number stands where"),
        (json!({ "secret": "whsec_short" }), "secret: "),
    ] {
        rig.post(&format!("{path}/rotate"), sent).await.refused(400, want);
    }
    let log = rig.get("/audit").await.good();
    shows_nothing_hidden(&log.to_string());
    assert_eq!(log["deeds"][1]["detail"]["given"], true);
    assert_eq!(log["deeds"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_recovery_begins_at_a_cursor_or_a_time() {
    let rig = Rig::start().await;
    let one = rig.endpoint(body()).await;
    let mut both = body();
    both["feeds"] = json!(["default", "kde"]);
    let both = rig.endpoint(both).await;
    let recover = async |id: &str, sent: Value| rig.post(&format!("/endpoints/{id}/recover"), sent).await;
    let told = recover(one.as_str(), json!({ "cursor": "E.42.5e3c9a01" })).await.good();
    assert_eq!(told["cursor"], "E.42.5e3c9a01");
    let row = rig.stored(&one).await.row;
    assert_eq!((row.generation, row.lines[0].turn), (1, 1));
    recover(both.as_str(), json!({ "since": "2026-11-26T11:00:00", "feed": "kde" })).await.good();
    let row = rig.stored(&both).await.row;
    let eleven = When::from_micros(NOON_US - 3600 * SECOND_US).unwrap();
    assert_eq!(row.lines[1].since, Since::Time(eleven));
    assert!(matches!(row.lines[0].since, Since::Time(at) if at > eleven), "the other one stays: {row:?}");
    rig.told();
    for (id, sent, want, fix) in [
        (&one, json!({}), "nothing is said of where to begin", "exactly one"),
        (&one, json!({ "cursor": "E.1", "since": "2026-11-26" }), "or it is said twice", "exactly one"),
        (&one, json!({ "cursor": "E" }), "cursor: 'E'", "as bugfeed gave it"),
        (&one, json!({ "since": "soon" }), "since: 'soon'", "2026-11-26"),
        (&one, json!({ "since": "2027-01-01" }), "since: '2027-01-01'", "in the past"),
        (&one, json!({ "cursor": "E.1", "feed": "kde" }), "no such feed", "its feeds are: default"),
        (&both, json!({ "cursor": "E.1" }), "say which one", "its feeds are: default, kde"),
    ] {
        let refused = recover(id.as_str(), sent).await;
        refused.refused(400, want);
        assert!(refused.body["fix"].as_str().unwrap().contains(fix), "{refused:?}");
    }
    assert_eq!(rig.stored(&both).await.row, row);
    assert_eq!((rig.audited().await.len(), rig.told()), (4, vec![]));
    assert_eq!(rig.stored(&one).await.row.cursor("default"), Cursor::parse("E.42.5e3c9a01").as_ref());
}

#[tokio::test]
async fn orders_that_would_wait_too_long_are_refused() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    for _ in 0..16 {
        let told = rig.post(&format!("/endpoints/{id}/test"), json!({ "wait": 0 })).await.good();
        assert_eq!(told["attempt"], Value::Null);
    }
    let refused = rig.post(&format!("/endpoints/{id}/test"), json!({ "wait": 0 })).await;
    refused.refused(409, "too many orders wait");
    assert_eq!(rig.get(&format!("/endpoints/{id}")).await.good()["orders"], 16);
    assert_eq!(rig.audited().await.len(), 17);
}
