//! All bugs of a feed in one subscription, from the change table on: WebSocket, SSE, long-poll, `bugfeed watch all`.

use bugfeed_testbed::{Run, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::commands::bugfeed;
use crate::support::{Client, SOON, Serve, connected, get};

const T: &str = "2014-04-03T21:13:45";
const NOT_ALLOWED: &str = r#"this gateway does not serve "all"; the operator allows it with the option --allow-all"#;

async fn modern(serve: &Serve) -> Client {
    let mut client = serve.client().await;
    let welcome: Value = serde_json::from_str(&client.ask(r#"{"command":"hello"}"#).await).unwrap();
    assert_eq!(welcome["result"], "ok");
    client
}

async fn ask(client: &mut Client, command: &Value) -> Value {
    serde_json::from_str(&client.ask(command.to_string()).await).unwrap()
}

#[tokio::test]
async fn a_gateway_serves_all_bugs_where_the_operator_allows_it_and_says_so_where_not() {
    let serve = Serve::start(&[]).await;
    let mut client = modern(&serve).await;
    let refused = ask(&mut client, &json!({"command": "subscribe", "bugs": "all"})).await;
    assert_eq!(refused["error"], NOT_ALLOWED);
    for path in ["/sse?bugs=all", "/changes?bugs=all", "/default/changes?bugs=all&cursor=unknown"] {
        let (status, body) = get(serve.clients, path).await;
        assert_eq!(
            (status, serde_json::from_str::<Value>(&body).unwrap()),
            (400, json!({ "error": NOT_ALLOWED })),
            "{path}"
        );
    }
    client.subscribe(&[7]).await;

    let serve = Serve::start(&["--allow-all"]).await;
    let mut classic = serve.client().await;
    let refused = ask(&mut classic, &json!({"command": "subscribe", "bugs": "all"})).await;
    assert_eq!(refused["error"], "invalid bug id; must be integer", "as it was in 2014");
    let (status, body) = get(serve.clients, "/changes?bugs=all,1").await;
    assert_eq!(status, 400, "{body}");
}

#[tokio::test]
async fn whoever_follows_all_bugs_resumes_as_anybody_does() {
    let serve = Serve::start(&["--allow-all"]).await;
    let mut client = modern(&serve).await;
    let reply = ask(&mut client, &json!({"command": "subscribe", "bugs": "all"})).await;
    assert_eq!((&reply["count"], &reply["all"]), (&json!(1), &json!(true)));
    serve.touch(11, T).await;
    let first = client.json().await;
    assert_eq!((&first["command"], &first["bug"]), (&json!("update"), &json!(11)));
    drop(client);
    serve.touch(12, T).await;
    serve.touch(13, T).await;

    let mut client = modern(&serve).await;
    let reply = ask(&mut client, &json!({"command": "subscribe", "bugs": "all", "cursor": first["cursor"]})).await;
    assert_eq!((&reply["replay"], &reply["cursor"]), (&json!("complete"), &first["cursor"]));
    for bug in [12, 13] {
        assert_eq!(client.json().await["bug"], bug);
    }
    let from = first["cursor"].as_str().unwrap();
    let (status, body) = get(serve.clients, &format!("/changes?bugs=all&cursor={from}")).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["replay"]), (200, &json!("complete")), "{body}");
    assert_eq!(answer["changes"], json!([{"bug": 12, "when": T}, {"bug": 13, "when": T}]));
    let (_, body) = get(serve.clients, "/changes?bugs=all&cursor=unknown").await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["replay"], "gap");

    let mut stream = TcpStream::connect(serve.clients).await.unwrap();
    stream.write_all(format!("GET /sse?bugs=all&cursor={from} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let (mut lines, mut data) = (BufReader::new(stream).lines(), Vec::new());
    while data.len() < 3 {
        let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("in time").unwrap().expect("a line");
        data.extend(line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap()));
    }
    assert_eq!((&data[0]["replay"], &data[0]["all"]), (&json!("complete"), &json!(true)));
    assert_eq!((&data[1]["bug"], &data[2]["bug"]), (&json!(12), &json!(13)));
}

#[tokio::test]
async fn they_are_counted_and_bounded() {
    let serve = Serve::start(&["--allow-all", "--max-all", "2"]).await;
    let metric = async |count: usize| {
        let line = format!("bugfeed_sessions_all {count}");
        let found = async || {
            let page = get(serve.admin, "/metrics").await.1;
            if page.lines().any(|found| found == line) { Ok(()) } else { Err(page) }
        };
        eventually(SOON, "so many follow all", found).await.unwrap();
    };
    let command = json!({"command": "subscribe", "bugs": "all"});
    let (mut first, mut second, mut third) = (modern(&serve).await, modern(&serve).await, modern(&serve).await);
    ask(&mut first, &command).await;
    ask(&mut second, &command).await;
    metric(2).await;
    third.send(command.to_string()).await;
    assert_eq!(third.close_code().await, 1013);
    let (status, _) = get(serve.clients, "/changes?bugs=all").await;
    assert_eq!(status, 503);
    let (status, events) = get(serve.clients, "/sse?bugs=all").await;
    assert_eq!((status, events.contains("data:")), (200, false), "it ends before the reply: {events}");
    drop(first);
    metric(1).await;
    let (status, _) = get(serve.clients, "/changes?bugs=all").await;
    assert_eq!(status, 200);
    ask(&mut second, &json!({"command": "unsubscribe", "bugs": "all"})).await;
    metric(0).await;
}

#[tokio::test]
async fn watch_prints_every_change_or_says_what_is_missing() {
    let serve = Serve::start(&["--allow-all"]).await;
    let watch = |serve: &Serve| {
        let args = ["watch", "all", "--json", "--count", "2", "--state", "all.state", "--url", &serve.url()];
        Run::new(bugfeed()).dir(serve.dir.path()).args(args).spawn().unwrap()
    };
    let mut process = watch(&serve);
    connected(&mut process).await;
    serve.touch(5, T).await;
    serve.touch(987_654_321, T).await;
    assert!(process.wait(SOON).await.unwrap().success());
    assert!(process.output().contains(r#"{"bug":987654321,"#), "{}", process.output());
    // The next run goes on there.
    serve.touch(6, T).await;
    serve.touch(7, T).await;
    let mut process = watch(&serve);
    assert!(process.wait(SOON).await.unwrap().success());
    let printed: Vec<String> =
        process.output().lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect();
    assert_eq!(printed, [6, 7].map(|bug| format!(r#"{{"bug":{bug},"when":"{T}"}}"#)));

    let strict = Serve::start(&[]).await;
    let mut process = watch(&strict);
    assert_eq!(process.wait(SOON).await.unwrap().code(), Some(1));
    assert!(process.output().contains("--allow-all"), "{}", process.output());
}
