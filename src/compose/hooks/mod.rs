//! `bugfeed hooks`: receives webhooks, and publishes what they tell to RabbitMQ.
//!
//! Goes in: checked options, bound ports, a token that stops. Comes out: nothing, or the fault that a person must mend. A
//! store or a broker that is away stops nothing, also at the start.
//!
//! Shutdown goes from the outside to the inside: 1. `/readyz` says no; 2. no new requests, and bodies that arrive get a few
//! seconds; 3. the service ends, so that the store has what was answered; 4. the shims finish the batch in hand.
//!
//! | file | what |
//! |---|---|
//! | `start.rs` | configuration, first token, API, reload: also of the all-in-one |
//! | `shims.rs` | a shim for each feed |
//! | `rival.rs` | whether another ledger publishes to a feed's exchange |
//! | `numbers.rs` | numbers that changes got, back to the events: also of the all-in-one |

pub(super) mod numbers;
mod rival;
pub(super) mod shims;
pub(super) mod start;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_hooks::receive::spool::SpoolOptions;
use bugfeed_hooks::service::{Hooks, HooksOptions};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::http::{self, BindError, ConnectionEvents, ListenLimits};
use bugfeed_runtime::late::Late;
use bugfeed_runtime::metrics::Metrics;
use bugfeed_runtime::{admin, throttle::Throttle};
use bugfeed_shim::metrics::ShimsByFeed;
use bugfeed_sql::DbUrl;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::shims::PublishOptions;
use self::shims::Shims;
pub use self::start::ConfigFile;

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
    /// The database of events, change tables and ledgers.
    pub store: DbUrl,
    /// The sources.
    pub config: ConfigFile,
    /// What takes requests while the store is away.
    pub spool_dir: PathBuf,
    /// Where the first token is written.
    pub token_file: PathBuf,
    /// How changes get to the broker.
    pub publish: PublishOptions,
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
        if !self.0.is_quiet() {
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
    warn_of_unused(options.publish.exchanges.keys(), &feeds);
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
    let (inner, inner_stop) = (TaskTracker::new(), CancellationToken::new());
    let api = Late::new(STORE_AWAY);
    let events: Arc<dyn ConnectionEvents> = Arc::new(ListenerEvents(Throttle::once_a_minute()));
    let metrics = Metrics::of(&[&hooks, &by_feed]);
    let elsewhere = format!(", and the API at /api. Webhooks: {} on port {}", start::RECEIVER, senders_at.port());
    let admin_routes = admin::router_with(health.clone(), metrics, &elsewhere).merge(api.routes(&start::API_PATHS));
    health.down(PART, "starting");
    inner.spawn(admin::serve_with(ports.admin, admin_routes, Arc::clone(&events), inner.clone(), inner_stop.clone()));
    // Senders that connect meanwhile stay in the listener's queue.
    start::once_open(&hooks, first, api, shims.matching(), &inner, &inner_stop).await;
    health.up(PART);
    let listening = CancellationToken::new();
    let limits = ListenLimits { connections: options.connections, grace: GRACE, ..admin::LIMITS };
    let routes = hooks.routes().fallback(move || async move { lost(admin_at.port()) });
    let serving = http::serve(ports.senders, routes, limits, events, connections.clone(), listening.clone());
    connections.spawn(serving);

    until_stop(&options.config, &hooks, &mut shims, stop).await;
    health.down(PART, "shutting down");
    tokio::time::sleep(options.drain_delay).await;
    no_more.cancel();
    listening.cancel();
    connections.close();
    if tokio::time::timeout(GRACE + Duration::from_secs(2), connections.wait()).await.is_err() {
        tracing::warn!(event = %LogEvent::ClientsLeft, "some senders did not end in time; leaving them");
    }
    hooks.stop().await;
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
        "{{\"error\":\"nothing is received at this path; webhooks: {}; the API, /readyz and /metrics are on the admin port, \
         {admin_port} (--admin-listen)\"}}\n",
        start::RECEIVER
    );
    // A body was not read.
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CONNECTION, "close")];
    (StatusCode::NOT_FOUND, headers, body).into_response()
}

/// An exchange for a feed that no source names is probably one for a feed whose name is misspelt.
fn warn_of_unused<'a>(named: impl Iterator<Item = &'a String>, feeds: &[String]) {
    for feed in named.filter(|feed| !feeds.contains(feed)) {
        let known = feeds.join(", ");
        tracing::warn!(feed, known, event = %LogEvent::HooksFeedUnused, "--feed names a feed that no source sends to; is it misspelt?");
    }
}

/// Reads the configuration again whenever that is wished.
async fn until_stop(config: &ConfigFile, hooks: &Hooks, shims: &mut Shims, stop: &CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = config.again.notified() => {}
        }
        if config.reload(hooks) {
            let config = hooks.sources().config();
            shims.serve(config.feeds(), hooks);
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
