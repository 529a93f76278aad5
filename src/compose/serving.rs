//! What every role that serves clients has: the listeners, the feeds, and the order of shutdown.
//!
//! Stopping goes from the outside in: not ready, no new clients, close frames, wait for the clients' connections
//! (bounded), then buses, relay and shards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bugfeed_gateway::events::Events;
use bugfeed_gateway::feed::{self, Clock, Feed, FeedOptions, Ingest};
use bugfeed_gateway::health::{FeedHealth, Health};
use bugfeed_gateway::http::demo::Demo;
use bugfeed_gateway::http::listen::{self, BindError, ListenLimits};
use bugfeed_gateway::http::ops;
use bugfeed_gateway::http::origins::{Origin, Origins};
use bugfeed_gateway::http::routes::{self, Site};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a process serves clients.
#[derive(Clone, Debug)]
pub struct ServingOptions {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are.
    pub admin_listen: SocketAddr,
    /// Bounds on the connections of clients.
    pub limits: ListenLimits,
    /// How each feed is set up; they share the budgets.
    pub feed: FeedOptions,
    /// Which sites' pages may use the feeds.
    pub origins: Vec<Origin>,
    /// Where the live page's links lead: the address of a bug with `{bug}` for its number, by feed.
    pub trackers: BTreeMap<String, String>,
    /// How long clients are still accepted when the process is not ready any more.
    pub drain_delay: Duration,
    /// Over how long the close frames are spread.
    pub drain_window: Duration,
    /// The longest time for clients to go.
    pub shutdown_timeout: Duration,
}

/// The ports of a process, bound.
#[derive(Debug)]
pub struct Ports {
    clients: TcpListener,
    admin: TcpListener,
}

impl Ports {
    /// Binds both.
    ///
    /// # Errors
    /// Names the option whose address cannot be had.
    pub fn bind(options: &ServingOptions) -> Result<Ports, BindError> {
        let send_buffer_bytes = options.limits.send_buffer_bytes;
        Ok(Ports {
            clients: listen::bind("listen", options.listen, send_buffer_bytes)?,
            admin: listen::bind("admin-listen", options.admin_listen, send_buffer_bytes)?,
        })
    }

    /// Where clients connect, and the admin port: what was asked for, with the number that a port 0 became.
    ///
    /// # Errors
    /// When the sockets are not bound after all.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.clients.local_addr()?, self.admin.local_addr()?))
    }
}

/// The parts of a gateway that do not depend on where changes come from.
pub(super) struct Gateway {
    options: ServingOptions,
    pub(super) feeds: BTreeMap<String, Arc<Feed>>,
    events: Arc<Events>,
    health: Health,
    /// Listeners and connections.
    clients: TaskTracker,
    /// The local bus and the admin listener.
    pub(super) inner: TaskTracker,
    /// Ends what `inner` tracks, and the buses.
    pub(super) inner_stop: CancellationToken,
    /// Shards, buses and the relay: their end is the process's end.
    pub(super) essential: JoinSet<anyhow::Result<()>>,
}

impl Gateway {
    pub(super) fn new(options: &ServingOptions, health: Health) -> Gateway {
        Gateway {
            options: options.clone(),
            feeds: BTreeMap::new(),
            events: Arc::new(Events::new()),
            health,
            clients: TaskTracker::new(),
            inner: TaskTracker::new(),
            inner_stop: CancellationToken::new(),
            essential: JoinSet::new(),
        }
    }

    /// Adds a feed, starts its shards, and returns what its bus feeds, and where it says how it is.
    pub(super) fn add_feed(&mut self, name: &str, clock: Clock) -> (Ingest, FeedHealth) {
        let parts = feed::feed(name, &self.options.feed, clock, &self.events);
        for shard in parts.shards {
            let running = shard.run(self.inner_stop.clone());
            self.essential.spawn(async move {
                running.await;
                Ok(())
            });
        }
        self.feeds.insert(name.to_owned(), parts.feed);
        (parts.ingest, self.health.feed(name))
    }

    /// Serves until `stop`, or until something essential fails.
    pub(super) async fn run(
        mut self,
        ports: Ports,
        demo: Option<Demo>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let limits = self.options.limits;
        let trackers = std::mem::take(&mut self.options.trackers);
        if let Some(unknown) = trackers.keys().find(|name| !self.feeds.contains_key(*name)) {
            anyhow::bail!("--tracker-url is for the feed '{unknown}', which is not served here; see --feed");
        }
        let admin = ops::router(self.health.clone(), Arc::clone(&self.events));
        let admin_limits = ListenLimits { connections: 64, ..limits };
        self.inner.spawn(listen::serve(
            ports.admin,
            admin,
            admin_limits,
            Arc::clone(&self.events),
            self.inner.clone(),
            self.inner_stop.clone(),
        ));
        let site = Site {
            feeds: Arc::new(std::mem::take(&mut self.feeds)),
            demo,
            trackers: Arc::new(trackers),
            origins: Origins::new(&self.options.origins),
            events: Arc::clone(&self.events),
            tracker: self.clients.clone(),
        };
        let listening = CancellationToken::new();
        let feeds = Arc::clone(&site.feeds);
        self.clients.spawn(listen::serve(
            ports.clients,
            routes::router(site),
            limits,
            Arc::clone(&self.events),
            self.clients.clone(),
            listening.clone(),
        ));
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = self.essential.join_next() => ended.context("a part of the gateway failed").flatten(),
        };
        self.health.down("gateway", "shutting down");
        let delay = self.options.drain_delay;
        if ended.is_ok() && !delay.is_zero() {
            tracing::info!(?delay, "not ready any more; accepting clients for a while yet");
            tokio::time::sleep(delay).await;
        }
        listening.cancel();
        self.shut_down(&feeds).await;
        ended
    }

    async fn shut_down(mut self, feeds: &BTreeMap<String, Arc<Feed>>) {
        let (bound, window) = (self.options.shutdown_timeout, self.options.drain_window);
        let polite = async {
            for feed in feeds.values() {
                feed.drain(window).await;
            }
            self.clients.close();
            self.clients.wait().await;
        };
        if tokio::time::timeout(bound, polite).await.is_err() {
            tracing::warn!("some clients did not go in time; leaving them");
        }
        self.inner_stop.cancel();
        self.inner.close();
        let rest = async {
            self.inner.wait().await;
            while self.essential.join_next().await.is_some() {}
        };
        // What still runs is ended with the process; nothing of it needs finishing.
        let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
    }
}
