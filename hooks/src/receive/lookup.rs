//! Where a value is looked for: a JSON Pointer, a header, or the time of arrival, with a pattern if only a part counts.
//!
//! Goes in: the text of the configuration, then a request. Comes out: the value that was found. It never decides what a
//! value means.

use std::borrow::Cow;
use std::fmt;

use regex_lite::Regex;
use serde_json::Value;

use super::date::DateFormat;

/// A pattern (`match`) and a kind are compared with at most this many bytes, so that a huge text costs no time.
pub(crate) const LONGEST_TEXT: usize = 4096;

/// The headers of a request, by name in any case.
pub trait Headers {
    /// The first header of this name, if it is text.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Headers for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Headers for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<&str> {
        Headers::get(self.as_slice(), name)
    }
}

/// Where a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `/issue/number`: a JSON Pointer (RFC 6901) into the item. The empty text is the item itself.
    Pointer(String),
    /// `root:/project/name`: a JSON Pointer into the whole body, of which the item is an element.
    Root(String),
    /// `header:X-GitHub-Event`.
    Header(String),
    /// `now`: the time of arrival.
    Now,
    /// `public`: the answer to `is_private` where nothing else is there.
    Public,
}

impl Place {
    /// Whether it can be taken for nothing else where it stands alone. A text such as `/v (match x)` has been copied from a
    /// sentence.
    pub(crate) fn is_clear(&self) -> bool {
        !matches!(self, Place::Pointer(pointer) | Place::Root(pointer) if pointer.contains(" ("))
    }

    /// Reads the form that stands in the configuration. The error says what is allowed.
    pub fn parse(text: &str) -> Result<Place, &'static str> {
        if text == "now" {
            return Ok(Place::Now);
        }
        if text == "public" {
            return Ok(Place::Public);
        }
        if let Some(name) = text.strip_prefix("header:") {
            return if is_header_name(name) {
                Ok(Place::Header(name.to_owned()))
            } else {
                Err("after header: comes the name of a header, as in \"header:X-GitHub-Event\"")
            };
        }
        match text.strip_prefix("root:") {
            Some(pointer) => check_pointer(pointer).map(|()| Place::Root(pointer.to_owned())),
            None => check_pointer(text).map(|()| Place::Pointer(text.to_owned())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Pointer(pointer) if pointer.is_empty() => f.write_str("(the item itself)"),
            Place::Pointer(pointer) => f.write_str(pointer),
            Place::Root(pointer) => write!(f, "root:{pointer}"),
            Place::Header(name) => write!(f, "header:{name}"),
            Place::Now => f.write_str("now"),
            Place::Public => f.write_str("public"),
        }
    }
}

/// Whether this is the name of a header (a token of RFC 9110).
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Checks the syntax of a JSON Pointer.
pub(crate) fn check_pointer(text: &str) -> Result<(), &'static str> {
    if !text.is_empty() && !text.starts_with('/') {
        return Err("a JSON Pointer begins with \"/\", as in \"/issue/number\"; a header is written \"header:NAME\"");
    }
    let mut after_tilde = text.split('~').skip(1);
    if after_tilde.any(|rest| !rest.starts_with(['0', '1'])) {
        return Err("in a JSON Pointer \"~\" is written \"~0\", and a \"/\" within a name \"~1\"");
    }
    Ok(())
}

/// A place, and which part of the text there counts.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Where the value is.
    pub place: Place,
    /// The first group of the pattern counts, or all that matches where it has no group. Without a match, nothing is
    /// found.
    pub pattern: Option<Regex>,
    /// The form of a date, where it is not one that is known anyway; in `when` only.
    pub format: Option<DateFormat>,
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        match &self.pattern {
            Some(pattern) => write!(f, " (match {})", pattern.as_str()),
            None => Ok(()),
        }?;
        match &self.format {
            Some(format) => write!(f, " (format {format})"),
            None => Ok(()),
        }
    }
}

/// What can be looked into.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) headers: &'a dyn Headers,
    /// The whole body. `None` when a kept item is mapped again: what was found there is then among the headers.
    pub(crate) root: Option<&'a Value>,
    pub(crate) item: &'a Value,
}

/// What is at a place.
#[derive(Clone, Debug)]
pub(crate) enum Found<'a> {
    Nothing,
    Now,
    /// A part of a JSON document.
    Json(Cow<'a, Value>),
    /// A header's text, or what a pattern found.
    Text(Cow<'a, str>),
    /// There is a text, but the pattern does not match it.
    Unmatched(String),
    /// There is something that no pattern is compared with; why.
    Unmatchable(String),
}

impl Lookup {
    /// Looks. JSON's `null` is nothing.
    pub(crate) fn find<'a>(&self, scope: Scope<'a>) -> Found<'a> {
        let json = |value: &'a Value| if value.is_null() { Found::Nothing } else { Found::Json(Cow::Borrowed(value)) };
        let found = match (&self.place, scope.root) {
            (Place::Now, _) => Found::Now,
            (Place::Public, _) => Found::Text(Cow::Borrowed("public")),
            (Place::Header(name), _) => match scope.headers.get(name) {
                Some(text) if !text.is_empty() => Found::Text(Cow::Borrowed(text)),
                _ => Found::Nothing,
            },
            (Place::Pointer(pointer), _) => scope.item.pointer(pointer).map_or(Found::Nothing, json),
            (Place::Root(pointer), Some(root)) => root.pointer(pointer).map_or(Found::Nothing, json),
            (Place::Root(_), None) => {
                let kept = scope.headers.get(&self.place.to_string());
                let value = kept.and_then(|text| serde_json::from_str(text).ok());
                value.map_or(Found::Nothing, |value| Found::Json(Cow::Owned(value)))
            }
        };
        match &self.pattern {
            None => found,
            Some(pattern) => matched(pattern, &found),
        }
    }
}

