//! Sources and feeds, the overview, and trying a mapping out.

use bugfeed_core::hooks::arrival::Duplicates;
use bugfeed_core::hooks::event::Event;
use bugfeed_core::hooks::event::State;
use bugfeed_core::hooks::lane::Settings;
use bugfeed_hooks::api::switch_on;
use bugfeed_hooks::receive::received::{AnsweredItem as Answered, Failure, Proof, ReceivedItem};
use bugfeed_hooks::store::Rule;
use bugfeed_hooks::store::notes::Switch;
use serde_json::{Value, json};

use crate::support::{NOON_US, Rig, SECOND_US, failed, item, suspect};

#[tokio::test]
async fn the_configuration_as_it_was_read() {
    let rig = Rig::start().await;
    rig.arrive(item(1, 0, "a")).await;
    let told = rig.get("/sources").await.good();
    let plain = &told["sources"][0];
    assert_eq!((&plain["name"], &plain["preset"], &plain["bodies"]), (&json!("plain"), &json!("plain"), &json!("all")));
    assert_eq!((&plain["last_request"], &plain["silent_seconds"]), (&json!("2026-11-26T12:00:00"), &json!(3600)));
    let tracked = &told["sources"][1];
    assert_eq!((&tracked["feeds"], &tracked["reconcile_seconds"]), (&json!(["kde"]), &json!(300)));
    assert_eq!((&tracked["sender"], &tracked["last_request"]), (&json!({ "webhooks": 1 }), &Value::Null));
    let signed = &told["sources"][2];
    assert_eq!((&signed["secrets"], &signed["keys"]), (&json!(1), &json!([])));
    assert_eq!(told["feeds"], json!([{ "name": "default", "off_since": null }, { "name": "kde", "off_since": null }]));
    let overview = rig.get("/overview").await.good();
    assert_eq!((&overview["backlog"], &overview["dead_letters"]), (&json!(1), &json!(0)));
    assert_eq!(overview["warnings"], json!(["the spool holds 3 requests"]));
    assert_eq!(overview["keys"]["active"], 0);
}

/// A source of which everything is refused does not look healthy because something comes.
#[tokio::test]
async fn what_comes_is_not_what_is_taken() {
    let rig = Rig::start().await;
    rig.post("/keys", json!({ "name": "k", "scopes": { "sources": ["plain"] } })).await.good();
    let mut ping = rig.request(Vec::new());
    ping.answered = vec![Answered { index: 0, is_connected: true, kind: "ping".to_owned(), delivery: None }];
    rig.store.accept(&[&ping]).await.unwrap();
    let requests = async || rig.post("/sources/plain/test", json!({})).await.good()["checks"][2].clone();
    assert_eq!(requests().await["good"], true);
    // One of yesterday, two of this hour, one for a source that is not configured.
    for (hours, source) in [(-30, "plain"), (0, "plain"), (0, "plain"), (0, "misspelt")] {
        let mut refused = suspect(NOON_US + (hours * 3600 + 60) * SECOND_US, "{}", Proof::default());
        refused.envelope.source = source.to_owned();
        rig.store.quarantine(&refused).await.unwrap();
    }
    let told = rig.get("/sources").await.good();
    let plain = &told["sources"][0];
    assert_eq!(plain["last_request"], json!("2026-11-26T12:01:00"));
    assert_eq!(plain["silent_seconds"], 3600, "what is refused does not end a silence");
    let overview = rig.get("/overview").await.good();
    assert_eq!(overview["sources"][0]["last_request"], json!("2026-11-26T12:01:00"));
    assert_eq!(overview["sources"][0]["silent_seconds"], 3600);
    assert_eq!(
        (&plain["last_taken"], &plain["connected"]),
        (&json!("2026-11-26T12:00:00"), &json!("2026-11-26T12:00:00"))
    );
    assert_eq!(plain["refused"], json!({ "day": 2, "kept": 3 }));
    assert_eq!(told["unknown_sources"], json!({ "refused": { "day": 1, "kept": 1 } }));
    let tracked = &told["sources"][1];
    assert_eq!((&tracked["last_taken"], &tracked["connected"]), (&Value::Null, &Value::Null));
    assert_eq!(tracked["refused"], json!({ "day": 0, "kept": 0 }));
    let check = requests().await;
    let says = check["says"].as_str().unwrap();
    assert_eq!(check["good"], false);
    assert!(says.contains("3540 s ago and was refused; the last that was taken came 3600 s ago"), "{says}");
    assert!(says.contains("2 were refused in the last 24 h: bugfeed requests list"), "{says}");
}

