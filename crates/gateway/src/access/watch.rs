//! Keeps what the gatekeeper knows up to date: reads files again when they change, and asks for keys.
//!
//! Goes in: the files, SIGHUP (through a notification), the clock. Comes out: a newer table of tokens, for running sessions to be
//! compared with; newer keys; a warning on `/readyz` where something is wrong.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::file::Table;
use super::{Gatekeeper, now_ms, read_tokens};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The part of `/readyz` that tells of files.
const FILES: &str = "access";
/// The part of `/readyz` that tells of keys at a URL.
const KEYS: &str = "access keys";

/// What shows that a file is another one. A link to another file counts, too: that is how Kubernetes changes secrets.
pub(super) type Look = Option<(u64, u64, Option<SystemTime>)>;

pub(super) fn look(path: &Path) -> Look {
    let data = std::fs::metadata(path).ok()?;
    Some((data.ino(), data.len(), data.modified().ok()))
}

impl Gatekeeper {
    /// Runs until `stop`. `changed` is told of each new table of tokens, and must pass it on
    /// to running sessions.
    pub async fn watch<F: Future<Output = ()>>(
        self: Arc<Self>,
        health: Health,
        stop: CancellationToken,
        changed: impl Fn(Arc<Table>) -> F,
    ) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let files = || self.tokens.iter().chain(self.signed.iter().flat_map(|keys| keys.options().files()));
        let mut seen = self.read.clone();
        let mut ask_at = self.signed.as_ref().filter(|keys| keys.are_away_from_here()).map(|_| Instant::now());
        loop {
            let is_asked = tokio::select! {
                _ = looks.tick() => false,
                () = self.again.notified() => true,
                () = stop.cancelled() => return,
            };
            let now: Vec<Look> = files().map(|path| look(path)).collect();
            if is_asked || now != seen {
                seen = now;
                self.read_again(&health, &changed).await;
            }
            if let Some(keys) = self.signed.as_ref().filter(|_| ask_at.is_some_and(|at| Instant::now() >= at)) {
                ask_at = Some(Instant::now() + keys.refresh_every());
                if let Err(error) = keys.refresh().await {
                    // It is tried again sooner than at its usual time.
                    ask_at = Some(Instant::now() + keys.refresh_every().min(Duration::from_secs(30)));
                    warn!(%error, event = %LogEvent::TokenKeysAway, "the keys of --jwt-keys cannot be had; going on with those that are known");
                }
            }
            match self.signed.as_ref().and_then(super::Keys::trouble) {
                Some(text) => health.warn(KEYS, text),
                None => health.calm(KEYS),
            }
            self.tickets.forget_old(now_ms());
        }
    }

    async fn read_again<F: Future<Output = ()>>(&self, health: &Health, changed: &impl Fn(Arc<Table>) -> F) {
        let table = self.tokens.as_deref().map(read_tokens).transpose();
        let keys = self.signed.as_ref().map_or(Ok(()), super::Keys::read_again);
        let mut faults = Vec::new();
        match table {
            Ok(Some(table)) => {
                let count = table.len();
                info!(tokens = count, event = %LogEvent::TokensRead, "the file with tokens was read again");
                changed(self.replace_table(table)).await;
            }
            Ok(None) => {}
            Err(error) => faults.push(error),
        }
        faults.extend(keys.err());
        if faults.is_empty() {
            return health.calm(FILES);
        }
        let error = faults.join("; ");
        warn!(error, event = %LogEvent::TokensRefused, "what lets clients in was read again and is wrong; what was read before goes on");
        health.warn(FILES, format!("{error}; what was read before goes on"));
    }
}
