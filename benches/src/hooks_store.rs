//! The store of the hooks with many events: what listing, the next due lane and retention cost, and how quickly
//! requests arrive.
//!
//! Goes in: how many events, and where. Comes out: figures. What is written is compared with an append to a file that is
//! synchronised to the disk, in the same run, because disks differ more than programs. Starts no server; the whole road, from
//! HTTP on, is in `road`.

mod aims;
mod road;
mod turns;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{Event, State, Trigger};
use bugfeed_core::hooks::lane::{Gate, LaneKey, Settings, World};
use bugfeed_core::hooks::processor::plan_lane;
use bugfeed_hooks::receive::identity::Sha256;
use bugfeed_hooks::receive::mapped::Kept;
use bugfeed_hooks::receive::received::{Envelope, Failure, ReceivedItem, ReceivedRequest, RequestId};
use bugfeed_hooks::store::apply::Plan;
use bugfeed_hooks::store::events::{EventFilter, Range};
use bugfeed_hooks::store::intake::intake;
use bugfeed_hooks::store::retention::Keep;
use bugfeed_hooks::store::{Look, Options, Store};
use bugfeed_protocol::BugId;
use bugfeed_sql::{Db, DbUrl, Use};
use clap::Args;
use tokio_util::sync::CancellationToken;

use self::road::Road;
use self::turns::Turns;
use crate::figures::{self, Figure, Figures, ms};
use crate::report::Report;

/// When the first event is received.
const BEGIN_US: i64 = 1_795_694_400_000_000;
/// How long a claim holds, in microseconds.
const LEASE_US: i64 = 60_000_000;
/// Items of a request while the store is filled.
const ITEMS: u64 = 500;
/// Requests of a transaction while the store is filled.
const REQUESTS: u64 = 10;
/// The time from one request to the next while the store is filled, in microseconds.
const APART_US: i64 = 10_000;

/// The pace at which latencies are measured, in requests a second: the target. At full speed a request waits for those that
/// stand before it, and the latency is the number of senders divided by the rate, whatever the store does.
const PACE: u32 = 3000;
/// Requests at a pace have numbers from here on.
const PACED_FROM: u64 = 500_000_000;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct HooksStore {
    /// Events that the store holds
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    pub events: u64,
    /// Bugs that they are about
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(100..=50_000_000))]
    pub bugs: u64,
    /// Queries of each kind
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub queries: u32,
    /// Senders of single requests, each of which waits for its answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub senders: u32,
    /// How long single requests come, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Items that go the whole road in bulk; 0 leaves the road out
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub items: u64,
    /// The database; for a server, an empty one [default: an SQLite file in the folder for temporary files]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
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
/// When the database says no, or the page cannot be written.
pub fn run(options: &HooksStore) -> Result<Report> {
    // What else the machine does is looked at before this loads it.
    let mut report = Report::new("hooks-store", format!("{} events, {} bugs", options.events, options.bugs));
    let figures = measure(options)?;
    if let Some(page) = &options.page {
        figures::write(page, &figures::table(aims::AIMS, &figures, &report))?;
    }
    for (name, unit, value) in figures {
        report.row(name, unit, vec![value]);
    }
    Ok(report)
}

fn measure(options: &HooksStore) -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let dir = tempfile::tempdir().context("no folder for temporary files")?;
        let url = match &options.store {
            Some(url) => url.parse::<DbUrl>()?,
            None => DbUrl::sqlite_file(dir.path().join("hooks.db")),
        };
        let store = Store::open(&url, Options::default()).await?.store;
        store.serve_feed("default", None).await?;
        let path = dir.path().join("append");
        let times = tokio::task::spawn_blocking(move || appends(&path)).await??;
        let appends = times.len() as f64 * 1000.0 / times.iter().sum::<f64>();
        let mut bench = Bench { options: options.clone(), store, figures: Figures::default(), next: 0, appends };
        bench.figure("synchronised appends", "appends/s", appends);
        bench.latencies("synchronised append", times);
        bench.road(dir.path()).await?;
        bench.fill().await?;
        bench.sizes(&url).await?;
        bench.queries().await?;
        bench.singles().await?;
        bench.retention().await?;
        bench.store.close().await;
        Ok(bench.figures.0)
    })
}

