//! Thousands of rows: pages, and orders about many.

use bugfeed_core::hooks::event::State;
use serde_json::{Value, json};

use crate::support::{NOON_US, Rig, SECOND_US, failed, item};

/// All pages of a list, together.
async fn all(rig: &Rig, path: &str, member: &str, limit: usize) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let page = rig.get(&format!("{path}{sign}limit={limit}{after}")).await.good();
        let rows = page[member].as_array().unwrap().clone();
        assert!(rows.len() <= limit);
        found.extend(rows);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn pages_over_thousands_of_rows() {
    let rig = Rig::start().await;
    let mut want = Vec::new();
    for number in 0..50 {
        let requests: Vec<_> = (0..10)
            .map(|n| rig.request((0..5).map(|i| item(number * 10 + n + 1, i, &i.to_string())).collect()))
            .collect();
        let refs: Vec<_> = requests.iter().collect();
        rig.store.accept(&refs).await.unwrap();
        want.extend(requests.iter().flat_map(|request| (0..5).map(|i| request.envelope.id.event(i).to_string())));
    }
    want.reverse();
    let found =
        |rows: Vec<Value>| -> Vec<String> { rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect() };
    assert_eq!(found(all(&rig, "/events", "events", 1000).await), want);
    assert_eq!(found(all(&rig, "/events?state=queued", "events", 333).await), want);
    let requests = found(all(&rig, "/requests", "requests", 77).await);
    assert_eq!(requests.len(), 500);
    assert!(requests.is_sorted_by(|a, b| a > b));
    rig.work(NOON_US + 100 * SECOND_US).await;
    let completed = all(&rig, "/events?state=completed&source=plain", "events", 1000).await;
    let dropped = all(&rig, "/events?state=dropped", "events", 1000).await;
    assert_eq!(completed.len() + dropped.len(), 2500);
}

#[tokio::test]
async fn orders_about_many_are_counted_first_and_need_a_filter() {
    let rig = Rig::start().await;
    for number in 0..120 {
        let items = (0..10).map(|i| failed(&format!("{number} {i}"))).collect();
        let request = rig.request(items);
        rig.store.accept(&[&request]).await.unwrap();
    }
    let queued = rig.arrive(item(9, 0, "queued")).await;
    for path in ["/events/retry", "/events/drop"] {
        rig.post(path, json!({})).await.refused(400, "nothing is said");
        rig.post(path, json!({ "dry_run": true })).await.refused(400, "nothing is said");
        rig.post(path, json!({ "state": "completed" })).await.refused(400, "events that are completed");
        rig.post(path, json!({ "state": "x" })).await.refused(400, "state: 'x'");
        rig.post(path, json!({ "sorce": "plain" })).await.refused(400, "unknown member `sorce`");
        rig.post(path, json!({ "bug": 0 })).await.refused(400, "bug: '0'");
    }
    rig.post("/events/retry", json!({ "state": "queued" })).await.refused(400, "events that are queued");
    let counted = rig.post("/events/retry", json!({ "source": "plain", "dry_run": true })).await.good();
    assert_eq!((&counted["done"], &counted["skipped"], &counted["next"]), (&json!(1200), &json!(0), &Value::Null));
    assert_eq!(counted["sample"].as_array().unwrap().len(), 10);
    assert_eq!((rig.audited().await.len(), rig.told().len()), (0, 0));
    let retried = rig.post("/events/retry", json!({ "source": "plain" })).await.good();
    assert_eq!(retried["done"], 1200);
    assert_eq!(rig.get("/dead-letters").await.good()["total"], 0);
    assert_eq!(rig.post("/events/drop", json!({ "source": "plain" })).await.good()["done"], 0, "no dead letters now");
    let range = json!({ "state": "queued", "from": "2026-11-26T12:00:00.100", "to": "2026-11-26T12:00:00.120" });
    assert_eq!(rig.post("/events/drop", range).await.good()["done"], 200);
    assert_eq!(rig.state(queued).await, State::Queued);
    let deeds = rig.get("/audit").await.good();
    assert_eq!(
        (&deeds["deeds"][2]["deed"], &deeds["deeds"][2]["detail"]["source"]),
        (&json!("events.retry"), &json!("plain"))
    );
    assert_eq!(rig.told(), ["wake"; 2]);
}

#[tokio::test]
async fn the_audit_log_has_pages_and_a_range() {
    let rig = Rig::start().await;
    for number in 0..30 {
        rig.post("/keys", json!({ "name": format!("key {number}") })).await.good();
    }
    let deeds = all(&rig, "/audit", "deeds", 7).await;
    assert_eq!(deeds.len(), 30);
    let names: Vec<&str> = deeds.iter().map(|deed| deed["detail"]["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[29]), ("key 29", "key 0"));
    let (from, to) = (deeds[20]["at"].as_str().unwrap(), deeds[9]["at"].as_str().unwrap());
    let some = all(&rig, &format!("/audit?from={from}&to={to}"), "deeds", 4).await;
    assert_eq!(some, deeds[10..=20]);
}
