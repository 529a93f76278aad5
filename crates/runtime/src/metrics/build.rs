//! Which build this is, as a metric whose value is always 1.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
    commit: &'static str,
}

/// Adds `build_info`. The commit is the one that the variable `BUGFEED_COMMIT` named when this was compiled.
pub(super) fn register(registry: &mut Registry) {
    let family = Family::<Build, Gauge>::default();
    let build = Build { version: crate::VERSION, commit: option_env!("BUGFEED_COMMIT").unwrap_or("unknown") };
    family.get_or_create(&build).set(1);
    registry.register("build_info", "1; the labels say which build this is", family);
}
