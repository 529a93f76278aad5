//! The metrics of a process: each role registers its own, and one page shows them all.

use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// The media type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The prefix of all names.
const PREFIX: &str = "bugfeed";

/// What a process counts. A clone shares the same counters.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Registry>);

impl Metrics {
    /// The metrics of these roles, under names that begin with `bugfeed_`.
    pub fn of(roles: &[&dyn Register]) -> Metrics {
        let mut registry = Registry::with_prefix(PREFIX);
        for role in roles {
            role.register(&mut registry);
        }
        Metrics(Arc::new(registry))
    }

    /// The page, in the OpenMetrics text format.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail. If it did, the scraper would notice a page without its end.
        let _ = text::encode(&mut page, &self.0);
        page
    }
}

/// A role that counts something.
pub trait Register {
    /// Adds the role's counters to the page. The counters themselves are shared, not copied.
    fn register(&self, registry: &mut Registry);
}
