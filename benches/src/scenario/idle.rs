//! Idle connections: their memory, and what keeping them alive costs.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use crate::cli::Watching;
use crate::load::Order;
use crate::load::worker::order_all;
use crate::measure::Source as _;
use crate::plan::Watch;
use crate::procfs::{Cpu, Kernel, Memory};
use crate::report::Report;

/// Measures memory before, with all clients connected, and with all subscribed; then processor time while nothing
/// happens. Each run has a new server.
///
/// # Errors
/// When something fails.
pub fn run(bench: &mut Bench, watching: Watching, seconds: u32) -> Result<Report> {
    let count = bench.common.clients;
    let watch = Watch { each: watching.subscriptions, bugs: watching.bugs(count) };
    let mut found: [Vec<f64>; 9] = Default::default();
    let each = |bytes: u64| bytes as f64 / f64::from(count);
    for run in 0..bench.common.runs {
        let kernel = Kernel::now();
        let target = bench.server()?;
        std::thread::sleep(Duration::from_millis(500));
        let empty = Memory::of(target.pid())?;
        let (mut clients, _) = bench.clients(target.address, &target.path, target.dialect, watch)?;
        std::thread::sleep(Duration::from_secs(1));
        let connected = Memory::of(target.pid())?;
        let kernel_connected = Kernel::now();
        order_all(&mut clients, |_| Order::Subscribe)?;
        std::thread::sleep(Duration::from_secs(1));
        let subscribed = Memory::of(target.pid())?;
        let (cpu, began) = (Cpu::of(target.pid())?, Instant::now());
        // One run is enough for a figure that is measured over a long time.
        if run == 0 {
            std::thread::sleep(Duration::from_secs(seconds.into()));
            let cpu = Cpu::of(target.pid())?.since(cpu);
            found[8].push(cpu.ns as f64 / began.elapsed().as_nanos() as f64 * 100.0);
        }
        let after = Memory::of(target.pid())?;
        let rest = [
            each(connected.rss),
            each(subscribed.rss),
            each(connected.rss.saturating_sub(empty.rss)),
            each(subscribed.rss.saturating_sub(empty.rss)),
            each(after.pss),
            empty.rss as f64 / 1024.0 / 1024.0,
            each(kernel_connected.slab.saturating_sub(kernel.slab)),
            each(kernel_connected.tcp_buffers.saturating_sub(kernel.tcp_buffers)),
        ];
        for (all, one) in found.iter_mut().zip(rest) {
            all.push(one);
        }
    }
    let setting = format!("{count} clients; with 0, then {} of {} bugs each", watch.each, watch.bugs);
    let mut report = Report::new("idle", setting);
    let names = [
        ("whole process RSS / connections, 0 subscriptions".to_owned(), "bytes"),
        (format!("whole process RSS / connections, {} subscriptions", watch.each), "bytes"),
        ("growth per connection, 0 subscriptions".to_owned(), "bytes"),
        (format!("growth per connection, {} subscriptions", watch.each), "bytes"),
        ("whole process PSS / connections, at the end".to_owned(), "bytes"),
        ("empty server RSS".to_owned(), "MiB"),
        ("kernel structures per connection, both ends".to_owned(), "bytes"),
        ("kernel TCP buffers per connection, both ends".to_owned(), "bytes"),
        (format!("processor while idle, over {seconds} s"), "% of a core"),
    ];
    for ((name, unit), values) in names.into_iter().zip(found) {
        report.row(name, unit, values);
    }
    Ok(report)
}
