//! How the items of a request become changes: the members of `[[source]]` and `[source.on."GLOB"]` that say so.
//!
//! A source is read in two layers: its preset, if it names one, then the user's own members. What the user writes
//! replaces what the preset says, member by member; for a member that the user writes for the whole source, also what
//! the preset's rules say about it.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use regex_lite::Regex;

use super::error::ConfigError;
use super::feed::{FeedRule, read_feed};
use super::reader::{Fields, Node};
use crate::receive::date::DateFormat;
use crate::receive::lookup::{Glob, Lookup, Place, check_pointer};
use crate::receive::written;

/// How a source's requests become items, and items changes.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// `unwrap = "form:payload"`: the name of the form's field that holds the JSON, where the body is a form.
    pub unwrap: Option<String>,
    /// `ndjson = true`: the body may be one JSON value a line, each of which is an item.
    pub ndjson: bool,
    /// `items`: where the list of items is; the first pointer that leads to something counts. What is there and is no
    /// list is the only item.
    pub items: Vec<String>,
    /// `timezone`: the zone of dates that have none.
    pub timezone: TimeZone,
    /// `id`: the sender's identifier of the delivery.
    pub id: Vec<Lookup>,
    /// `kind`: what sort of event it is; chooses the rule.
    pub kind: Vec<Lookup>,
    /// `action`: what is added to the kind, after a dot.
    pub action: Vec<Lookup>,
    /// `[source.on."GLOB"]`, in the order in which they are tried. There is at least one.
    pub rules: Vec<Rule>,
    /// What is said for the whole source; the rules have taken over what they do not say themselves.
    pub(crate) common: Members,
    /// The members that the user wrote, not the preset, for the source or for a rule.
    pub(crate) own: BTreeSet<&'static str>,
}

/// `[source.on."GLOB"]`: what happens to items of these kinds.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The kinds.
    pub glob: Glob,
    /// `if`: one of these must be found, where there is any; otherwise the next rule is tried.
    pub conditions: Vec<Lookup>,
    /// `answer`: what it is instead of a change.
    pub answer: Option<Answer>,
    /// Where the parts of a change are.
    pub members: Members,
}

/// What an item is that is no change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An event that concerns no bug.
    Ignored,
    /// A ping or a test: it shows that the sender reaches us.
    Connected,
}

/// Where the parts of a change are. `None`: nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// The bug's number; the first place with a usable one counts.
    pub bug: Option<Vec<Lookup>>,
    /// When the bug changed; the first readable date counts, otherwise the time of arrival.
    pub when: Option<Vec<Lookup>>,
    /// The tracker's project.
    pub project: Option<Vec<Lookup>>,
    /// The item is private if any of these says so.
    pub is_private: Option<Vec<Lookup>>,
    /// What, beside bug, time and kind, tells two events apart that have no delivery id. By default the whole item.
    pub identity: Option<Vec<Lookup>>,
    /// Which feed the change goes to.
    pub feed: Option<FeedRule>,
}

impl Default for Mapping {
    fn default() -> Mapping {
        Mapping {
            unwrap: None,
            ndjson: false,
            items: vec![String::new()],
            timezone: TimeZone::UTC,
            id: Vec::new(),
            kind: Vec::new(),
            action: Vec::new(),
            rules: Vec::new(),
            common: Members::default(),
            own: BTreeSet::new(),
        }
    }
}

impl Members {
    /// Reads what a table says, over what is there. Returns the same members alone.
    fn read(&mut self, fields: &mut Fields<'_>) -> Result<Members, ConfigError> {
        let mut said = Members {
            bug: lookups(fields, "bug")?,
            when: lookups(fields, "when")?,
            project: lookups(fields, "project")?,
            is_private: lookups(fields, "is_private")?,
            identity: lookups(fields, "identity")?,
            feed: None,
        };
        if let Some(node) = fields.get("feed") {
            let (feed, from) = read_feed(&node)?;
            said.feed = Some(feed);
            said.project = said.project.or(from);
        }
        let before = std::mem::replace(self, said.clone());
        self.fill_from(&before);
        Ok(said)
    }

