//! The relay: change table → ledger → publisher, for as long as this process holds the ledger's lease.
//!
//! Goes in: an open source, ledger and publisher. Comes out: every committed row, numbered once and published in order.
//! Two loops that share nothing but the ledger, a wake-up, and the outbox: the *poller* records and deletes rows whether
//! or not the bus works; the *outlet* publishes what is recorded whether or not the source works. What each does next is
//! decided by its plan (`bugfeed_core::relay`); here it is carried out. Either loop may be dropped at any await, because
//! everything that matters is in the ledger. Never gives up: after a lost lease it waits for its turn again.
//!
//! A *term* is the time of one lease. Within it, each error of the ledger ends a *tenure*: everything in memory is dropped
//! and read again, since what answers now may be another server, or an older copy, with another history.

mod heads;
mod outlet;
mod poller;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bugfeed_core::relay::outbox::Outbox;
use bugfeed_protocol::When;
use bugfeed_protocol::backoff::Backoff;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{Part, Telemetry};
use crate::ledger::{Keep, Lease, Ledger, LedgerError};
use crate::publish::Publish;
use crate::source::Source;
use heads::Speaker;
use outlet::Route;

/// How long a stop waits for the batch in hand.
const LAST_ROUND: Duration = Duration::from_secs(5);
/// A tenure that lasted longer than this was a success: the next back-off begins with its shortest pause.
const SETTLED: Duration = Duration::from_secs(10);

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
    /// Wakes the poller: notified by whoever knows that there are new rows.
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
        /// What was in the way.
        reason: String,
    },
}

/// What the loops of one tenure share.
struct Term<'a> {
    lease: &'a Lease,
    options: &'a RelayOptions,
    /// Cancelled when the tenure ends, or the relay stops.
    stop: &'a CancellationToken,
    clock: Clock,
    /// Wakes the outlet: something was recorded, or may be published now, or the poller has ended.
    recorded: Notify,
    /// Changes on their way from the poller to the outlet.
    outbox: Mutex<Outbox>,
}

impl Term<'_> {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the outlet if there is news for it. Returns no event, as the answer to an action.
    fn tell_outlet<T>(&self, news: bool) -> Option<T> {
        if news {
            self.recorded.notify_one();
        }
        None
    }
}

/// A monotonic clock that starts at the beginning of a term.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
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
    let working = Box::pin(work(source, ledger, publisher, options, &stop));
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
            Err(LedgerError::Fenced) => {
                options.telemetry.lease_lost();
                publisher.rest().await;
            }
            // The ledger of this lease was replaced by another one, which has a lease of its own.
            Err(e @ LedgerError::Replaced(_)) => {
                options.telemetry.down(Part::Ledger, &e);
                publisher.rest().await;
                drop(lease);
                if !open_again(ledger, options, stop).await {
                    return Ok(());
                }
            }
            other => {
                // The time is bounded, because a ledger that is away must not delay the exit. Without the release, the next
                // shim waits a few seconds longer.
                let _ = tokio::time::timeout(Duration::from_secs(3), lease.release()).await;
                return Ok(other?);
            }
        }
    }
    Ok(())
}

/// Opens the file that has the ledger's name now. Returns false if stopped before that succeeded.
async fn open_again(ledger: &Ledger, options: &RelayOptions, stop: &CancellationToken) -> bool {
    let mut backoff = Backoff::SERVER;
    while let Err(e) = ledger.open_again().await {
        options.telemetry.down(Part::Ledger, &e);
        if pause(backoff.next(rand::random()), stop).await {
            return false;
        }
    }
    true
}

