//! From a request to changes: what each item of a body says by the rules of its source.
//!
//! Goes in: a source, the request's headers and body, and the time of arrival. Comes out: for each item a change, or why
//! it is none; or one error, where the request as a whole cannot be read. It never looks at keys and signatures, and
//! nothing that a sender can send makes it fail otherwise, take more than time in proportion to the body, or recurse.
//!
//! What is decided here, and how: see [`map`].

use bugfeed_protocol::{BugId, When};
use serde_json::Value;

use super::advice::{date_remark, no_bug, no_privacy, no_rule};
use super::body::{self, BrokenLine};
use super::date;
use super::identity::{Hasher, Sha256};
use super::lookup::{Found, Headers, LONGEST_TEXT, Lookup, Place, Scope, text_of};
use super::mapped::{About, DropReason, Dropped, Errored, Item, Kept, Mapped, Request, RequestError, Time, TimeOrigin};
use super::trace::{Step, Trace};
use super::written;
use crate::config::Source;
use crate::config::feed::{DEFAULT_FEED, FeedRule};
use crate::config::mapping::{Members, Rule};
use crate::config::source::Private;
use crate::receive::received::Failure;

/// A time that is further ahead of the arrival than this is not the tracker's: one of the clocks is wrong.
pub const MAX_AHEAD_US: i64 = 300_000_000;
/// Kinds, projects and delivery ids are kept up to this length, in bytes.
const LONGEST_NAME: usize = 200;

/// Maps a request. For each item, in this order:
///
/// 1. `kind` and `action` choose the first rule whose glob fits, and whose `if` is found. `answer` ends it there.
/// 2. If `is_private` says so, and the source drops private bugs, it is dropped, and nothing is kept of it. If nothing is
///    at any place of `is_private`, it is errored: a bug of which that is not known must not be announced.
/// 3. `bug` must lead to a number, otherwise it is errored.
/// 4. `when`: the first date that can be read. Without one, or with one more than 5 minutes ahead: the time of arrival.
/// 5. `feed`, by `project`. If no feed is named for the project, it is dropped as not mapped.
///
/// # Errors
/// The body is no JSON, has nothing where the items should be, or more than [`super::mapped::MAX_ITEMS`] items.
pub fn map(source: &Source, request: Request<'_>) -> Result<Vec<Mapped>, RequestError> {
    let mut mapped = Vec::new();
    map_each(source, request, Trace::off, |item, _| mapped.push(item))?;
    Ok(mapped)
}

/// Maps an item that was kept once more, by the source's configuration of now. `arrived` is when it was received first.
pub fn map_kept(source: &Source, kept: &Kept, arrived: When) -> Mapped {
    let headers: &dyn Headers = &kept.headers;
    match serde_json::from_str(&kept.item) {
        Ok(item) => one(source, Scope { headers, root: None, item: &item }, arrived, &mut Trace::off()),
        Err(error) => {
            broken(source, BrokenLine { number: 1, text: kept.item.clone(), why: error.to_string() }, arrived)
        }
    }
}

/// Maps each item, and passes it on with its trace.
pub(crate) fn map_each(
    source: &Source,
    request: Request<'_>,
    new_trace: fn() -> Trace,
    mut then: impl FnMut(Mapped, Trace),
) -> Result<(), RequestError> {
    let Request { headers, body, arrived } = request;
    let payload = body::payload(&source.mapping, headers, body)?;
    let body = body::read(&source.mapping, headers, &payload)?;
    let map_one = |root: &Value, item: &Value| {
        let mut trace = new_trace();
        (one(source, Scope { headers, root: Some(root), item }, arrived, &mut trace), trace)
    };
    if let Some(root) = &body.root {
        for item in body::items(&source.mapping, root)? {
            let (mapped, trace) = map_one(root, item);
            then(mapped, trace);
        }
        return Ok(());
    }
    for line in body.lines {
        let (mapped, trace) = match line {
            Ok(item) => map_one(&item, &item),
            Err(line) => (broken(source, line, arrived), new_trace()),
        };
        then(mapped, trace);
    }
    Ok(())
}

