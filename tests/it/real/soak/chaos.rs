//! The test itself: set everything up, let it die at random, let it catch up, check, report.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{RabbitMq, eventually};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::check::Truth;
use super::client::Plan;
use super::crowd::Clients;
use super::faults::{self, Counts, Period};
use super::pods::{Pods, Program, logged};
use super::tracker::{BUGS, Dates, Tracker, Wrote, write};
use crate::support::{SOON, init};

/// How long everything may take to catch up once nothing dies any more.
pub const CATCH_UP: Duration = Duration::from_secs(90);
const WRITERS: u64 = 4;
/// Which gateways send little at a time.
const NARROW: [bool; 3] = [false, false, true];
/// How many messages the gateways' queues hold.
const QUEUE_MAX: [&str; 3] = ["1000000", "10", "10"];

pub fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// All that runs beside the clients.
struct World {
    rabbit: RabbitMq,
    gateways: Vec<Program>,
    shims: [Program; 2],
    pods: Arc<Pods>,
    tracker: Arc<Tracker>,
    logs: PathBuf,
}

impl World {
    async fn start(seed: u64) -> Option<World> {
        let (tracker, rabbit) = tokio::join!(Tracker::start(), RabbitMq::start_or_skip());
        let (tracker, rabbit) = (Arc::new(tracker?), rabbit?);
        init(&tracker.source_url()).await;
        let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{seed}"));
        std::fs::create_dir_all(&logs).unwrap();
        // A frozen peer is found out within seconds.
        let amqp = format!("{}?heartbeat=2", rabbit.url());
        let (source, ledger) = (tracker.source_url(), tracker.ledger_url());
        let shim = ["run", "--source", &source, "--ledger", &ledger, "--amqp", &amqp, "--poll-interval-ms", "100"];
        let mut shims = ["shim0", "shim1"].map(|name| Program::new(name, "bugfeed-shim", &shim, &logs));
        shims[0].start();
        let pods = Arc::new(Pods::new(&NARROW));
        let mut gateways: Vec<Program> = pods
            .0
            .iter()
            .enumerate()
            .map(|(index, pod)| {
                let (clients, admin) = (pod.clients.to_string(), pod.admin.to_string());
                let buffer = if NARROW[index] { "4096" } else { "4194304" };
                let mut args = vec!["gateway", "--amqp", &amqp, "--listen", &clients, "--admin-listen", &admin];
                args.extend(["--send-buffer-bytes", buffer, "--ping-interval-ms", "1000"]);
                args.extend(["--queue-max", QUEUE_MAX[index], "--prefetch", "10"]);
                args.extend(["--idle-timeout-ms", "8000", "--drain-window-ms", "1000"]);
                Program::new(&format!("gateway{index}"), "bugfeed", &args, &logs)
            })
            .collect();
        gateways.iter_mut().for_each(Program::start);
        shims[1].start();
        tracker.prime(1).await;
        tracker.drained(SOON).await;
        Some(World { rabbit, gateways, shims, pods, tracker, logs })
    }
}

/// Two thirds modern, one third classic; of each kind some that do not read for a while. Where things may be lost, all are
/// modern, for others cannot be told; and all read, so that every change can be asked for.
fn plans(count: usize, seed: u64, losses: bool) -> Vec<Plan> {
    let plan = |number| {
        let mut random = SmallRng::seed_from_u64(seed + 500_000 + number as u64);
        let mut bugs: Vec<u64> = (1..=BUGS).collect();
        bugs.shuffle(&mut random);
        // Some watch all, most only some.
        bugs.truncate(if number % 20 == 5 { bugs.len() } else { random.random_range(1..15) });
        let stalls = number % 7 == 5 && !losses;
        let narrow = stalls || number % 2 == 1 && !losses;
        Plan { number, modern: losses || number % 3 != 2, bugs, stalls, narrow, leaves: false }
    };
    (0..count).map(plan).collect()
}

/// Runs every lane of faults to its end.
async fn die_at_random(world: World, losses: bool, period: Period, seed: u64) -> (World, Counts) {
    let World { rabbit, gateways, shims, pods, tracker, logs } = world;
    let random = |lane: u64| SmallRng::seed_from_u64(seed + lane);
    let lane = |(index, program)| faults::gateway(program, index, Arc::clone(&pods), period, random(3 + index as u64));
    let lanes = futures::future::join_all(gateways.into_iter().enumerate().map(lane));
    let broker = faults::broker(rabbit, losses, period, random(1));
    let shims = faults::shims(shims, losses.then_some(&*tracker), period, random(2));
    let ((mut counts, rabbit), (of_shims, shims), lanes) =
        tokio::join!(Box::pin(broker), Box::pin(shims), Box::pin(lanes));
    counts.extend(of_shims);
    let mut gateways = Vec::new();
    for (of_gateway, gateway) in lanes {
        of_gateway.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
        gateways.push(gateway);
    }
    (World { rabbit, gateways, shims, pods, tracker, logs }, counts)
}

async fn finish(writers: Vec<JoinHandle<Wrote>>) -> Wrote {
    let mut all = Wrote::default();
    for writer in writers {
        let wrote = writer.await.unwrap();
        all.rows += wrote.rows;
        all.late += wrote.late;
        all.rolled_back += wrote.rolled_back;
        all.bursts += wrote.bursts;
    }
    all
}

