//! Bodies in the form that a chat understands.
//!
//! Goes in: the name of a chat or a JSON text with placeholders, and what is to be said. Comes out: a JSON text. Of a backlog
//! the first [`MOST_SINGLE`] changes are messages of their own; then one says how many more there are. A gap is one message
//! in words. What is put into the JSON is escaped, so a template can be filled, never changed in its form.
//!
//! Placeholders: `{bug}`, `{when}`, `{url}`, `{feed}`, and `{text}`, which is the whole message in words. Where a message is
//! not about one bug, its words take the place of `{text}`; in a template without `{text}`, they take the place of the first
//! text that has a placeholder, and the placeholders of other texts are left empty.

use bugfeed_protocol::Change;
use serde_json::Value;

/// The longest template, in bytes.
pub const LONGEST_TEMPLATE: usize = 8_192;
/// A template has at most so many placeholders.
pub const MOST_PLACEHOLDERS: usize = 50;
/// Of a backlog so many changes are messages of their own.
pub const MOST_SINGLE: usize = 10;
/// The longest pattern of a link, in bytes.
pub const LONGEST_LINK: usize = 500;

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// Too long.
    #[error("the template has {0} bytes; at most {LONGEST_TEMPLATE} are allowed")]
    TooLong(usize),
    /// No JSON.
    #[error(
        "the template is no JSON (line {0}, column {1}); a placeholder stands within a text, as in \"Bug {{bug}}\""
    )]
    NoJson(usize, usize),
    /// JSON, but no object.
    #[error("the template must be an object, as in {{\"text\":\"{{text}}\"}}")]
    NoObject,
    /// An unknown placeholder.
    #[error("the placeholder {{{0}}} is unknown; allowed are {{bug}}, {{when}}, {{url}}, {{feed}} and {{text}}")]
    Unknown(String),
    /// A placeholder in the name of a member.
    #[error("the name of a member holds a placeholder; they are allowed in values only")]
    InName,
    /// None.
    #[error("the template has no placeholder; allowed are {{bug}}, {{when}}, {{url}}, {{feed}} and {{text}}")]
    NoPlaceholder,
    /// Too many.
    #[error("the template has more than {MOST_PLACEHOLDERS} placeholders")]
    TooMany,
    /// The pattern of a link.
    #[error("a link is an http or https URL of at most {LONGEST_LINK} bytes that holds {{bug}}")]
    Link,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// A change.
    Change(Change),
    /// So many more changes, beyond those that were told one by one.
    More(usize),
    /// Changes may be missing.
    Gap,
    /// Somebody tries the endpoint out.
    Test,
}

/// How many of a backlog's changes are told one by one, and how many the last message counts.
pub fn split(changes: usize) -> (usize, usize) {
    let single = changes.min(MOST_SINGLE);
    (single, changes - single)
}

/// The URL of a bug's page, with `{bug}` where the number stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link(String);

impl Link {
    /// Reads a pattern such as `https://bugs.example.org/show_bug.cgi?id={bug}`.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(pattern: &str) -> Result<Link, BadTemplate> {
        let is_url = url::Url::parse(pattern).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
        let is_plain = pattern.chars().all(|c| !c.is_whitespace() && !c.is_control());
        let fits = is_url && is_plain && pattern.len() <= LONGEST_LINK && pattern.contains("{bug}");
        fits.then(|| Link(pattern.to_owned())).ok_or(BadTemplate::Link)
    }

    fn of(&self, change: Change) -> String {
        self.0.replace("{bug}", &change.bug.to_string())
    }
}

/// A body with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// For a message about a bug.
    change: Vec<Piece>,
    /// For another one.
    words: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// JSON, as it is.
    Json(String),
    Bug,
    When,
    Url,
    Feed,
    Text,
    /// Left empty.
    Nothing,
}

