//! Endpoints: made, listed, changed, deleted. A secret is shown once, in the answer that makes it.
//!
//! What an order makes of an endpoint is decided by [`bugfeed_core::endpoints::orders`]; it is written together with its line
//! in the audit log, and whoever serves the endpoint is told ([`Service::endpoint_changed`]). Nothing here sends a request
//! to an endpoint.
//!
//! | part | what |
//! |---|---|
//! | `body` | what a person writes, checked |
//! | `shapes`, `view` | endpoints and attempts as JSON; what this process knows of an endpoint besides |
//! | `orders` | test, enable, reset, pause, resume, rotate, recover |
//! | `attempts` | what was sent, and sending it again |
//! | `preview` | what would be sent |
//! | `watching` | who is told of a bug |
//!
//! [`Service::endpoint_changed`]: crate::api::service::Service::endpoint_changed

pub(super) mod attempts;
mod body;
pub(super) mod orders;
pub(super) mod preview;
pub(super) mod shapes;
mod view;
pub(super) mod watching;

use std::sync::Arc;

use bugfeed_core::endpoints::orders::{Order, Refused, carry_out};
use bugfeed_core::endpoints::policy::{Policy, State};
use bugfeed_core::endpoints::row::Row;
use rand::random;
use serde_json::{Map, Value, json};

use self::body::{EndpointBody, Said, merge};
use super::Api;
use super::call::{Call, Name, answer, created};
use super::error::{Answer, ApiError};
use super::params::wrong;
use crate::deliver::headers::UserHeaders;
use crate::deliver::sign::{RANDOM_BYTES, SigningSecret};
use crate::store::audit::Deed;
use crate::store::endpoints::{
    ChangeError, CreateError, EndpointFilter, EndpointId, FeedChoice, MAX_BUGS, Settings, Stored,
};

pub(super) async fn list(call: Call) -> Answer {
    let params = call.params(&["after", "limit", "state", "feed", "bug"])?;
    let limit = params.limit()?;
    let state = params.text("state").map(state).transpose()?;
    let filter = EndpointFilter {
        feed: params.owned("feed"),
        state: state.map(|state| (state, call.now_us)),
        bug: params.bug()?,
    };
    let gone = |text: &str| wrong("after", text, "there is no such endpoint any more: begin again without `after`");
    let after = params.text("after").map(|text| EndpointId::parse(text).ok_or_else(|| gone(text))).transpose()?;
    let page = call.store().endpoints(&filter, after.as_ref(), limit).await?;
    let page = page.ok_or_else(|| gone(params.text("after").unwrap_or_default()))?;
    let next = page.last().filter(|_| page.len() == limit).map(|last| last.id.as_str().to_owned());
    if page.is_empty()
        && let Some(feed) = params.text("feed")
    {
        is_known(&call, feed).await?;
    }
    answer(json!({ "endpoints": view::listed(&call, &page).await?, "next": next }))
}

/// Refuses a feed that is not served here and that no endpoint has: it is misspelt.
async fn is_known(call: &Call, feed: &str) -> Result<(), ApiError> {
    let known = call.api.service().feeds();
    let filter = EndpointFilter { feed: Some(feed.to_owned()), ..EndpointFilter::default() };
    let is_known = known.is_empty() || known.iter().any(|known| known == feed);
    if is_known || call.store().endpoints(&filter, None, 1).await?.is_some_and(|found| !found.is_empty()) {
        return Ok(());
    }
    let feed: String = feed.chars().take(60).collect();
    Err(ApiError::bad(format!("feed: there is no feed '{feed}'"), format!("the feeds are: {}", known.join(", "))))
}

fn state(text: &str) -> Result<State, ApiError> {
    let all: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
    State::parse(text).ok_or_else(|| wrong("state", text, &format!("the states are {}", all.join(", "))))
}

pub(super) async fn one(Name(text): Name, call: Call) -> Answer {
    call.params(&[])?;
    let stored = find(&call, &text).await?;
    answer(view::shown(&call, &stored).await?)
}

pub(super) async fn create(call: Call) -> Answer {
    let said = call.json::<EndpointBody>()?.check(call.api.service())?;
    let (settings, row) = new(&call.api, said, call.now_us)?;
    let id = EndpointId::new(random());
    let deed = call.deed("endpoints.create", id.as_str(), &audited(&settings, &row));
    let stored = call.store().create_endpoint(&id, &settings, &row, Some(&deed)).await.map_err(not_made)?;
    call.log(&deed.deed, id.as_str());
    call.api.service().endpoint_changed(&id);
    let mut shape = with_secret(&call, &stored).await?;
    shape["warnings"] = json!(view::warnings(&call, &stored.settings.url).await);
    created(shape)
}

