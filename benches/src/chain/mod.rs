//! The whole way as users have it: a tracker's table → shim → RabbitMQ → gateway → clients. What each process costs for each
//! change, how long a change takes, and how many go through.
//!
//! Goes in: which databases, loads and builds. Comes out: three tables. Nothing is pinned to a processor, and all processes
//! share the machine. A change's latency begins just before the tracker's INSERT is sent; so the commit is in it.

pub mod report;
mod road;
pub mod servers;
pub mod writer;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bugfeed_testbed::unique;
use tempfile::TempDir;

use crate::cli::Watching;
use crate::clock::{Stamps, now_ns, scratch};
use crate::dialect::Dialect;
use crate::load::worker::{Worker, finish_all, order_all};
use crate::load::{Answer, Clients, Order};
use crate::measure::LATE_MS;
use crate::plan::{Phase, Watch};
use crate::procfs::{Machine, raise_file_limit};
use report::{History, Idle, Report, ToBroker, ToClients, Used};
use road::{Build, Gateway, Shim};
use servers::{Database, Servers, tree_ns};

/// How many updates have one date, at most.
const DATED_TOGETHER: u32 = 500;
/// Rows of one transaction, at most.
const TOGETHER: u32 = 500;
/// Transactions a second of the tracker, at most; at a higher rate, each holds several rows.
const TRANSACTIONS: u32 = 200;
/// The fewest changes that are measured at a pace.
const LEAST: u32 = 60;
/// The most time that rows may take to the broker.
const DRAIN: Duration = Duration::from_secs(300);
/// The most time that the last frames may take, in milliseconds.
const FINISH_MS: u64 = 120_000;

/// The options.
#[derive(Clone, Debug, clap::Args)]
pub struct Chain {
    /// Where the change table is: one or more of sqlite, mariadb, postgres
    #[arg(long = "database", value_delimiter = ',', default_values = ["sqlite", "mariadb", "postgres"])]
    databases: Vec<Database>,
    /// Where the ledger is on the way to the broker: one or more of sqlite, mariadb, postgres. On the way to clients it is in a
    /// file
    #[arg(long = "ledger", value_delimiter = ',', default_values = ["sqlite"])]
    ledgers: Vec<Database>,
    /// What to measure: clients (table to clients, and nothing), broker (table to confirmed), growth (to the broker, with
    /// more queues and bugs), history (to the broker, and then a gateway starts and reads all of it)
    #[arg(long = "part", value_delimiter = ',', default_values = ["clients", "broker"])]
    parts: Vec<Part>,
    /// The bugfeed to measure [default: the one beside this program]. bugfeed-shim must be beside it
    #[arg(long, env = "BUGFEED_BENCH_SERVER", value_name = "PATH")]
    server: Option<PathBuf>,
    /// Another bugfeed, with its bugfeed-shim beside it, measured in turn
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
    /// Clients
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    clients: u32,
    /// What each client watches.
    #[command(flatten)]
    watching: Watching,
    /// Changes a second, at a pace
    #[arg(long = "rate", value_delimiter = ',', default_values = ["2", "20", "200", "2000"])]
    rates: Vec<u32>,
    /// How long changes come at each pace, in seconds; at least 60 changes come
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Changes at full speed to clients; 0 for none
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(0..=900_000))]
    burst: u32,
    /// Changes from the table to the broker
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=5_000_000))]
    rows: u32,
    /// Further options of the shim for the way to clients, such as --shim-arg=--batch=1; repeat for more
    #[arg(long = "shim-arg", value_name = "OPTION", allow_hyphen_values = true)]
    shim_args: Vec<String>,
    /// Print JSON instead of Markdown
    #[arg(long)]
    pub json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Table → clients
    Clients,
    /// Table → confirmed
    Broker,
    /// Table → confirmed, with 1, 4 and 16 queues, and with 10,000 and 1,000,000 bugs
    Growth,
    /// Table → confirmed, and then a gateway starts and reads the history
    History,
}

