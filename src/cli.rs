//! The command line: one struct for each subcommand, checked before anything is opened.
//!
//! Every option has an environment variable, `BUGFEED_` and its name. Options that several subcommands share are
//! groups of their own.

mod touch;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bugfeed_protocol::BugId;

use bugfeed_shim::cli::{LogFormat, age, exchange as exchange_name, with_default_command, zone};
use bugfeed_shim::source::Name;
use bugfeed_shim::usage::{listen_address, without_values};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
pub use touch::{Target, TouchArgs};
pub use watch::{ColorChoice, WatchArgs};

use crate::core::budget::Budgets;
use crate::core::input::SessionLimits;
use crate::core::replay::ReplayLimits;
use crate::http::listen::ListenLimits;
use crate::http::origins::Origin;
use crate::http::routes::{DEFAULT_FEED, RESERVED};
use crate::hub::HubOptions;

/// Tells browsers and bots which bugs have just changed.
///
/// Without a subcommand, everything runs in this one process: a change table in SQLite, the shim that numbers its rows,
/// and the gateway that pushes them to WebSocket clients.
#[derive(Debug, Parser)]
#[command(name = "bugfeed", version, max_term_width = 100)]
#[command(
    override_usage = "bugfeed [serve] [OPTIONS]\n       bugfeed gateway [OPTIONS]\n       bugfeed touch BUG... [OPTIONS]\n       bugfeed watch BUG... [OPTIONS]\n       bugfeed serve --help"
)]
#[command(after_help = "\
Try it:
  bugfeed                         start everything; the live page is at http://127.0.0.1:8844/
  bugfeed watch 1234              in a second terminal: print changes of bug 1234
  bugfeed touch 1234              in a third: change bug 1234

With a tracker's database and RabbitMQ:
  bugfeed-shim --source mysql://bugs@db/bugs --amqp amqp://rabbit/ --exchange bugfeed.default
  bugfeed gateway --amqp amqp://rabbit/ --feed default=bugfeed.default --listen 0.0.0.0:8844")]
pub struct Cli {
    /// What to do; `serve` when nothing is said.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the arguments, the program's name first. `serve` may be left out.
    ///
    /// # Errors
    /// What clap says, which includes the help that was asked for.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let mut command = without_values(Cli::command());
        let matches = command.try_get_matches_from_mut(with_default_command(args, "serve"))?;
        Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process (the default)
    ///
    /// Keeps a SQLite change table and the ledger in --data-dir. A tracker, a trigger or `bugfeed touch` writes rows
    /// into the table; clients connected to --listen hear of them.
    #[command(after_help = "\
Examples:
  bugfeed serve
  bugfeed serve --listen 0.0.0.0:8844 --data-dir /var/lib/bugfeed
  sqlite3 data/bugfeed.db \"INSERT INTO push_notify (bug_id, delta_ts) VALUES (1234, datetime('now'))\"")]
    Serve(Box<ServeArgs>),
    /// Run a gateway: changes come from RabbitMQ and go to WebSocket clients
    ///
    /// Keeps no state on disk; run as many as you like behind a load balancer. Each has queues of its own.
    #[command(after_help = "\
Examples:
  bugfeed gateway --amqp amqp://user:secret@rabbit/%2f
  bugfeed gateway --feed default=bugfeed.default --feed kde=bugfeed.kde --listen 0.0.0.0:8844
  BUGFEED_AMQP=amqps://user:secret@rabbit/ bugfeed gateway

Clients connect to ws://HOST:8844/ (feed \"default\") or ws://HOST:8844/kde/ (feed \"kde\").")]
    Gateway(Box<GatewayArgs>),
    /// Write changes into a change table, as a tracker would
    #[command(after_help = "\
Examples:
  bugfeed touch 1234
  bugfeed touch 1234 5678 --when 2014-04-03T21:13:45
  bugfeed touch 1234 --source mysql://bugs:secret@127.0.0.1/bugs --table push_notify --timezone Europe/Berlin")]
    Touch(Box<TouchArgs>),
    /// Watch bugs from a terminal or a script: print changes, or run a command for each
    ///
    /// Changes go to standard output, what happens to the connection to standard error. Reconnects by itself and catches
    /// up; where nobody can tell what was missed, says "gap": look at all of these bugs.
    #[command(after_help = watch::HELP)]
    Watch(Box<WatchArgs>),
}

