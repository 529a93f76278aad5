//! What a person wants done about events: retry, drop, release; one, or many by a filter.
//!
//! Many are worked off in pages, newest first. One request works for at most [`MOST`] events and [`LONGEST`]; then its
//! answer says `next`, and the same request with that as `after` goes on. A dry run counts, and changes nothing.

use std::time::{Duration, Instant};

use bugfeed_core::hooks::event::{EventId, State};
use bugfeed_core::hooks::orders::{Order, Refusal, carry_out};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Name, answer};
use super::error::{Answer, ApiError};
use super::events::missing;
use super::params::{bug, event_id, range, state};
use super::shapes;
use crate::store::dead::Ordered;
use crate::store::events::EventFilter;

/// The most events of one request.
const MOST: usize = 10_000;
/// The longest time of one request.
const LONGEST: Duration = Duration::from_secs(20);
/// How many events are ordered about in one transaction.
const STEP: usize = 500;
/// How many identifiers are shown of those that are ordered about, and of those that cannot be.
const SAMPLE: usize = 10;

pub(super) async fn retry(name: Name, call: Call) -> Answer {
    order_one(name, call, Order::Retry, "events.retry").await
}

pub(super) async fn drop_one(name: Name, call: Call) -> Answer {
    order_one(name, call, Order::Drop, "events.drop").await
}

pub(super) async fn release(name: Name, call: Call) -> Answer {
    order_one(name, call, Order::Release, "events.release").await
}

async fn order_one(Name(text): Name, call: Call, order: Order, deed: &str) -> Answer {
    call.nothing()?;
    let id = event_id(&text)?;
    let event = call.store().event(id).await?.ok_or_else(|| missing(&text))?;
    // What is refused is no deed. Whether it still can be done is decided once more when it is done.
    if let Err(refusal) = carry_out(order, &event, call.now_us) {
        return Err(explained(&call, id, refusal).await?);
    }
    let detail = json!({ "source": &*event.source, "bug": event.bug.map(|bug| bug.get()) });
    call.audit(deed, &text, &detail).await?;
    match call.store().order(id, order, call.now_us).await? {
        Ordered::Done => {}
        Ordered::NoEvent => return Err(missing(&text)),
        Ordered::Refused(refusal) => return Err(refused(refusal)),
    }
    call.api.service().wake();
    let detail = call.store().detail(id).await?.ok_or_else(|| missing(&text))?;
    answer(shapes::detail(&detail))
}

/// The refusal; of an event whose item is not kept, but whose request is, with the command that helps.
async fn explained(call: &Call, id: EventId, refusal: Refusal) -> Result<ApiError, ApiError> {
    let request = match refusal {
        Refusal::NotRetryable => call.store().detail(id).await?.map(|detail| detail.stored.request()),
        _ => None,
    };
    match request {
        Some(request) if call.store().has_body(request).await? => Ok(ApiError::conflict(
            "only the whole request of this event is kept, so it is received again as a whole",
            format!("`bugfeed requests replay {request}`; or drop the event"),
        )),
        _ => Ok(refused(refusal)),
    }
}

fn refused(refusal: Refusal) -> ApiError {
    let fix = match refusal {
        Refusal::State(State::Processing) => "it is being processed: try again in a moment".to_owned(),
        Refusal::State(state) if state.is_terminal() => {
            "an event that has ended never changes; replay its request".to_owned()
        }
        Refusal::State(State::Disabled) => "switch its source and its feed on again".to_owned(),
        Refusal::State(_) | Refusal::NotConcerned => {
            "only dead letters (state errored) are retried and released".to_owned()
        }
        Refusal::BlockedBy(id) => format!("order the same about {id}"),
        Refusal::NotRetryable => "or drop it, or release those behind it".to_owned(),
    };
    ApiError::conflict(refusal.to_string(), fix)
}

/// A filter, as in the list of events, and whether to count only.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BulkBody {
    state: Option<String>,
    source: Option<String>,
    feed: Option<String>,
    bug: Option<u64>,
    from: Option<String>,
    to: Option<String>,
    after: Option<String>,
    dry_run: bool,
}

