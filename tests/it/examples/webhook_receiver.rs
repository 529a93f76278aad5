//! The receivers of webhooks, in each language, with requests as bugfeed makes them: killed, repeated, forged. And that the
//! libraries of standardwebhooks.com agree with us about signatures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::any;
use bugfeed_hooks::client::{Address, Options};
use bugfeed_hooks::deliver::address::Rules;
use bugfeed_hooks::deliver::callers::{Call, Callers, Moment};
use bugfeed_hooks::deliver::headers::UserHeaders;
use bugfeed_hooks::deliver::send::{Delivery, Outcome, Sender};
use bugfeed_hooks::deliver::sign::{RANDOM_BYTES, Secrets, SigningSecret};
use bugfeed_protocol::When;
use bugfeed_testbed::{Proc, Run, bin, eventually};
use serde_json::{Value, json};

use super::site::Site;
use super::tools::{Python, example, node_with};
use crate::support::{SOON, free_address};

const T: &str = "2026-11-26T12:00:00";

fn secret(byte: u8) -> SigningSecret {
    SigningSecret::generate(&[byte; RANDOM_BYTES])
}

fn now() -> When {
    When::from_system_time(SystemTime::now())
}

/// What the receiver asks: bugfeed, played by the test.
#[derive(Clone)]
struct Hooks {
    callers: Arc<Callers>,
    /// Path and query of each question that was signed.
    asked: Arc<Mutex<Vec<String>>>,
    /// What is answered to `changes`.
    missed: Arc<Mutex<Value>>,
}

impl Hooks {
    async fn start() -> (Hooks, Site) {
        let callers = Arc::new(Callers::new(&[7; 32]));
        let hooks = Hooks { callers, asked: Arc::default(), missed: Arc::default() };
        let routes = Router::new().route("/endpoints/{id}/{what}", any(Hooks::answer)).with_state(hooks.clone());
        (hooks, Site::start(routes).await)
    }

    async fn answer(State(hooks): State<Hooks>, request: Request) -> (StatusCode, String) {
        let headers: Vec<(String, String)> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let target = request.uri().path_and_query().unwrap().to_string();
        let call = Call { headers: &headers, method: request.method().as_str(), target: &target, body: b"" };
        let moment = Moment { clock: now(), uptime: Duration::ZERO };
        let checked = hooks.callers.check("ep_1", Some(&Secrets::new(secret(1))), &call, moment);
        if let Err(refused) = checked {
            return (StatusCode::UNAUTHORIZED, refused.to_string());
        }
        hooks.asked.lock().unwrap().push(format!("{} {target}", call.method));
        let answer =
            if target.contains("/changes?") { hooks.missed.lock().unwrap().to_string() } else { String::new() };
        (StatusCode::OK, answer)
    }

    async fn is_asked(&self, wanted: &[&str]) {
        eventually(SOON, format!("it asks {wanted:?}"), async || {
            let asked = self.asked.lock().unwrap().clone();
            if asked == wanted { Ok(()) } else { Err(asked) }
        })
        .await
        .unwrap();
    }
}

/// One of the programs, and where it is.
struct Receiver {
    program: Box<dyn Fn() -> Run>,
    dir: tempfile::TempDir,
    listen: SocketAddr,
    sender: Sender,
    hooks: String,
}

impl Receiver {
    fn new(program: impl Fn() -> Run + 'static, hooks: &Site) -> Receiver {
        let rules = Rules { allowed: vec!["127.0.0.0/8".parse().unwrap()], https_only: false };
        let sender = Sender::new(Options::default(), rules);
        let dir = tempfile::tempdir().unwrap();
        Receiver { program: Box::new(program), dir, listen: free_address(), sender, hooks: hooks.url("/") }
    }

    /// Starts it with the newest secret, and the one before.
    async fn start(&self) -> Proc {
        let mut proc = self.run().spawn().unwrap();
        proc.wait_for_line("listens on", SOON).await.unwrap();
        proc
    }

    fn run(&self) -> Run {
        let secrets = format!("{} {}", secret(1).expose(), secret(2).expose());
        (self.program)()
            .dir(self.dir.path())
            .env("BUGFEED_SECRET", secrets)
            .env("LISTEN", self.listen.to_string())
            .env("STATE", self.dir.path().join("state"))
            .env("HOOKS", &self.hooks)
            .env("ENDPOINT", "ep_1")
    }