/// Maps one item.
fn one(source: &Source, scope: Scope<'_>, arrived: When, trace: &mut Trace) -> Mapped {
    let mapping = &source.mapping;
    let kind = kind_of(source, scope, trace);
    let delivery = first(trace, "id", &mapping.id, scope, name_of).map(bounded_id);
    let mut about = About { kind: bounded(&kind), delivery, project: None };
    let arrival = Time { when: arrived, origin: TimeOrigin::Arrival };
    let drops_private = |members: &Members, trace: &mut Trace| {
        let is_private = places(&members.is_private).iter().any(|lookup| says_private(lookup, scope, trace));
        (is_private, is_private && source.private == Private::Drop)
    };
    let Some(rule) = rule_of(source, &kind, scope, trace) else {
        if drops_private(&mapping.common, trace).1 {
            let dropped =
                Dropped { reason: DropReason::Private, bug: None, feed: None, time: arrival, kept: None, about };
            return Mapped::Dropped(dropped);
        }
        let (error, fix) = no_rule(source, &kind, scope);
        return errored(source, scope, error, fix, arrival, about);
    };
    if let Some(answer) = rule.answer {
        return Mapped::Answered { answer, about };
    }
    let members = &rule.members;
    let project = first(trace, "project", places(&members.project), scope, name_of);
    let (is_private, is_dropped) = drops_private(members, trace);
    let bug = first(trace, "bug", places(&members.bug), scope, bug_of);
    let (time, unreadable) = time_of(source, members, scope, arrived, trace);
    let feed = members.feed.as_ref().map_or(Some(DEFAULT_FEED), |feed| feed.choose(project.as_deref()));
    about.project = project.as_deref().map(bounded);
    let feed_name = feed.map(str::to_owned);
    if is_dropped {
        let dropped = Dropped { reason: DropReason::Private, bug, feed: feed_name, time, kept: None, about };
        return Mapped::Dropped(dropped);
    }
    if source.private == Private::Drop && !tells_privacy(members, scope) {
        let (error, fix) = no_privacy(source, members, scope);
        return errored(source, scope, error, fix, time, about);
    }
    let Some(bug) = bug else {
        let (error, fix) = no_bug(source, rule, scope);
        return errored(source, scope, error, fix, time, about);
    };
    let Some(feed) = feed else {
        note_feed(trace, members.feed.as_ref(), &about);
        let kept = Some(keep(source, scope));
        let reason = DropReason::NotMapped;
        return Mapped::Dropped(Dropped { reason, bug: Some(bug), feed: None, time, kept, about });
    };
    let identity = identity_of(source, members, scope, bug, time, &kind);
    Mapped::Item(Item { bug, time, unreadable, feed: feed.to_owned(), is_private, identity, about })
}

/// `kind`, and after a dot `action`, where there is one.
fn kind_of(source: &Source, scope: Scope<'_>, trace: &mut Trace) -> String {
    let mut kind = first(trace, "kind", &source.mapping.kind, scope, name_of).unwrap_or_default();
    if let Some(action) = first(trace, "action", &source.mapping.action, scope, name_of) {
        kind.push('.');
        kind.push_str(&action);
    }
    kind
}

/// The first rule whose glob fits the kind, and whose `if` is found.
fn rule_of<'a>(source: &'a Source, kind: &str, scope: Scope<'_>, trace: &mut Trace) -> Option<&'a Rule> {
    source.mapping.rules.iter().find(|rule| {
        let fits = rule.glob.matches(kind);
        let mut is_found = || first(trace, "if", &rule.conditions, scope, |found| Ok(found.shown())).is_some();
        let holds = fits && (rule.conditions.is_empty() || is_found());
        trace.note(|| Step {
            member: "rule",
            place: format!("on.\"{}\"", rule.glob.as_str()),
            found: format!("\"{}\"", super::lookup::short(kind)),
            used: Some(match (fits, holds) {
                (_, true) => Ok("this rule holds".to_owned()),
                (true, false) => Err("its `if` is not found".to_owned()),
                (false, false) => Err("another kind".to_owned()),
            }),
        });
        holds
    })
}

pub(super) fn places(lookups: &Option<Vec<Lookup>>) -> &[Lookup] {
    lookups.as_deref().unwrap_or_default()
}

