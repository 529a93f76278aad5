//! What a captured request would become, and why: the answer of `bugfeed hooks test FILE --source NAME`.
//!
//! Goes in: a source and a captured request. Comes out: each step of the mapping, as a struct and as text for people.
//! It shows parts of the payload, because whoever has the file may read it; keys, secrets and signatures it never shows.

use std::fmt;

use bugfeed_protocol::When;

use super::capture::Captured;
use super::key::{self, FoundKey};
use super::mapped::{DropReason, Mapped, Request, RequestError, Time, TimeOrigin};
use super::mapping::map_each;
use super::signature;
use super::trace::{Step, Trace};
use crate::config::Source;
use crate::config::auth::KeyPlace;
use crate::config::mapping::Answer;

/// What a request would become.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The source's name.
    pub source: String,
    /// The source's preset.
    pub preset: Option<&'static str>,
    /// What is unusual about the file.
    pub remarks: Vec<String>,
    /// Whether the request would be let in, in words. A key's validity is not known here.
    pub access: String,
    /// The items, or why there are none.
    pub items: Result<Vec<ExplainedItem>, RequestError>,
}

/// What an item would become.
#[derive(Clone, Debug)]
pub struct ExplainedItem {
    /// Each look at each place, in order.
    pub steps: Vec<Step>,
    /// What came out.
    pub outcome: Mapped,
}

impl Explanation {
    /// Whether each item became a change, or was ignored on purpose.
    pub fn is_good(&self) -> bool {
        let good = |item: &ExplainedItem| !matches!(item.outcome, Mapped::Errored(_));
        self.items.as_ref().is_ok_and(|items| items.iter().all(good))
    }
}

/// Maps a captured request and tells each step. `now` is taken as the time of arrival.
pub fn explain(source: &Source, captured: &Captured, now: When) -> Explanation {
    let mut items = Vec::new();
    let request = Request { headers: &captured.headers, body: &captured.body, arrived: now };
    let mapped = map_each(source, request, Trace::on, |outcome, trace| {
        items.push(ExplainedItem { steps: trace.steps, outcome });
    });
    Explanation {
        source: source.name.clone(),
        preset: source.preset,
        remarks: captured.remarks.clone(),
        access: access(source, captured, now),
        items: mapped.map(|()| items),
    }
}

/// Whether the request would be let in.
fn access(source: &Source, captured: &Captured, now: When) -> String {
    if captured.path.is_none() {
        return "not checked, because the file has no headers".to_owned();
    }
    if !source.secrets.is_empty() {
        return match signature::verify(source, &captured.headers, &captured.body, now) {
            Ok(()) => "the signature fits".to_owned(),
            Err(error) => format!("refused: {error}; {}", error.fix()),
        };
    }
    let path_end = captured.path.as_deref().and_then(key::path_end);
    match key::find(&source.keys, &captured.headers, path_end) {
        FoundKey::Key(key, place) => {
            format!("the key {key:?} is {}; whether it is valid is not checked here", at(&place))
        }
        FoundKey::NoKey(place) => format!("refused: what is {} is no key (bf_ID_SECRET)", at(&place)),
        FoundKey::Missing => {
            let places: Vec<String> = source.keys.iter().map(at).collect();
            format!("refused: there is no key; it may be {}", places.join(", "))
        }
    }
}

fn at(place: &KeyPlace) -> String {
    match place {
        KeyPlace::Bearer => "in Authorization: Bearer KEY".to_owned(),
        KeyPlace::Basic => "in Authorization: Basic, as the password".to_owned(),
        KeyPlace::Header(name) => format!("in the header {name}"),
        KeyPlace::Path => "the last part of the path".to_owned(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.preset {
            Some(preset) => writeln!(f, "source {} (preset {preset})", self.source)?,
            None => writeln!(f, "source {} (a mapping of its own)", self.source)?,
        }
        self.remarks.iter().try_for_each(|remark| writeln!(f, "note: {remark}"))?;
        writeln!(f, "access: {}", self.access)?;
        match &self.items {
            Err(error) => writeln!(f, "⇒ nothing is taken: {}\n  fix: {}", error.error, error.fix),
            Ok(items) if items.is_empty() => writeln!(f, "⇒ the request is fine, and has no items"),
            Ok(items) => items.iter().enumerate().try_for_each(|(number, item)| {
                writeln!(f, "item {number}")?;
                item.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))?;
                writeln!(f, "  ⇒ {}", Outcome(&item.outcome))
            }),
        }
    }
}

/// An outcome in words.
struct Outcome<'a>(&'a Mapped);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Mapped::Item(item) => {
                write!(f, "bug {} changed at {}, feed {}", item.bug, in_words(item.time), item.feed)?;
                if item.is_private { f.write_str("; private, but announced") } else { Ok(()) }
            }
            Mapped::Dropped(dropped) => match dropped.reason {
                DropReason::Private => f.write_str("dropped: it is private, and the source says private = \"drop\""),
                DropReason::NotMapped => {
                    f.write_str("dropped: no feed for its project; add the project to the map of `feed`")
                }
            },
            Mapped::Errored(errored) => write!(f, "errored: {}\n    fix: {}", errored.error, errored.fix),
            Mapped::Answered { answer: Answer::Ignored, .. } => f.write_str("ignored: it concerns no bug"),
            Mapped::Answered { answer: Answer::Connected, .. } => f.write_str("connected: a ping or a test"),
        }
    }
}

fn in_words(time: Time) -> String {
    match time.origin {
        TimeOrigin::Tracker => format!("{} UTC", time.when),
        TimeOrigin::Arrival => "the time of arrival".to_owned(),
        TimeOrigin::ArrivalClock => "the time of arrival, because the tracker's is in the future".to_owned(),
    }
}
