//! The relay: change table → ledger → publisher, for as long as this process holds the ledger's lease.
//!
//! Goes in: an open source, ledger and publisher. Comes out: every committed row, numbered once and published in order.
//! Two loops that share nothing but the ledger, a wake-up, and what was recorded just now: *intake* records and deletes
//! rows whether or not the bus works; *outlet* publishes what is recorded whether or not the source works. Either may be
//! dropped at any await: what matters is in the ledger. Never gives up on anything but a lost lease, which sends it back to waiting.

mod handoff;
mod intake;
mod outlet;
mod pace;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bugfeed_protocol::When;
use bugfeed_protocol::backoff::Backoff;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{Part, Telemetry};
use crate::ledger::{Keep, Lease, Ledger, LedgerError};
use crate::publish::Publish;
use crate::source::Source;
use handoff::Handoff;

/// How long a stop waits for the batch in hand.
const LAST_ROUND: Duration = Duration::from_secs(5);

/// How the relay works.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// The longest pause between two looks at an idle table.
    pub poll_interval: Duration,
    /// The most rows recorded in one transaction, and messages published before their confirms are awaited.
    pub batch: usize,
    /// How much published history the ledger keeps.
    pub keep: Keep,
    /// Stop when the table and the ledger are drained.
    pub once: bool,
    /// With `once`: give up after this long.
    pub once_timeout: Duration,
    /// Notified by whoever knows that there are rows: look now.
    pub wake: Arc<Notify>,
    /// Logs, counters, readiness.
    pub telemetry: Arc<Telemetry>,
}

impl Default for RelayOptions {
    fn default() -> RelayOptions {
        RelayOptions {
            poll_interval: Duration::from_millis(250),
            batch: 1000,
            keep: Keep { age: Duration::from_secs(7 * 24 * 3600), max: 1_000_000 },
            once: false,
            once_timeout: Duration::from_secs(60),
            wake: Arc::new(Notify::new()),
            telemetry: Arc::new(Telemetry::default()),
        }
    }
}

/// Why the relay ended other than by being stopped.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The ledger cannot be used and waiting will not help.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// With `once`: not everything could be published in time.
    #[error(
        "not everything could be published within {seconds} s: {reason}; what was recorded is kept in the ledger and will be published by the next run"
    )]
    NotDrained {
        /// How long it tried.
        seconds: u64,
        /// What stood in the way.
        reason: String,
    },
}

/// What the loops of one term share.
struct Term<'a> {
    lease: &'a Lease,
    options: &'a RelayOptions,
    stop: &'a CancellationToken,
    /// Something was recorded, or the intake has ended.
    recorded: Notify,
    /// Changes on their way from the one loop to the other.
    handoff: Handoff,
    /// With `once`: the table is drained.
    drained: AtomicBool,
}

/// Runs until stopped (or, with [`RelayOptions::once`], until drained). A stop lets the batch in hand finish, within
/// bounds, and releases the lease.
///
/// # Errors
/// When the ledger cannot be used at all, or with `once` when time is up.
pub async fn run<P: Publish>(
    source: &Source,
    ledger: &Ledger,
    publisher: &mut P,
    options: &RelayOptions,
    stop: CancellationToken,
) -> Result<(), RelayError> {
    let working = work(source, ledger, publisher, options, &stop);
    let outcome = if options.once {
        match tokio::time::timeout(options.once_timeout, working).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let reason = options.telemetry.ready().err().unwrap_or_else(|| "still busy".to_owned());
                Err(RelayError::NotDrained { seconds: options.once_timeout.as_secs(), reason })
            }
        }
    } else {
        working.await
    };
    publisher.close().await;
    outcome
}

async fn work<P: Publish>(
    source: &Source,
    ledger: &Ledger,
    publisher: &mut P,
    options: &RelayOptions,
    stop: &CancellationToken,
) -> Result<(), RelayError> {
    let mut first = true;
    while let Some(lease) = acquire(ledger, options, stop, first).await? {
        first = false;
        let ended = term(source, &lease, publisher, options, stop).await;
        match ended {
            Err(LedgerError::Fenced) => options.telemetry.lease_lost(),
            // What this lease was for is not there any more.
            Err(e @ LedgerError::Replaced(_)) => return Err(e.into()),
            other => {
                // Bounded: a ledger that is away must not hold up the exit; the next one then waits a few seconds.
                let _ = tokio::time::timeout(Duration::from_secs(3), lease.release()).await;
                return Ok(other?);
            }
        }
    }
    Ok(())
}

/// Waits for this process's turn. `None` when stopped first.
async fn acquire(
    ledger: &Ledger,
    options: &RelayOptions,
    stop: &CancellationToken,
    first: bool,
) -> Result<Option<Lease>, LedgerError> {
    let telemetry = &options.telemetry;
    let mut backoff = Backoff::SERVER;
    loop {
        let waiting = |holder: &str| telemetry.down(Part::Lease, &format!("the ledger is held by {holder}"));
        match ledger.acquire(stop, waiting).await {
            Ok(lease) => {
                telemetry.up(Part::Ledger);
                telemetry.up(Part::Lease);
                return Ok(lease);
            }
            Err(e) if first && !e.may_heal() => return Err(e),
            Err(e) => telemetry.down(Part::Ledger, &e),
        }
        if pause(backoff.next(rand::random()), stop).await {
            return Ok(None);
        }
    }
}

async fn term<P: Publish>(
    source: &Source,
    lease: &Lease,
    publisher: &mut P,
    options: &RelayOptions,
    stop: &CancellationToken,
) -> Result<(), LedgerError> {
    let term = Term {
        lease,
        options,
        stop,
        recorded: Notify::new(),
        handoff: Handoff::default(),
        drained: AtomicBool::new(false),
    };
    // A stop lets the batch in hand finish, but does not wait for a database that hangs.
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ROUND).await;
    };
    let loops =
        async { tokio::try_join!(Box::pin(intake::run(&term, source)), Box::pin(outlet::run(&term, publisher))) };
    tokio::select! {
        ended = loops => ended.map(drop),
        lost = beat(lease, &options.telemetry) => Err(lost),
        () = too_late => Ok(()),
    }
}

/// Shows that this holder lives; ends only when it is not the holder any more.
async fn beat(lease: &Lease, telemetry: &Telemetry) -> LedgerError {
    if !lease.beats() {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(crate::ledger::BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match lease.beat().await {
            Ok(()) => {}
            Err(LedgerError::Fenced) => return LedgerError::Fenced,
            Err(e) => telemetry.down(Part::Ledger, &e),
        }
    }
}

/// Sleeps; whether it was stopped.
async fn pause(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(pause) => false,
    }
}

fn now() -> When {
    When::from_system_time(std::time::SystemTime::now())
}
