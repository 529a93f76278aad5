//! The role that receives and sends webhooks, and the commands about them: plain structs. All commands but those of `hooks`
//! go over the API of a running process.

mod endpoints;
mod events;
mod keys;
mod listen;
mod requests;
mod role;
mod sources;
mod store;
mod tools;

use std::path::PathBuf;

use bugfeed_hooks::api::client::AdminUrl;
use clap::Args;
use clap::builder::BoolishValueParser;

pub use endpoints::{
    ChangeEndpointArgs, CreateEndpointArgs, EndpointIdsArgs, EndpointSettingsArgs, EndpointsArgs, EndpointsCommand,
    ListEndpointsArgs, RecoverArgs,
};
pub use events::{
    AuditArgs, BugArgs, BulkArgs, DeadLettersArgs, EventFilterArgs, EventsArgs, EventsCommand, ListEventsArgs,
    PruneArgs,
};
pub use keys::{ChangeKeyArgs, CreateKeyArgs, CreateTokenArgs, KeysArgs, KeysCommand, TokensArgs, TokensCommand};
pub use listen::ListenArgs;
pub use requests::{ListRequestsArgs, RequestsArgs, RequestsCommand};
pub use role::HooksRoleArgs;
pub use sources::{SourcesArgs, SourcesCommand, SwitchArgs};
pub use store::{NamedStoreArgs, StoreArgs};
pub use tools::{HooksArgs, HooksCommand, TestArgs, TokenArgs};

/// In helps, what all commands over the API have in common stands under this heading, after each command's own options.
const HEADING: &str = "Options of all commands that ask a running bugfeed";
const LAST: usize = 900;

/// Where the API is, and how its answers are printed.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// The admin port [default: http://127.0.0.1:8845, and if no webhooks are there, http://127.0.0.1:8847]
    #[arg(long, env = "BUGFEED_ADMIN_URL", value_name = "URL", global = true, help_heading = HEADING, display_order = LAST)]
    pub admin_url: Option<AdminUrl>,
    /// The file with a token for it; the first one is made when bugfeed is started for the first time
    #[arg(
        long,
        env = "BUGFEED_ADMIN_TOKEN_FILE",
        value_name = "FILE",
        default_value = "data/admin.token",
        global = true,
        help_heading = HEADING,
        display_order = LAST
    )]
    pub admin_token_file: PathBuf,
    /// Print one JSON object a line, as the API gives it
    #[arg(long, env = "BUGFEED_JSON", value_parser = BoolishValueParser::new(), global = true, help_heading = HEADING, display_order = LAST)]
    pub json: bool,
}

/// How many rows are printed.
#[derive(Clone, Debug, Args)]
pub struct LimitArgs {
    /// Print at most this many, the newest ones
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub limit: u64,
}
