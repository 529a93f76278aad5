//! What a person writes of an endpoint: read member by member, and checked.
//!
//! Goes in: the body of a request. Comes out: values that can be stored, or a refusal that names the member, what is
//! allowed, and the fix. No refusal repeats a secret, the value of a header, or a URL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::Watch;
use bugfeed_protocol::BugId;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::api::error::ApiError;
use crate::api::params::wrong;
use crate::api::service::Service;
use crate::deliver::address::{BadUrl, Rules};
use crate::deliver::headers::UserHeaders;
use crate::deliver::sign::SigningSecret;
use crate::deliver::template::Template;
use crate::store::endpoints::{FeedChoice, MAX_BUGS};

/// An endpoint has at most so many requests in a second, if it has a limit at all.
pub(super) const HIGHEST_RATE: u32 = 10_000;
/// The longest description, in characters.
pub(super) const LONGEST_DESCRIPTION: usize = 500;
/// The chats whose bodies are known by name.
pub(super) const CHATS: [&str; 5] = ["slack", "mattermost", "matrix", "teams", "discord"];

/// What a person writes of an endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EndpointBody {
    url: Option<String>,
    feeds: Option<Value>,
    bugs: Option<Value>,
    policy: Option<String>,
    #[serde(deserialize_with = "given")]
    rate: Option<Option<u64>>,
    #[serde(deserialize_with = "given")]
    template: Option<Option<Value>>,
    #[serde(deserialize_with = "given")]
    headers: Option<Option<Map<String, Value>>>,
    description: Option<String>,
    secret: Option<String>,
}

/// Tells a member that is null from one that is absent.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Headers that are set, and (without a value) headers that are taken away. None of all: every header is taken away.
pub(super) type HeaderEdits = Option<BTreeMap<String, Option<String>>>;

/// The same, checked. What is not said is `None`.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) url: Option<String>,
    pub(super) feeds: Option<FeedChoice>,
    pub(super) watch: Option<Watch>,
    pub(super) policy: Option<Policy>,
    pub(super) rate: Option<Option<u32>>,
    pub(super) template: Option<Option<String>>,
    pub(super) headers: Option<HeaderEdits>,
    pub(super) description: Option<String>,
    pub(super) secret: Option<SigningSecret>,
}

impl EndpointBody {
    /// Checks all that is said.
    pub(super) fn check(self, service: &dyn Service) -> Result<Said, ApiError> {
        Ok(Said {
            url: self.url.map(|text| url(&text, &service.rules())).transpose()?,
            feeds: self.feeds.as_ref().map(|value| feeds(value, &service.feeds())).transpose()?,
            watch: self.bugs.as_ref().map(watch).transpose()?,
            policy: self.policy.as_deref().map(policy).transpose()?,
            rate: self.rate.map(|rate| rate.map(self::rate).transpose()).transpose()?,
            template: self.template.map(|value| value.as_ref().map(template).transpose()).transpose()?,
            headers: self.headers.map(|edits| edits.map(header_edits).transpose()).transpose()?,
            description: self.description.as_deref().map(description).transpose()?,
            secret: self.secret.as_deref().map(secret).transpose()?,
        })
    }
}

/// The URL, without blanks around it and without a fragment, which is never sent.
pub(super) fn url(text: &str, rules: &Rules) -> Result<String, ApiError> {
    let text = text.trim();
    rules.check(text).map_err(|error| bad_url(&error))?;
    Ok(text.split('#').next().unwrap_or_default().to_owned())
}

fn bad_url(error: &BadUrl) -> ApiError {
    let (what, fix) = match error {
        BadUrl::Forbidden(forbidden) => (
            format!("{} is {}, where endpoints may not be", forbidden.address, forbidden.what),
            format!("if they may be there, start bugfeed with --allow-network {}", forbidden.allow),
        ),
        BadUrl::HttpsOnly => (error.to_string(), "use https://, or start bugfeed without --https-only".to_owned()),
        BadUrl::UserInfo => (
            "the URL holds a name or password".to_owned(),
            "send it as a header: \"headers\": {\"Authorization\": \"…\"}".to_owned(),
        ),
        _ => (error.to_string(), "write it as https://example.org/hook".to_owned()),
    };
    ApiError::bad(format!("url: {what}"), fix)
}

