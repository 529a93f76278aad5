//! How costs grow with clients, and with subscriptions.

use anyhow::Result;

use super::Bench;
use crate::measure::{Sample, Source as _};
use crate::plan::Watch;
use crate::plot::{Growth, Line, Panel, Point};
use crate::procfs::Memory;
use crate::publish::Pace;

const CLIENTS: [u32; 4] = [1000, 5000, 10_000, 15_000];
const SUBSCRIPTIONS: [u32; 4] = [1, 20, 200, 2000];
/// The number of clients while subscriptions grow; with 2,000 bugs each, they have four million subscriptions.
const SUBSCRIBERS: u32 = 2000;
/// How many updates one run sends, each when the one before has arrived everywhere.
const UPDATES: u32 = 10;
const BURST: u32 = 20_000;

/// Both curves.
///
/// # Errors
/// When something fails.
pub fn run(bench: &mut Bench) -> Result<Growth> {
    let mut panels = by_clients(bench)?;
    panels.extend(by_subscriptions(bench)?);
    Ok(Growth { machine: crate::procfs::Machine::this(), runs: bench.common.runs, panels })
}

fn panel(title: &str, x: &str, y: &str, lines: [(&str, Vec<Point>); 2]) -> Panel {
    let lines = lines.into_iter().filter(|(_, points)| !points.is_empty());
    let lines = lines.map(|(name, points)| Line { name: name.to_owned(), points }).collect();
    Panel { title: title.to_owned(), x: x.to_owned(), y: y.to_owned(), lines }
}

fn point(x: u32, samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Point {
    Point::of(x, &samples.iter().map(figure).collect::<Vec<_>>())
}

fn by_clients(bench: &mut Bench) -> Result<Vec<Panel>> {
    let (mut floor_ns, mut server_ns, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let watch = Watch { each: 1, bugs: 1 };
    for clients in CLIENTS {
        bench.common.clients = clients;
        let empty = { Memory::of(bench.server()?.pid())?.rss };
        let (mut floor, mut floor_clients) = bench.floor(watch)?;
        let (mut target, mut served) = bench.served(watch)?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        let each = Memory::of(target.pid())?.rss.saturating_sub(empty) as f64 / f64::from(clients);
        bytes.push(Point::of(clients, &[each]));
        let (mut below, mut own) = (Vec::new(), Vec::new());
        for run in 0..=bench.common.runs {
            let under = bench.apart(&mut floor, &mut floor_clients, UPDATES, None)?;
            let over = bench.apart(&mut target, &mut served, UPDATES, None)?;
            // The first run only warms up.
            if run > 0 {
                below.push(under);
                own.push(over);
            }
        }
        floor_ns.push(point(clients, &below, Sample::ns_per_frame));
        server_ns.push(point(clients, &own, Sample::ns_per_frame));
    }
    let x = "clients, all on one bug";
    Ok(vec![
        panel("CPU per delivered frame", x, "ns", [("server", server_ns), ("bare write(2)", floor_ns)]),
        panel("memory per connection (RSS, the empty server taken off)", x, "bytes", [("server", bytes), ("", vec![])]),
    ])
}

fn by_subscriptions(bench: &mut Bench) -> Result<Vec<Panel>> {
    let (mut floor_us, mut server_us, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    bench.common.clients = SUBSCRIBERS;
    for each in SUBSCRIPTIONS {
        // Each update has two watchers, whatever the number of subscriptions.
        let watch = Watch { each, bugs: SUBSCRIBERS * each / 2 };
        let empty = { Memory::of(bench.server()?.pid())?.rss };
        let (mut floor, mut floor_clients) = bench.floor(watch)?;
        let (mut target, mut served) = bench.served(watch)?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        let grown = Memory::of(target.pid())?.rss.saturating_sub(empty) as f64 / f64::from(SUBSCRIBERS);
        bytes.push(Point::of(each, &[grown]));
        let (mut below, mut own) = (Vec::new(), Vec::new());
        // The number of different bugs that change stays the same, so that only subscriptions grow.
        let changing = SUBSCRIBERS / 2;
        for run in 0..=bench.common.runs {
            let phase = bench.phase(BURST, 1, changing);
            let under = bench.measure(&mut floor, &mut floor_clients, &phase, Pace::Full)?;
            let phase = bench.phase(BURST, 1, changing);
            let over = bench.measure(&mut target, &mut served, &phase, Pace::Full)?;
            if run > 0 {
                below.push(under);
                own.push(over);
            }
        }
        floor_us.push(point(each, &below, per_frame_us));
        server_us.push(point(each, &own, per_frame_us));
    }
    let x = "subscriptions of each of 2,000 clients, two watchers a bug";
    Ok(vec![
        panel(
            "CPU per frame of sparse updates, full speed, RabbitMQ included",
            x,
            "µs",
            [("server", server_us), ("bare write(2)", floor_us)],
        ),
        panel("memory per connection (RSS, the empty server taken off)", x, "bytes", [("server", bytes), ("", vec![])]),
    ])
}

/// The time is divided by frames, not updates, because the number of watchers of the changed bugs differs a little by
/// chance.
fn per_frame_us(sample: &Sample) -> f64 {
    sample.ns_per_frame() / 1000.0
}
