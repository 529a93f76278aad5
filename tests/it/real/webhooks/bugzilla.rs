//! A tracker that sends as Bugzilla's daemon does.
//!
//! One process sends in order, one message at a time, and looks for messages every 30 s. The n-th failure in a row makes it
//! wait 5ⁿ s, from the fifth on 900 s; then it sends the same message again. After so many failures of one message it
//! switches its webhook off. While a webhook is off, whoever switched it off, nothing that happens is kept for it; what
//! was kept before is sent when its owner switches it on again. Its seconds are shorter than ours, for tests have less
//! time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bugfeed_protocol::When;
use bugfeed_testbed::eventually;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::post::post;
use super::tracker::{Edit, Tracker};
use crate::real::soak::pause;

/// Bugs 1 to this many change.
pub const BUGS: u64 = 40;
/// How often the daemon looks for messages, in its seconds.
const POLL: f64 = 30.0;
/// After so many failures of one message the webhook is switched off. (Bugzilla's limit is 100, which takes a day.)
const ATTEMPTS: u32 = 6;
/// How long a request may take. (Bugzilla waits 30 s.)
const LIMIT: Duration = Duration::from_secs(4);

/// How long it waits after so many failures in a row, in its seconds.
fn backoff(failures: u32) -> f64 {
    if failures <= 4 { 5_f64.powi(failures.cast_signed()) } else { 900.0 }
}

#[derive(Clone, Debug)]
struct Message {
    bug: u64,
    when: When,
    body: String,
    attempts: u32,
}

/// The webhook, as its owner sees it.
#[derive(Debug)]
struct Webhook {
    is_on: bool,
    /// How often it was switched on again.
    life: u32,
    /// How often its owner switched it off.
    switched_off: u32,
    /// How often the daemon did.
    given_up: u32,
    backlog: VecDeque<Message>,
}

impl Webhook {
    /// Its owner switches it off.
    fn switch_off(&mut self) {
        self.switched_off += u32::from(std::mem::take(&mut self.is_on));
    }
}

/// How it lives.
#[derive(Clone, Copy)]
pub struct Pace {
    pub seed: u64,
    /// So many of its seconds are one of ours.
    pub speed: f64,
    /// The longest time between two edits.
    pub edits: Duration,
    /// The longest time for which its owner lets the webhook be on.
    pub on: Duration,
}

/// The tracker with its daemon. They end when this is dropped.
pub struct Bugzilla {
    pub tracker: Arc<Tracker>,
    pub journal: Journal,
    webhook: Arc<Mutex<Webhook>>,
    calm: CancellationToken,
    /// Nobody changes anything any more.
    quiet: CancellationToken,
    tasks: Vec<AbortHandle>,
}

impl Drop for Bugzilla {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Bugzilla {
    /// Begins to change bugs, and to POST to this address with this key.
    pub fn start(tracker: Arc<Tracker>, to: SocketAddr, key: &str, pace: Pace) -> Bugzilla {
        let webhook = Webhook { is_on: true, life: 0, switched_off: 0, given_up: 0, backlog: VecDeque::new() };
        let (webhook, journal) = (Arc::new(Mutex::new(webhook)), Journal::default());
        let (calm, quiet) = (CancellationToken::new(), CancellationToken::new());
        let random = |lane| SmallRng::seed_from_u64(pace.seed + lane);
        let users =
            Users { tracker: Arc::clone(&tracker), journal: journal.clone(), webhook: Arc::clone(&webhook), edits: 0 };
        let daemon = Daemon { journal: journal.clone(), webhook: Arc::clone(&webhook), to, key: key.to_owned(), pace };
        let (changing, done) = (users.run(random(1), pace.edits, calm.clone()), quiet.clone());
        let changing = async move {
            changing.await;
            done.cancel();
        };
        let tasks = vec![
            tokio::spawn(changing).abort_handle(),
            tokio::spawn(own(Arc::clone(&webhook), random(2), pace.on, calm.clone())).abort_handle(),
            tokio::spawn(daemon.run()).abort_handle(),
        ];
        Bugzilla { tracker, journal, webhook, calm, quiet, tasks }
    }

    /// Nobody changes anything any more, and the webhook is on.
    pub async fn calm(&self) {
        self.calm.cancel();
        self.quiet.cancelled().await;
        let is_on = async || lock(&self.webhook).is_on;
        eventually(Duration::from_secs(10), "the webhook is on", is_on).await.unwrap();
    }

    /// Waits until the daemon has nothing left to send.
    pub async fn drained(&self, limit: Duration) -> Result<(), String> {
        let left = async || match lock(&self.webhook).backlog.len() {
            0 => Ok(()),
            left => Err(format!("{left} messages")),
        };
        eventually(limit, "the daemon has sent everything", left).await.map_err(|error| error.to_string())
    }

