//! Options of `bugfeed hooks` itself: the role that receives webhooks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bugfeed_amqp::{BrokerUrl, HistoryBounds, parse_url};
use bugfeed_runtime::http::HostName;
use bugfeed_runtime::values::{age, listen_address};
use bugfeed_shim::ledger::Keep;
use bugfeed_sql::DbUrl;
use clap::Args;
use clap::builder::BoolishValueParser;

use crate::cli::endpoints::EndpointArgs;
use crate::cli::gateway::{FeedArg, feed, feeds};
use crate::cli::serving::{LogArgs, TrackerUrl, tracker_url, trackers};
use crate::cli::tls::TlsArgs;
use crate::compose::hooks::{ConfigFile, HooksRoleOptions, PublishOptions};

/// Options of `hooks` without a subcommand.
#[derive(Clone, Debug, Args)]
pub struct HooksRoleArgs {
    /// Where trackers POST: /hooks/SOURCE
    #[arg(long, env = "BUGFEED_LISTEN", default_value = "127.0.0.1:8846", value_name = "ADDR:PORT", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Where /livez, /readyz, /metrics and the API are served; keep it private
    #[arg(long, env = "BUGFEED_ADMIN_LISTEN", default_value = "127.0.0.1:8847", value_name = "ADDR:PORT", value_parser = listen_address)]
    pub admin_listen: SocketAddr,
    /// The certificate.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The hosts that trackers POST to, such as hooks.example.org; repeat for more. Others are refused (421), which stops pages
    /// whose own name leads here [default: any]
    #[arg(long, env = "BUGFEED_HOST", value_name = "NAME", value_delimiter = ',')]
    pub host: Vec<HostName>,
    /// The database of received events, change tables and ledgers: sqlite:// for one process, mysql:// or postgres:// for
    /// several that share it
    #[arg(
        long,
        env = "BUGFEED_STORE",
        hide_env_values = true,
        default_value = "sqlite://data/hooks.db",
        value_name = "URL"
    )]
    pub store: DbUrl,
    /// The file with the sources: who sends, and what becomes of it; SIGHUP reads it again [default: the one source plain]
    #[arg(long, env = "BUGFEED_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the configuration, say what it would do, and end: with 0 if it can be used, with 1 if not
    #[arg(long)]
    pub check: bool,
    /// The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS
    #[arg(long, env = "BUGFEED_AMQP", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f", hide_env_values = true, value_name = "URL", value_parser = parse_url)]
    pub amqp: BrokerUrl,
    /// Takes what comes while the store is away: a folder of its own for each process, on a disk that outlives it
    #[arg(long, env = "BUGFEED_SPOOL_DIR", default_value = "data/spool", value_name = "DIR")]
    pub spool_dir: PathBuf,
    /// Another exchange for a feed than bugfeed.NAME, or a feed that no source sends to, for endpoints; repeat for more
    #[arg(long = "feed", env = "BUGFEED_FEED", value_name = "NAME=EXCHANGE", value_delimiter = ',', value_parser = feed)]
    pub feeds: Vec<FeedArg>,
    /// Where webhooks may be sent.
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Where links to bugs lead in messages to chats, with {bug} for the number; with NAME= before it, for that feed
    /// instead of default
    #[arg(long, env = "BUGFEED_TRACKER_URL", value_name = "[NAME=]URL", value_parser = tracker_url)]
    pub tracker_url: Vec<TrackerUrl>,
    /// Where the first token for the API is written, if this start makes the store
    #[arg(long, env = "BUGFEED_ADMIN_TOKEN_FILE", default_value = "data/admin.token", value_name = "FILE")]
    pub admin_token_file: PathBuf,
    /// Whether the broker keeps the feeds' changes (RabbitMQ streams), for gateways to learn what they missed
    #[arg(long, env = "BUGFEED_HISTORY", default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false", value_parser = BoolishValueParser::new())]
    pub history: bool,
    /// How long the broker keeps them, if this process creates the stream
    #[arg(long, env = "BUGFEED_STREAM_MAX_AGE", default_value = "7d", value_name = "AGE", value_parser = age, hide_short_help = true)]
    pub stream_max_age: Duration,
    /// How large a stream may become, in bytes, if this process creates it
    #[arg(long, env = "BUGFEED_STREAM_MAX_BYTES", default_value_t = 1 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1_000_000..), hide_short_help = true)]
    pub stream_max_bytes: u64,
    /// Longest pause between two looks at an idle change table, in ms; much shorter while a look takes a millisecond
    #[arg(long, env = "BUGFEED_POLL_INTERVAL_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=60_000), hide_short_help = true)]
    pub poll_interval_ms: u64,
    /// Published changes older than this are removed from the ledgers
    #[arg(long, env = "BUGFEED_LEDGER_MAX_AGE", default_value = "7d", value_name = "AGE", value_parser = age, hide_short_help = true)]
    pub ledger_max_age: Duration,
    /// Most published changes kept in a ledger
    #[arg(
        long,
        env = "BUGFEED_LEDGER_MAX_CHANGES",
        default_value_t = 1_000_000,
        value_name = "COUNT",
        hide_short_help = true
    )]
    pub ledger_max_changes: u64,
    /// Connections of senders at a time; further ones are told to try later (503)
    #[arg(long, env = "BUGFEED_MAX_CONNECTIONS", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub max_connections: u32,
    /// How long requests are still taken after SIGTERM, in ms, while /readyz already says no: for load balancers that take a
    /// while to notice
    #[arg(long, env = "BUGFEED_DRAIN_DELAY_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600_000), hide_short_help = true)]
    pub drain_delay_ms: u64,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

