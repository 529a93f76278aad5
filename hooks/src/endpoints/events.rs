//! What the executor of endpoints logs and counts, and whom it tells.

use std::fmt;
use std::sync::Arc;

use bugfeed_runtime::health::Health;
use bugfeed_runtime::metrics::Register;
use prometheus_client::registry::Registry;

/// Hands an alert to whoever wants to know: a word of `[[notify]]`'s `on`, the cause, and a sentence. It must not block.
pub type Raise = Arc<dyn Fn(&'static str, &str, String) + Send + Sync>;

/// The counters of the executor, and its words in log, alerts and readiness.
pub struct EndpointEvents {
    health: Health,
}

impl EndpointEvents {
    /// All counters at zero. `health` is what `/readyz` reads.
    pub fn new(health: Health) -> EndpointEvents {
        EndpointEvents { health }
    }
}

impl fmt::Debug for EndpointEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointEvents")
    }
}

impl Register for EndpointEvents {
    fn register(&self, _registry: &mut Registry) {
        self.health.calm("endpoints");
    }
}
