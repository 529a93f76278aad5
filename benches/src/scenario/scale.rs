//! More connections than one process may have open files: several gateways with one broker, and as many load processes.

use std::time::{Duration, Instant};

use anyhow::Result;
use bugfeed_testbed::unique;

use super::Bench;
use crate::load::Order;
use crate::load::worker::order_all;
use crate::measure::{Source as _, measure};
use crate::plan::Watch;
use crate::procfs::{Cpu, Kernel, Memory};
use crate::publish::Pace;
use crate::report::Report;
use crate::target::Target;

/// Connects clients to each gateway (`each` of them); then sends updates to all, each when the one before is done.
///
/// # Errors
/// When something fails.
pub fn run(bench: &mut Bench, gateways: u32, each: u32, pause_ms: u64) -> Result<Report> {
    bench.common.clients = each;
    let total = f64::from(each * gateways);
    let watch = Watch { each: 1, bugs: 1 };
    let (amqp, exchange, start) = (bench.broker()?, unique("scale"), bench.start()?);
    let kernel = Kernel::now();
    let mut targets = Vec::new();
    let (mut workers, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..gateways {
        let target = Target::gateway(&start, &amqp, &exchange)?;
        let (worker, mut its) = bench.load(target.address, &target.path, target.dialect, watch)?;
        // All gateways share a processor: with more handshakes at a time, some would exceed the gateway's time limit
        // for a handshake.
        its.window = (super::WINDOW / gateways).max(16);
        targets.push(target);
        workers.push(worker);
        clients.push(its);
    }
    let began = Instant::now();
    order_all(&mut workers, |number| Order::Connect(clients[number].clone()))?;
    let connected_s = began.elapsed().as_secs_f64();
    order_all(&mut workers, |_| Order::Subscribe)?;
    let subscribed_s = began.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(1));
    let sum = |of: fn(Memory) -> u64| -> Result<f64> {
        let all = targets.iter().map(|target| Ok(of(Memory::of(target.pid())?)));
        Ok(all.sum::<Result<u64>>()? as f64)
    };
    let (rss, pss, after) = (sum(|memory| memory.rss)?, sum(|memory| memory.pss)?, Kernel::now());

    // All gateways receive what the first one's publisher sends.
    let mut samples = Vec::new();
    let cpu = |targets: &[Target]| -> Result<u64> { targets.iter().map(|target| Ok(Cpu::of(target.pid())?.ns)).sum() };
    let mut cpu_us = Vec::new();
    let (first, _) = targets.split_at_mut(1);
    // The first update only warms up.
    let warm = bench.phase(1, 1, 1);
    measure(&mut first[0], &mut workers, &bench.stamps, &warm, Pace::per_second(1))?;
    for _ in 0..bench.common.runs {
        std::thread::sleep(Duration::from_millis(pause_ms));
        let before = cpu(&targets)?;
        let phase = bench.phase(1, 1, 1);
        let (first, _) = targets.split_at_mut(1);
        samples.push(measure(&mut first[0], &mut workers, &bench.stamps, &phase, Pace::per_second(1))?);
        cpu_us.push((cpu(&targets)? - before) as f64 / 1000.0 / total);
    }

    let mut report =
        Report::new("scale", format!("{total} connections to {gateways} gateways, one RabbitMQ, one machine"));
    report.row("time to connect all", "s", vec![connected_s]);
    report.row("connections/s", "", vec![total / connected_s]);
    report.row("time to connect and subscribe all", "s", vec![subscribed_s]);
    report.row("gateways' RSS, all together", "MiB", vec![rss / 1048576.0]);
    report.row("gateways' PSS / connections", "bytes", vec![pss / total]);
    let grown = |after: u64, before: u64| after.saturating_sub(before) as f64;
    report.row("kernel structures / connections, both ends", "bytes", vec![grown(after.slab, kernel.slab) / total]);
    report.row(
        "kernel's TCP buffers, both ends",
        "MiB",
        vec![grown(after.tcp_buffers, kernel.tcp_buffers) / 1048576.0],
    );
    for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        report.of(format!("an update to all: {label} from sent to read"), "ms", &samples, |sample| {
            sample.tally.latencies.quantile_us(quantile) / 1000.0
        });
    }
    report.row("CPU of all gateways per frame", "µs", cpu_us);
    report.honesty("updates to all", Pace::per_second(1), &samples);
    Ok(report)
}
