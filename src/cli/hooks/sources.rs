//! Options of `bugfeed sources`.

use clap::{Args, Subcommand};

use super::AdminArgs;

/// Options of `sources`.
#[derive(Clone, Debug, Args)]
pub struct SourcesArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: SourcesCommand,
}

/// What can be done about sources.
#[derive(Clone, Debug, Subcommand)]
pub enum SourcesCommand {
    /// List sources: how they are configured, when they were last heard of, what is switched off
    List,
    /// Switch a source or a feed off: what comes is received, and waits
    #[command(after_help = "\
Examples:
  bugfeed sources disable kde-bugzilla
  bugfeed sources disable --feed kde")]
    Disable(SwitchArgs),
    /// Switch a source or a feed on again: what has waited is announced
    Enable(SwitchArgs),
    /// Ask the source's tracker now what has changed
    Reconcile {
        /// The source
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Look whether a source can work: switches, keys, its tracker
    Test {
        /// The source
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// A source or a feed.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SwitchArgs {
    /// The source
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// A feed, with all that goes to it, instead of a source
    #[arg(long, value_name = "NAME")]
    pub feed: Option<String>,
}
