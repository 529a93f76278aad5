//! The command line: commands and options, checked before anything is opened.
//!
//! Goes in: arguments and `BUGFEED_SHIM_…` variables. Comes out: typed options. Never connects to anything.

mod watchdog;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use bugfeed_amqp::{BrokerUrl, HistoryBounds, exchange_name, parse_url};
use bugfeed_protocol::bus::Format;
use bugfeed_runtime::logging::LogFormat;
use bugfeed_runtime::usage::{Renamed, is_set, with_default_command, with_former_variables, without_values};
use bugfeed_runtime::values::{age, listen_address, zone};
use bugfeed_sql::{DbUrl, Name};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use jiff::tz::TimeZone;

use self::watchdog::WatchdogArgs;
use crate::compose::{LedgerPlace, ShimOptions};
use crate::ledger::{Keep, Prefix};
use crate::publish::amqp::{AmqpOptions, BatchOptions};
use crate::relay::RelayOptions;
use crate::source::TableSpec;

const EXAMPLES: &str = "\
Examples:
  Create the change table in the tracker's database:
    bugfeed-shim init --source mysql://root:secret@localhost/bugs
  Publish its changes (the ledger is kept in data/bugfeed-ledger.db below the current folder):
    bugfeed-shim --source mysql://bugfeed:secret@localhost/bugs --amqp amqp://guest:guest@localhost/%2f
  A tracker that writes local time, and a ledger that a standby can share:
    bugfeed-shim --source postgres://bugfeed@db/tracker --timezone America/Los_Angeles \\
                 --ledger mysql://bugfeed:secret@db2/bugfeed
  Publish what is there, then exit:
    bugfeed-shim run --once --source sqlite://tracker.db
  How far is it?
    bugfeed-shim status --ledger sqlite://data/bugfeed-ledger.db

Passwords are better given by environment variables (BUGFEED_SHIM_SOURCE, BUGFEED_SHIM_LEDGER, BUGFEED_SHIM_AMQP):
other users of the machine can see arguments.";

/// Watches a bug tracker's change table, numbers every change once, and publishes it to AMQP (RabbitMQ).
#[derive(Debug, Parser)]
#[command(name = "bugfeed-shim", version, after_help = EXAMPLES)]
#[command(
    override_usage = "bugfeed-shim [run] --source URL [OPTIONS]\n       bugfeed-shim init --source URL [OPTIONS]\n       bugfeed-shim status --ledger URL\n       bugfeed-shim new-epoch --ledger URL --yes\n       bugfeed-shim run --help"
)]
pub struct Cli {
    /// What to do; `run` if no command is given.
    #[command(subcommand)]
    pub command: Command,
}

/// Variables that had other names before.
const RENAMED: [Renamed; 4] = [
    Renamed { now: "BUGFEED_SHIM_LEDGER_MAX_AGE", before: "BUGFEED_SHIM_HISTORY_AGE" },
    Renamed { now: "BUGFEED_SHIM_LEDGER_MAX_CHANGES", before: "BUGFEED_SHIM_HISTORY_MAX" },
    Renamed { now: "BUGFEED_SHIM_STREAM_MAX_AGE", before: "BUGFEED_SHIM_STREAM_AGE" },
    Renamed { now: "BUGFEED_SHIM_STREAM_MAX_BYTES", before: "BUGFEED_SHIM_STREAM_BYTES" },
];

impl Cli {
    /// The definition of the command line. It also reads variables that are set under their former names.
    pub fn definition() -> clap::Command {
        with_former_variables(Cli::command(), &RENAMED, is_set)
    }

    /// Reads the arguments, the program's name first. `run` may be left out.
    ///
    /// # Errors
    /// What clap says; this includes the help, if it was asked for.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let mut command = without_values(Cli::definition());
        let matches = command.try_get_matches_from_mut(with_default_command(args, "run"))?;
        let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if let Command::Run(run) = &cli.command {
            run.check()?;
        }
        Ok(cli)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish the changes of a table (the default)
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Create the change table, or check the one that exists
    #[command(
        after_help = "Example:\n  bugfeed-shim init --source mysql://root:secret@localhost/bugs --table push_notify"
    )]
    Init(TableArgs),
    /// Show how far a ledger is: numbers given and published, rows set aside, who works on it
    #[command(after_help = "Example:\n  bugfeed-shim status --ledger sqlite://data/bugfeed-ledger.db")]
    Status(LedgerArgs),
    /// Begin a new epoch in a ledger whose history is not to be trusted: after it was restored from a copy, for instance
    ///
    /// Changes that are not published stay, with new numbers. At the next start of the shim, every client is told 'gap' and
    /// asks the tracker again for what it watches. A shim that sees in the broker's history that its ledger was set back
    /// does this by itself; it cannot see what was recorded after the copy and never published.
    #[command(
        name = "new-epoch",
        after_help = "Example:\n  systemctl stop bugfeed-shim\n  bugfeed-shim new-epoch --ledger sqlite://bugfeed-ledger.db --yes"
    )]
    NewEpoch(NewEpochArgs),
}

