//! Orders from outside the lane: of people, of a reload, of a tracker's recovery, of a switch.
//!
//! Goes in: an event and an order. Comes out: the actions, or why it cannot be done. An order for many events is given for
//! each one, in transactions of a bounded number of rows; what a lane does next, its plan decides.

use std::fmt;

use super::action::{Action, Step};
use super::event::{AT_ONCE, DropReason, ErrorClass, Event, EventId, State, Trigger};
use super::rules::can_be_tried;
use super::states::Cause;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A person wants a dead letter tried now.
    Retry,
    /// A person wants an event dropped.
    Drop,
    /// A person wants the events behind a dead letter to go on.
    Release,
    /// A person wants it gone.
    Prune,
    /// The source and the feed are switched on again.
    SwitchOn,
    /// The cause of errors of this class may be mended: the configuration was read (`mapping`), or the tracker answered
    /// after it had not (`tracker`).
    Mended(ErrorClass),
    /// The whole request could not be read, and by the configuration of now it concerns no bug: the event that stands for
    /// it has nothing to become.
    Ignored,
}

/// Why an order cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not in this state.
    State(State),
    /// It waits behind this dead letter: that one must be tried, dropped or released.
    BlockedBy(EventId),
    /// The item was not kept, so only the sender can bring it again.
    NotRetryable,
    /// The order does not concern this event, for example because its error is of another class.
    NotConcerned,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::State(state) => write!(f, "the event is {state}"),
            Refusal::BlockedBy(id) => write!(f, "the event waits behind {id}; retry, drop or release that one"),
            Refusal::NotRetryable => f.write_str("the item was not kept; have the tracker send it again"),
            Refusal::NotConcerned => f.write_str("the event is not concerned"),
        }
    }
}

/// What to do about this event. All of it is one transaction.
pub fn carry_out(order: Order, event: &Event, now_us: i64) -> Result<Vec<Action>, Refusal> {
    let state = event.progress.state;
    let step = match (order, state) {
        (Order::Retry, State::Errored) => return retry(event),
        (Order::Mended(class), State::Errored) => return mended(event, class, now_us),
        (Order::Ignored, State::Errored) if !stands_for_a_request(event) => return Err(Refusal::NotConcerned),
        (Order::Ignored, State::Errored) => Action::drop(event, Cause::Ignored, DropReason::Ignored, now_us),
        (Order::Release, State::Errored) => Step::new(event, Cause::Released, state, |after| after.released = true),
        (Order::Drop, State::Queued | State::Errored | State::Disabled) => {
            Action::drop(event, Cause::ByHand, DropReason::ByHand, now_us)
        }
        (Order::Prune, State::Queued | State::Errored | State::Disabled) => {
            Step::new(event, Cause::Pruned, State::Canceled, |after| after.ended_us = Some(now_us))
        }
        (Order::SwitchOn, State::Disabled) => {
            Step::new(event, Cause::SwitchedOn, State::Queued, |after| after.due_us = Some(AT_ONCE))
        }
        _ => return Err(Refusal::State(state)),
    };
    let lets_go = order != Order::SwitchOn;
    let mut actions = vec![Action::Step(Box::new(step))];
    if lets_go {
        actions.push(Action::Unblock { by: event.id });
    }
    Ok(actions)
}

/// Whether an event may be the only one of a request that nothing could be read of: no item of it is kept.
pub fn stands_for_a_request(event: &Event) -> bool {
    event.bug.is_none() && !event.retryable && event.progress.class == Some(ErrorClass::Mapping)
}

fn retry(event: &Event) -> Result<Vec<Action>, Refusal> {
    if let Some(by) = event.progress.blocked_by {
        return Err(Refusal::BlockedBy(by));
    }
    if !can_be_tried(event) {
        return Err(Refusal::NotRetryable);
    }
    let step = Step::new(event, Cause::Retried, State::Queued, |after| {
        (after.due_us, after.trigger) = (Some(AT_ONCE), Trigger::Manual);
    });
    Ok(vec![Action::Step(Box::new(step))])
}

fn mended(event: &Event, class: ErrorClass, now_us: i64) -> Result<Vec<Action>, Refusal> {
    if event.progress.class != Some(class) {
        return Err(Refusal::NotConcerned);
    }
    if let Some(by) = event.progress.blocked_by {
        return Err(Refusal::BlockedBy(by));
    }
    if !can_be_tried(event) {
        return Err(Refusal::NotRetryable);
    }
    if event.progress.due_us.is_some_and(|due_us| due_us <= now_us) {
        return Err(Refusal::NotConcerned);
    }
    let step = Step::new(event, Cause::Hastened, State::Errored, |after| {
        (after.due_us, after.trigger) = (Some(AT_ONCE), Trigger::Drain);
    });
    Ok(vec![Action::Step(Box::new(step))])
}

#[cfg(test)]
mod tests;
