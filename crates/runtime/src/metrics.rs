//! The metrics of a process: each role registers its own, and one page shows them all.

mod build;
mod process;

use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::process::Process;

/// The media type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The prefix of all names.
const PREFIX: &str = "bugfeed";

/// What a process counts. A clone shares the same counters.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Registry>);

impl Metrics {
    /// The metrics of these roles, under names that begin with `bugfeed_`, and those that every process has.
    pub fn of(roles: &[&dyn Register]) -> Metrics {
        let mut all = Registry::default();
        all.register_collector(Box::new(Process::new()));
        let registry = all.sub_registry_with_prefix(PREFIX);
        build::register(registry);
        for role in roles {
            role.register(registry);
        }
        Metrics(Arc::new(all))
    }

    /// The page, in the OpenMetrics text format.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail. If it did, the scraper would notice a page without its end.
        let _ = text::encode(&mut page, &self.0);
        page
    }
}

/// A histogram of durations in seconds, from 100 µs to 100 s in steps of about the square root of ten.
pub fn durations() -> Histogram {
    Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0])
}

/// A role that counts something.
pub trait Register {
    /// Adds the role's counters to the page. The counters themselves are shared, not copied.
    fn register(&self, registry: &mut Registry);
}
