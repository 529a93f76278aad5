//! Pruning: what a source, a key, a request or a time has brought is taken back, as far as it can be.
//!
//! The dry run comes first: `dry_run` must be said, so that nobody prunes who has only forgotten it. Queued events are
//! canceled; of those that have ended, the log is erased down to hash and identifiers; a change that was numbered stays.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, answer};
use super::error::{Answer, ApiError};
use super::params::{id, range};
use crate::store::prune::{PruneCount, PruneFilter, PruneRun, Pruned};

/// The longest time of one request. What is left is for the next one.
const LONGEST: Duration = Duration::from_secs(20);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PruneBody {
    source: Option<String>,
    key: Option<String>,
    request: Option<String>,
    from: Option<String>,
    to: Option<String>,
    dry_run: Option<bool>,
}

pub(super) async fn prune(call: Call) -> Answer {
    let body: PruneBody = call.json()?;
    let filter = PruneFilter {
        source: body.source.clone(),
        key_id: body.key.clone(),
        request: body.request.as_deref().map(|text| id("request", text)).transpose()?,
        range: range(body.from.as_deref(), body.to.as_deref())?,
    };
    if filter.source.is_none()
        && filter.key_id.is_none()
        && filter.request.is_none()
        && body.from.is_none()
        && body.to.is_none()
    {
        let fix = "name at least one of source, key, request, from, to";
        return Err(ApiError::bad("nothing is said of what is to be pruned", fix));
    }
    let is_dry = body.dry_run.ok_or_else(|| {
        let fix = "say \"dry_run\": true first, look at the counts, then \"dry_run\": false";
        ApiError::bad("dry_run is not said", fix)
    })?;
    if is_dry { count(&call, filter).await } else { carry_out(&call, &body, filter).await }
}

async fn count(call: &Call, filter: PruneFilter) -> Answer {
    let (mut run, mut counted, begin) = (PruneRun::new(filter), PruneCount::default(), Instant::now());
    while !run.is_done && begin.elapsed() < LONGEST {
        call.store().count_prune(&mut run, &mut counted).await?;
    }
    let events: serde_json::Map<String, Value> =
        counted.events.iter().map(|(state, count)| (state.as_str().to_owned(), json!(count))).collect();
    answer(json!({
        "dry_run": true, "requests": counted.requests, "events": events, "complete": run.is_done,
    }))
}

async fn carry_out(call: &Call, body: &PruneBody, filter: PruneFilter) -> Answer {
    let said = json!({
        "source": body.source, "key": body.key, "request": body.request, "from": body.from, "to": body.to,
    });
    call.audit("prune", subject(body), &said).await?;
    let (mut run, mut total, begin) = (PruneRun::new(filter), Pruned::default(), Instant::now());
    while !run.is_done && begin.elapsed() < LONGEST {
        let pruned = call.store().prune(&mut run, call.now_us).await?;
        total.canceled += pruned.canceled;
        total.erased += pruned.erased;
        total.left += pruned.left;
    }
    call.api.service().wake();
    let done = json!({
        "dry_run": false, "canceled": total.canceled, "erased": total.erased, "left": total.left, "complete": run.is_done,
    });
    call.audit("prune.done", subject(body), &done).await?;
    answer(done)
}

/// The most telling part of the filter.
fn subject(body: &PruneBody) -> &str {
    let parts = [&body.request, &body.key, &body.source, &body.from, &body.to];
    parts.into_iter().flatten().next().map_or("", String::as_str)
}
