//! The bus over AMQP: this gateway's own queue on a feed's exchange.
//!
//! Goes in: the broker's deliveries. Comes out: the same changes in the feed, acknowledged once they are in its replay
//! cache. Connection loss is met with reconnecting for ever; clients stay connected meanwhile.

use std::time::Duration;

use bugfeed_amqp::AmqpError;
use bugfeed_protocol::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use super::carry::Carrier;
use super::connection::QueueConnection;
pub use super::options::AmqpOptions;
use crate::feed::Ingest;
use bugfeed_runtime::health::FeedHealth;

/// How long it takes until a feed that a person must mend is tried again.
const FAULT_RETRY: Duration = Duration::from_secs(30);

/// Feeds the queue to the ingest until `stop`.
///
/// # Errors
/// Only for what a person must mend, only before the first connection succeeded, and only where it stops everything: a
/// refused login, or the only feed there is. Of several feeds, one that cannot be served leaves the others alone. Never for
/// a patient one.
pub async fn run(
    options: AmqpOptions,
    ingest: Ingest,
    health: FeedHealth,
    stop: CancellationToken,
) -> Result<(), AmqpError> {
    let mut carrier = Carrier::new(&options, ingest, health);
    let mut backoff = Backoff::SERVER;
    let mut connected_before = false;
    loop {
        let attempt = tokio::select! {
            attempt = carrier.while_ticking(QueueConnection::open(&options)) => attempt,
            () = stop.cancelled() => return Ok(()),
        };
        let lost = match attempt {
            Ok(link) => {
                let place = format!("{} exchange {}", options.url, options.exchange);
                carrier.ingest.events.bus_up(&carrier.ingest.feed, &place);
                connected_before = true;
                match consume(link, &mut carrier, &mut backoff, &stop).await {
                    None => return Ok(()),
                    Some(lost) => lost,
                }
            }
            Err(error) => error,
        };
        let fault = lost.needs_a_person() && !connected_before && !options.patient;
        if fault && (options.alone || matches!(lost, AmqpError::Login { .. } | AmqpError::Tls { .. })) {
            return Err(lost);
        }
        let (events, feed) = (&carrier.ingest.events, &carrier.ingest.feed);
        if lost.needs_a_person() {
            events.feed_fault(feed, &lost);
        }
        events.bus_down(feed, &lost, backoff.failures() == 0);
        carrier.lost(&lost).await;
        let delay = backoff.next(rand::random());
        let delay = if lost.needs_a_person() { FAULT_RETRY.mul_f64(0.5 + rand::random::<f64>() / 2.0) } else { delay };
        tokio::select! {
            () = carrier.while_ticking(tokio::time::sleep(delay)) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Takes deliveries until the connection is lost (why) or `stop` (none).
async fn consume(
    mut link: QueueConnection,
    carrier: &mut Carrier<'_>,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> Option<AmqpError> {
    // The queue is bound already: what is published from now on waits there.
    let connected = tokio::select! {
        connected = carrier.connected(&mut link) => connected,
        () = stop.cancelled() => return None,
    };
    if let Err(lost) = connected {
        return Some(lost);
    }
    if let Err(lost) = carrier.carry_out(&mut link, stop).await {
        return Some(lost);
    }
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    while !stop.is_cancelled() {
        if carrier.ingest.bus.takes_deliveries() {
            backoff.reset();
        }
        if let Err(lost) = carrier.turn(&mut link, stop, stopped.as_mut()).await {
            return Some(lost);
        }
    }
    carrier.leave(link).await;
    None
}
