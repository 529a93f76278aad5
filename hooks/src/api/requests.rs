//! What was received: lists, one request with its events, and receiving it again.
//!
//! A request is received again from its body, by the configuration of now. One from quarantine is checked again, or, with
//! `"trust": true`, taken on the caller's word; it then leaves the quarantine. One that was accepted before is mapped once
//! more, its events are replays of the old ones, and dead letters of it that come through end. Where the body was not kept, nothing can be received again.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugfeed_core::hooks::event::{EventId, State};
use bugfeed_core::hooks::orders::Order;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::{Call, Name, answer};
use super::error::{Answer, ApiError};
use super::params::{id, wrong};
use super::shapes;
use crate::config::Source;
use crate::receive::http::{KeyRow, KeyTable, Trust, recheck};
use crate::receive::received::{AcceptedItem, Failure, ReceivedRequest, RequestId};
use crate::store::requests::{RequestFilter, RequestState, StoredRequest};
use crate::store::tokens::Scope;
use crate::work::fresh;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReplayBody {
    trust: bool,
}

pub(super) async fn list(call: Call) -> Answer {
    let params = call.params(&["after", "limit", "source", "state", "key", "from", "to"])?;
    let state = params.text("state").map(|text| {
        let fix = "the states of a request are ok, partly, error, quarantined";
        RequestState::parse(text).ok_or_else(|| wrong("state", text, fix))
    });
    let filter = RequestFilter {
        source: params.owned("source"),
        state: state.transpose()?,
        key_id: params.owned("key"),
        range: params.range()?,
    };
    let page = call.store().requests(&filter, params.after()?, params.limit()?).await?;
    let is_raw = call.caller.has(Scope::Raw);
    let is_quarantined = |request: &&StoredRequest| request.state == RequestState::Quarantined;
    let quarantined: Vec<RequestId> =
        page.requests.iter().filter(is_quarantined).map(|request| request.envelope.id).collect();
    let why = call.store().why_quarantined(&quarantined).await?;
    let shape = |request: &StoredRequest| {
        let mut shape = shapes::request(request, is_raw);
        if let Value::Object(members) = &mut shape {
            shapes::add_failure(members, why.get(&request.envelope.id));
        }
        shape
    };
    let requests: Vec<Value> = page.requests.iter().map(shape).collect();
    answer(json!({ "requests": requests, "next": page.next.map(|id| id.to_string()) }))
}

pub(super) async fn one(Name(text): Name, call: Call) -> Answer {
    let params = call.params(&["body"])?;
    let wants_body = params.flag("body")?;
    if wants_body {
        call.caller.needs(Scope::Raw)?;
    }
    let request = find(&call, id("id", &text)?).await?;
    let id = request.envelope.id;
    let events = call.store().events_of(id).await?;
    let quarantined =
        if request.state == RequestState::Quarantined { call.store().quarantined(id).await? } else { None };
    let mut shape = shapes::request(&request, call.caller.has(Scope::Raw));
    if let Value::Object(members) = &mut shape {
        members.insert("events".to_owned(), events.iter().map(shapes::event).collect());
        members.insert("share".to_owned(), json!(quarantined.as_ref().map(|quarantined| quarantined.share.as_str())));
        shapes::add_failure(members, quarantined.as_ref().map(|quarantined| &quarantined.failure));
        if wants_body {
            add_body(members, call.store().body(id).await?);
        }
    }
    answer(shape)
}

/// A body as text if it is one, otherwise as Base64.
fn add_body(members: &mut Map<String, Value>, body: Option<Vec<u8>>) {
    let (text, base64) = match body.map(String::from_utf8) {
        None => (Value::Null, Value::Null),
        Some(Ok(text)) => (Value::String(text), Value::Null),
        Some(Err(bytes)) => (Value::Null, Value::String(STANDARD.encode(bytes.as_bytes()))),
    };
    members.insert("body".to_owned(), text);
    members.insert("body_base64".to_owned(), base64);
}

pub(super) async fn replay(Name(text): Name, call: Call) -> Answer {
    let body: ReplayBody = call.json()?;
    let request = find(&call, id("id", &text)?).await?;
    let config = call.api.service().config();
    let Some(source) = config.source(&request.envelope.source) else {
        return Err(no_source(&call, &request).await?);
    };
    let is_quarantined = request.state == RequestState::Quarantined;
    let again = if is_quarantined {
        from_quarantine(&call, source, &request, body.trust).await?
    } else {
        once_more(&call, source, &request).await?
    };
    let detail = json!({ "source": source.name, "request": again.envelope.id.to_string(), "trust": body.trust });
    call.audit("requests.replay", &request.envelope.id.to_string(), &detail).await?;
    let accepted = call.store().accept(&[&again]).await?;
    let items = accepted.into_iter().next().map(|accepted| accepted.items).unwrap_or_default();
    if is_quarantined {
        call.store().leave_quarantine(request.envelope.id).await?;
    } else if again.items.is_empty() {
        settle(&call, request.envelope.id).await?;
    }
    call.api.service().wake();
    replayed(&again, &items)
}