/// The first place where there is something usable.
fn first<T: Shown>(
    trace: &mut Trace,
    member: &'static str,
    lookups: &[Lookup],
    scope: Scope<'_>,
    mut read: impl FnMut(&Found<'_>) -> Result<T, String>,
) -> Option<T> {
    lookups.iter().find_map(|lookup| {
        let found = lookup.find(scope);
        let used = match &found {
            Found::Nothing => None,
            Found::Unmatched(_) | Found::Unmatchable(_) => Some(Err(UNMATCHED.to_owned())),
            found => Some(read(found)),
        };
        trace.note(|| Step {
            member,
            place: lookup.to_string(),
            found: shown(lookup, &found, scope),
            used: used.as_ref().map(|used| used.as_ref().map(T::shown).map_err(Clone::clone)),
        });
        used.and_then(Result::ok)
    })
}

/// What is at a place, and where the sender has it instead.
fn shown(lookup: &Lookup, found: &Found<'_>, scope: Scope<'_>) -> String {
    match lookup.elsewhere(scope) {
        Some(place) => format!("nothing in the item; the whole body has it: write {}", written::place(&place)),
        None => found.shown(),
    }
}

/// Why a text cannot be used that a pattern does not match.
pub(super) const UNMATCHED: &str = "the pattern does not match it";

/// How a trace shows what was made of a value; empty where it is the value itself.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for String {
    fn shown(&self) -> String {
        String::new()
    }
}

impl Shown for BugId {
    fn shown(&self) -> String {
        format!("bug {self}")
    }
}

/// A time that was said, or `now`.
impl Shown for Option<When> {
    fn shown(&self) -> String {
        self.map_or(String::new(), |when| format!("{when} UTC"))
    }
}

fn name_of(found: &Found<'_>) -> Result<String, String> {
    let text = found.text().ok_or("it is no text")?;
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        _ => Ok(cut(&text, LONGEST_TEXT)),
    }
}

pub(super) fn bug_of(found: &Found<'_>) -> Result<BugId, String> {
    let text = found.text().ok_or("it is no number")?;
    BugId::parse(&text).ok_or_else(|| "it is no whole number from 1 to 9223372036854775807".to_owned())
}

/// Whether a place says that the bug is private. What is unclear counts as private.
fn says_private(lookup: &Lookup, scope: Scope<'_>, trace: &mut Trace) -> bool {
    let public = ["", "0", "false", "no", "off", "public"];
    let is_private = |found: &Found<'_>| match found {
        Found::Nothing | Found::Now | Found::Unmatched(_) => false,
        Found::Unmatchable(_) => true,
        // What a pattern finds is private, whatever it is.
        _ if lookup.pattern.is_some() => true,
        found => found.text().is_none_or(|text| !public.contains(&text.trim().to_ascii_lowercase().as_str())),
    };
    let found = lookup.find(scope);
    let is_private = is_private(&found);
    trace.note(|| Step {
        member: "is_private",
        place: lookup.to_string(),
        found: shown(lookup, &found, scope),
        used: lookup.is_there(scope).then(|| Ok(if is_private { "private" } else { "public" }.to_owned())),
    });
    is_private
}

/// Whether anything is said of the bug's privacy, where the mapping looks for it.
fn tells_privacy(members: &Members, scope: Scope<'_>) -> bool {
    let lookups = places(&members.is_private);
    lookups.is_empty() || lookups.iter().any(|lookup| lookup.is_there(scope))
}

/// The time, and what is wrong with the tracker's where there is one that cannot be read.
fn time_of(
    source: &Source,
    members: &Members,
    scope: Scope<'_>,
    arrived: When,
    trace: &mut Trace,
) -> (Time, Option<Failure>) {
    let zone = &source.mapping.timezone;
    let mut unreadable = None;
    let lookups = places(&members.when);
    let said = lookups.iter().enumerate().find_map(|(index, lookup)| {
        let read = |found: &Found<'_>| match (found, &lookup.format) {
            (Found::Now, _) => Ok(None),
            (found, Some(format)) => format.read(&found.text().ok_or("it is no text")?, zone).map(Some),
            (Found::Json(value), None) => date::read(value, zone).map(Some),
            (Found::Text(text), None) => date::read_text(text, zone).map(Some),
            (_, None) => Err("it is no date".to_owned()),
        };
        let said = first(trace, "when", std::slice::from_ref(lookup), scope, read);
        if said.is_none() && unreadable.is_none() {
            unreadable = date_remark(source, lookups, index, scope);
        }
        said
    });
    if let Some(Some(_)) = said {
        unreadable = None;
    }
    let time = match said {
        Some(Some(when)) if when.as_micros() - arrived.as_micros() > MAX_AHEAD_US => {
            trace.note(|| Step {
                member: "when",
                place: "now".to_owned(),
                found: "the time of arrival".to_owned(),
                used: Some(Ok(format!("{arrived}, because {when} is more than 5 minutes ahead of it"))),
            });
            Time { when: arrived, origin: TimeOrigin::ArrivalClock }
        }
        Some(Some(when)) => Time { when, origin: TimeOrigin::Tracker },
        Some(None) | None => Time { when: arrived, origin: TimeOrigin::Arrival },
    };
    (time, unreadable)
}

