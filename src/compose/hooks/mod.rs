//! `bugfeed hooks`: receives webhooks, publishes what they tell to RabbitMQ, and sends webhooks to endpoints.
//!
//! Goes in: checked options, bound ports, a token that stops. Comes out: nothing, or the fault that a person must mend. A
//! store or a broker that is away stops nothing, also at the start.
//!
//! Shutdown goes from the outside to the inside: 1. `/readyz` says no; 2. no new requests, and bodies that arrive get a few
//! seconds, as do requests to endpoints; 3. the service ends, so that the store has what was answered; 4. the shims finish
//! the batch in hand.
//!
//! | file | what |
//! |---|---|
//! | `start.rs` | configuration, first token, API, reload: also of the all-in-one |
//! | `shims.rs` | a shim for each feed that a source sends to |
//! | `feeds.rs` | the feeds from which endpoints are served |
//! | `rival.rs` | whether another ledger publishes to a feed's exchange |
//! | `numbers.rs` | numbers that changes got, back to the events: also of the all-in-one |

mod feeds;
pub(super) mod numbers;
mod rival;
pub(super) mod shims;
pub(super) mod start;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_gateway::events::Events;
use bugfeed_hooks::deliver::address::Rules;
use bugfeed_hooks::endpoints::EndpointsOptions;
use bugfeed_hooks::receive::spool::SpoolOptions;
use bugfeed_hooks::service::{Hooks, HooksOptions};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::http::certificates::Certificates;
use bugfeed_runtime::http::tls::ServerTls;
use bugfeed_runtime::http::{self, BindError, ConnectionEvents, Front, HostName, Hosts, ListenLimits};
use bugfeed_runtime::late::Late;
use bugfeed_runtime::metrics::{Metrics, Register};
use bugfeed_runtime::{admin, throttle::Throttle};
use bugfeed_shim::metrics::ShimsByFeed;
use bugfeed_sql::DbUrl;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::feeds::Feeds;
pub use self::shims::PublishOptions;
use self::shims::Shims;
pub use self::start::ConfigFile;
use crate::compose::taps;

/// How long an answer that has begun may still take when the listener stops: longer than the receiver waits for bodies.
pub(super) const GRACE: Duration = Duration::from_secs(4);
/// The name of the role in the answer of `/readyz`.
pub(super) const PART: &str = "hooks";
/// What is said while the store could not be opened yet.
pub(super) const STORE_AWAY: &str = "the store of the hooks is not open yet";

/// What `bugfeed hooks` needs.
#[derive(Clone, Debug)]
pub struct HooksRoleOptions {
    /// Where trackers POST.
    pub listen: SocketAddr,
    /// Where /livez, /readyz, /metrics and the API are.
    pub admin_listen: SocketAddr,
    /// The hosts that are served; all of them if there are none.
    pub hosts: Vec<HostName>,
    /// The port for senders speaks TLS, if there is a certificate.
    pub tls: Option<ServerTls>,
    /// The database of events, change tables and ledgers.
    pub store: DbUrl,
    /// The sources.
    pub config: ConfigFile,
    /// What takes requests while the store is away.
    pub spool_dir: PathBuf,
    /// Where the first token is written.
    pub token_file: PathBuf,
    /// How changes get to the broker, and from there to endpoints.
    pub publish: PublishOptions,
    /// Where endpoints may be.
    pub rules: Rules,
    /// Where people read about bugs, by feed: an address with `{bug}` for the number.
    pub trackers: BTreeMap<String, String>,
    /// Connections of senders at a time.
    pub connections: usize,
    /// How long requests are still taken after `/readyz` says no.
    pub drain_delay: Duration,
}

/// The ports of `bugfeed hooks`, bound.
#[derive(Debug)]
pub struct HooksPorts {
    senders: TcpListener,
    admin: TcpListener,
}

