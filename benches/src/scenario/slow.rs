//! A few clients read very slowly: do the others notice, and what does it cost?

use anyhow::Result;

use super::Bench;
use crate::load::Order;
use crate::load::worker::order_all;
use crate::measure::{Sample, Source as _};
use crate::plan::Watch;
use crate::procfs::{Kernel, Memory};
use crate::publish::Pace;
use crate::report::Report;

/// How many bugs all clients watch. With conflation, a lagging client is yet to be sent at most one update of each bug.
const BUGS: u32 = 20;
/// One client in so many is slow.
const EVERY: u32 = 100;
const BYTES_PER_S: u32 = 1000;

/// Two servers with the same clients; on one of them, 1 % of the clients read 1 kB/s. Their sockets are filled before
/// anything is measured; then the two servers take turns.
///
/// # Errors
/// When something fails.
pub fn run(bench: &mut Bench, rate: u32, seconds: u32, fill: u32) -> Result<Report> {
    let watch = Watch { each: BUGS, bugs: BUGS };
    let (mut target, mut clients) = bench.served(watch)?;
    let (mut slow_target, mut slow_clients) = bench.served(watch)?;
    let pace = Pace::per_second(rate);
    let mut memory = Vec::new();
    for (target, clients) in [(&mut target, &mut clients), (&mut slow_target, &mut slow_clients)] {
        let phase = bench.phase(fill, 1, BUGS);
        bench.measure(target, clients, &phase, Pace::Full)?;
        memory.push((Memory::of(target.pid())?, Kernel::now()));
    }
    order_all(&mut slow_clients, |_| Order::Slow { every: EVERY, bytes_per_s: BYTES_PER_S })?;
    let phase = bench.phase(fill, 1, BUGS);
    bench.measure(&mut slow_target, &mut slow_clients, &phase, Pace::Full)?;
    let filled = Kernel::now();
    let (mut even, mut slowed) = (Vec::new(), Vec::new());
    for _ in 0..bench.common.runs {
        let phase = bench.phase(rate * seconds, 1, BUGS);
        even.push(bench.measure(&mut target, &mut clients, &phase, pace)?);
        let phase = bench.phase(rate * seconds, 1, BUGS);
        slowed.push(bench.measure(&mut slow_target, &mut slow_clients, &phase, pace)?);
    }
    let count = bench.common.clients;
    let slow = count.div_ceil(EVERY);
    let setting = format!(
        "{count} clients, all on {BUGS} bugs, {rate} updates/s for {seconds} s; {slow} of them read {BYTES_PER_S} bytes/s, \
         or none"
    );
    let mut report = Report::new("slow", setting);
    let cases = [("none slow", &even), ("1 % slow", &slowed)];
    for (name, samples) in cases {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            report.of(format!("{name}: {label} of the others, from sent to read"), "ms", samples, |sample| {
                sample.tally.latencies.quantile_us(quantile) / 1000.0
            });
        }
    }
    report.ratio("p99 with slow ones / without", &slowed, &even, |sample| sample.tally.latencies.quantile_us(0.99));
    for (name, samples) in cases {
        report.of(format!("{name}: CPU per frame to the others"), "ns", samples, Sample::ns_per_frame);
    }
    report.of("frames that slow ones got in one run", "", &slowed, |sample| sample.tally.slow_delivered as f64);
    let each = |after: u64, before: u64| (after.saturating_sub(before)) as f64 / f64::from(slow) / 1024.0;
    let [_, (memory_before, kernel_before)] = memory[..] else { anyhow::bail!("two servers were measured") };
    let memory_after = Memory::of(slow_target.pid())?;
    report.row("server RSS, growth for each slow client", "KiB", vec![each(memory_after.rss, memory_before.rss)]);
    report.row(
        "kernel's TCP buffers, growth for each slow client, both ends",
        "KiB",
        vec![each(filled.tcp_buffers, kernel_before.tcp_buffers)],
    );
    report.honesty("none slow", pace, &even);
    report.honesty("1 % slow", pace, &slowed);
    Ok(report)
}
