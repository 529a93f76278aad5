//! A site on which one thing goes wrong at a time: MariaDB's change table, a shim with a ledger in a file, gateways, clients
//! that stay, clients that leave and come back with an old cursor, and a writer that never stops.
//!
//! What is checked in the end, whatever went wrong: each client was sent every change of its bugs, or was told `gap` after the
//! change was committed; nobody was told anything that a gateway may not say.

use crate::support::init;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bugfeed_protocol::When;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_testbed::{SqlServer, eventually, unique};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::real::soak::client::{Plan, Seen};
use crate::real::soak::crowd::Clients;
use crate::real::soak::pods::{Pods, Program, get, logged};
use crate::real::soak::tracker::{BUGS, Dates, Tracker, Wrote, write};

/// Long enough for a busy machine; nothing here waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 12;
/// A frozen peer is found out within seconds; nobody lags.
const GATEWAY: [&str; 4] = ["--ping-interval-ms", "1000", "--send-buffer-bytes", "4194304"];

/// What a scene is made of.
pub struct Parts<'a> {
    /// Which broker the shim is given.
    pub shim_amqp: &'a str,
    /// Which broker the gateways are given.
    pub amqp: &'a str,
    pub exchange: &'a str,
    pub shim: &'a [&'a str],
    /// The options of each gateway.
    pub gateways: &'a [&'a [&'a str]],
    /// Changes that history holds before a gateway starts.
    pub before: u64,
}

pub struct Scene {
    pub shim: Program,
    pub gateways: Vec<Program>,
    pub clients: Clients,
    pub dir: tempfile::TempDir,
    pods: Arc<Pods>,
    tracker: Arc<Tracker>,
    writer: JoinHandle<Wrote>,
    stop: CancellationToken,
    probe: AbortHandle,
    logs: PathBuf,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
        self.probe.abort();
    }
}

/// Modern ones, of which every second leaves when it is sent away.
fn plans(seed: u64) -> Vec<Plan> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut plan = |number| {
        let mut bugs: Vec<u64> = (1..=BUGS).collect();
        bugs.shuffle(&mut random);
        bugs.truncate(random.random_range(20..40));
        Plan { number, modern: true, bugs, stalls: false, narrow: false, leaves: number % 2 == 1 }
    };
    (0..CLIENTS).map(&mut plan).collect()
}

fn ledger_in(dir: &tempfile::TempDir) -> String {
    format!("sqlite://{}/ledger.db", dir.path().display())
}

