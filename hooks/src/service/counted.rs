//! What the service counts. The metrics page of a process is made before the service is started, where that must wait.

use std::sync::Arc;

use bugfeed_runtime::health::Health;
use bugfeed_runtime::metrics::Register;
use prometheus_client::registry::Registry;

use crate::endpoints::EndpointEvents;
use crate::receive::http::ReceiverEvents;
use crate::work::WorkEvents;

/// Counters of the receiver and of both executors. A clone shares them.
#[derive(Clone, Debug)]
pub struct Counted {
    pub(super) receiver: Arc<ReceiverEvents>,
    pub(super) work: Arc<WorkEvents>,
    pub(super) endpoints: Arc<EndpointEvents>,
}

impl Counted {
    /// All counters at zero. `health` is what `/readyz` reads.
    pub fn new(health: Health) -> Counted {
        Counted {
            receiver: Arc::new(ReceiverEvents::new(health.clone())),
            work: Arc::new(WorkEvents::new(health.clone())),
            endpoints: Arc::new(EndpointEvents::new(health)),
        }
    }
}

impl Register for Counted {
    fn register(&self, registry: &mut Registry) {
        self.receiver.register(registry);
        self.work.register(registry);
        self.endpoints.register(registry);
    }
}
