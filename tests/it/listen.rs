//! `bugfeed hooks listen`: a gateway in this process, a receiver of the test's own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bugfeed_hooks::deliver::sign::{Secrets, SigningSecret};
use bugfeed_protocol::{Cursor, When};
use bugfeed_testbed::{Proc, Run, eventually};
use serde_json::{Value, json};

use crate::commands::bugfeed;
use crate::examples::site::{Mood, Site};
use crate::hooks;
use crate::support::{SOON, Serve};

const T: &str = "2014-04-03T21:13:45";
const SECRET: &str = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A request, and how it was answered.
#[derive(Clone, Debug)]
struct Got {
    id: String,
    headers: HeaderMap,
    raw: Bytes,
    status: StatusCode,
}

impl Got {
    fn body(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap()
    }

    /// Whether an endpoint with this secret would have signed it like this.
    fn is_signed_with(&self, secret: &str) -> bool {
        let header = |name: &str| self.headers[name].to_str().unwrap();
        let seconds: i64 = header("webhook-timestamp").parse().unwrap();
        let now = When::from_micros(seconds * 1_000_000).unwrap();
        let secrets = Secrets::new(SigningSecret::parse(secret).unwrap());
        let wanted = secrets.headers(&self.id, &self.raw, now).unwrap();
        wanted.iter().all(|(name, value)| self.headers.get(name) == Some(value))
    }
}

