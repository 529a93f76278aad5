//! Dead letters: each with its chain, and all of them to be taken away as files.

use bugfeed_core::hooks::event::State;
use serde_json::{Value, json};

use super::call::{Call, answer};
use super::error::Answer;
use super::shapes::{self, add_failure, maybe_at};
use crate::store::dead::DeadLetter;
use crate::store::events::EventFilter;
use crate::store::tokens::Scope;

pub(super) async fn list(call: Call) -> Answer {
    let params = call.params(&["after", "limit", "source"])?;
    let limit = params.limit()?;
    let letters = call.store().dead_letters(params.text("source"), params.after_event()?, limit).await?;
    let next = letters.last().filter(|_| letters.len() == limit).map(|last| last.head.event.id.to_string());
    let total = call.store().count_dead_letters().await?;
    let letters: Vec<Value> = letters.iter().map(shape).collect();
    answer(json!({ "dead_letters": letters, "total": total, "next": next }))
}

fn shape(letter: &DeadLetter) -> Value {
    let mut shape = shapes::event(&letter.head);
    if let Value::Object(members) = &mut shape {
        add_failure(members, letter.reason.as_ref());
        members.insert("waiting".to_owned(), json!(letter.waiting));
        members.insert("waiting_since".to_owned(), maybe_at(letter.waiting_since_us));
    }
    shape
}

/// Dead letters as files: a folder for each bug, a file for each event. Items are in it for the scope `raw` only.
pub(super) async fn export(call: Call) -> Answer {
    let params = call.params(&["after", "limit", "source", "feed", "bug"])?;
    let filter = EventFilter {
        state: Some(State::Errored),
        source: params.owned("source"),
        feed: params.owned("feed"),
        bug: params.bug()?,
        ..EventFilter::default()
    };
    let page = call.store().list_events(&filter, params.after_event()?, params.limit()?).await?;
    let is_raw = call.caller.has(Scope::Raw);
    let mut files = Vec::with_capacity(page.events.len());
    for stored in &page.events {
        let event = &stored.event;
        // It may have ended meanwhile, and been removed.
        let Some(detail) = call.store().detail(event.id).await? else { continue };
        let folder = event.bug.map_or_else(|| "without-bug".to_owned(), |bug| bug.to_string());
        let mut shape = shapes::detail(&detail);
        shape["kept_item"] = Value::Null;
        if is_raw && let Some(kept) = call.store().kept(event.id).await? {
            shape["kept_item"] = json!({ "item": kept.item, "headers": kept.headers });
        }
        let folder = shape["feed"].as_str().map_or(folder.clone(), |feed| format!("{feed}/{folder}"));
        files.push(json!({ "path": format!("{folder}/{}.json", event.id), "event": shape }));
    }
    answer(json!({ "files": files, "next": page.next.map(|id| id.to_string()) }))
}
