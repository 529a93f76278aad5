//! Options of `bugfeed endpoints`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::{AdminArgs, LimitArgs};

/// Options of `endpoints`.
#[derive(Clone, Debug, Args)]
pub struct EndpointsArgs {
    /// Where the API is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: EndpointsCommand,
}

/// What can be done about endpoints.
#[derive(Clone, Debug, Subcommand)]
pub enum EndpointsCommand {
    /// Make an endpoint, and print its secret: the secret alone, on standard output. It is never shown again
    ///
    /// From now on the changes of its bugs are POSTed to its URL, signed with the secret as Standard Webhooks has it.
    #[command(after_help = "\
First steps on one machine, in three terminals:
  bugfeed --allow-network 127.0.0.0/8           # endpoints may then be on this machine
  python3 -c 'import http.server as h; h.HTTPServer((\"127.0.0.1\", 9000),
    type(\"R\", (h.BaseHTTPRequestHandler,), {\"do_POST\": lambda r: (
    print(r.rfile.read(int(r.headers[\"content-length\"])).decode(), flush=True),
    r.send_response(204), r.end_headers())})).serve_forever()'
  bugfeed endpoints create --url http://127.0.0.1:9000/ --bugs 1234
  bugfeed endpoints list                        # with the endpoint's identifier
  bugfeed endpoints test ep_abcdefghijklmnopqrst
  bugfeed touch 1234                            # the second terminal shows what is POSTed

Examples:
  SECRET=$(bugfeed endpoints create --url https://bot.example.org/hook --bugs 1234,5678)
  bugfeed endpoints create --url https://ci.example.org/hook --bugs all --feed kde \\
    --header \"X-Api-Key: $KEY\" --policy current --rate 5
  bugfeed endpoints create --url https://chat.example.org/hooks/TOKEN --bugs 1234 --template slack
  bugfeed endpoints create --url https://x.example.org/ --bugs all --template '{\"text\":\"Bug {bug}\"}'

Policies, which say what failures do:
  classic   # the fourth 4xx disables; 5xx and faults cool down for 10, 20, 40 min ... up to 24 h
  current   # three failures are free, then 1, 2, 4 min ... up to 24 h; the 40th in a row disables
  off       # only a forbidden address disables; cools down for 10, 20, 40, 60, 60 ... s

Placeholders of a template: {bug}, {when}, {url}, {feed}, {text} (the whole message in words).")]
    Create(CreateEndpointArgs),
    /// Show what would be sent to such an endpoint, or why it would be refused; nothing is sent or stored
    #[command(after_help = "\
Examples:
  bugfeed endpoints preview --url https://chat.example.org/x --bugs 1234 --template slack
  bugfeed endpoints preview --url http://10.0.0.7/hook --bugs all    # says what would allow it")]
    Preview(CreateEndpointArgs),
    /// List endpoints, newest first
    #[command(after_help = "\
Examples:
  bugfeed endpoints list
  bugfeed endpoints list --state disabled
  bugfeed endpoints list --bug 1234 --json | jq -r .id

States: active, cooling (failed, and is tried again later), disabled, paused.")]
    List(ListEndpointsArgs),
    /// Show an endpoint: its settings, counters and cursors
    Show {
        /// The endpoint's identifier
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Change an endpoint; what is not named stays as it is
    #[command(after_help = "\
Examples:
  bugfeed endpoints change ep_abcdefghijklmnopqrst --bugs 1234,5678,9012
  bugfeed endpoints change ep_abcdefghijklmnopqrst --url https://new.example.org/hook
  bugfeed endpoints change ep_abcdefghijklmnopqrst --header 'X-Api-Key: new' --no-header X-Old

Another URL or policy begins with counters of 0. Another secret is made by `bugfeed endpoints rotate`.")]
    Change(ChangeEndpointArgs),
    /// Delete endpoints: nothing is sent any more, and nothing of them is kept but their attempts, for a while
    Delete(EndpointIdsArgs),
    /// Send a test, and wait for what comes of it
    ///
    /// A success sets the counters to 0 and enables what failures have disabled; a failure counts nothing.
    #[command(after_help = "\
Exit status: 0 if the receiver took it, 1 if not, or if nothing has come of it yet.")]
    Test {
        /// The endpoint's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// How many seconds to wait for it, up to 20
        #[arg(long, value_name = "SECONDS", default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=20))]
        wait: u64,
    },
    /// Enable disabled endpoints: both counters 0, and what was missed is delivered
    Enable(EndpointIdsArgs),
    /// Set both counters to 0 and end cool-downs; one that answered 410 stays disabled
    Reset(EndpointIdsArgs),
    /// Pause endpoints: nothing is sent but what is asked for by hand
    Pause(EndpointIdsArgs),
    /// Resume paused endpoints; what came meanwhile is delivered
    Resume(EndpointIdsArgs),
    /// Give an endpoint another secret, and print it: the secret alone, on standard output
    ///
    /// While the old one goes on, each request is signed with both.
    Rotate {
        /// The endpoint's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// How many hours the old secret goes on, up to 168
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        overlap_hours: u64,
        /// Take the new secret from this file instead of making one; - is standard input
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Send again what has changed since a cursor or a time
    #[command(after_help = "\
Examples:
  bugfeed endpoints recover ep_abcdefghijklmnopqrst --since 2h
  bugfeed endpoints recover ep_abcdefghijklmnopqrst --cursor 9f86d081884c7d65.42.5e3c9a01 --feed kde")]
    Recover(RecoverArgs),
    /// List the attempts of an endpoint, newest first
    #[command(after_help = "\
Examples:
  bugfeed endpoints attempts ep_abcdefghijklmnopqrst --limit 5
  bugfeed endpoints attempts ep_abcdefghijklmnopqrst --failed --from 2h
  bugfeed endpoints attempts ep_abcdefghijklmnopqrst --json | jq -r 'select(.ok|not).id'")]
    Attempts {
        /// The endpoint's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// Those that failed only
        #[arg(long)]
        failed: bool,
        /// From then on: a date in UTC, or a time ago such as 2h
        #[arg(long, value_name = "WHEN")]
        from: Option<String>,
        /// Those that told of this bug (not of chats, whose messages are words)
        #[arg(long, value_name = "BUG")]
        bug: Option<String>,
        /// How many.
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Show one attempt: what was sent, and what was answered
    Attempt {
        /// The attempt's identifier
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Send again what an attempt sent, with the same webhook-id; it counts nothing
    Redeliver {
        /// The attempt's identifier
        #[arg(value_name = "ATTEMPT")]
        id: String,
        /// How many seconds to wait for it, up to 20
        #[arg(long, value_name = "SECONDS", default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=20))]
        wait: u64,
    },
}

/// What an endpoint has, of which nothing must be said.
#[derive(Clone, Debug, Default, Args)]
pub struct EndpointSettingsArgs {
    /// A feed; may be given more than once [default: default]
    #[arg(long, value_name = "NAME", conflicts_with = "all_feeds")]
    pub feed: Vec<String>,
    /// All feeds
    #[arg(long)]
    pub all_feeds: bool,
    /// What failures do: classic, current or off [default: classic]
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// At most so many requests in a second
    #[arg(long, value_name = "N")]
    pub rate: Option<u64>,
    /// What is sent: slack, mattermost, matrix, teams, discord, a JSON object with placeholders, or @FILE that holds one
    #[arg(long, value_name = "TEMPLATE")]
    pub template: Option<String>,
    /// A header of each request, or @FILE with one a line; may be given more than once
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// Options of `endpoints create` and `endpoints preview`.
#[derive(Clone, Debug, Args)]
pub struct CreateEndpointArgs {
    /// Where changes are POSTed to
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// Which bugs: numbers with commas between them, or all; may be given more than once
    #[arg(long, value_name = "BUGS", required = true)]
    pub bugs: Vec<String>,
    /// What else it has.
    #[command(flatten)]
    pub settings: EndpointSettingsArgs,
    /// Take the secret (whsec_...) from this file instead of making one; - is standard input
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

/// Options of `endpoints list`.
#[derive(Clone, Debug, Args)]
pub struct ListEndpointsArgs {
    /// In this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Of this feed
    #[arg(long, value_name = "NAME")]
    pub feed: Option<String>,
    /// Those that are told of this bug
    #[arg(long, value_name = "BUG")]
    pub bug: Option<String>,
    /// How many.
    #[command(flatten)]
    pub limit: LimitArgs,
}

/// Options of `endpoints change`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("changes").required(true).multiple(true)
    .args(["url", "bugs", "feed", "all_feeds", "policy", "rate", "no_rate", "template", "no_template", "header",
        "no_header", "description"]))]
pub struct ChangeEndpointArgs {
    /// The endpoint's identifier
    #[arg(value_name = "ID")]
    pub id: String,
    /// Where changes are POSTed to
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Which bugs, instead of those before: numbers with commas between them, or all
    #[arg(long, value_name = "BUGS")]
    pub bugs: Vec<String>,
    /// What else it has.
    #[command(flatten)]
    pub settings: EndpointSettingsArgs,
    /// As many requests as there are changes
    #[arg(long, conflicts_with = "rate")]
    pub no_rate: bool,
    /// Send the usual JSON
    #[arg(long, conflicts_with = "template")]
    pub no_template: bool,
    /// Take this header away; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub no_header: Vec<String>,
}

/// The endpoints that an order is about.
#[derive(Clone, Debug, Args)]
pub struct EndpointIdsArgs {
    /// The endpoints' identifiers
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
}

/// Options of `endpoints recover`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("from").required(true).args(["cursor", "since"]))]
pub struct RecoverArgs {
    /// The endpoint's identifier
    #[arg(value_name = "ID")]
    pub id: String,
    /// Send what comes after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Send what was recorded from then on: a date in UTC, or a time ago such as 2h
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Of this feed; needed where the endpoint has several
    #[arg(long, value_name = "NAME")]
    pub feed: Option<String>,
}