/// Of a request to a source that did not exist, only the head was kept, so adding the source is not enough.
async fn no_source(call: &Call, request: &StoredRequest) -> Result<ApiError, ApiError> {
    let is_kept = call.store().body(request.envelope.id).await?.is_some();
    let fix = if is_kept {
        "add it to the configuration, then try again"
    } else {
        "its body was not kept, so it cannot be received again: add the source to the configuration, and let the sender \
         send it once more"
    };
    Ok(ApiError::conflict(format!("there is no source '{}' now", request.envelope.source), fix))
}

fn replayed(again: &ReceivedRequest, items: &[AcceptedItem]) -> Result<Response, ApiError> {
    let item = |accepted: &AcceptedItem| {
        let links =
            accepted.links.iter().map(|link| json!({ "kind": link.kind.as_str(), "event": link.to.to_string() }));
        json!({
            "event": accepted.event.to_string(),
            "state": accepted.state.as_str(),
            "reason": accepted.dropped.map(|reason| reason.as_str()),
            "links": links.collect::<Value>(),
        })
    };
    let mut shape = json!({
        "request": again.envelope.id.to_string(),
        "events": items.iter().map(item).collect::<Value>(),
        "ignored": again.answered.len(),
    });
    if let Value::Object(members) = &mut shape {
        shapes::add_failure(members, again.failure.as_ref());
    }
    answer(shape)
}

async fn find(call: &Call, id: RequestId) -> Result<StoredRequest, ApiError> {
    if let Some(request) = call.store().request(id).await? {
        return Ok(request);
    }
    // One that left the quarantine is known by what was done about it.
    if let Some(deed) = call.store().last_deed("requests.replay", &id.to_string()).await? {
        let detail: Value = serde_json::from_str(&deed.detail).unwrap_or_default();
        if let Some(again) = detail["request"].as_str() {
            let error = format!("the request {id} has left the quarantine: it was received again as {again}");
            return Err(ApiError::missing(error, format!("`bugfeed requests show {again}` shows it")));
        }
    }
    let fix = "it may have been removed by retention; `bugfeed requests list` has what is kept";
    Err(ApiError::missing(format!("there is no request {id}"), fix))
}

async fn from_quarantine(
    call: &Call,
    source: &Source,
    request: &StoredRequest,
    is_trusted: bool,
) -> Result<ReceivedRequest, ApiError> {
    let id = request.envelope.id;
    let quarantined = call.store().quarantined(id).await?.ok_or_else(|| {
        ApiError::conflict(format!("the request {id} has left the quarantine"), "look for it in the list of requests")
    })?;
    let keys = KeyTable::new();
    keys.replace(call.store().keys().await?.into_iter().map(KeyRow::from).collect());
    let trust = if is_trusted { Trust::Person } else { Trust::Check };
    let again = recheck(source, &keys, &quarantined, fresh(call.now_us), call.now_us, trust);
    again.map_err(|Failure { error, fix }| {
        let hint = if is_trusted || quarantined.envelope.body.is_none() {
            fix
        } else {
            format!(
                "{fix}; or take it on your word: `bugfeed requests replay {id} --trust`, in the API \"trust\": true"
            )
        };
        ApiError::conflict(format!("it is still refused: {error}"), hint)
    })
}

/// A request that was accepted before, mapped once more.
async fn once_more(call: &Call, source: &Source, request: &StoredRequest) -> Result<ReceivedRequest, ApiError> {
    let again = crate::work::once_more(call.store(), source, request, call.now_us).await?.ok_or_else(|| {
        ApiError::conflict(
            "the body was not kept, so the request cannot be received again",
            "retry its errored events, of which the items are kept, or let the sender send it again; with bodies = \"all\" \
             the source keeps every body",
        )
    })?;
    match again.failure {
        // Another dead letter beside the first one would help nobody.
        Some(failure) => {
            Err(ApiError::conflict(format!("nothing can be taken from it still: {}", failure.error), failure.fix))
        }
        None => Ok(again),
    }
}

/// Where nothing of a request became an event this time, its dead letters have nothing to wait for.
async fn settle(call: &Call, first: RequestId) -> Result<(), ApiError> {
    let events = call.store().events_of(first).await?;
    let errored = events.iter().filter(|stored| stored.event.progress.state == State::Errored);
    let ids: Vec<EventId> = errored.map(|stored| stored.event.id).collect();
    call.store().order_all(&ids, Order::Drop, call.now_us).await?;
    Ok(())
}