struct Receiver {
    site: Site,
    mood: Mood,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    async fn start() -> Receiver {
        let (mood, got) = (Mood::good(), Arc::new(Mutex::new(Vec::new())));
        let (asked, list) = (mood.clone(), Arc::clone(&got));
        let hook = async move |headers: HeaderMap, raw: Bytes| {
            let id = headers["webhook-id"].to_str().unwrap().to_owned();
            let status = asked.ask(&id);
            list.lock().unwrap().push(Got { id, headers, raw, status });
            status
        };
        Receiver { site: Site::start(Router::new().route("/hook", post(hook))).await, mood, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until so many requests were taken; returns their bodies.
    async fn taken(&self, number: usize) -> Vec<Value> {
        eventually(SOON, format!("{number} requests are taken"), async || {
            let all = self.got();
            let taken: Vec<Value> = all.iter().filter(|got| got.status.is_success()).map(Got::body).collect();
            if taken.len() == number { Ok(taken) } else { Err(all) }
        })
        .await
        .unwrap()
    }
}

/// A gateway in this process that knows a number, and a receiver.
async fn start() -> (Serve, Receiver) {
    let serve = Serve::start(&[]).await;
    let mut client = serve.client().await;
    client.subscribe(&[9]).await;
    serve.touch(9, T).await;
    client.update().await;
    (serve, Receiver::start().await)
}

async fn listen(serve: &Serve, receiver: &Receiver, args: &[&str]) -> Proc {
    listen_at(serve.dir.path(), &format!("http://{}/", serve.clients), receiver, args).await
}

async fn listen_at(dir: &Path, url: &str, receiver: &Receiver, args: &[&str]) -> Proc {
    let forward = receiver.site.url("/hook");
    let mut proc = Run::new(bugfeed())
        .dir(dir)
        .args(["hooks", "listen", "--url", url, "--forward", &forward])
        .args(args)
        .spawn()
        .unwrap();
    proc.wait_for_line("changes go to", SOON).await.unwrap();
    proc
}

fn file(serve: &Serve) -> PathBuf {
    serve.dir.path().join("listen.state")
}

/// The number of the stored cursor.
fn stored(path: &Path) -> Option<u64> {
    let content: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Cursor::parse(content["cursor"].as_str()?).map(|cursor| cursor.seq)
}

fn seq(body: &Value) -> u64 {
    Cursor::parse(body["cursor"].as_str().unwrap()).unwrap().seq
}

/// The bugs of a body of several changes.
fn bugs(body: &Value) -> Vec<u64> {
    body["changes"].as_array().unwrap().iter().map(|change| change["bug"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_change_comes_as_to_an_endpoint_and_is_stored_once_it_was_taken() {
    let (serve, receiver) = start().await;
    let mut proc = listen(&serve, &receiver, &["1", "2", "--secret", SECRET, "--state", "listen.state"]).await;
    serve.touch(1, T).await;
    let [body] = &receiver.taken(1).await[..] else { panic!() };
    let want = json!({ "command": "update", "bug": 1, "when": T, "cursor": body["cursor"], "feed": "default" });
    assert_eq!((body, seq(body)), (&want, 2));
    let got = &receiver.got()[0];
    assert!(got.is_signed_with(SECRET) && got.id.starts_with("listen-"), "{got:?}");
    assert_eq!(got.headers["content-type"], "application/json");
    let line = proc.wait_for_line("bug 1 changed", SOON).await.unwrap();
    assert!(line.starts_with("200 in ") && line.contains(&got.id), "{line}");
    eventually(SOON, "it is stored", async || stored(&file(&serve)) == Some(2)).await.unwrap();

    receiver.mood.always(StatusCode::BAD_REQUEST);
    serve.touch(2, T).await;
    eventually(SOON, "two attempts", async || receiver.got().len() >= 3).await.unwrap();
    let [.., one, two] = &receiver.got()[..] else { panic!() };
    assert_eq!((&one.id, &one.raw), (&two.id, &two.raw), "the same again");
    assert_eq!(stored(&file(&serve)), Some(2), "nothing that was not taken is stored");
    proc.wait_for_line("the receiver answers 400", SOON).await.unwrap();
    receiver.mood.always(StatusCode::NO_CONTENT);
    assert_eq!(seq(&receiver.taken(2).await[1]), 3);
    eventually(SOON, "it is stored", async || stored(&file(&serve)) == Some(3)).await.unwrap();
}

#[tokio::test]
async fn of_what_comes_while_the_receiver_is_away_the_newest_of_each_bug_is_sent() {
    let (serve, receiver) = start().await;
    receiver.mood.always(StatusCode::SERVICE_UNAVAILABLE);
    let mut proc = listen(&serve, &receiver, &["1", "2", "3", "--secret", SECRET]).await;
    serve.touch(1, T).await;
    proc.wait_for_line("the receiver answers 503", SOON).await.unwrap();
    let changes = (0..300_i64).map(|second| (1 + second.unsigned_abs() % 3, second));
    serve.touch_many(changes).await;
    eventually(SOON, "a retry with what came", async || {
        receiver.got().last().is_some_and(|got| seq(&got.body()) == 302)
    })
    .await
    .unwrap();
    receiver.mood.always(StatusCode::OK);
    let [body] = &receiver.taken(1).await[..] else { panic!() };
    assert_eq!((&body["command"], &body["replay"], bugs(body)), (&json!("updates"), &json!("latest"), vec![1, 2, 3]));
    assert_eq!(seq(body), 302);
    let attempts = receiver.got().len();
    assert!(attempts < 20, "{attempts} attempts: it waits longer each time");
}

#[tokio::test]
async fn killed_it_goes_on_where_the_receiver_is() {
    let (serve, receiver) = start().await;
    let args = ["1", "2", "--secret", SECRET, "--state", "listen.state"];
    let mut first = listen(&serve, &receiver, &args).await;
    serve.touch(1, T).await;
    receiver.taken(1).await;
    eventually(SOON, "it is stored", async || stored(&file(&serve)) == Some(2)).await.unwrap();
    receiver.mood.always(StatusCode::INTERNAL_SERVER_ERROR);
    serve.touch(2, T).await;
    first.wait_for_line("the receiver answers 500", SOON).await.unwrap();
    first.kill9();
    serve.touch(1, T).await;
    receiver.mood.always(StatusCode::OK);
    let mut second = listen(&serve, &receiver, &args).await;
    eventually(SOON, "it is stored", async || stored(&file(&serve)) == Some(4)).await.unwrap();
    // In one request or in two.
    let all: Vec<Value> = receiver.got().iter().filter(|got| got.status.is_success()).map(Got::body).collect();
    assert!(all[1..].iter().all(|body| body["command"] == "updates" && body["replay"] == "complete"), "{all:?}");
    assert_eq!(all[1..].iter().flat_map(bugs).collect::<Vec<_>>(), [2, 1]);
    second.stop(SOON).await.unwrap();
    // Of bug 5, which is new, the cursor says nothing.
    let _third = listen(&serve, &receiver, &["1", "5", "--secret", SECRET, "--state", "listen.state"]).await;
    let gap = &receiver.taken(all.len() + 1).await[all.len()];
    assert_eq!((&gap["command"], seq(gap)), (&json!("gap"), 4));
    serve.touch(5, T).await;
    assert_eq!(receiver.taken(all.len() + 2).await[all.len() + 1]["bug"], 5, "a single change again");
}

/// A feed with a name of its own: the name is in each body, and its cursors are those of no other feed.
#[tokio::test]
async fn a_feed_with_a_name_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[[source]]\nname = \"kde\"\npreset = \"plain\"\nfeed = \"kde\"\n";
    std::fs::write(dir.path().join("hooks.toml"), config).unwrap();
    let serve = hooks::Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    let (key, receiver) = (serve.key(dir.path(), "kde").await, Receiver::start().await);
    let url = format!("http://{}/kde/", serve.port);
    let args = ["1", "2", "--secret", SECRET, "--state", "listen.state"];
    let mut first = listen_at(dir.path(), &url, &receiver, &args).await;
    // The feed at / is another one.
    crate::support::touch(dir.path(), &["1"]).await;
    serve.change("kde", &key, 1).await;
    let [body] = &receiver.taken(1).await[..] else { panic!() };
    assert_eq!((&body["feed"], &body["bug"], seq(body)), (&json!("kde"), &json!(1), 1));
    assert!(receiver.got()[0].is_signed_with(SECRET));
    let state = dir.path().join("listen.state");
    eventually(SOON, "it is stored", async || stored(&state) == Some(1)).await.unwrap();
    first.stop(SOON).await.unwrap();
    // What came meanwhile is a backlog of the same feed; a gap has its name, too.
    let mut watcher = serve.watch("/kde/", &[2]).await;
    serve.change("kde", &key, 2).await;
    watcher.update().await;
    let mut second = listen_at(dir.path(), &url, &receiver, &args).await;
    let body = &receiver.taken(2).await[1];
    assert_eq!((&body["feed"], &body["command"], bugs(body)), (&json!("kde"), &json!("updates"), vec![2]));
    second.stop(SOON).await.unwrap();
    let _third = listen_at(dir.path(), &url, &receiver, &["1", "5", "--state", "listen.state"]).await;
    let gap = &receiver.taken(3).await[2];
    assert_eq!((&gap["feed"], &gap["command"]), (&json!("kde"), &json!("gap")), "of bug 5, which is new");
}

#[tokio::test]
async fn a_secret_is_made_where_none_is_given_and_a_wrong_one_is_not_shown() {
    let (serve, receiver) = start().await;
    let mut proc = listen(&serve, &receiver, &["1"]).await;
    let line = proc.wait_for_line("requests are signed with whsec_", SOON).await.unwrap();
    let secret = line.split_whitespace().find(|word| word.starts_with("whsec_")).unwrap().trim_end_matches(';');
    serve.touch(1, T).await;
    receiver.taken(1).await;
    assert!(receiver.got()[0].is_signed_with(secret));
    proc.stop(SOON).await.unwrap();

    let args = ["hooks", "listen", "1", "--forward", "http://127.0.0.1:9/", "--secret", "whsec_notBase64!"];
    let mut wrong = Run::new(bugfeed()).args(args).spawn().unwrap();
    assert_eq!(wrong.wait(SOON).await.unwrap().code(), Some(2));
    let said = wrong.output();
    assert!(said.contains("'--secret <SECRET>': after whsec_ comes Base64") && !said.contains("notBase64"), "{said}");
}