    /// How often the webhook was switched off, by its owner and by the daemon.
    pub fn off(&self) -> (u32, u32) {
        let webhook = lock(&self.webhook);
        (webhook.switched_off, webhook.given_up)
    }
}

fn lock(webhook: &Mutex<Webhook>) -> MutexGuard<'_, Webhook> {
    webhook.lock().unwrap()
}

/// The owner switches the webhook off for a while, now and then, and on again whoever switched it off.
async fn own(webhook: Arc<Mutex<Webhook>>, mut random: SmallRng, longest: Duration, calm: CancellationToken) {
    while !calm.is_cancelled() {
        let on = longest.mul_f64(random.random_range(0.3..1.0));
        if calm.run_until_cancelled(pause(on)).await.is_some() {
            lock(&webhook).switch_off();
            let _or_calm = calm.run_until_cancelled(pause(longest.mul_f64(random.random_range(0.05..0.25)))).await;
        }
        let mut webhook = lock(&webhook);
        if !webhook.is_on {
            (webhook.is_on, webhook.life) = (true, webhook.life + 1);
            webhook.backlog.iter_mut().for_each(|message| message.attempts = 0);
        }
    }
}

/// Those who change bugs.
struct Users {
    tracker: Arc<Tracker>,
    journal: Journal,
    webhook: Arc<Mutex<Webhook>>,
    edits: u64,
}

impl Users {
    async fn run(mut self, mut random: SmallRng, longest: Duration, calm: CancellationToken) {
        while calm.run_until_cancelled(pause(longest.mul_f64(random.random_range(0.1..1.0)))).await.is_some() {
            let edit = self.tracker.edit(random.random_range(1..=BUGS));
            self.edits += 1;
            let mut messages = vec![self.message(edit, "bug", "modify")];
            if random.random_ratio(1, 4) {
                // One edit with a comment is two messages of one second, in any order.
                messages.insert(random.random_range(0..=1), self.message(edit, "comment", "create"));
            }
            let mut webhook = lock(&self.webhook);
            if webhook.is_on {
                for message in messages {
                    self.journal.message(message.bug, message.when);
                    webhook.backlog.push_back(message);
                }
            }
        }
    }

    fn message(&self, edit: Edit, target: &str, action: &str) -> Message {
        let Edit { bug, when, .. } = edit;
        let number = self.edits;
        let mut shown = json!({ "id": bug, "product": "P", "is_private": false, "last_change_time": when });
        if target == "comment" {
            shown["comment"] = json!({ "id": number, "is_private": false, "body": "me too" });
        }
        let changes = json!([{ "field": "whiteboard", "removed": "", "added": number.to_string() }]);
        let event = json!({
            "action": action, "target": target, "routing_key": format!("{target}.{action}"), "time": when,
            "user": { "id": 7, "login": "ann@example.org" }, "changes": changes,
        });
        let body = json!({ "bug": shown, "event": event, "webhook_id": 3, "webhook_name": "bugfeed" }).to_string();
        Message { bug, when, body, attempts: 0 }
    }
}

struct Daemon {
    journal: Journal,
    webhook: Arc<Mutex<Webhook>>,
    to: SocketAddr,
    key: String,
    pace: Pace,
}

impl Daemon {
    async fn run(self) {
        let (mut failures, mut next, mut life) = (0, Instant::now(), 0);
        loop {
            pause(self.ours(POLL)).await;
            if std::mem::replace(&mut life, lock(&self.webhook).life) != life {
                (failures, next) = (0, Instant::now());
            }
            while Instant::now() >= next {
                let oldest = Some(lock(&self.webhook)).filter(|webhook| webhook.is_on);
                let Some(message) = oldest.and_then(|webhook| webhook.backlog.front().cloned()) else { break };
                if self.send(&message).await {
                    failures = 0;
                } else {
                    failures += 1;
                    next = Instant::now() + self.ours(backoff(failures));
                }
            }
        }
    }

    /// Sends one message; returns whether it has arrived.
    async fn send(&self, message: &Message) -> bool {
        let headers = [
            ("User-Agent", "Bugzilla".to_owned()),
            ("Accept", "application/json".to_owned()),
            ("Authorization", format!("Bearer {}", self.key)),
        ];
        let posted = post(self.to, "/hooks/bugzilla", &headers, &message.body, LIMIT).await;
        let has_arrived = self.journal.posted(message.bug, message.when, &posted);
        let mut webhook = lock(&self.webhook);
        if has_arrived {
            webhook.backlog.pop_front();
            return true;
        }
        let attempts = webhook.backlog.front_mut().map_or(0, |message| {
            message.attempts += 1;
            message.attempts
        });
        if attempts >= ATTEMPTS && webhook.is_on {
            (webhook.is_on, webhook.given_up) = (false, webhook.given_up + 1);
        }
        false
    }

    /// So many of its seconds.
    fn ours(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds / self.pace.speed)
    }
}

#[test]
fn it_waits_as_bugzilla_does() {
    let seconds = (1..=6).map(backoff).collect::<Vec<_>>();
    assert_eq!(seconds, [5.0, 25.0, 125.0, 625.0, 900.0, 900.0]);
}
