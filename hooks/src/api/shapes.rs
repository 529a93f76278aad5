//! Rows of the store as JSON. openapi.yaml has the same shapes, and a test compares them.
//!
//! Times are texts in UTC, as everywhere in the protocol. A member is there even if it is null.

use bugfeed_core::hooks::event::{ErrorClass, Event, EventId, Link, LinkKind, State};
use bugfeed_protocol::When;
use serde_json::{Map, Value, json};

use crate::receive::received::Failure;
use crate::store::StoredEvent;
use crate::store::events::{Detail, Line};
use crate::store::requests::StoredRequest;

/// What stands in place of a value that only the scope `raw` shows.
pub(super) const MASK: &str = "…";
/// Headers of senders whose values everybody may see who may read.
const OPEN_HEADERS: [&str; 5] = ["accept", "content-length", "content-type", "host", "user-agent"];

/// A time.
pub(super) fn at(us: i64) -> Value {
    When::from_micros(us).map_or(Value::Null, |when| Value::String(when.to_string()))
}

/// A time, or null.
pub(super) fn maybe_at(us: Option<i64>) -> Value {
    us.map_or(Value::Null, at)
}

/// When an event is tried next. One whose item was not kept is never mapped again; its time is that of its expiry.
pub(super) fn next_try_us(event: &Event) -> Option<i64> {
    let progress = &event.progress;
    let is_final = progress.class == Some(ErrorClass::Mapping) && !event.retryable;
    let waits = matches!(progress.state, State::Queued | State::Errored) && !is_final;
    // Whoever is due since it was received is due at once.
    progress.due_us.filter(|due_us| waits && *due_us > event.received_us)
}

/// An event, as it is in lists.
pub(super) fn event(stored: &StoredEvent) -> Value {
    let (event, progress) = (&stored.event, &stored.event.progress);
    let is_leased = progress.state == State::Processing;
    let number = |number: &(bugfeed_protocol::Epoch, u64)| format!("{}.{}", number.0, number.1);
    json!({
        "id": event.id.to_string(),
        "request": stored.request().to_string(),
        "item": stored.item,
        "source": &*event.source,
        // Where no bug was found, the feed is not what the item says, but the source's first.
        "feed": Some(&*event.feed).filter(|feed| !feed.is_empty() && event.bug.is_some()),
        "bug": event.bug.map(|bug| bug.get()),
        "when": event.when.to_string(),
        "when_from": event.origin.as_str(),
        "clock": stored.has_wrong_clock,
        "kind": &*event.kind,
        "delivery": event.delivery.as_ref().map(|delivery| &*delivery.id),
        "private": event.private,
        "direction": "inbound",
        "trigger": progress.trigger.as_str(),
        "state": progress.state.as_str(),
        "class": progress.class.map(|class| class.as_str()),
        "reason": progress.drop.map(|reason| reason.as_str()),
        "attempts": progress.attempts,
        "next_try": maybe_at(next_try_us(event)),
        "lease_until": maybe_at(progress.due_us.filter(|_| is_leased)),
        "blocked_by": progress.blocked_by.map(|id| id.to_string()),
        "released": progress.released,
        "retryable": event.retryable,
        "received": at(event.received_us),
        "began": maybe_at(progress.began_us),
        "ended": maybe_at(progress.ended_us),
        "expires": maybe_at((!progress.state.is_terminal() && event.expires_us > 0).then_some(event.expires_us)),
        "row": stored.row,
        "cursor": stored.cursor.as_ref().map(number),
    })
}

/// An event with all that is known of it.
pub(super) fn detail(detail: &Detail) -> Value {
    let mut shape = event(&detail.stored);
    if let Value::Object(members) = &mut shape {
        let repeats = detail.stored.event.repeat_of.map(|id| id.to_string());
        members.insert("repeat_of".to_owned(), json!(repeats));
        members.insert("hash".to_owned(), json!(hex(&detail.stored.event.hash.0)));
        add_reason(members, &detail.stored.event, detail.reason.as_ref());
        members.insert("kept".to_owned(), json!(detail.is_kept));
        members.insert("links".to_owned(), detail.links.iter().map(link).collect());
        let linked_by = detail.linked_by.iter().map(|(from, kind)| linked_by(*from, *kind));
        members.insert("linked_by".to_owned(), linked_by.collect());
        members.insert("lines".to_owned(), detail.lines.iter().map(line).collect());
    }
    shape
}

