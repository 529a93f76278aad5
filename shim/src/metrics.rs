//! What a shim counts, for the metrics page of its process.

use bugfeed_runtime::metrics::Register;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One label: what the shim depends on.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PartLabel {
    pub(crate) part: &'static str,
}

/// Counters since the start, and how things are.
#[derive(Debug, Default)]
pub struct ShimMetrics {
    /// Changes that got a number.
    pub recorded: Counter,
    /// Rows that were set aside.
    pub set_aside: Counter,
    /// Rows whose deletion is known.
    pub deleted: Counter,
    /// Changes that are safely with the bus.
    pub published: Counter,
    /// Published changes removed from the ledger.
    pub pruned: Counter,
    /// Times this process began to work.
    pub terms: Counter,
    /// Times the ledger was found to be set back.
    pub new_epochs: Counter,
    /// Outages, by what did not work.
    pub(crate) outages: Family<PartLabel, Counter>,
    /// 1 for each part that works.
    pub(crate) up: Family<PartLabel, Gauge>,
    /// Changes that are recorded and not yet safely with the bus.
    pub(crate) unpublished: Gauge,
    /// 1 while this process works on its ledger, 0 while it waits for its turn.
    pub(crate) active: Gauge,
}

impl Register for ShimMetrics {
    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("shim");
        r.register("changes_recorded", "Changes that got a number in the ledger", self.recorded.clone());
        r.register(
            "rows_set_aside",
            "Rows of the change table that no change could be read from",
            self.set_aside.clone(),
        );
        r.register("rows_deleted", "Rows of the change table whose deletion is known", self.deleted.clone());
        r.register("changes_published", "Changes that are safely with the bus", self.published.clone());
        r.register("changes_pruned", "Old published changes removed from the ledger", self.pruned.clone());
        r.register("changes_unpublished", "Changes recorded and not yet safely with the bus", self.unpublished.clone());
        r.register("terms", "Times this process began to work on its ledger", self.terms.clone());
        r.register("active", "1 while this process works on its ledger, 0 while it waits", self.active.clone());
        r.register("new_epochs", "Times the ledger was found to be set back", self.new_epochs.clone());
        r.register("outages", "Times something did not work any more, by what", self.outages.clone());
        r.register("up", "1 while that works", self.up.clone());
    }
}
