//! Signals of a process that serves: SIGTERM and SIGINT stop it; SIGHUP changes nothing, or has a file read again.
//!
//! Goes in: what is to happen, and how long an orderly end may take at most. Comes out: a cancelled token, and the end of the
//! process at that time, whatever its tasks do. A thread of its own waits for signals, with a runtime of its own: a process
//! that is overloaded or stuck can still be ended.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bugfeed_protocol::log_event::LogEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The exit code of a process that was ended by a second signal.
pub const SECOND_SIGNAL: i32 = 130;
/// The exit code of a process that did not end in time by itself; `timeout(1)` has the same.
pub const NOT_IN_TIME: i32 = 124;
/// If the process cannot even exit, for example because nobody reads its log, it is killed after this time.
const EXIT_WITHIN: Duration = Duration::from_secs(2);

/// What signals do.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Cancelled at SIGTERM and SIGINT. Whoever else cancels it begins the same countdown.
    pub stop: CancellationToken,
    /// How long the process may take to end after that. Then it is ended.
    pub within: Duration,
    /// Notified at SIGHUP: something is to be read again. If there are none, that signal changes nothing, and this is logged,
    /// because people send it who hope that the options are read again; a terminal sends it when it is closed.
    pub again: Vec<Arc<Notify>>,
    /// Called at the first signal that stops.
    pub on_stop: fn(),
}

/// What came.
enum Came {
    Stop,
    Hangup,
    Cancelled,
    TooLate,
}

/// Follows these orders until the process ends. A second SIGTERM or SIGINT ends it at once.
///
/// # Errors
/// When there can be no thread, or signals cannot be listened to.
pub fn obey(orders: Orders) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot wait for signals")?;
    let signals = {
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).context("cannot wait for signals");
        [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?]
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || runtime.block_on(follow(orders, signals))).context("cannot wait for signals")?;
    Ok(())
}

async fn follow(orders: Orders, [mut terminate, mut interrupt, mut hangup]: [Signal; 3]) {
    let mut deadline = None;
    loop {
        let came = tokio::select! {
            _ = terminate.recv() => Came::Stop,
            _ = interrupt.recv() => Came::Stop,
            _ = hangup.recv() => Came::Hangup,
            () = orders.stop.cancelled(), if deadline.is_none() => Came::Cancelled,
            () = at(deadline) => Came::TooLate,
        };
        match came {
            Came::Stop if orders.stop.is_cancelled() => leave(SECOND_SIGNAL, say_second),
            Came::Stop => {
                (orders.on_stop)();
                orders.stop.cancel();
            }
            Came::Cancelled => deadline = Some(Instant::now() + orders.within),
            Came::TooLate => leave(NOT_IN_TIME, say_late),
            Came::Hangup if orders.again.is_empty() => {
                tracing::info!(event = %LogEvent::HangupIgnored, "SIGHUP: going on as before; to have options read again, restart (SIGTERM ends)");
            }
            Came::Hangup => orders.again.iter().for_each(|again| again.notify_one()),
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

fn say_second() {
    tracing::warn!(event = %LogEvent::SecondSignal, "second signal: leaving at once");
}

fn say_late() {
    tracing::error!(event = %LogEvent::StopForced, "the process did not end in the time that it may take, and is ended now; nothing that was acknowledged is lost, as after a crash");
}

/// Ends the process. Neither a log that nobody reads nor a lock that somebody holds stops that.
fn leave(code: i32, say: fn()) -> ! {
    let exit = move || {
        say();
        #[expect(clippy::exit, reason = "an orderly end was waited for, or is not wanted")]
        std::process::exit(code)
    };
    if std::thread::Builder::new().name("exit".to_owned()).spawn(exit).is_ok() {
        std::thread::sleep(EXIT_WITHIN);
    }
    loop {
        // It cannot fail: every process may kill itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
