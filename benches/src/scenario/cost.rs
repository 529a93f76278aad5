//! What single actions of clients cost: connecting, subscribing.

use anyhow::Result;

use super::Bench;
use crate::cli::Watching;
use crate::load::Order;
use crate::load::worker::order_all;
use crate::measure::Source as _;
use crate::plan::Watch;
use crate::procfs::Cpu;
use crate::report::Report;

/// All clients connect, a few hundred at a time; a new server for each run.
///
/// # Errors
/// When something fails.
pub fn handshake(bench: &mut Bench) -> Result<Report> {
    let count = f64::from(bench.common.clients);
    let (mut cpu_us, mut rate) = (Vec::new(), Vec::new());
    for _ in 0..bench.common.runs {
        let target = bench.server()?;
        let before = Cpu::of(target.pid())?;
        let watch = Watch { each: 1, bugs: 1 };
        let (_clients, seconds) = bench.clients(target.address, &target.path, target.dialect, watch)?;
        cpu_us.push(Cpu::of(target.pid())?.since(before).ns as f64 / 1000.0 / count);
        rate.push(count / seconds);
    }
    let mut report = Report::new("handshake", format!("{count} clients connect, up to {} at a time", super::WINDOW));
    report.row("CPU per handshake (accept, HTTP, upgrade)", "µs", cpu_us.clone());
    report.row("handshakes/s of one processor (1 s / CPU each)", "", cpu_us.iter().map(|us| 1e6 / us).collect());
    report.row("handshakes/s as they came (clients on the other processor)", "", rate);
    Ok(report)
}

/// All clients subscribe once, to all their bugs; a new server for each run.
///
/// # Errors
/// When something fails.
pub fn subscribe(bench: &mut Bench, watching: Watching) -> Result<Report> {
    let count = f64::from(bench.common.clients);
    let watch = Watch { each: watching.subscriptions, bugs: watching.bugs(bench.common.clients) };
    let mut cpu_us = Vec::new();
    for _ in 0..bench.common.runs {
        let target = bench.server()?;
        let (mut clients, _) = bench.clients(target.address, &target.path, target.dialect, watch)?;
        let before = Cpu::of(target.pid())?;
        order_all(&mut clients, |_| Order::Subscribe)?;
        cpu_us.push(Cpu::of(target.pid())?.since(before).ns as f64 / 1000.0 / count);
    }
    let mut report =
        Report::new("subscribe", format!("{count} clients subscribe to {} of {} bugs each", watch.each, watch.bugs));
    report.row(format!("CPU per subscribe of {} bugs, the reply with all of them included", watch.each), "µs", cpu_us);
    Ok(report)
}
