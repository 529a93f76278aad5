//! Attempts: what was sent to an endpoint, and what came of it; and sending it again.

use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::hooks::event::Trigger;
use serde_json::{Value, json};

use super::orders::{WaitBody, sent, wait_for};
use super::{missing, order, refused, shapes};
use crate::api::call::{Call, Name, answer};
use crate::api::error::{Answer, ApiError};
use crate::api::params::id;
use crate::receive::received::RequestId;
use crate::store::endpoints::{AttemptRow, EndpointId, Settings};
use crate::store::tokens::Scope;

pub(in crate::api) async fn list(Name(text): Name, call: Call) -> Answer {
    let params = call.params(&["after", "limit"])?;
    let (after, limit) = (params.after()?, params.limit()?);
    let endpoint = EndpointId::parse(&text).ok_or_else(|| missing(&text))?;
    let page = call.store().attempts(&endpoint, after.map(|after| after.0), limit).await?;
    // Those of an endpoint that was deleted are kept for a while.
    if page.is_empty() && after.is_none() && call.store().endpoint(&endpoint).await?.is_none() {
        return Err(missing(&text));
    }
    let next = page.last().filter(|_| page.len() == limit).map(|last| RequestId(last.id).to_string());
    let is_raw = call.caller.has(Scope::Raw);
    let attempts: Vec<Value> = page.iter().map(|row| shapes::attempt(row, is_raw)).collect();
    answer(json!({ "attempts": attempts, "next": next }))
}

pub(in crate::api) async fn one(Name(text): Name, call: Call) -> Answer {
    call.params(&[])?;
    let row = find(&call, &text).await?;
    answer(shapes::attempt_detail(&row, call.caller.has(Scope::Raw)))
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
    answer(sent(&call, &stored.id, "redelivery", wait, found.as_ref()))
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
