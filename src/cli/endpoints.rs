//! Options of every role that sends webhooks: where requests may go.

use bugfeed_hooks::deliver::address::Rules;
use bugfeed_hooks::deliver::network::Network;
use clap::Args;
use clap::builder::BoolishValueParser;

/// Where webhooks may be sent.
#[derive(Clone, Debug, Args)]
pub struct EndpointArgs {
    /// A network that endpoints may be in although it is not public, such as 10.0.0.0/8; repeat for more. 127.0.0.0/8 for
    /// receivers on this machine
    #[arg(long, env = "BUGFEED_ALLOW_NETWORK", value_name = "CIDR", value_delimiter = ',')]
    pub allow_network: Vec<Network>,
    /// Send webhooks to https:// only
    #[arg(long, env = "BUGFEED_HTTPS_ONLY", default_value_t = false, action = clap::ArgAction::Set, value_name = "true|false", value_parser = BoolishValueParser::new(), num_args = 0..=1, default_missing_value = "true")]
    pub https_only: bool,
}

impl EndpointArgs {
    /// Where endpoints may be.
    pub fn rules(&self) -> Rules {
        Rules { allowed: self.allow_network.clone(), https_only: self.https_only }
    }
}
