//! The endpoints that are told of a bug, as the end of its way.

use bugfeed_protocol::{BugId, Epoch};
use serde_json::{Value, json};

use super::shapes;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::store::endpoints::{EndpointFilter, Stored};
use crate::store::tokens::Scope;
use crate::store::way::Step;

/// So many endpoints are told of, the newest ones.
const MOST: usize = 100;

/// Each endpoint and feed, and whether its receiver has the newest of these changes. `feed`: of this feed only.
pub(in crate::api) async fn watching(
    call: &Call,
    bug: BugId,
    feed: Option<&str>,
    steps: &[Step],
) -> Result<Vec<Value>, ApiError> {
    let filter = EndpointFilter { bug: Some(bug), feed: feed.map(str::to_owned), state: None };
    let found = call.store().endpoints(&filter, None, MOST).await?.unwrap_or_default();
    let is_raw = call.caller.has(Scope::Raw);
    Ok(found.iter().flat_map(|stored| lines(stored, feed, steps, is_raw, call.now_us)).collect())
}

fn lines(stored: &Stored, feed: Option<&str>, steps: &[Step], is_raw: bool, now_us: i64) -> Vec<Value> {
    let row = &stored.row;
    let wanted = row.lines.iter().filter(|line| feed.is_none_or(|feed| *feed == *line.feed));
    let told = wanted.map(|line| {
        let cursor = row.cursor(&line.feed);
        let newest = newest(steps, &line.feed);
        let has = cursor.zip(newest).map(|(cursor, (epoch, seq))| cursor.epoch == *epoch && cursor.seq >= seq);
        let says = match (has, newest) {
            (Some(true), _) => "has it".to_owned(),
            (Some(false), _) => format!("has it not yet: {}", shapes::says(row, now_us)),
            (None, None) => "no webhook's change of it has a number yet".to_owned(),
            (None, Some(_)) => "where its receiver stands is not known yet".to_owned(),
        };
        json!({
            "endpoint": stored.id.as_str(),
            "url": shapes::url(&stored.settings.url, is_raw),
            "feed": &*line.feed,
            "state": row.state(now_us).as_str(),
            "cursor": cursor.map(ToString::to_string),
            "has": has,
            "says": says,
        })
    });
    told.collect()
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
