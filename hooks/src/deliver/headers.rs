//! Headers that the owner of an endpoint adds to its requests.
//!
//! Goes in: names and values, as they were given. Comes out: headers that can be sent, or why not. Values may be secrets:
//! they show neither in `Debug` nor in an error.

use std::fmt;

use hyper::header::{HeaderName, HeaderValue};

/// An endpoint has at most so many headers of its own.
pub const MOST_HEADERS: usize = 20;
/// The longest name, in bytes.
pub const LONGEST_NAME: usize = 100;
/// The longest value, in bytes.
pub const LONGEST_VALUE: usize = 4_096;
/// All names and values together have at most so many bytes.
pub const LONGEST_IN_ALL: usize = 8_192;

/// Names that are ours, or belong to the connection. Those that begin with one of [`RESERVED_BEGINNINGS`] are reserved, too.
const RESERVED: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];
const RESERVED_BEGINNINGS: [&str; 2] = ["webhook-", "proxy-"];

/// Why headers are refused. Values are not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// The name is no token of HTTP.
    #[error("'{0}' is no name of a header; it has 1 to {LONGEST_NAME} letters, digits or -, as in X-Api-Key")]
    Name(String),
    /// The name is ours.
    #[error("the header {0} cannot be set, because bugfeed or the connection sets it")]
    Reserved(String),
    /// The value holds something that would end it.
    #[error("the value of {0} holds a line break or another control character")]
    Control(String),
    /// The value is not ASCII.
    #[error("the value of {0} holds other characters than ASCII")]
    NotAscii(String),
    /// The value is empty, or too long.
    #[error("the value of {0} has {1} bytes; 1 to {LONGEST_VALUE} are allowed")]
    ValueLength(String, usize),
    /// The same name twice.
    #[error("the header {0} is there twice")]
    Twice(String),
    /// Too many.
    #[error("there are {0} headers; at most {MOST_HEADERS} are allowed")]
    TooMany(usize),
    /// Too long together.
    #[error("the headers have {0} bytes together; at most {LONGEST_IN_ALL} are allowed")]
    TooLong(usize),
}

/// Headers of an endpoint.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserHeaders(Vec<(HeaderName, HeaderValue)>);

impl UserHeaders {
    /// Checks names and values. Blanks around a value are left out.
    ///
    /// # Errors
    /// If one is not allowed.
    pub fn read<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<UserHeaders, BadHeader> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        let (mut number, mut bytes) = (0, 0);
        for (name, value) in given {
            number += 1;
            if number > MOST_HEADERS {
                continue;
            }
            let (name, value) = read_one(name, value)?;
            if headers.iter().any(|(known, _)| *known == name) {
                return Err(BadHeader::Twice(name.to_string()));
            }
            bytes += name.as_str().len() + value.len();
            headers.push((name, value));
        }
        if number > MOST_HEADERS {
            return Err(BadHeader::TooMany(number));
        }
        if bytes > LONGEST_IN_ALL {
            return Err(BadHeader::TooLong(bytes));
        }
        Ok(UserHeaders(headers))
    }

    /// The headers, to be sent.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, to be stored, or shown to whoever may see them.
    pub fn expose(&self) -> impl Iterator<Item = (&str, &str)> {
        // Only ASCII was taken.
        self.0.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()))
    }

    /// Names, with values that show nothing.
    pub fn masked(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.0.iter().map(|(name, _)| (name.as_str(), "…"))
    }
}