/// Why an event failed. Of one that never did, it is a remark.
pub(super) fn add_reason(members: &mut Map<String, Value>, event: &Event, reason: Option<&Failure>) {
    let is_remark = event.progress.class.is_none() && event.progress.attempts == 0;
    let (note, failure) = if is_remark { (reason, None) } else { (None, reason) };
    add_failure(members, failure);
    members.insert("note".to_owned(), json!(note));
}

/// Why something failed, as two members.
pub(super) fn add_failure(members: &mut Map<String, Value>, failure: Option<&Failure>) {
    members.insert("error".to_owned(), json!(failure.map(|failure| &failure.error)));
    members.insert("fix".to_owned(), json!(failure.map(|failure| &failure.fix)));
}

fn link(link: &Link) -> Value {
    json!({ "kind": link.kind.as_str(), "event": link.to.to_string() })
}

fn linked_by(from: EventId, kind: LinkKind) -> Value {
    json!({ "kind": kind.as_str(), "event": from.to_string() })
}

/// A line of an event's history.
pub(super) fn line(line: &Line) -> Value {
    json!({
        "at": at(line.at_us),
        "version": line.version,
        "before": line.before.map(|state| state.as_str()),
        "cause": line.cause.map(|cause| cause.as_str()),
        "after": line.after.map(|state| state.as_str()),
    })
}

/// A request, as it is in lists. Values of headers are shown to whoever may see what is masked.
pub(super) fn request(stored: &StoredRequest, is_raw: bool) -> Value {
    let envelope = &stored.envelope;
    let header = |(name, value): &(String, String)| {
        let is_open = is_raw || OPEN_HEADERS.contains(&name.to_ascii_lowercase().as_str());
        json!([name, if is_open { value } else { MASK }])
    };
    json!({
        "id": envelope.id.to_string(),
        "source": envelope.source,
        "state": stored.state.as_str(),
        "received": at(envelope.received_us),
        "address": envelope.address.to_string(),
        "key": envelope.key_id,
        "path": envelope.path,
        "headers": envelope.headers.iter().map(header).collect::<Value>(),
        "size": envelope.size,
        "hash": envelope.body_hash.map(|hash| hash.to_string()),
        "status": envelope.status,
        "items": stored.items,
        "connected": stored.connected,
        "ignored": stored.ignored,
        "replays": stored.replays.map(|id| id.to_string()),
        "program": stored.program,
    })
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

/// A page of a list that is in memory: newest first, and the identifier after which the next one begins.
pub(super) fn page<T>(
    all: Vec<T>,
    after: Option<&str>,
    limit: usize,
    name: impl Fn(&T) -> &str,
) -> (Vec<T>, Option<String>) {
    let start = match after {
        None => 0,
        // After an identifier that is gone there is nothing.
        Some(after) => all.iter().position(|one| name(one) == after).map_or(all.len(), |place| place + 1),
    };
    let is_last = all.len().saturating_sub(start) <= limit;
    let page: Vec<T> = all.into_iter().skip(start).take(limit).collect();
    let next = if is_last { None } else { page.last().map(|last| name(last).to_owned()) };
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_lists_in_memory() {
        let all = || vec!["e".to_owned(), "d".to_owned(), "c".to_owned()];
        let id = String::as_str;
        assert_eq!(page(all(), None, 2, id), (vec!["e".to_owned(), "d".to_owned()], Some("d".to_owned())));
        assert_eq!(page(all(), Some("d"), 2, id), (vec!["c".to_owned()], None));
        assert_eq!(page(all(), None, 3, id).1, None);
        assert_eq!(page(all(), Some("gone"), 3, id), (vec![], None));
    }

    #[test]
    fn bytes_as_digits() {
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
        assert_eq!((at(0), maybe_at(None)), (json!("1970-01-01T00:00:00"), Value::Null));
    }
}
