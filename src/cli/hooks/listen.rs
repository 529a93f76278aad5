//! Options of `bugfeed hooks listen`.

use std::path::PathBuf;

use bugfeed_hooks::client::Address;
use bugfeed_hooks::deliver::sign::{RANDOM_BYTES, SigningSecret};
use bugfeed_runtime::secret::{in_file, secret};
use clap::Args;

use crate::cli::{ShownTokenArgs, WatchList, watched};
use crate::listen::ListenOptions;
use crate::watch::{GatewayUrl, parse_url};

/// The end of the text of `--help`.
pub(super) const HELP: &str = "\
Examples:
  bugfeed hooks listen 1234 5678 --forward http://127.0.0.1:9000/
  bugfeed hooks listen 1234 --url https://bugfeed.example.org/kde/ \\
    --forward http://127.0.0.1:9000/ --state listen.state

The receiver gets what an endpoint of these bugs would get: bodies, webhook-id, signature (see
docs/hooks/receivers.md). What it does not take (2xx) is sent again after 1 s, 2 s, up to 30 s,
without end; meanwhile, of each bug the newest change is kept. A line is printed for each request
that was taken. With --state, the next run goes on where this one ended.

Exit status: 130 on Ctrl-C, 0 on SIGTERM, 1 when trying again would not help, 2 for a wrong option.";

/// Options of `hooks listen`.
#[derive(Clone, Debug, Args)]
pub struct ListenArgs {
    /// The bugs whose changes are delivered, or 'all', where the gateway allows it (--allow-all)
    #[arg(required = true, value_name = "BUG")]
    bugs: Vec<WatchList>,
    /// The gateway: ws://HOST:PORT/ or wss://HOST/, with the feed's name as path if it is not the default; the address of
    /// its live page (http://...) does as well
    #[arg(long, env = "BUGFEED_URL", default_value = "ws://127.0.0.1:8844/", value_name = "URL", value_parser = parse_url)]
    pub url: GatewayUrl,
    /// The token that the gateway wants.
    #[command(flatten)]
    pub token: ShownTokenArgs,
    /// Where requests go
    #[arg(long, env = "BUGFEED_FORWARD", value_name = "URL", value_parser = parse_forward)]
    pub forward: Address,
    /// Keep in this file how far the receiver is, and go on from there the next time
    #[arg(long, env = "BUGFEED_STATE", value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// What requests are signed with, whsec_ and Base64, or @FILE, which holds it [default: one is made and printed]
    #[arg(long, env = "BUGFEED_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = secret(SigningSecret::parse))]
    secret: Option<SigningSecret>,
    /// File with the --secret
    #[arg(long, env = "BUGFEED_SECRET_FILE", value_name = "FILE", value_parser = in_file(SigningSecret::parse), conflicts_with = "secret")]
    secret_file: Option<SigningSecret>,
}

fn parse_forward(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| format!("{error}; one looks like http://127.0.0.1:9000/"))
}

impl ListenArgs {
    /// The options for listening. `random` makes a secret, if none is given.
    pub fn options(&self, random: &[u8; RANDOM_BYTES]) -> ListenOptions {
        let given = self.secret_file.as_ref().or(self.secret.as_ref());
        ListenOptions {
            bugs: watched(&self.bugs),
            url: self.url.clone(),
            token: self.token.shown(),
            forward: self.forward.clone(),
            secret: given.cloned().unwrap_or_else(|| SigningSecret::generate(random)),
            is_new_secret: given.is_none(),
            state: self.state.clone(),
        }
    }
}