fn read_one(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), BadHeader> {
    let bad_name = || BadHeader::Name(name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect());
    if name.len() > LONGEST_NAME {
        return Err(bad_name());
    }
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad_name())?;
    let lower = parsed.as_str();
    if RESERVED.contains(&lower) || RESERVED_BEGINNINGS.iter().any(|begin| lower.starts_with(begin)) {
        return Err(BadHeader::Reserved(lower.to_owned()));
    }
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(BadHeader::Control(lower.to_owned()));
    }
    if !value.is_ascii() {
        return Err(BadHeader::NotAscii(lower.to_owned()));
    }
    let value = value.trim_matches([' ', '\t']);
    if value.is_empty() || value.len() > LONGEST_VALUE {
        return Err(BadHeader::ValueLength(lower.to_owned(), value.len()));
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| BadHeader::Control(lower.to_owned()))?;
    // Neither shown in `Debug` nor kept in the tables with which HTTP/2 compresses headers.
    value.set_sensitive(true);
    Ok((parsed, value))
}

impl fmt::Debug for UserHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.masked()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<UserHeaders, BadHeader> {
        UserHeaders::read([(name, value)])
    }

    #[test]
    fn headers_are_taken_and_not_shown() {
        let headers = UserHeaders::read([("X-Api-Key", " s3cret "), ("Authorization", "Bearer s3cret")]).unwrap();
        assert_eq!(headers.expose().collect::<Vec<_>>(), [("x-api-key", "s3cret"), ("authorization", "Bearer s3cret")]);
        let shown = format!("{headers:?} {:?}", headers.iter().collect::<Vec<_>>());
        assert!(!shown.contains("s3cret") && shown.contains("x-api-key"), "{shown}");
        assert!(one("X-A", &"a".repeat(LONGEST_VALUE)).is_ok() && one("X-A", "a\tb").is_ok());
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(one("HOST", "a"), Err(BadHeader::Reserved("host".to_owned())));
        // Written out, so that none can be left out of the list unnoticed. What frames the request comes first.
        for name in [
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Host",
            "TE",
            "Trailer",
            "Upgrade",
            "HTTP2-Settings",
            "Keep-Alive",
            "Expect",
            "Content-Type",
            "Content-Encoding",
            "Accept-Encoding",
            "Date",
            "User-Agent",
            "Via",
            "Webhook-Id",
            "webhook-signature",
            "Webhook-Anything",
            "Proxy-Authorization",
        ] {
            assert!(matches!(one(name, "a"), Err(BadHeader::Reserved(_))), "{name}");
        }
        for name in ["", "X Y", "X:", "X-\r\nY", "X-é", ":path", "X\0", &"x".repeat(LONGEST_NAME + 1)] {
            assert!(matches!(one(name, "a"), Err(BadHeader::Name(_))), "{name}");
        }
        for value in ["a\r\nX-B: c", "a\nb", "a\rb", "a\0b", "\u{1b}[0m", "a\u{7f}", "\r\n"] {
            assert_eq!(one("X-A", value), Err(BadHeader::Control("x-a".to_owned())), "{value:?}");
        }
        assert_eq!(one("X-A", "é"), Err(BadHeader::NotAscii("x-a".to_owned())));
        assert_eq!(one("X-A", "  "), Err(BadHeader::ValueLength("x-a".to_owned(), 0)));
        let long = "a".repeat(LONGEST_VALUE + 1);
        assert_eq!(one("X-A", &long), Err(BadHeader::ValueLength("x-a".to_owned(), LONGEST_VALUE + 1)));
        let twice = UserHeaders::read([("X-A", "a"), ("x-a", "b")]);
        assert_eq!(twice, Err(BadHeader::Twice("x-a".to_owned())));
        let names: Vec<String> = (0..=MOST_HEADERS).map(|number| format!("x-{number}")).collect();
        let many = |number: usize| UserHeaders::read(names[..number].iter().map(|name| (name.as_str(), "a")));
        assert_eq!(many(MOST_HEADERS).unwrap().len(), MOST_HEADERS);
        assert_eq!(many(MOST_HEADERS + 1), Err(BadHeader::TooMany(MOST_HEADERS + 1)));
        let values = "a".repeat(LONGEST_VALUE);
        assert!(matches!(UserHeaders::read([("x-a", &*values), ("x-b", &*values)]), Err(BadHeader::TooLong(_))));
    }
}
