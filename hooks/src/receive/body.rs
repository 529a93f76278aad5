//! From the bytes of a body to the items in it.
//!
//! Goes in: headers and bytes. Comes out: JSON values, one for each item, or why the request as a whole has none.
//! It is limited to so many values, and by `serde_json`, which refuses more than 128 levels; of a member that an object has twice, the last one
//! counts, as everywhere in `serde_json`.

use std::borrow::Cow;

use serde_json::Value;

use super::lookup::Headers;
use super::mapped::{MAX_ITEMS, MAX_VALUES, RequestError};
use crate::config::mapping::Mapping;

/// A body, read.
pub(crate) struct Body {
    /// The whole, where it is one JSON value.
    pub(crate) root: Option<Value>,
    /// The items of NDJSON, where it is that.
    pub(crate) lines: Vec<Result<Value, BrokenLine>>,
}

/// A line of NDJSON that is no JSON.
pub(crate) struct BrokenLine {
    /// The line's number, from 1.
    pub(crate) number: usize,
    pub(crate) text: String,
    pub(crate) why: String,
}

/// What of the body is JSON: a form's field where the mapping says so and the body is a form, otherwise all of it.
pub(crate) fn payload<'a>(
    mapping: &Mapping,
    headers: &dyn Headers,
    body: &'a [u8],
) -> Result<Cow<'a, [u8]>, RequestError> {
    let Some(field) = mapping.unwrap.as_deref().filter(|_| is_form(headers, body)) else {
        return Ok(Cow::Borrowed(body));
    };
    let found = form_urlencoded::parse(body).find(|(name, _)| name == field);
    found.map(|(_, value)| Cow::Owned(value.into_owned().into_bytes())).ok_or_else(|| {
        let error = format!("the body is a form without the field '{field}'");
        RequestError::new(error, "choose the content type application/json in the sender's webhook")
    })
}

fn is_form(headers: &dyn Headers, body: &[u8]) -> bool {
    let said = content_type(headers) == "application/x-www-form-urlencoded";
    // curl says that everything is a form.
    said && !body.trim_ascii_start().starts_with(b"{") && !body.trim_ascii_start().starts_with(b"[")
}

/// The content type without parameters, in lower case.
fn content_type(headers: &dyn Headers) -> String {
    let value = headers.get("content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads the JSON of a payload.
pub(crate) fn read(mapping: &Mapping, headers: &dyn Headers, payload: &[u8]) -> Result<Body, RequestError> {
    let text = std::str::from_utf8(payload).map_err(|error| {
        let error = format!("the body is not UTF-8: byte {} cannot be read", error.valid_up_to() + 1);
        RequestError::new(error, "send JSON in UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        let fix = "send JSON; `bugfeed requests show REQUEST` has the headers that came";
        return Err(RequestError::new("the body is empty", fix));
    }
    if values(text) > MAX_VALUES {
        return Err(RequestError::too_many_values());
    }
    let of_lines = ["application/x-ndjson", "application/jsonl", "application/jsonlines"];
    if mapping.ndjson && of_lines.contains(&content_type(headers).as_str()) {
        return read_lines(text);
    }
    match serde_json::from_str(text) {
        Ok(root) => Ok(Body { root: Some(root), lines: Vec::new() }),
        Err(_) if mapping.ndjson && looks_like_lines(text) => read_lines(text),
        Err(error) => {
            let fix = not_json(mapping, headers, payload);
            Err(RequestError::new(format!("the body is not JSON: {}", reason(&error)), fix))
        }
    }
}

/// The advice about a body that is no JSON. A form may have the JSON in one of its fields.
fn not_json(mapping: &Mapping, headers: &dyn Headers, payload: &[u8]) -> String {
    let of_senders = "choose the content type application/json in the sender's webhook".to_owned();
    if mapping.unwrap.is_some() {
        return of_senders;
    }
    if !is_form(headers, payload) {
        return "send JSON".to_owned();
    }
    let is_json = |text: &str| text.starts_with(['{', '[']) && serde_json::from_str::<Value>(text).is_ok();
    let field = form_urlencoded::parse(payload).find(|(name, value)| is_plain(name) && is_json(value.trim()));
    match field {
        Some((name, _)) => format!("add unwrap = \"form:{name}\" to the source, or {of_senders}"),
        None => format!("{of_senders}; of a form, a field can be read that holds JSON: unwrap = \"form:FIELD\""),
    }
}

/// Whether this is the name of a form's field that may be shown.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=40).contains(&name.len()) && name.bytes().all(plain)
}

/// How many values and names a JSON text has, at most: what is opened or set off by a sign outside of strings.
fn values(text: &str) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (1, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// The parser's words, for which 128 levels are a limit of recursion.
fn reason(error: &serde_json::Error) -> String {
    error.to_string().replace("recursion limit exceeded", "more than 128 levels of lists and objects")
}

/// Whether the first or the last of several lines is a JSON object by itself. In one JSON text that is spread over
/// lines, neither is.
fn looks_like_lines(text: &str) -> bool {
    let is_object = |line: &str| line.trim_start().starts_with('{') && serde_json::from_str::<Value>(line).is_ok();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => is_object(first) || is_object(last),
        _ => false,
    }
}

fn read_lines(text: &str) -> Result<Body, RequestError> {
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let number = lines().count();
    if number > MAX_ITEMS {
        return Err(RequestError::too_many(number));
    }
    let read = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| BrokenLine {
            number: index + 1,
            text: line.to_owned(),
            why: reason(&error),
        })
    };
    Ok(Body { root: None, lines: lines().map(read).collect() })
}

/// The items of a body that is one JSON value.
pub(crate) fn items<'a>(mapping: &Mapping, root: &'a Value) -> Result<Vec<&'a Value>, RequestError> {
    let found = mapping.items.iter().find_map(|pointer| root.pointer(pointer).filter(|value| !value.is_null()));
    match found {
        Some(Value::Array(list)) if list.len() > MAX_ITEMS => Err(RequestError::too_many(list.len())),
        Some(Value::Array(list)) => Ok(list.iter().collect()),
        Some(value) => Ok(vec![value]),
        None => {
            let error = format!("the body has nothing at {}, where its items should be", mapping.items.join(" or "));
            Err(RequestError::new(error, "send the items there, or change `items` of the source"))
        }
    }
}
