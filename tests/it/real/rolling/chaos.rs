//! The test itself: RabbitMQ with history, a shim, three gateways behind a service, clients that stay where they are until
//! they are sent away, and writers that never stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{eventually, shared, unique};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::service::Service;
use super::spread::Spread;
use crate::real::soak::check::Truth;
use crate::real::soak::client::{Closing, Plan};
use crate::real::soak::crowd::Clients;
use crate::real::soak::pods::{Pods, Program, get};
use crate::real::soak::tracker::{BUGS, Dates, Tracker, write};
use crate::support::{SOON, init};

const GATEWAYS: usize = 3;
const CLIENTS: usize = 420;
const WRITERS: u64 = 2;
/// Over how long clients are sent away, and at most how long they are told to wait.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a gateway may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Classic, and modern.
const CLOSE_RESTART: [u16; 2] = [1001, 1012];

/// Two thirds modern, one third classic; all read as fast as they can.
fn plans(seed: u64) -> Vec<Plan> {
    let plan = |number| {
        let mut random = SmallRng::seed_from_u64(seed + number as u64);
        let mut bugs: Vec<u64> = (1..=BUGS).collect();
        bugs.shuffle(&mut random);
        bugs.truncate(random.random_range(1..8));
        Plan { number, modern: number % 3 != 2, bugs, stalls: false, narrow: false, leaves: false }
    };
    (0..CLIENTS).map(plan).collect()
}

struct World {
    service: Service,
    gateways: Vec<Program>,
    _shim: Program,
}

impl World {
    async fn start(amqp: &str, tracker: &Tracker, logs: &Path) -> World {
        init(&tracker.source_url()).await;
        let (source, ledger, exchange) = (tracker.source_url(), tracker.ledger_url(), unique("rolling"));
        let shim = ["run", "--source", &source, "--ledger", &ledger, "--amqp", amqp, "--exchange", &exchange];
        let mut shim = Program::new("shim", "bugfeed-shim", &shim, logs);
        shim.start();
        let service = Service::start(GATEWAYS).await;
        let (feed, window, grace) =
            (format!("default={exchange}"), WINDOW.as_millis().to_string(), GRACE.as_millis().to_string());
        let gateway = |index| {
            let (clients, admin) = service.ports(index);
            let (clients, admin) = (clients.to_string(), admin.to_string());
            let mut args = vec!["gateway", "--amqp", amqp, "--feed", &feed, "--listen", &clients];
            args.extend(["--admin-listen", &admin, "--drain-window-ms", &window, "--shutdown-timeout-ms", &grace]);
            // After some seconds of silence these clients take a gateway for dead.
            args.extend(["--ping-interval-ms", "1000", "--send-buffer-bytes", "4194304"]);
            Program::new(&format!("gateway{index}"), "bugfeed", &args, logs)
        };
        let mut gateways: Vec<Program> = (0..GATEWAYS).map(gateway).collect();
        gateways.iter_mut().for_each(Program::start);
        tracker.prime(1).await;
        tracker.drained(SOON).await;
        eventually(SOON, "every gateway is ready", async || (0..GATEWAYS).all(|index| service.is_ready(index)))
            .await
            .unwrap();
        World { service, gateways, _shim: shim }
    }

    async fn all_connected(&self) {
        let all = async || {
            let open = self.service.open();
            if open.iter().sum::<usize>() == CLIENTS { Ok(()) } else { Err(open) }
        };
        eventually(2 * WINDOW + SOON, "every client is connected", all).await.unwrap();
    }

