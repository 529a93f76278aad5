//! Options that say where a shim reads, records and publishes. Each may hold a password, so each can be in a file.

use bugfeed_amqp::{BrokerUrl, parse_url};
use bugfeed_runtime::secret::{in_file, secret};
use bugfeed_sql::DbUrl;
use clap::Args;

/// The database of the change table.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// Database of the change table: mysql://, mariadb://, postgres://, postgresql:// or sqlite://. @FILE reads it from a file,
    /// and {@FILE} in place of a password that
    #[arg(
        long,
        value_name = "URL",
        env = "BUGFEED_SHIM_SOURCE",
        hide_env_values = true,
        value_parser = secret(str::parse::<DbUrl>),
        required_unless_present = "source_file"
    )]
    source: Option<DbUrl>,
    /// File with the URL of --source
    #[arg(
        long,
        value_name = "FILE",
        env = "BUGFEED_SHIM_SOURCE_FILE",
        value_parser = in_file(str::parse::<DbUrl>),
        conflicts_with = "source",
        hide_short_help = true
    )]
    source_file: Option<DbUrl>,
}

impl SourceArgs {
    /// Its address.
    ///
    /// # Panics
    /// If neither option was given, which the command line does not allow.
    pub fn url(&self) -> DbUrl {
        let given = self.source_file.as_ref().or(self.source.as_ref());
        given.cloned().expect("one of them is required")
    }
}

/// Where the ledger is if no option says it; the folder is created.
pub const DEFAULT_LEDGER: &str = "sqlite://data/bugfeed-ledger.db";

/// The database of the ledger.
#[derive(Clone, Debug, Args)]
pub struct LedgerUrlArgs {
    /// Database of the ledger, one per feed: always the same one, because it holds the numbers. With mysql:// or
    /// postgres:// a standby shim can share it. @FILE, {@FILE}: as with --source
    #[arg(
        long,
        value_name = "URL",
        env = "BUGFEED_SHIM_LEDGER",
        hide_env_values = true,
        default_value = DEFAULT_LEDGER,
        value_parser = secret(str::parse::<DbUrl>)
    )]
    ledger: DbUrl,
    /// File with the URL of --ledger
    #[arg(
        long,
        value_name = "FILE",
        env = "BUGFEED_SHIM_LEDGER_FILE",
        value_parser = in_file(str::parse::<DbUrl>),
        conflicts_with = "ledger",
        hide_short_help = true
    )]
    ledger_file: Option<DbUrl>,
}

impl LedgerUrlArgs {
    /// Its address.
    pub fn url(&self) -> DbUrl {
        self.ledger_file.as_ref().unwrap_or(&self.ledger).clone()
    }
}

/// The broker.
#[derive(Clone, Debug, Args)]
pub struct BrokerArgs {
    /// The broker. %2f is the default virtual host '/'; amqps:// for TLS. @FILE, {@FILE}: as with --source
    #[arg(
        long,
        value_name = "URL",
        env = "BUGFEED_SHIM_AMQP",
        hide_env_values = true,
        default_value = "amqp://127.0.0.1:5672/%2f",
        value_parser = secret(parse_url)
    )]
    amqp: BrokerUrl,
    /// File with the URL of --amqp
    #[arg(
        long,
        value_name = "FILE",
        env = "BUGFEED_SHIM_AMQP_FILE",
        value_parser = in_file(parse_url),
        conflicts_with = "amqp",
        hide_short_help = true
    )]
    amqp_file: Option<BrokerUrl>,
}

impl BrokerArgs {
    /// Its address.
    pub fn url(&self) -> BrokerUrl {
        self.amqp_file.as_ref().unwrap_or(&self.amqp).clone()
    }
}
