//! What would be sent to an endpoint: bodies and headers, signed; or why it would be refused. Nothing is stored or sent.
//!
//! Only a secret that the caller gives signs here, or one for samples that everybody knows: with the secret of an endpoint,
//! whoever may write could have signed what he likes.

use std::collections::BTreeMap;

use bugfeed_core::endpoints::question::Watch;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};
use serde_json::{Value, json};

use super::body::EndpointBody;
use super::{new, shapes};
use crate::api::call::{Call, answer};
use crate::api::error::{Answer, ApiError};
use crate::api::shapes::MASK;
use crate::deliver::body::{Batch, Content, Item, Replay};
use crate::deliver::sign::{Secrets, SigningSecret};
use crate::deliver::template::{Say, Template};
use crate::store::endpoints::{FeedChoice, Settings};
use crate::store::tokens::Scope;

/// The secret for samples.
const SAMPLE: [u8; 32] = *b"a sample that everybody may know";
/// The epoch of the sample's cursors.
const EPOCH: &str = "9f86d081884c7d65";
/// The identifier of an endpoint that does not exist.
const ENDPOINT: &str = "ep_aaaaaaaaaaaaaaaaaaaa";

pub(in crate::api) async fn preview(call: Call) -> Answer {
    let said = call.json::<EndpointBody>()?.check(call.api.service())?;
    let sample = SigningSecret::generate(&SAMPLE);
    let is_sample = said.secret.is_none();
    let (settings, row) = new(&call.api, said, call.now_us)?;
    let secret = if is_sample { sample.clone() } else { settings.secret.clone() };
    let view = View { call: &call, settings: &settings, feed: feed(&call, &settings), secrets: Secrets::new(secret) };
    let requests = view.requests(&row.watch)?;
    let mut warnings = view.empty_members(&requests);
    warnings.extend(super::view::warnings(&call, &settings.url).await);
    answer(json!({
        "url": shapes::url(&settings.url, call.caller.has(Scope::Raw)),
        "says": where_to(&settings.url),
        "sample_secret": is_sample.then(|| sample.expose().to_owned()),
        "warnings": warnings,
        "requests": requests,
    }))
}

fn feed(call: &Call, settings: &Settings) -> String {
    match &settings.feeds {
        FeedChoice::Named(names) => names.first().map(ToString::to_string),
        FeedChoice::All => call.api.service().feeds().into_iter().next(),
    }
    .unwrap_or_default()
}

/// What is known of the way to the receiver before anything is sent.
fn where_to(url: &str) -> String {
    let host = url::Url::parse(url).ok();
    match host.as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => format!(
            "this would be sent; the addresses of {name} are judged whenever it is connected to, and only those that are \
             public or allowed are used"
        ),
        _ => "this would be sent; the address in the URL is allowed".to_owned(),
    }
}

struct View<'a> {
    call: &'a Call,
    settings: &'a Settings,
    feed: String,
    secrets: Secrets,
}

