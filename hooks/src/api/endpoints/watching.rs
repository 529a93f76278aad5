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

/// Each endpoint and feed, and whether its receiver has the newest change of the bug, whoever brought it; where the feed cannot
/// tell, the newest of these changes. `feed`: of this feed only.
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
    let served = call.api.service().feeds();
    let wanted = row.lines.iter().filter(|line| feed.is_none_or(|feed| *feed == *line.feed));
    let told = wanted.map(|line| {
        let cursor = row.cursor(&line.feed);
        let is_behind = |since: &Cursor| {
            let since = Since::Cursor(since.clone());
            call.api.service().has_after(&line.feed, bug, &since)
        };
        let known = call.api.service().newest(&line.feed, bug);
        let standing = Standing {
            cursor,
            newest: newest(steps, &line.feed),
            waits: steps.iter().any(|step| *step.stored.event.feed == *line.feed && waits(step)),
            is_behind: cursor.and_then(is_behind).or_else(|| is_before(cursor?, &known.as_ref()?.cursor)),
        };
        let is_here = served.is_empty() || served.iter().any(|served| **served == *line.feed);
        let (has, says) = match is_here {
            true => standing.tell(&shapes::says(row, call.now_us)),
            false => (None, format!("the feed {} is not served here, so nothing of it is sent from here", line.feed)),
        };
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

/// Whether a change with this number is certainly missing at a receiver that stands here.
fn is_before(cursor: &Cursor, newest: &Cursor) -> Option<bool> {
    (cursor.epoch != newest.epoch || cursor.seq < newest.seq).then_some(true)
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
        let Some(cursor) = cursor else {
            return (None, "where its receiver stands is not known yet".to_owned());
        };
        let unnumbered = "a change that a webhook brought has no number yet";
        let has_number = newest.map(|(epoch, seq)| cursor.epoch == *epoch && cursor.seq >= seq);
        match (is_behind, has_number) {
            (Some(true), _) | (None, Some(false)) => (Some(false), format!("has it not yet: {state}")),
            (Some(false), _) if waits => (None, format!("{unnumbered}; has all that is published, up to {cursor}")),
            (Some(false), Some(_)) => (Some(true), "has it".to_owned()),
            (Some(false), None) => (Some(true), format!("has all that is published, up to {cursor}")),
            (None, Some(true)) => {
                (None, "has what webhooks brought; whether another change came since cannot be told now".to_owned())
            }
            (None, None) => (None, format!("has what was published up to {cursor}; more cannot be told now")),
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
