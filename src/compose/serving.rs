//! What every role that serves clients shares: the listeners, the feeds, and the order of shutdown.
//!
//! Shutdown goes from the outside to the inside: 1. `/readyz` says no; 2. no new clients; 3. close frames; 4. wait for
//! the clients' connections (bounded); 5. another role in the same process ends; 6. stop buses, relay and shards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use bugfeed_core::admission::AdmissionLimits;
use bugfeed_gateway::access::file::Table;
use bugfeed_gateway::access::{AccessOptions, Gatekeeper};
use bugfeed_gateway::events::Events;
use bugfeed_gateway::feed::{self, Clock, Feed, FeedOptions, Ingest};
use bugfeed_gateway::http::demo::Demo;
use bugfeed_gateway::http::origins::{Origin, Origins};
use bugfeed_gateway::http::routes::{self, AppState, WebhookPlaces};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::admin::{self, About, AdminParts, AdminServer};
use bugfeed_runtime::health::{FeedHealth, Health};
use bugfeed_runtime::http::certificates::Certificates;
use bugfeed_runtime::http::tls::ServerTls;
use bugfeed_runtime::http::{self, BindError, ClientRules, ConnectionEvents, Front, HostName, Hosts, ListenLimits};
use bugfeed_runtime::metrics::{Metrics, Register};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{access, status, taps};

/// How a process serves clients.
#[derive(Clone, Debug)]
pub struct ServingOptions {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are.
    pub admin_listen: SocketAddr,
    /// The hosts that are served; all of them if there are none.
    pub hosts: Vec<HostName>,
    /// The port for clients speaks TLS, if there is a certificate.
    pub tls: Option<ServerTls>,
    /// Bounds on the connections of clients.
    pub limits: ListenLimits,
    /// Bounds on new connections and on those of one client, and how its address is known.
    pub listener: ListenerOptions,
    /// How each feed is set up. All feeds share the memory budgets.
    pub feed: FeedOptions,
    /// What is asked of clients; `None` lets everybody in.
    pub access: Option<AccessOptions>,
    /// Which sites' pages may use the feeds.
    pub origins: Vec<Origin>,
    /// Where the live page's links lead: the address of a bug with `{bug}` for its number, by feed.
    pub trackers: BTreeMap<String, String>,
    /// How long clients are still accepted after `/readyz` says no.
    pub drain_delay: Duration,
    /// The time over which the close frames are spread (drain).
    pub drain_window: Duration,
    /// How long to wait for clients to disconnect, at most.
    pub shutdown_timeout: Duration,
    /// A part without a sign of life for longer than this is stuck.
    pub stuck_after: Duration,
}

impl ServingOptions {
    /// How long the process may take to end when it is told to, at most: clients get their time, and each step after that a
    /// bound of its own.
    pub fn ends_within(&self) -> Duration {
        self.drain_delay + self.shutdown_timeout + REST_END + LAST
    }
}

/// What a port for clients does about whose connections they are.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Bounds; `connections` in it counts for nothing.
    pub admission: AdmissionLimits,
    /// How it learns whose they are.
    pub clients: ClientRules,
}

impl ListenerOptions {
    /// How the port meets its clients. `/readyz` shows when it is full.
    pub(super) fn front(&self, hosts: Hosts, tls: Option<ServerTls>, health: &Health) -> Front {
        let (admission, clients) = (self.admission, self.clients.clone());
        Front { hosts, tls, admission, clients, health: Some((health.clone(), "connections")) }
    }
}

/// The ports of a process, bound.
#[derive(Debug)]
pub struct Ports {
    clients: TcpListener,
    admin: TcpListener,
}

impl Ports {
    /// Binds both ports.
    ///
    /// # Errors
    /// If an address cannot be bound; the error names the option.
    pub fn bind(options: &ServingOptions) -> Result<Ports, BindError> {
        let send_buffer_bytes = options.limits.send_buffer_bytes;
        Ok(Ports {
            clients: http::bind("listen", options.listen, send_buffer_bytes)?,
            admin: http::bind("admin-listen", options.admin_listen, send_buffer_bytes)?,
        })
    }

    /// The addresses for clients and of the admin port. A port 0 is replaced by the port that the system chose.
    ///
    /// # Errors
    /// When the system cannot tell a socket's address.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.clients.local_addr()?, self.admin.local_addr()?))
    }
}