    async fn send_signed(&self, secrets: &Secrets, body: &Value, at: When) -> u16 {
        let to = Address::parse(&format!("http://{}/", self.listen)).unwrap();
        let (body, headers) = (body.to_string().into(), UserHeaders::default());
        let delivery = Delivery { to: &to, headers: &headers, id: "ep_1-E-1-1-0", body: &body, secrets, now: at };
        match self.sender.deliver(&delivery).await.outcome {
            Outcome::Answered { status, .. } => status,
            failed @ Outcome::Failed { .. } => panic!("{failed:?}"),
        }
    }

    async fn send(&self, body: &Value) -> u16 {
        self.send_signed(&Secrets::new(secret(1)), body, now()).await
    }
}

fn update(bug: u64, seq: u64) -> Value {
    json!({ "command": "update", "bug": bug, "when": T, "cursor": format!("E.{seq}"), "feed": "kde" })
}

/// The bugs that were looked at, in order.
fn looked_at(proc: &Proc) -> Vec<String> {
    let output = proc.output();
    output.lines().filter_map(|line| Some(line.strip_prefix("look at bug ")?.split(' ').next()?.to_owned())).collect()
}

/// What is wrong is said at the start, with its name.
async fn wrong_settings_are_named(receiver: &Receiver) {
    for bad in ["hello", "whsec_", "whsec_!!"] {
        let secrets = format!("{} {bad}", secret(1).expose());
        let mut proc = (receiver.program)().dir(receiver.dir.path()).env("BUGFEED_SECRET", secrets).spawn().unwrap();
        let status = proc.wait(SOON).await.unwrap();
        assert!(!status.success() && proc.output().contains("set BUGFEED_SECRET"), "{bad}: {}", proc.output());
    }
    let nobody = format!("http://{}/", free_address());
    let mut proc = receiver.run().env("HOOKS", &nobody).spawn().unwrap();
    proc.wait_for_line(nobody.trim_end_matches('/'), SOON).await.unwrap();
    proc.kill9();
}

async fn a_receiver_that_misses_nothing(program: impl Fn() -> Run + 'static) {
    let (hooks, site) = Hooks::start().await;
    let receiver = Receiver::new(program, &site);
    wrong_settings_are_named(&receiver).await;
    let mut first = receiver.start().await;
    hooks.is_asked(&["POST /endpoints/ep_1/ready"]).await;

    // A change, the same again in a backlog, and what is no change.
    assert_eq!(receiver.send(&update(1, 5)).await, 204);
    assert_eq!(
        first.wait_for_line("look at bug", SOON).await.unwrap(),
        format!("look at bug 1 of kde, changed at {T}")
    );
    assert_eq!(receiver.send(&update(1, 5)).await, 204);
    let change = |bug: u64, seq: u64| json!({ "bug": bug, "when": T, "cursor": format!("E.{seq}") });
    let backlog = json!({ "command": "updates", "replay": "complete", "cursor": "E.7", "feed": "kde",
        "changes": [change(1, 5), change(2, 6), change(1, 7)] });
    assert_eq!(receiver.send(&backlog).await, 204);
    let word = |command: &str| json!({ "command": command, "cursor": "E.99", "feed": "kde" });
    assert_eq!(receiver.send(&word("test")).await, 204);
    assert_eq!(receiver.send(&word("something-of-2030")).await, 204, "newer ones are no fault");
    // Between 2 and 7, the change 1 of E.7 may have come before 2 was looked at.
    eventually(SOON, "both are looked at", async || looked_at(&first).len() == 3).await.unwrap();
    assert_eq!(looked_at(&first), ["1", "2", "1"], "none twice");
    late_changes(&receiver, &mut first).await;
    refusals(&receiver).await;
    assert_eq!(receiver.send(&update(3, 8)).await, 204);
    first.kill9();

    // What was answered is done, if not before, then now; and it asks for what it missed.
    *hooks.missed.lock().unwrap() = json!({ "changes": [{ "bug": 4, "when": T, "cursor": "E.9" }], "replay": "latest", "cursor": "E.9", "feed": "kde" });
    let before = looked_at(&first);
    let mut second = receiver.start().await;
    let changes = "GET /endpoints/ep_1/changes?feed=kde&cursor=E.8";
    hooks.is_asked(&["POST /endpoints/ep_1/ready", changes, "POST /endpoints/ep_1/ready"]).await;
    second.wait_for_line("look at bug 4 of kde", SOON).await.unwrap();
    assert!([before, looked_at(&second)].concat().contains(&"3".to_owned()), "{}", second.output());
    assert_eq!(receiver.send(&update(3, 8)).await, 204, "known after the start, too");
    assert_eq!(receiver.send(&update(4, 9)).await, 204, "the answer had it");
    assert_eq!(receiver.send(&word("gap")).await, 204);
    second.wait_for_line("changes of kde may be missing: look at all its bugs", SOON).await.unwrap();
    let looked = looked_at(&second);
    assert!(looked.iter().filter(|bug| *bug == "3").count() <= 1, "{looked:?}");
    assert_eq!(looked.iter().filter(|bug| *bug == "4").count(), 1, "{looked:?}");
    second.kill9();
}

