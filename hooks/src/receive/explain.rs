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
    /// Members of which nothing was found in any item, although the user wrote them, or because the file has no headers.
    pub absent: Vec<Absent>,
    /// What is probably not meant so, in words.
    pub hints: Vec<String>,
}

/// A member of the configuration of which nothing was found in any item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The member, such as `project`.
    pub member: &'static str,
    /// The places, and what is there.
    pub places: Vec<String>,
    /// What follows from it.
    pub consequence: String,
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
    /// Whether each item became a change, or was ignored on purpose, and what the user wrote was found. (`action` may be
    /// absent: not every event has one.)
    pub fn is_good(&self) -> bool {
        let good = |item: &ExplainedItem| !matches!(item.outcome, Mapped::Errored(_));
        let is_found = self.absent.iter().all(|absent| absent.member == "action");
        is_found && self.items.as_ref().is_ok_and(|items| items.iter().all(good))
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
        absent: absent(source, &items, captured),
        hints: unknown_privacy(&items).into_iter().collect(),
        items: mapped.map(|()| items),
    }
}

/// The members of which nothing was found, although they were looked for.
fn absent(source: &Source, items: &[ExplainedItem], captured: &Captured) -> Vec<Absent> {
    let mut found = Vec::new();
    for member in ["id", "kind", "action", "project", "is_private", "when"] {
        let all = || items.iter().flat_map(|item| &item.steps).filter(|step| step.member == member);
        let constant = all().find(|step| is_constant(step)).map(|step| step.place.as_str());
        let steps = || all().filter(|step| !is_constant(step));
        if steps().next().is_none() || steps().any(|step| step.used.is_some()) {
            continue;
        }
        let lacks_headers = captured.path.is_none() && steps().any(|step| step.place.starts_with("header:"));
        let is_own = source.mapping.own.contains(member);
        if is_own || (lacks_headers && member != "id") {
            let mut places: Vec<String> = steps().map(|step| format!("{} → {}", step.place, step.found)).collect();
            places.sort_unstable();
            places.dedup();
            found.push(Absent { member, places, consequence: consequence(member, constant, lacks_headers) });
        }
    }
    found
}

/// Whether this is no look at the request: `now` and `public` are always there.
fn is_constant(step: &Step) -> bool {
    step.place == "now" || step.place == "public"
}

/// What follows from a member that was found in no item.
fn consequence(member: &str, constant: Option<&str>, lacks_headers: bool) -> String {
    let then = match member {
        "id" => "a repeat is then known only if it has the same content and a date",
        "kind" => "then only rules such as \"*\" fit",
        "project" => "then the feed cannot depend on it",
        "when" => "then the time of arrival counts",
        "is_private" => "then nobody knows which bugs are private",
        _ => "not every event has to have one",
    };
    if lacks_headers {
        let how = "`bugfeed requests show REQUEST --http >FILE` writes a request with its headers";
        return format!("{then}; the file is a body alone, and this is in a header: {how}");
    }
    match constant {
        Some(constant) => {
            format!("only the constant \"{constant}\" was found, so this file does not show whether the place is right")
        }
        None => then.to_owned(),
    }
}

/// The place and the text by which an item is private, if the text is not known to say so.
fn unknown_word(item: &ExplainedItem) -> Option<(&str, &str)> {
    const PRIVATE: [&str; 6] = ["true", "1", "yes", "y", "on", "private"];
    let says_so = |step: &&Step| step.member == "is_private" && step.used == Some(Ok("private".to_owned()));
    let step = item.steps.iter().find(says_so)?;
    let word = step.found.strip_prefix('"')?.strip_suffix('"')?;
    let is_unknown = !step.place.contains(" (match ") && !PRIVATE.contains(&word.to_ascii_lowercase().as_str());
    is_unknown.then_some((step.place.as_str(), word))
}

/// A hint, if all items are private, and each one because of a text that is not known to say so, such as "N".
fn unknown_privacy(items: &[ExplainedItem]) -> Option<String> {
    let words: Option<Vec<_>> = items.iter().map(unknown_word).collect();
    let (place, word) = words?.first().copied()?;
    // No rule is shown: which texts are private is not known here, and a wrong pattern would announce them.
    Some(format!(
        "every item is private, because \"{word}\" at {place} is none of the texts that mean public; if it does mean \
         public, `is_private` needs a `match` that finds each text that means private"
    ))
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
        }?;
        self.absent.iter().try_for_each(|absent| {
            let (member, places) = (absent.member, absent.places.join("; "));
            writeln!(f, "✗ `{member}` was found in no item ({places}): {}", absent.consequence)
        })?;
        self.hints.iter().try_for_each(|hint| writeln!(f, "hint: {hint}"))
    }
}

