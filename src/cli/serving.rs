//! Options of every role that serves clients, and how they become options of the composition.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::budget::{Budget, Budgets, SESSIONS_WITH_ALL};
use bugfeed_core::input::SessionLimits;
use bugfeed_core::replay::ReplayLimits;
use bugfeed_gateway::feed::FeedOptions;
use bugfeed_gateway::http::origins::Origin;
use bugfeed_gateway::http::routes::DEFAULT_FEED;
use bugfeed_hooks::deliver::template::Link;
use bugfeed_runtime::http::{HostName, ListenLimits};
use bugfeed_runtime::logging::LogFormat;
use bugfeed_runtime::values::{age, listen_address};
use clap::Args;

use super::access::AccessArgs;
use super::listener::ListenerArgs;
use super::millis;
use super::tls::TlsArgs;
use super::watchdog::WatchdogArgs;
use crate::compose::serving::ServingOptions;

/// Options of every part that serves clients.
#[derive(Clone, Debug, Args)]
pub struct ListenArgs {
    /// Where clients connect (WebSocket, SSE, long-poll, and the live page)
    #[arg(long, env = "BUGFEED_LISTEN", default_value = "127.0.0.1:8844", value_name = "ADDR:PORT", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Where /livez, /readyz, /metrics and, with webhooks, the API (/api) are served; keep it private
    #[arg(long, env = "BUGFEED_ADMIN_LISTEN", default_value = "127.0.0.1:8845", value_name = "ADDR:PORT", value_parser = listen_address)]
    pub admin_listen: SocketAddr,
    /// The certificate.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The hosts that clients ask for, such as feeds.example.org; repeat for more. Others are refused (421), which stops pages
    /// whose own name leads here [default: any]
    #[arg(long, env = "BUGFEED_HOST", value_name = "NAME", value_delimiter = ',')]
    pub host: Vec<HostName>,
    /// The sites whose pages may use the feed; repeat for more. '*' is any, 'none' only the gateway's own page
    #[arg(long, env = "BUGFEED_ALLOW_ORIGIN", default_value = "*", value_name = "https://HOST", value_delimiter = ',')]
    pub allow_origin: Vec<Origin>,
    /// Where the live page's links to bugs lead, with {bug} for the number; with NAME=
    /// before it, for that feed instead of default
    #[arg(long, env = "BUGFEED_TRACKER_URL", value_name = "[NAME=]URL", value_parser = tracker_url)]
    pub tracker_url: Vec<TrackerUrl>,
    /// Clients at a time; further ones are told to try later (503)
    #[arg(long, env = "BUGFEED_MAX_CONNECTIONS", default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub max_connections: u32,
    /// Who may come, how often, and through which proxies.
    #[command(flatten)]
    pub listener: ListenerArgs,
    /// Bugs one client may watch
    #[arg(long, env = "BUGFEED_MAX_SUBSCRIPTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub max_subscriptions: u32,
    /// Lets clients follow all bugs of a feed ("bugs":"all", ?bugs=all) instead of bugs that they name: for dashboards and
    /// indexes. Set it on all gateways of a feed
    #[arg(long, env = "BUGFEED_ALLOW_ALL", value_parser = clap::builder::BoolishValueParser::new())]
    pub allow_all: bool,
    /// Clients that may follow all bugs at a time, of all feeds together
    #[arg(long, env = "BUGFEED_MAX_ALL", default_value_t = SESSIONS_WITH_ALL, value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub max_all: u32,
    /// The largest message a client may send, in bytes
    #[arg(long, env = "BUGFEED_MAX_MESSAGE_BYTES", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1024..=16_777_216), hide_short_help = true)]
    pub max_message_bytes: u32,
    /// Changes one catch-up sends one by one; a longer one is cut to the newest change of each bug
    #[arg(long, env = "BUGFEED_MAX_CATCH_UP", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub max_catch_up: u32,
    /// How long a client may take to send its request's head, in ms
    #[arg(long, env = "BUGFEED_HANDSHAKE_TIMEOUT_MS", default_value_t = 10_000, value_parser = millis(), hide_short_help = true)]
    pub handshake_timeout_ms: u64,
    /// How often a client is sent a ping, in ms
    #[arg(long, env = "BUGFEED_PING_INTERVAL_MS", default_value_t = 30_000, value_parser = millis(), hide_short_help = true)]
    pub ping_interval_ms: u64,
    /// A client from which nothing came for this long, not even a pong, is dead, in ms
    #[arg(long, env = "BUGFEED_IDLE_TIMEOUT_MS", default_value_t = 75_000, value_parser = millis(), hide_short_help = true)]
    pub idle_timeout_ms: u64,
    /// A client whose socket takes nothing at all for this long is dead (slow ones are not), in ms
    #[arg(long, env = "BUGFEED_WRITE_TIMEOUT_MS", default_value_t = 30_000, value_parser = millis(), hide_short_help = true)]
    pub write_timeout_ms: u64,
    /// How long shutting down may take, in ms
    #[arg(long, env = "BUGFEED_SHUTDOWN_TIMEOUT_MS", default_value_t = 10_000, value_parser = millis(), hide_short_help = true)]
    pub shutdown_timeout_ms: u64,
    /// Over how long clients are closed when the gateway stops, each at another moment, in ms
    #[arg(long, env = "BUGFEED_DRAIN_WINDOW_MS", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(0..=3_600_000), hide_short_help = true)]
    pub drain_window_ms: u64,
    /// How long clients are still accepted after SIGTERM, in ms, while /readyz already says no: for load balancers that
    /// take a while to notice
    #[arg(long, env = "BUGFEED_DRAIN_DELAY_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600_000), hide_short_help = true)]
    pub drain_delay_ms: u64,
    /// The kernel's send buffer of a client, in bytes; bounds what a stalled client holds
    #[arg(long, env = "BUGFEED_SEND_BUFFER_BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(4096..=16_777_216), hide_short_help = true)]
    pub send_buffer_bytes: u32,
    /// Changes kept for clients that come back
    #[arg(long, env = "BUGFEED_REPLAY_MAX", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub replay_max: u64,
    /// How long changes are kept for clients that come back, such as 24h, 90m or 3600s
    #[arg(long, env = "BUGFEED_REPLAY_AGE", default_value = "24h", value_parser = age)]
    pub replay_age: Duration,
    /// Bugs whose newest change is kept however old it is
    #[arg(long, env = "BUGFEED_REPLAY_BUGS", default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000), hide_short_help = true)]
    pub replay_bugs: u32,
    /// Tasks that write to clients, for each feed [default: one for each processor]
    #[arg(long, env = "BUGFEED_SHARDS", value_parser = clap::value_parser!(u32).range(1..=1024), hide_short_help = true)]
    pub shards: Option<u32>,
    /// Who may connect.
    #[command(flatten)]
    pub access: AccessArgs,
    /// When a part of the process counts as stuck.
    #[command(flatten)]
    pub watchdog: WatchdogArgs,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// How log lines look; RUST_LOG sets what is logged (default: info)
    #[arg(long, env = "BUGFEED_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, hide_short_help = true)]
    pub log_format: LogFormat,
}