    /// Replaces one gateway. Returns what is wrong with how it went, and how its clients went and came back.
    async fn replace(&mut self, index: usize, clients: &Clients) -> Vec<String> {
        let had = self.service.open()[index];
        let (_, admin) = self.service.ports(index);
        let gateway = &mut self.gateways[index];
        let begin = Instant::now();
        gateway.proc().sigterm();
        eventually(SOON, "the gateway says that it is not ready", async || match get(admin, "/readyz").await {
            Some(answer) if answer.contains(" 503 ") && answer.contains("shutting down") => Ok(()),
            other => Err(other),
        })
        .await
        .unwrap();
        gateway.proc();
        let running = gateway.proc.as_mut().unwrap();
        let status = running.wait(GRACE + SOON).await.unwrap();
        let took = begin.elapsed();
        let (output, left) = (running.output(), running.events(LogEvent::ClientsLeft));
        assert!(status.success() && left == 0, "{status} after {took:?}\n{output}");
        assert!(took < GRACE, "it took {took:?}\n{output}");

        gateway.start();
        eventually(SOON, "the new gateway is ready", async || self.service.is_ready(index)).await.unwrap();
        self.all_connected().await;

        let closings: Vec<Closing> = clients
            .plans
            .iter()
            .flat_map(|(_, seen)| seen.lock().unwrap().closings.clone())
            .filter(|closing| closing.at >= begin)
            .collect();
        let went = Spread::over(WINDOW, closings.iter().map(|closing| closing.at - begin).collect());
        let told = Spread::over(WINDOW, closings.iter().filter_map(|closing| closing.delay).collect());
        // The longest way: sent away at the window's end, and told to wait as long again.
        let back = Spread::over(2 * WINDOW, self.service.came_since(begin));
        println!(
            "rolling: gateway {index} with {had} clients ended after {:.1} s; sent away: {went}; told to wait: {told}; \
             reconnects: {back}",
            took.as_secs_f32(),
        );
        let mut wrong = Vec::new();
        for (what, spread) in [("sent away", went), ("told to wait", told), ("reconnects", back)] {
            if spread.is_rush() {
                wrong.push(format!("gateway {index}: a rush: {what}: {spread}"));
            }
        }
        if closings.len() != had {
            wrong.push(format!("gateway {index}: had {had} clients, {} were closed", closings.len()));
        }
        wrong
    }
}

/// What is wrong with how clients were sent away.
fn judge_closings(clients: &Clients) -> Vec<String> {
    let mut wrong = Vec::new();
    for (plan, seen) in &clients.plans {
        let seen = seen.lock().unwrap();
        for closing in &seen.closings {
            let delay_fits = closing.delay.map_or(!plan.modern, |delay| plan.modern && delay < WINDOW);
            if closing.code != Some(CLOSE_RESTART[usize::from(plan.modern)]) || !delay_fits {
                wrong.push(format!("client {} (modern: {}): {closing:?}", plan.number, plan.modern));
            }
        }
        if seen.connections as usize != seen.closings.len() + 1 {
            let closings = seen.closings.len();
            wrong.push(format!("client {}: {} connections, {closings} closed", plan.number, seen.connections));
        }
        if seen.behind > 0 {
            wrong.push(format!("client {} was told of {} gaps", plan.number, seen.behind));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_gateways_are_replaced_one_after_the_other() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let Some(tracker) = Tracker::start().await else { return };
    let tracker = Arc::new(tracker);
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("rolling"));
    std::fs::create_dir_all(&logs).unwrap();
    let mut world = World::start(&rabbit.url, &tracker, &logs).await;
    let pods = Arc::new(Pods::behind(world.service.address));
    let clients = Clients::start(plans(seed), seed, &pods, &tracker, false).await;
    let (stop, dates) = (CancellationToken::new(), Arc::new(Dates::default()));
    let writer = |n| tokio::spawn(write(tracker.source_url(), Arc::clone(&dates), seed + 100_000 + n, stop.clone()));
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();

    let mut wrong = Vec::new();
    for index in 0..GATEWAYS {
        wrong.extend(world.replace(index, &clients).await);
    }
    stop.cancel();
    let mut rows = 0;
    for writer in writers {
        rows += writer.await.unwrap().rows;
    }
    tracker.drained(SOON).await;
    let truth = Truth::new(&tracker.written().await, &tracker.numbered().await).unwrap();
    clients.caught_up(&truth, SOON).await;

    let (line, lost) = clients.report(&truth, 0, 0);
    println!(
        "rolling: {rows} changes; {line}; {} connections refused; losses: {}",
        world.service.refused(),
        lost.len()
    );
    wrong.extend(lost);
    wrong.extend(judge_closings(&clients));
    drop((clients, world));
    wrong.truncate(30);
    assert!(wrong.is_empty(), "{}\nlogs of all processes: {}", wrong.join("\n"), logs.display());
    std::fs::remove_dir_all(logs).unwrap();
}
