//! Options of `bugfeed watch`.

use std::path::PathBuf;

use bugfeed_protocol::When;
use clap::Args;

use super::{ShownTokenArgs, WatchList, watched};
use crate::watch::{ColorChoice, GatewayUrl, Template, WatchOptions, parse_template, parse_url};

/// The end of the text of `--help`.
pub(super) const HELP: &str = "\
Examples:
  bugfeed watch 1234 5678
  bugfeed watch 1234 --url https://bugfeed.example.org/kde/
  bugfeed watch 1234 --token-file dashboard.token    # where the gateway wants a token
  bugfeed watch 1234 --since 2014-04-03T21:13:45
  bugfeed watch 1234 --json | while read -r line; do echo \"$line\"; done
  bugfeed watch 1234 5678 --exec 'curl -s https://bugs.example.org/rest/bug/{bug} >bug-{bug}.json'
  bugfeed watch 1234 5678 --exec './look-at {bug}' --state bot.state    # a bot that misses nothing
  bugfeed watch 1234 --count 1 --quiet && echo 'it changed'
  bugfeed watch all --json    # every change of the feed, where the gateway allows it (--allow-all)

With --json each line is one object: {\"bug\":1234,\"when\":\"2014-04-03T21:13:45\"}
or, when changes may have been missed, {\"gap\":true,\"bugs\":[1234]}: look at all of them.
(Who watches all is told \"bugs\":\"all\" then.)

With --exec, `sh -c` runs the command for each change, one after the other, with {bug} and
{when} replaced by a number and a date such as 2014-04-03T21:13:45 (no quotes needed), which are
also in $BUGFEED_BUG and $BUGFEED_WHEN. On a gap it runs for each of the bugs, with an empty
{when}; who watches all: once, with the word all for {bug}. It has no standard input. If it fails, that is said, and the next one runs. When
watching is ended, so is the command: SIGTERM, and SIGKILL two seconds later.

With --state, the next run goes on where this one ended. A change counts once it is printed and
its command has ended, well or not; one whose command was cut short comes again. Bugs that the
last run did not watch are told as a gap first. Use one file for each bot; it holds on all
gateways of a feed, and on those of another one the first word is a gap.

Exit status: 0 after --count changes, on SIGTERM, or when nobody reads the output any more; 130
on Ctrl-C; 1 when trying again would not help (the reason is on standard error); 2 for a wrong
option.";

/// Options of `watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// The bugs to watch, or 'all', where the gateway allows it (--allow-all)
    #[arg(required = true, value_name = "BUG")]
    bugs: Vec<WatchList>,
    /// The gateway: ws://HOST:PORT/ or wss://HOST/, with the feed's name as path if it is not the default; the address of
    /// its live page (http://…) does as well
    #[arg(long, env = "BUGFEED_URL", default_value = "ws://127.0.0.1:8844/", value_name = "URL", value_parser = parse_url)]
    pub url: GatewayUrl,
    /// The token that the gateway wants.
    #[command(flatten)]
    pub token: ShownTokenArgs,
    /// First print the changes since this time (inclusive, UTC), as far as the gateway has them; with --state, only in
    /// the first run
    #[arg(long, env = "BUGFEED_SINCE", value_name = "WHEN")]
    pub since: Option<When>,
    /// End after this many changes
    #[arg(long, env = "BUGFEED_COUNT", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Run this command for each change; {bug} and {when} are replaced
    #[arg(long, env = "BUGFEED_EXEC", value_name = "COMMAND", value_parser = parse_template)]
    pub exec: Option<Template>,
    /// Keep in this file how far this is, and go on from there the next time
    #[arg(long, env = "BUGFEED_STATE", value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, env = "BUGFEED_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    pub json: bool,
    /// When to use colours; auto is on a terminal, unless NO_COLOR is set
    #[arg(long, env = "BUGFEED_COLOR", value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub color: ColorChoice,
    /// Say nothing of the connection, only of what fails
    #[arg(long, short, env = "BUGFEED_QUIET", value_parser = clap::builder::BoolishValueParser::new())]
    pub quiet: bool,
    /// Speak the protocol of 2014 only: for old gateways, and to see what old clients get. It resumes by date, gets some
    /// changes again, and is not told of most gaps
    #[arg(long, env = "BUGFEED_CLASSIC", value_parser = clap::builder::BoolishValueParser::new())]
    pub classic: bool,
}

impl WatchArgs {
    /// The options for watching.
    pub fn options(&self) -> WatchOptions {
        WatchOptions {
            bugs: watched(&self.bugs),
            url: self.url.clone(),
            token: self.token.shown(),
            since: self.since,
            count: self.count,
            exec: self.exec.clone(),
            state: self.state.clone(),
            json: self.json,
            classic: self.classic,
        }
    }
}
