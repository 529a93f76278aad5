//! Attempts: what was sent to an endpoint, and what came of it; and sending it again.

use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::hooks::event::Trigger;
use bugfeed_protocol::BugId;
use serde_json::{Value, json};

use super::orders::{WaitBody, sent, wait_for};
use super::{missing, order, refused, shapes};
use crate::api::call::{Call, Name, answer};
use crate::api::error::{Answer, ApiError};
use crate::api::params::id;
use crate::endpoints::cause::Hidden;
use crate::receive::received::RequestId;
use crate::store::endpoints::{AttemptRow, EndpointId, Settings};
use crate::store::tokens::Scope;

pub(in crate::api) async fn list(Name(text): Name, call: Call) -> Answer {
    let params = call.params(&["after", "limit", "failed", "from", "bug"])?;
    let (after, limit) = (params.after()?, params.limit()?);
    let filter = Filter { failed: params.flag("failed")?, from_us: params.range()?.from_us, bug: params.bug()? };
    let endpoint = EndpointId::parse(&text).ok_or_else(|| missing(&text))?;
    let page = call.store().attempts(&endpoint, after.map(|after| after.0), limit).await?;
    let stored = call.store().endpoint(&endpoint).await?;
    // Those of an endpoint that was deleted are kept for a while.
    if page.is_empty() && after.is_none() && stored.is_none() {
        return Err(missing(&text));
    }
    // A page of what fits may be short, or empty, although more follows.
    let last = page.last().filter(|last| page.len() == limit && filter.reaches(last));
    let next = last.map(|last| RequestId(last.id).to_string());
    let is_raw = call.caller.has(Scope::Raw);
    let hidden = stored.map(|stored| Hidden::of(&stored.settings));
    let attempts: Vec<Value> =
        page.iter().filter(|row| filter.fits(row)).map(|row| shapes::attempt(row, is_raw, hidden.as_ref())).collect();
    answer(json!({ "attempts": attempts, "next": next }))
}

/// Which attempts are wanted.
#[derive(Clone, Copy, Debug)]
struct Filter {
    /// Those that failed only.
    failed: bool,
    /// From this time on.
    from_us: Option<i64>,
    /// Those that told of this bug, in the ordinary body.
    bug: Option<BugId>,
}

impl Filter {
    /// Whether older ones than this may be wanted.
    fn reaches(&self, row: &AttemptRow) -> bool {
        self.from_us.is_none_or(|from_us| row.begun_us >= from_us)
    }

    fn fits(&self, row: &AttemptRow) -> bool {
        self.reaches(row) && !(self.failed && shapes::is_success(row)) && self.bug.is_none_or(|bug| tells(row, bug))
    }
}

/// Whether what was sent names a bug.
fn tells(row: &AttemptRow, bug: BugId) -> bool {
    let body: Value = serde_json::from_str(&row.request).unwrap_or_default();
    let is_it = |value: &Value| value["bug"].as_u64() == Some(bug.get());
    is_it(&body) || body["changes"].as_array().is_some_and(|changes| changes.iter().any(is_it))
}

pub(in crate::api) async fn one(Name(text): Name, call: Call) -> Answer {
    call.params(&[])?;
    let row = find(&call, &text).await?;
    let hidden = call.store().endpoint(&row.endpoint).await?.map(|stored| Hidden::of(&stored.settings));
    answer(shapes::attempt_detail(&row, call.caller.has(Scope::Raw), hidden.as_ref()))
}

pub(in crate::api) async fn redeliver(Name(text): Name, call: Call) -> Answer {
    let wait = call.json::<WaitBody>()?.check()?;
    let row = find(&call, &text).await?;
    let newest = call.store().attempts(&row.endpoint, None, 1).await?.first().map(|newest| newest.id);
    let what = Order::Redeliver { attempt: row.id };
    let change =
        |_: &mut Settings, endpoint: &mut Row| carry_out(endpoint, &what).map_err(|why| refused(why, endpoint));
    let detail = json!({ "attempt": RequestId(row.id).to_string(), "webhook_id": row.webhook_id });
    let done = order(&call, row.endpoint.as_str(), "attempts.redeliver", detail, change).await;
    let stored = done.map_err(|error| of_a_deleted_one(error, &row))?.0;
    let is_it = |found: &AttemptRow| found.trigger == Trigger::Replay && found.webhook_id == row.webhook_id;
    let found = wait_for(&call, &stored.id, wait, newest, is_it).await?;
    answer(sent(&call, &stored, "redelivery", wait, found.as_ref()))
}

/// The attempt is there, but its endpoint is not.
fn of_a_deleted_one(error: ApiError, row: &AttemptRow) -> ApiError {
    if error.status != axum::http::StatusCode::NOT_FOUND {
        return error;
    }
    ApiError::conflict(
        format!("the endpoint {} was deleted", row.endpoint),
        "make another one: `bugfeed endpoints create`",
    )
}

async fn find(call: &Call, text: &str) -> Result<AttemptRow, ApiError> {
    let id = id("id", text)?;
    call.store().attempt(id.0).await?.ok_or_else(|| {
        let fix = "it may have been removed by retention; `bugfeed endpoints attempts ENDPOINT` has what is kept";
        ApiError::missing(format!("there is no attempt {id}"), fix)
    })
}
