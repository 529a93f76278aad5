//! What is said about an item that cannot be mapped, or not as it should: the error, and how to mend it.
//!
//! Goes in: a source and what its mapping looked at. Comes out: sentences for people. They never show what may be a title or a
//! name.

use super::date;
use super::lookup::{Found, Lookup, Place, Scope};
use super::mapping::{UNMATCHED, bounded, bug_of, places};
use super::received::Failure;
use super::written;
use crate::config::Source;
use crate::config::mapping::{Members, Rule};

/// The error and the advice for an item of a kind for which no rule holds.
pub(super) fn no_rule(source: &Source, kind: &str, scope: Scope<'_>) -> (String, String) {
    let (kind, name) = (bounded(kind), &source.name);
    let new = glob_of(&kind);
    // A rule whose glob fits has an `if`, otherwise it would hold.
    let Some(rule) = source.mapping.rules.iter().find(|rule| rule.glob.matches(&kind)) else {
        let error = format!("no rule of the source is for events of kind \"{kind}\"");
        return (error, format!("add [source.on.{new}] or [source.on.\"*\"] to source '{name}'"));
    };
    let tried: Vec<String> = rule.conditions.iter().map(|lookup| lack(lookup, scope)).collect();
    let glob = rule.glob.as_str();
    let error = format!("the rule for \"{glob}\" fits the kind, but its `if` was not found: {}", tried.join("; "));
    let written = written::text(glob);
    (error, format!("change `if` of [source.on.{written}], or add [source.on.\"*\"], in source '{name}'"))
}

/// A kind as the glob of a rule, as it is written in the configuration. Signs that no glob may have, `?` stands for.
fn glob_of(kind: &str) -> String {
    if kind.is_empty() {
        return "\"*\"".to_owned();
    }
    written::text(&kind.replace(|c: char| "[]{}\\".contains(c) || c.is_control(), "?"))
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
    let mut lookups = places(&members.is_private).to_vec();
    let mut is_elsewhere = false;
    for lookup in &mut lookups {
        if let Some(place) = lookup.elsewhere(scope) {
            (lookup.place, is_elsewhere) = (place, true);
        }
    }
    if is_elsewhere {
        let rule = written::member("is_private", &lookups);
        return (error, format!("it stands beside the items; in source '{}', write {rule}", source.name));
    }
    lookups.push(Lookup { place: Place::Public, pattern: None, format: None });
    let rule = written::member("is_private", &lookups);
    let fix = format!(
        "correct the place in `is_private` of source '{}'; only if the tracker leaves it out for public bugs, write {rule}",
        source.name
    );
    (error, fix)
}

/// What is said of a date that cannot be read. `None`: there is none.
///
/// `index`: which of `lookups`, the places of `when`.
pub(super) fn date_remark(source: &Source, lookups: &[Lookup], index: usize, scope: Scope<'_>) -> Option<Failure> {
    let lookup = lookups.get(index)?;
    let found = lookup.find(scope);
    if matches!(found, Found::Nothing | Found::Now) {
        return None;
    }
    let (whole, part) = (as_sent(&Lookup { pattern: None, ..lookup.clone() }.find(scope)), as_sent(&found));
    let value = match (&whole, &part) {
        (Some(whole), Some(part)) if whole != part => format!(" (of \"{whole}\", \"{part}\")"),
        (Some(whole), _) => format!(" (\"{whole}\")"),
        (None, _) => String::new(),
    };
    Some(Failure {
        error: format!("the date at {lookup} cannot be read{value}; the time of arrival counts"),
        fix: date_fix(source, lookups, index, &found),
    })
}

/// The text of a date as the sender wrote it, if it may be shown. A number that is no whole one is not read as it was
/// written.
fn as_sent(found: &Found<'_>) -> Option<String> {
    let text = match found {
        Found::Json(value) if value.is_f64() => None,
        Found::Unmatched(text) => Some(text.clone()),
        found => found.text().map(|text| text.into_owned()),
    };
    text.filter(|text| looks_like_a_date(text))
}

fn date_fix(source: &Source, lookups: &[Lookup], index: usize, found: &Found<'_>) -> String {
    let name = &source.name;
    let is_number = matches!(found, Found::Json(value) if value.is_number());
    let text = found.text().unwrap_or_default();
    let has_its_form = lookups[index].format.as_ref().is_some_and(|format| format.fits(&text));
    if is_number || has_its_form || date::is_out_of_range(&text) {
        return format!(
            "no setting mends it: the sender must write a day that exists, from 1970 to 2199; or name another place in \
             `when` of source '{name}'"
        );
    }
    if matches!(found, Found::Unmatched(_)) {
        return format!("change `match` in `when` of source '{name}', so that it finds the date");
    }
    let (form, is_known) = match date::form_of(&text) {
        Some(form) => (Some(form), true),
        None => (date::DateFormat::new("%d.%m.%Y %H:%M:%S", None).ok(), false),
    };
    let mut all = lookups.to_vec();
    all.insert(index + 1, Lookup { format: form, ..lookups[index].clone() });
    let rule = written::member("when", &all);
    if is_known {
        format!("tell its form; in source '{name}', write {rule}")
    } else {
        format!("tell its form in source '{name}', as in {rule}, with the signs of strptime")
    }
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
            "change `bug` for events of kind \"{}\" in source '{}'; `bugfeed requests show REQUEST --http >FILE` and then \
             `bugfeed hooks test FILE --source {1} --config CONFIG` show each step",
            rule.glob.as_str(),
            source.name
        )
    };
    (error, fix)
}
