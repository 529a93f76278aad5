//! What a shim counts, for the metrics page of its process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bugfeed_runtime::metrics::Register;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet as NoLabels};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::events::{PARTS, Part, Telemetry};

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
    /// Rows that were in the change table when it was last read, up to `--rows`.
    pub(crate) table_rows: Gauge,
    /// When the change table was last read, in seconds since 1970.
    pub(crate) last_read: Gauge,
    /// When rows were last deleted from it.
    pub(crate) last_delete: Gauge,
    /// 1 while this process works on its ledger, 0 while it waits for its turn.
    pub(crate) active: Gauge,
}

type Counters = (&'static str, &'static str, fn(&ShimMetrics) -> &Counter);
type Gauges = (&'static str, &'static str, fn(&ShimMetrics) -> &Gauge);

/// Name, meaning, and where it is.
const COUNTERS: [Counters; 7] = [
    ("changes_recorded", "Changes that got a number in the ledger", |m| &m.recorded),
    ("rows_set_aside", "Rows of the change table that no change could be read from", |m| &m.set_aside),
    ("rows_deleted", "Rows of the change table whose deletion is known", |m| &m.deleted),
    ("changes_published", "Changes that are safely with the bus", |m| &m.published),
    ("changes_pruned", "Old published changes removed from the ledger", |m| &m.pruned),
    ("terms", "Times this process began to work on its ledger", |m| &m.terms),
    ("new_epochs", "Times the ledger was found to be set back", |m| &m.new_epochs),
];
const GAUGES: [Gauges; 5] = [
    ("table_rows", "Rows that the last look at the change table found, up to --rows", |m| &m.table_rows),
    ("last_read_timestamp_seconds", "When the change table was read last", |m| &m.last_read),
    ("last_delete_timestamp_seconds", "When the change table took an order to delete last", |m| &m.last_delete),
    ("changes_unpublished", "Changes recorded and not yet safely with the bus", |m| &m.unpublished),
    ("active", "1 while this process works on its ledger, 0 while it waits", |m| &m.active),
];
const OUTAGES: (&str, &str) = ("outages", "Times something did not work any more, by what");
const UP: (&str, &str) = ("up", "1 while that works");

impl Register for ShimMetrics {
    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("shim");
        for (name, help, of) in COUNTERS {
            r.register(name, help, of(self).clone());
        }
        for (name, help, of) in GAUGES {
            r.register(name, help, of(self).clone());
        }
        r.register(OUTAGES.0, OUTAGES.1, self.outages.clone());
        r.register(UP.0, UP.1, self.up.clone());
    }
}

/// The counters of the shims of one process. A clone is another handle of the same ones.
#[derive(Clone, Debug, Default)]
pub struct ShimsByFeed(Arc<Mutex<BTreeMap<Option<String>, Arc<Telemetry>>>>);

impl ShimsByFeed {
    /// Adds a shim, whose counters have the label `feed` with this value, or none.
    pub fn add(&self, feed: Option<&str>, telemetry: Arc<Telemetry>) {
        self.shims().insert(feed.map(str::to_owned), telemetry);
    }

    fn shims(&self) -> MutexGuard<'_, BTreeMap<Option<String>, Arc<Telemetry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, of): (&str, &str, fn(&ShimMetrics) -> &Counter),
    ) -> Result<(), std::fmt::Error> {
        let mut encoder = encoder.encode_descriptor(name, &sentence(help), None, MetricType::Counter)?;
        for (feed, shim) in &*self.shims() {
            let value = of(&shim.metrics).get();
            match feed {
                None => encoder.encode_counter::<NoLabels, _, u64>(&value, None)?,
                Some(feed) => {
                    let labels = [("feed", feed.as_str())];
                    encoder.encode_family(&labels)?.encode_counter::<NoLabels, _, u64>(&value, None)?;
                }
            }
        }
        Ok(())
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, of): (&str, &str, fn(&ShimMetrics) -> &Gauge),
    ) -> Result<(), std::fmt::Error> {
        let mut encoder = encoder.encode_descriptor(name, &sentence(help), None, MetricType::Gauge)?;
        for (feed, shim) in &*self.shims() {
            let value = of(&shim.metrics).get();
            match feed {
                None => encoder.encode_gauge(&value)?,
                Some(feed) => {
                    let labels = [("feed", feed.as_str())];
                    encoder.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }

    fn parts(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let shims = self.shims();
        let labels = |feed: &Option<String>, part: Part| {
            let mut labels = vec![("part", part.name().to_owned())];
            labels.extend(feed.iter().map(|feed| ("feed", feed.clone())));
            labels
        };
        let mut counters = encoder.encode_descriptor(OUTAGES.0, &sentence(OUTAGES.1), None, MetricType::Counter)?;
        for (feed, shim) in &*shims {
            for part in PARTS {
                let value = shim.metrics.outages.get_or_create(&PartLabel { part: part.name() }).get();
                let labels = labels(feed, part);
                counters.encode_family(&labels)?.encode_counter::<NoLabels, _, u64>(&value, None)?;
            }
        }
        let mut gauges = encoder.encode_descriptor(UP.0, &sentence(UP.1), None, MetricType::Gauge)?;
        for (feed, shim) in &*shims {
            for part in PARTS {
                let value = shim.metrics.up.get_or_create(&PartLabel { part: part.name() }).get();
                let labels = labels(feed, part);
                gauges.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

/// As the registry writes it.
fn sentence(help: &str) -> String {
    format!("{help}.")
}

impl Collector for ShimsByFeed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for counter in COUNTERS {
            self.counters(&mut encoder, counter)?;
        }
        for gauge in GAUGES {
            self.gauges(&mut encoder, gauge)?;
        }
        self.parts(&mut encoder)
    }
}

impl Register for ShimsByFeed {
    fn register(&self, registry: &mut Registry) {
        registry.sub_registry_with_prefix("shim").register_collector(Box::new(self.clone()));
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_runtime::metrics::Metrics;

    use super::*;

    #[test]
    fn several_shims_have_one_family_each() {
        let (one, kde) = (Arc::new(Telemetry::default()), Arc::new(Telemetry::default()));
        one.metrics.recorded.inc_by(3);
        kde.metrics.recorded.inc_by(4);
        kde.down(Part::Bus, &"gone");
        let page = |shims: &dyn Register| {
            let of_shims = |line: &&str| line.contains("bugfeed_shim");
            let page = Metrics::of(&[shims]).page();
            page.lines().filter(of_shims).map(|line| format!("{line}\n")).collect::<String>()
        };
        let alone = page(&one.metrics);
        let shims = ShimsByFeed::default();
        shims.add(None, one);
        let mut together: Vec<String> = page(&shims).lines().map(str::to_owned).collect();
        let mut wanted: Vec<String> = alone.lines().map(str::to_owned).collect();
        together.sort();
        wanted.sort();
        assert_eq!(together, wanted, "one alone is shown as before");
        shims.add(Some("kde"), kde);
        let page = page(&shims);
        for want in [
            "bugfeed_shim_changes_recorded_total 3",
            "bugfeed_shim_changes_recorded_total{feed=\"kde\"} 4",
            "bugfeed_shim_outages_total{part=\"bus\",feed=\"kde\"} 1",
            "bugfeed_shim_up{part=\"bus\"} 1",
            "bugfeed_shim_up{part=\"bus\",feed=\"kde\"} 0",
        ] {
            assert!(page.lines().any(|line| line == want), "no {want} in {page}");
        }
        assert_eq!(page.matches("# TYPE bugfeed_shim_up gauge").count(), 1, "{page}");
    }
}