fn feeds(value: &Value, known: &[String]) -> Result<FeedChoice, ApiError> {
    let names: Vec<&str> = match value {
        Value::String(text) if text == "all" => return Ok(FeedChoice::All),
        Value::String(text) => vec![text],
        Value::Array(list) if list.iter().all(Value::is_string) => list.iter().filter_map(Value::as_str).collect(),
        _ => return Err(ApiError::bad("feeds: this is no list of names", say_feeds(known))),
    };
    if names.is_empty() {
        return Err(ApiError::bad("feeds: the list is empty, so nothing would be sent", say_feeds(known)));
    }
    if let Some(name) = names.iter().find(|name| !known.iter().any(|known| known == *name)) {
        let name: String = name.chars().take(60).collect();
        return Err(ApiError::bad(format!("feeds: there is no feed '{name}'"), say_feeds(known)));
    }
    // Each once, in the order in which they were written.
    let mut seen = BTreeSet::new();
    Ok(FeedChoice::Named(names.into_iter().filter(|name| seen.insert(*name)).map(Arc::from).collect()))
}

fn say_feeds(known: &[String]) -> String {
    if known.is_empty() {
        return "no feed is served here: add a source, or name one with --feed NAME=EXCHANGE; or try again in a moment"
            .to_owned();
    }
    let known: Vec<&str> = known.iter().map(String::as_str).take(50).collect();
    format!("write \"all\", or some of: {}", known.join(", "))
}

/// The feed of an endpoint of which none is said: `default`, or the only one there is.
pub(super) fn usual_feed(known: &[String]) -> Result<FeedChoice, ApiError> {
    let name = known.iter().find(|name| *name == bugfeed_protocol::feed_name::DEFAULT_FEED);
    let name = name.or_else(|| known.first().filter(|_| known.len() == 1));
    let named = name.map(|name| FeedChoice::Named(vec![Arc::from(name.as_str())]));
    named.ok_or_else(|| ApiError::bad("feeds: none is said, and there is no feed 'default'", say_feeds(known)))
}

const BUGS_FIX: &str = "write \"all\", or a list of whole numbers from 1 on, such as [1234, 5678]";