/// One `--tracker-url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerUrl {
    /// The feed's name.
    pub feed: String,
    /// The address of a bug, with `{bug}` for its number.
    pub template: String,
}

pub(super) fn tracker_url(text: &str) -> Result<TrackerUrl, String> {
    let is_web = |text: &str| text.starts_with("https://") || text.starts_with("http://");
    let (feed, template) = match text.split_once('=') {
        Some((feed, template)) if !is_web(text) => (feed, template),
        _ => (DEFAULT_FEED, text),
    };
    if !is_web(template) || !template.contains("{bug}") || Link::parse(template).is_err() {
        return Err(
            "write the address of a bug with {bug} for its number: https://HOST/show_bug.cgi?id={bug}".to_owned()
        );
    }
    Ok(TrackerUrl { feed: feed.to_owned(), template: template.to_owned() })
}

/// The addresses of bugs, by feed.
pub(super) fn trackers(args: &[TrackerUrl]) -> BTreeMap<String, String> {
    args.iter().map(|tracker| (tracker.feed.clone(), tracker.template.clone())).collect()
}

impl ListenArgs {
    /// How clients are served.
    ///
    /// # Errors
    /// If two options contradict each other (which the parsers of single options cannot see); the error names both.
    pub fn serving(&self) -> Result<ServingOptions, String> {
        self.check()?;
        Ok(ServingOptions {
            listen: self.listen,
            admin_listen: self.admin_listen,
            hosts: self.host.clone(),
            tls: self.tls.load()?,
            limits: self.limits(),
            listener: self.listener.options(self.max_connections)?,
            feed: self.feed(),
            access: self.access.options(Duration::from_millis(self.handshake_timeout_ms))?,
            origins: self.allow_origin.clone(),
            trackers: trackers(&self.tracker_url),
            drain_delay: Duration::from_millis(self.drain_delay_ms),
            drain_window: Duration::from_millis(self.drain_window_ms),
            shutdown_timeout: Duration::from_millis(self.shutdown_timeout_ms),
            stuck_after: self.watchdog.stuck_after(),
        })
    }