impl Scene {
    /// Starts it all; done when every client is subscribed, and changes flow.
    pub async fn start(server: SqlServer, parts: &Parts<'_>) -> Scene {
        let seed = u64::from(rand::random::<u32>());
        println!("seed {seed}");
        let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("scene"));
        std::fs::create_dir_all(&logs).unwrap();
        let (tracker, dir) = (Arc::new(Tracker::on(server).await), tempfile::tempdir().unwrap());
        init(&tracker.source_url()).await;
        let (source, ledger) = (tracker.source_url(), ledger_in(&dir));
        let fixed = ["run", "--source", &source, "--ledger", &ledger, "--amqp", parts.shim_amqp];
        let fixed = [&fixed[..], &["--exchange", parts.exchange, "--poll-interval-ms", "100"], parts.shim].concat();
        let mut shim = Program::new("shim", "bugfeed-shim", &fixed, &logs);
        shim.start();
        tracker.prime(parts.before).await;
        if parts.before > 1 {
            tracker.drained_into(&ledger, PATIENCE).await;
        }
        let pods = Arc::new(Pods::new(&vec![false; parts.gateways.len()]));
        let feed = format!("default={}", parts.exchange);
        let gateway = |(index, options): (usize, &&[&str])| {
            let (clients, admin) = (pods.0[index].clients.to_string(), pods.0[index].admin.to_string());
            let fixed = ["gateway", "--amqp", parts.amqp, "--feed", &feed, "--listen", &clients];
            let fixed = [&fixed[..], &["--admin-listen", &admin], &GATEWAY, options].concat();
            Program::new(&format!("gateway{index}"), "bugfeed", &fixed, &logs)
        };
        let mut gateways: Vec<Program> = parts.gateways.iter().enumerate().map(gateway).collect();
        gateways.iter_mut().for_each(Program::start);
        tracker.drained_into(&ledger, PATIENCE).await;
        let probed = Arc::clone(&pods);
        let probe = tokio::spawn(async move { probed.probe().await }).abort_handle();
        eventually(PATIENCE, "every gateway is ready", async || pods.all_ready()).await.unwrap();
        let clients = Clients::start(plans(seed), seed, &pods, &tracker, false).await;
        let stop = CancellationToken::new();
        let writer = tokio::spawn(write(tracker.source_url(), Arc::new(Dates::default()), seed, stop.clone()));
        let scene = Scene { shim, gateways, clients, dir, pods, tracker, writer, stop, probe, logs };
        scene.flows().await;
        scene
    }

    fn ledger(&self) -> String {
        ledger_in(&self.dir)
    }

    /// How many changes the broker was given and has confirmed, as far as the ledger knows.
    pub async fn published(&self) -> u64 {
        let ledger = Ledger::open_existing(&self.ledger().parse().unwrap(), &Prefix::default()).await.unwrap();
        let published = ledger.meta().await.unwrap().published;
        ledger.close().await;
        published
    }

    /// Waits until every client that is there was sent something that was written from now on.
    pub async fn flows(&self) {
        let now = When::from_system_time(SystemTime::now());
        let knows = |seen: &Seen| seen.away || seen.updates.iter().rev().any(|update| update.when > now);
        let waiting = async || {
            let all = self.clients.plans.iter();
            let without: Vec<usize> =
                all.filter(|(_, seen)| !knows(&seen.lock().unwrap())).map(|(plan, _)| plan.number).collect();
            if without.is_empty() { Ok(()) } else { Err(format!("none at clients {without:?}")) }
        };
        let flows = eventually(PATIENCE, "a new change at every client", waiting).await;
        flows.unwrap_or_else(|error| self.fail(&[error.to_string()]));
    }

    /// Whether every client was told a gap more than it had been then.
    pub fn gap_at_every_client(&self, before: &[u32]) {
        let told: Vec<bool> = before.iter().zip(self.gaps()).map(|(before, now)| now > *before).collect();
        assert!(told.iter().all(|told| *told), "a gap at every client, those that came back, too: {told:?}");
    }

    /// Waits until every gateway says that it is ready, or that it is not.
    pub async fn all_say(&self, status: u16) {
        let say = async || {
            for pod in &self.pods.0 {
                let answer = get(pod.admin, "/readyz").await.unwrap_or_default();
                if !answer.contains(&format!(" {status} ")) {
                    return Err(answer);
                }
            }
            Ok(())
        };
        let said = eventually(PATIENCE, format!("status {status} of every gateway"), say).await;
        said.unwrap_or_else(|error| self.fail(&[error.to_string()]));
    }

    /// How many gaps each client was told, in the order of their numbers.
    pub fn gaps(&self) -> Vec<u32> {
        let gaps = |seen: &Seen| seen.gaps + seen.behind;
        self.clients.plans.iter().map(|(_, seen)| gaps(&seen.lock().unwrap())).collect()
    }

    /// How often the processes logged an event.
    pub fn logged(&self, what: LogEvent) -> usize {
        self.shim.keep_log();
        self.gateways.iter().for_each(Program::keep_log);
        logged(&self.logs, what)
    }

    fn fail(&self, wrong: &[String]) -> ! {
        self.shim.keep_log();
        self.gateways.iter().for_each(Program::keep_log);
        let wrong = &wrong[..wrong.len().min(20)];
        panic!("{}\nlogs of all processes: {}", wrong.join("\n"), self.logs.display());
    }

    /// Ends the writing, lets everything arrive, and judges it.
    pub async fn end(mut self) {
        self.stop.cancel();
        let wrote = (&mut self.writer).await.unwrap();
        self.tracker.drained_into(&self.ledger(), PATIENCE).await;
        let written = self.tracker.written().await;
        let arrived = async || self.clients.missing(&written).is_empty();
        let mut wrong = match eventually(PATIENCE, "everything at every client", arrived).await {
            Ok(()) => Vec::new(),
            Err(error) => [vec![error.to_string()], self.clients.missing(&written)].concat(),
        };
        let (mut updates, mut complete, mut with_gap) = (0, 0, 0);
        for (plan, seen) in &self.clients.plans {
            let seen = seen.lock().unwrap();
            wrong.extend(seen.wrong.iter().map(|text| format!("client {}: {text}", plan.number)));
            updates += seen.updates.len();
            complete += seen.complete + seen.latest;
            with_gap += seen.resumed_with_gap;
        }
        println!(
            "{} changes, {updates} updates; gaps of each client: {:?}; resumes: {complete} complete, {with_gap} with a gap",
            wrote.rows,
            self.gaps(),
        );
        if !wrong.is_empty() {
            self.fail(&wrong);
        }
        let logs = self.logs.clone();
        drop(self);
        std::fs::remove_dir_all(logs).unwrap();
    }
}
