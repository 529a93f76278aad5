//! What a plan asks: to map an item again, or to look at the tracker; and what follows from the answer.
//!
//! Goes in: a claim under a lease. Comes out: the outcome, written in one transaction that holds only while the claim does.
//! Each question is a task of its own, so that a slow tracker delays no other source; how many of a source are under way is
//! bounded by its gate. If this process dies, or the store is away until the lease ends, the event is begun again by
//! whoever sees that.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::action::{self, Question};
use bugfeed_core::hooks::event::{ContentHash, ErrorClass, Event, EventId, WhenOrigin};
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_protocol::When;
use bugfeed_protocol::backoff::Backoff;

use super::batch;
use super::gates::Place;
use super::{Shared, until};
use crate::receive::mapped::{DropReason, Mapped};
use crate::receive::mapping::map_kept;
use crate::receive::received::Failure;
use crate::store::StoreError;
use crate::store::apply::Applied;

/// The outcome is written at least so long before the lease ends, in microseconds.
const MARGIN_US: i64 = 5 * SECOND_US;
/// In an orderly stop, a claim that has no answer is given back within this time, or is left to its lease.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(2);

/// A claimed event, and what is asked about it.
pub(super) struct Asked {
    pub(super) key: LaneKey,
    /// As it was before the claim.
    pub(super) event: Event,
    pub(super) version: u32,
    pub(super) what: Question,
    /// When the claim was planned, by the clock of this process.
    pub(super) claimed_us: i64,
    pub(super) lease_until_us: i64,
    /// Its place among the questions to the tracker.
    pub(super) place: Option<Place>,
}

/// What was found out, and why nothing was.
struct Answer {
    outcome: Outcome,
    failure: Option<Failure>,
}

impl Answer {
    fn of(outcome: Outcome) -> Answer {
        Answer { outcome, failure: None }
    }

    fn failed(class: ErrorClass, error: impl Into<String>, fix: impl Into<String>) -> Answer {
        let failure = Failure { error: error.into(), fix: fix.into() };
        Answer { failure: Some(failure), ..Answer::of(Outcome::Failed(class)) }
    }
}

/// Begins to find an answer.
pub(super) fn ask(shared: &Arc<Shared>, asked: Asked) {
    let shared = Arc::clone(shared);
    shared.questions.clone().spawn(async move {
        if shared.give_up.run_until_cancelled(find_out(&shared, &asked)).await.is_none() {
            // Whatever was written meanwhile, this holds only if the claim does.
            let nothing = Answer::of(Outcome::GivenBack);
            let give_back = try_conclude(&shared, &asked, &nothing);
            // If it fails, the event is begun again when the lease has ended.
            let _ = tokio::time::timeout(GIVE_BACK_WITHIN, give_back).await;
        }
        drop(asked.place);
        shared.wake.notify_one();
    });
}

async fn find_out(shared: &Arc<Shared>, asked: &Asked) {
    let answer = match asked.what {
        Question::Look => look(shared, asked).await,
        Question::Map => map(shared, asked).await,
    };
    shared.events.asked(&asked.event.source, asked.what, &answer.outcome);
    conclude(shared, asked, answer).await;
}

/// Asks the tracker whether the bug is visible to anybody.
async fn look(shared: &Shared, asked: &Asked) -> Answer {
    let event = &asked.event;
    let (Some(asker), Some(bug)) = (shared.sources.asker(&event.source), event.bug) else {
        let fix = "set tracker in the source's configuration";
        return Answer::failed(ErrorClass::Ours, "the source's tracker cannot be asked any more", fix);
    };
    let left = until(shared.now_us(), asked.lease_until_us - 2 * MARGIN_US);
    let within = left.min(shared.options.look_within).max(Duration::from_millis(100));
    let found = asker.look(&event.feed, bug, known_since_us(shared, asked), within).await;
    if found.opened {
        shared.events.tracker_away(&event.source, found.reason.as_deref().unwrap_or_default());
    }
    let failure = match (&found.outcome, found.reason) {
        (_, Some(error)) => {
            let fix = "it is tried again by itself; `bugfeed events retry` tries it at once";
            Some(Failure { error, fix: fix.to_owned() })
        }
        (Outcome::NotVisible, None) => Some(Failure {
            error: format!("the tracker does not show bug {bug} to everybody, or there is no such bug"),
            fix: "it is looked at again within minutes, and dropped if that has not changed".to_owned(),
        }),
        _ => None,
    };
    Answer { outcome: found.outcome, failure }
}

