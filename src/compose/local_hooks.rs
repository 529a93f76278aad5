//! Webhooks in and out in the all-in-one: their store is the file of the change tables.
//!
//! Goes in: whose turn it is to work on the data directory. Comes out: paths on the gateway's ports, which answer 503 until
//! this process has its turn, because another one has the store and the spool until then.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_hooks::api::first_token::{self, FirstToken};
use bugfeed_hooks::endpoints::{EndpointsOptions, FeedTap};
use bugfeed_hooks::service::{Hooks, HooksOptions};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::late::Late;
use bugfeed_shim::events::Turn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::hooks::numbers::Matching;
use super::hooks::start::{self, ConfigFile};
use super::hooks::{GRACE, PART, STORE_AWAY};
use super::serving::{Gateway, Guest};

/// What is said until this process has its turn.
const NOT_YET: &str = "this process does not receive webhooks yet";
/// A store that another process is about to leave is tried again after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// What receives webhooks in the all-in-one.
pub(super) struct LocalHooks {
    pub(super) options: HooksOptions,
    /// How endpoints are served.
    pub(super) sending: EndpointsOptions,
    /// The feeds, as endpoints are served from them.
    pub(super) taps: Vec<Arc<dyn FeedTap>>,
    pub(super) data_dir: PathBuf,
    pub(super) config: ConfigFile,
    /// The feeds that are served.
    pub(super) feeds: BTreeSet<String>,
    pub(super) health: Health,
    pub(super) matching: watch::Sender<Option<Matching>>,
}

impl LocalHooks {
    /// Receives as soon as it is this process's turn. The token that is returned is cancelled once it does.
    pub(super) fn start(mut self, gateway: &mut Gateway, turn: watch::Receiver<Turn>) -> CancellationToken {
        self.health.down(PART, "starting");
        let (receiver, api) = (Late::new(NOT_YET), Late::new(STORE_AWAY));
        let guest = Guest {
            clients: receiver.routes(&[&start::RECEIVER_PATHS[..], &start::ENDPOINT_PATHS].concat()),
            admin: api.routes(&start::API_PATHS),
            receiver: Some(start::RECEIVER),
            grace: GRACE,
            ..Guest::default()
        };
        self.options.stop = guest.no_more.clone();
        self.options.connections = gateway.clients.clone();
        gateway.guest = guest.clone();
        let receiving = CancellationToken::new();
        let works = guest.tasks.track_future(self.run(turn, guest.clone(), (receiver, api), receiving.clone()));
        gateway.essential.spawn(works);
        receiving
    }

    async fn run(
        self,
        turn: watch::Receiver<Turn>,
        guest: Guest,
        (receiver, api): (Late, Late),
        receiving: CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(begun) = guest.end.run_until_cancelled(self.begin(turn)).await else { return Ok(()) };
        let (hooks, first) = begun?;
        let taps = watch::Sender::new(self.taps.clone());
        let endpoints = hooks.endpoints(taps.subscribe(), self.sending.clone());
        receiver.set(hooks.routes().merge(endpoints.routes()));
        start::once_open(&hooks, first, api, self.matching.clone(), &guest.tasks, &guest.end).await;
        self.health.up(PART);
        receiving.cancel();
        self.watch_feeds(&hooks);
        loop {
            tokio::select! {
                () = guest.no_more.cancelled() => break,
                () = self.config.again.notified() => {}
            }
            if self.config.reload(&hooks) {
                self.watch_feeds(&hooks);
            }
        }
        // What has begun gets a few seconds, as clients do meanwhile.
        endpoints.stop().await;
        guest.end.cancelled().await;
        hooks.stop().await;
        Ok(())
    }

    /// Waits for this process's turn, and for the process that had it before.
    async fn begin(&self, mut turn: watch::Receiver<Turn>) -> anyhow::Result<(Hooks, FirstToken)> {
        // An error means that the process ends.
        if turn.wait_for(|turn| *turn == Turn::Working).await.is_err() {
            std::future::pending::<()>().await;
        }
        let token_file = self.data_dir.join(first_token::FILE_NAME);
        loop {
            match start::start(self.options.clone(), &token_file, self.health.clone()).await {
                Err(error) if start::waits_for_another(&error) => self.health.down(PART, format!("{error:#}")),
                started => return started,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Says which feeds of the configuration are not served, because they were not in it at the start.
    fn watch_feeds(&self, hooks: &Hooks) {
        let config = hooks.sources().config();
        let new: Vec<&str> = config.feeds().into_iter().filter(|feed| !self.feeds.contains(*feed)).collect();
        if new.is_empty() {
            self.health.calm("hooks feeds");
            return;
        }
        let feeds = new.join(", ");
        tracing::warn!(feeds, event = %LogEvent::HooksFeedLater, "these feeds are served after the next start; until then their changes wait");
        self.health.warn("hooks feeds", format!("{feeds}: served after the next start; until then their changes wait"));
    }
}