fn watch(value: &Value) -> Result<Watch, ApiError> {
    let list = match value {
        Value::String(text) if text == "all" => return Ok(Watch::All),
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    if list.is_empty() {
        return Err(ApiError::bad("bugs: the list is empty, so nothing would be sent", BUGS_FIX));
    }
    let bugs = list.iter().map(bug).collect::<Result<Vec<BugId>, ApiError>>()?;
    let Watch::Bugs(bugs) = Watch::Bugs(bugs.into()).sorted() else { return Ok(Watch::All) };
    if bugs.len() > MAX_BUGS {
        let fix = format!("name at most {MAX_BUGS}, write \"all\", or make several endpoints");
        return Err(ApiError::bad(format!("bugs: {} are too many", bugs.len()), fix));
    }
    Ok(Watch::Bugs(bugs))
}

fn bug(value: &Value) -> Result<BugId, ApiError> {
    let found = match value {
        Value::Number(number) => number.as_u64().and_then(BugId::new),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    found.ok_or_else(|| {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        wrong("bugs", &shown, BUGS_FIX)
    })
}

fn policy(text: &str) -> Result<Policy, ApiError> {
    let all: Vec<&str> = Policy::ALL.iter().map(|policy| policy.as_str()).collect();
    Policy::parse(text).ok_or_else(|| wrong("policy", text, &format!("the policies are {}", all.join(", "))))
}

fn rate(number: u64) -> Result<u32, ApiError> {
    let rate = u32::try_from(number).ok().filter(|rate| (1..=HIGHEST_RATE).contains(rate));
    rate.ok_or_else(|| {
        let fix = format!("requests in a second: 1 to {HIGHEST_RATE}, or null for no limit");
        wrong("rate", &number.to_string(), &fix)
    })
}

/// The name of a chat, or the text of a template.
pub(super) fn template(value: &Value) -> Result<String, ApiError> {
    let text = match value {
        Value::String(text) if Template::named(text).is_some() => return Ok(text.clone()),
        Value::String(text) if text.trim_start().starts_with('{') => text.trim().to_owned(),
        Value::Object(_) => value.to_string(),
        Value::String(text) => return Err(wrong("template", text, &template_fix())),
        _ => return Err(ApiError::bad("template: this is neither a name nor an object", template_fix())),
    };
    Template::parse(&text).map_err(|error| ApiError::bad(format!("template: {error}"), template_fix()))?;
    Ok(text)
}

fn template_fix() -> String {
    format!("the names are {}; or write a JSON object such as {{\"text\": \"Bug {{bug}}: {{url}}\"}}", CHATS.join(", "))
}

fn header_edits(members: Map<String, Value>) -> Result<BTreeMap<String, Option<String>>, ApiError> {
    let edit = |(name, value): (String, Value)| match value {
        Value::String(value) => Ok((name, Some(value))),
        Value::Null => Ok((name, None)),
        _ => {
            let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
            let fix = "the value of a header is a text; null takes the header away";
            Err(ApiError::bad(format!("headers: the value of {name} is no text"), fix))
        }
    };
    let edits: BTreeMap<String, Option<String>> = members.into_iter().map(edit).collect::<Result<_, _>>()?;
    merge(&UserHeaders::default(), Some(&edits))?;
    Ok(edits)
}

/// The headers after these edits. Names are compared as HTTP does, whatever their case.
pub(super) fn merge(
    before: &UserHeaders,
    edits: Option<&BTreeMap<String, Option<String>>>,
) -> Result<UserHeaders, ApiError> {
    let Some(edits) = edits else { return Ok(UserHeaders::default()) };
    let is_edited = |name: &str| edits.keys().any(|edited| edited.eq_ignore_ascii_case(name));
    let kept = before.expose().filter(|(name, _)| !is_edited(name));
    let set = edits.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
    UserHeaders::read(kept.chain(set)).map_err(|error| {
        let fix = "write {\"X-Api-Key\": \"…\"}: names of up to 100 characters, values of ASCII in one line";
        ApiError::bad(format!("headers: {error}"), fix)
    })
}

fn description(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    if text.chars().count() > LONGEST_DESCRIPTION || text.chars().any(char::is_control) {
        let fix = format!("it has at most {LONGEST_DESCRIPTION} characters, all in one line");
        return Err(ApiError::bad("description: this cannot be one", fix));
    }
    Ok(text.to_owned())
}

/// A secret that the caller gives.
pub(super) fn secret(text: &str) -> Result<SigningSecret, ApiError> {
    SigningSecret::parse(text).map_err(|error| {
        let fix = "leave it out, and one is made; or write whsec_ and the Base64 of 24 to 64 random bytes";
        ApiError::bad(format!("secret: {error}"), fix)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_chat_has_a_template() {
        for name in CHATS {
            assert!(Template::named(name).is_some(), "{name}");
            assert!(template_fix().contains(name));
        }
    }

    #[test]
    fn headers_are_set_and_taken_away_by_name() {
        let before = UserHeaders::read([("X-A", "1"), ("X-B", "2")]).unwrap();
        let edits = |value: Value| header_edits(value.as_object().unwrap().clone());
        let after = |value: Value| {
            let merged = merge(&before, Some(&edits(value)?))?;
            Ok::<_, ApiError>(merged.expose().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
        };
        assert_eq!(after(json!({ "x-a": "3", "X-C": "4" })).unwrap(), ["x-b=2", "x-c=4", "x-a=3"]);
        assert_eq!(after(json!({ "x-A": null, "none": null })).unwrap(), ["x-b=2"]);
        assert!(merge(&before, None).unwrap().is_empty());
        for (value, want) in [
            (json!({ "x-a": 1 }), "value of x-a is no text"),
            (json!({ "X-A": "s3cret\n" }), "line break"),
            (json!({ "Host": "s3cret" }), "cannot be set"),
            (json!({ "X-D": "s3cret", "x-d": "s3cret" }), "twice"),
        ] {
            let error = after(value).unwrap_err();
            assert!(error.error.contains(want) && !error.error.contains("s3cret"), "{}", error.error);
        }
    }

    #[test]
    fn bugs_are_numbers_or_all() {
        let of = |value: Value| watch(&value).map_err(|error| error.error);
        let bugs = |numbers: &[u64]| Watch::Bugs(numbers.iter().filter_map(|number| BugId::new(*number)).collect());
        assert_eq!(of(json!("all")), Ok(Watch::All));
        assert_eq!(of(json!([5, "3", 5])), Ok(bugs(&[3, 5])));
        assert_eq!(of(json!(7)), Ok(bugs(&[7])));
        for (bad, want) in [
            (json!([]), "empty"),
            (json!([0]), "'0'"),
            (json!([-1]), "'-1'"),
            (json!([1.5]), "'1.5'"),
            (json!("every"), "'every'"),
            (json!([null]), "'null'"),
            (json!((1..=10_001).collect::<Vec<u64>>()), "10001 are too many"),
        ] {
            assert!(of(bad.clone()).unwrap_err().contains(want), "{want}");
        }
    }
}
