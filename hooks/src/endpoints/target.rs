//! Where an endpoint's requests go, as its settings say: read once, used for each request.

use std::sync::Arc;

use bugfeed_protocol::When;

use super::cause::Hidden;
use crate::client::Address;
use crate::deliver::address::{BadUrl, Rules};
use crate::deliver::headers::UserHeaders;
use crate::deliver::sign::Secrets;
use crate::deliver::template::Template;
use crate::store::endpoints::Settings;

/// A receiver.
#[derive(Debug)]
pub(super) struct Target {
    /// Its address, or why nothing may be sent there: what the operator allows may have changed since it was made.
    pub(super) to: Result<Address, BadUrl>,
    pub(super) headers: UserHeaders,
    pub(super) secrets: Secrets,
    pub(super) template: Option<Template>,
    /// By which the schedule counts requests, and what people are told: scheme, host and port.
    pub(super) host: Arc<str>,
    /// What people must not be shown.
    pub(super) hidden: Hidden,
}

impl Target {
    pub(super) fn of(settings: &Settings, rules: &Rules) -> Target {
        let to = rules.check(&settings.url);
        let host = to.as_ref().map_or_else(|_| Arc::from(settings.server()), |to| Arc::from(to.origin().to_string()));
        Target {
            to,
            headers: settings.headers.clone(),
            secrets: secrets(settings),
            template: settings.template.as_deref().and_then(template),
            host,
            hidden: Hidden::of(settings),
        }
    }
}

/// The secrets that count, the one before included while it does.
pub(super) fn secrets(settings: &Settings) -> Secrets {
    let previous = settings.previous.as_ref();
    let previous = previous.and_then(|(secret, until_us)| Some((secret.clone(), When::from_micros(*until_us)?)));
    match previous {
        Some((previous, until)) => Secrets::rotating(settings.secret.clone(), previous, until),
        None => Secrets::new(settings.secret.clone()),
    }
}

/// The name of a chat, or a JSON text.
fn template(text: &str) -> Option<Template> {
    Template::named(text).or_else(|| Template::parse(text).ok())
}
