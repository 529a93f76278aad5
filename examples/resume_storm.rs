//! How fast does a gateway take back all its clients at once? Thousands of them, in several processes and from several
//! loopback addresses, each watching 200 bugs of 100,000, lose their connection, miss some thousand changes, and all
//! resume with their cursors at the same moment.
//!
//! ```sh
//! cargo build --profile dist -p bugfeed --bins --example resume_storm && cargo run --profile dist --example resume_storm
//! ```
//!
//! Needs Debian's rabbitmq-server; the broker is a throwaway one, as in the tests. `--kill` kills the gateway with
//! SIGKILL instead of dropping the clients, so that the one they come back to has its history from the broker.
//! `--help` lists the sizes. Every client checks that it got the newest change of each of its bugs that changed; who
//! did not is lost, and so is who got one that it had.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use bugfeed_protocol::bus::{self, Format};
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When};
use bugfeed_testbed::{Proc, RabbitMq, Run, bin, eventually, free_port, get, unique};
use clap::Parser;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

#[path = "resume_storm/clients.rs"]
mod clients;

/// No phase takes longer.
const LIMIT: Duration = Duration::from_secs(120);
const EPOCH: &str = "storm";

/// The sizes of the storm.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Processes with clients
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    processes: u32,
    /// Clients in each; each is an open file, here and in the gateway
    #[arg(long, default_value_t = 7000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Bugs each client watches
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscriptions: u32,
    /// Bugs there are
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    bugs: u32,
    /// Changes that clients see live
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    live: u64,
    /// Changes they miss
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    missed: u64,
    /// How often the whole is done; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Kill the gateway (SIGKILL) and start it again, instead of dropping the clients
    #[arg(long)]
    kill: bool,
    /// Be the process with this number, with clients of the gateway at --gateway
    #[arg(long, hide = true, requires = "gateway")]
    worker: Option<u32>,
    #[arg(long, hide = true)]
    gateway: Option<SocketAddr>,
}

/// What a process with clients is told, one a line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Order {
    /// Connect and subscribe, at a few hundred at a time.
    Open,
    /// Wait until every client has what changed after the first number up to the second.
    Live(u64, u64),
    /// Drop all connections.
    Drop,
    /// All at once: connect, resume, and wait likewise.
    Resume(u64, u64),
}

/// What it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Answer {
    /// Until the last of the replies to subscriptions, in seconds.
    replied_s: f64,
    /// Until the last client had everything.
    current_s: f64,
    updates: u64,
    repeated: u64,
    retries: u64,
    lost: u64,
    verdicts: HashMap<String, u64>,
}

impl Answer {
    fn add(&mut self, other: &Answer) {
        self.replied_s = self.replied_s.max(other.replied_s);
        self.current_s = self.current_s.max(other.current_s);
        self.updates += other.updates;
        self.repeated += other.repeated;
        self.retries += other.retries;
        self.lost += other.lost;
        for (verdict, count) in &other.verdicts {
            *self.verdicts.entry(verdict.clone()).or_default() += count;
        }
    }
}

/// Which bug a change is of.
fn bug_of(seq: u64, bugs: u32) -> u32 {
    SmallRng::seed_from_u64(seq).random_range(1..=bugs)
}

#[tokio::main]
async fn main() {
    raise_file_limit();
    let options = Options::parse();
    if let Some(number) = options.worker {
        return clients::work(&options, number).await;
    }
    let rabbit = RabbitMq::start().await.unwrap();
    let mut results = Vec::new();
    for run in 1..=options.runs {
        let result = storm(&options, &rabbit.url()).await;
        println!("run {run}: {}", result.line());
        results.push(result);
    }
    let median = |of: fn(&Outcome) -> f64| {
        let mut values: Vec<f64> = results.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{} clients in {} processes, {} subscriptions each, {} bugs; {}; {} changes missed; medians of {} runs:\n\
         {:.0} resumes/s, all current after {:.2} s, {:.0} µs of server CPU per resume, server RSS {:.0} MB, database \
         reads 0 (a gateway has no database), lost {}",
        options.clients * options.processes,
        options.processes,
        options.subscriptions,
        options.bugs,
        if options.kill { "gateway killed and started again" } else { "all dropped" },
        options.missed,
        options.runs,
        median(Outcome::rate),
        median(|outcome| outcome.answer.current_s),
        median(|outcome| outcome.cpu_us),
        median(|outcome| outcome.rss_mb),
        results.iter().map(|outcome| outcome.answer.lost + outcome.answer.repeated).sum::<u64>(),
    );
}

/// Every client is an open file: raises the soft limit to the hard one.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// One storm's figures.
struct Outcome {
    answer: Answer,
    clients: f64,
    cpu_us: f64,
    rss_mb: f64,
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.clients / self.answer.replied_s
    }

    fn line(&self) -> String {
        let Answer { replied_s, current_s, updates, repeated, retries, lost, verdicts } = &self.answer;
        format!(
            "{:.0} resumes/s (the last after {replied_s:.2} s), all current after {current_s:.2} s, {:.0} µs of server \
             CPU per resume, RSS {:.0} MB, verdicts {verdicts:?}, {updates} updates ({repeated} repeated), {retries} \
             connections tried again, lost {lost}",
            self.rate(),
            self.cpu_us,
            self.rss_mb,
        )
    }
}

