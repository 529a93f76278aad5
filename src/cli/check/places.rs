//! The addresses that `bugfeed check` looks at, by the names, variables and files that the parts themselves have.

use bugfeed_amqp::{BrokerUrl, parse_url};
use bugfeed_runtime::secret::{in_file, secret};
use bugfeed_sql::DbUrl;
use clap::Args;

/// Addresses that may hold a password.
#[derive(Clone, Debug, Args)]
pub struct PlacesArgs {
    /// The database of the change table, with the shim's user
    #[arg(long, env = "BUGFEED_SHIM_SOURCE", hide_env_values = true, value_name = "URL", value_parser = secret(str::parse::<DbUrl>))]
    source: Option<DbUrl>,
    /// File with the URL of --source
    #[arg(long, env = "BUGFEED_SHIM_SOURCE_FILE", value_name = "FILE", value_parser = in_file(str::parse::<DbUrl>), conflicts_with = "source", hide_short_help = true)]
    source_file: Option<DbUrl>,
    /// The database of the ledger
    #[arg(long, env = "BUGFEED_SHIM_LEDGER", hide_env_values = true, value_name = "URL", value_parser = secret(str::parse::<DbUrl>))]
    ledger: Option<DbUrl>,
    /// File with the URL of --ledger
    #[arg(long, env = "BUGFEED_SHIM_LEDGER_FILE", value_name = "FILE", value_parser = in_file(str::parse::<DbUrl>), conflicts_with = "ledger", hide_short_help = true)]
    ledger_file: Option<DbUrl>,
    /// The broker, with the user of a gateway or of the shim [default: BUGFEED_SHIM_AMQP]
    #[arg(long, env = "BUGFEED_AMQP", hide_env_values = true, value_name = "URL", value_parser = secret(parse_url))]
    amqp: Option<BrokerUrl>,
    /// File with the URL of --amqp
    #[arg(long, env = "BUGFEED_AMQP_FILE", value_name = "FILE", value_parser = in_file(parse_url), conflicts_with = "amqp", hide_short_help = true)]
    amqp_file: Option<BrokerUrl>,
    /// The shim's broker, where it is not the one of --amqp
    #[arg(long, env = "BUGFEED_SHIM_AMQP", hide_env_values = true, value_name = "URL", value_parser = secret(parse_url), hide = true)]
    shim_amqp: Option<BrokerUrl>,
    /// File with the URL of --shim-amqp
    #[arg(long, env = "BUGFEED_SHIM_AMQP_FILE", value_name = "FILE", value_parser = in_file(parse_url), conflicts_with = "shim_amqp", hide = true)]
    shim_amqp_file: Option<BrokerUrl>,
}

impl PlacesArgs {
    /// The database of the change table.
    pub fn source(&self) -> Option<&DbUrl> {
        self.source_file.as_ref().or(self.source.as_ref())
    }

    /// The database of the ledger.
    pub fn ledger(&self) -> Option<&DbUrl> {
        self.ledger_file.as_ref().or(self.ledger.as_ref())
    }

    /// The broker: the gateway's, and otherwise the shim's.
    pub fn broker(&self) -> Option<&BrokerUrl> {
        let of_gateway = self.amqp_file.as_ref().or(self.amqp.as_ref());
        of_gateway.or(self.shim_amqp_file.as_ref()).or(self.shim_amqp.as_ref())
    }
}
