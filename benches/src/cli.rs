//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::common::Common;

/// Measures a push gateway: what it costs, against what the kernel alone costs in the same run.
///
/// Starts a gateway on processor 0 and the clients on processor 1, publishes updates, and counts what arrives: lost,
/// repeated, out of order, late. The server's processor time is the scheduler's count of all its threads. Beside it runs
/// the floor: a process that does nothing but write(2), the same frames to as many sockets at the same pace. Figures are
/// medians of several runs, with the smallest and the largest.
#[derive(Debug, Parser)]
#[command(name = "bugfeed-bench", version, max_term_width = 100, args_override_self = true)]
#[command(after_help = "\
Examples:
  bugfeed-bench fanout                      10,000 clients on one bug
  bugfeed-bench sparse --via feed            the feed alone, no broker
  bugfeed-bench sparse --runs 3 --json      for programs
  bugfeed-bench fanout --server OTHER/bugfeed

Needs Debian's rabbitmq-server, or a broker's URL in BUGFEED_TEST_AMQP. benches/README.md explains every figure.")]
pub struct Cli {
    /// What to measure
    #[command(subcommand)]
    pub command: Command,
}

/// The scenarios, and the processes that they start.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// All clients watch one bug: processor time for each frame, at a pace and at full speed
    Fanout {
        /// What all scenarios share.
        #[command(flatten)]
        common: Common,
        /// Updates a second, at a pace
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rate: u32,
        /// Send as many updates, but each one only when the one before has arrived everywhere: for a busy machine, on which
        /// no pace can be kept
        #[arg(long)]
        one_by_one: bool,
        /// How long updates come at that pace, in seconds
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// Updates at full speed
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        burst: u32,
    },
    /// Each client watches 20 bugs of many, each update is for about two: processor time for each update
    Sparse {
        /// What all scenarios share.
        #[command(flatten)]
        common: Common,
        /// What each client watches.
        #[command(flatten)]
        watching: Watching,
        /// Updates a second, at a pace
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rate: u32,
        /// How long updates come at that pace, in seconds
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// Updates at full speed
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=900_000))]
        burst: u32,
    },
    /// Memory of each idle connection, and what it costs to keep them all alive
    Idle {
        /// What all scenarios share.
        #[command(flatten)]
        common: Common,
        /// What each client watches.
        #[command(flatten)]
        watching: Watching,
        /// How long the idle connections are measured, in seconds
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
        seconds: u32,
    },
    /// Updates that nobody watches: processor time for each
    Unwatched {
        /// What all scenarios share.
        #[command(flatten)]
        common: Common,
        /// What each client watches.
        #[command(flatten)]
        watching: Watching,
        /// Updates
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=900_000))]
        burst: u32,
    },
    /// Connections that are opened: how many a second, and processor time for each
    Handshake {
        /// What all scenarios share.
        #[command(flatten)]
        common: Common,
    },
    /// Subscriptions: processor time for a command with many bugs
    Subscribe {
        /// What all scenarios share.
        #[command(flatten)]
        common: Common,
        /// What each client watches.
        #[command(flatten)]
        watching: Watching,
    },
    /// 1 % of the clients read 1 kB a second: what the others notice, and what it costs
    Slow {
        /// What all scenarios share.
        #[command(flatten)]
        common: Common,
        /// Updates a second
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// How long they come, in seconds
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// Updates by which the sockets of slow clients are filled beforehand
        #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        fill: u32,
    },
    /// How costs grow: per frame with 1,000 to 15,000 clients, per update with 1 to 2,000 subscriptions each
    ///
    /// With --json, it prints the data of which `plot` makes a picture.
    Growth {
        /// What all scenarios share; the number of clients means nothing here.
        #[command(flatten)]
        common: Common,
    },
    /// Makes a picture of what `growth --json` printed
    Plot {
        /// The data
        data: PathBuf,
        /// The picture, an SVG
        picture: PathBuf,
    },
    /// 100,000 connections to several gateways with one broker: time to connect, memory, an update to all
    Scale {
        /// What all scenarios share; --clients is for each gateway.
        #[command(flatten)]
        common: Common,
        /// Gateways, each a process with --clients of its own
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=50))]
        gateways: u32,
        /// From one update to the next, in ms
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
        pause_ms: u64,
    },
    /// The whole way: table → shim → RabbitMQ → gateway → clients, and what each process costs
    ///
    /// Starts throwaway servers, one database after the other, and pins nothing to a processor. Prints Markdown. What the
    /// database costs includes the INSERTs of the tracker where changes come at a pace.
    Chain(crate::chain::Chain),
    /// The store of the hooks with many events: lists, the next due lane, retention, single requests and bulk
    ///
    /// Starts no server and pins nothing to a processor.
    HooksStore(crate::hooks_store::HooksStore),
    /// Webhooks out: single signed changes to 10,000 endpoints, beside a bare loop of POSTs; receivers that hang or are slow
    ///
    /// Starts the all-in-one on SQLite, and pins nothing to a processor. Receivers are in this process.
    HooksDeliver(crate::hooks_deliver::HooksDeliver),
    /// What attackers do to clients that behave well, beside the same attack on another server
    ///
    /// Starts two gateways on one throwaway RabbitMQ, and pins nothing to a processor.
    Attack(crate::attack::AttackArgs),
    /// One part of a comparison with other servers; benches/compare runs them all
    ///
    /// Prints a JSON object, of which `table` makes a table.
    Against(crate::scenario::against::Against),
    /// Makes tables of what `against` has printed
    Table {
        /// The file with the output of `against`, one object on each line
        found: PathBuf,
        /// Print one JSON list instead
        #[arg(long)]
        json: bool,
    },
    /// (started by the others) clients
    #[command(hide = true)]
    Load {
        /// The processor to run on; any, if left out
        #[arg(long)]
        core: Option<usize>,
    },
    /// (started by `attack`) attackers
    #[command(hide = true)]
    Attacker,
    /// (started by `chain`) a tracker
    #[command(hide = true)]
    Writer,
    /// (started by `hooks-deliver`) a bare loop of POSTs
    #[command(hide = true)]
    PostLoop {
        /// Where they go
        #[arg(long)]
        to: SocketAddr,
        /// How many
        #[arg(long)]
        count: u64,
    },
    /// (started by the others) the floor
    #[command(hide = true)]
    FloorServer {
        /// The processor to run on; any, if left out
        #[arg(long)]
        core: Option<usize>,
    },
    /// (started by the others) a gateway without a broker
    #[command(hide = true)]
    FeedServer {
        /// Where messages of the bus are taken
        #[arg(long)]
        feed_listen: SocketAddr,
        /// Options of `bugfeed gateway`
        #[arg(last = true)]
        args: Vec<OsString>,
    },
}

/// What each client watches.
#[derive(Clone, Copy, Debug, Args)]
pub struct Watching {
    /// Bugs that each client watches
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub subscriptions: u32,
    /// Bugs there are [default: so many that each has two watchers]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    pub bugs: Option<u32>,
}

impl Watching {
    /// Bugs there are, for so many clients.
    pub fn bugs(&self, clients: u32) -> u32 {
        self.bugs.unwrap_or_else(|| (clients * self.subscriptions / 2).max(self.subscriptions))
    }
}