#[tokio::test]
async fn switches() {
    let rig = Rig::start().await;
    let post = async |path: &str| rig.post(path, json!({})).await;
    let off = post("/sources/plain/disable").await.good();
    assert!(off["off_since"].as_str().unwrap().starts_with("2026-11-26T13:"), "{off}");
    assert_eq!(post("/sources/plain/disable").await.good(), off, "since then");
    assert!(post("/feeds/kde/disable").await.good()["off_since"].is_string());
    assert!(rig.get("/sources").await.good()["sources"][0]["off_since"].is_string());
    assert_eq!(post("/sources/plain/enable").await.good(), json!({ "source": "plain", "off_since": null }));
    assert_eq!(post("/sources/plain/enable").await.good()["off_since"], Value::Null);
    assert_eq!(post("/feeds/kde/enable").await.good(), json!({ "feed": "kde", "off_since": null }));
    for path in ["/sources/none/disable", "/feeds/none/enable", "/sources/none/test", "/sources/none/reconcile"] {
        post(path).await.refused(404, "'none'");
    }
    // One that has left the configuration can be switched on still.
    rig.store.set_switch(Switch::Source, "gone", Some(1)).await.unwrap();
    assert_eq!(post("/sources/gone/enable").await.status, 200);
    let told = ["Source plain false", "Feed kde false", "Source plain true", "Feed kde true", "Source gone true"];
    assert_eq!(rig.told(), told);
    let who = format!("{} first", rig.token.id());
    let deeds = [
        "sources.disable plain",
        "feeds.disable kde",
        "sources.enable plain",
        "feeds.enable kde",
        "sources.enable gone",
    ];
    assert_eq!(rig.audited().await, deeds.map(|deed| format!("{who} {deed}")));
}

#[tokio::test]
async fn what_has_waited_is_queued_when_it_is_switched_on() {
    let rig = Rig::start().await;
    let settings = Settings { on: false, ..Settings::DEFAULT };
    rig.store.set_rules(std::sync::Arc::new(move |_: &Event| Rule { settings, duplicates: Duplicates::ByContent }));
    let mut ids = Vec::new();
    for number in 0..1100 {
        ids.push(rig.arrive(item(number + 1, 0, "a")).await);
    }
    assert_eq!(rig.state(ids[5]).await, State::Disabled);
    assert_eq!(switch_on(&rig.store, Switch::Feed, "kde", NOON_US + SECOND_US).await.unwrap(), 0);
    assert_eq!(switch_on(&rig.store, Switch::Source, "plain", NOON_US + SECOND_US).await.unwrap(), 1100);
    assert_eq!(rig.state(ids[1099]).await, State::Queued);
}

