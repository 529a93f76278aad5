//! Telling people: alerts go to the targets of `[[notify]]`.
//!
//! Goes in: an [`Alert`], from any part of hooks. Comes out: a POST, a program that is run, or a mail. [`plan`] decides who is
//! told and how often, [`silence`] what is worth telling; both are pure. A target that does not work delays no other; its
//! messages are tried again after 10 s, 1 min and 5 min, then given up, and whoever started the [`Notifier`] is told. Never
//! waits for a target where an alert is raised, and never shows a target's secret.

pub mod plan;
mod send;
pub mod silence;
mod smtp;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::plan::Planner;
pub use self::plan::{Alert, Counts, Message, digest_day};
use self::send::Outlet;
use crate::client::Client;
use crate::config::Notify;
use crate::tracker::Clock;

/// So many messages wait for a target. Further ones are given up.
const QUEUE: usize = 100;
/// When another configuration holds, what waits for the targets of the one before is delivered within this time, or given up.
const RETIRE_WITHIN: Duration = Duration::from_secs(600);
/// A message is tried again after these pauses.
const PAUSES: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];

/// Told when a message could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// The target, without secrets.
    pub target: String,
    /// The message's subject.
    pub subject: &'static str,
    /// Why.
    pub reason: String,
    /// It will not be tried again.
    pub is_final: bool,
}

/// Called for each failure. It must not block.
pub type OnFailure = Arc<dyn Fn(Undelivered) + Send + Sync>;

/// Takes alerts. Ends its tasks when it is dropped, unless it is retired.
pub struct Notifier {
    planner: Mutex<Planner>,
    queues: Vec<(String, mpsc::Sender<Message>)>,
    on_failure: OnFailure,
    clock: Clock,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.queues.iter().map(|(target, _)| target)).finish()
    }
}

impl Notifier {
    /// Starts a task for each target. `before` is the notifier of the configuration before this one.
    pub fn start(
        notify: &[Notify],
        client: &Client,
        clock: Clock,
        on_failure: OnFailure,
        before: Option<&Notifier>,
    ) -> Notifier {
        Notifier::with_pauses(notify, client, clock, on_failure, before, PAUSES)
    }

    fn with_pauses(
        notify: &[Notify],
        client: &Client,
        clock: Clock,
        on_failure: OnFailure,
        before: Option<&Notifier>,
        pauses: [Duration; 3],
    ) -> Notifier {
        let mut tasks = JoinSet::new();
        let mut queues = Vec::new();
        for notify in notify {
            let outlet = Outlet::new(&notify.target, client.clone(), Arc::clone(&clock));
            let (sender, receiver) = mpsc::channel(QUEUE);
            queues.push((outlet.to_string(), sender));
            tasks.spawn(deliver(outlet, receiver, Arc::clone(&on_failure), pauses));
        }
        let planner = Planner::new(notify);
        let planner = match before {
            Some(before) => planner.succeed(before.planner().clone()),
            None => planner,
        };
        Notifier { planner: Mutex::new(planner), queues, on_failure, clock, tasks: Mutex::new(tasks) }
    }

    /// Something happened. Returns at once.
    pub fn raise(&self, alert: Alert) {
        let messages = self.planner().raise((self.clock)(), alert);
        self.queue(messages);
    }

    /// To be called about every minute, in each process.
    pub fn tick(&self) {
        let messages = self.planner().tick((self.clock)());
        self.queue(messages);
    }

    /// Sends the daily digest, with these lines.
    pub fn digest(&self, lines: Vec<String>) {
        let messages = self.planner().digest((self.clock)(), lines);
        self.queue(messages);
    }

    /// What was counted for the digest since the last time.
    pub fn take_counts(&self) -> Counts {
        self.planner().take_counts()
    }

    /// Takes counts back that could not be handed over.
    pub fn return_counts(&self, counts: Counts) {
        self.planner().return_counts(counts);
    }

    /// Another notifier has its place. What waits for its targets is still delivered, for some minutes.
    pub fn retire(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        // Each ends when its queue is empty and this notifier is dropped.
        tokio::spawn(async move {
            let all = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(RETIRE_WITHIN, all).await;
        });
    }

    fn planner(&self) -> MutexGuard<'_, Planner> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, messages: Vec<Message>) {
        for message in messages {
            let Some((target, queue)) = self.queues.get(message.target) else { continue };
            let subject = message.subject;
            if queue.try_send(message).is_err() {
                let reason = format!("{QUEUE} messages wait for it already");
                (self.on_failure)(Undelivered { target: target.clone(), subject, reason, is_final: true });
            }
        }
    }
}

async fn deliver(outlet: Outlet, mut messages: mpsc::Receiver<Message>, on_failure: OnFailure, pauses: [Duration; 3]) {
    while let Some(message) = messages.recv().await {
        let mut pauses = pauses.iter();
        while let Err(reason) = outlet.send(&message).await {
            let pause = pauses.next();
            let target = outlet.to_string();
            on_failure(Undelivered { target, subject: message.subject, reason, is_final: pause.is_none() });
            match pause {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => break,
            }
        }
    }
}
