//! An event's history, as people read it: the lines that are stored, and those that the times in its row tell.
//!
//! Goes in: an event, and its stored lines in their order. Comes out: one line for each change of state. The ordinary way
//! (accepted, claimed, announced) is stored as three times in the row, because nearly all events go it. Of several claims
//! the row knows the time of the last one only; an earlier one shows in the line that follows it.

use bugfeed_core::hooks::event::{Event, State};
use bugfeed_core::hooks::states::Cause;

use super::events::Line;

/// All lines, in the order in which they happened.
pub(super) fn complete(event: &Event, stored: Vec<Line>) -> Vec<Line> {
    let progress = &event.progress;
    let mut lines = Vec::with_capacity(stored.len() + 3);
    if stored.first().is_none_or(|first| first.before.is_some()) {
        lines.push(told(event.received_us, None, Cause::Accepted, State::Queued));
    }
    // Where the last claim belongs that has no line.
    let mut unclaimed = None;
    let mut state = State::Queued;
    for line in stored {
        if state == State::Queued && line.before == Some(State::Processing) {
            unclaimed = Some(lines.len());
        }
        if line.cause == Some(Cause::Claimed) {
            unclaimed = None;
        }
        state = line.after.unwrap_or(state);
        lines.push(line);
    }
    if state == State::Queued && matches!(progress.state, State::Processing | State::Completed) {
        unclaimed = Some(lines.len());
        state = State::Processing;
    }
    if let Some((place, began_us)) = unclaimed.zip(progress.began_us) {
        lines.insert(place, told(began_us, Some(State::Queued), Cause::Claimed, State::Processing));
    }
    if state == State::Processing && progress.state == State::Completed {
        let ended_us = progress.ended_us.unwrap_or(event.received_us);
        lines.push(told(ended_us, Some(state), Cause::Announced, State::Completed));
    }
    lines
}

/// A line that the row tells.
fn told(at_us: i64, before: Option<State>, cause: Cause, after: State) -> Line {
    Line { version: None, at_us, before, cause: Some(cause), after: Some(after) }
}
