//! The command line: one struct for each subcommand, checked before anything is opened.
//!
//! Every option has an environment variable, `BUGFEED_` and its name. Options that several subcommands share are
//! groups of their own.

mod access;
mod broker;
mod check;
mod endpoints;
mod gateway;
pub mod hooks;
mod listener;
mod serve;
mod serving;
mod tls;
mod token;
mod touch;
mod watch;
mod watchdog;

use std::ffi::OsString;
use std::str::FromStr;

pub use access::{AccessArgs, ShownTokenArgs};
pub use broker::BrokerArgs;
use bugfeed_protocol::BugId;
use bugfeed_protocol::client::WhichBugs;
use bugfeed_runtime::usage::{Renamed, is_set, with_default_command, with_former_variables, without_values};
pub use check::{CheckArgs, PlacesArgs};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
pub use endpoints::EndpointArgs;
pub use gateway::{FeedArg, GatewayArgs};
use hooks::{
    AuditArgs, BugArgs, DeadLettersArgs, EndpointsArgs, EventsArgs, HooksArgs, KeysArgs, RequestsArgs, SourcesArgs,
    TokensArgs,
};
pub use listener::ListenerArgs;
pub use serve::ServeArgs;
pub use serving::{ListenArgs, LogArgs, TrackerUrl};
pub use token::{NewTokenArgs, TokenArgs, TokenCommand};
pub use touch::{Target, TouchArgs};
pub use watch::WatchArgs;

/// Tells browsers and bots which bugs have just changed.
///
/// Without a subcommand, everything runs in this one process: a change table in SQLite, the shim that numbers its rows,
/// and the gateway that pushes them to WebSocket clients.
#[derive(Debug, Parser)]
#[command(name = "bugfeed", version, max_term_width = 100)]
#[command(
    override_usage = "bugfeed [serve] [OPTIONS]\n       bugfeed gateway [OPTIONS]\n       bugfeed touch BUG... [OPTIONS]\n       bugfeed watch BUG... [OPTIONS]\n       bugfeed check [OPTIONS]\n       bugfeed token new --name NAME [OPTIONS]\n       bugfeed hooks [test | token | listen] [OPTIONS]\n       bugfeed keys | endpoints | events | bug | audit | sources | requests | dead-letters | tokens ...\n       bugfeed serve --help"
)]
#[command(after_help = "\
Try it:
  bugfeed               # starts everything; the live page is at http://127.0.0.1:8844/
  bugfeed watch 1234    # in a second terminal: prints changes of bug 1234
  bugfeed touch 1234    # in a third: changes bug 1234

The same by a webhook, as a tracker that can only POST would:
  KEY=$(bugfeed keys create --name try --source plain)
  curl -H \"Authorization: Bearer $KEY\" http://127.0.0.1:8844/hooks/plain \\
    -d '{\"changes\":[{\"bug\":1234}]}'

With a tracker's database and RabbitMQ:
  bugfeed-shim --source mysql://bugs@db/bugs --amqp amqp://rabbit/ --exchange bugfeed.default
  bugfeed gateway --amqp amqp://rabbit/ --feed default=bugfeed.default --listen 0.0.0.0:8844 --open")]
pub struct Cli {
    /// What to do; `serve` if no command is given.
    #[command(subcommand)]
    pub command: Command,
}

/// Variables that had other names before.
const RENAMED: [Renamed; 2] = [
    Renamed { now: "BUGFEED_STREAM_MAX_AGE", before: "BUGFEED_STREAM_AGE" },
    Renamed { now: "BUGFEED_STREAM_MAX_BYTES", before: "BUGFEED_STREAM_BYTES" },
];

impl Cli {
    /// The definition of the command line. It also reads variables that are set under their former names.
    pub fn definition() -> clap::Command {
        with_former_variables(Cli::command(), &RENAMED, is_set)
    }

    /// Reads the arguments, the program's name first. `serve` may be left out.
    ///
    /// # Errors
    /// What clap says; this includes the help, if it was asked for.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let mut command = without_values(Cli::definition());
        let matches = command.try_get_matches_from_mut(with_default_command(args, "serve"))?;
        Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process (the default)
    ///
    /// Keeps a SQLite change table and the ledger in --data-dir. A tracker, a trigger or `bugfeed touch` writes rows
    /// into the table; clients connected to --listen hear of them.
    #[command(after_help = "\
Examples:
  bugfeed serve
  bugfeed serve --listen 0.0.0.0:8844 --open --data-dir /var/lib/bugfeed
  bugfeed serve --config hooks.toml   # webhooks of these sources, at /hooks/SOURCE
  bugfeed serve --allow-network 127.0.0.0/8   # webhooks to receivers on this machine, too
  sqlite3 data/bugfeed.db \\
    \"INSERT INTO push_notify (bug_id, delta_ts) VALUES (1234, datetime('now'))\"")]
    Serve(Box<ServeArgs>),
    /// Run a gateway: changes come from RabbitMQ and go to WebSocket clients
    ///
    /// Keeps no state on disk; run as many as you like behind a load balancer. Each has queues of its own.
    #[command(after_help = "\
