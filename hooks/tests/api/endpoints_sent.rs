//! What was sent, is sent again, or would be sent.

use std::pin::pin;

use bugfeed_core::endpoints::policy::Outcome;
use bugfeed_core::endpoints::row::{Asked, Row};
use bugfeed_core::hooks::event::Trigger;
use bugfeed_hooks::deliver::sign::{Secrets, SigningSecret};
use bugfeed_hooks::receive::received::RequestId;
use bugfeed_hooks::store::endpoints::{AttemptRow, EndpointId, Save};
use bugfeed_hooks::store::tokens::Scope;
use bugfeed_protocol::When;
use hyper::Method;
use serde_json::{Value, json};

use crate::endpoints::{HIDDEN, SECRET, body, fail, shows_nothing_hidden};
use crate::support::{Answer, NOON_US, Rig, SECOND_US};

/// An attempt that was answered 204.
pub fn attempt(endpoint: &EndpointId, at_us: i64, trigger: Trigger, webhook_id: &str) -> AttemptRow {
    AttemptRow {
        id: RequestId::new(at_us, rand::random()).0,
        endpoint: endpoint.clone(),
        feed: Some("default".to_owned()),
        trigger,
        begun_us: at_us,
        took_us: 12_345,
        status: Some(204),
        fault: None,
        error: None,
        response: "hidden-text".to_owned(),
        webhook_id: webhook_id.to_owned(),
        counts: trigger == Trigger::Live,
        request: "{\"text\":\"hidden-value\"}".to_owned(),
        content_type: "application/json".to_owned(),
    }
}

impl Rig {
    pub async fn attempted(&self, row: AttemptRow) {
        let (id, partition) = (row.endpoint.clone(), row.endpoint.partition());
        let save = Save { id, row: None, partition, term: 0, attempts: vec![row] };
        self.store.save_endpoints(&[save]).await.unwrap();
    }

    /// What this call is answered, while the endpoint's first order is carried out in this way.
    async fn while_asked(
        &self,
        id: &EndpointId,
        answer: impl Fn(Asked) -> AttemptRow,
        call: impl Future<Output = Answer>,
    ) -> Answer {
        let mut call = pin!(call);
        tokio::select! {
            told = &mut call => return told,
            () = self.answer_wish(id, answer) => {}
        }
        call.await
    }

