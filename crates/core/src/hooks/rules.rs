//! Small rules that several planners share.

use super::action::{Question, Step};
use super::event::{ErrorClass, Event, EventId, Link, LinkKind, State};
use super::states::Cause;

/// Whether they are two of one family.
pub(super) fn is_other_of_family(event: &Event, row: &Event) -> bool {
    event.id != row.id && event.family() == row.family()
}

/// Another one of the event's family was announced: a repeat is a duplicate of it, the first one is canceled by it.
pub(super) fn pointless(event: &Event, announced: EventId, now_us: i64) -> Step {
    if event.repeat_of.is_none() || event.progress.state == State::Disabled {
        return canceled(event, announced, now_us);
    }
    let mut step = Step::new(event, Cause::Repeated, State::Duplicate, |after| after.ended_us = Some(now_us));
    step.link = Some(Link { kind: LinkKind::DuplicateOf, to: announced });
    step
}

/// The step that cancels an event for the newer one that was announced.
pub(super) fn canceled(old: &Event, by: EventId, now_us: i64) -> Step {
    let mut step = Step::new(old, Cause::Superseded, State::Canceled, |after| after.ended_us = Some(now_us));
    step.link = Some(Link { kind: LinkKind::CanceledBy, to: by });
    step
}

/// What must be found out before this event can be announced.
pub(super) fn question(event: &Event, verify: bool) -> Option<Question> {
    if event.bug.is_none() || event.progress.class == Some(ErrorClass::Mapping) {
        Some(Question::Map)
    } else {
        verify.then_some(Question::Look)
    }
}

/// Whether another try can succeed: the item of a failed mapping must have been kept.
pub(super) fn can_be_tried(event: &Event) -> bool {
    event.retryable || question(event, false).is_none()
}
