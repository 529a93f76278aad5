//! Options of `bugfeed keys` and `bugfeed tokens`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::{AdminArgs, LimitArgs};

/// Options of `keys`.
#[derive(Clone, Debug, Args)]
pub struct KeysArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// What can be done about keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key, and print it: the key alone, on standard output. It is never shown again
    #[command(after_help = "\
Examples:
  bugfeed keys create --name bugs.example.org --source kde-bugzilla
  KEY=$(bugfeed keys create --name try --source plain)
  curl -H \"Authorization: Bearer $KEY\" http://127.0.0.1:8844/hooks/plain \\
    -d '{\"changes\":[{\"bug\":1234}]}'
  bugfeed keys create --name ci --source plain --feed kde --expires 90d --owner 'build team'")]
    Create(CreateKeyArgs),
    /// List keys, also those that have expired or were revoked
    List {
        /// Only these
        #[arg(long, value_enum, value_name = "STATE")]
        state: Option<KeyState>,
        /// How many.
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Change what a key is called, whose it is, what it may do, or when it expires
    #[command(after_help = "\
Examples:
  bugfeed keys change h4k7np --source plain --source ci
  bugfeed keys change h4k7np --all-sources --expires never")]
    Change(ChangeKeyArgs),
    /// Give a key another secret, and print the new key; the old one goes on for a while
    Rotate {
        /// The key's identifier: the part between bf_ and the next _
        #[arg(value_name = "ID")]
        id: String,
        /// How many hours the old key goes on, up to 168
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        overlap_hours: u64,
        /// When the key expires from now on: a date, a time from now such as 90d, or never; needed of a key that has expired
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
    /// Revoke a key: from now on it is refused, and its sender is told so
    Revoke {
        /// The key's identifier
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// The states of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyState {
    /// It may send.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl KeyState {
    /// The text of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyState::Active => "active",
            KeyState::Expired => "expired",
            KeyState::Revoked => "revoked",
        }
    }
}

/// Options of `keys create`.
#[derive(Clone, Debug, Args)]
pub struct CreateKeyArgs {
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub name: String,
    /// A source to which it may send; may be given more than once [default: all]
    #[arg(long, value_name = "NAME")]
    pub source: Vec<String>,
    /// A feed to which its changes may go; may be given more than once [default: all]
    #[arg(long, value_name = "NAME")]
    pub feed: Vec<String>,
    /// Whose it is
    #[arg(long, value_name = "TEXT")]
    pub owner: Option<String>,
    /// When it expires: a date, or a time from now such as 90d [default: never]
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
}

/// Options of `keys change`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("changes").required(true).multiple(true)
    .args(["name", "owner", "source", "all_sources", "feed", "all_feeds", "expires"]))]
pub struct ChangeKeyArgs {
    /// The key's identifier: the part between bf_ and the next _
    #[arg(value_name = "ID")]
    pub id: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Whose it is
    #[arg(long, value_name = "TEXT")]
    pub owner: Option<String>,
    /// The sources to which it may send, instead of those before
    #[arg(long, value_name = "NAME")]
    pub source: Vec<String>,
    /// It may send to all sources
    #[arg(long, conflicts_with = "source")]
    pub all_sources: bool,
    /// The feeds to which its changes may go, instead of those before
    #[arg(long, value_name = "NAME")]
    pub feed: Vec<String>,
    /// Its changes may go to all feeds
    #[arg(long, conflicts_with = "feed")]
    pub all_feeds: bool,
    /// When it expires: a date, a time from now such as 90d, or never
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
}

/// Options of `tokens`.
#[derive(Clone, Debug, Args)]
pub struct TokensArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: TokensCommand,
}

/// What can be done about tokens of the API.
#[derive(Clone, Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token, and print it: the token alone, on standard output. It is never shown again
    #[command(after_help = "\
Examples:
  bugfeed tokens create --name dashboard --scope read
  (umask 077; bugfeed tokens create --name me --scope read --scope write >~/.bugfeed.token)")]
    Create(CreateTokenArgs),
    /// List tokens
    List {
        /// How many.
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Remove a token: it is refused from now on
    Remove {
        /// The token's identifier: the part between bt_ and the next _
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Options of `tokens create`.
#[derive(Clone, Debug, Args)]
pub struct CreateTokenArgs {
    /// Who uses it
    #[arg(long, value_name = "TEXT")]
    pub name: String,
    /// What it is good for: read; raw (bodies, and what is masked otherwise); write. May be given more than once
    #[arg(long, value_name = "SCOPE", required = true)]
    pub scope: Vec<String>,
}
