//! What tokens say of their rights, in JSON (a signed token) and in TOML (a file).
//!
//! Goes in: a payload whose signature fits, or an entry. Comes out: claims for `core/access` to decide about. A member of
//! another type than its own is an error, never a missing one: otherwise a token could shed its expiry.

use std::collections::BTreeSet;

use bugfeed_core::access::{BugScope, Claims, FeedScope, Refused};
use bugfeed_protocol::BugId;
use serde::Deserialize;
use serde_json::{Number, Value};

/// `*`, one, or several; whoever cannot make lists of numbers may write texts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected '*', one, or a list")]
pub(super) enum Named {
    One(Item),
    Several(Vec<Item>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Item {
    Number(u64),
    Text(String),
}

impl Named {
    fn items(self) -> Vec<Item> {
        match self {
            Named::One(item) => vec![item],
            Named::Several(items) => items,
        }
    }

    /// The names of feeds.
    pub(super) fn feeds(self) -> Option<FeedScope> {
        let mut names = BTreeSet::new();
        for item in self.items() {
            match item {
                Item::Text(name) if name == "*" => return Some(FeedScope::All),
                Item::Text(name) => drop(names.insert(name)),
                Item::Number(_) => return None,
            }
        }
        Some(FeedScope::These(names))
    }

    /// The numbers of bugs.
    pub(super) fn bugs(self) -> Option<BugScope> {
        let mut bugs = BTreeSet::new();
        for item in self.items() {
            match item {
                Item::Text(text) if text == "*" => return Some(BugScope::All),
                Item::Text(text) => drop(bugs.insert(BugId::parse(&text)?)),
                Item::Number(number) => drop(bugs.insert(BugId::new(number)?)),
            }
        }
        Some(BugScope::These(bugs))
    }
}

/// The claims of RFC 7519 that are looked at, and our own.
#[derive(Deserialize)]
struct Payload {
    exp: Option<Number>,
    nbf: Option<Number>,
    aud: Option<Audience>,
    iss: Option<String>,
    bugfeed: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Rights {
    feeds: Named,
    bugs: Named,
    max_subscriptions: Option<usize>,
}

/// Reads the payload of a signed token.
///
/// # Errors
/// If it is no payload of a token, or does not say what it allows.
pub(super) fn read(payload: &[u8]) -> Result<Claims, Refused> {
    let payload: Payload = serde_json::from_slice(payload).map_err(|_| Refused::Malformed)?;
    let rights: Option<Rights> =
        payload.bugfeed.map(serde_json::from_value).transpose().map_err(|_| Refused::Claims)?;
    let (feeds, bugs, max_subscriptions) = match rights {
        Some(Rights { feeds, bugs, max_subscriptions }) => {
            (Some(feeds.feeds().ok_or(Refused::Claims)?), Some(bugs.bugs().ok_or(Refused::Claims)?), max_subscriptions)
        }
        None => (None, None, None),
    };
    Ok(Claims {
        expires_s: payload.exp.as_ref().map(seconds).transpose()?,
        not_before_s: payload.nbf.as_ref().map(seconds).transpose()?,
        audience: payload.aud.map(|audience| match audience {
            Audience::One(name) => vec![name],
            Audience::Several(names) => names,
        }),
        issuer: payload.iss,
        feeds,
        bugs,
        max_subscriptions,
    })
}

/// A date of RFC 7519, which may have a fraction.
#[expect(clippy::cast_possible_truncation, reason = "it is within the bounds that are checked before")]
fn seconds(date: &Number) -> Result<i64, Refused> {
    let float = || date.as_f64().filter(|seconds| seconds.abs() < 1e15).map(|seconds| seconds.floor() as i64);
    date.as_i64().or_else(float).ok_or(Refused::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Result<Claims, Refused> {
        read(text.as_bytes())
    }

    #[test]
    fn what_tokens_say() {
        let all = claims(
            r#"{"exp":1.5e9,"nbf":1400000000.9,"aud":"a","iss":"i","sub":7,"bugfeed":{"feeds":"*","bugs":"*"}}"#,
        );
        let all = all.unwrap();
        assert_eq!((all.expires_s, all.not_before_s), (Some(1_500_000_000), Some(1_400_000_000)));
        assert_eq!((all.feeds, all.bugs), (Some(FeedScope::All), Some(BugScope::All)));
        assert_eq!((all.audience, all.issuer), (Some(vec!["a".to_owned()]), Some("i".to_owned())));
        let some =
            claims(r#"{"exp":1,"aud":["a","b"],"bugfeed":{"feeds":["kde","x"],"bugs":["7",3],"max_subscriptions":5}}"#);
        let some = some.unwrap();
        assert_eq!(some.feeds, Some(FeedScope::These(["kde".to_owned(), "x".to_owned()].into())));
        assert_eq!(some.bugs, Some(BugScope::These([3, 7].map(|bug| BugId::new(bug).unwrap()).into())));
        assert_eq!(some.max_subscriptions, Some(5));
        let single = claims(r#"{"bugfeed":{"feeds":"kde","bugs":[]}}"#).unwrap();
        assert_eq!(single.feeds, Some(FeedScope::These(["kde".to_owned()].into())));
        assert_eq!((single.bugs, single.expires_s), (Some(BugScope::These(BTreeSet::new())), None));
        let silent = claims("{}").unwrap();
        assert!(silent.feeds.is_none() && silent.bugs.is_none());
    }

    /// A claim of the wrong type must not count as one that is not there.
    #[test]
    fn claims_of_other_types_are_errors() {
        for text in [
            r#"{"exp":"1400000000"}"#,
            r#"{"exp":true}"#,
            r#"{"exp":1e300}"#,
            r#"{"nbf":"soon"}"#,
            r#"{"nbf":{}}"#,
            r#"{"aud":7}"#,
            r#"{"aud":["a",7]}"#,
            r#"{"iss":["a"]}"#,
            r#"{"exp":1,"exp":2}"#,
            "[]",
            "{",
            "",
        ] {
            assert_eq!(claims(text).map(drop), Err(Refused::Malformed), "{text}");
        }
        for rights in [
            "7",
            "{}",
            r#"{"feeds":"*"}"#,
            r#"{"bugs":"*"}"#,
            r#"{"feeds":[7],"bugs":"*"}"#,
            r#"{"feeds":"*","bugs":[0]}"#,
            r#"{"feeds":"*","bugs":["x"]}"#,
            r#"{"feeds":"*","bugs":[-1]}"#,
            r#"{"feeds":"*","bugs":{"a":1}}"#,
            r#"{"feeds":"*","bugs":"*","max_subscriptions":"5"}"#,
            r#"{"feeds":"*","bugs":"*","max_subscriptions":-5}"#,
        ] {
            let text = format!(r#"{{"exp":1,"bugfeed":{rights}}}"#);
            assert_eq!(claims(&text).map(drop), Err(Refused::Claims), "{text}");
        }
    }
}