#[tokio::test]
async fn questions_to_a_tracker() {
    let rig = Rig::start().await;
    let post = async |path: &str| rig.post(path, json!({})).await;
    post("/sources/plain/reconcile").await.refused(409, "'plain' is not reconciled");
    let begun = post("/sources/tracked/reconcile").await;
    assert_eq!((begun.status, &begun.body["source"]), (202, &json!("tracked")));
    assert_eq!(rig.told(), ["reconcile tracked"]);
    assert_eq!(rig.audited().await, [format!("{} first sources.reconcile tracked", rig.token.id())]);
    let test = post("/sources/plain/test").await.good();
    let good = |test: &Value| -> Vec<bool> {
        test["checks"].as_array().unwrap().iter().map(|check| check["good"].as_bool().unwrap()).collect()
    };
    assert_eq!((good(&test), &test["good"]), (vec![true, false, false, true, true], &json!(false)), "{test}");
    rig.post("/keys", json!({ "name": "k", "scopes": { "sources": ["plain"] } })).await.good();
    rig.arrive(item(1, 0, "a")).await;
    assert_eq!(post("/sources/plain/test").await.good()["good"], true);
    post("/feeds/default/disable").await.good();
    let test = post("/sources/plain/test").await.good();
    assert_eq!(test["checks"][0]["says"], "feed default is switched off");
    let test = post("/sources/unsigned/test").await.good();
    assert_eq!(good(&test), [true, false, false, true, true]);
    let says = test["checks"][1]["says"].as_str().unwrap();
    assert!(says.contains("secret_file") && says.contains("path_key = true"), "{says}");
    assert_eq!(good(&post("/sources/signed/test").await.good()), [true, true, false, true, true]);
}

#[tokio::test]
async fn a_mapping_is_tried_out() {
    let rig = Rig::start().await;
    let request = r#"{"changes":[{"bug":5}]}"#;
    let told = rig.post("/mapping/try", json!({ "source": "plain", "request": request })).await.good();
    assert_eq!(told["good"], true);
    assert!(told["text"].as_str().unwrap().contains("bug 5"), "{told}");
    let config = "[[source]]\nname = \"own\"\nbug = \"/n\"\n";
    let told = rig.post("/mapping/try", json!({ "config": config, "request": "{\"n\":8}" })).await.good();
    assert_eq!((&told["source"], &told["good"]), (&json!("own"), &json!(true)));
    for (body, want) in [
        (json!({}), "there is no request"),
        (json!({ "request": "{}" }), "no source is named"),
        (json!({ "request": "{}", "source": "none" }), "no source is named"),
        (json!({ "request": "{}", "config": "[[source]]" }), "config"),
        (
            json!({ "request": "{}", "config": "[[source]]\nname = \"s\"\npreset = \"github\"\nsecret_file = \"/etc/passwd\"" }),
            "not read",
        ),
    ] {
        rig.post("/mapping/try", body).await.refused(400, want);
    }
}

#[tokio::test]
async fn a_mapping_that_fails_for_everything_is_not_good() {
    let rig = Rig::start().await;
    let check = async || {
        let test = rig.post("/sources/plain/test", json!({})).await.good();
        let check = test["checks"].as_array().unwrap().iter().find(|check| check["what"] == "mapping").unwrap().clone();
        (check["good"] == true, check["says"].as_str().unwrap().to_owned())
    };
    assert!(check().await.0);
    rig.arrive(item(1, 0, "good")).await;
    rig.arrive(failed("a")).await;
    rig.arrive(failed("b")).await;
    let (is_good, says) = check().await;
    assert!(
        !is_good && says.contains("the last 2 requests") && says.contains("bugfeed dead-letters --source plain"),
        "{says}"
    );
    let errored = rig.get("/sources").await.good()["sources"][0]["errored"].clone();
    assert_eq!(errored, json!({ "day": 2, "dead_letters": 2, "in_a_row": 2 }));
    // One good request shows that the mapping works; a date that cannot be read is no error.
    let remark = Failure { error: "the date cannot be read".to_owned(), fix: "tell its form".to_owned() };
    rig.arrive(ReceivedItem { failure: Some(remark), ..item(5, 0, "odd") }).await;
    let (is_good, says) = check().await;
    assert!(is_good && says.contains("2 dead letters wait"), "{says}");
    rig.arrive(failed("c")).await;
    assert!(!check().await.0);
    rig.post("/events/drop", json!({ "source": "plain" })).await.good();
    assert!(check().await.0, "nothing waits");
}
