//! Webhooks of the all-in-one, as a user has them: the program as a process, POSTs by HTTP, the commands.

mod captured;
pub mod endpoints;
mod first_steps;
mod presets;
mod reload;
mod stopping;

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_testbed::{Proc, Run, eventually};
use serde_json::Value;

use crate::commands::bugfeed;
use crate::support::{Client, SOON, free_address, request};

/// A process that receives webhooks: the all-in-one, or `bugfeed hooks`.
pub struct Receiver {
    pub proc: Proc,
    /// Where webhooks come in; of the all-in-one, where clients connect, too.
    pub port: SocketAddr,
    pub admin: SocketAddr,
}

impl Receiver {
    /// Starts it in this folder, and waits until it is ready.
    pub async fn start(dir: &Path, args: &[&str]) -> Receiver {
        let mut receiver = Receiver::start_unready(dir, args);
        receiver.proc.wait_ready(receiver.admin, SOON).await.unwrap();
        receiver
    }

    pub fn start_unready(dir: &Path, args: &[&str]) -> Receiver {
        let [port, admin] = [(); 2].map(|()| free_address());
        let ports = ["--listen".to_owned(), port.to_string(), "--admin-listen".to_owned(), admin.to_string()];
        let run = Run::new(bugfeed()).dir(dir).args(args).args(ports).env("BUGFEED_DRAIN_WINDOW_MS", "50");
        // Only the gateway has such an option; of the others it is no concern.
        let run = if args.first() == Some(&"hooks") { run.env_remove("BUGFEED_DRAIN_WINDOW_MS") } else { run };
        Receiver { proc: run.spawn().unwrap(), port, admin }
    }

    /// Runs a command about webhooks in this folder; what it prints.
    pub async fn command(&self, dir: &Path, args: &[&str]) -> String {
        self.try_command(dir, args).await.unwrap()
    }

    /// The same, where it may fail; then why.
    pub async fn try_command(&self, dir: &Path, args: &[&str]) -> Result<String, String> {
        let url = format!("http://{}", self.admin);
        let run = Run::new(bugfeed()).dir(dir).args(args).args(["--admin-url", &url]);
        run.succeeds(SOON).await.map(|told| told.trim().to_owned()).map_err(|error| format!("{error:#}"))
    }

    /// A new key for a source.
    pub async fn key(&self, dir: &Path, source: &str) -> String {
        key_in(&self.command(dir, &["keys", "create", "--name", "try", "--source", source]).await)
    }

    /// POSTs a body; the status and the JSON of the answer.
    pub async fn post(&self, path: &str, key: &str, body: &str) -> (u16, Value) {
        let (status, answer) = request(self.port, &head(path, key, body.len(), body)).await;
        (status, serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{status} {answer}")))
    }

    /// POSTs a change of a bug, which must be taken; the event's identifier.
    pub async fn change(&self, source: &str, key: &str, bug: u64) -> String {
        let body = format!("{{\"changes\":[{{\"bug\":{bug}}}]}}");
        let (status, answer) = self.post(&format!("/hooks/{source}"), key, &body).await;
        assert_eq!((status, &answer["result"]), (200, &Value::from("ok")), "{answer}");
        answer["items"][0]["event"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The way of a bug's newest change, once it fits.
    pub async fn way(&self, dir: &Path, bug: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let what = format!("the way of bug {bug}");
        let look = async || {
            let told = self.command(dir, &["bug", bug, "--json"]).await;
            let step = serde_json::from_str::<Value>(&told).unwrap()["steps"][0].take();
            if fits(&step) { Ok(step) } else { Err(step.to_string()) }
        };
        eventually(SOON, what, look).await.unwrap()
    }

    /// A client at the feed of this path, which watches these bugs.
    pub async fn watch(&self, path: &str, bugs: &[u64]) -> Client {
        let mut client = Client::connect(&format!("ws://{}{path}", self.port)).await;
        client.subscribe(bugs).await;
        client
    }
}

/// The key in what `keys create` prints: alone on standard output, with a remark on standard error.
pub fn key_in(told: &str) -> String {
    told.lines().find(|line| line.starts_with("bf_")).unwrap_or_else(|| panic!("no key: {told}")).to_owned()
}

/// A POST, with a body that may be only begun.
pub fn head(path: &str, key: &str, length: usize, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