/// A gateway, and what the system says of it.
struct Gateway {
    args: Vec<String>,
    proc: Proc,
    clients: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    async fn start(amqp: &str, exchange: &str) -> Gateway {
        let [clients, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
        let (listen, admin_listen) = (clients.to_string(), admin.to_string());
        let feed = format!("default={exchange}");
        let args = ["gateway", "--amqp", amqp, "--feed", &feed, "--listen", &listen, "--admin-listen", &admin_listen];
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let mut proc = Run::new(bin("bugfeed").unwrap()).args(&args).spawn().unwrap();
        proc.wait_ready(admin, LIMIT).await.unwrap();
        Gateway { args, proc, clients, admin }
    }

    async fn kill_and_start_again(&mut self) {
        self.proc.kill9();
        self.proc = Run::new(bin("bugfeed").unwrap()).args(&self.args).spawn().unwrap();
        self.proc.wait_ready(self.admin, LIMIT).await.unwrap();
    }

    /// Waits until a counter has a value.
    async fn wait(&self, counter: &str) {
        let line = format!("\n{counter}\n");
        eventually(LIMIT, counter, async || {
            let (_, page) = get(self.admin, "/metrics").await?;
            if page.contains(&line) { Ok(()) } else { Err(anyhow::anyhow!(page)) }
        })
        .await
        .unwrap();
    }

    /// Processor time so far, in microseconds: of 100 ticks a second, as Linux has shown them for ever.
    fn cpu_us(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.proc.pid())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
    }

    fn rss_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.proc.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

/// Publishes the changes with these numbers, and waits until the broker has them.
async fn publish(amqp: &str, exchange: &str, seqs: std::ops::RangeInclusive<u64>, bugs: u32) {
    let url = bugfeed_amqp::parse_url(amqp).unwrap();
    let connection = bugfeed_amqp::connect(&url, "resume storm", bugfeed_amqp::SMALL_FRAMES).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let epoch = Epoch::parse(EPOCH).unwrap();
    let now = When::from_system_time(std::time::SystemTime::now());
    let mut confirms = Vec::new();
    for seq in seqs {
        let bug = BugId::new(bug_of(seq, bugs).into()).unwrap();
        let cursor = Cursor::new(epoch.clone(), seq);
        let change = Numbered { change: Change { bug, when: now }, cursor, after: None, recorded: now };
        let body = bus::encode(&change, Format::Native, exchange);
        let properties = BasicProperties::default().with_delivery_mode(2);
        let key = bug.to_string();
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(exchange.into(), key.as_str().into(), options, &body, properties);
        confirms.push(sent.await.unwrap());
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
    connection.close(200, "done".into()).await.unwrap();
}

/// A process with clients.
struct Worker {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(options: &Options, number: u32, gateway: SocketAddr) -> Worker {
        let number_text = |name: &str, value: u32| [format!("--{name}"), value.to_string()];
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(number_text("clients", options.clients))
            .args(number_text("subscriptions", options.subscriptions))
            .args(number_text("bugs", options.bugs))
            .args(number_text("worker", number))
            .args(["--gateway", &gateway.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Worker { _child: child, orders, answers: BufReader::new(answers).lines() }
    }
}

/// Gives all workers an order and waits for their answers.
async fn order(workers: &mut [Worker], order: Order) -> Answer {
    let line = serde_json::to_string(&order).unwrap() + "\n";
    for worker in &mut *workers {
        worker.orders.write_all(line.as_bytes()).await.unwrap();
    }
    let mut all = Answer::default();
    for worker in workers {
        let line = tokio::time::timeout(LIMIT * 2, worker.answers.next_line()).await.expect("an answer in time");
        all.add(&serde_json::from_str(&line.unwrap().expect("a living worker")).unwrap());
    }
    all
}

async fn storm(options: &Options, amqp: &str) -> Outcome {
    let exchange = unique("storm");
    let mut gateway = Gateway::start(amqp, &exchange).await;
    let mut workers: Vec<Worker> =
        (0..options.processes).map(|number| Worker::start(options, number, gateway.clients)).collect();
    // One change, so that there is a position to be at.
    publish(amqp, &exchange, 1..=1, options.bugs).await;
    gateway.wait("bugfeed_changes_total{feed=\"default\"} 1").await;
    let opened = order(&mut workers, Order::Open).await;
    assert_eq!(opened.lost, 0, "not all could connect: {opened:?}");

    let live = 1 + options.live;
    publish(amqp, &exchange, 2..=live, options.bugs).await;
    let seen = order(&mut workers, Order::Live(1, live)).await;
    assert_eq!(seen.lost, 0, "not all have what was live: {seen:?}");

    let all = live + options.missed;
    if options.kill {
        gateway.proc.kill9();
    }
    order(&mut workers, Order::Drop).await;
    if !options.kill {
        gateway.wait("bugfeed_connections 0").await;
    }
    publish(amqp, &exchange, live + 1..=all, options.bugs).await;
    if options.kill {
        gateway.kill_and_start_again().await;
    }
    gateway.wait(&format!("bugfeed_changes_total{{feed=\"default\"}} {all}")).await;

    let before = gateway.cpu_us();
    let answer = order(&mut workers, Order::Resume(live, all)).await;
    let clients = f64::from(options.clients * options.processes);
    Outcome { answer, clients, cpu_us: (gateway.cpu_us() - before) / clients, rss_mb: gateway.rss_mb() }
}