fn note_feed(trace: &mut Trace, rule: Option<&FeedRule>, about: &About) {
    trace.note(|| Step {
        member: "feed",
        place: rule.map(FeedRule::names).unwrap_or_default().join(", "),
        found: about.project.as_deref().map_or("no project".to_owned(), |project| format!("project \"{project}\"")),
        used: Some(Err("the map of `feed` names no feed for it, and `else` is \"drop\"".to_owned())),
    });
}

/// What two messages of the same event have in common.
fn identity_of(source: &Source, members: &Members, scope: Scope<'_>, bug: BugId, time: Time, kind: &str) -> Sha256 {
    let mut hasher = Hasher::new();
    hasher.text(&source.name);
    hasher.text(&bug.to_string());
    hasher.text(&if time.origin.is_tracker() { time.when.to_string() } else { String::new() });
    hasher.text(kind);
    match &members.identity {
        None => hasher.value(Some(scope.item)),
        Some(lookups) => lookups.iter().for_each(|lookup| match lookup.find(scope) {
            Found::Json(value) => hasher.value(Some(&value)),
            Found::Text(text) => hasher.value(Some(&Value::String(text.into_owned()))),
            Found::Nothing | Found::Now | Found::Unmatched(_) | Found::Unmatchable(_) => hasher.value(None),
        }),
    }
    hasher.finish()
}

fn errored(source: &Source, scope: Scope<'_>, error: String, fix: String, time: Time, about: About) -> Mapped {
    let kept = keep(source, scope);
    Mapped::Errored(Box::new(Errored { error, fix, time, kept, about }))
}

fn broken(source: &Source, line: BrokenLine, arrived: When) -> Mapped {
    let about = About { kind: String::new(), delivery: None, project: None };
    let why = line.why.replace(" at line 1 column", " at column");
    let error = format!("line {} is not JSON: {why}", line.number);
    let fix = format!("send one JSON object a line to source '{}'; the other lines were taken", source.name);
    let time = Time { when: arrived, origin: TimeOrigin::Arrival };
    let kept = Kept { item: line.text, headers: Vec::new() };
    Mapped::Errored(Box::new(Errored { error, fix, time, kept, about }))
}

/// What is needed to map the item once more. What is outside the item is kept as far as it can be a name or a date, so
/// that many items do not keep much of one body.
fn keep(source: &Source, scope: Scope<'_>) -> Kept {
    let mut headers: Vec<(String, String)> = Vec::new();
    for lookup in source.mapping.places_outside() {
        let (name, value) = match (&lookup.place, scope.root) {
            (Place::Root(pointer), Some(root)) => {
                let value = root.pointer(pointer).filter(|value| text_of(value).is_some_and(|text| is_short(&text)));
                (lookup.place.to_string(), value.map(Value::to_string))
            }
            (Place::Header(name), _) => (name.clone(), scope.headers.get(name).map(str::to_owned)),
            (place, _) => (place.to_string(), scope.headers.get(&place.to_string()).map(str::to_owned)),
        };
        let is_new = !headers.iter().any(|(kept, _)| *kept == name);
        if let Some(value) = value.filter(|_| is_new) {
            headers.push((name, value));
        }
    }
    Kept { item: scope.item.to_string(), headers }
}

fn is_short(text: &str) -> bool {
    text.len() <= LONGEST_TEXT
}

pub(super) fn bounded(text: &str) -> String {
    cut(text, LONGEST_NAME)
}

fn bounded_id(text: String) -> String {
    if text.len() > LONGEST_NAME { format!("sha256:{}", Sha256::of(text.as_bytes())) } else { text }
}

/// The first bytes of a text, up to the end of a character.
fn cut(text: &str, longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests;
