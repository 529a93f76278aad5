//! `bugfeed check` without servers: the all-in-one, nobody, and somebody else.

use bugfeed_testbed::Run;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::commands::bugfeed;
use crate::support::{SOON, Serve, free_address};

/// Runs `bugfeed check`; its exit status, and what it found as (area, verdict, text and fix).
pub async fn check(options: &[&str]) -> (i32, Vec<(String, String, String)>) {
    let mut proc = Run::new(bugfeed()).args(["check", "--json"]).args(options).spawn().unwrap();
    let status = proc.wait(SOON * 2).await.unwrap().code().unwrap();
    let output = proc.output();
    let found: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = found["findings"].as_array().unwrap().iter();
    let findings = findings.map(|one| {
        (text(&one["area"]), text(&one["verdict"]), format!("{}\n{}", text(&one["text"]), text(&one["fix"])))
    });
    (status, findings.filter(|(area, ..)| area != "this machine").collect())
}

/// The texts with this verdict.
pub fn with<'a>(found: &'a [(String, String, String)], verdict: &str) -> Vec<&'a str> {
    found.iter().filter(|(_, is, _)| is == verdict).map(|(_, _, text)| text.as_str()).collect()
}

#[tokio::test]
async fn an_all_in_one_that_works() {
    let serve = Serve::start(&[]).await;
    let table = format!("sqlite://{}/data/bugfeed.db", serve.dir.path().display());
    let (url, admin) = (serve.url(), format!("http://{}", serve.admin));
    let options = ["--url", &url, "--admin-url", &admin, "--source", &table];
    let (status, found) = check(&options).await;
    assert_eq!((status, with(&found, "bad")), (0, vec![]), "{found:#?}");
    let good = with(&found, "good").join("\n");
    for want in [
        "WebSocket: open after",
        "SSE: events arrive one by one",
        "long-poll: answered",
        "is ready",
        "reads and deletes rows",
    ] {
        assert!(good.contains(want), "{want}: {good}");
    }
    // For people.
    let text = Run::new(bugfeed()).arg("check").args(options).succeeds(SOON).await.unwrap();
    assert!(text.contains("\nclients' address\n  ok    ws://") && text.contains(" failed, "), "{text}");
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_to_do() {
    let nobody = free_address();
    let (url, admin) = (format!("ws://{nobody}/"), format!("http://{nobody}"));
    let (amqp, table) = (format!("amqp://user:sekrit@{nobody}/"), "sqlite:///nowhere/bugs.db");
    let options = [
        "--url",
        &url,
        "--admin-url",
        &admin,
        "--amqp",
        &amqp,
        "--source",
        table,
        "--ledger",
        "sqlite:///nowhere/l.db",
    ];
    let (status, found) = check(&options).await;
    assert_eq!(status, 1);
    let bad = with(&found, "bad");
    for want in ["is the gateway, or the proxy", "is it the admin port", "amqp://user@", "bugfeed-shim init"] {
        assert!(bad.iter().any(|text| text.contains(want)), "{want}: {bad:#?}");
    }
    assert!(with(&found, "skipped").iter().any(|text| text.contains("the shim makes it when it starts")), "{found:#?}");
    assert!(!format!("{found:?}").contains("sekrit"));
}

/// Another web server, which answers everything.
#[tokio::test]
async fn a_server_that_is_no_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi").await;
        }
    };
    let options = ["--url", &*url];
    let (status, found) = tokio::select! {
        found = check(&options) => found,
        () = serving => unreachable!(),
    };
    assert_eq!(status, 1);
    let bad = with(&found, "bad").join("\n");
    for want in ["not from a gateway", "WebSocket: ", "pass Upgrade and Connection on", "SSE: the stream ends at once"]
    {
        assert!(bad.contains(want), "{want}: {bad}");
    }
}
