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
    answer(json!({
        "url": shapes::url(&settings.url, call.caller.has(Scope::Raw)),
        "says": where_to(&settings.url),
        "sample_secret": is_sample.then(|| sample.expose().to_owned()),
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
            Some(text) => self.templated(text, first.change, &last),
        }
    }

    fn plain(&self, says: &str, content: Content<'_>, cursor: &Cursor, generation: u32) -> Result<Value, ApiError> {
        let batch = Batch { feed: &self.feed, content, cursor, generation };
        let body = batch.body();
        self.request(says, &batch.id(ENDPOINT, &body), &body)
    }

    fn templated(&self, text: &str, change: Change, cursor: &Cursor) -> Result<Vec<Value>, ApiError> {
        let template = Template::named(text).map_or_else(|| Template::parse(text), Ok);
        let template = template.map_err(|error| ApiError::bad(format!("template: {error}"), "mend the template"))?;
        let link = self.call.api.service().link(&self.feed);
        let says = [
            ("a change; of a backlog, up to 10 of these", Say::Change(change), 0),
            ("then how many more there are", Say::More(5), 0),
            ("when nobody knows what was missed", Say::Gap, 0),
            ("a test", Say::Test, 1),
        ];
        let request = |(says, say, generation)| {
            let body = template.body(&self.feed, say, link.as_ref());
            let content = if generation == 0 { Content::Gap } else { Content::Test };
            let batch = Batch { feed: &self.feed, content, cursor, generation };
            self.request(says, &batch.id(ENDPOINT, &body), &body)
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
