//! `bugfeed gateway`: serves feeds that come from a broker.

use std::collections::BTreeMap;

use bugfeed_gateway::bus::amqp::{self, AmqpOptions};
use bugfeed_gateway::feed::Clock;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::watchdog::Watchdog;
use tokio_util::sync::CancellationToken;

use super::serving::{Gateway, Ports, ServingOptions};

/// How a gateway serves clients, and where its feeds come from.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// How clients are served.
    pub serving: ServingOptions,
    /// Where each feed comes from, by its name in the path.
    pub feeds: BTreeMap<String, AmqpOptions>,
}

/// Runs `bugfeed gateway` until `stop`.
///
/// # Errors
/// Only faults that a person must mend: a refused login, an exchange of another type.
pub async fn run(options: GatewayOptions, ports: Ports, stop: &CancellationToken) -> anyhow::Result<()> {
    let health = Health::watched_by(Watchdog::new(options.serving.stuck_after));
    let mut gateway = Gateway::new(&options.serving, health, &[])?;
    let clock = Clock::start();
    for (name, options) in options.feeds {
        let (ingest, health) = gateway.add_feed(&name, clock);
        let stop = gateway.inner_stop.clone();
        let bus = async move { Ok(Box::pin(amqp::run(options, ingest, health, stop)).await?) };
        gateway.essential.spawn(bus);
    }
    gateway.run(ports, None, stop).await
}
