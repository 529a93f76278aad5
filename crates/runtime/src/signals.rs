//! Signals of a process that serves: SIGTERM and SIGINT stop it; SIGHUP changes nothing, or has a file read again.

use std::sync::Arc;

use anyhow::Context as _;
use bugfeed_protocol::log_event::LogEvent;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Cancels `stop` at SIGTERM or SIGINT. SIGHUP changes nothing (without a handler it would end the process).
///
/// # Errors
/// When the signals cannot be listened to.
pub fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    ignore_hangup()?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => return,
        }
        tracing::info!(event = %LogEvent::ShimStopping, "stopping: finishing the batch in hand");
        stop.cancel();
    });
    Ok(())
}

/// Notifies all of these at SIGHUP: something is to be read again.
///
/// # Errors
/// When the signal cannot be listened to.
pub fn notify_on_hangup(again: Vec<Arc<Notify>>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            again.iter().for_each(|again| again.notify_one());
        }
    });
    Ok(())
}

/// Ignores SIGHUP and logs that. A terminal sends it when it is closed, and people send it who hope that the options
/// are read again.
///
/// # Errors
/// When the signal cannot be listened to.
pub fn ignore_hangup() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(event = %LogEvent::HangupIgnored, "SIGHUP: going on as before; to have options read again, restart (SIGTERM ends)");
        }
    });
    Ok(())
}