/// How long another role in this process may take to end.
pub(super) const GUEST_END: Duration = Duration::from_secs(7);
/// How long buses, shards and the admin port may take to end.
const REST_END: Duration = Duration::from_secs(2);
/// What the process may take beyond all that.
const LAST: Duration = Duration::from_secs(1);

/// Another role in the same process, as the listeners and the shutdown see it.
#[derive(Clone, Debug, Default)]
pub(super) struct Guest {
    /// Its paths on the port for clients.
    pub(super) clients: Router,
    /// Its paths on the admin port.
    pub(super) admin: Router,
    /// Where it receives webhooks, in a few words, if it does.
    pub(super) receiver: Option<&'static str>,
    /// An answer that has begun may take at least so long when the listener stops.
    pub(super) grace: Duration,
    /// Cancelled when no new requests are taken.
    pub(super) no_more: CancellationToken,
    /// Cancelled when the last request was answered: it is to end.
    pub(super) end: CancellationToken,
    /// Tracks what must have ended then.
    pub(super) tasks: TaskTracker,
}

/// The parts of a gateway that do not depend on where changes come from.
pub(super) struct Gateway {
    options: ServingOptions,
    pub(super) feeds: BTreeMap<String, Arc<Feed>>,
    /// Checks the tokens of clients, if they need some.
    keeper: Option<Arc<Gatekeeper>>,
    events: Arc<Events>,
    metrics: Metrics,
    admin_counted: admin::Counted,
    pub(super) health: Health,
    certificates: Option<Certificates>,
    /// Another role in this process, if there is one.
    pub(super) guest: Guest,
    /// Listeners and connections.
    pub(super) clients: TaskTracker,
    /// The local bus.
    pub(super) inner: TaskTracker,
    /// Stops the tasks of `inner`, the buses and the shards.
    pub(super) inner_stop: CancellationToken,
    /// Shards, buses and the relay. If one of them ends, the process ends.
    pub(super) essential: JoinSet<anyhow::Result<()>>,
}

impl Gateway {
    /// The parts of a gateway; nothing runs yet. `others` are roles of the same process that also have metrics.
    ///
    /// # Errors
    /// If a file that says who may connect cannot be used.
    pub(super) fn new(options: &ServingOptions, health: Health, others: &[&dyn Register]) -> anyhow::Result<Gateway> {
        let mut options = options.clone();
        let keeper = access::open(options.access.as_ref())?;
        options.feed.access.clone_from(&keeper);
        let events = Arc::new(Events::new());
        let certificates = options.tls.clone().map(|tls| Certificates::new(tls, health.clone()));
        let admin_counted = admin::Counted::default();
        let own: [&dyn Register; 3] = [&*events, &admin_counted, &health];
        let own = own.into_iter().chain(certificates.iter().map(|own| own as &dyn Register));
        let roles: Vec<&dyn Register> = own.chain(others.iter().copied()).collect();
        Ok(Gateway {
            options,
            keeper,
            metrics: Metrics::of(&roles),
            feeds: BTreeMap::new(),
            events,
            admin_counted,
            health,
            certificates,
            guest: Guest::default(),
            clients: TaskTracker::new(),
            inner: TaskTracker::new(),
            inner_stop: CancellationToken::new(),
            essential: JoinSet::new(),
        })
    }

