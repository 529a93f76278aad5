//! Options of `bugfeed events`, `bugfeed dead-letters` and `bugfeed bug`.

use std::path::PathBuf;

use bugfeed_protocol::BugId;
use clap::{ArgGroup, Args, Subcommand};

use super::{AdminArgs, LimitArgs};

/// Options of `events`.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: EventsCommand,
}

/// What can be done about events.
#[derive(Clone, Debug, Subcommand)]
pub enum EventsCommand {
    /// List events, newest first
    #[command(after_help = "\
Examples:
  bugfeed events list --state errored
  bugfeed events list --source kde-bugzilla --from 2h
  bugfeed events list --bug 1234 --json | jq .state

States: queued, processing, completed, duplicate, dropped, canceled, errored, disabled.")]
    List(ListEventsArgs),
    /// Show an event with its history
    Show {
        /// The event's identifier
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Try dead letters again now: by their identifiers, or all that fit a filter
    #[command(after_help = "\
Examples:
  bugfeed events retry 01a1ee56-5e7b-7fff-bfff-ffff80000000
  bugfeed events retry --source kde-bugzilla --dry-run
  bugfeed events retry --source kde-bugzilla")]
    Retry(BulkArgs),
    /// Drop events, so that they are not announced; those behind a dead letter go on
    #[command(after_help = "\
Examples:
  bugfeed events drop 01a1ee56-5e7b-7fff-bfff-ffff80000000
  bugfeed events drop --state queued --source flood --dry-run

With a filter, only dead letters are dropped, unless --state says queued or disabled.")]
    Drop(BulkArgs),
    /// Let the events behind a dead letter go on, and keep it
    Release {
        /// The dead letters' identifiers
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Take back what a source, a key, a request or a time has brought: counts first, and does it with --yes
    #[command(after_help = "\
Examples:
  bugfeed events prune --key h4k7np --dry-run     # counts, as without --yes
  bugfeed events prune --key h4k7np --yes         # does it
  bugfeed events prune --source flood --from 2026-11-26T12:00:00 --to 2026-11-26T13:00:00 --yes

Queued events are canceled; of those that have ended, the log is erased down to hash and identifiers.
What was announced stays announced.")]
    Prune(PruneArgs),
}

/// Which events.
#[derive(Clone, Debug, Default, Args)]
pub struct EventFilterArgs {
    /// In this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Of this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Of this feed
    #[arg(long, value_name = "NAME")]
    pub feed: Option<String>,
    /// Of this bug
    #[arg(long, value_name = "BUG")]
    pub bug: Option<BugId>,
    /// Received from then on: a date in UTC, or a time ago such as 2h
    #[arg(long, value_name = "WHEN")]
    pub from: Option<String>,
    /// Received before then
    #[arg(long, value_name = "WHEN")]
    pub to: Option<String>,
}

impl EventFilterArgs {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        let texts = [&self.state, &self.source, &self.feed, &self.from, &self.to];
        texts.into_iter().all(Option::is_none) && self.bug.is_none()
    }
}

/// Options of `events list`.
#[derive(Clone, Debug, Args)]
pub struct ListEventsArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: EventFilterArgs,
    /// How many.
    #[command(flatten)]
    pub limit: LimitArgs,
}

/// Options of `events retry` and `events drop`.
#[derive(Clone, Debug, Args)]
pub struct BulkArgs {
    /// The events' identifiers
    #[arg(value_name = "ID", conflicts_with_all = ["state", "source", "feed", "bug", "from", "to", "dry_run"])]
    pub ids: Vec<String>,
    /// Which events.
    #[command(flatten)]
    pub filter: EventFilterArgs,
    /// Only count
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `events prune`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["source", "key", "request", "from", "to"]))]
pub struct PruneArgs {
    /// What came through this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// What came with this key (its identifier)
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// What came with this request
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// What was received from then on: a date in UTC, or a time ago such as 2h
    #[arg(long, value_name = "WHEN")]
    pub from: Option<String>,
    /// What was received before then
    #[arg(long, value_name = "WHEN")]
    pub to: Option<String>,
    /// Do it; without this, only count
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Only count, which is also what is done without --yes
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `dead-letters`.
#[derive(Clone, Debug, Args)]
pub struct DeadLettersArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Of this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// How many.
    #[command(flatten)]
    pub limit: LimitArgs,
    /// Write all of them as files into this folder, which is made: a folder for each bug, a file for each event
    #[arg(long, value_name = "DIR")]
    pub export: Option<PathBuf>,
}

/// Options of `audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What was done, or how that begins: endpoints, keys.revoke
    #[arg(long, value_name = "DEED")]
    pub deed: Option<String>,
    /// To what: the identifier of an endpoint, key, event, or the name of a source
    #[arg(long, value_name = "ID")]
    pub subject: Option<String>,
    /// By whom: a part of it, such as the token's name
    #[arg(long, value_name = "TEXT")]
    pub who: Option<String>,
    /// From then on: a date in UTC, or a time ago such as 2h
    #[arg(long, value_name = "WHEN")]
    pub from: Option<String>,
    /// Before that
    #[arg(long, value_name = "WHEN")]
    pub to: Option<String>,
    /// How many.
    #[command(flatten)]
    pub limit: LimitArgs,
}

/// Options of `bug`.
#[derive(Clone, Debug, Args)]
pub struct BugArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The bug
    #[arg(value_name = "BUG")]
    pub bug: BugId,
    /// Only of this feed
    #[arg(long, value_name = "NAME")]
    pub feed: Option<String>,
    /// At most this many changes, the newest ones
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub limit: u64,
}
