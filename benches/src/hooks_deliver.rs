//! Webhooks out: what a signed delivery costs, how soon it comes, and what receivers that hang or are slow do to the others.
//!
//! Goes in: how many endpoints, and for how long. Comes out: figures. The all-in-one is a process of its own, on SQLite;
//! changes are rows of its change table, receivers are in this process. What a bare loop of POSTs costs is measured in the same
//! run, because machines differ more than programs.

pub mod bare;
mod look;
mod program;
mod receiver;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::time::{interval, sleep};

use self::bare::Cost;
use self::program::Program;
use self::receiver::{Board, SLOW};
use crate::figures::{self, Aim, Figures, Target};
use crate::procfs::{Cpu, Memory};
use crate::report::Report;

/// No wait takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Changes in a second, at a pace.
const PACE: u64 = 200;
/// Bugs of a slow receiver, and how many changes they have in a second.
const SLOW_BUGS: u64 = 200;
const SLOW_PACE: u64 = 1000;
/// Bugs of a receiver that is away.
const AWAY_BUGS: u64 = 1000;
/// Rows of a transaction while it is away.
const ROWS: u64 = 10_000;

const AIMS: &[Aim] = &[
    ("deliveries of single changes", "signed deliveries of single changes", Target::AtLeast(5000.0)),
    ("processor time of a delivery", "… processor time, from the change table to the answer", Target::AtMost(150.0)),
    ("memory of an idle endpoint", "memory of an idle endpoint", Target::AtMost(4096.0)),
    ("at a pace, p95", "from commit to receiver at 200 in a second, p95", Target::AtMost(60.0)),
    ("p99 beside hanging receivers", "… p99, while a tenth of the receivers hang", Target::AtMost(1.1)),
    ("slow receiver: changes in a request, most", "a slow receiver's backlog", Target::AtMost(200.0)),
    ("slow receiver: longest", "… oldest change in a request", Target::AtMost(2000.0 + 1000.0)),
    ("away: requests", "requests after a day away with a million changes of 1000 bugs", Target::AtMost(5.0)),
];

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct HooksDeliver {
    /// The program `bugfeed` [default: the one beside this one]
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// Endpoints, of one bug each; a tenth of them hang in the end
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..=90_000))]
    pub endpoints: u64,
    /// Rounds of one change for each endpoint
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long changes come at a pace, in seconds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Changes while a receiver is away
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=10_000_000))]
    pub away: u64,
    /// Also write the figures, beside their targets, into this page
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Measures.
///
/// # Errors
/// When the program does not start or does not deliver, or the page cannot be written.
pub fn run(options: &HooksDeliver) -> Result<Report> {
    // What else the machine does is looked at before this loads it.
    let mut report = Report::new("hooks-deliver", format!("{} endpoints", options.endpoints));
    let figures = measure(options)?.0;
    if let Some(page) = &options.page {
        figures::write(page, &figures::table(AIMS, &figures, &report))?;
    }
    for (name, unit, value) in figures {
        report.row(name, unit, vec![value]);
    }
    Ok(report)
}

fn measure(options: &HooksDeliver) -> Result<Figures> {
    let folder = crate::clock::scratch()?;
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("bugfeed"));
    let server = options.server.clone().map_or_else(beside, Ok)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // The connection to the change table belongs to it.
    let entered = runtime.enter();
    let program = Program::start(&server, folder.path())?;
    drop(entered);
    let (takes, hangs) = (options.endpoints * 9 / 10, options.endpoints / 10);
    let first_of_slow = options.endpoints + 1;
    let first_of_away = first_of_slow + SLOW_BUGS;
    let last = first_of_away + AWAY_BUGS;
    let board = Arc::new(Board::new(usize::try_from(last + 2)?));
    let to = receiver::start(Arc::clone(&board))?;
    let bench = Bench { options, program, board, to, takes, hangs, first_of_slow, first_of_away, probe: last + 1 };
    let measured: Result<Figures> = runtime.block_on(async {
        let mut figures = Figures::default();
        bench.idle(&mut figures).await?;
        bench.full_speed(&mut figures).await?;
        bench.pace(&mut figures).await?;
        bench.slow(&mut figures).await?;
        bench.away(&mut figures).await?;
        look::measure(bench.program.store(), &mut figures).await?;
        Ok(figures)
    });
    measured.with_context(|| format!("the program printed:\n{}", bench.program.output()))
}