impl HooksRoleArgs {
    /// The options of the composition.
    ///
    /// # Errors
    /// If options contradict each other; the error names them.
    pub fn options(&self) -> Result<HooksRoleOptions, String> {
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(format!("--listen and --admin-listen are both {}; give each its own port", self.listen));
        }
        let bounds = HistoryBounds { age_s: self.stream_max_age.as_secs(), bytes: self.stream_max_bytes };
        Ok(HooksRoleOptions {
            listen: self.listen,
            admin_listen: self.admin_listen,
            hosts: self.host.clone(),
            tls: self.tls.load()?,
            store: self.store.clone(),
            config: ConfigFile { path: self.config.clone(), ..ConfigFile::default() },
            spool_dir: self.spool_dir.clone(),
            token_file: self.admin_token_file.clone(),
            publish: PublishOptions {
                amqp: self.amqp.clone(),
                exchanges: exchanges(&self.feeds)?,
                history: self.history.then_some(bounds),
                poll_interval: Duration::from_millis(self.poll_interval_ms),
                keep: Keep { age: self.ledger_max_age, max: self.ledger_max_changes },
            },
            rules: self.endpoints.rules(),
            trackers: trackers(&self.tracker_url),
            connections: self.max_connections as usize,
            drain_delay: Duration::from_millis(self.drain_delay_ms),
        })
    }
}

/// The exchanges by feed: two ledgers must not publish to one exchange.
fn exchanges(args: &[FeedArg]) -> Result<BTreeMap<String, String>, String> {
    let exchanges = feeds(args)?;
    let mut taken = BTreeSet::new();
    match exchanges.values().find(|exchange| !taken.insert(*exchange)) {
        Some(twice) => Err(format!("--feed names the exchange '{twice}' twice; give each feed an exchange of its own")),
        None => Ok(exchanges),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feed_has_an_exchange_of_its_own() {
        let arg = |text: &str| feed(text).unwrap();
        assert!(exchanges(&[arg("a=x"), arg("b=x")]).unwrap_err().contains("exchange 'x' twice"));
        assert!(exchanges(&[arg("a=x"), arg("a=y")]).unwrap_err().contains("'a' twice"));
        assert_eq!(exchanges(&[arg("a=x"), arg("b=y")]).unwrap().len(), 2);
    }
}