impl Template {
    /// The body that a chat's incoming webhooks take: `slack`, `mattermost`, `matrix`, `teams` or `discord`.
    pub fn named(name: &str) -> Option<Template> {
        let text = match name {
            "slack" | "mattermost" => r#"{"text":"{text}"}"#,
            // `text` is for bridges such as hookshot, the others for a room's own API.
            "matrix" => r#"{"text":"{text}","msgtype":"m.notice","body":"{text}"}"#,
            // Nobody is to be called by a name that happens to stand in the message.
            "discord" => r#"{"content":"{text}","allowed_mentions":{"parse":[]}}"#,
            "teams" => {
                r#"{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.adaptive",
                "content":{"type":"AdaptiveCard","$schema":"http://adaptivecards.io/schemas/adaptive-card.json",
                "version":"1.4","body":[{"type":"TextBlock","wrap":true,"text":"{text}"}]}}]}"#
            }
            _ => return None,
        };
        Template::parse(text).ok()
    }

    /// Reads a JSON object with placeholders in its texts.
    ///
    /// # Errors
    /// If it is none, or beyond the bounds.
    pub fn parse(text: &str) -> Result<Template, BadTemplate> {
        if text.len() > LONGEST_TEMPLATE {
            return Err(BadTemplate::TooLong(text.len()));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| BadTemplate::NoJson(error.line(), error.column()))?;
        if !value.is_object() {
            return Err(BadTemplate::NoObject);
        }
        let mut found = Found::default();
        look(&value, &mut found)?;
        match found.number {
            0 => return Err(BadTemplate::NoPlaceholder),
            1..=MOST_PLACEHOLDERS => {}
            _ => return Err(BadTemplate::TooMany),
        }
        let change = compile(&value);
        let mut words = value;
        let mut needs_words = !found.has_text;
        put_words(&mut words, &mut needs_words);
        let mut words = compile(&words);
        for piece in &mut words {
            if matches!(piece, Piece::Bug | Piece::When | Piece::Url) {
                *piece = Piece::Nothing;
            }
        }
        Ok(Template { change, words })
    }

    /// The body of a message. `link`: the pattern of the feed's bugs, if it is known; without one, `{url}` is empty.
    pub fn body(&self, feed: &str, say: Say, link: Option<&Link>) -> Vec<u8> {
        let (url, text) = match say {
            Say::Change(change) => {
                let url = link.map(|link| link.of(change)).unwrap_or_default();
                let text = match url.as_str() {
                    "" => format!("Bug {} changed at {} UTC ({feed})", change.bug, people(change)),
                    url => format!("Bug {} changed at {} UTC: {url}", change.bug, people(change)),
                };
                (url, text)
            }
            Say::More(1) => (String::new(), format!("1 more bug of {feed} changed")),
            Say::More(number) => (String::new(), format!("{number} more bugs of {feed} changed")),
            Say::Gap => (String::new(), format!("Changes of {feed} may be missing: treat all its bugs as changed")),
            Say::Test => (String::new(), format!("A test by bugfeed: changes of {feed} will be told here")),
        };
        let (pieces, change) = match say {
            Say::Change(change) => (&self.change, Some(change)),
            _ => (&self.words, None),
        };
        let mut body = Vec::with_capacity(256);
        for piece in pieces {
            match (piece, change) {
                (Piece::Json(json), _) => body.extend_from_slice(json.as_bytes()),
                (Piece::Bug, Some(change)) => write_within(&mut body, &change.bug.to_string()),
                (Piece::When, Some(change)) => write_within(&mut body, &change.when.to_string()),
                (Piece::Url, _) => write_within(&mut body, &url),
                (Piece::Feed, _) => write_within(&mut body, feed),
                (Piece::Text, _) => write_within(&mut body, &text),
                (Piece::Bug | Piece::When, None) | (Piece::Nothing, _) => {}
            }
        }
        body
    }
}

/// A change's time as people write it, to the second.
fn people(change: Change) -> String {
    let text = change.when.to_string().replace('T', " ");
    text.split('.').next().unwrap_or_default().to_owned()
}

/// Appends to a text of JSON that has been begun.
fn write_within(body: &mut Vec<u8>, text: &str) {
    let quoted = serde_json::to_string(text).expect("a text always serialises");
    body.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
}

#[derive(Default)]
struct Found {
    number: usize,
    has_text: bool,
}

/// Whether a text has a placeholder.
pub(crate) fn has_placeholder(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, name, after)) = next_placeholder(rest) {
        if piece(name).is_some() {
            return true;
        }
        rest = after;
    }
    false
}

/// The next `{letters}` in a text: what is before it, its name, and what follows.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let begin = from + text[from..].find('{')?;
        let rest = &text[begin + 1..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
        if end > 0 && rest[end..].starts_with('}') {
            return Some((&text[..begin], &rest[..end], &rest[end + 1..]));
        }
        from = begin + 1;
    }
}

fn look(value: &Value, found: &mut Found) -> Result<(), BadTemplate> {
    match value {
        Value::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, name, after)) = next_placeholder(rest) {
                if piece(name).is_none() {
                    return Err(BadTemplate::Unknown(name.chars().take(40).collect()));
                }
                found.number += 1;
                found.has_text |= name == "text";
                rest = after;
            }
            Ok(())
        }
        Value::Array(list) => list.iter().try_for_each(|value| look(value, found)),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            if next_placeholder(name).is_some() { Err(BadTemplate::InName) } else { look(value, found) }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn piece(name: &str) -> Option<Piece> {
    Some(match name {
        "bug" => Piece::Bug,
        "when" => Piece::When,
        "url" => Piece::Url,
        "feed" => Piece::Feed,
        "text" => Piece::Text,
        _ => return None,
    })
}

/// Puts `{text}` in the place of the first text that has a placeholder.
fn put_words(value: &mut Value, needs_words: &mut bool) {
    match value {
        Value::String(text) if *needs_words && next_placeholder(text).is_some() => {
            "{text}".clone_into(text);
            *needs_words = false;
        }
        Value::Array(list) => list.iter_mut().for_each(|value| put_words(value, needs_words)),
        Value::Object(members) => members.values_mut().for_each(|value| put_words(value, needs_words)),
        _ => {}
    }
}

/// The pieces of the compact JSON. Its own braces are followed by a quote or a brace, never by a letter, and escaping leaves
/// placeholders as they are; so placeholders are found within texts only.
fn compile(value: &Value) -> Vec<Piece> {
    let json = value.to_string();
    let mut pieces = Vec::new();
    let mut rest = json.as_str();
    while let Some((before, name, after)) = next_placeholder(rest) {
        pieces.push(Piece::Json(before.to_owned()));
        pieces.extend(piece(name));
        rest = after;
    }
    pieces.push(Piece::Json(rest.to_owned()));
    pieces
}

#[cfg(test)]
mod tests;
