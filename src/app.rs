//! The only place that puts parts together: builds, spawns, and joins them all at the end.
//!
//! Goes in: checked options, bound ports, and a stop. Comes out: nothing, or the fault that a person must mend.
//!
//! Stopping goes from the outside in: not ready, no new clients, close frames, wait for the clients' connections
//! (bounded), then buses, relay and shards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bugfeed_protocol::When;
use bugfeed_shim::amqp::HistoryBounds;
use bugfeed_shim::events::{Telemetry, Turn};
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_shim::log_event::LogEvent;
use bugfeed_shim::relay::{self, RelayOptions};
use bugfeed_shim::source::{self, Source, TableSpec};
use bugfeed_shim::sql::DbUrl;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::amqp::{self, AmqpOptions};
use crate::bus::local;
use crate::cli::{self, GatewayArgs, ListenArgs, ServeArgs};
use crate::events::Events;
use crate::health::{FeedHealth, Health};
use crate::http::demo::Demo;
use crate::http::listen::{self, BindError, ListenLimits};
use crate::http::ops;
use crate::http::origins::Origins;
use crate::http::routes::{self, Site};
use crate::hub::{self, Clock, Feed, HubOptions, Ingest};

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
    pub fn bind(args: &ListenArgs) -> Result<Ports, BindError> {
        Ok(Ports {
            clients: listen::bind("listen", args.listen, args.send_buffer_bytes as usize)?,
            admin: listen::bind("admin-listen", args.admin_listen, args.send_buffer_bytes as usize)?,
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

/// How long the all-in-one may take to be current before it serves clients, and turns them away until it is.
const OPENING: Duration = Duration::from_secs(2);

/// The parts of a gateway that do not depend on where changes come from.
struct Gateway {
    args: ListenArgs,
    /// How each feed is set up; they share the budgets.
    hub: HubOptions,
    feeds: BTreeMap<String, Arc<Feed>>,
    events: Arc<Events>,
    health: Health,
    /// Listeners and connections.
    clients: TaskTracker,
    /// The local bus and the admin listener.
    inner: TaskTracker,
    /// Ends what `inner` tracks, and the buses.
    inner_stop: CancellationToken,
    /// Shards, buses and the relay: their end is the process's end.
    essential: JoinSet<anyhow::Result<()>>,
}

impl Gateway {
    fn new(args: &ListenArgs, health: Health) -> Gateway {
        Gateway {
            args: args.clone(),
            hub: args.hub(),
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
    fn add_feed(&mut self, name: &str, clock: Clock) -> (Ingest, FeedHealth) {
        let parts = hub::feed(name, &self.hub, clock, &self.events);
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
    async fn run(mut self, ports: Ports, demo: Option<Demo>, stop: &CancellationToken) -> anyhow::Result<()> {
        let limits = self.args.limits();
        let trackers = self.args.tracker_url.iter().map(|tracker| (tracker.feed.clone(), tracker.template.clone()));
        let trackers: BTreeMap<String, String> = trackers.collect();
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
            origins: Origins::new(&self.args.allow_origin),
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
        let delay = Duration::from_millis(self.args.drain_delay_ms);
        if ended.is_ok() && !delay.is_zero() {
            tracing::info!(?delay, event = %LogEvent::GatewayDraining, "not ready any more; accepting clients for a while yet");
            tokio::time::sleep(delay).await;
        }
        listening.cancel();
        self.shut_down(&feeds).await;
        ended
    }

    async fn shut_down(mut self, feeds: &BTreeMap<String, Arc<Feed>>) {
        let bound = Duration::from_millis(self.args.shutdown_timeout_ms);
        let window = Duration::from_millis(self.args.drain_window_ms);
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

/// Runs `bugfeed gateway` until `stop`.
///
/// # Errors
/// What a person must mend: a refused login, an exchange of another type.
pub async fn gateway(args: &GatewayArgs, ports: Ports, stop: &CancellationToken) -> anyhow::Result<()> {
    let feeds = cli::feeds(&args.feeds).map_err(anyhow::Error::msg)?;
    let mut gateway = Gateway::new(&args.listen, Health::new());
    let clock = Clock::start();
    let alone = feeds.len() == 1;
    for (name, exchange) in feeds {
        let (ingest, health) = gateway.add_feed(&name, clock);
        let options = AmqpOptions {
            url: args.amqp.clone(),
            exchange,
            queue: args.queue_name.as_ref().map(|queue| format!("{queue}.{name}")),
            queue_max: args.queue_max,
            prefetch: args.prefetch,
            alone,
            history: args
                .history
                .then_some(HistoryBounds { age_s: args.stream_age.as_secs(), bytes: args.stream_bytes }),
        };
        let stop = gateway.inner_stop.clone();
        let bus = async move { Ok(amqp::run(options, ingest, health, stop).await?) };
        gateway.essential.spawn(bus);
    }
    gateway.run(ports, None, stop).await
}

/// Runs `bugfeed serve` until `stop`. `told` hears whose turn it is, at first and whenever that changes.
///
/// # Errors
/// What a person must mend: a data directory that cannot be used.
pub async fn serve(
    args: &ServeArgs,
    ports: Ports,
    stop: &CancellationToken,
    told: impl Fn(&Turn) + Send + 'static,
) -> anyhow::Result<()> {
    let spec = TableSpec { table: args.table.clone(), ..TableSpec::default() };
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("cannot make the data directory {} (--data-dir)", args.data_dir.display()))?;
    let table_url = DbUrl::sqlite_file(args.data_dir.join("bugfeed.db"));
    let ledger_url = DbUrl::sqlite_file(args.data_dir.join("ledger.db"));
    source::init(&table_url, &spec).await?;
    let source = Source::open(&table_url, &spec, args.timezone.clone()).await?;
    let ledger = Ledger::open(&ledger_url, &Prefix::default()).await?;

    let telemetry = Arc::new(Telemetry::default());
    let mut gateway = Gateway::new(&args.listen, Health::with_relay(Arc::clone(&telemetry)));
    let (ingest, health) = gateway.add_feed(cli::SERVE_FEED, Clock::start());
    gateway.inner.spawn(tell(telemetry.turn(), told, gateway.inner_stop.clone()));

    let (mut publisher, bus) = local::channel(args.listen.replay_max);
    let options = RelayOptions {
        poll_interval: Duration::from_millis(args.poll_interval_ms),
        wake: Arc::new(Notify::new()),
        telemetry,
        ..RelayOptions::default()
    };
    let wake = Arc::clone(&options.wake);
    let relay_stop = gateway.inner_stop.clone();
    gateway.inner.spawn(bus.run(ingest, health, Arc::clone(&options.telemetry), gateway.inner_stop.clone()));
    gateway.essential.spawn(async move {
        let relayed = relay::run(&source, &ledger, &mut publisher, &options, relay_stop).await;
        source.close().await;
        ledger.close().await;
        Ok(relayed?)
    });

    let (address, _) = ports.addresses()?;
    let demo = args.demo.unwrap_or(address.ip().is_loopback()).then(|| {
        let zone = args.timezone.clone();
        Demo::new(move |bugs| {
            let (url, spec, zone, wake) = (table_url.clone(), spec.clone(), zone.clone(), Arc::clone(&wake));
            async move {
                let when = this_second();
                source::touch(&url, &spec, &bugs, when, &zone).await.map_err(|error| error.to_string())?;
                wake.notify_one();
                Ok(when)
            }
        })
    });
    // Nobody needs to be told to come again in a moment: connections wait in the listener's queue.
    if let Some(feed) = gateway.feeds.get(cli::SERVE_FEED).map(Arc::clone) {
        let _ = tokio::time::timeout(OPENING, feed.opened()).await;
    }
    gateway.run(ports, demo, stop).await
}

/// Passes on whose turn it is.
async fn tell(mut turn: watch::Receiver<Turn>, told: impl Fn(&Turn), stop: CancellationToken) {
    loop {
        let now = turn.borrow_and_update().clone();
        if now != Turn::Starting {
            told(&now);
        }
        tokio::select! {
            changed = turn.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Now, to the second, as trackers store it.
pub fn this_second() -> When {
    let now = When::from_system_time(SystemTime::now());
    When::from_micros(now.as_micros() / 1_000_000 * 1_000_000).unwrap_or(now)
}
