//! Events: lists with filters, and one with its history.

use serde_json::{Value, json};

use super::call::{Call, Name, answer};
use super::error::{Answer, ApiError};
use super::params::event_id;
use super::shapes;
use crate::store::events::EventFilter;
use crate::store::tokens::Scope;

pub(super) async fn list(call: Call) -> Answer {
    let params = call.params(&["after", "limit", "state", "source", "feed", "bug", "from", "to"])?;
    let filter = EventFilter {
        state: params.state()?,
        source: params.owned("source"),
        feed: params.owned("feed"),
        bug: params.bug()?,
        range: params.range()?,
    };
    let page = call.store().list_events(&filter, params.after_event()?, params.limit()?).await?;
    let events: Vec<Value> = page.events.iter().map(shapes::event).collect();
    answer(json!({ "events": events, "next": page.next.map(|id| id.to_string()) }))
}

pub(super) async fn one(Name(text): Name, call: Call) -> Answer {
    call.params(&[])?;
    let id = event_id(&text)?;
    let detail = call.store().detail(id).await?.ok_or_else(|| missing(&text))?;
    let is_raw = call.caller.has(Scope::Raw);
    let request = call.store().request(detail.stored.request()).await?;
    let mut shape = shapes::detail(&detail);
    shape["came_with"] = request.map_or(Value::Null, |request| shapes::request(&request, is_raw));
    shape["body_kept"] = json!(call.store().has_body(detail.stored.request()).await?);
    shape["kept_item"] = Value::Null;
    if is_raw
        && detail.is_kept
        && let Some(kept) = call.store().kept(id).await?
    {
        shape["kept_item"] = json!({ "item": kept.item, "headers": kept.headers });
    }
    answer(shape)
}

/// There is no such event.
pub(super) fn missing(id: &str) -> ApiError {
    let fix = "it may have been removed by retention; `bugfeed events list` has what is kept";
    ApiError::missing(format!("there is no event {id}"), fix)
}