impl HooksPorts {
    /// Binds both ports.
    ///
    /// # Errors
    /// If an address cannot be bound; the error names the option.
    pub fn bind(options: &HooksRoleOptions) -> Result<HooksPorts, BindError> {
        let bytes = admin::LIMITS.send_buffer_bytes;
        Ok(HooksPorts {
            senders: http::bind("listen", options.listen, bytes)?,
            admin: http::bind("admin-listen", options.admin_listen, bytes)?,
        })
    }

    /// The addresses for senders and of the admin port.
    ///
    /// # Errors
    /// When the system cannot tell a socket's address.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.senders.local_addr()?, self.admin.local_addr()?))
    }
}

/// What the listeners log.
struct ListenerEvents(Throttle);

impl ConnectionEvents for ListenerEvents {
    fn accept_failed(&self, error: &std::io::Error, quiet: bool) {
        if !quiet {
            tracing::error!(%error, event = %LogEvent::AcceptFailed, "a connection could not be accepted");
        }
    }

    fn turned_away(&self, reason: &'static str) {
        if reason != "full" {
            // Anybody can cause this at will.
            tracing::debug!(reason, event = %LogEvent::ClientRefused, "a sender was turned away");
        } else if !self.0.is_quiet() {
            tracing::warn!(reason, event = %LogEvent::ClientRefused, "a sender was turned away (--max-connections)");
        }
    }
}

/// Runs `bugfeed hooks` until `stop`.
///
/// # Errors
/// Only faults that a person must mend: a wrong configuration, a store that another process has.
pub async fn run(options: HooksRoleOptions, ports: HooksPorts, stop: &CancellationToken) -> anyhow::Result<()> {
    let health = Health::new();
    let config = options.config.read()?;
    let feeds: Vec<String> = config.feeds().into_iter().map(str::to_owned).collect();
    start::look_at_sources(&config);
    if options.config.path.is_none() {
        tracing::info!(event = %LogEvent::HooksNoSource, "there is no --config, so the only source is plain, at /hooks/plain");
    }
    note_delivered_only(options.publish.exchanges.keys(), &feeds);
    let served = feeds.iter().chain(options.publish.exchanges.keys()).map(String::as_str);
    taps::check_trackers(&options.trackers, served)?;
    make_folder(&options.store)?;
    let hook_options = HooksOptions::new(config, options.store.clone(), SpoolOptions::new(options.spool_dir.clone()));
    let (no_more, connections) = (hook_options.stop.clone(), hook_options.connections.clone());
    let (hooks, first) = start::start(hook_options, &options.token_file, health.clone()).await?;
    // Only now, because a second process on one file ends here.
    let (senders_at, admin_at) = ports.addresses()?;
    tracing::info!(senders = %senders_at, admin = %admin_at, version = bugfeed_runtime::VERSION, event = %LogEvent::HooksListen, "hooks listen");

    let by_feed = ShimsByFeed::default();
    let mut shims = Shims::new(options.publish.clone(), options.store.clone(), health.clone(), by_feed.clone());
    shims.serve(feeds.iter().map(String::as_str), &hooks);
    let counted = Arc::new(Events::new());
    let delivered = Feeds::new(options.publish.clone(), options.trackers, health.clone(), Arc::clone(&counted));
    delivered.serve(feeds.iter().chain(options.publish.exchanges.keys()).map(String::as_str));
    let sending = EndpointsOptions { rules: options.rules, ..EndpointsOptions::default() };
    let endpoints = hooks.endpoints(delivered.taps(), sending);
    delivered.begin_when(endpoints.has_any());
    let (inner, inner_stop) = (TaskTracker::new(), CancellationToken::new());
    let api = Late::new(STORE_AWAY);
    let events: Arc<dyn ConnectionEvents> = Arc::new(ListenerEvents(Throttle::once_a_minute()));
    let certificates = options.tls.clone().map(|tls| Certificates::new(tls, health.clone()));
    let mut counters: Vec<&dyn Register> = vec![&hooks, &by_feed, &*counted];
    counters.extend(certificates.iter().map(|own| own as &dyn Register));
    let metrics = Metrics::of(&counters);
    let elsewhere = format!(", and the API at /api. Webhooks: {} on port {}", start::RECEIVER, senders_at.port());
    let admin_routes = admin::router_with(health.clone(), metrics, &elsewhere).merge(api.routes(&start::API_PATHS));
    health.down(PART, "starting");
    let served = Hosts::new(&options.hosts);
    inner.spawn(admin::serve_with(
        ports.admin,
        admin_routes,
        served.clone(),
        Arc::clone(&events),
        inner.clone(),
        inner_stop.clone(),
    ));
    // Senders that connect meanwhile stay in the listener's queue.
    start::once_open(&hooks, first, api, shims.matching(), &inner, &inner_stop).await;
    health.up(PART);
    let listening = CancellationToken::new();
    let limits = ListenLimits { connections: options.connections, grace: GRACE, ..admin::LIMITS };
    let routes: Router = hooks.routes().merge(endpoints.routes());
    let routes = routes.fallback(move || async move { lost(admin_at.port()) });
    if let Some(certificates) = certificates {
        inner.spawn(certificates.follow(inner_stop.clone()));
    }
    let front = Front { hosts: served, tls: options.tls };
    let serving =
        http::serve_behind(ports.senders, routes, front, limits, events, connections.clone(), listening.clone());
    connections.spawn(serving);

    until_stop(&options.config, &hooks, (&mut shims, &delivered), stop).await;
    health.down(PART, "shutting down");
    tokio::time::sleep(options.drain_delay).await;
    no_more.cancel();
    listening.cancel();
    connections.close();
    let answered = tokio::time::timeout(GRACE + Duration::from_secs(2), connections.wait());
    // Both have bounds of their own.
    let (answered, ()) = tokio::join!(answered, endpoints.stop());
    if answered.is_err() {
        tracing::warn!(event = %LogEvent::ClientsLeft, "some senders did not end in time; leaving them");
    }
    hooks.stop().await;
    delivered.stop().await;
    shims.stop().await;
    inner_stop.cancel();
    inner.close();
    // Tasks that still run end with the process; they have nothing to finish.
    let _ = tokio::time::timeout(Duration::from_secs(5), inner.wait()).await;
    Ok(())
}