struct Bench {
    options: HooksStore,
    store: Store,
    figures: Figures,
    next: u64,
    /// Synchronised appends a second.
    appends: f64,
}

/// A number that follows from another one and looks random.
fn scatter(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

fn item(number: u64, bugs: u64, received_us: i64) -> ReceivedItem {
    // One in a hundred fails.
    let is_bad = number % 100 == 99;
    let failure = || Failure { error: "no bug".to_owned(), fix: "name it".to_owned() };
    ReceivedItem {
        index: 0,
        mapping: if is_bad { Mapping::Failed } else { Mapping::Fits },
        failure: is_bad.then(failure),
        feed: "default".to_owned(),
        bug: BugId::new(scatter(number) % bugs + 1).filter(|_| !is_bad),
        when_us: received_us - 1_000_000,
        is_dated: true,
        has_wrong_clock: false,
        kind: "issue_comment".to_owned(),
        project: None,
        delivery: Some(format!("{:016x}-{number:019}", scatter(number))),
        hash: Sha256::of(&number.to_le_bytes()),
        is_private: false,
        kept: is_bad.then(|| Kept { item: "{\"issue\":{}}".to_owned(), headers: Vec::new() }),
    }
}

fn request(source: &str, received_us: i64, items: Vec<ReceivedItem>) -> ReceivedRequest {
    let mut random = [0; 10];
    random.iter_mut().zip(Sha256::of(&received_us.to_le_bytes()).0).for_each(|(to, from)| *to = from);
    let items = (0..).zip(items).map(|(index, item)| ReceivedItem { index, ..item }).collect();
    let envelope = Envelope {
        id: RequestId::new(received_us, random),
        source: source.to_owned(),
        received_us,
        address: std::net::IpAddr::from([192, 0, 2, 1]),
        key_id: Some("abcdef".to_owned()),
        path: format!("/hooks/{source}"),
        headers: vec![("User-Agent".to_owned(), "GitHub-Hookshot/044aadd".to_owned())],
        size: 2000,
        body_hash: Some(Sha256::of(b"body")),
        body: None,
        status: 200,
    };
    ReceivedRequest { envelope, trigger: Trigger::Live, replays: None, failure: None, items, answered: Vec::new() }
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Bench {
    fn figure(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.figures.add(name, unit, value);
    }

    fn latencies(&mut self, name: &str, times: Vec<f64>) {
        self.figures.latencies(name, times);
    }

    fn received_us(&self) -> i64 {
        BEGIN_US + i64::try_from(self.next / ITEMS).unwrap_or(0) * APART_US
    }

    /// Fills the store; what arrives is processed as in a running system.
    async fn fill(&mut self) -> Result<()> {
        let (mut accepting, mut applying) = (Duration::ZERO, Duration::ZERO);
        while self.next < self.options.events {
            let mut requests = Vec::new();
            for _ in 0..REQUESTS {
                let at_us = self.received_us();
                let items = (self.next..self.next + ITEMS).map(|n| item(n, self.options.bugs, at_us)).collect();
                let source = if (self.next / ITEMS) % 1000 == 500 { "rare" } else { "github" };
                requests.push(request(source, at_us, items));
                self.next += ITEMS;
            }
            let begin = Instant::now();
            self.store.accept(&requests.iter().collect::<Vec<_>>()).await?;
            accepting += begin.elapsed();
            let begin = Instant::now();
            self.work(self.received_us()).await?;
            applying += begin.elapsed();
        }
        let count = self.next as f64;
        self.figure("bulk: accepted", "items/s", count / accepting.as_secs_f64());
        let rate = count / (accepting + applying).as_secs_f64();
        self.figure("bulk: accepted and completed", "items/s", rate);
        self.figure("bulk: accepted and completed, for each append", "", rate / self.appends);
        Ok(())
    }

    /// Completes what is due.
    async fn work(&self, now_us: i64) -> Result<()> {
        let look = Look { now_us, lease_us: LEASE_US, with_done: false };
        loop {
            let due = self.store.due_lanes(&look, false, 1000).await?;
            if due.is_empty() {
                return Ok(());
            }
            let keys: Vec<LaneKey> = due.into_iter().map(|due| due.key).collect();
            let source = |_: &Event| (Settings::DEFAULT, Gate::OPEN);
            let world = World { now_us, lease_us: LEASE_US, batch: 32, source: &source };
            let plan = |lane| Plan { now_us, actions: plan_lane(lane, &world), reasons: Vec::new() };
            let plans: Vec<Plan> = self.store.lanes(&keys, &look).await?.iter().map(plan).collect();
            self.store.apply_many(&plans).await?;
        }
    }

    /// Bytes of a row, where the database tells.
    async fn sizes(&mut self, url: &DbUrl) -> Result<()> {
        if url.file_path().is_none() {
            return Ok(());
        }
        let db = Db::new(url, Use::Ledger { create: false });
        for (name, tables) in [("row of an event", "= 'hooks_events'"), ("all of the file", "<> ''")] {
            let sql = format!("SELECT SUM(pgsize) FROM dbstat WHERE aggregate = TRUE AND name {tables}");
            if let Ok(rows) = db.fetch(&sql, &[]).await {
                let bytes = rows.first().and_then(|row| row.first()).and_then(bugfeed_sql::Value::int).unwrap_or(0);
                self.figure(format!("size: {name}"), "bytes/event", bytes as f64 / self.next as f64);
            }
        }
        db.close().await;
        Ok(())
    }

    /// What people and workers ask.
    async fn queries(&mut self) -> Result<()> {
        let last_us = self.received_us();
        let span = u64::try_from(last_us - BEGIN_US).unwrap_or(1).max(1);
        let time = |n: u64| BEGIN_US + i64::try_from(scatter(n) % span).unwrap_or(0);
        let range = |n| Range { from_us: Some(time(n)), to_us: Some(time(n) + 60_000_000) };
        let bug = |n| BugId::new(scatter(n) % self.options.bugs + 1);
        let filter = |kind: &str, n: u64| {
            let none = EventFilter::default();
            match kind {
                "errored" => EventFilter { state: Some(State::Errored), ..none },
                "completed" => EventFilter { state: Some(State::Completed), ..none },
                "a rare source" => EventFilter { source: Some("rare".to_owned()), ..none },
                "a feed without events" => EventFilter { feed: Some("nothing".to_owned()), ..none },
                "a bug" => EventFilter { bug: bug(n), ..none },
                "a minute" => EventFilter { range: range(n), ..none },
                _ => none,
            }
        };
        let mut found = Vec::new();
        for kind in ["all", "errored", "completed", "a rare source", "a feed without events", "a bug", "a minute"] {
            let mut times = Vec::new();
            for n in 0..u64::from(self.options.queries) {
                let filter = filter(kind, n);
                let begin = Instant::now();
                self.store.list_events(&filter, None, 100).await?;
                times.push(ms(begin.elapsed()));
            }
            found.push((format!("list 100 of {kind}"), times));
        }
        let mut times = Vec::new();
        let look = Look { now_us: last_us, lease_us: LEASE_US, with_done: false };
        for n in 0..u64::from(self.options.queries) {
            let begin = Instant::now();
            self.store.due_lanes(&look, n % 2 == 0, 100).await?;
            self.store.next_due(last_us).await?;
            times.push(ms(begin.elapsed()));
        }
        found.push(("next due".to_owned(), times));
        for (name, times) in found {
            self.latencies(&name, times);
        }
        Ok(())
    }

    /// The whole road, in a store of its own.
    async fn road(&mut self, dir: &Path) -> Result<()> {
        let HooksStore { items, senders, seconds, bugs, .. } = self.options;
        if items == 0 {
            return Ok(());
        }
        let road = Road::start(dir).await?;
        let (times, took) = road.singles(senders, bugs, Turns::begin(0, seconds, None)).await?;
        let rate = times.len() as f64 / took.as_secs_f64();
        self.figure("road: single POSTs", "requests/s", rate);
        self.figure("road: single POSTs, for each append", "", rate / self.appends);
        self.latencies("road: single POST", times);
        let (times, _) = road.singles(senders, bugs, Turns::begin(PACED_FROM, seconds, Some(PACE))).await?;
        self.latencies("road: single POST at a pace", times);
        let bulk = road.bulk(items, bugs).await?;
        let rate = |took: Duration| items.div_ceil(ITEMS) as f64 * ITEMS as f64 / took.as_secs_f64();
        self.figure("road: NDJSON, answered", "items/s", rate(bulk.answered));
        self.figure("road: NDJSON, in the change table", "items/s", rate(bulk.through));
        self.figure("road: NDJSON, in the change table, for each append", "", rate(bulk.through) / self.appends);
        road.stop().await
    }

    /// Single requests through the group commit.
    async fn singles(&mut self) -> Result<()> {
        let (times, took) = self.group_commit(None).await?;
        let rate = times.len() as f64 / took.as_secs_f64();
        self.figure("single requests", "requests/s", rate);
        self.figure("single requests, for each append", "", rate / self.appends);
        self.latencies("single request", times);
        let (times, _) = self.group_commit(Some(PACE)).await?;
        self.latencies("single request at a pace", times);
        Ok(())
    }

    async fn group_commit(&mut self, rate: Option<u32>) -> Result<(Vec<f64>, Duration)> {
        let (intake, task) = intake(&self.store);
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        let turns = Arc::new(Turns::begin(self.next, self.options.seconds, rate));
        let mut senders = Vec::new();
        for _ in 0..self.options.senders {
            let (intake, turns, bugs) = (intake.clone(), Arc::clone(&turns), self.options.bugs);
            senders.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while let Some((number, due)) = turns.next().await {
                    let at_us = now_us().max(BEGIN_US) + i64::try_from(number).unwrap_or(0);
                    let request = request("github", at_us, vec![item(number, bugs, at_us)]);
                    intake.accept(Arc::new(request)).await?;
                    times.push(ms(due.elapsed()));
                }
                Ok::<_, anyhow::Error>(times)
            }));
        }
        let mut times = Vec::new();
        for sender in senders {
            times.extend(sender.await??);
        }
        let took = turns.elapsed();
        stop.cancel();
        task.await?;
        self.next = turns.unused();
        Ok((times, took))
    }

    /// A fifth of the events goes, while single requests arrive.
    async fn retention(&mut self) -> Result<()> {
        let span_us = i64::try_from(self.options.events / ITEMS).unwrap_or(0) * APART_US;
        let now_us = now_us().max(BEGIN_US + span_us) + 7_200_000_000;
        let keep = Keep { events_us: now_us - BEGIN_US - span_us / 5, ..Keep::default() };
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (store, stop, bugs, first) = (self.store.clone(), Arc::clone(&stop), self.options.bugs, self.next);
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut number = first;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let at_us = now_us + i64::try_from(number).unwrap_or(0);
                    let request = request("github", at_us, vec![item(number, bugs, at_us)]);
                    let begin = Instant::now();
                    store.accept(&[&request]).await?;
                    times.push(ms(begin.elapsed()));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok::<_, anyhow::Error>(times)
            })
        };
        let begin = Instant::now();
        let mut run = self.store.begin_retention(keep, now_us).await?;
        self.figure("retention: count", "ms", ms(begin.elapsed()));
        let (mut steps, mut removed) = (Vec::new(), 0);
        loop {
            let begin = Instant::now();
            let step = self.store.retain(&mut run).await?;
            steps.push(ms(begin.elapsed()));
            removed += step.rows;
            if step.is_done {
                break;
            }
        }
        let rate = removed as f64 / begin.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let writes = writer.await??;
        self.figure("retention: removed", "rows/s", rate);
        self.latencies("retention: step", steps);
        self.latencies("retention: a write beside it", writes);
        Ok(())
    }
}

/// Appends of 300 bytes to a file, each of them synchronised to the disk: how long each takes, in milliseconds.
fn appends(path: &Path) -> Result<Vec<f64>> {
    let (mut file, mut times) = (File::create(path)?, Vec::new());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        let begin = Instant::now();
        file.write_all(&[b'x'; 300])?;
        file.sync_data()?;
        times.push(ms(begin.elapsed()));
    }
    Ok(times)
}