/// What is wrong where things may be lost. `lagged`: how often a client was only sent the newest.
async fn judge_losses(clients: &Clients, tracker: &Tracker, faults: &Counts, lagged: u64) -> Vec<String> {
    let written = tracker.written().await;
    let told = async || {
        let missing = clients.missing(&written);
        if missing.is_empty() { Ok(()) } else { Err(missing.len()) }
    };
    let mut wrong = match eventually(CATCH_UP, "every client was told everything, or of a gap", told).await {
        Err(error) if lagged == 0 => [vec![error.to_string()], clients.missing(&written)].concat(),
        _ => Vec::new(),
    };
    let never = faults::LOSSES.iter().filter(|kind| !faults.contains_key(*kind));
    wrong.extend(never.map(|kind| format!("'{kind}' never came: let it run for longer")));
    let (mut gaps, mut updates) = (0, 0);
    for (plan, seen) in &clients.plans {
        let seen = seen.lock().unwrap();
        (gaps, updates) = (gaps + seen.gaps + seen.behind, updates + seen.updates.len());
        wrong.extend(seen.wrong.iter().map(|text| format!("client {}: {text}", plan.number)));
    }
    if gaps == 0 {
        wrong.push("nobody was told of a gap".to_owned());
    }
    let faults: Vec<String> = faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "soak with losses: {}; {} changes; {} clients got {updates} updates and {gaps} gaps; wrong: {}",
        faults.join(", "),
        written.len(),
        clients.plans.len(),
        wrong.len(),
    );
    wrong.truncate(30);
    wrong
}

/// Nothing is lost, and nobody is told that anything might be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_dies_at_random() {
    soak(false, 25).await;
}

/// Beside that the broker is wiped, exchange and stream are deleted, and old copies of the ledger restored: things are lost,
/// and whoever was not sent a change was told of a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes until everything has happened: tests/soak runs it"]
async fn everything_is_lost_at_random() {
    soak(true, 150).await;
}

async fn soak(losses: bool, seconds: u64) {
    let seed = from_env("BUGFEED_SOAK_SEED", u64::from(rand::random::<u32>()));
    let seconds = from_env("BUGFEED_SOAK_SECONDS", seconds);
    let count = usize::try_from(from_env("BUGFEED_SOAK_CLIENTS", 240)).unwrap();
    println!("seed {seed}; the same schedule again: BUGFEED_SOAK_SEED={seed} BUGFEED_SOAK_SECONDS={seconds}");
    let Some(world) = World::start(seed).await else { return };
    let (pods, tracker, logs) = (Arc::clone(&world.pods), Arc::clone(&world.tracker), world.logs.clone());
    let probed = Arc::clone(&pods);
    let probe = tokio::spawn(async move { probed.probe().await });
    let ready = || eventually(CATCH_UP, "every gateway is ready", async || pods.all_ready());
    ready().await.unwrap();
    let clients = Clients::start(plans(count, seed, losses), seed, &pods, &tracker, true).await;
    let (stop, dates) = (CancellationToken::new(), Arc::new(Dates::default()));
    let writer = |n| tokio::spawn(write(tracker.source_url(), Arc::clone(&dates), seed + 100 + n, stop.clone()));
    let writers = (0..WRITERS).map(writer).collect();

    let period = Period::new(Duration::from_secs(seconds));
    let (world, faults) = die_at_random(world, losses, period, seed).await;
    stop.cancel();
    let wrote = finish(writers).await;
    clients.calm.cancel();
    let calm = Instant::now();
    ready().await.unwrap();
    tracker.drained(CATCH_UP).await;
    if losses {
        let wrong = judge_losses(&clients, &tracker, &faults, pods.lagged_with_room()).await;
        probe.abort();
        drop((clients, world));
        assert!(wrong.is_empty(), "{}\nlogs of all processes: {}", wrong.join("\n"), logs.display());
        std::fs::remove_dir_all(logs).unwrap();
        return;
    }
    let truth = Truth::new(&tracker.written().await, &tracker.numbered().await);
    let truth = truth.unwrap_or_else(|wrong| panic!("numbering: {}; logs in {}", wrong.join("\n"), logs.display()));
    clients.caught_up(&truth, CATCH_UP).await;

    // A broker that stands still for longer than a hole may wait for history: then a gap is the truth.
    let unread = logged(&logs, LogEvent::HistoryFailed);
    let (line, wrong) = clients.report(&truth, pods.lagged_with_room(), unread);
    let faults: Vec<String> = faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "soak: seed {seed}, {seconds} s: {}; {} changes ({} late commits, {} bursts, {} rolled back), numbered 1 to {}; \
         {line}; all current {:.1} s after the last fault; losses: {}",
        faults.join(", "),
        wrote.rows,
        wrote.late,
        wrote.bursts,
        wrote.rolled_back,
        truth.changes(),
        calm.elapsed().as_secs_f32(),
        wrong.len(),
    );
    probe.abort();
    drop((clients, world));
    let events = [LogEvent::HistoryRead, LogEvent::ChangesMissing, LogEvent::HistoryFailed];
    let [reads, holes, failed] = events.map(|what| logged(&logs, what));
    println!("soak: history was read {reads} times, {holes} of them for a hole; {failed} times it could not be read");
    assert!(wrong.is_empty(), "{}\nlogs of all processes: {}", wrong.join("\n"), logs.display());
    std::fs::remove_dir_all(logs).unwrap();
}
