//! A bug's way: for each of its newest events the request, the event, the row, the number on the bus; and in a sentence,
//! what it waits for. At the end, the endpoints that are told of the bug.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bugfeed_core::endpoints::question::Told;
use bugfeed_core::hooks::event::{EventId, Link, LinkKind, State};
use bugfeed_protocol::{BugId, When};
use serde_json::{Value, json};

use super::call::{Call, Name, answer};
use super::endpoints::watching::watching;
use super::error::Answer;
use super::params::bug;
use super::shapes::{self, add_reason, at};
use crate::receive::received::RequestId;
use crate::store::requests::StoredRequest;
use crate::store::way::Step;

/// The most events of an answer.
const MOST: usize = 100;

pub(super) async fn way(Name(text): Name, call: Call) -> Answer {
    let params = call.params(&["feed", "limit"])?;
    let bug = bug(&text)?;
    let limit = params.limit()?.min(MOST);
    let steps = call.store().way(bug, params.text("feed"), limit).await?;
    let ids: Vec<EventId> = steps.iter().map(|step| step.stored.event.id).collect();
    let links = call.store().links(&ids).await?;
    let mut requests: HashMap<RequestId, Option<StoredRequest>> = HashMap::new();
    let mut heads: HashMap<EventId, Option<i64>> = HashMap::new();
    let mut shown = Vec::with_capacity(steps.len());
    for step in &steps {
        let request = step.stored.request();
        if let Entry::Vacant(unread) = requests.entry(request) {
            unread.insert(call.store().request(request).await?);
        }
        let blocker = step.stored.event.progress.blocked_by;
        if let Some(blocker) = blocker.filter(|blocker| !heads.contains_key(blocker)) {
            let head = call.store().event(blocker).await?;
            heads.insert(blocker, head.and_then(|head| head.progress.due_us));
        }
        let next_us = blocker.and_then(|blocker| heads.get(&blocker).copied().flatten());
        let links = links.get(&step.stored.event.id).map(Vec::as_slice).unwrap_or_default();
        let came_with = requests.get(&request).and_then(Option::as_ref);
        let mut says = explain(step, links, next_us);
        if step.stored.row.is_some() && step.stored.cursor.is_none() {
            says.push_str(&waits_for(&call, &step.stored.event.feed));
        }
        shown.push(shape(step, came_with, &says));
    }
    let endpoints = watching(&call, bug, params.text("feed"), &steps).await?;
    let newest = newest(&call, bug, params.text("feed"));
    let feed = params.text("feed");
    answer(json!({ "bug": bug.get(), "feed": feed, "newest": newest, "steps": shown, "endpoints": endpoints }))
}

/// The newest change of a bug in each feed that is served here, whoever brought it. `feed`: in this one only.
fn newest(call: &Call, bug: BugId, feed: Option<&str>) -> Vec<Value> {
    let service = call.api.service();
    let feeds = feed.map_or_else(|| service.feeds(), |feed| vec![feed.to_owned()]);
    let told = feeds.iter().filter_map(|feed| {
        let Told { change, cursor } = service.newest(feed, bug)?;
        Some(json!({ "feed": feed, "when": change.when.to_string(), "cursor": cursor.to_string() }))
    });
    told.collect()
}

/// For what the publishing of a feed waits, if anything is known of it.
fn waits_for(call: &Call, feed: &str) -> String {
    let warnings = call.api.service().warnings();
    let of_feed = format!("publishing of feed {feed}: ");
    let found = warnings.iter().find(|line| line.starts_with(&of_feed) || line.starts_with("bus: "));
    found.map_or(String::new(), |line| format!("; it waits: {line}"))
}

fn shape(step: &Step, request: Option<&StoredRequest>, says: &str) -> Value {
    let mut shape = shapes::event(&step.stored);
    let came_with = request.map(|request| {
        let envelope = &request.envelope;
        json!({
            "id": envelope.id.to_string(), "received": at(envelope.received_us), "address": envelope.address.to_string(),
            "key": envelope.key_id, "status": envelope.status,
        })
    });
    if let Value::Object(members) = &mut shape {
        add_reason(members, &step.stored.event, step.reason.as_ref());
        members.insert("lines".to_owned(), step.lines.iter().map(shapes::line).collect());
        members.insert("came_with".to_owned(), came_with.unwrap_or(Value::Null));
        members.insert("says".to_owned(), json!(says));
    }
    shape
}

/// What became of an event, or what it waits for. `next_us`: when the dead letter is tried behind which it waits.
fn explain(step: &Step, links: &[Link], next_us: Option<i64>) -> String {
    let (event, progress) = (&step.stored.event, &step.stored.event.progress);
    let time = |us: Option<i64>| us.and_then(When::from_micros).map(|when| when.to_string());
    let to = |kind: LinkKind| links.iter().find(|link| link.kind == kind).map(|link| link.to.to_string());
    let next = |us: Option<i64>| time(us).map_or(String::new(), |time| format!(", next try {time}"));
    let why = step.reason.as_ref().map_or(String::new(), |reason| format!(": {}", reason.error));
    if let Some(blocker) = progress.blocked_by {
        return format!("blocked by {blocker}{}", next(next_us));
    }
    match progress.state {
        State::Queued => {
            let later_us = progress.due_us.filter(|due_us| *due_us > event.received_us);
            format!("waits to be processed{}", next(later_us))
        }
        State::Processing => "is being processed".to_owned(),
        State::Completed => match (&step.stored.cursor, step.stored.row) {
            (Some((epoch, seq)), _) => format!("announced as {epoch}.{seq}"),
            (None, Some(row)) => {
                format!("written as row {row}; not published yet, or its number is not known here yet")
            }
            (None, None) => "completed".to_owned(),
        },
        State::Duplicate => to(LinkKind::DuplicateOf).map_or("a duplicate".to_owned(), |to| format!("repeats {to}")),
        State::Dropped => {
            let reason = progress.drop.map_or("unknown", |reason| reason.as_str());
            let cause = to(LinkKind::DroppedFor).map_or(String::new(), |to| format!(", for {to}"));
            format!("dropped: {reason}{cause}")
        }
        State::Canceled => to(LinkKind::CanceledBy).map_or("canceled".to_owned(), |to| format!("canceled by {to}")),
        State::Errored => {
            let expires = time(Some(event.expires_us)).map_or(String::new(), |time| format!(", expires {time}"));
            format!("failed {} times{why}{}{expires}", progress.attempts, next(shapes::next_try_us(event)))
        }
        State::Disabled => "waits because its source or feed is switched off".to_owned(),
    }
}