pub(super) async fn retry_many(call: Call) -> Answer {
    order_many(call, Order::Retry, "events.retry", &[State::Errored]).await
}

pub(super) async fn drop_many(call: Call) -> Answer {
    order_many(call, Order::Drop, "events.drop", &[State::Errored, State::Queued, State::Disabled]).await
}

async fn order_many(call: Call, order: Order, deed: &str, states: &[State]) -> Answer {
    let body: BulkBody = call.json()?;
    let filter = filter_of(&body, states)?;
    let after = body.after.as_deref().map(|text| super::params::id("after", text)).transpose()?;
    if !body.dry_run {
        let detail = json!({
            "state": filter.state.map(State::as_str), "source": body.source, "feed": body.feed, "bug": body.bug,
            "from": body.from, "to": body.to, "after": body.after,
        });
        call.audit(deed, "many", &detail).await?;
    }
    let mut run = run(&call, order, &filter, after.map(|id| EventId(id.0)), body.dry_run).await?;
    for (id, refusal, why) in &mut run.refused {
        let error = explained(&call, *id, *refusal).await?;
        *why = if *refusal == Refusal::NotRetryable { error.in_words() } else { refusal.to_string() };
    }
    if run.done > 0 && !body.dry_run {
        call.api.service().wake();
    }
    answer(json!({
        "dry_run": body.dry_run,
        "done": run.done,
        "skipped": run.looked_at - run.done,
        "refused": run.refused.iter().map(|(id, _, why)| json!({ "event": id.to_string(), "error": why })).collect::<Value>(),
        "sample": run.sample.iter().map(EventId::to_string).collect::<Value>(),
        "next": run.next.map(|id| id.to_string()),
    }))
}

fn filter_of(body: &BulkBody, states: &[State]) -> Result<EventFilter, ApiError> {
    let says_nothing = body.state.is_none()
        && body.source.is_none()
        && body.feed.is_none()
        && body.bug.is_none()
        && body.from.is_none()
        && body.to.is_none();
    if says_nothing {
        let fix =
            "name at least one of state, source, feed, bug, from, to; {\"state\":\"errored\"} means all dead letters";
        return Err(ApiError::bad("nothing is said of which events", fix));
    }
    let wanted = body.state.as_deref().map(state).transpose()?.unwrap_or(State::Errored);
    if !states.contains(&wanted) {
        let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        return Err(ApiError::bad(
            format!("state: this cannot be done about events that are {wanted}"),
            format!("it can be done about: {}", names.join(", ")),
        ));
    }
    Ok(EventFilter {
        state: Some(wanted),
        source: body.source.clone(),
        feed: body.feed.clone(),
        bug: body.bug.map(|number| bug(&number.to_string())).transpose()?,
        range: range(body.from.as_deref(), body.to.as_deref())?,
    })
}

/// What a run did, or would do.
#[derive(Default)]
struct BulkRun {
    looked_at: usize,
    done: usize,
    sample: Vec<EventId>,
    /// The first ones that it cannot be done about, and why.
    refused: Vec<(EventId, Refusal, String)>,
    next: Option<EventId>,
}

async fn run(
    call: &Call,
    order: Order,
    filter: &EventFilter,
    mut after: Option<EventId>,
    is_dry: bool,
) -> Result<BulkRun, ApiError> {
    let (mut run, begin) = (BulkRun::default(), Instant::now());
    loop {
        let page = call.store().list_events(filter, after, STEP).await?;
        let mut good: Vec<EventId> = Vec::new();
        for event in page.events.iter().map(|stored| &stored.event) {
            match carry_out(order, event, call.now_us) {
                Ok(_) => good.push(event.id),
                Err(why) if run.refused.len() < SAMPLE => run.refused.push((event.id, why, String::new())),
                Err(_) => {}
            }
        }
        run.looked_at += page.events.len();
        run.sample.extend(good.iter().take(SAMPLE - run.sample.len()));
        run.done += if is_dry { good.len() } else { call.store().order_all(&good, order, call.now_us).await? };
        after = page.next;
        if after.is_none() || run.looked_at >= MOST || begin.elapsed() >= LONGEST {
            run.next = after;
            return Ok(run);
        }
    }
}