    /// How feeds are set up.
    fn feed(&self) -> FeedOptions {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        FeedOptions {
            shards: self.shards.map_or_else(processors, |shards| shards as usize),
            replay: ReplayLimits {
                max: self.replay_max,
                age_s: u32::try_from(self.replay_age.as_secs()).unwrap_or(u32::MAX),
                bugs: self.replay_bugs as usize,
            },
            session: SessionLimits {
                subscriptions: self.max_subscriptions as usize,
                all: self.allow_all,
                catch_up: self.max_catch_up as usize,
                ping_interval_ms: self.ping_interval_ms,
                idle_timeout_ms: self.idle_timeout_ms,
                write_timeout_ms: self.write_timeout_ms,
                message_bytes: self.max_message_bytes as usize,
                ..SessionLimits::default()
            },
            budgets: Budgets { all: Arc::new(Budget::new(self.max_all as usize)), ..Budgets::default() },
            access: None,
        }
    }

    /// Bounds on the client listener's connections.
    fn limits(&self) -> ListenLimits {
        ListenLimits {
            connections: self.max_connections as usize,
            handshake_timeout: Duration::from_millis(self.handshake_timeout_ms),
            send_buffer_bytes: self.send_buffer_bytes as usize,
            unacknowledged_timeout: Duration::from_millis(self.write_timeout_ms),
            // Answers that have begun end with their sessions, which are closed within the drain window.
            grace: Duration::from_millis(self.drain_window_ms + 500),
        }
    }

    /// Checks what the parsers of single options cannot see: options that contradict each other.
    ///
    /// # Errors
    /// If two options contradict each other; the error names both.
    fn check(&self) -> Result<(), String> {
        if self.idle_timeout_ms <= self.ping_interval_ms {
            return Err(format!(
                "--idle-timeout-ms {} must be larger than --ping-interval-ms {}, or living clients would be cut",
                self.idle_timeout_ms, self.ping_interval_ms
            ));
        }
        if self.drain_window_ms >= self.shutdown_timeout_ms {
            return Err(format!(
                "--drain-window-ms {} must be smaller than --shutdown-timeout-ms {}, or clients would be cut",
                self.drain_window_ms, self.shutdown_timeout_ms
            ));
        }
        self.listener.check_ports(self.listen, self.admin_listen, self.tls.tls_cert.is_some())?;
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(format!("--listen and --admin-listen are both {}; give each its own port", self.listen));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_is_for_one_feed() {
        let named = TrackerUrl { feed: "kde".to_owned(), template: "https://x/?id={bug}".to_owned() };
        assert_eq!(tracker_url("kde=https://x/?id={bug}"), Ok(named.clone()));
        let default = TrackerUrl { feed: DEFAULT_FEED.to_owned(), ..named };
        assert_eq!(tracker_url("https://x/?id={bug}"), Ok(default));
        // Whoever makes links of it refuses this, so it is refused here.
        assert!(tracker_url("https://x y/{bug}").is_err());
    }
}
