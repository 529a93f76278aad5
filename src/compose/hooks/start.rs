//! What belongs to hooks in every composition: its configuration, the first token, the API, and
//! reading the configuration again.
//!
//! Goes in: checked options, and a running service. Comes out: paths of the admin port that answer once the store is open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bugfeed_hooks::api::Api;
use bugfeed_hooks::api::first_token::FirstToken;
use bugfeed_hooks::config::HooksConfig;
use bugfeed_hooks::service::{Hooks, HooksOptions, StartError};
use bugfeed_hooks::store::StoreError;
use bugfeed_protocol::When;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::late::Late;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::numbers::Matching;
use crate::hooks_config;

/// Where the API is.
pub(in crate::compose) const API_PATHS: [&str; 2] = ["/api", "/api/{*rest}"];
/// Where requests come in.
pub(in crate::compose) const RECEIVER_PATHS: [&str; 3] = ["/hooks/{*rest}", "/h/{*rest}", "/public/webhook/{*rest}"];
/// Where receivers of webhooks call.
pub(in crate::compose) const ENDPOINT_PATHS: [&str; 1] = ["/endpoints/{*rest}"];

/// Where requests come in, in a few words, for who looks for it elsewhere.
pub(in crate::compose) const RECEIVER: &str = "POST /hooks/SOURCE";

/// The file with the sources, and the wish to read it again.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    /// The file; without one, there is the source `plain`.
    pub path: Option<PathBuf>,
    /// Notified when it is to be read again.
    pub again: Arc<Notify>,
}

impl ConfigFile {
    /// Reads it.
    pub(in crate::compose) fn read(&self) -> anyhow::Result<HooksConfig> {
        Ok(hooks_config::read(self.path.as_deref())?)
    }

    /// Reads it again, and has the service go by it. What is wrong is logged, and the old one goes on. Returns whether
    /// another one holds now.
    pub(in crate::compose) fn reload(&self, hooks: &Hooks) -> bool {
        let reloaded = self.read().and_then(|config| {
            look_at_sources(&config);
            Ok(hooks.reload(config)?)
        });
        if let Err(error) = &reloaded {
            let reason = format!("{error:#}");
            tracing::error!(reason, event = %LogEvent::HooksConfigRefused, "the configuration is wrong, and the one before goes on");
            hooks.refused_configuration(Some(&reason));
        } else {
            hooks.refused_configuration(None);
        }
        reloaded.is_ok()
    }
}

/// Warns of a configuration that receives nothing.
pub(in crate::compose) fn look_at_sources(config: &HooksConfig) {
    if config.sources.is_empty() {
        tracing::warn!(event = %LogEvent::HooksNoSource, "the configuration has no [[source]], so no webhook is received: give each sender a name and a preset");
    }
}

/// Starts the service, with a first token if this call makes the store.
///
/// # Errors
/// When a person must mend something.
pub(in crate::compose) async fn start(
    mut options: HooksOptions,
    token_file: &Path,
    health: Health,
) -> anyhow::Result<(Hooks, FirstToken)> {
    let first = FirstToken::prepare(token_file)?;
    options.store.first_token = Some(first.to_store(now_us()));
    match Hooks::start(options, health).await {
        Ok(hooks) => Ok((hooks, first)),
        Err(error) => {
            if matches!(error, StartError::Store(StoreError::InUse { .. })) {
                first.discard();
            }
            Err(error.into())
        }
    }
}

/// Whether only another process is in the way, which may end.
pub(in crate::compose) fn waits_for_another(error: &anyhow::Error) -> bool {
    use bugfeed_hooks::receive::spool::OpenError;
    matches!(
        error.downcast_ref::<StartError>(),
        Some(StartError::Store(StoreError::InUse { .. }) | StartError::Spool(OpenError::InUse(_)))
    )
}

/// How long a start waits for a store that is just being opened, so that the API answers as soon as the process is ready.
const OPENING: Duration = Duration::from_secs(1);

/// Once the store is open: the API answers, numbers find their way, and the first token is in its file. Waits for that for a
/// moment; a store that is away is waited for without the caller.
pub(in crate::compose) async fn once_open(
    hooks: &Hooks,
    first: FirstToken,
    api: Late,
    matching: watch::Sender<Option<Matching>>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let (opened, desk, to, stop) = (hooks.opened(), hooks.desk(), hooks.matches().clone(), stop.clone());
    let opening = tasks.spawn(async move {
        let Some((store, _)) = stop.run_until_cancelled(opened).await else { return };
        matching.send_replace(Some(Matching::new(store.clone(), to)));
        match first.settle(&store).await.context("the first token") {
            Ok(None) => {}
            Ok(Some(path)) => {
                let path = path.display();
                tracing::info!(%path, event = %LogEvent::HooksFirstToken, "the file of the first token for the API of hooks");
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(reason, event = %LogEvent::HooksFirstToken, "there is no file with the first token; the command `hooks token` makes one");
            }
        }
        api.set(Api::new(store, desk).routes());
    });
    let _ = tokio::time::timeout(OPENING, opening).await;
}

fn now_us() -> i64 {
    When::from_system_time(SystemTime::now()).as_micros()
}