    /// Adds a feed and starts its shards. Returns the ingest for its bus, and the place where the bus reports its
    /// health.
    pub(super) fn add_feed(&mut self, name: &str, clock: Clock) -> (Ingest, FeedHealth) {
        let parts = feed::feed(name, &self.options.feed, clock, &self.events);
        for (number, shard) in parts.shards.into_iter().enumerate() {
            let pulse = self.health.watchdog().pulse(format!("shard {number} of feed {name}"));
            let running = pulse.keep(shard.run(self.inner_stop.clone()));
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
        let limits = ListenLimits { grace: limits.grace.max(self.guest.grace), ..limits };
        let trackers = std::mem::take(&mut self.options.trackers);
        taps::check_trackers(&trackers, self.feeds.keys().map(String::as_str))?;
        let (clients, admin) = ports.addresses()?;
        let webhooks = self.guest.receiver.map(|receiver| WebhookPlaces { receiver, admin_port: admin.port() });
        let elsewhere = self.guest.receiver.map_or(String::new(), |receiver| {
            format!(", and the API at /api. On the port for clients, {}: webhooks ({receiver})", clients.port())
        });
        let hosts = Hosts::new(&self.options.hosts);
        let admin_routes = admin::router(About {
            role: if self.guest.receiver.is_some() { "all-in-one" } else { "gateway" },
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            elsewhere,
            facts: Some(status::facts(&self.options, &self.feeds, &self.events)),
        });
        let admin = AdminParts {
            listener: ports.admin,
            router: admin_routes.merge(admin::on_this_runtime(self.guest.admin.clone())),
            hosts: hosts.clone(),
            events: Arc::clone(&self.events) as Arc<dyn ConnectionEvents>,
            counted: self.admin_counted.clone(),
        };
        let admin = AdminServer::start(admin, &self.health).context("the admin port")?;
        let _watch = self.health.watchdog().watch().context("the watchdog")?;
        let state = AppState {
            feeds: Arc::new(std::mem::take(&mut self.feeds)),
            demo,
            trackers: Arc::new(trackers),
            origins: Origins::new(&self.options.origins),
            webhooks,
            events: Arc::clone(&self.events),
            tracker: self.clients.clone(),
        };
        let listening = CancellationToken::new();
        let feeds = Arc::clone(&state.feeds);
        self.watch_access(&feeds);
        if let Some(certificates) = self.certificates.take() {
            self.inner.spawn(certificates.follow(self.inner_stop.clone()));
        }
        let accepting = self.health.watchdog().pulse("accept loop");
        self.clients.spawn(accepting.keep(http::serve_behind(
            ports.clients,
            routes::router(state).merge(self.guest.clients.clone()),
            self.options.listener.front(hosts, self.options.tls.clone(), &self.health),
            limits,
            Arc::clone(&self.events) as Arc<dyn ConnectionEvents>,
            self.clients.clone(),
            listening.clone(),
        )));
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = self.essential.join_next() => ended.context("a part of the gateway failed").flatten(),
        };
        self.health.watchdog().leave();
        // If something failed, the end is bounded as well.
        stop.cancel();
        self.health.down("gateway", "shutting down");
        let delay = self.options.drain_delay;
        if ended.is_ok() && !delay.is_zero() {
            tracing::info!(?delay, event = %LogEvent::GatewayDraining, "not ready any more; accepting clients for a while yet");
            tokio::time::sleep(delay).await;
        }
        self.guest.no_more.cancel();
        listening.cancel();
        self.shut_down(&feeds, admin).await;
        ended
    }

    /// Has what lets clients in read again when it changes, and compares running sessions with it.
    fn watch_access(&self, feeds: &Arc<BTreeMap<String, Arc<Feed>>>) {
        let Some(keeper) = &self.keeper else { return };
        let (keeper, feeds) = (Arc::clone(keeper), Arc::clone(feeds));
        let (health, stop) = (self.health.clone(), self.inner_stop.clone());
        self.inner.spawn(async move {
            let changed = |table: Arc<Table>| {
                let feeds = Arc::clone(&feeds);
                async move {
                    for feed in feeds.values() {
                        feed.tokens_changed(&table).await;
                    }
                }
            };
            keeper.watch(health, stop, changed).await;
        });
    }

    async fn shut_down(mut self, feeds: &BTreeMap<String, Arc<Feed>>, admin: AdminServer) {
        let (bound, window) = (self.options.shutdown_timeout, self.options.drain_window);
        let polite = async {
            for feed in feeds.values() {
                feed.drain(window).await;
            }
            self.clients.close();
            self.clients.wait().await;
        };
        if tokio::time::timeout(bound, polite).await.is_err() {
            tracing::warn!(event = %LogEvent::ClientsLeft, "some clients did not go in time; leaving them");
        }
        self.guest.end.cancel();
        self.guest.tasks.close();
        // Tasks that still run end with the process, as in a crash: nothing that was answered is lost.
        let _ = tokio::time::timeout(GUEST_END, self.guest.tasks.wait()).await;
        self.inner_stop.cancel();
        self.inner.close();
        let rest = async {
            admin.stop().await;
            self.inner.wait().await;
            while self.essential.join_next().await.is_some() {}
        };
        // Tasks that still run end with the process; they have nothing to finish.
        let _ = tokio::time::timeout(REST_END, rest).await;
    }
}
