//! Options of `bugfeed hooks`: the role, and what needs no running process.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::HooksRoleArgs;
use super::listen::{self, ListenArgs};
use super::store::NamedStoreArgs;

/// Options of `hooks`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HooksArgs {
    /// The role, if there is no subcommand.
    #[command(flatten)]
    pub role: HooksRoleArgs,
    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<HooksCommand>,
}

/// What can be done without a running process.
#[derive(Clone, Debug, Subcommand)]
pub enum HooksCommand {
    /// Show what a captured request would become, and why; nothing is sent or stored
    #[command(after_help = "\
Examples:
  bugfeed hooks test issue.json --source tickets --config hooks.toml
  curl -s https://tracker.example.org/last-webhook |
    bugfeed hooks test - --source tickets --config hooks.toml

The file is a body alone, or a whole request as HTTP/1.1: a request line, headers, an empty line,
the body. Exit status: 0 if every item would become a change or be ignored, 1 if not.")]
    Test(TestArgs),
    /// Make a token for the API on the machine of the store, when the others were lost; print it alone
    #[command(after_help = "\
Examples:
  (umask 077; bugfeed hooks token --store sqlite://data/hooks.db >data/admin.token)
  bugfeed hooks token --store mysql://bugfeed:secret@db/hooks --file data/admin.token")]
    Token(TokenArgs),
    /// Deliver changes from a gateway to an address of this machine, as an endpoint would; for trying out a receiver
    ///
    /// Nothing is stored at the server, and it need not be able to reach this machine.
    #[command(after_help = listen::HELP)]
    Listen(Box<ListenArgs>),
}

/// Options of `hooks test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// The captured request; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The source by whose mapping it is read; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// The configuration of sources [default: the one source plain]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `hooks token`.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// Which store.
    #[command(flatten)]
    pub store: NamedStoreArgs,
    /// Write it into this file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The token's name, for the list of tokens and the audit log
    #[arg(long, value_name = "TEXT", default_value = "made on the store's machine")]
    pub name: String,
}
