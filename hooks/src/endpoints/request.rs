//! One attempt: its messages are POSTed one after another, until one fails.
//!
//! Goes in: what is sent and where. Comes out: what came of it, a row of the log for each POST, and what the receiver took.
//! It ends at its deadline at the latest, whatever the receiver does.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::endpoints::policy::Outcome;
use bugfeed_core::endpoints::question::Told;
use bugfeed_core::hooks::event::Trigger;
use bytes::Bytes;
use rand::random;
use tokio::time::Instant;

use super::content::Message;
use super::target::Target;
use crate::deliver::send::{self, Delivery, FaultClass, Sender};
use crate::receive::received::RequestId;
use crate::store::Store;
use crate::store::endpoints::{AttemptRow, EndpointId};
use crate::tracker::Clock;

/// Between two tries to read the attempt that is to be sent again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The request ends so long before the attempt has to.
const EARLIER: Duration = Duration::from_millis(20);

/// What is POSTed.
#[derive(Clone, Debug)]
pub(super) enum Load {
    /// These messages, in order.
    Messages(Vec<Message>),
    /// What this attempt sent.
    Again(u128),
}

/// An attempt that is to be made.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) endpoint: EndpointId,
    pub(super) target: Arc<Target>,
    pub(super) feed: Option<Arc<str>>,
    pub(super) trigger: Trigger,
    pub(super) load: Load,
    /// Other messages of the same batch follow in another attempt.
    pub(super) has_rest: bool,
    /// It has ended by then.
    pub(super) until: Instant,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// One for each POST, in order. Whether they count is not known here.
    pub(super) rows: Vec<AttemptRow>,
    /// What the receiver took as messages of their own.
    pub(super) told: Vec<Told>,
    /// How long it took in all.
    pub(super) took: Duration,
}

impl Ended {
    /// Nothing is known of it.
    pub(super) fn broken() -> Ended {
        Ended { outcome: Outcome::Ours, rows: Vec::new(), told: Vec::new(), took: Duration::ZERO }
    }
}

/// What attempts are made with.
#[derive(Clone)]
pub(super) struct Courier {
    pub(super) sender: Sender,
    pub(super) store: Store,
    pub(super) clock: Clock,
}

impl Courier {
    /// Makes an attempt.
    pub(super) async fn carry(&self, mut job: Job) -> Ended {
        let begun = Instant::now();
        let mut ended = Ended::broken();
        match std::mem::replace(&mut job.load, Load::Messages(Vec::new())) {
            Load::Messages(messages) => self.all(&job, &messages, &mut ended).await,
            Load::Again(attempt) => match self.read(&job, attempt).await {
                Ok((feed, message)) => {
                    job.feed = feed.map(Arc::from);
                    self.all(&job, &[message], &mut ended).await;
                }
                Err(why) => {
                    let failed = failed(FaultClass::Ours, why, begun.elapsed());
                    let nothing = Message { id: String::new(), body: Bytes::new(), tells: None };
                    ended.rows.push(self.row(&job, &nothing, (self.clock)(), &failed));
                }
            },
        }
        Ended { took: begun.elapsed(), ..ended }
    }

    async fn all(&self, job: &Job, messages: &[Message], ended: &mut Ended) {
        for message in messages {
            let now_us = (self.clock)();
            let attempt = self.one(job, message, now_us).await;
            ended.outcome = outcome(&attempt.outcome);
            ended.rows.push(self.row(job, message, now_us, &attempt));
            if ended.outcome != Outcome::Success {
                return;
            }
            ended.told.extend(message.tells.clone());
        }
        if ended.outcome == Outcome::Success && job.has_rest {
            ended.outcome = Outcome::Partly;
        }
    }

    async fn one(&self, job: &Job, message: &Message, now_us: i64) -> send::Attempt {
        let Target { to, headers, secrets, .. } = &*job.target;
        let to = match to {
            Ok(to) => to,
            Err(bad) => {
                let outcome =
                    send::Outcome::Failed { class: FaultClass::Forbidden, why: bad.to_string(), is_final: true };
                return send::Attempt { outcome, took: Duration::ZERO, response: String::new() };
            }
        };
        let now = super::when(now_us);
        let delivery = Delivery { to, headers, id: &message.id, body: &message.body, secrets, now };
        let begun = Instant::now();
        // The sender gives up first, because it knows how far the request came.
        let left = job.until.saturating_duration_since(begun).saturating_sub(EARLIER);
        let sender = self.sender.clone().within(left);
        match tokio::time::timeout_at(job.until, sender.deliver(&delivery)).await {
            Ok(attempt) => attempt,
            Err(_) => {
                let why = "the attempt took too long in all".to_owned();
                failed(FaultClass::TimeoutBeforeHead, why, begun.elapsed())
            }
        }
    }