impl View<'_> {
    fn requests(&self, watch: &Watch) -> Result<Vec<Value>, ApiError> {
        let now = When::from_micros(self.call.now_us / 1_000_000 * 1_000_000).unwrap_or(When::MIN);
        let bug = |number: u64| BugId::new(number).ok_or_else(|| ApiError::bad("bugs: no number fits", "name a bug"));
        let bugs = match watch {
            Watch::Bugs(bugs) => [bugs.first().copied(), bugs.get(1).copied()],
            Watch::All => [Some(bug(1234)?), Some(bug(5678)?)],
        };
        let epoch = Epoch::parse(EPOCH).ok_or_else(|| ApiError::bad("the sample has no epoch", "report this"))?;
        let cursor = |seq: u64| Cursor { epoch: epoch.clone(), seq, tag: None };
        let items: Vec<Item> = (57..)
            .zip(bugs.into_iter().flatten())
            .map(|(seq, bug)| Item { change: Change { bug, when: now }, cursor: cursor(seq) })
            .collect();
        let Some(first) = items.first() else { return Ok(Vec::new()) };
        let last = items.last().map_or_else(|| cursor(57), |item| item.cursor.clone());
        let backlog = Content::Updates { replay: Replay::Latest, items: &items };
        match &self.settings.template {
            None => Ok(vec![
                self.plain("a change, when it comes", Content::Update(first), &first.cursor, 0)?,
                self.plain("a backlog: the newest change of each bug", backlog, &last, 0)?,
                self.plain("when nobody knows what was missed", Content::Gap, &last, 0)?,
                self.plain("a test", Content::Test, &last, 1)?,
            ]),
            Some(text) => self.templated(text, &items, &last),
        }
    }

    /// Texts that a template leaves empty in these requests.
    fn empty_members(&self, requests: &[Value]) -> Vec<String> {
        let Some(template) = self.settings.template.as_deref().filter(|text| text.starts_with('{')) else {
            return Vec::new();
        };
        let mut warnings = Vec::new();
        if template.contains("{url}") && self.call.api.service().link(&self.feed).is_none() {
            warnings.push(format!(
                "{{url}} is empty, because nothing is known of where people read about bugs of the feed {}: start bugfeed with \
                 --tracker-url 'https://HOST/PATH{{bug}}'",
                self.feed
            ));
        }
        let meant: Value = serde_json::from_str(template).unwrap_or_default();
        for request in requests {
            let body = request["body"].as_str().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
            let mut empty = Vec::new();
            empty_texts(&body, &meant, String::new(), &mut empty);
            if !empty.is_empty() {
                let says = request["says"].as_str().unwrap_or_default();
                warnings.push(format!("{says}: empty is {}", empty.join(", ")));
            }
        }
        warnings
    }

    fn plain(&self, says: &str, content: Content<'_>, cursor: &Cursor, generation: u32) -> Result<Value, ApiError> {
        let batch = Batch { feed: &self.feed, content, cursor, generation };
        let body = batch.body();
        self.request(says, &batch.id(ENDPOINT, &body), &body)
    }

    fn templated(&self, text: &str, items: &[Item], cursor: &Cursor) -> Result<Vec<Value>, ApiError> {
        let template = Template::named(text).map_or_else(|| Template::parse(text), Ok);
        let template = template.map_err(|error| ApiError::bad(format!("template: {error}"), "mend the template"))?;
        let link = self.call.api.service().link(&self.feed);
        let Some(first) = items.first() else { return Ok(Vec::new()) };
        let backlog = Content::Updates { replay: Replay::Latest, items };
        let says = [
            ("a change; of a backlog, up to 10 of these", Say::Change(first.change), Content::Update(first), 0),
            ("then how many more there are", Say::More(5), backlog, 0),
            ("when nobody knows what was missed", Say::Gap, Content::Gap, 0),
            ("a test", Say::Test, Content::Test, 1),
        ];
        let request = |(says, say, content, generation)| {
            let body = template.body(&self.feed, say, link.as_ref());
            let batch = Batch { feed: &self.feed, content, cursor, generation };
            let mut id = batch.id(ENDPOINT, &body);
            if let Say::More(_) = say {
                // It is the eleventh message of its batch.
                id.push_str("-11");
            }
            self.request(says, &id, &body)
        };
        says.into_iter().map(request).collect()
    }

    fn request(&self, says: &str, id: &str, body: &[u8]) -> Result<Value, ApiError> {
        let now = When::from_micros(self.call.now_us).unwrap_or(When::MIN);
        let signed = self.secrets.headers(id, body, now);
        let signed = signed.ok_or_else(|| ApiError::bad("feeds: its name cannot stand in a header", "report this"))?;
        let is_raw = self.call.caller.has(Scope::Raw);
        let own: BTreeMap<&str, &str> = self.settings.headers.expose().collect();
        let own = own.into_iter().map(|(name, value)| json!([name, if is_raw { value } else { MASK }]));
        let ours = signed.iter().map(|(name, value)| json!([name.as_str(), value.to_str().unwrap_or_default()]));
        let kind = std::iter::once(json!(["content-type", "application/json"]));
        Ok(json!({
            "says": says,
            "headers": own.chain(kind).chain(ours).collect::<Value>(),
            "body": String::from_utf8_lossy(body),
        }))
    }
}

/// Where texts are empty that were not meant to be, as paths of members.
fn empty_texts(body: &Value, meant: &Value, path: String, empty: &mut Vec<String>) {
    match (body, meant) {
        (Value::String(text), Value::String(template)) if text.is_empty() && !template.is_empty() => empty.push(path),
        (Value::Array(body), Value::Array(meant)) => {
            for (index, (body, meant)) in body.iter().zip(meant).enumerate() {
                empty_texts(body, meant, format!("{path}[{index}]"), empty);
            }
        }
        (Value::Object(body), Value::Object(meant)) => {
            for (name, body) in body {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                empty_texts(body, meant.get(name).unwrap_or(&Value::Null), path, empty);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_texts_are_found_by_their_path() {
        let meant = json!({ "a": "{bug}", "b": { "c": ["x", "{url}"] }, "d": "", "e": 1 });
        let body = json!({ "a": "", "b": { "c": ["x", ""] }, "d": "", "e": 1 });
        let mut empty = Vec::new();
        empty_texts(&body, &meant, String::new(), &mut empty);
        assert_eq!(empty, ["a", "b.c[1]"]);
    }
}