/// Measures.
///
/// # Errors
/// When something fails.
pub fn run(options: &Chain) -> Result<Report> {
    raise_file_limit(u64::from(options.clients) + 200)?;
    let beside = std::env::current_exe()?.with_file_name("bugfeed");
    let mut builds = vec![Build::at("now", options.server.as_deref().unwrap_or(&beside))?];
    if let Some(before) = &options.before {
        builds.insert(0, Build::at("before", before)?);
    }
    let scratch = scratch()?;
    let mut bench = Bench {
        options,
        servers: Servers::start(&[&options.databases[..], &options.ledgers].concat())?,
        stamps: Stamps::create(scratch.path())?,
        tracker: Worker::start_as(["writer"])?,
        next: 1,
        sources: 0,
        report: Report {
            machine: Machine::this(),
            setting: setting(options),
            idle: Vec::new(),
            to_clients: Vec::new(),
            to_broker: Vec::new(),
            histories: Vec::new(),
        },
        _scratch: scratch,
    };
    for database in options.databases.clone() {
        for build in &builds {
            if options.parts.contains(&Part::Clients) {
                bench.measure_clients(database, build)?;
            }
            for variant in variants(options, build) {
                for ledger in &options.ledgers {
                    bench.measure_broker((database, *ledger), build, &variant)?;
                }
            }
        }
    }
    Ok(bench.report)
}

fn setting(options: &Chain) -> String {
    let (clients, each, bugs) =
        (options.clients, options.watching.subscriptions, options.watching.bugs(options.clients));
    format!("{clients} clients with {each} of {bugs} bugs each")
}

/// How changes go to the broker.
struct Variant {
    options: &'static [&'static str],
    queues: u32,
    bugs: u32,
    /// A gateway then reads the history.
    read: bool,
}

impl Variant {
    fn usual() -> Variant {
        Variant { options: &[], queues: 1, bugs: 100_000, read: false }
    }
}

fn variants(options: &Chain, build: &Build) -> Vec<Variant> {
    let mut variants = Vec::new();
    if options.parts.contains(&Part::Broker) {
        variants.push(Variant::usual());
        // An older build may not have these options.
        if build.name == "now" {
            for options in [&["--batch-keys=false"][..], &["--batch=1"]] {
                variants.push(Variant { options, ..Variant::usual() });
            }
        }
    }
    if options.parts.contains(&Part::Growth) {
        variants.extend([1, 4, 16].map(|queues| Variant { queues, ..Variant::usual() }));
        variants.extend([10_000, 1_000_000].map(|bugs| Variant { bugs, ..Variant::usual() }));
        if build.name == "now" {
            variants.extend([4, 16].map(|queues| Variant {
                options: &["--batch-keys=false"],
                queues,
                ..Variant::usual()
            }));
        }
    }
    if options.parts.contains(&Part::History) {
        variants.extend([&[][..], &["--batch=1"]].map(|options| Variant { options, read: true, ..Variant::usual() }));
    }
    variants
}

struct Bench<'a> {
    options: &'a Chain,
    servers: Servers,
    stamps: Stamps,
    tracker: Worker,
    /// The number of the next update.
    next: u32,
    /// How many source addresses clients have used.
    sources: u8,
    report: Report,
    _scratch: TempDir,
}

/// The processes of one way.
struct Processes {
    shim: u32,
    databases: Vec<u32>,
    gateway: Option<u32>,
    clients: Option<u32>,
}