    /// The names of what it says something about.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let lists = [
            ("bug", &self.bug),
            ("when", &self.when),
            ("project", &self.project),
            ("is_private", &self.is_private),
            ("identity", &self.identity),
        ];
        lists.into_iter().filter(|(_, list)| list.is_some()).map(|(name, _)| name)
    }

    /// Takes over what this says nothing about.
    fn fill_from(&mut self, other: &Members) {
        fn fill<T: Clone>(mine: &mut Option<T>, other: &Option<T>) {
            if mine.is_none() {
                mine.clone_from(other);
            }
        }
        fill(&mut self.bug, &other.bug);
        fill(&mut self.when, &other.when);
        fill(&mut self.project, &other.project);
        fill(&mut self.is_private, &other.is_private);
        fill(&mut self.identity, &other.identity);
        fill(&mut self.feed, &other.feed);
    }

    /// Forgets what another one says something about.
    fn yield_to(&mut self, other: &Members) {
        fn forget<T>(mine: &mut Option<T>, other: &Option<T>) {
            if other.is_some() {
                *mine = None;
            }
        }
        forget(&mut self.bug, &other.bug);
        forget(&mut self.when, &other.when);
        forget(&mut self.project, &other.project);
        forget(&mut self.is_private, &other.is_private);
        forget(&mut self.identity, &other.identity);
        forget(&mut self.feed, &other.feed);
    }
}

impl Mapping {
    /// Reads one layer, over what is there: a preset's members, then the user's.
    pub(crate) fn read(&mut self, fields: &mut Fields<'_>) -> Result<(), ConfigError> {
        if let Some(node) = fields.get("unwrap") {
            self.unwrap = Some(read_unwrap(&node)?);
        }
        if let Some(node) = fields.get("ndjson") {
            self.ndjson = node.boolean()?;
        }
        if let Some(node) = fields.get("items") {
            self.items = node.list().iter().map(read_pointer).collect::<Result<_, _>>()?;
            if self.items.is_empty() {
                return Err(node.error("the list is empty", "name a JSON Pointer, as in \"/changes\""));
            }
        }
        if let Some(node) = fields.get("timezone") {
            self.timezone = read_zone(&node)?;
        }
        for (name, place) in [("id", &mut self.id), ("kind", &mut self.kind), ("action", &mut self.action)] {
            if let Some(lookups) = lookups(fields, name)? {
                *place = lookups;
                self.own.insert(name);
            }
        }
        let said = self.common.read(fields)?;
        self.own.extend(said.names());
        for rule in &mut self.rules {
            rule.members.yield_to(&said);
        }
        self.read_rules(fields)
    }

    /// A rule with a glob that is there already is changed; others are tried before those that are there.
    fn read_rules(&mut self, fields: &mut Fields<'_>) -> Result<(), ConfigError> {
        let Some(on) = fields.get("on") else { return Ok(()) };
        let mut new = Vec::new();
        for (glob, node) in on.table()?.all() {
            check_glob(glob, &node)?;
            let said = match self.rules.iter_mut().find(|rule| rule.glob.as_str() == glob) {
                Some(rule) => rule.read(&node)?,
                None => {
                    let mut rule = Rule::for_kinds(glob);
                    let said = rule.read(&node)?;
                    new.push(rule);
                    said
                }
            };
            self.own.extend(said.names());
        }
        new.append(&mut self.rules);
        self.rules = new;
        Ok(())
    }

    /// Completes the rules by what is said for the whole source, and checks that each can make a change.
    pub(crate) fn finish(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        if self.rules.is_empty() {
            self.rules.push(Rule::for_kinds("*"));
        }
        for rule in &mut self.rules {
            rule.members.fill_from(&self.common);
            if rule.answer.is_some() {
                continue;
            }
            let name = rule.glob.as_str();
            if rule.members.bug.is_none() {
                let fix = "add, for example, bug = \"/issue/number\", or take a preset";
                return Err(
                    fields.error(format!("nothing says where the bug's number is, for events of kind \"{name}\""), fix)
                );
            }
            let needs_project = matches!(rule.members.feed, Some(FeedRule::Map { .. }));
            if needs_project && rule.members.project.is_none() {
                let fix = "add it to the feed, as in feed = { from = \"/project/name\", map = { … } }";
                return Err(fields.error("the feed depends on the project, and nothing says where the project is", fix));
            }
        }
        Ok(())
    }