/// From when on this process knows of the event, by its own clock. A look that began before that does not count, because
/// the bug may have been hidden in between; and the clock of another process that received the event may be behind.
fn known_since_us(shared: &Shared, asked: &Asked) -> i64 {
    if shared.has_received(asked.event.id) { asked.event.received_us } else { asked.claimed_us }
}

/// Maps the kept item once more.
async fn map(shared: &Shared, asked: &Asked) -> Answer {
    match try_map(shared, &asked.event).await {
        Ok(answer) => answer,
        Err(error) => Answer::failed(ErrorClass::Ours, error.to_string(), "it is tried again by itself"),
    }
}

async fn try_map(shared: &Shared, event: &Event) -> Result<Answer, StoreError> {
    let lost =
        || Answer::failed(ErrorClass::Mapping, "the item is not kept any more", "have the tracker send it again");
    let Some(kept) = shared.store.kept(event.id).await? else { return Ok(lost()) };
    let Some(state) = shared.sources.state(&event.source) else { return Ok(lost()) };
    let arrived = When::from_micros(event.received_us)
        .unwrap_or_else(|| When::from_system_time(std::time::SystemTime::UNIX_EPOCH));
    let item = match map_kept(&state.config, &kept, arrived) {
        Mapped::Item(item) => item,
        Mapped::Dropped(dropped) => {
            return Ok(Answer::of(match dropped.reason {
                DropReason::Private => Outcome::Private,
                DropReason::NotMapped => Outcome::NotMapped,
            }));
        }
        Mapped::Answered { .. } => return Ok(Answer::of(Outcome::Ignored)),
        Mapped::Errored(errored) => return Ok(Answer::failed(ErrorClass::Mapping, errored.error, errored.fix)),
    };
    if !may_feed(shared, event.id, &item.feed).await? {
        return Ok(Answer::of(Outcome::ProjectMismatch));
    }
    let origin = if item.time.origin.is_tracker() { WhenOrigin::Tracker } else { WhenOrigin::Arrival };
    let mapped = action::Mapped {
        feed: Arc::from(item.feed.as_str()),
        bug: item.bug,
        when: item.time.when,
        origin,
        private: item.is_private,
        hash: ContentHash(item.identity.0),
    };
    Ok(Answer::of(Outcome::Mapped(mapped)))
}

/// Whether the key with which the event came may send to this feed.
async fn may_feed(shared: &Shared, id: EventId, feed: &str) -> Result<bool, StoreError> {
    let Some(detail) = shared.store.detail(id).await? else { return Ok(true) };
    let Some(request) = shared.store.request(detail.stored.request()).await? else { return Ok(true) };
    let Some(key_id) = request.envelope.key_id else { return Ok(true) };
    let Some(key) = shared.store.key(&key_id).await? else { return Ok(true) };
    Ok(key.scopes.feeds.is_none_or(|feeds| feeds.iter().any(|name| name == feed)))
}

/// Writes the outcome, unless the claim does not hold any more.
async fn conclude(shared: &Arc<Shared>, asked: &Asked, mut answer: Answer) {
    let mut backoff = Backoff::SERVER;
    loop {
        match try_conclude(shared, asked, &answer).await {
            Ok(true) => return,
            Ok(false) => {}
            // The row cannot be written. That is ours to mend, and no worker is gone.
            Err(error) if error.may_be_of_a_feed() && !matches!(answer.outcome, Outcome::Failed(_)) => {
                answer = Answer::failed(ErrorClass::Ours, error.to_string(), "mend the table of the feed");
                continue;
            }
            Err(error) => shared.events.store_failed(&error),
        }
        let pause = backoff.next(rand::random());
        // After the lease, somebody else has it. What is written after that does not hold.
        if shared.now_us() > asked.lease_until_us {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Returns whether it is settled.
async fn try_conclude(shared: &Arc<Shared>, asked: &Asked, answer: &Answer) -> Result<bool, StoreError> {
    let look = shared.look();
    let lane = shared.store.lane(&asked.key, &look).await?;
    let planned = batch::after(shared, asked, &lane, &answer.outcome, answer.failure.as_ref(), look.now_us);
    if !planned.does_something() {
        return Ok(true);
    }
    let done = shared.store.apply(&planned.plan).await? == Applied::Done;
    if done {
        planned.follow(shared);
    } else {
        shared.events.stale();
    }
    Ok(done)
}