Examples:
  bugfeed gateway --amqp amqp://user:secret@rabbit/%2f
  bugfeed gateway --feed default=bugfeed.default --feed kde=bugfeed.kde \\
    --listen 10.0.0.11:8844 --behind-proxy 10.0.0.1
  BUGFEED_AMQP=amqps://user:secret@rabbit/ bugfeed gateway

Clients connect to ws://HOST:8844/ (feed \"default\") or ws://HOST:8844/kde/ (feed \"kde\").")]
    Gateway(Box<GatewayArgs>),
    /// Write changes into a change table, as a tracker would
    #[command(after_help = "\
Examples:
  bugfeed touch 1234
  bugfeed touch 1234 5678 --when 2014-04-03T21:13:45
  bugfeed touch 1234 --source mysql://bugs:secret@127.0.0.1/bugs --table push_notify \\
    --timezone Europe/Berlin")]
    Touch(Box<TouchArgs>),
    /// Watch bugs from a terminal or a script: print changes, or run a command for each
    ///
    /// Changes go to standard output, what happens to the connection to standard error. Reconnects by itself and catches
    /// up; where nobody can tell what was missed, says "gap": look at all of these bugs.
    #[command(after_help = watch::HELP)]
    Watch(Box<WatchArgs>),
    /// Make a token for clients of the feeds, for the file of --tokens; works without a running process
    Token(TokenArgs),
    /// Look at a deployment part by part, and say what to mend: table, ledger, broker, processes, proxy
    #[command(after_help = check::HELP)]
    Check(Box<CheckArgs>),
    /// Make, list, change and revoke the keys with which webhooks come in
    #[command(after_help = "\
Examples:
  KEY=$(bugfeed keys create --name try --source plain)
  curl -H \"Authorization: Bearer $KEY\" http://127.0.0.1:8844/hooks/plain \\
    -d '{\"changes\":[{\"bug\":1234}]}'
  bugfeed keys list
  bugfeed keys rotate h4k7np --overlap-hours 48")]
    Keys(Box<KeysArgs>),
    /// Have changes POSTed to bots, CI and chats: make, list, change, test and delete endpoints
    #[command(after_help = "\
First steps on one machine, where bugfeed runs with --allow-network 127.0.0.0/8:
  bugfeed endpoints create --url http://127.0.0.1:9000/hook --bugs 1234   # prints the secret
  bugfeed endpoints list
  bugfeed endpoints test ep_abcdefghijklmnopqrst

Examples:
  bugfeed endpoints create --url https://chat.example.org/hooks/TOKEN --bugs all --template slack
  bugfeed endpoints attempts ep_abcdefghijklmnopqrst
  bugfeed endpoints enable ep_abcdefghijklmnopqrst
  bugfeed endpoints create --help   # policies, templates, more first steps")]
    Endpoints(Box<EndpointsArgs>),
    /// Look at what webhooks have brought, and retry, drop, release or prune it
    #[command(after_help = "\
Examples:
  bugfeed events list --state errored
  bugfeed events show 01a1ee56-5e7b-7fff-bfff-ffff80000000
  bugfeed events retry --source kde-bugzilla
  bugfeed events prune --key h4k7np")]
    Events(Box<EventsArgs>),
    /// Tell the way of a bug's changes: request, event, row, number
    #[command(after_help = "\
Examples:
  bugfeed bug 1234
  bugfeed bug 1234 --feed kde --json")]
    Bug(Box<BugArgs>),
    /// List who changed what through the API, newest first
    #[command(after_help = "\
Examples:
  bugfeed audit --from 1d
  bugfeed audit --deed endpoints --subject ep_abcdefghijklmnopqrst")]
    Audit(Box<AuditArgs>),
    /// Look at senders of webhooks, switch them off and on, ask their trackers
    #[command(after_help = "\
Examples:
  bugfeed sources list
  bugfeed sources test kde-bugzilla
  bugfeed sources reconcile kde-bugzilla")]
    Sources(Box<SourcesArgs>),
    /// Look at webhooks as they came, and receive them again
    #[command(after_help = "\
