//! Options that all scenarios share.

use std::path::PathBuf;

use clap::Args;

use crate::target::Via;

/// What all scenarios share.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The bugfeed to measure [default: the one beside this program]
    #[arg(long, env = "BUGFEED_BENCH_SERVER", value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// How changes get into it
    #[arg(long, value_enum, default_value_t = Via::Amqp)]
    pub via: Via,
    /// A further option of `bugfeed gateway`, such as --server-arg=--shards=1; repeat for more
    #[arg(long = "server-arg", value_name = "OPTION", allow_hyphen_values = true)]
    pub server_args: Vec<String>,
    /// Clients
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub clients: u32,
    /// How often each measurement is made
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// The processor of the server, and of the floor
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// The processor of everything else
    #[arg(long, default_value_t = 1)]
    pub load_core: usize,
    /// Bind no process to a processor, as users run them: server, broker, clients and floor share all processors
    #[arg(long)]
    pub unpinned: bool,
    /// A broker that runs already [default: a throwaway one]
    #[arg(long, env = "BUGFEED_TEST_AMQP", hide_env_values = true, value_name = "URL")]
    pub amqp: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// The processor of the server, and of the floor; `None` if nothing is bound to one.
    pub fn server_core(&self) -> Option<usize> {
        (!self.unpinned).then_some(self.server_core)
    }

    /// The processor of everything else; `None` if nothing is bound to one.
    pub fn load_core(&self) -> Option<usize> {
        (!self.unpinned).then_some(self.load_core)
    }
}