/// Changes that came late share a cursor: their dates tell them apart. An exact repeat is taken once.
async fn late_changes(receiver: &Receiver, proc: &mut Proc) {
    let when = |second: u64| format!("2026-11-26T11:00:0{second}");
    let late = |second: u64| {
        json!({ "command": "updates", "replay": "complete", "cursor": "E.7", "feed": "kde",
            "changes": [{ "bug": 5, "when": when(second), "cursor": "E.7" }] })
    };
    for second in [1, 2] {
        assert_eq!(receiver.send(&late(second)).await, 204);
        let line = format!("look at bug 5 of kde, changed at {}", when(second));
        proc.wait_for_line(line.as_str(), SOON).await.unwrap();
    }
    for second in [1, 2] {
        assert_eq!(receiver.send(&late(second)).await, 204);
    }
    // What is taken is looked at in order, so a repeat would be looked at before this.
    assert_eq!(receiver.send(&update(6, 7)).await, 204);
    proc.wait_for_line("look at bug 6 of kde", SOON).await.unwrap();
    assert_eq!(looked_at(proc).iter().filter(|bug| *bug == "5").count(), 2, "{}", proc.output());
}

async fn refusals(receiver: &Receiver) {
    let body = update(9, 9);
    let [new, old, other] = [1, 2, 3].map(|byte| Secrets::new(secret(byte)));
    let moved = |seconds: i64| When::from_micros(now().as_micros() + seconds * 1_000_000).unwrap();
    for (secrets, seconds, want) in [(&other, 0, 401), (&new, -310, 401), (&new, 310, 401), (&old, -290, 204)] {
        let seconds = moved(seconds);
        let body = if want == 204 { &json!({ "command": "test", "cursor": "E.7", "feed": "kde" }) } else { &body };
        assert_eq!(receiver.send_signed(secrets, body, seconds).await, want, "{seconds}");
    }
    let both = Secrets::rotating(secret(9), secret(1), moved(3600));
    let test = json!({ "command": "test", "cursor": "E.7", "feed": "kde" });
    assert_eq!(receiver.send_signed(&both, &test, now()).await, 204, "one of two signatures is enough");
}

pub(super) fn python() -> Option<Python> {
    Python::find_or_skip()
}

pub(super) fn javascript() -> Option<PathBuf> {
    node_with("webhook-receiver/js", "standardwebhooks")
}

#[tokio::test]
async fn javascript_misses_nothing() {
    let Some(node) = javascript() else { return };
    a_receiver_that_misses_nothing(move || Run::new(&node).arg(example("webhook-receiver/js/receiver.mjs"))).await;
}

#[tokio::test]
async fn python_misses_nothing() {
    let Some(python) = python() else { return };
    a_receiver_that_misses_nothing(move || python.run("webhook-receiver/python/receiver.py")).await;
}

#[tokio::test]
async fn rust_misses_nothing() {
    let program = bin("examples/webhook-receiver").expect("cargo builds it with the tests");
    a_receiver_that_misses_nothing(move || Run::new(&program)).await;
}

/// The requests of `hooks/golden/deliver/signed.json`, which a test of the hooks keeps current.
#[tokio::test]
async fn the_libraries_agree_about_signatures() {
    let mut programs = Vec::new();
    if let Some(node) = javascript() {
        programs.push(Run::new(node).arg("--test").arg(example("webhook-receiver/js/signed.test.mjs")));
    }
    if let Some(python) = python() {
        programs.push(python.run("webhook-receiver/python/test_signed.py"));
    }
    for program in programs {
        let mut proc = program.dir(Path::new(env!("CARGO_TARGET_TMPDIR"))).spawn().unwrap();
        proc.succeeds(SOON).await.unwrap();
    }
}
