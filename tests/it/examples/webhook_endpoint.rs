//! The receivers of webhooks, in each language, at an endpoint of a running bugfeed: what it sends, they take; what they ask,
//! it answers.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_testbed::{Proc, Run, bin, eventually};
use serde_json::Value;

use super::tools::example;
use super::webhook_receiver::{javascript, python};
use crate::hooks::Receiver;
use crate::hooks::endpoints::{create_with_secret, shown};
use crate::support::bot::number;
use crate::support::{SOON, free_address, touch};

/// One of the programs, its endpoint and where its state is.
struct Bot<'a> {
    program: &'a dyn Fn() -> Run,
    dir: &'a Path,
    listen: SocketAddr,
    secret: &'a str,
    endpoint: &'a str,
}

impl Bot<'_> {
    async fn start(&self, serve: &Receiver) -> Proc {
        let mut proc = (self.program)()
            .dir(self.dir)
            .env("BUGFEED_SECRET", self.secret)
            .env("LISTEN", self.listen.to_string())
            .env("STATE", self.dir.join("state"))
            .env("HOOKS", format!("http://{}/", serve.port))
            .env("ENDPOINT", self.endpoint)
            .spawn()
            .unwrap();
        proc.wait_for_line("said that this is ready", SOON).await.unwrap();
        proc
    }
}

async fn until_shown(serve: &Receiver, dir: &Path, id: &str, what: &str, fits: impl Fn(&Value) -> bool) {
    let look = async || {
        let endpoint = shown(serve, dir, id).await;
        if fits(&endpoint) { Ok(()) } else { Err(endpoint.to_string()) }
    };
    eventually(SOON, what.to_owned(), look).await.unwrap();
}

async fn a_receiver_at_a_real_endpoint(program: impl Fn() -> Run) {
    let (dir, listen) = (tempfile::tempdir().unwrap(), free_address());
    let dir = dir.path();
    let mut serve = Receiver::start(dir, &["serve", "--allow-network", "127.0.0.0/8"]).await;
    let url = format!("http://{listen}/");
    let (id, secret) = create_with_secret(&serve, dir, &url, &["--bugs", "1,2,3,4"]).await;
    let bot = Bot { program: &program, dir, listen, secret: &secret, endpoint: &id };
    let mut first = bot.start(&serve).await;
    touch(dir, &["1", "9", "--when", "2014-04-03T10:00:01"]).await;
    let line = first.wait_for_line("look at bug", SOON).await.unwrap();
    assert_eq!(line, "look at bug 1 of default, changed at 2014-04-03T10:00:01");
    let told = serve.command(dir, &["endpoints", "test", &id]).await;
    assert!(told.contains("204"), "{told}");

    // It is killed, and the endpoint cools down for minutes. What came meanwhile is asked for at the start; the word that it
    // is ready ends the cool-down, and the endpoint's cursor moves.
    first.kill9();
    touch(dir, &["2", "--when", "2014-04-03T10:00:02"]).await;
    until_shown(&serve, dir, &id, "it cools down", |endpoint| endpoint["state"] == "cooling").await;
    let mut second = bot.start(&serve).await;
    second.wait_for_line("look at bug 2 of default, changed at 2014-04-03T10:00:02", SOON).await.unwrap();
    let is_well = |endpoint: &Value| endpoint["state"] == "active" && number(&endpoint["cursor"]) == 3;
    until_shown(&serve, dir, &id, "it is well", is_well).await;

    // The old secret goes on for a while after another was made.
    serve.command(dir, &["endpoints", "rotate", &id]).await;
    touch(dir, &["3", "--when", "2014-04-03T10:00:03"]).await;
    second.wait_for_line("look at bug 3 of default", SOON).await.unwrap();
    // bugfeed is killed.
    serve.proc.kill9();
    touch(dir, &["4", "--when", "2014-04-03T10:00:04"]).await;
    let serve = Receiver::start(dir, &["serve", "--allow-network", "127.0.0.0/8"]).await;
    second.wait_for_line("look at bug 4 of default", SOON).await.unwrap();
    until_shown(&serve, dir, &id, "it has all", |endpoint| number(&endpoint["cursor"]) == 5).await;
    assert!(!second.output().contains("may be missing"), "{}", second.output());
    second.kill9();
}

#[tokio::test]
async fn javascript_at_an_endpoint() {
    let Some(node) = javascript() else { return };
    a_receiver_at_a_real_endpoint(move || Run::new(&node).arg(example("webhook-receiver/js/receiver.mjs"))).await;
}

#[tokio::test]
async fn python_at_an_endpoint() {
    let Some(python) = python() else { return };
    a_receiver_at_a_real_endpoint(move || python.run("webhook-receiver/python/receiver.py")).await;
}

#[tokio::test]
async fn rust_at_an_endpoint() {
    let program = bin("examples/webhook-receiver").expect("cargo builds it with the tests");
    a_receiver_at_a_real_endpoint(move || Run::new(&program)).await;
}
