//! Who works: one active shim per ledger, the others wait.
//!
//! Goes in: a ledger. Comes out: a [`Lease`], once it is this process's turn. For an SQLite ledger the system's file
//! lock decides: it ends with its process. Elsewhere the holder increments a number in the meta row every 2 s, and a
//! waiter that saw it stand still for 6 s by its own monotonic clock takes over. No wall clock is compared, and every
//! write names its term, so a holder that was only asleep cannot write any more (fencing).

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Ledger, LedgerError, Meta};
use bugfeed_sql::Value;

/// How often the holder shows that it lives.
pub(crate) const BEAT: Duration = Duration::from_secs(2);
/// How long the beat must stand still before a waiter takes over.
const SILENCE: Duration = Duration::from_secs(6);
/// How often a waiter looks.
const LOOK: Duration = Duration::from_millis(300);

/// The right to write to a ledger. Dropping it does not release it (except for SQLite's file lock).
#[derive(Debug)]
pub struct Lease {
    pub(super) ledger: Ledger,
    pub(super) term: i64,
    /// The lock is held as long as this file is open.
    _lock: Option<File>,
}

/// What a waiter has seen of the holder.
#[derive(Debug, Default)]
struct Watch {
    seen: Option<((i64, i64), Instant)>,
}

impl Watch {
    /// Whether to try to take over, given what the meta row says now.
    fn may_take(&mut self, now: Instant, held: bool, term: i64, beat: i64) -> bool {
        if !held {
            return true;
        }
        match self.seen {
            Some((same, since)) if same == (term, beat) => now.duration_since(since) >= SILENCE,
            _ => {
                self.seen = Some(((term, beat), now));
                false
            }
        }
    }
}

impl Ledger {
    /// Waits for this process's turn; `None` when stopped first. Calls `waiting` once, with the holder's name, when the
    /// lease is not free at once.
    ///
    /// # Errors
    /// When the database or the lock file cannot be used.
    pub async fn acquire(
        &self,
        stop: &CancellationToken,
        waiting: impl Fn(&str),
    ) -> Result<Option<Lease>, LedgerError> {
        let mut watch = Watch::default();
        let mut said = false;
        loop {
            if let Some(lease) = self.try_acquire(&mut watch).await? {
                return Ok(Some(lease));
            }
            if !said {
                let holder = self.meta().await?.holder;
                waiting(holder.as_deref().unwrap_or("another process"));
                said = true;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// How long it takes, at most, until a dead holder is known to be dead.
    pub(crate) fn longest_silence(&self) -> Duration {
        // The lock of a file ends with its process.
        if self.lock_path.is_some() { 2 * LOOK } else { SILENCE + 4 * LOOK }
    }

    async fn try_acquire(&self, watch: &mut Watch) -> Result<Option<Lease>, LedgerError> {
        let lock = match &self.lock_path {
            Some(path) => match lock_file(path)? {
                Some(file) => Some(file),
                None => return Ok(None),
            },
            None => None,
        };
        let Meta { term, beat, holder, .. } = self.meta().await?;
        if lock.is_none() && !watch.may_take(Instant::now(), holder.is_some(), term, beat) {
            return Ok(None);
        }
        let sql = format!(
            "UPDATE {} SET term = term + 1, beat = beat + 1, holder = ? WHERE one = 1 AND term = ? AND beat = ?",
            self.tables.meta
        );
        match self.db.execute(&sql, &[Value::Text(name()), Value::Int(term), Value::Int(beat)]).await? {
            1 => Ok(Some(Lease { ledger: self.clone(), term: term + 1, _lock: lock })),
            _ => Ok(None),
        }
    }
}

impl Lease {
    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether the holder must show that it lives.
    pub(crate) fn beats(&self) -> bool {
        self._lock.is_none()
    }

    /// Shows that this holder lives.
    ///
    /// # Errors
    /// When the database cannot be written, or another shim has taken over.
    pub async fn beat(&self) -> Result<(), LedgerError> {
        let sql = format!("UPDATE {} SET beat = beat + 1 WHERE one = 1 AND term = ?", self.ledger.tables.meta);
        match self.ledger.db.execute(&sql, &[Value::Int(self.term)]).await? {
            0 => Err(LedgerError::Fenced),
            _ => Ok(()),
        }
    }

    /// Lets the next one in at once.
    ///
    /// # Errors
    /// When the database cannot be written; the next one then waits a few seconds.
    pub async fn release(self) -> Result<(), LedgerError> {
        let sql = format!("UPDATE {} SET holder = NULL WHERE one = 1 AND term = ?", self.ledger.tables.meta);
        self.ledger.db.execute(&sql, &[Value::Int(self.term)]).await?;
        Ok(())
    }
}

fn lock_file(path: &Path) -> Result<Option<File>, LedgerError> {
    let failed = |source| LedgerError::LockFile { path: path.display().to_string(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The name of this process in the meta row, and in the log of a process that waits for it.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "unknown host" } else { host };
    format!("pid {} on {host}", std::process::id()).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_takes_over_after_silence_and_never_from_one_who_lives() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        for (seconds, held, term, beat, want) in [
            (0, true, 1, 1, false),
            (5, true, 1, 1, false),
            (5, true, 1, 2, false), // it lives
            (10, true, 1, 2, false),
            (11, true, 1, 2, true),  // 6 s of silence
            (11, true, 2, 3, false), // somebody else was quicker
            (16, true, 2, 3, false),
            (17, true, 2, 3, true),
            (17, false, 2, 4, true), // released
        ] {
            assert_eq!(watch.may_take(at(seconds), held, term, beat), want, "{seconds} s, term {term}, beat {beat}");
        }
    }
}