/// Which change table.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// Database of the change table: mysql://, mariadb://, postgres://, postgresql:// or sqlite://
    #[arg(long, value_name = "URL", env = "BUGFEED_SHIM_SOURCE", hide_env_values = true)]
    pub source: DbUrl,
    /// The change table, perhaps with its schema
    #[arg(long, value_name = "NAME", env = "BUGFEED_SHIM_TABLE", default_value = "push_notify")]
    pub table: Name,
    /// Its auto-increment primary key
    #[arg(long, value_name = "NAME", env = "BUGFEED_SHIM_ID_COLUMN", default_value = "id")]
    pub id_column: Name,
    /// Its column with the bug's number
    #[arg(long, value_name = "NAME", env = "BUGFEED_SHIM_BUG_COLUMN", default_value = "bug_id")]
    pub bug_column: Name,
    /// Its column with the time of the change
    #[arg(long, value_name = "NAME", env = "BUGFEED_SHIM_WHEN_COLUMN", default_value = "delta_ts")]
    pub when_column: Name,
}

impl TableArgs {
    /// The table's names.
    pub fn spec(&self) -> TableSpec {
        TableSpec {
            table: self.table.clone(),
            id: self.id_column.clone(),
            bug: self.bug_column.clone(),
            when: self.when_column.clone(),
        }
    }
}

/// Where the ledger is if no option says it; the folder is created.
pub const DEFAULT_LEDGER: &str = "sqlite://data/bugfeed-ledger.db";

/// Which ledger.
#[derive(Clone, Debug, Args)]
pub struct LedgerArgs {
    /// Database of the ledger, one per feed: always the same one, because it holds the numbers. With mysql:// or
    /// postgres:// a standby shim can share it
    #[arg(
        long,
        value_name = "URL",
        env = "BUGFEED_SHIM_LEDGER",
        hide_env_values = true,
        default_value = DEFAULT_LEDGER
    )]
    pub ledger: DbUrl,
    /// Beginning of the ledger's table names, so that several feeds can share a database
    #[arg(long, value_name = "PREFIX", env = "BUGFEED_SHIM_LEDGER_PREFIX", default_value = "bugfeed_")]
    pub ledger_prefix: Prefix,
}

impl LedgerArgs {
    /// Where the ledger is. The folder of the default ledger is created.
    pub fn place(&self) -> LedgerPlace {
        let make_folder = self.ledger.to_string() == DEFAULT_LEDGER;
        LedgerPlace { url: self.ledger.clone(), prefix: self.ledger_prefix.clone(), make_folder }
    }
}

/// The options of `new-epoch`.
#[derive(Clone, Debug, Args)]
pub struct NewEpochArgs {
    /// Which ledger.
    #[command(flatten)]
    pub ledger: LedgerArgs,
    /// Do it; without this, only say what it would do
    #[arg(long)]
    pub yes: bool,
}