/// Waits for this process's turn. `None` if stopped before that.
async fn acquire(
    ledger: &Ledger,
    options: &RelayOptions,
    stop: &CancellationToken,
    first: bool,
) -> Result<Option<Lease>, LedgerError> {
    let telemetry = &options.telemetry;
    let mut backoff = Backoff::SERVER;
    loop {
        let waiting = |holder: &str| telemetry.lease_held(holder);
        match ledger.acquire(stop, waiting).await {
            Ok(lease) => {
                telemetry.up(Part::Ledger);
                if lease.is_some() {
                    telemetry.lease_mine();
                }
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

/// Works as long as the lease is held, in one tenure after the other.
async fn term<P: Publish>(
    source: &Source,
    lease: &Lease,
    publisher: &mut P,
    options: &RelayOptions,
    stop: &CancellationToken,
) -> Result<(), LedgerError> {
    let telemetry = &options.telemetry;
    let (speaker, clock) = (Speaker::default(), Clock(Instant::now()));
    let heads = publisher.heads();
    let mut route = Route::new(publisher, &speaker, options.batch);
    // A stop lets the batch in hand finish, but does not wait for a database that hangs.
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ROUND).await;
    };
    let tenures = async {
        let mut backoff = Backoff::SERVER;
        loop {
            let began = Instant::now();
            let e = match Box::pin(tenure(source, lease, &mut route, options, clock, stop)).await {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::NewEpoch) => continue,
                Err(e @ (LedgerError::Fenced | LedgerError::Replaced(_))) => return Err(e),
                Err(e) => e,
            };
            telemetry.down(Part::Ledger, &e);
            if began.elapsed() > SETTLED {
                backoff.reset();
            }
            if pause(backoff.next(rand::random()), stop).await {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = tenures => ended,
        lost = beat(lease, telemetry) => Err(lost),
        () = heads::say(heads, &speaker, clock, telemetry) => Ok(()),
        () = too_late => Ok(()),
    }
}

/// How a tenure ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It was stopped, or drained.
    Done,
    /// The ledger begins a new epoch.
    NewEpoch,
}

/// Reads the ledger anew, and runs the two loops until one of them gets an error from it.
async fn tenure<P: Publish>(
    source: &Source,
    lease: &Lease,
    route: &mut Route<'_, P>,
    options: &RelayOptions,
    clock: Clock,
    stop: &CancellationToken,
) -> Result<Ended, LedgerError> {
    let (meta, published) = match lease.begin().await {
        Err(e @ LedgerError::SetBack { .. }) => {
            outlet::begin_epoch(lease, &options.telemetry, &e.to_string()).await?;
            route.epoch_begun(clock);
            return Ok(Ended::NewEpoch);
        }
        begun => begun?,
    };
    lease.prune_runs().await?;
    route.publisher.begin(lease.ledger()).await?;
    let over = stop.child_token();
    let term = Term { lease, options, stop: &over, clock, recorded: Notify::new(), outbox: Mutex::default() };
    // What ended the tenure. Only the first reason counts: the other loop is stopped then, and may fail because of that.
    let first: Mutex<Option<Result<Ended, LedgerError>>> = Mutex::default();
    let note = |ended: Result<Ended, LedgerError>| {
        if !matches!(ended, Ok(Ended::Done)) {
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(ended);
            over.cancel();
        }
    };
    let taking = async { note(Box::pin(poller::run(&term, source)).await.map(|()| Ended::Done)) };
    let giving = async { note(Box::pin(outlet::run(&term, route, &meta, published)).await) };
    let late = async {
        over.cancelled().await;
        tokio::time::sleep(LAST_ROUND).await;
    };
    tokio::select! {
        _ = async { tokio::join!(taking, giving) } => {}
        () = late => {}
    }
    let ended = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    ended.unwrap_or(Ok(Ended::Done))
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

/// Sleeps this long, or until stopped. Returns whether it was stopped.
async fn pause(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(pause) => false,
    }
}

/// A random pause between half of this and all of it (jitter), so that shims that lost the same server do not all come back
/// at the same moment.
fn draw(longest_ms: u64) -> Duration {
    Duration::from_millis(longest_ms).mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

fn now() -> When {
    When::from_system_time(std::time::SystemTime::now())
}
