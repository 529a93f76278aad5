//! What attackers do to clients that behave well.
//!
//! Two servers have the same clients and the same updates, on one machine. One of them is attacked, then the other one, in
//! turns. What the attack costs the machine, the attackers included, is the same for both, so that the server that is not
//! attacked is the control: its clients suffer from a busy machine, those of the attacked one also from the attack. Goes in:
//! which attacks, and for how long. Comes out: a table.

pub mod attacker;
pub mod bytes;
pub mod catalogue;
mod conn;
pub mod figures;
mod probe;
mod turns;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use self::catalogue::{ATTACKS, Attack};
use self::figures::Page;
pub use self::figures::Strength;
use self::turns::Siege;
use crate::common::Common;
use crate::procfs::Machine;
use crate::scenario::Bench;
use crate::target::Via;

/// What to measure.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = list())]
pub struct AttackArgs {
    /// Only these attacks; repeat for more
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(names()))]
    pub only: Vec<String>,
    /// The bugfeed to measure [default: the one beside this program]
    #[arg(long, env = "BUGFEED_BENCH_SERVER", value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// A further option of `bugfeed gateway`, such as --server-arg=--shards=1; repeat for more
    #[arg(long = "server-arg", value_name = "OPTION", allow_hyphen_values = true)]
    pub server_args: Vec<String>,
    /// Clients of each of the two servers that behave well
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub clients: u32,
    /// Bugs that each of them watches
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=400))]
    pub subscriptions: u32,
    /// Updates in a second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// How long an attack lasts, in seconds
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// How often each server is attacked
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// When memory is looked at again after the attackers have gone, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub settle: u64,
    /// To see whether it works: one run of 2 s, a twentieth of the attackers, memory after 2 s
    #[arg(long)]
    pub quick: bool,
    /// A broker that runs already [default: a throwaway one]
    #[arg(long, env = "BUGFEED_TEST_AMQP", hide_env_values = true, value_name = "URL")]
    pub amqp: Option<String>,
    /// Also write the figures into this page
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

fn names() -> Vec<&'static str> {
    ATTACKS.iter().map(|attack| attack.name).collect()
}

fn list() -> String {
    let line = |attack: &Attack| format!("  {:20} {}\n", attack.name, attack.what);
    format!("Attacks:\n{}", ATTACKS.iter().map(line).collect::<String>())
}

impl AttackArgs {
    fn is_wanted(&self, attack: &Attack) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == attack.name)
    }

    /// The same, for a quick look if that is wanted.
    fn quickly(&self) -> AttackArgs {
        if !self.quick {
            return self.clone();
        }
        AttackArgs { runs: 1, seconds: self.seconds.min(2), settle: self.settle.min(2), ..self.clone() }
    }

    fn common(&self) -> Common {
        Common {
            server: self.server.clone(),
            via: Via::Amqp,
            server_args: self.server_args.clone(),
            clients: self.clients,
            runs: self.runs,
            server_core: 0,
            load_core: 0,
            // As users run it: attackers and servers share all processors.
            unpinned: true,
            amqp: self.amqp.clone(),
            json: self.json,
        }
    }
}

/// Attacks.
///
/// # Errors
/// When the machine does not allow it or the page cannot be written. What fails during an attack stands in its row.
pub fn run(options: &AttackArgs) -> Result<Page> {
    let options = options.quickly();
    let wanted: Vec<&Attack> = ATTACKS.iter().filter(|attack| options.is_wanted(attack)).collect();
    if wanted.is_empty() {
        bail!("no attack is wanted");
    }
    let AttackArgs { clients, subscriptions, rate, seconds, runs, settle, .. } = &options;
    let setting = format!(
        "{clients} clients with {subscriptions} bugs each, {rate} updates/s, {runs} × {seconds} s on each of two servers, memory \
         after {settle} s{}",
        if options.quick { ", a twentieth of the attackers" } else { "" }
    );
    // What else the machine does is looked at before this loads it.
    let machine = Machine::this();
    let mut siege = Siege::new(Bench::new(&options.common())?, options.clone());
    for attack in wanted {
        siege.attack(attack);
        if let Some(figures) = siege.last() {
            // All attacks take a while: who interrupts them has seen something.
            let _ = writeln!(std::io::stderr(), "{}", figures.line());
        }
    }
    let page = Page { setting, machine, attacks: siege.end()? };
    if let Some(file) = &options.page {
        crate::figures::write(file, &page.text())?;
    }
    Ok(page)
}
