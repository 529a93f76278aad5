//! A tracker that sends as GitHub does: each delivery once, signed, and whoever does not answer has lost it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use ring::hmac;
use serde_json::json;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::post::post;
use super::tracker::{Edit, REPOSITORY, Tracker};
use crate::real::soak::pause;

/// Issues 1 to this many change: more than a page of GitHub's list.
pub const ISSUES: u64 = 240;
/// How long a request may take. (GitHub waits 10 s.)
const LIMIT: Duration = Duration::from_secs(4);
/// So many deliveries are under way at once.
const AT_ONCE: usize = 64;
const SECRET: &str = "nobody must know this";

/// The secret of its webhook.
pub fn secret() -> &'static str {
    SECRET
}

/// The tracker and its sender. They end when this is dropped.
pub struct GitHub {
    pub tracker: Arc<Tracker>,
    pub journal: Journal,
    calm: CancellationToken,
    task: AbortHandle,
    ended: CancellationToken,
}

impl Drop for GitHub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GitHub {
    /// Begins to change issues, with at most `longest` between two edits, and to POST to this address.
    pub fn start(tracker: Arc<Tracker>, to: SocketAddr, seed: u64, longest: Duration) -> GitHub {
        let (calm, ended, journal) = (CancellationToken::new(), CancellationToken::new(), Journal::default());
        let sender = Sender { tracker: Arc::clone(&tracker), journal: journal.clone(), to };
        let (until, done) = (calm.clone(), ended.clone());
        let running = async move {
            sender.run(SmallRng::seed_from_u64(seed), longest, until).await;
            done.cancel();
        };
        GitHub { tracker, journal, calm, task: tokio::spawn(running).abort_handle(), ended }
    }

    /// Nobody changes anything any more, and no delivery is under way.
    pub async fn calm(&self) {
        self.calm.cancel();
        self.ended.cancelled().await;
    }
}

struct Sender {
    tracker: Arc<Tracker>,
    journal: Journal,
    to: SocketAddr,
}

impl Sender {
    async fn run(self, mut random: SmallRng, longest: Duration, calm: CancellationToken) {
        let mut deliveries = JoinSet::new();
        let mut number = 0;
        while calm.run_until_cancelled(pause(longest.mul_f64(random.random_range(0.1..1.0)))).await.is_some() {
            let edit = self.tracker.edit(random.random_range(1..=ISSUES));
            number += 1;
            self.journal.message(edit.bug, edit.when);
            while deliveries.try_join_next().is_some() {}
            if deliveries.len() >= AT_ONCE {
                deliveries.join_next().await;
            }
            deliveries.spawn(deliver(self.journal.clone(), self.to, edit, random.random(), number));
        }
        deliveries.join_all().await;
    }
}

async fn deliver(journal: Journal, to: SocketAddr, edit: Edit, guid: u128, number: u64) {
    let Edit { bug, when, .. } = edit;
    let issue = json!({ "number": bug, "title": format!("edit {number}"), "updated_at": format!("{when}Z") });
    let mut body =
        json!({ "action": "edited", "issue": issue, "repository": { "full_name": REPOSITORY, "private": false } });
    let is_comment = number.is_multiple_of(3);
    if is_comment {
        body["comment"] = json!({ "id": number, "updated_at": format!("{when}Z") });
    }
    let body = body.to_string();
    let headers = [
        ("User-Agent", "GitHub-Hookshot/044aadd".to_owned()),
        ("X-GitHub-Event", if is_comment { "issue_comment" } else { "issues" }.to_owned()),
        ("X-GitHub-Delivery", format!("{guid:032x}")),
        ("X-Hub-Signature-256", format!("sha256={}", sign(&body))),
    ];
    let posted = post(to, "/hooks/github", &headers, &body, LIMIT).await;
    journal.posted(bug, when, &posted);
}

fn sign(body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let mut hex = String::new();
    for byte in hmac::sign(&key, body.as_bytes()).as_ref() {
        write!(hex, "{byte:02x}").unwrap();
    }
    hex
}