    async fn answer_wish(&self, id: &EndpointId, answer: impl Fn(Asked) -> AttemptRow) {
        loop {
            let wish = self.stored(id).await.row.wishes.first().copied();
            if let Some(wish) = wish {
                // In this order: once the attempt is there, the call is answered, and this is not waited for any more.
                self.plan(id, |row: &mut Row| row.wishes.clear()).await;
                self.attempted(answer(wish.what)).await;
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn fresh_us() -> i64 {
    NOON_US + 3 * 3600 * SECOND_US
}

#[tokio::test]
async fn a_test_is_answered_with_what_comes_of_it() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let test = async |wait: u64| rig.post(&format!("/endpoints/{id}/test"), json!({ "wait": wait })).await;
    // One of before, and a batch with the same end, are others.
    rig.attempted(attempt(&id, NOON_US, Trigger::Manual, &format!("{id}-E-test-5-0123456789ab-g11"))).await;
    rig.attempted(attempt(&id, NOON_US, Trigger::Live, &format!("{id}-E-4-5-0123456789ab-g1"))).await;
    let told = test(0).await.good();
    assert_eq!((&told["attempt"], &told["endpoint"]), (&Value::Null, &json!(id.as_str())));
    assert!(told["says"].as_str().unwrap().contains("waits for its turn"), "{told}");
    rig.plan(&id, |row| row.wishes.clear()).await;
    for (number, status, error, ok, says) in [
        (2, Some(204), None, true, "the receiver took it: 204 in 12 ms"),
        (
            3,
            Some(500),
            None,
            false,
            "the receiver did not take it (answered 500: hidden-text) in 12 ms; a failed test counts nothing",
        ),
        (4, None, Some("nobody listens"), false, "no answer: nobody listens; a failed test counts nothing"),
    ] {
        let answer = |asked: Asked| {
            assert_eq!(asked, Asked::Test { generation: number });
            let error = error.map(str::to_owned);
            let fault = error.as_ref().map(|_| "refused".to_owned());
            let webhook_id = format!("{id}-E-test-5-0123456789ab-g{number}");
            AttemptRow { status, fault, error, ..attempt(&id, fresh_us(), Trigger::Manual, &webhook_id) }
        };
        let told = rig.while_asked(&id, answer, test(20)).await.good();
        assert_eq!((&told["says"], &told["attempt"]["ok"]), (&json!(says), &json!(ok)));
        assert_eq!(told["attempt"]["response"], "hidden-text");
    }
    test(21).await.refused(400, "wait: '21'");
    let write = rig.token_with(&[Scope::Write]).await;
    let answer = |_| attempt(&id, fresh_us(), Trigger::Manual, &format!("{id}-E-test-5-0123456789ab-g5"));
    let path = format!("/endpoints/{id}/test");
    let call = rig.call(&write, Method::POST, &path, "{\"wait\":20}");
    let told = rig.while_asked(&id, answer, call).await.good();
    assert_eq!(told["attempt"]["response"], "…");
    shows_nothing_hidden(&told.to_string());
}

#[tokio::test]
async fn attempts_are_listed_and_shown() {
    let rig = Rig::start().await;
    let (id, other) = (rig.endpoint(body()).await, rig.endpoint(body()).await);
    let mut rows = Vec::new();
    for second in 0..5 {
        let webhook_id = format!("{id}-E-{second}-{second}-0123456789ab");
        let row = attempt(&id, NOON_US + second * SECOND_US, Trigger::Live, &webhook_id);
        rig.attempted(row.clone()).await;
        rows.insert(0, RequestId(row.id).to_string());
    }
    rig.attempted(attempt(&other, NOON_US, Trigger::Live, "other")).await;
    let (mut found, mut path) = (Vec::new(), format!("/endpoints/{id}/attempts?limit=2"));
    loop {
        let page = rig.get(&path).await.good();
        let attempts = page["attempts"].as_array().unwrap();
        found.extend(attempts.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/endpoints/{id}/attempts?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, rows, "newest first, of this endpoint");
    let path = format!("/attempts/{}", rows[0]);
    let shown = rig.get(&path).await.good();
    assert_eq!((&shown["status"], &shown["took_ms"], &shown["counts"]), (&json!(204), &json!(12), &json!(true)));
    assert_eq!((&shown["response"], &shown["request"]), (&json!("hidden-text"), &json!("{\"text\":\"hidden-value\"}")));
    let read = rig.token_with(&[Scope::Read]).await;
    for path in [path, format!("/endpoints/{id}/attempts")] {
        let masked = rig.call(&read, Method::GET, &path, "").await.good();
        shows_nothing_hidden(&masked.to_string());
    }
    // Those of a deleted endpoint are still there.
    rig.call(&rig.token, Method::DELETE, &format!("/endpoints/{id}"), "").await.good();
    assert_eq!(rig.get(&format!("/endpoints/{id}/attempts")).await.good()["attempts"].as_array().unwrap().len(), 5);
    rig.get("/attempts/x").await.refused(400, "id: 'x'");
    rig.get("/attempts/01a1ee56-5e7b-7fff-bfff-ffff7fffffff").await.refused(404, "there is no attempt");
    rig.get(&format!("/endpoints/{other}/attempts?after=x")).await.refused(400, "after: 'x'");
}

#[tokio::test]
async fn an_attempt_is_delivered_again() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let webhook_id = format!("{id}-E-4-5-0123456789ab");
    let old = attempt(&id, NOON_US, Trigger::Live, &webhook_id);
    rig.attempted(old.clone()).await;
    // An earlier redelivery is not the one that is waited for.
    rig.attempted(attempt(&id, NOON_US + 1000, Trigger::Replay, &webhook_id)).await;
    let path = format!("/attempts/{}/redeliver", RequestId(old.id));
    let told = rig.post(&path, json!({ "wait": 0 })).await.good();
    assert_eq!(told["attempt"], Value::Null);
    assert!(told["says"].as_str().unwrap().contains("the redelivery waits"), "{told}");
    rig.plan(&id, |row| row.wishes.clear()).await;
    let again = |asked: Asked| {
        assert_eq!(asked, Asked::Redeliver { attempt: old.id });
        attempt(&id, fresh_us(), Trigger::Replay, &webhook_id)
    };
    let told = rig.while_asked(&id, again, rig.post(&path, json!({ "wait": 20 }))).await.good();
    assert_eq!((&told["attempt"]["ok"], &told["attempt"]["trigger"]), (&json!(true), &json!("replay")));
    assert_eq!(told["attempt"]["webhook_id"], webhook_id);
    let log = rig.get("/audit").await.good();
    assert_eq!(
        (&log["deeds"][0]["deed"], &log["deeds"][0]["subject"]),
        (&json!("attempts.redeliver"), &json!(id.as_str()))
    );
    assert_eq!(log["deeds"][0]["detail"]["webhook_id"], webhook_id);
    rig.post("/attempts/01a1ee56-5e7b-7fff-bfff-ffff7fffffff/redeliver", json!({})).await.refused(404, "no attempt");
    rig.call(&rig.token, Method::DELETE, &format!("/endpoints/{id}"), "").await.good();
    rig.post(&path, json!({})).await.refused(409, "was deleted");
}

/// A header of a request in a preview.
fn header<'a>(request: &'a Value, name: &str) -> &'a str {
    let headers = request["headers"].as_array().unwrap();
    headers.iter().find(|header| header[0] == name).unwrap()[1].as_str().unwrap()
}

fn is_signed(request: &Value, secrets: &Secrets) -> bool {
    let at_us = header(request, "webhook-timestamp").parse::<i64>().unwrap() * SECOND_US;
    let (id, body) = (header(request, "webhook-id"), request["body"].as_str().unwrap());
    let signed = secrets.headers(id, body.as_bytes(), When::from_micros(at_us).unwrap()).unwrap();
    signed[2].1 == header(request, "webhook-signature")
}

#[tokio::test]
async fn a_preview_shows_signed_requests_and_stores_nothing() {
    let rig = Rig::start().await;
    let mut sent = body();
    sent["template"] = Value::Null;
    sent["secret"] = json!(SECRET);
    let told = rig.post("/endpoints/preview", sent).await.good();
    assert_eq!((told["requests"].as_array().unwrap().len(), &told["sample_secret"]), (4, &Value::Null));
    assert!(told["says"].as_str().unwrap().contains("addresses of bot.example.org are judged"), "{told}");
    let secrets = Secrets::new(SigningSecret::parse(SECRET).unwrap());
    for request in told["requests"].as_array().unwrap() {
        assert!(is_signed(request, &secrets), "{request}");
        assert_eq!(
            (header(request, "x-api-key"), header(request, "content-type")),
            ("hidden-value", "application/json")
        );
    }
    let text = |at: usize| told["requests"][at]["body"].as_str().unwrap();
    assert!(text(0).starts_with("{\"command\":\"update\",\"bug\":1234,"), "{}", text(0));
    assert!(text(1).contains("\"replay\":\"latest\"") && text(1).contains("\"bug\":5678"), "{}", text(1));
    assert!(text(2).contains("gap") && text(3).contains("\"test\""), "{told}");

    let sent = json!({ "url": "https://8.8.8.8/hidden-path", "bugs": "all", "feeds": ["kde"], "template": "slack",
        "headers": { "x-api-key": "hidden-value" } });
    let write = rig.token_with(&[Scope::Write]).await;
    let told = rig.call(&write, Method::POST, "/endpoints/preview", &sent.to_string()).await.good();
    assert!(HIDDEN.iter().all(|hidden| !told.to_string().contains(hidden)), "{told}");
    let sample = Secrets::new(SigningSecret::parse(told["sample_secret"].as_str().unwrap()).unwrap());
    for request in told["requests"].as_array().unwrap() {
        assert!(is_signed(request, &sample), "{request}");
    }
    assert_eq!(told["says"], "this would be sent; the address in the URL is allowed");
    let first = told["requests"][0]["body"].as_str().unwrap();
    assert!(first.contains("Bug 1234 changed at") && first.contains("https://bugs.example.org/1234"), "{first}");
    assert_eq!(rig.get("/endpoints").await.good()["endpoints"], json!([]));
    assert_eq!((rig.audited().await, rig.told()), (vec![], vec![]));
}

#[tokio::test]
async fn a_failing_endpoint_says_what_comes_next() {
    let rig = Rig::start().await;
    let id = rig.endpoint(body()).await;
    let says = async || rig.get(&format!("/endpoints/{id}")).await.good()["says"].as_str().unwrap().to_owned();
    assert_eq!(says().await, "all is well");
    rig.plan(&id, |row| fail(row, Outcome::Refused, 1)).await;
    assert!(says().await.contains("with the next change, or after 2026-11-26 14:00:00 UTC"), "{}", says().await);
    rig.attempted(AttemptRow { status: Some(404), ..attempt(&id, NOON_US, Trigger::Live, "failed") }).await;
    rig.attempted(attempt(&id, NOON_US + 1, Trigger::Live, "good")).await;
    assert!(says().await.ends_with("; the last failure: answered 404: hidden-text"), "{}", says().await);
    rig.plan(&id, |row| fail(row, Outcome::Refused, 3)).await;
    assert!(says().await.contains("4 failures: mend the receiver"), "{}", says().await);
    rig.plan(&id, |row| fail(row, Outcome::Gone, 1)).await;
    assert!(says().await.contains("answered 410"), "{}", says().await);
}
