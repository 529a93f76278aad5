//! Options of `bugfeed token`.

use bugfeed_protocol::{When, feed_name};
use clap::{Args, Subcommand};

use super::{BugList, all_bugs};
use crate::token::NewToken;

/// Options of `token`.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What can be done about tokens of clients.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: the token alone on standard output, its entry for the file of --tokens on standard error
    ///
    /// The entry holds a hash of the token, so nobody learns the token from the file. It is never shown again.
    #[command(after_help = "\
Examples:
  bugfeed token new --name dashboard
  (umask 077; bugfeed token new --name ci --bugs 7,12 2>>tokens.toml >ci.token)
  bugfeed gateway --tokens tokens.toml
  bugfeed watch 7 --token-file ci.token")]
    New(NewTokenArgs),
}

/// Options of `token new`.
#[derive(Clone, Debug, Args)]
pub struct NewTokenArgs {
    /// By which people know it, such as dashboard
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The feeds that it is for [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = feed)]
    pub feeds: Vec<String>,
    /// The bugs that it is for [default: all]
    #[arg(long, value_name = "BUGS")]
    pub bugs: Vec<BugList>,
    /// How many bugs a client may watch with it [default: as many as the gateway allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_subscriptions: Option<u32>,
    /// When it expires (UTC), such as 2027-01-01T00:00:00 [default: never]
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<When>,
}

fn feed(text: &str) -> Result<String, String> {
    feed_name::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

impl NewTokenArgs {
    /// What is to be made.
    pub fn wanted(&self) -> NewToken {
        NewToken {
            name: self.name.clone(),
            feeds: self.feeds.clone(),
            bugs: all_bugs(&self.bugs).iter().map(|bug| bug.get()).collect(),
            max_subscriptions: self.max_subscriptions,
            expires: self.expires,
        }
    }
}
