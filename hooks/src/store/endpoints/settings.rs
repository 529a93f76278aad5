//! What people say of an endpoint, beside the row of its planner.

use std::fmt;
use std::sync::Arc;

use crate::deliver::headers::UserHeaders;
use crate::deliver::sign::SigningSecret;

/// The feeds of an endpoint. The row has a line for each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedChoice {
    /// All feeds, also those that come later.
    All,
    /// These.
    Named(Vec<Arc<str>>),
}

/// Settings of an endpoint.
///
/// The database holds secrets, headers and the whole URL as they are, because each request needs them. Whoever reads the
/// database can sign in the name of this gateway. `Debug` does not show them.
#[derive(Clone)]
pub struct Settings {
    /// Where requests go. Path and query may hold a secret.
    pub url: String,
    /// The secret that signs.
    pub secret: SigningSecret,
    /// The secret before it, and until when both count, in microseconds since 1970.
    pub previous: Option<(SigningSecret, i64)>,
    /// Headers of its own.
    pub headers: UserHeaders,
    /// For people.
    pub description: String,
    /// Its feeds.
    pub feeds: FeedChoice,
    /// The name of a chat, or the template as JSON; `None`: the ordinary body.
    pub template: Option<String>,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
}

impl Settings {
    /// Scheme, host and port of the URL: what may be shown and logged.
    pub fn server(&self) -> &str {
        let authority = self.url.find("://").map_or(0, |at| at + 3);
        let end = self.url[authority..].find(['/', '?', '#']).map_or(self.url.len(), |at| authority + at);
        let server = &self.url[..end];
        if server.contains('@') { "" } else { server }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("server", &self.server())
            .field("secret", &self.secret)
            .field("previous", &self.previous)
            .field("headers", &self.headers)
            .field("description", &self.description)
            .field("feeds", &self.feeds)
            .field("has_template", &self.template.is_some())
            .field("created_us", &self.created_us)
            .finish_non_exhaustive()
    }
}