    /// All places outside the item that this mapping looks at.
    pub(crate) fn places_outside(&self) -> impl Iterator<Item = &Lookup> {
        let own = self.id.iter().chain(&self.kind).chain(&self.action);
        let rules = self.rules.iter().flat_map(|rule| {
            let members = &rule.members;
            let lists = [&members.bug, &members.when, &members.project, &members.is_private, &members.identity];
            lists.into_iter().flatten().flatten().chain(&rule.conditions)
        });
        own.chain(rules).filter(|lookup| matches!(lookup.place, Place::Header(_) | Place::Root(_)))
    }
}

impl Rule {
    /// A rule that says nothing yet.
    fn for_kinds(glob: &str) -> Rule {
        Rule { glob: Glob::new(glob), conditions: Vec::new(), answer: None, members: Members::default() }
    }

    fn read(&mut self, node: &Node<'_>) -> Result<Members, ConfigError> {
        let mut fields = node.table()?;
        if let Some(conditions) = lookups(&mut fields, "if")? {
            self.conditions = conditions;
        }
        if let Some(node) = fields.get("answer") {
            self.answer = Some(node.one_of(&[("ignored", Answer::Ignored), ("connected", Answer::Connected)])?);
        }
        let said = self.members.read(&mut fields)?;
        if said.bug.is_some() && fields.get("answer").is_none() {
            // A rule of the preset that ignores is changed into one that makes changes.
            self.answer = None;
        }
        fields.finish()?;
        Ok(said)
    }
}

fn check_glob(glob: &str, node: &Node<'_>) -> Result<(), ConfigError> {
    let fix = "\"*\" stands for any text and \"?\" for one character; there are no other signs";
    if glob.is_empty() {
        return Err(node.error("the kind is empty", fix));
    }
    match glob.chars().find(|c| "[]{}\\".contains(*c)) {
        Some(c) => Err(node.error(format!("a kind has no '{c}'"), fix)),
        None => Ok(()),
    }
}

fn read_unwrap(node: &Node<'_>) -> Result<String, ConfigError> {
    match node.text()?.split_once(':') {
        Some(("form", field)) if !field.is_empty() => Ok(field.to_owned()),
        _ => Err(node.error("this is no way to unwrap a body", "write \"form:FIELD\", as in \"form:payload\"")),
    }
}

fn read_pointer(node: &Node<'_>) -> Result<String, ConfigError> {
    refuse_sentence(node)?;
    let text = node.text()?;
    check_pointer(text).map_err(|fix| node.error("this is no JSON Pointer", fix))?;
    Ok(text.to_owned())
}

/// Reads the places of a member. `now` and `format` belong to `when`, `public` belongs to `is_private`.
fn lookups(fields: &mut Fields<'_>, name: &'static str) -> Result<Option<Vec<Lookup>>, ConfigError> {
    let Some(node) = fields.get(name) else { return Ok(None) };
    let lookups = read_lookups(&node)?;
    if name != "is_private" && lookups.iter().any(|lookup| lookup.place == Place::Public) {
        let fix = "it may stand in is_private = [\"/private\", \"public\"] only";
        return Err(node.error("\"public\" is an answer", fix));
    }
    if name == "when" {
        return Ok(Some(lookups));
    }
    if lookups.iter().any(|lookup| lookup.format.is_some()) {
        return Err(node.error("only a time has a format", "leave it out here"));
    }
    if lookups.iter().any(|lookup| lookup.place == Place::Now) {
        return Err(node.error("\"now\" is a time", "it may stand in when = [\"/updated_at\", \"now\"] only"));
    }
    if name == "identity" && lookups.iter().any(|lookup| matches!(lookup.place, Place::Root(_))) {
        // Each item would be compared with the whole body, of which it may be one of hundreds.
        return Err(node.error("an item's identity is in the item", "name places in the item, or headers"));
    }
    Ok(Some(lookups))
}