    /// What an attempt sent, as a message that is sent again, and the feed of it.
    async fn read(&self, job: &Job, attempt: u128) -> Result<(Option<String>, Message), String> {
        loop {
            let read = tokio::time::timeout_at(job.until, self.store.attempt(attempt)).await;
            match read {
                Ok(Ok(Some(row))) if row.endpoint == job.endpoint && !row.webhook_id.is_empty() => {
                    let message = Message { id: row.webhook_id, body: row.request.into(), tells: None };
                    return Ok((row.feed, message));
                }
                Ok(Ok(_)) => return Err("what this attempt sent is not kept any more".to_owned()),
                Ok(Err(error)) if !error.may_heal() || Instant::now() + READ_AGAIN >= job.until => {
                    return Err(format!("what is to be sent again cannot be read: {error}"));
                }
                Ok(Err(_)) => tokio::time::sleep(READ_AGAIN).await,
                Err(_) => return Err("what is to be sent again could not be read in time".to_owned()),
            }
        }
    }

    fn row(&self, job: &Job, message: &Message, begun_us: i64, attempt: &send::Attempt) -> AttemptRow {
        let (status, fault, error) = match &attempt.outcome {
            send::Outcome::Answered { status, .. } => (Some(*status), None, None),
            send::Outcome::Failed { class, why, .. } => (None, Some(class.name()), Some(why.clone())),
        };
        AttemptRow {
            id: RequestId::new(begun_us, random()).0,
            endpoint: job.endpoint.clone(),
            feed: job.feed.as_deref().map(str::to_owned),
            trigger: job.trigger,
            begun_us,
            took_us: crate::work::micros(attempt.took),
            status,
            fault: fault.map(str::to_owned),
            error,
            response: attempt.response.clone(),
            webhook_id: message.id.clone(),
            counts: false,
            request: String::from_utf8_lossy(&message.body).into_owned(),
            content_type: "application/json".to_owned(),
        }
    }
}

fn failed(class: FaultClass, why: String, took: Duration) -> send::Attempt {
    let outcome = send::Outcome::Failed { class, why, is_final: false };
    send::Attempt { outcome, took, response: String::new() }
}

/// What an outcome means for the policy.
fn outcome(outcome: &send::Outcome) -> Outcome {
    match outcome {
        send::Outcome::Answered { status, retry_after_us } => Outcome::of_status(*status, *retry_after_us),
        send::Outcome::Failed { class: FaultClass::Forbidden, is_final: true, .. } => Outcome::Forbidden,
        send::Outcome::Failed { class: FaultClass::Forbidden, .. } => Outcome::Nameless,
        send::Outcome::Failed { class: FaultClass::Ours, .. } => Outcome::Ours,
        // A name that cannot be looked up may be the fault of a resolver: it never disables.
        send::Outcome::Failed { .. } => Outcome::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_fault_means_for_the_policy() {
        let failed = |class, is_final| outcome(&send::Outcome::Failed { class, why: String::new(), is_final });
        assert_eq!(failed(FaultClass::Forbidden, true), Outcome::Forbidden, "the URL itself");
        assert_eq!(failed(FaultClass::Forbidden, false), Outcome::Nameless, "a name may lead elsewhere tomorrow");
        assert_eq!(failed(FaultClass::Ours, false), Outcome::Ours, "it says nothing about the receiver");
        for class in [
            FaultClass::Dns,
            FaultClass::Refused,
            FaultClass::TimeoutBeforeHead,
            FaultClass::TimeoutAfterHead,
            FaultClass::Tls,
            FaultClass::Protocol,
            FaultClass::Closed,
        ] {
            assert_eq!(failed(class, false), Outcome::Fault, "{class:?}");
        }
    }
}