struct Bench<'a> {
    options: &'a HooksDeliver,
    program: Program,
    board: Arc<Board>,
    to: SocketAddr,
    /// Endpoints of receivers that take, and of those that hang.
    takes: u64,
    hangs: u64,
    first_of_slow: u64,
    first_of_away: u64,
    /// A bug by whose change it is seen that all before it went through.
    probe: u64,
}

impl Bench<'_> {
    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.to)
    }

    /// Waits until so many changes came since the last [`Board::take`].
    async fn came(&self, count: u64) -> Result<()> {
        let begin = Instant::now();
        while self.board.count() < count {
            if begin.elapsed() > PATIENCE {
                bail!("{} of {count} changes came", self.board.count());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// The bug of an endpoint changes.
    async fn change(&self, bugs: &[u64]) -> Result<Instant> {
        // A receiver may be told before the commit is known here.
        let begin = Instant::now();
        bugs.iter().for_each(|bug| self.board.changes(*bug, begin));
        let at = self.program.change(bugs).await?;
        bugs.iter().for_each(|bug| self.board.changes(*bug, at));
        Ok(at)
    }

    /// Memory of endpoints to which nothing is sent.
    async fn idle(&self, figures: &mut Figures) -> Result<()> {
        let api = self.program.api();
        api.endpoint(&self.url("takes"), &[self.probe], "current")?;
        self.through().await?;
        let before = Memory::of(self.program.pid())?;
        let begin = Instant::now();
        api.endpoints(&self.url("takes"), 1, self.takes)?;
        figures.add("endpoints made over the API", "endpoints/s", self.takes as f64 / begin.elapsed().as_secs_f64());
        self.through().await?;
        // What was needed to make them is given back, or is not.
        sleep(Duration::from_secs(3)).await;
        let after = Memory::of(self.program.pid())?;
        figures.add("memory of the program without endpoints", "MiB", before.rss as f64 / 1_048_576.0);
        let each = after.rss.saturating_sub(before.rss) as f64 / self.takes as f64;
        figures.add("memory of an idle endpoint", "bytes", each);
        let (begin, cpu) = (Instant::now(), Cpu::of(self.program.pid())?);
        sleep(Duration::from_secs(5)).await;
        let cpu = Cpu::of(self.program.pid())?.since(cpu);
        figures.add(
            "processor time while nothing happens",
            "%",
            cpu.ns as f64 / begin.elapsed().as_nanos() as f64 * 100.0,
        );
        Ok(())
    }

    /// Waits until everything before this went through the program.
    async fn through(&self) -> Result<()> {
        // The endpoint may be new, and begin at the head of its feed: then it is asked again.
        let begin = Instant::now();
        self.board.take();
        while self.board.count() == 0 {
            self.change(&[self.probe]).await?;
            let turn = Instant::now();
            while self.board.count() == 0 && turn.elapsed() < Duration::from_secs(10) {
                sleep(Duration::from_millis(5)).await;
            }
            if begin.elapsed() > PATIENCE {
                bail!("nothing is delivered");
            }
        }
        self.board.take();
        Ok(())
    }

    /// One change of each bug at once, some rounds; beside a bare loop of as many POSTs.
    async fn full_speed(&self, figures: &mut Figures) -> Result<()> {
        let bugs: Vec<u64> = (1..=self.takes).collect();
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            bare.push(self.bare()?);
            self.board.take();
            let before = Cpu::of(self.program.pid())?;
            let begin = self.change(&bugs).await?;
            self.came(self.takes).await?;
            let seconds = begin.elapsed().as_secs_f64();
            // The last answers are yet to be read, and rows to be stored.
            self.through().await?;
            let cpu_ns = Cpu::of(self.program.pid())?.since(before).ns;
            ours.push(Cost { seconds, cpu_ns });
        }
        let count = self.takes as f64;
        let median =
            |costs: &[Cost], of: fn(&Cost) -> f64| crate::report::median(&costs.iter().map(of).collect::<Vec<_>>());
        let (rate, bare_rate) =
            (count / median(&ours, |cost| cost.seconds), count / median(&bare, |cost| cost.seconds));
        let each = |costs: &[Cost]| median(costs, |cost| cost.cpu_ns as f64) / count / 1000.0;
        figures.add("deliveries of single changes", "requests/s", rate);
        figures.add("processor time of a delivery", "µs", each(&ours));
        figures.add("bare loop of POSTs", "requests/s", bare_rate);
        figures.add("bare loop, processor time of a POST", "µs", each(&bare));
        figures.add("deliveries for each POST of the bare loop", "", rate / bare_rate);
        figures.add("processor time for that of the bare loop", "", each(&ours) / each(&bare));
        Ok(())
    }

    fn bare(&self) -> Result<Cost> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        let output =
            command.args(["post-loop", "--to", &self.to.to_string(), "--count", &self.takes.to_string()]).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the bare loop failed: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// How long changes take that come at a pace; then once more while others hang.
    async fn pace(&self, figures: &mut Figures) -> Result<()> {
        let alone = self.paced().await?;
        self.program.api().endpoints(&self.url("hangs"), self.takes + 1, self.hangs)?;
        self.through().await?;
        let hanging: Vec<u64> = (self.takes + 1..=self.takes + self.hangs).collect();
        self.program.change(&hanging).await?;
        let beside = self.paced().await?;
        figures.latencies("at a pace", alone.clone());
        figures.latencies("at a pace, beside hanging receivers", beside.clone());
        let p99 = |times: Vec<f64>| {
            let mut figures = Figures::default();
            figures.latencies("", times);
            figures.0.iter().find(|figure| figure.0 == ", p99").map_or(f64::NAN, |figure| figure.2)
        };
        figures.add("p99 beside hanging receivers", "times p99 alone", p99(beside) / p99(alone));
        Ok(())
    }

    async fn paced(&self) -> Result<Vec<f64>> {
        self.board.take();
        let mut turns = interval(Duration::from_micros(1_000_000 / PACE));
        let count = PACE * self.options.seconds;
        for number in 0..count {
            turns.tick().await;
            // No bug comes again soon.
            self.change(&[number * 7 % self.takes + 1]).await?;
        }
        self.came(count).await?;
        Ok(self.board.take().times)
    }

    /// A receiver that takes a second for each request, while its bugs change all the time.
    async fn slow(&self, figures: &mut Figures) -> Result<()> {
        let bugs: Vec<u64> = (self.first_of_slow..self.first_of_slow + SLOW_BUGS).collect();
        self.program.api().endpoint(&self.url("slow"), &bugs, "current")?;
        self.through().await?;
        let mut turns = interval(Duration::from_millis(10));
        let steps = usize::try_from(SLOW_PACE / 100)?;
        for number in 0..usize::try_from(self.options.seconds * 100)? {
            turns.tick().await;
            let turn: Vec<u64> = (0..steps).map(|step| bugs[(number * steps + step) * 7 % bugs.len()]).collect();
            // Only the first change of a bug since it was last told makes it old; the newest one is what is told.
            self.change(&turn).await?;
        }
        sleep(SLOW * 3).await;
        let came = self.board.take();
        figures.add("slow receiver: requests", "", came.requests as f64);
        figures.add("slow receiver: changes in a request, most", "changes", came.most as f64);
        figures.latencies("slow receiver", came.times);
        Ok(())
    }

    /// A receiver that is away while its bugs change very often.
    async fn away(&self, figures: &mut Figures) -> Result<()> {
        let bugs: Vec<u64> = (self.first_of_away..self.first_of_away + AWAY_BUGS).collect();
        let id = self.program.api().endpoint(&self.url("takes"), &bugs, "current")?;
        self.through().await?;
        self.program.api().order(&id, "pause")?;
        let begin = Instant::now();
        for from in (0..self.options.away).step_by(usize::try_from(ROWS)?) {
            let rows = from..(from + ROWS).min(self.options.away);
            let turn: Vec<u64> = rows.map(|row| self.first_of_away + row % AWAY_BUGS).collect();
            self.program.change(&turn).await?;
        }
        self.through().await?;
        figures.add("away: changes recorded", "changes/s", self.options.away as f64 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        self.program.api().order(&id, "resume")?;
        self.came(AWAY_BUGS).await?;
        let took = begin.elapsed();
        sleep(Duration::from_secs(1)).await;
        let came = self.board.take();
        figures.add("away: requests", "", came.requests as f64);
        figures.add("away: gaps", "", came.gaps as f64);
        figures.add("away: until caught up", "ms", figures::ms(took));
        Ok(())
    }
}