/// Reads one place or a list: `"/a/b"`, `"header:X"`, `{ from = "/a", match = "^X-([0-9]+)$" }`,
/// `{ from = "/at", format = "%d.%m.%Y %H:%M", timezone = "Europe/Berlin" }`.
pub(crate) fn read_lookups(node: &Node<'_>) -> Result<Vec<Lookup>, ConfigError> {
    let mut lookups = Vec::new();
    for node in node.list() {
        if !node.is_table() {
            let place = read_place(&node)?;
            if !place.is_clear() {
                let fix = format!("if the member is called so, write {{ from = {} }}", written::place(&place));
                return Err(node.error("a place with a blank and a parenthesis is not clear", fix));
            }
            lookups.push(Lookup { place, pattern: None, format: None });
            continue;
        }
        let mut fields = node.table()?;
        let (from, pattern) = (fields.get("from"), fields.get("match"));
        let (format, zone) = (fields.get("format"), fields.get("timezone"));
        fields.finish()?;
        let example = "write { from = \"/issue/key\", match = \"-([0-9]+)$\" }";
        let from = from.ok_or_else(|| node.error("nothing says where to look", example))?;
        let pattern = pattern.map(|node| read_pattern(&node)).transpose()?;
        let format = read_format(format.as_ref(), zone.as_ref())?;
        for place in from.list() {
            lookups.push(Lookup { place: read_place(&place)?, pattern: pattern.clone(), format: format.clone() });
        }
    }
    Ok(lookups)
}

/// Reads the form of a date, and its zone where the form has none.
fn read_format(format: Option<&Node<'_>>, zone: Option<&Node<'_>>) -> Result<Option<DateFormat>, ConfigError> {
    let Some(format) = format else {
        let stray = "this goes with a format";
        let fix =
            "write format = \"%d.%m.%Y %H:%M\" beside it; for all dates without a zone, write timezone in the source";
        return zone.map_or(Ok(None), |zone| Err(zone.error(stray, fix)));
    };
    let zone = zone.map(read_zone).transpose()?;
    let fix = "write it as in \"%d.%m.%Y %H:%M:%S %z\"; year, month and day are needed";
    let format = DateFormat::new(format.text()?, zone)
        .map_err(|why| format.error(format!("this is no form of a date: {why}"), fix))?;
    Ok(Some(format))
}

fn read_zone(node: &Node<'_>) -> Result<TimeZone, ConfigError> {
    let problem = "this is no time zone that this machine knows";
    let fix = "use a name such as \"UTC\" or \"Europe/Berlin\"";
    TimeZone::get(node.text()?).map_err(|_| node.error(problem, fix))
}

fn read_place(node: &Node<'_>) -> Result<Place, ConfigError> {
    refuse_sentence(node)?;
    Place::parse(node.text()?).map_err(|fix| node.error("this is no place in a request", fix))
}

/// Refuses `/v (match x)`, which is how a sentence shows a place with a pattern. As a place it would be a member of that
/// name, which nobody sends.
fn refuse_sentence(node: &Node<'_>) -> Result<(), ConfigError> {
    let text = node.text()?;
    for word in ["match", "format"] {
        let Some((from, rest)) = text.split_once(&format!(" ({word} ")) else { continue };
        let value = written::text(rest.strip_suffix(')').unwrap_or(rest));
        let fix = format!("write {{ from = {}, {word} = {value} }}", written::text(from));
        return Err(node.error("this is no place in a request, but the words for one", fix));
    }
    Ok(())
}

fn read_pattern(node: &Node<'_>) -> Result<Regex, ConfigError> {
    let fix = "the syntax is that of the regex crate; the first group in parentheses is what counts";
    Regex::new(node.text()?).map_err(|error| node.error(format!("this is no regular expression: {error}"), fix))
}
