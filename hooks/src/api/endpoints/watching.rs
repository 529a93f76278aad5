//! The endpoints that are told of a bug, as the end of its way.

use bugfeed_core::endpoints::question::Since;
use bugfeed_core::hooks::event::State;
use bugfeed_protocol::{BugId, Cursor, Epoch};
use serde_json::{Value, json};

use super::shapes;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::store::endpoints::{EndpointFilter, Stored};
use crate::store::tokens::Scope;
use crate::store::way::Step;

/// So many endpoints are told of, the newest ones.
const MOST: usize = 100;

/// Each endpoint and feed, and whether its receiver has the newest of these changes, or, where none of them has a number, the
/// newest that the feed has. `feed`: of this feed only.
pub(in crate::api) async fn watching(
    call: &Call,
    bug: BugId,
    feed: Option<&str>,
    steps: &[Step],
) -> Result<Vec<Value>, ApiError> {
    let filter = EndpointFilter { bug: Some(bug), feed: feed.map(str::to_owned), state: None };
    let found = call.store().endpoints(&filter, None, MOST).await?.unwrap_or_default();
    Ok(found.iter().flat_map(|stored| lines(call, bug, feed, stored, steps)).collect())
}

fn lines(call: &Call, bug: BugId, feed: Option<&str>, stored: &Stored, steps: &[Step]) -> Vec<Value> {
    let (row, is_raw) = (&stored.row, call.caller.has(Scope::Raw));
    let wanted = row.lines.iter().filter(|line| feed.is_none_or(|feed| *feed == *line.feed));
    let told = wanted.map(|line| {
        let cursor = row.cursor(&line.feed);
        let is_behind = |since: &Cursor| {
            let since = Since::Cursor(since.clone());
            call.api.service().has_after(&line.feed, bug, &since)
        };
        let standing = Standing {
            cursor,
            newest: newest(steps, &line.feed),
            waits: steps.iter().any(|step| *step.stored.event.feed == *line.feed && waits(step)),
            is_behind: cursor.and_then(is_behind),
        };
        let (has, says) = standing.tell(&shapes::says(row, call.now_us));
        json!({
            "endpoint": stored.id.as_str(),
            "url": shapes::url(&stored.settings.url, is_raw),
            "feed": &*line.feed,
            "state": row.state(call.now_us).as_str(),
            "cursor": cursor.map(ToString::to_string),
            "has": has,
            "says": says,
        })
    });
    told.collect()
}

/// Whether a change may yet get its number.
fn waits(step: &Step) -> bool {
    let is_none = matches!(step.stored.event.progress.state, State::Duplicate | State::Dropped | State::Canceled);
    step.stored.cursor.is_none() && !is_none
}

/// What is known of a receiver and a bug.
#[derive(Clone, Copy, Debug)]
struct Standing<'a> {
    /// Up to where its receiver has what was published.
    cursor: Option<&'a Cursor>,
    /// The newest number of the changes that webhooks brought.
    newest: Option<(&'a Epoch, u64)>,
    /// A change that a webhook brought has no number yet.
    waits: bool,
    /// Whether the feed has changes of the bug after the cursor, whoever brought them.
    is_behind: Option<bool>,
}

impl Standing<'_> {
    /// Whether the receiver has the newest change, and the same in words. `state`: how the endpoint fares.
    fn tell(self, state: &str) -> (Option<bool>, String) {
        let Standing { cursor, newest, waits, is_behind } = self;
        let Some(cursor) = cursor else { return (None, "where its receiver stands is not known yet".to_owned()) };
        if let Some((epoch, seq)) = newest {
            let has = cursor.epoch == *epoch && cursor.seq >= seq;
            let says = if has { "has it".to_owned() } else { format!("has it not yet: {state}") };
            return (Some(has), says);
        }
        let unnumbered = "no webhook's change of it has a number yet";
        match is_behind {
            Some(true) => (Some(false), format!("has not the newest change that is published: {state}")),
            Some(false) if waits => (None, format!("{unnumbered}; has all that is published, up to {cursor}")),
            Some(false) => (Some(true), format!("has all that is published, up to {cursor}")),
            None => (None, format!("{unnumbered}; has what was published up to {cursor}")),
        }
    }
}

/// The newest number of this feed's changes among these.
fn newest<'a>(steps: &'a [Step], feed: &str) -> Option<(&'a Epoch, u64)> {
    let numbers = steps.iter().filter(|step| &*step.stored.event.feed == feed);
    let mut numbers = numbers.filter_map(|step| step.stored.cursor.as_ref().map(|(epoch, seq)| (epoch, *seq)));
    let first = numbers.next()?;
    Some(
        numbers
            .filter(|(epoch, _)| *epoch == first.0)
            .fold(first, |best, next| if next.1 > best.1 { next } else { best }),
    )
}
