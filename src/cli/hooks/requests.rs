//! Options of `bugfeed requests`.

use clap::{Args, Subcommand};

use super::{AdminArgs, LimitArgs};

/// Options of `requests`.
#[derive(Clone, Debug, Args)]
pub struct RequestsArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: RequestsCommand,
}

/// What can be done about requests.
#[derive(Clone, Debug, Subcommand)]
pub enum RequestsCommand {
    /// List requests as they came, newest first
    #[command(after_help = "\
Examples:
  bugfeed requests list --state quarantined
  bugfeed requests list --source kde-bugzilla --from 2h

States: ok, partly (some items are errored), error, quarantined (nobody vouches for it).")]
    List(ListRequestsArgs),
    /// Show a request and what became of its items
    #[command(after_help = "\
Examples:
  bugfeed requests show 01a1ee56-5e7b-7fff-bfff-ffff7fffffff
  bugfeed requests show 01a1ee56-5e7b-7fff-bfff-ffff7fffffff --http >captured.http
  bugfeed hooks test captured.http --config hooks.toml --source tickets

--body and --http need a token with the scope raw, and a body that was kept.")]
    Show {
        /// The request's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// Print the body alone, as it came (decompressed)
        #[arg(long, conflicts_with = "http")]
        body: bool,
        /// Print head and body as HTTP/1.1, as `hooks test` takes them; keys and signatures are not kept
        #[arg(long)]
        http: bool,
    },
    /// Receive a request again, as if it came now
    #[command(after_help = "\
Examples:
  bugfeed requests replay 01a1ee56-5e7b-7fff-bfff-ffff7fffffff
  bugfeed requests replay 01a1ee56-5e7b-7fff-bfff-ffff7fffffff --trust   # on your word

One of the quarantine is checked again by the keys and secrets of now.")]
    Replay {
        /// The request's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// Take it without checking its key or signature
        #[arg(long)]
        trust: bool,
    },
}

/// Options of `requests list`.
#[derive(Clone, Debug, Args)]
pub struct ListRequestsArgs {
    /// In this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Of this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// With this key (its identifier)
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// Received from then on: a date in UTC, or a time ago such as 2h
    #[arg(long, value_name = "WHEN")]
    pub from: Option<String>,
    /// Received before then
    #[arg(long, value_name = "WHEN")]
    pub to: Option<String>,
    /// How many.
    #[command(flatten)]
    pub limit: LimitArgs,
}