/// Options of every part that serves clients.
#[derive(Clone, Debug, Args)]
pub struct ListenArgs {
    /// Where clients connect (WebSocket, SSE, long-poll, and the live page)
    #[arg(long, env = "BUGFEED_LISTEN", default_value = "127.0.0.1:8844", value_name = "ADDR:PORT", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are served; keep it private
    #[arg(long, env = "BUGFEED_ADMIN_LISTEN", default_value = "127.0.0.1:8845", value_name = "ADDR:PORT", value_parser = listen_address)]
    pub admin_listen: SocketAddr,
    /// The sites whose pages may use the feed; repeat for more. '*' is any, 'none' only the gateway's own page
    #[arg(long, env = "BUGFEED_ALLOW_ORIGIN", default_value = "*", value_name = "https://HOST", value_delimiter = ',')]
    pub allow_origin: Vec<Origin>,
    /// Where the live page's links to bugs lead, with {bug} for the number; with NAME=
    /// before it, for that feed only
    #[arg(long, env = "BUGFEED_TRACKER_URL", value_name = "[NAME=]URL", value_parser = tracker_url)]
    pub tracker_url: Vec<TrackerUrl>,
    /// Clients at a time; further ones are told to try later (503)
    #[arg(long, env = "BUGFEED_MAX_CONNECTIONS", default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub max_connections: u32,
    /// Bugs one client may watch
    #[arg(long, env = "BUGFEED_MAX_SUBSCRIPTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub max_subscriptions: u32,
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
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// How log lines look; RUST_LOG sets what is logged (default: info)
    #[arg(long, env = "BUGFEED_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, hide_short_help = true)]
    pub log_format: LogFormat,
}

/// Options of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Ports and limits.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Where the change table (bugfeed.db) and the ledger (ledger.db) are kept
    #[arg(long, env = "BUGFEED_DATA_DIR", default_value = "./data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The change table's name; made if it is not there
    #[arg(long, env = "BUGFEED_TABLE", default_value = "push_notify", value_name = "NAME")]
    pub table: Name,
    /// The zone of the times in the change table, as an IANA name
    #[arg(long, env = "BUGFEED_TIMEZONE", default_value = "UTC", value_name = "ZONE", value_parser = zone)]
    pub timezone: jiff::tz::TimeZone,
    /// How often the change table is looked at when it is idle, in ms
    #[arg(long, env = "BUGFEED_POLL_INTERVAL_MS", default_value_t = 50, value_parser = millis())]
    pub poll_interval_ms: u64,
    /// Whether the live page has a button that changes a bug [default: only if --listen is a loopback address]
    #[arg(long, env = "BUGFEED_DEMO", value_name = "true|false", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, default_missing_value = "true")]
    pub demo: Option<bool>,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of `gateway`.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// Ports and limits.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS
    #[arg(long, env = "BUGFEED_AMQP", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f", hide_env_values = true, value_name = "URL", value_parser = bugfeed_shim::amqp::parse_url)]
    pub amqp: bugfeed_shim::amqp::BrokerUrl,
    /// A feed and the exchange it comes from; repeat for more. The feed "default" is served at /, any other at /NAME/
    #[arg(long = "feed", env = "BUGFEED_FEED", default_value = "default=bugfeed.default", value_name = "NAME=EXCHANGE", value_delimiter = ',', value_parser = feed)]
    pub feeds: Vec<FeedArg>,
    /// Use durable queues named NAME.FEED instead of queues that go with the connection: nothing is lost while this
    /// gateway or the broker is away, but each gateway needs a NAME of its own, and its queues must be deleted by hand
    #[arg(long, env = "BUGFEED_QUEUE_NAME", value_name = "NAME")]
    pub queue_name: Option<String>,
    /// Whether the broker keeps the feed's history (a RabbitMQ stream), from which a gateway learns what it missed
    #[arg(long, env = "BUGFEED_HISTORY", default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false", value_parser = clap::builder::BoolishValueParser::new())]
    pub history: bool,
    /// How long the broker keeps it, where this gateway makes it
    #[arg(long, env = "BUGFEED_STREAM_AGE", default_value = "7d", value_name = "AGE", value_parser = age, hide_short_help = true)]
    pub stream_age: Duration,
    /// How large it may become, in bytes, where this gateway makes it
    #[arg(long, env = "BUGFEED_STREAM_BYTES", default_value_t = 1 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1_000_000..), hide_short_help = true)]
    pub stream_bytes: u64,
    /// Messages a queue holds before the oldest are dropped
    #[arg(long, env = "BUGFEED_QUEUE_MAX", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000), hide_short_help = true)]
    pub queue_max: u32,
    /// Messages on their way from the broker at a time
    #[arg(long, env = "BUGFEED_PREFETCH", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=65535), hide_short_help = true)]
    pub prefetch: u16,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Bugs as a person writes them: a number, or several with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BugList(Vec<BugId>);