Examples:
  bugfeed requests list --state quarantined
  bugfeed requests show 01a1ee56-5e7b-7fff-bfff-ffff7fffffff --body
  bugfeed requests replay 01a1ee56-5e7b-7fff-bfff-ffff7fffffff")]
    Requests(Box<RequestsArgs>),
    /// List events that failed and wait for another try, with those that wait behind them
    #[command(after_help = "\
Examples:
  bugfeed dead-letters
  bugfeed dead-letters --export failed/   # a folder for each bug, a file for each event")]
    DeadLetters(Box<DeadLettersArgs>),
    /// Make, list and remove tokens for the API that these commands use
    #[command(after_help = "\
Examples:
  bugfeed tokens create --name dashboard --scope read
  bugfeed tokens list")]
    Tokens(Box<TokensArgs>),
    /// Receive webhooks of trackers, publish what they tell to RabbitMQ, and send webhooks to endpoints; or try a mapping, or
    /// make a token
    ///
    /// Each request is on the disk before its sender hears 200: in --store, or in --spool-dir while the store is away. Its
    /// items become rows of change tables in the store, one for each feed, which are numbered and published as a shim does.
    ///
    /// Endpoints are sent the changes of these feeds, and of those that only --feed names. They are made by `bugfeed endpoints
    /// create`, and may be at public addresses and in the networks of --allow-network.
    #[command(after_help = "\
Examples:
  bugfeed hooks --config hooks.toml --amqp amqp://user:secret@rabbit/%2f
  bugfeed hooks --config hooks.toml --store mysql://bugfeed:secret@db/hooks \\
    --spool-dir /var/lib/bugfeed/spool
  bugfeed hooks --feed kde=bugzilla.kde --listen 10.0.0.13:8846 --behind-proxy 10.0.0.1
  bugfeed hooks --feed default=bugfeed.default --allow-network 10.0.0.0/8
  bugfeed hooks test issue.json --source tickets --config hooks.toml
  bugfeed hooks token --store sqlite://data/hooks.db --file data/admin.token")]
    Hooks(Box<HooksArgs>),
}

/// Bugs as a person writes them: a number, or several with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BugList(Vec<BugId>);

impl FromStr for BugList {
    type Err = <BugId as FromStr>::Err;

    fn from_str(text: &str) -> Result<BugList, Self::Err> {
        let text = text.trim().trim_end_matches(',');
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(BugList)
    }
}

/// Bugs to watch, as a person writes them: `all`, or a [`BugList`].
#[derive(Clone, Debug)]
pub enum WatchList {
    /// All bugs of the feed.
    All,
    /// These.
    These(BugList),
}

impl FromStr for WatchList {
    type Err = String;

    fn from_str(text: &str) -> Result<WatchList, String> {
        if text.trim() == "all" {
            return Ok(WatchList::All);
        }
        text.parse().map(WatchList::These).map_err(|error: <BugId as FromStr>::Err| format!("{error}, or 'all'"))
    }
}

/// All bugs of the feed, if they are among those named; otherwise the single ones, ascending.
fn watched(lists: &[WatchList]) -> WhichBugs {
    let mut named: Vec<BugList> = Vec::new();
    for list in lists {
        match list {
            WatchList::All => return WhichBugs::All,
            WatchList::These(list) => named.push(list.clone()),
        }
    }
    let mut bugs = all_bugs(&named);
    bugs.sort_unstable();
    bugs.dedup();
    WhichBugs::These(bugs)
}

/// All bugs of these lists, in the order given.
fn all_bugs(lists: &[BugList]) -> Vec<BugId> {
    lists.iter().flat_map(|BugList(bugs)| bugs).copied().collect()
}