/// A new endpoint. Where nothing is said, it has the usual value.
fn new(api: &Api, said: Said, now_us: i64) -> Result<(Settings, Row), ApiError> {
    let url = said.url.ok_or_else(|| {
        ApiError::bad(
            "url: the endpoint has no URL",
            "add \"url\": where changes are POSTed to, as https://example.org/hook",
        )
    })?;
    let watch = said.watch.ok_or_else(|| {
        ApiError::bad("bugs: nothing is said of which bugs", "add \"bugs\": [1234, 5678], or \"bugs\": \"all\"")
    })?;
    let known = api.service().feeds();
    let feeds = said.feeds.map_or_else(|| body::usual_feed(&known), Ok)?;
    let headers = match &said.headers {
        Some(edits) => merge(&UserHeaders::default(), edits.as_ref())?,
        None => UserHeaders::default(),
    };
    let mut row = Row::new(said.policy.unwrap_or(Policy::Classic), watch, lines(&feeds, &known));
    row.rate = said.rate.flatten();
    for line in &mut row.lines {
        line.since = api.service().begin(&line.feed, now_us);
    }
    let settings = Settings {
        url,
        secret: said.secret.unwrap_or_else(|| SigningSecret::generate(&random::<[u8; RANDOM_BYTES]>())),
        previous: None,
        headers,
        description: said.description.unwrap_or_default(),
        feeds,
        template: said.template.flatten(),
        created_us: now_us,
    };
    Ok((settings, row))
}

/// The feeds that are served now.
fn lines(feeds: &FeedChoice, known: &[String]) -> Vec<Arc<str>> {
    match feeds {
        FeedChoice::All => known.iter().map(|name| Arc::from(name.as_str())).collect(),
        FeedChoice::Named(names) => names.clone(),
    }
}

pub(super) async fn change(Name(text): Name, call: Call) -> Answer {
    let said = call.json::<EndpointBody>()?.check(call.api.service())?;
    if said.secret.is_some() {
        let fix =
            "POST /api/endpoints/ID/rotate, or `bugfeed endpoints rotate ID`, so that the old one goes on for a while";
        return Err(ApiError::bad("secret: it is not changed here", fix));
    }
    let detail = audited_change(&said);
    if detail.is_empty() {
        let fix = "give some of: url, feeds, bugs, policy, rate, template, headers, description";
        return Err(ApiError::bad("nothing is to be changed", fix));
    }
    let known = call.api.service().feeds();
    let change = |settings: &mut Settings, row: &mut Row| {
        let before: Vec<Arc<str>> = row.lines.iter().map(|line| Arc::clone(&line.feed)).collect();
        apply(&said, &known, settings, row)?;
        for line in row.lines.iter_mut().filter(|line| !before.contains(&line.feed)) {
            line.since = call.api.service().begin(&line.feed, call.now_us);
        }
        Ok(())
    };
    let stored = order(&call, &text, "endpoints.change", Value::Object(detail), change).await?.0;
    let mut shape = view::shown(&call, &stored).await?;
    let warnings = match &said.url {
        Some(url) => view::warnings(&call, url).await,
        None => Vec::new(),
    };
    shape["warnings"] = json!(warnings);
    answer(shape)
}

fn apply(said: &Said, known: &[String], settings: &mut Settings, row: &mut Row) -> Result<(), ApiError> {
    let mut orders = Vec::new();
    if let Some(url) = said.url.as_ref().filter(|url| **url != settings.url) {
        settings.url.clone_from(url);
        orders.push(Order::Url);
    }
    if let Some(feeds) = &said.feeds {
        settings.feeds = feeds.clone();
        // Of all feeds, another replica may have more than this one: what is there keeps its place.
        let kept = row.lines.iter().map(|line| Arc::clone(&line.feed)).filter(|_| *feeds == FeedChoice::All);
        orders.push(Order::Feeds(kept.chain(lines(feeds, known)).collect()));
    }
    if let Some(edits) = &said.headers {
        settings.headers = merge(&settings.headers, edits.as_ref())?;
    }
    if let Some(description) = &said.description {
        settings.description.clone_from(description);
    }
    if let Some(template) = &said.template {
        settings.template.clone_from(template);
    }
    orders.extend(said.watch.clone().map(Order::Watch));
    orders.extend(said.policy.map(Order::Policy));
    orders.extend(said.rate.map(Order::Rate));
    orders.iter().try_for_each(|order| carry_out(row, order).map_err(|why| refused(why, row)))
}

pub(super) async fn remove(Name(text): Name, call: Call) -> Answer {
    call.nothing()?;
    let delete = |_: &mut Settings, row: &mut Row| carry_out(row, &Order::Delete).map_err(|why| refused(why, row));
    let stored = order(&call, &text, "endpoints.delete", Value::Null, delete).await?.0;
    answer(view::shown(&call, &stored).await?)
}

