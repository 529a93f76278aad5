//! The classic protocol over a real socket, from the change table on.

use bugfeed_testbed::eventually;
use serde_json::{Value, json};

use crate::support::{Client, SOON, Serve, get};

const T: &str = "2014-04-03T21:13:45";

#[tokio::test]
async fn a_change_goes_from_the_table_to_those_who_watch_the_bug() {
    let serve = Serve::start(&[]).await;
    let (mut one, mut two) = (serve.client().await, Client::connect(&format!("{}default/", serve.url())).await);
    one.subscribe(&[1234, 5678]).await;
    two.subscribe(&[5678]).await;
    serve.touch(1234, T).await;
    serve.touch(9999, T).await;
    serve.touch(5678, "2014-04-03T21:13:46.25").await;
    assert_eq!(one.text().await, format!(r#"{{"command":"update","bug":1234,"when":"{T}"}}"#));
    assert_eq!(one.update().await, (5678, "2014-04-03T21:13:46.25".to_owned()));
    assert_eq!(two.update().await, (5678, "2014-04-03T21:13:46.25".to_owned()));
}

#[tokio::test]
async fn two_edits_within_one_second_are_two_updates() {
    let serve = Serve::start(&[]).await;
    let mut client = serve.client().await;
    client.subscribe(&[1]).await;
    serve.touch(1, T).await;
    serve.touch(1, T).await;
    assert_eq!((client.update().await, client.update().await), ((1, T.to_owned()), (1, T.to_owned())));
}

#[tokio::test]
async fn since_catches_up_also_over_a_restart() {
    let serve = Serve::start(&[]).await;
    let mut watcher = serve.client().await;
    watcher.subscribe(&[1, 2]).await;
    for (bug, second) in [(1, 1), (2, 2), (1, 3), (3, 4)] {
        serve.touch(bug, &format!("2033-04-03T00:00:0{second}")).await;
    }
    for _ in 0..3 {
        watcher.update().await;
    }
    let dir = serve.stop().await;
    assert_eq!(watcher.close_code().await, 1001, "told to come back");

    let serve = Serve::start_in(dir, &[]).await;
    let mut client = serve.client().await;
    for (since, want) in [
        ("2033-04-03T00:00:03", &[(1, "2033-04-03T00:00:03")][..]),
        ("2033-04-03 00:00:02Z", &[(2, "2033-04-03T00:00:02"), (1, "2033-04-03T00:00:03")]),
        ("2033-04-02T17:00:02-07:00", &[(2, "2033-04-03T00:00:02"), (1, "2033-04-03T00:00:03")]),
        ("2033-04-03", &[(1, "2033-04-03T00:00:01"), (2, "2033-04-03T00:00:02"), (1, "2033-04-03T00:00:03")]),
        ("2033-04-03T00:00:05", &[]),
    ] {
        let subscribe = json!({ "command": "subscribe", "bugs": ["1", 2], "since": since });
        let reply = client.ask(subscribe.to_string()).await;
        assert_eq!(reply, r#"{"command":"subscribe","result":"ok","bugs":[1,2]}"#);
        for (bug, when) in want {
            assert_eq!(client.update().await, (*bug, (*when).to_owned()), "since {since}");
        }
        // Nothing else was sent: the next message is the answer to the next command.
        let reply = client.ask(r#"{"command":"subscriptions"}"#).await;
        assert_eq!(reply, r#"{"command":"subscriptions","result":"ok","bugs":[1,2]}"#, "since {since}");
    }
    serve.touch(2, "2033-04-03T00:00:09").await;
    assert_eq!(client.update().await, (2, "2033-04-03T00:00:09".to_owned()));
}

#[tokio::test]
async fn live_probes_and_metrics() {
    let serve = Serve::start(&[]).await;
    let ready = || async {
        let (status, body) = get(serve.admin, "/readyz").await;
        if status == 200 { Ok(()) } else { Err(body) }
    };
    eventually(SOON, "ready", async || ready().await).await.unwrap();
    assert_eq!(get(serve.admin, "/livez").await.0, 200);
    let mut client = serve.client().await;
    client.subscribe(&[1]).await;
    serve.touch(1, T).await;
    client.update().await;
    for line in
        ["bugfeed_changes_total{feed=\"default\"} 1", "bugfeed_connections 1", "updates_sent_total{kind=\"live\"} 1"]
    {
        // What was written is counted a moment later.
        eventually(SOON, line, async || {
            let (_, metrics) = get(serve.admin, "/metrics").await;
            if metrics.contains(line) { Ok(()) } else { Err(metrics) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn the_page_and_its_button() {
    let serve = Serve::start(&[]).await;
    for (path, want) in [
        ("/", "<!doctype html>"),
        ("/default/", "<!doctype html>"),
        ("/page/page.css", "color-scheme"),
        ("/page/main.js", "/client.js"),
        ("/client.js", "client-fallback.js"),
        ("/client-fallback.js", "client-shared.js"),
        ("/client-shared.js", "client-fallback.js"),
        ("/client-queue.js", "export"),
        ("/client-token.js", "export"),
    ] {
        let (status, body) = get(serve.clients, path).await;
        assert!(status == 200 && body.to_lowercase().contains(want), "{path}: {status} {body}");
    }
    assert_eq!(get(serve.clients, "/default").await.0, 307);
    // Below a path that a proxy takes off, an address from the root would lead out of it.
    let head = crate::support::head(serve.clients, "/default?tracker=x").await;
    assert!(head.contains("\r\nlocation: default/?tracker=x\r\n"), "{head}");
    let about = async |serve: &Serve| get(serve.clients, "/page.json").await.1;
    let told: Value = serde_json::from_str(&about(&serve).await).unwrap();
    assert_eq!((&told["demo"], &told["trackers"]), (&json!(true), &json!({})));
    // Who sits at this machine is told how this program was called; others are not.
    assert!(told["command"].is_string(), "{told}");
    let elsewhere = "GET /page.json HTTP/1.1\r\nHost: bugs.example.org\r\nConnection: close\r\n\r\n";
    assert!(!crate::support::request(serve.clients, elsewhere).await.1.contains("command"));

    let mut client = serve.client().await;
    client.subscribe(&[7]).await;
    let own = format!("Origin: http://{}\r\n", serve.clients);
    let press = |kind: &str, body: &str, extra: &str| {
        let head = format!("POST /demo/touch HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", serve.clients);
        format!("{head}Content-Type: {kind}\r\nContent-Length: {}\r\n{extra}\r\n{body}", body.len())
    };
    // A page of another site whose name has been made to mean this machine.
    let rebound = press("application/json", r#"{"bugs":[7]}"#, &own);
    let rebound = rebound.replace(&serve.clients.to_string(), "rebind.example:8844");
    for (request, want) in [
        (press("application/json", r#"{"bugs":[7]}"#, &own), 200),
        (press("text/plain", r#"{"bugs":[7]}"#, &own), 415),
        (press("application/json", r#"{"bugs":[7]}"#, ""), 403),
        // Seen from outside, it is the machine that is asked; not so by its name, and by who passed it on.
        (rebound.clone(), 403),
        (press("application/json", r#"{"bugs":[7]}"#, &format!("{own}X-Forwarded-For: 192.0.2.1\r\n")), 403),
        (press("application/json", r#"{"bugs":[7]}"#, "Origin: http://elsewhere.example\r\n"), 403),
        (press("application/json", r#"{"bugs":[0]}"#, &own), 422),
        (press("application/json", r#"{"bugs":[]}"#, &own), 422),
        (press("application/json", "{", &own), 400),
    ] {
        assert_eq!(crate::support::request(serve.clients, &request).await.0, want, "{request}");
    }
    assert_eq!(client.update().await.0, 7);
    let page = "GET /page.json HTTP/1.1\r\nHost: rebind.example:8844\r\nConnection: close\r\n\r\n";
    let (_, body) = crate::support::request(serve.clients, page).await;
    assert_eq!(body.trim_end(), r#"{"demo":false,"trackers":{}}"#, "a page that could not use it shows no button");
    // All at once, so that a slow machine is no excuse.
    let request = press("application/json", r#"{"bugs":[7]}"#, &own);
    let presses = (0..100).map(async |_| crate::support::request(serve.clients, &request).await.0);
    let pressed = futures::future::join_all(presses).await;
    assert!(pressed.contains(&429), "not more than ten a second: {pressed:?}");
    let template = "https://bugs.example.org/show_bug.cgi?id={bug}";
    let quiet = Serve::start(&["--demo", "false", "--tracker-url", template]).await;
    let told: Value = serde_json::from_str(&about(&quiet).await).unwrap();
    assert_eq!((&told["demo"], &told["trackers"]), (&json!(false), &json!({ "default": template })));
    let nowhere = press("application/json", r#"{"bugs":[7]}"#, "").replace(&serve.clients.to_string(), "x");
    assert_eq!(crate::support::request(quiet.clients, &nowhere).await.0, 404);
}