fn millis() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_every_option_has_a_variable() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let all = std::iter::once(&command).chain(command.get_subcommands());
        // What one question to the API is about is no setting, and other roles have variables of these names.
        let one_question = ["deed", "export", "feed", "from", "limit", "source", "subject", "to", "who"];
        // `check` reads the variables of the parts that it looks at.
        for command in all.filter(|command| !["help", "check"].contains(&command.get_name())) {
            let asks = command.get_arguments().any(|arg| arg.get_long() == Some("admin-url"));
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let long = arg.get_long().unwrap();
                // `--check` is a question, too: a variable would keep a server from starting.
                let needs_none = matches!(long, "help" | "version" | "check") || (asks && one_question.contains(&long));
                if !needs_none {
                    let want = format!("BUGFEED_{}", long.replace('-', "_").to_uppercase());
                    assert_eq!(arg.get_env().map(|env| env.to_string_lossy().into_owned()), Some(want));
                }
            }
        }
    }

    fn read(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::read(std::iter::once("bugfeed").chain(args.iter().copied()).map(OsString::from))
    }

    /// What a person copies from a help must run as it is: the terminal must not wrap it, and what is no command is a comment.
    #[test]
    fn examples_can_be_pasted() {
        fn look(command: &clap::Command, found: &mut usize) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| line.starts_with("  ")) {
                *found += 1;
                assert!(line.chars().count() <= 100, "{}: {line}", command.get_name());
                let rest = line.trim_start().split_once("   ").map_or("", |(_, rest)| rest.trim_start());
                assert!(rest.is_empty() || rest.starts_with('#'), "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(|sub| look(sub, found));
        }
        let mut found = 0;
        look(&Cli::command(), &mut found);
        assert!(found > 50, "{found}");
    }

    #[test]
    fn what_all_commands_over_the_api_share_stands_at_the_end_of_their_helps() {
        for line in [&["events", "retry", "--help"][..], &["keys", "create", "--help"], &["bug", "--help"]] {
            let help = read(line).unwrap_err().to_string();
            let place = |text: &str| help.find(text).unwrap_or_else(|| panic!("no {text} in {help}"));
            let own = place("\nOptions:");
            let shared = place("Options of all commands that ask a running bugfeed:");
            assert!(own < shared && shared < place("--admin-url") && shared < place("--json"), "{help}");
        }
    }

    #[test]
    fn wrong_values_name_the_option_the_value_and_what_is_allowed() {
        for (args, wants) in [
            (&["--listen", "8844"][..], &["--listen", "8844", "127.0.0.1:8844", "localhost:8844"][..]),
            (&["--max-connections", "0"], &["--max-connections", "0", "1..=1000000"]),
            (&["--replay-age", "1y"], &["--replay-age", "1y", "24h"]),
            (&["--timezone", "Mars/Olympus"], &["--timezone", "Mars/Olympus", "America/Los_Angeles"]),
            (&["--table", "a;b"], &["--table", "a;b"]),
            (&["gateway", "--feed", "x"], &["--feed", "x", "NAME=EXCHANGE"]),
            (&["gateway", "--feed", "Big=x"], &["--feed", "a-z"]),
            (&["gateway", "--feed", "demo=x"], &["--feed", "another name"]),
            (&["gateway", "--amqp", "http://x"], &["--amqp", "amqp://"]),
            (&["--tracker-url", "https://x/"], &["--tracker-url", "{bug}"]),
            (&["--tracker-url", "kde=javascript:{bug}"], &["--tracker-url", "https://HOST"]),
            (&["--allow-network", "10.1.0.0/8"], &["--allow-network", "10.0.0.0/8"]),
            (&["hooks", "--allow-network", "10.0.0.0/99"], &["--allow-network", "fd00::/8"]),
            (&["--allow-origin", "x.example"], &["--allow-origin", "https://HOST", "'none'"]),
            (&["--host", "x.example:8844"], &["--host", "without a port", "feeds.example.org"]),
            (&["hooks", "--host", "*"], &["--host", "leave the option out"]),
            (&["--allow-origin", "https://*.x.example"], &["--allow-origin", "each site in full"]),
            (&["touch", "0"], &["0", "whole number"]),
            (&["touch"], &["BUG"]),
            (&["touch", "1", "--when", "soon"], &["--when", "soon", "2014-04-03T21:13:45"]),
            (&["touch", "1", "--source", "oracle://x"], &["--source", "mysql://"]),
            (&["watch", "1", "--url", "ftp://x"], &["--url", "ws://"]),
            (&["watch", "1", "--exec", "  "], &["--exec", "{bug}"]),
            (&["watch", "1", "--exec", "echo ${bug}"], &["--exec", "$BUGFEED_BUG"]),
            (&["watch", "1", "--color", "green"], &["--color", "green", "always"]),
            (&["watch", "1", "--count", "0"], &["--count", "0"]),
            (&["hooks", "listen", "1", "--forward", "127.0.0.1:9000"], &["--forward", "http://127.0.0.1:9000/"]),
        ] {
            let error = read(args).expect_err("refused").to_string();
            for want in wants {
                assert!(error.contains(want), "{args:?}: no '{want}' in: {error}");
            }
        }
        let Command::Serve(serve) = read(&["--ping-interval-ms", "100000"]).unwrap().command else { panic!() };
        assert!(serve.options().unwrap_err().contains("--idle-timeout-ms"));
    }
}
