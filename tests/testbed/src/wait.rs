//! Waiting for a condition. In: an async closure. Out: its first success, or an error naming what was awaited and
//! the last state seen. It is the only place of the tests that sleeps, and it never sleeps longer than needed.

use std::fmt::{Debug, Display};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// What one check of a condition may return: an `Option`, a `Result`, or a `bool`.
pub trait Outcome {
    /// The value when the condition holds.
    type Value;

    /// The value, or the state to show when time is up.
    ///
    /// # Errors
    /// When the condition does not hold yet.
    fn outcome(self) -> std::result::Result<Self::Value, String>;
}

impl<T> Outcome for Option<T> {
    type Value = T;

    fn outcome(self) -> std::result::Result<T, String> {
        self.ok_or_else(|| "nothing yet".to_owned())
    }
}

impl<T, E: Debug> Outcome for std::result::Result<T, E> {
    type Value = T;

    fn outcome(self) -> std::result::Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

impl Outcome for bool {
    type Value = ();

    fn outcome(self) -> std::result::Result<(), String> {
        if self { Ok(()) } else { Err("not true yet".to_owned()) }
    }
}

/// Checks a condition repeatedly until it holds, and returns its value. A single check that hangs counts against the
/// limit too. It uses tokio's clock: under paused time it only makes sense for conditions inside the runtime.
///
/// # Errors
/// When `limit` has passed: the message has `what` and the last state.
pub async fn eventually<F, R>(limit: Duration, what: impl Display, mut look: F) -> Result<R::Value>
where
    F: AsyncFnMut() -> R,
    R: Outcome,
{
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    let mut last = "the first look has not ended".to_owned();
    loop {
        match timeout_at(deadline, look()).await.map(Outcome::outcome) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last = state,
            Err(_) => bail!("waited {limit:?} for {what}; last state: {last} (and then a look that hung)"),
        }
        if Instant::now() + pause > deadline {
            bail!("waited {limit:?} for {what}; last state: {last}");
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