impl Bench<'_> {
    fn phase(&mut self, count: u32, bugs: u32, dated_together: u32) -> Phase {
        let first = self.next;
        self.next += count;
        let dated_together = dated_together.clamp(1, DATED_TOGETHER).min(bugs);
        Phase { first, count, from_bug: 1, bugs, last_bug: None, dated_together }
    }

    fn used(&self, processes: &Processes) -> Result<Used<u64>> {
        let maybe = |pid: Option<u32>| pid.map_or(Ok(0), tree_ns);
        Ok(Used {
            shim: tree_ns(processes.shim)?,
            database: processes.databases.iter().map(|pid| tree_ns(*pid)).sum::<Result<u64>>()?,
            broker: maybe(self.servers.broker_pid())?,
            gateway: maybe(processes.gateway)?,
            clients: maybe(processes.clients)?,
            tracker: tree_ns(self.tracker.pid())?,
        })
    }

    /// Has the tracker do something, and waits for it.
    fn track(&mut self, order: &writer::Order) -> Result<()> {
        self.tracker.order(order)?;
        match self.tracker.answer()? {
            Answer::Done { .. } => Ok(()),
            other => bail!("the tracker answered out of turn: {other:?}"),
        }
    }

    fn write(&mut self, phase: &Phase, rate: Option<u32>) -> Result<()> {
        let (every_ns, together) = match rate {
            Some(rate) => (1_000_000_000 / u64::from(rate.max(1)), (rate / TRANSACTIONS).clamp(1, TOGETHER)),
            None => (0, TOGETHER),
        };
        let stamps = self.stamps.path().to_owned();
        self.track(&writer::Order::Write { phase: *phase, every_ns, together, stamps })
    }

    /// From the table to clients: idle, at each pace, at full speed.
    fn measure_clients(&mut self, database: Database, build: &Build) -> Result<()> {
        let (dir, exchange, amqp) = (tempfile::tempdir()?, unique("chain"), self.servers.amqp());
        let count = self.options.clients;
        let watch = Watch { each: self.options.watching.subscriptions, bugs: self.options.watching.bugs(count) };
        let table = self.servers.table(database, dir.path())?;
        let ledger = self.servers.place(Database::Sqlite, &dir.path().join("ledger.db"))?;
        let mut shim = Shim::start(build, (&table, &ledger), (&amqp, &exchange), &self.options.shim_args)?;
        let gateway = Gateway::start(build, &amqp, &exchange, count)?;
        let mut clients = self.clients(&gateway, watch)?;
        self.track(&writer::Order::Open(table))?;
        let processes = Processes {
            shim: shim.proc.pid(),
            databases: self.servers.pid(database).into_iter().collect(),
            gateway: Some(gateway.proc.pid()),
            clients: Some(clients[0].pid()),
        };
        let warm = self.phase(1000, watch.bugs, DATED_TOGETHER);
        self.begin(&mut clients, &warm)?;
        self.write(&warm, Some(1000))?;
        finish_all(&mut clients, FINISH_MS)?;
        self.idle(database, build, &processes)?;
        for rate in self.options.rates.clone() {
            let phase = self.phase((rate * self.options.seconds).max(LEAST), watch.bugs, rate);
            self.begin(&mut clients, &phase)?;
            let (before, began) = (self.used(&processes)?, now_ns());
            self.write(&phase, Some(rate))?;
            self.arrived(database, build, Some(rate), &phase, &mut clients, &processes, (before, began))?;
        }
        if self.options.burst > 0 {
            let phase = self.phase(self.options.burst, watch.bugs, DATED_TOGETHER);
            self.begin(&mut clients, &phase)?;
            shim.proc.sigstop();
            self.write(&phase, None)?;
            let (before, began) = (self.used(&processes)?, now_ns());
            shim.proc.sigcont();
            self.arrived(database, build, None, &phase, &mut clients, &processes, (before, began))?;
        }
        drop((shim, gateway));
        self.servers.remove_queues(&exchange, 0)
    }

    /// Connects the clients, and subscribes them.
    fn clients(&mut self, gateway: &Gateway, watch: Watch) -> Result<Vec<Worker>> {
        // Each gateway's clients have a source address of their own; it depends on the process, because the ports of
        // connections that ended are not free at once.
        self.sources += 1;
        let [.., low] = std::process::id().to_be_bytes();
        let clients = Clients {
            server: gateway.address,
            path: "/".to_owned(),
            dialect: Dialect::Classic,
            source: Ipv4Addr::new(127, 78, low, self.sources),
            first: 0,
            count: self.options.clients,
            window: 256,
            watch,
        };
        let mut workers = vec![Worker::start(None)?];
        order_all(&mut workers, |_| Order::Connect(clients.clone()))?;
        order_all(&mut workers, |_| Order::Subscribe)?;
        Ok(workers)
    }

    fn begin(&self, clients: &mut [Worker], phase: &Phase) -> Result<()> {
        let order = Order::Begin { phase: *phase, stamps: self.stamps.path().to_owned(), late_ms: LATE_MS };
        order_all(clients, |_| order.clone()).map(drop)
    }

    fn idle(&mut self, database: Database, build: &Build, processes: &Processes) -> Result<()> {
        std::thread::sleep(Duration::from_secs(1));
        let (before, began) = (self.used(processes)?, now_ns());
        std::thread::sleep(Duration::from_secs(u64::from(self.options.seconds)));
        let permille = self.used(processes)?.since(before, (now_ns() - began) as f64 / 1000.0);
        self.report.idle.push(Idle { database, build: build.name, permille, load: load() });
        Ok(())
    }

    /// Waits until all has arrived, and notes what it cost.
    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    fn arrived(
        &mut self,
        database: Database,
        build: &Build,
        rate: Option<u32>,
        phase: &Phase,
        clients: &mut [Worker],
        processes: &Processes,
        (before, began): (Used<u64>, u64),
    ) -> Result<()> {
        let tally = finish_all(clients, FINISH_MS)?;
        let changes = phase.count;
        let cpu_us = self.used(processes)?.since(before, f64::from(changes) * 1000.0);
        let ms = |quantile| tally.latencies.quantile_us(quantile) / 1000.0;
        self.report.to_clients.push(ToClients {
            database,
            build: build.name,
            rate,
            changes,
            seconds: tally.last_ns.saturating_sub(began) as f64 / 1e9,
            cpu_us,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            tally,
            load: load(),
        });
        Ok(())
    }

    /// From the table to the broker. The table is filled while the shim is stopped, so that its start is not measured.
    fn measure_broker(
        &mut self,
        (database, ledger): (Database, Database),
        build: &Build,
        variant: &Variant,
    ) -> Result<()> {
        let (dir, exchange, amqp) = (tempfile::tempdir()?, unique("chain"), self.servers.amqp());
        let table = self.servers.table(database, dir.path())?;
        let words: Vec<String> = variant.options.iter().map(|&word| word.to_owned()).collect();
        let ledger_url = self.servers.place(ledger, &dir.path().join("ledger.db"))?;
        let mut shim = Shim::start(build, (&table, &ledger_url), (&amqp, &exchange), &words)?;
        self.servers.bind_queues(&exchange, variant.queues)?;
        self.track(&writer::Order::Open(table))?;
        let mut databases: Vec<u32> = [database, ledger].into_iter().filter_map(|at| self.servers.pid(at)).collect();
        databases.dedup();
        let processes = Processes { shim: shim.proc.pid(), databases, gateway: None, clients: None };
        let phase = self.phase(self.options.rows, variant.bugs, DATED_TOGETHER);
        shim.proc.sigstop();
        self.write(&phase, None)?;
        let (before, began) = (self.used(&processes)?, Instant::now());
        shim.proc.sigcont();
        shim.wait_published(u64::from(phase.count), DRAIN)?;
        let seconds = began.elapsed().as_secs_f64();
        let cpu_us = self.used(&processes)?.since(before, f64::from(phase.count) * 1000.0);
        self.report.to_broker.push(ToBroker {
            database,
            ledger,
            build: build.name,
            options: words.join(" "),
            queues: variant.queues,
            bugs: variant.bugs,
            changes: phase.count,
            seconds,
            cpu_us,
            load: load(),
        });
        drop(shim);
        if variant.read {
            let began = Instant::now();
            let gateway = Gateway::start(build, &amqp, &exchange, 1)?;
            let (seconds, ns) = (began.elapsed().as_secs_f64(), tree_ns(gateway.proc.pid())?);
            let (changes, options) = (phase.count, words.join(" "));
            let cpu_us = ns as f64 / f64::from(changes) / 1000.0;
            self.report.histories.push(History { build: build.name, options, changes, seconds, cpu_us, load: load() });
        }
        self.servers.remove_queues(&exchange, variant.queues)
    }
}

/// The load average of the last minute.
fn load() -> f64 {
    let read = std::fs::read_to_string("/proc/loadavg").context("no load average").unwrap_or_default();
    read.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}