/// An outcome in words.
struct Outcome<'a>(&'a Mapped);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Mapped::Item(item) => {
                write!(f, "bug {} changed at {}, feed {}", item.bug, in_words(item.time), item.feed)?;
                if item.is_private {
                    f.write_str("; private, but announced")?;
                }
                match &item.unreadable {
                    Some(remark) => write!(f, "\n    note: {}\n    fix: {}", remark.error, remark.fix),
                    None => Ok(()),
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;
    use crate::receive::capture;

    /// Whether the explanation is good, and its lines about what was not found.
    fn explained(members: &str, body: &str) -> (bool, Vec<String>) {
        let text = format!("[[source]]\nname = \"x\"\n{members}\n");
        let config = HooksConfig::read("x", &text, &|_| Err(String::new())).unwrap();
        let now = When::from_micros(1_795_694_400_000_000).unwrap();
        let explanation = explain(&config.sources[0], &capture::read(body.as_bytes()), now);
        let text = explanation.to_string();
        let lines = text.lines().filter(|line| line.starts_with('✗')).map(str::to_owned).collect();
        (explanation.is_good(), lines)
    }

    #[test]
    fn what_the_user_wrote_and_is_nowhere_is_told() {
        let body = r#"{"delivery": "d", "items": [{"bug": 1}, {"bug": 2, "team": "red"}]}"#;
        let items = "items = \"/items\"\nbug = \"/bug\"\n";
        assert_eq!(explained(items, body), (true, vec![]));
        let (is_good, lines) = explained(&format!("{items}id = \"/delivery\""), body);
        let want = "✗ `id` was found in no item (/delivery → nothing in the item; the whole body has it: write \
                    \"root:/delivery\"): a repeat is then known only if it has the same content and a date";
        assert_eq!((is_good, lines.as_slice()), (false, &[want.to_owned()][..]));
        assert_eq!(explained(&format!("{items}id = \"root:/delivery\"\nproject = \"/team\""), body), (true, vec![]));
        for member in ["kind", "project", "when", "is_private"] {
            let (is_good, lines) = explained(&format!("{items}private = \"announce\"\n{member} = \"/none\""), body);
            assert!(!is_good && lines[0].starts_with(&format!("✗ `{member}` was found in no item (/none → nothing)")));
        }
        let (is_good, lines) = explained(&format!("{items}action = \"/none\""), body);
        assert!(is_good && lines.len() == 1, "not every event has one: {lines:?}");
        let (is_good, _) = explained(&format!("{items}is_private = \"/hiden\""), body);
        assert!(!is_good, "such items are errored");
        // What a preset says need not be there.
        assert_eq!(explained("preset = \"plain\"", "{\"bug\": 1}"), (true, vec![]));
    }

    #[test]
    fn the_constant_alone_is_no_answer_to_what_the_user_wrote() {
        let private = |rule: &str, body: &str| explained(&format!("bug = \"/bug\"\nis_private = {rule}"), body);
        let (is_good, lines) = private("[\"/hiden\", \"public\"]", "{\"bug\": 1, \"hidden\": true}");
        let want = "✗ `is_private` was found in no item (/hiden → nothing): only the constant \"public\" was found";
        assert!(!is_good && lines.len() == 1 && lines[0].starts_with(want), "{lines:?}");
        assert_eq!(private("[\"/hidden\", \"public\"]", "{\"bug\": 1, \"hidden\": null}"), (true, vec![]));
        assert_eq!(private("\"public\"", "{\"bug\": 1}"), (true, vec![]), "nothing else was written");
        let (is_good, lines) = explained("bug = \"/bug\"\nwhen = [\"/none\", \"now\"]", "{\"bug\": 1}");
        assert!(!is_good && lines[0].contains("only the constant \"now\""), "{lines:?}");
    }

    #[test]
    fn all_private_by_an_unknown_word_is_a_hint() {
        let lines = |rule: &str, body: &str| {
            let (is_good, _) = explained(&format!("items = \"/i\"\nbug = \"/bug\"\nis_private = {rule}"), body);
            let text = format!("[[source]]\nname = \"x\"\nitems = \"/i\"\nbug = \"/bug\"\nis_private = {rule}\n");
            let config = HooksConfig::read("x", &text, &|_| Err(String::new())).unwrap();
            let shown = explain(&config.sources[0], &capture::read(body.as_bytes()), When::MIN).to_string();
            let hint = shown.lines().find(|line| line.starts_with("hint: ")).map(str::to_owned);
            (is_good, hint.unwrap_or_default())
        };
        let (is_good, hint) = lines("\"/p\"", r#"{"i": [{"bug": 1, "p": "N"}, {"bug": 2, "p": "N"}]}"#);
        assert!(is_good && hint.contains("\"N\"") && hint.contains("match"), "{hint}");
        for body in [r#"{"i": [{"bug": 1, "p": "N"}, {"bug": 2, "p": "no"}]}"#, r#"{"i": [{"bug": 1, "p": true}]}"#] {
            assert_eq!(lines("\"/p\"", body).1, "", "{body}");
        }
        assert_eq!(lines("{ from = \"/p\", match = \"N\" }", r#"{"i": [{"bug": 1, "p": "N"}]}"#).1, "");
    }

    #[test]
    fn a_header_that_the_file_does_not_have_is_told() {
        let github = "preset = \"github\"\nsecret = \"s\"";
        let body = r#"{"action": "opened", "issue": {"number": 1}, "repository": {"private": false}}"#;
        let (is_good, lines) = explained(github, body);
        assert!(!is_good && lines.iter().any(|line| line.contains("X-GitHub-Event")), "{lines:?}");
        assert!(
            lines.iter().all(|line| !line.contains("X-GitHub-Delivery")),
            "only what decides the result: {lines:?}"
        );
        let whole = format!("POST /hooks/x HTTP/1.1\r\nX-GitHub-Event: issues\r\n\r\n{body}");
        assert!(explained(github, &whole).1.is_empty());
    }
}