/// Changes an endpoint, with a line in the audit log, and tells whoever serves it. What changes nothing is no deed.
async fn order<T: Send>(
    call: &Call,
    text: &str,
    deed: &str,
    detail: Value,
    mut change: impl FnMut(&mut Settings, &mut Row) -> Result<T, ApiError> + Send,
) -> Result<(Stored, T), ApiError> {
    let id = EndpointId::parse(text).ok_or_else(|| missing(text))?;
    let deed: Deed = call.deed(deed, id.as_str(), &detail);
    let mut before = 0;
    let noted = |settings: &mut Settings, row: &mut Row| {
        before = row.version;
        change(settings, row)
    };
    let done = call.store().change_endpoint(&id, Some(&deed), noted).await.map_err(|error| not_changed(error, text))?;
    if done.0.row.version != before {
        call.log(&deed.deed, id.as_str());
        call.api.service().endpoint_changed(&id);
    }
    Ok(done)
}

async fn find(call: &Call, text: &str) -> Result<Stored, ApiError> {
    let id = EndpointId::parse(text).ok_or_else(|| missing(text))?;
    call.store().endpoint(&id).await?.ok_or_else(|| missing(text))
}

/// The answer that shows a secret.
async fn with_secret(call: &Call, stored: &Stored) -> Result<Value, ApiError> {
    let mut shape = view::shown(call, stored).await?;
    shape["secret"] = json!(stored.settings.secret.expose());
    Ok(shape)
}

fn missing(text: &str) -> ApiError {
    let id: String = text.chars().take(60).collect();
    ApiError::missing(format!("there is no endpoint {id}"), "`bugfeed endpoints list` has all of them")
}

fn too_many_bugs() -> ApiError {
    let fix = format!("name at most {MAX_BUGS}, write \"all\", or make several endpoints");
    ApiError::bad(format!("bugs: more than {MAX_BUGS} are too many"), fix)
}

fn not_made(error: CreateError) -> ApiError {
    match error {
        CreateError::TooMany => ApiError::conflict(error.to_string(), "or let one endpoint have the bugs of several"),
        CreateError::TooManyBugs => too_many_bugs(),
        CreateError::Store(error) => error.into(),
    }
}

fn not_changed(error: ChangeError<ApiError>, text: &str) -> ApiError {
    match error {
        ChangeError::Missing => missing(text),
        ChangeError::Refused(error) => error,
        ChangeError::TooManyBugs => too_many_bugs(),
        ChangeError::Store(error) => error.into(),
    }
}

/// Why the core refuses an order, and what can be done.
fn refused(why: Refused, row: &Row) -> ApiError {
    let feeds: Vec<&str> = row.lines.iter().map(|line| &*line.feed).collect();
    let feeds = format!("its feeds are: {}", feeds.join(", "));
    match why {
        Refused::Deleted => ApiError::missing(why.to_string(), "`bugfeed endpoints list` has all of them"),
        Refused::NoSuchFeed => ApiError::bad(format!("feed: {why}"), feeds),
        Refused::WhichFeed => ApiError::bad(format!("feed: {why}"), format!("add \"feed\"; {feeds}")),
        Refused::TooMany => {
            let fix = "they are carried out one after the other; `bugfeed endpoints show ID` says how many wait";
            ApiError::conflict(why.to_string(), fix)
        }
    }
}

/// What the audit log says of an endpoint: no secret, and no value that may be one.
fn audited(settings: &Settings, row: &Row) -> Value {
    json!({
        "url": shapes::url(&settings.url, false),
        "feeds": shapes::feeds(&settings.feeds),
        "bugs": bugs(&row.watch),
        "policy": row.policy.as_str(),
        "rate": row.rate,
        "template": settings.template.as_deref().map(template),
        "headers": settings.headers.masked().map(|(name, _)| name).collect::<Vec<_>>(),
        "description": settings.description,
    })
}

/// What it says of a change: only what is changed.
fn audited_change(said: &Said) -> Map<String, Value> {
    let headers = |edits: &body::HeaderEdits| edits.iter().flat_map(|edits| edits.keys()).cloned().collect::<Vec<_>>();
    let members = [
        ("url", said.url.as_deref().map(|url| json!(shapes::url(url, false)))),
        ("feeds", said.feeds.as_ref().map(shapes::feeds)),
        ("bugs", said.watch.as_ref().map(bugs)),
        ("policy", said.policy.map(|policy| json!(policy.as_str()))),
        ("rate", said.rate.map(|rate| json!(rate))),
        ("template", said.template.as_ref().map(|text| json!(text.as_deref().map(template)))),
        ("headers", said.headers.as_ref().map(|edits| json!(headers(edits)))),
        ("description", said.description.as_ref().map(|text| json!(text))),
    ];
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn bugs(watch: &bugfeed_core::endpoints::question::Watch) -> Value {
    shapes::bug_count(watch).map_or_else(|| json!("all"), |count| json!(count))
}

fn template(text: &str) -> &str {
    if text.starts_with('{') { "own" } else { text }
}