/// The options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Which table.
    #[command(flatten)]
    pub table: TableArgs,
    /// Time zone the tracker writes its dates in, as an IANA name such as Europe/Berlin
    #[arg(long, value_name = "ZONE", env = "BUGFEED_SHIM_TIMEZONE", default_value = "UTC", value_parser = zone)]
    pub timezone: TimeZone,
    /// Which ledger.
    #[command(flatten)]
    pub ledger: LedgerArgs,
    /// The broker. %2f is the default virtual host '/'; amqps:// for TLS
    #[arg(
        long,
        value_name = "URL",
        env = "BUGFEED_SHIM_AMQP",
        hide_env_values = true,
        default_value = "amqp://127.0.0.1:5672/%2f",
        value_parser = parse_url
    )]
    pub amqp: BrokerUrl,
    /// The topic exchange; created when missing
    #[arg(long, value_name = "NAME", env = "BUGFEED_SHIM_EXCHANGE", default_value = "bugfeed.default", value_parser = exchange_name)]
    pub exchange: String,
    /// History kept by the broker.
    #[command(flatten)]
    pub history: HistoryArgs,
    /// How messages are written
    #[arg(long, value_enum, env = "BUGFEED_SHIM_FORMAT", default_value = "native")]
    pub format: FormatArg,
    /// Longest pause between two looks at an idle table, in milliseconds (1 to 60000). While a look takes a millisecond, the
    /// pause is a sixth of this (20 or more), which costs the shim and the database some 1 % of a core each at 250; it is 20
    /// times as long as a slower look took
    #[arg(long, value_name = "MS", env = "BUGFEED_SHIM_POLL_INTERVAL_MS", default_value = "250", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub poll_interval_ms: u64,
    /// PostgreSQL only: look at the table at once when something is NOTIFYed on this channel (the poll goes on)
    #[arg(long, value_name = "CHANNEL", env = "BUGFEED_SHIM_LISTEN")]
    pub listen: Option<Name>,
    /// Most changes put into one message, where several wait (1 to 10000; 1: each change in a message of its own). Never more than
    /// --rows, than 500 with --batch-keys, or than fit into a frame of AMQP (670, unless the URL asks for larger ones)
    #[arg(long, value_name = "COUNT", env = "BUGFEED_SHIM_BATCH", default_value = "500", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub batch: u16,
    /// Whether a message of several changes is routed by the numbers of all its bugs. Without, the broker has far less to do,
    /// but only queues bound with # get it (gateways, and the broker's history, are)
    #[arg(long, value_name = "true|false", env = "BUGFEED_SHIM_BATCH_KEYS", default_value = "true", action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub batch_keys: bool,
    /// Most rows read and recorded in one transaction (1 to 10000)
    #[arg(long, value_name = "COUNT", env = "BUGFEED_SHIM_ROWS", default_value = "1000", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub rows: u16,
    /// Published changes older than this are removed from the ledger: a number and s, m, h or d
    #[arg(long, alias = "history-age", value_name = "AGE", env = "BUGFEED_SHIM_LEDGER_MAX_AGE", default_value = "7d", value_parser = age)]
    pub ledger_max_age: Duration,
    /// Most published changes kept in the ledger
    #[arg(
        long,
        alias = "history-max",
        value_name = "COUNT",
        env = "BUGFEED_SHIM_LEDGER_MAX_CHANGES",
        default_value = "1000000"
    )]
    pub ledger_max_changes: u64,
    /// Publish everything that is there, then exit
    #[arg(long, env = "BUGFEED_SHIM_ONCE", value_parser = clap::builder::BoolishValueParser::new())]
    pub once: bool,
    /// With --once: give up after so many seconds, with exit code 1
    #[arg(long, value_name = "SECONDS", env = "BUGFEED_SHIM_ONCE_TIMEOUT", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub once_timeout: u64,
    /// Answer GET /livez and /readyz here, for instance 127.0.0.1:8848 (off by default)
    #[arg(long, value_name = "ADDR", env = "BUGFEED_SHIM_ADMIN_LISTEN", value_parser = listen_address)]
    pub admin_listen: Option<SocketAddr>,
    /// When a part of the process counts as stuck.
    #[command(flatten)]
    pub watchdog: WatchdogArgs,
    /// How log lines are written (to stderr). RUST_LOG chooses which
    #[arg(long, value_enum, env = "BUGFEED_SHIM_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

impl RunArgs {
    /// The options of the composition.
    pub fn options(&self) -> ShimOptions {
        ShimOptions {
            source: self.table.source.clone(),
            table: self.table.spec(),
            timezone: self.timezone.clone(),
            wake_channel: self.listen.clone(),
            ledger: self.ledger.place(),
            publish: AmqpOptions {
                url: self.amqp.clone(),
                exchange: self.exchange.clone(),
                format: self.format.into(),
                batch: BatchOptions { max: self.batch.into(), keys: self.batch_keys },
                history: self.history.bounds(),
            },
            relay: RelayOptions {
                poll_interval: Duration::from_millis(self.poll_interval_ms),
                batch: self.rows.into(),
                keep: Keep { age: self.ledger_max_age, max: self.ledger_max_changes },
                once: self.once,
                once_timeout: Duration::from_secs(self.once_timeout),
                ..RelayOptions::default()
            },
            admin_listen: self.admin_listen,
            stuck_after: self.watchdog.stuck_after(),
        }
    }

    /// Checks what the parsers of single options cannot see.
    fn check(&self) -> Result<(), clap::Error> {
        if let Some(channel) = self.listen.as_ref().filter(|_| self.table.source.notifier().is_none()) {
            let message = format!(
                "invalid value '{channel}' for '--listen <CHANNEL>': only PostgreSQL notifies; use it with a --source \
                 that begins with postgres://"
            );
            return Err(Cli::command().error(clap::error::ErrorKind::ValueValidation, message));
        }
        Ok(())
    }
}

