//! Which broker: for every role that has one.

use bugfeed_amqp::{BrokerUrl, parse_url};
use bugfeed_runtime::secret::{in_file, secret};
use clap::Args;

/// The broker, by its URL or by a file that holds it.
#[derive(Clone, Debug, Args)]
pub struct BrokerArgs {
    /// The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS. @FILE reads it from a file, and {@FILE} in place
    /// of the password that
    #[arg(long, env = "BUGFEED_AMQP", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f", hide_env_values = true, value_name = "URL", value_parser = secret(parse_url))]
    amqp: BrokerUrl,
    /// File with the URL of --amqp, such as a secret of a container
    #[arg(long, env = "BUGFEED_AMQP_FILE", value_name = "FILE", value_parser = in_file(parse_url), conflicts_with = "amqp", hide_short_help = true)]
    amqp_file: Option<BrokerUrl>,
}

impl BrokerArgs {
    /// Its address.
    pub fn url(&self) -> BrokerUrl {
        self.amqp_file.as_ref().unwrap_or(&self.amqp).clone()
    }
}