impl FromStr for BugList {
    type Err = <BugId as FromStr>::Err;

    fn from_str(text: &str) -> Result<BugList, Self::Err> {
        let text = text.trim().trim_end_matches(',');
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(BugList)
    }
}

/// All that are named, in that order.
fn all_bugs(lists: &[BugList]) -> Vec<BugId> {
    lists.iter().flat_map(|BugList(bugs)| bugs).copied().collect()
}

/// One `--tracker-url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerUrl {
    /// The feed's name.
    pub feed: String,
    /// The address of a bug, with `{bug}` for its number.
    pub template: String,
}

/// One `--feed NAME=EXCHANGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedArg {
    /// The name in the path.
    pub name: String,
    /// Where its changes are published.
    pub exchange: String,
}

fn millis() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=86_400_000)
}

fn tracker_url(text: &str) -> Result<TrackerUrl, String> {
    let is_web = |text: &str| text.starts_with("https://") || text.starts_with("http://");
    let (feed, template) = match text.split_once('=') {
        Some((feed, template)) if !is_web(text) => (feed, template),
        _ => (DEFAULT_FEED, text),
    };
    if !is_web(template) || !template.contains("{bug}") {
        return Err(
            "write the address of a bug with {bug} for its number: https://HOST/show_bug.cgi?id={bug}".to_owned()
        );
    }
    Ok(TrackerUrl { feed: feed.to_owned(), template: template.to_owned() })
}

fn feed(text: &str) -> Result<FeedArg, String> {
    let (name, exchange) = text.split_once('=').ok_or("write NAME=EXCHANGE, such as default=bugfeed.default")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err("the feed's name is 1 to 64 of a-z, 0-9, '-' and '_' (it becomes a path: /NAME/)".to_owned());
    }
    if RESERVED.contains(&name) {
        return Err(format!("'{name}' is a path of the gateway itself; choose another name for the feed"));
    }
    Ok(FeedArg { name: name.to_owned(), exchange: exchange_name(exchange)? })
}

/// The feeds by name, each once.
///
/// # Errors
/// Names the feed that was given twice.
pub fn feeds(args: &[FeedArg]) -> Result<BTreeMap<String, String>, String> {
    let mut feeds = BTreeMap::new();
    for FeedArg { name, exchange } in args {
        if feeds.insert(name.clone(), exchange.clone()).is_some() {
            return Err(format!("--feed names '{name}' twice; give each feed a name of its own"));
        }
    }
    Ok(feeds)
}

impl ListenArgs {
    /// How feeds are set up.
    pub fn hub(&self) -> HubOptions {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        HubOptions {
            shards: self.shards.map_or_else(processors, |shards| shards as usize),
            replay: ReplayLimits {
                max: self.replay_max,
                age_s: u32::try_from(self.replay_age.as_secs()).unwrap_or(u32::MAX),
                bugs: self.replay_bugs as usize,
            },
            session: SessionLimits {
                subscriptions: self.max_subscriptions as usize,
                catch_up: self.max_catch_up as usize,
                ping_interval_ms: self.ping_interval_ms,
                idle_timeout_ms: self.idle_timeout_ms,
                write_timeout_ms: self.write_timeout_ms,
                message_bytes: self.max_message_bytes as usize,
                ..SessionLimits::default()
            },
            budgets: Budgets::default(),
        }
    }

    /// Bounds on the client listener's connections.
    pub fn limits(&self) -> ListenLimits {
        ListenLimits {
            connections: self.max_connections as usize,
            handshake_timeout: Duration::from_millis(self.handshake_timeout_ms),
            send_buffer_bytes: self.send_buffer_bytes as usize,
            unacknowledged_timeout: Duration::from_millis(self.write_timeout_ms),
            // Answers that are under way end with their sessions, which end within the window.
            grace: Duration::from_millis(self.drain_window_ms + 500),
        }
    }

