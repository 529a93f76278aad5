//! What is said about an item that cannot be mapped, or not as it should: the error, and how to mend it.
//!
//! Goes in: a source and what its mapping looked at. Comes out: sentences for people. They never show what may be a title or a
//! name.

use super::lookup::{Found, Lookup, Scope};
use super::mapping::{UNMATCHED, bounded, bug_of, places};
use super::received::Failure;
use crate::config::Source;
use crate::config::mapping::{Members, Rule};

/// The error and the advice for an item of a kind for which no rule holds.
pub(super) fn no_rule(source: &Source, kind: &str, scope: Scope<'_>) -> (String, String) {
    let (kind, name) = (bounded(kind), &source.name);
    // A rule whose glob fits has an `if`, otherwise it would hold.
    let Some(rule) = source.mapping.rules.iter().find(|rule| rule.glob.matches(&kind)) else {
        let error = format!("no rule of the source is for events of kind \"{kind}\"");
        return (error, format!("add [source.on.\"{kind}\"] or [source.on.\"*\"] to source '{name}'"));
    };
    let tried: Vec<String> = rule.conditions.iter().map(|lookup| lack(lookup, scope)).collect();
    let glob = rule.glob.as_str();
    let error = format!("the rule for \"{glob}\" fits the kind, but its `if` was not found: {}", tried.join("; "));
    (error, format!("change `if` of [source.on.\"{glob}\"], or add [source.on.\"*\"], in source '{name}'"))
}

/// Why a place gives nothing, in words.
fn lack(lookup: &Lookup, scope: Scope<'_>) -> String {
    match (lookup.elsewhere(scope), lookup.find(scope)) {
        (Some(place), _) => format!("{lookup} is not there ({place} is)"),
        (None, Found::Unmatched(_) | Found::Unmatchable(_)) => format!("{lookup} is there, but {UNMATCHED}"),
        (None, _) => format!("{lookup} is not there"),
    }
}

/// The error and the advice for an item that does not say whether it is private.
pub(super) fn no_privacy(source: &Source, members: &Members, scope: Scope<'_>) -> (String, String) {
    let tried: Vec<String> = places(&members.is_private).iter().map(|lookup| lack(lookup, scope)).collect();
    let error = format!("nothing says whether the bug is private: {}", tried.join("; "));
    let last = places(&members.is_private).last().map(Lookup::to_string).unwrap_or_default();
    let fix = format!(
        "change `is_private` of source '{}'; if the tracker leaves it out for public bugs, write is_private = \
         [\"{last}\", \"public\"]",
        source.name
    );
    (error, fix)
}

/// What is said of a date that cannot be read. `None`: there is none.
pub(super) fn date_remark(source: &Source, lookup: &Lookup, found: &Found<'_>) -> Option<Failure> {
    let text = match found {
        Found::Nothing | Found::Now => return None,
        Found::Unmatched(text) => Some(text.clone()),
        found => found.text().map(|text| text.into_owned()),
    };
    let value = text.filter(|text| looks_like_a_date(text)).map(|text| format!(" (\"{text}\")")).unwrap_or_default();
    Some(Failure {
        error: format!("the date at {lookup} cannot be read{value}; the time of arrival counts"),
        fix: format!(
            "tell its form in source '{}', as in when = {{ from = \"{}\", format = \"%d.%m.%Y %H:%M:%S\" }}",
            source.name, lookup.place
        ),
    })
}

/// Whether this may be shown in logs: it is short, and mostly digits. What is not may be a title or a name.
fn looks_like_a_date(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let signs = text.chars().filter(|c| !c.is_whitespace()).count();
    text.chars().count() <= 40 && !text.chars().any(char::is_control) && digits >= 4 && 2 * digits >= signs
}

/// The error and the advice for an item whose bug cannot be found.
pub(super) fn no_bug(source: &Source, rule: &Rule, scope: Scope<'_>) -> (String, String) {
    let told = |lookup: &Lookup| match lookup.find(scope) {
        Found::Nothing | Found::Now | Found::Unmatched(_) | Found::Unmatchable(_) => lack(lookup, scope),
        found => {
            let why = bug_of(&found).err().unwrap_or_default();
            // What is longer may be a title or a name, which must not get into logs.
            let is_harmless = found.text().is_some_and(|text| text.len() <= 20 && !text.contains(' '));
            let value = if is_harmless { format!(" is {}", found.shown()) } else { " is there".to_owned() };
            format!("{lookup}{value}, but {why}")
        }
    };
    let tried: Vec<String> = places(&rule.members.bug).iter().map(told).collect();
    let error = format!("no bug's number was found: {}", tried.join("; "));
    let fix = if source.preset == Some("plain") {
        "each change needs \"bug\", a whole number from 1, as in {\"changes\":[{\"bug\":1234}]}".to_owned()
    } else {
        format!(
            "change `bug` for events of kind \"{}\" in source '{}'; `bugfeed hooks test FILE --source {1}` shows each step",
            rule.glob.as_str(),
            source.name
        )
    };
    (error, fix)
}