/// The answer at a path where nothing is received.
fn lost(admin_port: u16) -> Response {
    let body = format!(
        "{{\"error\":\"nothing is received at this path; webhooks: {}; endpoints call POST /endpoints/ID/ready and GET \
         /endpoints/ID/changes; the API, /readyz and /metrics are on the admin port, {admin_port} (--admin-listen)\"}}\n",
        start::RECEIVER
    );
    // A body was not read.
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CONNECTION, "close")];
    (StatusCode::NOT_FOUND, headers, body).into_response()
}

/// A feed that no source sends to is delivered to endpoints. That is said, because its name may be misspelt.
fn note_delivered_only<'a>(named: impl Iterator<Item = &'a String>, feeds: &[String]) {
    for feed in named.filter(|feed| !feeds.contains(feed)) {
        let known = feeds.join(", ");
        tracing::info!(feed, known, event = %LogEvent::HooksFeedUnused, "no source sends to this feed of --feed, so it is only delivered to endpoints; or is its name misspelt?");
    }
}

/// Reads the configuration again whenever that is wished.
async fn until_stop(
    config: &ConfigFile,
    hooks: &Hooks,
    (shims, delivered): (&mut Shims, &Feeds),
    stop: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = config.again.notified() => {}
        }
        if config.reload(hooks) {
            let config = hooks.sources().config();
            shims.serve(config.feeds(), hooks);
            delivered.serve(config.feeds());
        }
    }
}

/// Makes the folder of a store that is a file.
fn make_folder(store: &DbUrl) -> anyhow::Result<()> {
    let Some(folder) = store.file_path().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {} (--store)", folder.display()))
}