    /// What the parsers of single options cannot see.
    ///
    /// # Errors
    /// Names both options.
    pub fn check(&self) -> Result<(), String> {
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
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(format!("--listen and --admin-listen are both {}; give each its own port", self.listen));
        }
        Ok(())
    }
}

/// The name of the feed that the all-in-one serves.
pub const SERVE_FEED: &str = DEFAULT_FEED;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_every_option_has_a_variable() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let all = std::iter::once(&command).chain(command.get_subcommands());
        for command in all.filter(|command| command.get_name() != "help") {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let long = arg.get_long().unwrap();
                if !matches!(long, "help" | "version") {
                    let want = format!("BUGFEED_{}", long.replace('-', "_").to_uppercase());
                    assert_eq!(arg.get_env().map(|env| env.to_string_lossy().into_owned()), Some(want));
                }
            }
        }
    }

    fn read(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::read(std::iter::once("bugfeed").chain(args.iter().copied()).map(OsString::from))
    }

    #[test]
    fn wrong_values_name_the_option_the_value_and_what_is_allowed() {
        for (args, wants) in [
            (&["--listen", "8844"][..], &["--listen", "8844", "127.0.0.1:8844", "localhost:8844"][..]),
            (&["--max-connections", "0"], &["--max-connections", "0", "1..=1000000"]),
            (&["--replay-age", "1y"], &["--replay-age", "1y", "24h"]),
            (&["--timezone", "Mars/Olympus"], &["--timezone", "Mars/Olympus", "America/Los_Angeles"]),
            (&["--table", "a;b"], &["--table", "a;b"]),
            (&["gateway", "--feed", "x"], &["--feed", "x", "NAME=EXCHANGE"]),
            (&["gateway", "--feed", "Big=x"], &["--feed", "a-z"]),
            (&["gateway", "--feed", "demo=x"], &["--feed", "another name"]),
            (&["gateway", "--amqp", "http://x"], &["--amqp", "amqp://"]),
            (&["--tracker-url", "https://x/"], &["--tracker-url", "{bug}"]),
            (&["--tracker-url", "kde=javascript:{bug}"], &["--tracker-url", "https://HOST"]),
            (&["--allow-origin", "x.example"], &["--allow-origin", "https://HOST", "'none'"]),
            (&["--allow-origin", "https://*.x.example"], &["--allow-origin", "each site in full"]),
            (&["touch", "0"], &["0", "whole number"]),
            (&["touch"], &["BUG"]),
            (&["touch", "1", "--when", "soon"], &["--when", "soon", "2014-04-03T21:13:45"]),
            (&["touch", "1", "--source", "oracle://x"], &["--source", "mysql://"]),
            (&["watch", "1", "--url", "ftp://x"], &["--url", "ws://"]),
            (&["watch", "1", "--exec", "  "], &["--exec", "{bug}"]),
            (&["watch", "1", "--exec", "echo ${bug}"], &["--exec", "$BUGFEED_BUG"]),
            (&["watch", "1", "--color", "green"], &["--color", "green", "always"]),
            (&["watch", "1", "--count", "0"], &["--count", "0"]),
        ] {
            let error = read(args).expect_err("refused").to_string();
            for want in wants {
                assert!(error.contains(want), "{args:?}: no '{want}' in: {error}");
            }
        }
        let Command::Serve(serve) = read(&["--ping-interval-ms", "100000"]).unwrap().command else { panic!() };
        assert!(serve.listen.check().unwrap_err().contains("--idle-timeout-ms"));
        let named = TrackerUrl { feed: "kde".to_owned(), template: "https://x/?id={bug}".to_owned() };
        assert_eq!(tracker_url("kde=https://x/?id={bug}"), Ok(named.clone()));
        let default = TrackerUrl { feed: DEFAULT_FEED.to_owned(), ..named };
        assert_eq!(tracker_url("https://x/?id={bug}"), Ok(default));
        let twice = [feed("a=x").unwrap(), feed("a=y").unwrap()];
        assert!(feeds(&twice).unwrap_err().contains("'a' twice"));
    }
}
