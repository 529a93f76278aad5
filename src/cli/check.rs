//! Options of `bugfeed check`: where the parts of a deployment are, by the names and variables that the parts themselves have.

use bugfeed_amqp::{BrokerUrl, exchange_name, parse_url};
use bugfeed_runtime::values::zone;
use bugfeed_shim::ledger::Prefix;
use bugfeed_shim::source::TableSpec;
use bugfeed_sql::{DbUrl, Name};
use clap::Args;
use jiff::tz::TimeZone;

use super::gateway::{FeedArg, feed};
use crate::check::CheckOptions;
use crate::watch;

/// The end of the text of `--help`.
pub(super) const HELP: &str = "\
Examples:
  bugfeed check --url wss://feeds.example.org/
  set -a; . /etc/bugfeed/shim.env; . /etc/bugfeed/gateway.env; set +a
  bugfeed check --url https://feeds.example.org/ --admin-url http://127.0.0.1:8845 \\
    --admin-url http://127.0.0.1:8848

Without options it looks at the usual ports of this machine (8844 and 8845).

It reads the variables of the shim (BUGFEED_SHIM_…) and of the gateway, so run it with the
environment of the processes, as the users that they run as. What is not named is skipped. It
changes nothing: no row is written or deleted, and nothing is published.

Exit status: 0 if nothing failed (with --strict: if there is nothing to look at, either), 1 if
something did, 2 for a wrong option.";

/// Options of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The database of the change table, with the shim's user
    #[arg(long, env = "BUGFEED_SHIM_SOURCE", hide_env_values = true, value_name = "URL")]
    pub source: Option<DbUrl>,
    /// The change table
    #[arg(long, env = "BUGFEED_SHIM_TABLE", default_value = "push_notify", value_name = "NAME")]
    pub table: Name,
    /// Its auto-increment primary key
    #[arg(long, env = "BUGFEED_SHIM_ID_COLUMN", default_value = "id", value_name = "NAME", hide_short_help = true)]
    pub id_column: Name,
    /// Its column with the bug's number
    #[arg(
        long,
        env = "BUGFEED_SHIM_BUG_COLUMN",
        default_value = "bug_id",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub bug_column: Name,
    /// Its column with the time of the change
    #[arg(
        long,
        env = "BUGFEED_SHIM_WHEN_COLUMN",
        default_value = "delta_ts",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub when_column: Name,
    /// The zone of its times, as the shim is given it
    #[arg(long, env = "BUGFEED_SHIM_TIMEZONE", default_value = "UTC", value_name = "ZONE", value_parser = zone)]
    pub timezone: TimeZone,
    /// The database of the ledger
    #[arg(long, env = "BUGFEED_SHIM_LEDGER", hide_env_values = true, value_name = "URL")]
    pub ledger: Option<DbUrl>,
    /// Beginning of the ledger's table names
    #[arg(
        long,
        env = "BUGFEED_SHIM_LEDGER_PREFIX",
        default_value = "bugfeed_",
        value_name = "PREFIX",
        hide_short_help = true
    )]
    pub ledger_prefix: Prefix,
    /// The broker, with the user of a gateway or of the shim [default: BUGFEED_SHIM_AMQP]
    #[arg(long, env = "BUGFEED_AMQP", hide_env_values = true, value_name = "URL", value_parser = parse_url)]
    pub amqp: Option<BrokerUrl>,
    /// The shim's broker, where it is not the one of --amqp
    #[arg(long, env = "BUGFEED_SHIM_AMQP", hide_env_values = true, value_name = "URL", value_parser = parse_url, hide = true)]
    pub shim_amqp: Option<BrokerUrl>,
    /// The exchange to which the shim publishes
    #[arg(long, env = "BUGFEED_SHIM_EXCHANGE", default_value = "bugfeed.default", value_name = "NAME", value_parser = exchange_name)]
    pub exchange: String,
    /// The feeds of the gateways, as they are given them; the one named default, or the only one, is looked at
    #[arg(long = "feed", env = "BUGFEED_FEED", value_name = "NAME=EXCHANGE", value_delimiter = ',', value_parser = feed)]
    pub feeds: Vec<FeedArg>,
    /// The admin port of a process (http://HOST:PORT); repeat for more
    #[arg(long, env = "BUGFEED_ADMIN_URL", value_name = "URL", value_delimiter = ',')]
    pub admin_url: Vec<String>,
    /// The address that clients use, proxy and TLS included: wss://HOST/, https://HOST/NAME/
    #[arg(long, env = "BUGFEED_URL", value_name = "URL", value_parser = watch::parse_url)]
    pub url: Option<watch::GatewayUrl>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Count what a person should look at as failed
    #[arg(long)]
    pub strict: bool,
}

impl CheckArgs {
    /// Where the parts are.
    pub fn options(&self) -> CheckOptions {
        let spec = TableSpec {
            table: self.table.clone(),
            id: self.id_column.clone(),
            bug: self.bug_column.clone(),
            when: self.when_column.clone(),
        };
        let of_gateways = self.feeds.iter().find(|feed| feed.name == "default").or(self.feeds.first());
        let broker = self.amqp.as_ref().or(self.shim_amqp.as_ref());
        let is_anything_named = self.source.is_some()
            || self.ledger.is_some()
            || broker.is_some()
            || self.url.is_some()
            || !self.admin_url.is_empty();
        if !is_anything_named {
            return CheckOptions::usual();
        }
        CheckOptions {
            table: self.source.clone().map(|source| (source, spec, self.timezone.clone())),
            ledger: self.ledger.clone().map(|ledger| (ledger, self.ledger_prefix.clone())),
            broker: broker.map(|url| (url.clone(), self.exchange.clone())),
            gateways_exchange: of_gateways.map(|feed| feed.exchange.clone()),
            admin: self.admin_url.clone(),
            clients: self.url.clone(),
        }
    }
}
