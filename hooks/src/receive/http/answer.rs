//! What a sender is told: `answers = "always-200"` and `"honest"`.
//!
//! Goes in: what became of a request. Comes out: an HTTP answer. No answer repeats a key, a secret or a signature.
//!
//! Under `always-200` the only other statuses are 503 (nobody has the request: try again), 408 (it came too slowly), 405,
//! and 400 for what is no HTTP. `honest` also gives 401, 413 and 429.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{DropReason, LinkKind, State};
use bugfeed_runtime::json_line::JsonLine;
use serde::Serialize;

use crate::receive::received::{Accepted, AcceptedItem, Envelope, Failure, ReceivedItem, ReceivedRequest, RequestId};

/// The body of an answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Answer {
    /// `ok`, `partly` or `error`.
    pub(super) result: &'static str,
    /// The request's identifier.
    request: RequestId,
    /// Items with which nothing is wrong.
    accepted: usize,
    #[serde(flatten)]
    failure: Option<Failure>,
    /// Of a refused request: whether it is kept, so that it can be replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ItemAnswer>>,
}

/// What became of an item.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ItemAnswer {
    item: u32,
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// `duplicate_of`, `same_delivery_as`, `same_time_as`.
    #[serde(flatten)]
    links: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    failure: Option<Failure>,
    /// What is odd about an item with which nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<Failure>,
    /// Told only where it is false: an errored item that cannot be kept for another try.
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
}

impl Answer {
    /// Of a request that the store or, without `accepted`, the spool has.
    pub(super) fn of(request: &ReceivedRequest, accepted: Option<&Accepted>) -> Answer {
        let mut items = Vec::new();
        for (index, item) in request.items.iter().enumerate() {
            items.push(match accepted.and_then(|accepted| accepted.items.get(index)) {
                Some(stored) => stored_item(request, item, stored),
                None => spooled_item(request, item),
            });
        }
        for item in &request.answered {
            let state = if item.is_connected { "connected" } else { "ignored" };
            items.push(ItemAnswer::new(item.index, state));
        }
        items.sort_by_key(|item| item.item);
        let good = items.iter().filter(|item| item.state != "errored").count();
        let result = match (items.len(), good) {
            (all, good) if all == good => "ok",
            (_, 0) => "error",
            _ => "partly",
        };
        let failure = request.failure.clone();
        let items = if failure.is_some() { Vec::new() } else { items };
        Answer { result, request: request.envelope.id, accepted: good, failure, quarantined: None, items: Some(items) }
    }

    /// Of a request of which nothing was taken.
    pub(super) fn error(request: RequestId, failure: Failure, quarantined: Option<bool>) -> Answer {
        Answer { result: "error", request, accepted: 0, failure: Some(failure), quarantined, items: None }
    }

    /// What became of each item.
    pub(super) fn items(&self) -> &[ItemAnswer] {
        self.items.as_deref().unwrap_or_default()
    }

    /// The HTTP answer.
    pub(super) fn with(&self, status: StatusCode) -> Response {
        // No part of an answer can fail to become JSON: its maps have texts as keys.
        (status, [(header::CACHE_CONTROL, "no-store")], JsonLine(self)).into_response()
    }
}

impl ItemAnswer {
    fn new(item: u32, state: &'static str) -> ItemAnswer {
        ItemAnswer {
            item,
            state,
            event: None,
            reason: None,
            links: BTreeMap::new(),
            failure: None,
            note: None,
            retryable: None,
        }
    }
}

fn stored_item(request: &ReceivedRequest, item: &ReceivedItem, stored: &AcceptedItem) -> ItemAnswer {
    let mut answer = ItemAnswer::new(item.index, stored.state.as_str());
    answer.event = Some(stored.event.to_string());
    answer.reason = stored.dropped.map(DropReason::as_str);
    let told = [LinkKind::DuplicateOf, LinkKind::SameDeliveryAs, LinkKind::SameTimeAs];
    let links = stored.links.iter().filter(|link| told.contains(&link.kind));
    answer.links = links.map(|link| (link.kind.as_str(), link.to.to_string())).collect();
    if stored.state == State::Errored {
        answer.fail(request, item, stored.is_retryable);
    } else {
        answer.note.clone_from(&item.failure);
    }
    answer
}

fn spooled_item(request: &ReceivedRequest, item: &ReceivedItem) -> ItemAnswer {
    let is_errored = item.mapping == Mapping::Failed;
    let mut answer = ItemAnswer::new(item.index, if is_errored { "errored" } else { "spooled" });
    answer.event = Some(request.envelope.id.event(item.index).to_string());
    if is_errored {
        answer.fail(request, item, item.kept.is_some());
    } else {
        answer.note.clone_from(&item.failure);
    }
    answer
}

impl ItemAnswer {
    fn fail(&mut self, request: &ReceivedRequest, item: &ReceivedItem, is_retryable: bool) {
        let mut failure = item.failure.clone().unwrap_or_else(|| Failure {
            error: "the item cannot be read as a change".to_owned(),
            fix: "see the source's mapping".to_owned(),
        });
        if !is_retryable {
            let Envelope { id, body, .. } = &request.envelope;
            failure.fix.push_str(&match body {
                Some(_) => format!("; then `bugfeed requests replay {id}` receives the whole request again"),
                None => "; then send it again, because it cannot be kept for another try".to_owned(),
            });
            self.retryable = Some(false);
        }
        self.failure = Some(failure);
    }
}

/// Adds that the sender is to come again after so many seconds.
pub(super) fn retry_after(mut response: Response, seconds: u32) -> Response {
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Ends the connection after the answer, because not all of the body was read.
pub(super) fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