impl Lookup {
    /// Whether the sender says anything at this place; `null` and an empty header are something. `now` and `public` are
    /// always there.
    pub(crate) fn is_there(&self, scope: Scope<'_>) -> bool {
        match (&self.place, scope.root) {
            (Place::Pointer(pointer), _) => scope.item.pointer(pointer).is_some(),
            (Place::Root(pointer), Some(root)) => root.pointer(pointer).is_some(),
            (Place::Root(_), None) => scope.headers.get(&self.place.to_string()).is_some(),
            (Place::Header(name), _) => scope.headers.get(name).is_some(),
            (Place::Now | Place::Public, _) => true,
        }
    }

    /// The place where it would be found: a pointer into the item that leads to something in the whole body.
    pub(crate) fn elsewhere(&self, scope: Scope<'_>) -> Option<Place> {
        let (Place::Pointer(pointer), Some(root)) = (&self.place, scope.root) else { return None };
        let is_elsewhere = !pointer.is_empty() && scope.item.pointer(pointer).is_none();
        let found = root.pointer(pointer).filter(|value| is_elsewhere && !value.is_null());
        found.map(|_| Place::Root(pointer.clone()))
    }
}

/// What the pattern finds in the text of a value.
fn matched<'a>(pattern: &Regex, found: &Found<'a>) -> Found<'a> {
    let text = match found {
        Found::Nothing => return Found::Nothing,
        found => found.text(),
    };
    let Some(text) = text else { return Found::Unmatchable("what is no text".to_owned()) };
    if text.len() > LONGEST_TEXT {
        return Found::Unmatchable(format!(
            "a text of {} bytes, of which at most {LONGEST_TEXT} are matched",
            text.len()
        ));
    }
    let part = pattern.captures(&text).and_then(|groups| groups.get(1).or_else(|| groups.get(0)));
    match part {
        Some(part) => Found::Text(Cow::Owned(part.as_str().to_owned())),
        None => Found::Unmatched(text.into_owned()),
    }
}

/// The text of a text, a number or a boolean.
pub(crate) fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(boolean) => Some(Cow::Owned(boolean.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl Found<'_> {
    /// The text of a text, number or boolean.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Found::Json(value) => text_of(value),
            Found::Text(text) => Some(Cow::Borrowed(text)),
            Found::Nothing | Found::Now | Found::Unmatched(_) | Found::Unmatchable(_) => None,
        }
    }

    /// How it is shown to a person: short, and on one line.
    pub(crate) fn shown(&self) -> String {
        match self {
            Found::Nothing => "nothing".to_owned(),
            Found::Now => "the time of arrival".to_owned(),
            Found::Text(text) => format!("\"{}\"", short(text)),
            Found::Unmatched(text) => format!("\"{}\"", short(text)),
            Found::Unmatchable(what) => what.clone(),
            Found::Json(value) => match &**value {
                Value::Array(list) => format!("a list of {}", list.len()),
                Value::Object(members) => {
                    let names: Vec<&str> = members.keys().take(8).map(String::as_str).collect();
                    short(&format!("an object with {}", names.join(", ")))
                }
                Value::String(text) => format!("\"{}\"", short(text)),
                value => short(&value.to_string()),
            },
        }
    }
}

/// The beginning of a text, without control characters.
pub(crate) fn short(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(60).map(clean).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

/// A pattern in which `*` stands for any text and `?` for any character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Any text is a pattern.
    pub fn new(text: &str) -> Glob {
        Glob(text.to_owned())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for one text only.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether the whole text fits. Takes at most the product of both lengths in time; case counts.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text): (Vec<char>, Vec<char>) = (self.0.chars().collect(), text.chars().collect());
        let (mut p, mut t) = (0, 0);
        // Where the last `*` was, and up to where in the text it reaches so far.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match (pattern.get(p), star) {
                (Some('*'), _) => {
                    star = Some((p, t));
                    p += 1;
                }
                (Some(c), _) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
                (_, Some((at, reach))) => {
                    star = Some((at, reach + 1));
                    (p, t) = (at + 1, reach + 1);
                }
                (_, None) => return false,
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "issues.opened", true),
            ("issue*", "issue", true),
            ("issue*", "issue_comment.created", true),
            ("issue*", "an issue", false),
            ("*.deleted", "issues.deleted", true),
            ("*.deleted", "issues.deleted.not", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a?c", "aéc", true),
            ("", "", true),
            ("", "x", false),
            ("Issue", "issue", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), want, "{pattern} {text}");
        }
        let many = "a*".repeat(30) + "b";
        assert!(!Glob::new(&many).matches(&"a".repeat(LONGEST_TEXT)), "in reasonable time");
    }

    #[test]
    fn an_empty_header_is_none() {
        let lookup = Lookup { place: Place::Header("X-A".to_owned()), pattern: None, format: None };
        let find = |value: &str| {
            let headers = vec![("x-a".to_owned(), value.to_owned())];
            matches!(lookup.find(Scope { headers: &headers, root: None, item: &Value::Null }), Found::Text(_))
        };
        assert_eq!((find(""), find("x")), (false, true));
    }

    #[test]
    fn places_are_checked() {
        assert_eq!(Place::parse("/a~1b/0"), Ok(Place::Pointer("/a~1b/0".to_owned())));
        assert_eq!(Place::parse(""), Ok(Place::Pointer(String::new())));
        assert_eq!(Place::parse("now"), Ok(Place::Now));
        assert_eq!(Place::parse("public"), Ok(Place::Public));
        for bad in ["issue/number", "/a~", "/a~2", "header:", "header:a b", "root:x", "NOW"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