/// Whether the broker keeps a feed's history.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// Whether the broker keeps the feed's changes (a RabbitMQ stream), for gateways to learn what they missed
    #[arg(long, value_name = "true|false", env = "BUGFEED_SHIM_HISTORY", default_value = "true", action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub history: bool,
    /// How long the broker keeps them, if this shim creates the stream
    #[arg(long, alias = "stream-age", value_name = "AGE", env = "BUGFEED_SHIM_STREAM_MAX_AGE", default_value = "7d", value_parser = age)]
    pub stream_max_age: Duration,
    /// How large the stream may become, in bytes, if this shim creates it
    #[arg(long, alias = "stream-bytes", value_name = "BYTES", env = "BUGFEED_SHIM_STREAM_MAX_BYTES", default_value = "1073741824", value_parser = clap::value_parser!(u64).range(1_000_000..))]
    pub stream_max_bytes: u64,
}

impl HistoryArgs {
    /// The bounds of the stream; `None` if the broker keeps no history.
    pub fn bounds(&self) -> Option<HistoryBounds> {
        self.history.then_some(HistoryBounds { age_s: self.stream_max_age.as_secs(), bytes: self.stream_max_bytes })
    }
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// {"bug":…,"when":…,"seq":…,"epoch":…}
    Native,
    /// The envelope of Mozilla Pulse: {"payload":{"id":…,"delta_ts":…},"_meta":{…}}
    Pulse,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Format {
        match format {
            FormatArg::Native => Format::Native,
            FormatArg::Pulse => Format::Pulse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, String> {
        Cli::read(std::iter::once("bugfeed-shim").chain(args.iter().copied()).map(OsString::from))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_command() {
        let direct = parse(&["--source", "sqlite://x.db", "--once"]).unwrap();
        assert!(matches!(direct.command, Command::Run(run) if run.once));
        let named = parse(&["run", "--source", "sqlite://x.db", "--ledger-max-age", "90m"]).unwrap();
        let Command::Run(run) = named.command else { panic!("{named:?}") };
        assert_eq!(run.ledger_max_age, Duration::from_secs(5400));
        let former = ["--history-age", "90m", "--history-max", "7", "--stream-age", "1d", "--stream-bytes", "2000000"];
        let named = parse(&[&["run", "--source", "sqlite://x.db"][..], &former].concat()).unwrap();
        let Command::Run(former) = named.command else { panic!("{named:?}") };
        assert_eq!((former.ledger_max_age, former.ledger_max_changes), (Duration::from_secs(5400), 7));
        assert_eq!(former.history.bounds(), Some(HistoryBounds { age_s: 86_400, bytes: 2_000_000 }));
        assert_eq!(
            (run.exchange.as_str(), run.batch, run.table.spec()),
            ("bugfeed.default", 500, TableSpec::default())
        );
    }

    #[test]
    fn wrong_values_name_the_option_the_value_and_what_is_allowed() {
        for (args, option, value, allowed) in [
            (&["--source", "oracle://u:secret@x/y"][..], "--source", "oracle://", "mysql://"),
            (&["--source", "sqlite://x", "--table", "a b"], "--table", "a b", "letters"),
            (&["--source", "sqlite://x", "--timezone", "Mars/Olympus"], "--timezone", "Mars/Olympus", "IANA"),
            (&["--source", "sqlite://x", "--ledger", "x.db"], "--ledger", "x.db", "sqlite://"),
            (&["--source", "sqlite://x", "--ledger-prefix", "1;"], "--ledger-prefix", "1;", "letter"),
            (&["--source", "sqlite://x", "--amqp", "http://h"], "--amqp", "http://h", "amqp://"),
            (&["--source", "sqlite://x", "--exchange", "amq.x"], "--exchange", "amq.x", "amq."),
            (&["--source", "sqlite://x", "--format", "xml"], "--format", "xml", "native"),
            (&["--source", "sqlite://x", "--poll-interval-ms", "0"], "--poll-interval-ms", "0", "60000"),
            (&["--source", "sqlite://x", "--batch", "0"], "--batch", "0", "10000"),
            (&["--source", "sqlite://x", "--ledger-max-age", "7 weeks"], "--ledger-max-age", "7 weeks", "7d"),
            (&["--source", "sqlite://x", "--listen", "chan"], "--listen", "chan", "postgres://"),
            (&["--source", "sqlite://x", "--admin-listen", "8846"], "--admin-listen", "8846", "ADDRESS:PORT"),
        ] {
            let error = parse(args).expect_err(option);
            for part in [option, value, allowed] {
                assert!(error.contains(part), "{part:?} missing: {error}");
            }
        }
        assert!(parse(&[]).is_err_and(|e| e.contains("--source")));
    }
}
