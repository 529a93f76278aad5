//! Puts the same loads on bugfeed and on servers of other kinds: all clients on one topic, and clients with a few
//! topics of very many. Goes in: a server. Comes out: a [`Finding`], which a table is made of.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::Bench;
use crate::common::Common;
use crate::compare::{Finding, MemoryEach, Paced, Part, Spread};
use crate::load::Order;
use crate::load::worker::{Worker, order_all};
use crate::measure::{Sample, Source as _};
use crate::plan::Watch;
use crate::procfs::{Cpu, Machine, Memory};
use crate::publish::Pace;
use crate::target::{Running, Target};

/// How many updates one run sends, each when the one before has arrived everywhere. So no two updates are written
/// together, and a server gains nothing by being late.
const ONE_BY_ONE: u32 = 10;

/// Which server, and which load.
#[derive(Clone, Debug, Args)]
pub struct Against {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Which load
    #[arg(long, value_enum)]
    pub part: Part,
    /// The server's name
    #[arg(long)]
    pub name: String,
    /// Its version
    #[arg(long = "server-version")]
    pub version: String,
    /// Where it came from: a registry and the package's name, or how it was built
    #[arg(long = "server-from")]
    pub from: String,
    /// Topics each client has, where there are many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub subscriptions: u32,
    /// Updates at full speed, at most [default: 50, or 50,000 where there are many topics]
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=900_000))]
    pub burst: Option<u32>,
    /// Seconds of updates at a pace
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// Processor time that one measurement may cost the server, in seconds: slow ones get fewer updates
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub budget: u32,
    /// Where it is
    #[command(subcommand)]
    pub server: Which,
}

/// Where the server is.
#[derive(Clone, Debug, Subcommand)]
pub enum Which {
    /// bugfeed, started here, with a RabbitMQ
    Own,
    /// A server that runs already
    Other(Running),
}

/// A server and the floor, each with the same number of clients.
struct Pair {
    floor: (crate::floor::Floor, Vec<Worker>),
    server: (Target, Vec<Worker>),
}

/// What was measured at one pace: the floor, the server, and the broker's processor time in nanoseconds.
#[derive(Default)]
struct Samples {
    floor: Vec<Sample>,
    server: Vec<Sample>,
    broker_ns: Vec<f64>,
}

/// Runs the comparison.
///
/// # Errors
/// When something fails.
pub fn run(against: &Against) -> Result<Finding> {
    let bench = &mut Bench::new(&against.common)?;
    let clients = against.common.clients;
    let (watch, rate, burst) = match against.part {
        Part::Fanout => (Watch { each: 1, bugs: 1 }, 10, 50),
        Part::Sparse => {
            let each = against.subscriptions;
            (Watch { each, bugs: (clients * each / 2).max(each) }, 2000, 50_000)
        }
    };
    let burst = against.burst.unwrap_or(burst);
    let target = match &against.server {
        Which::Own => bench.server()?,
        Which::Other(running) => Target::running(running)?,
    };
    let (memory, server) = connect(bench, target, watch)?;
    let mut pair = Pair { floor: bench.floor(watch)?, server };

    // This warms up buffers and code, and shows how many updates the time budget allows.
    let (mut paced, mut gathered, mut full) = (Samples::default(), Samples::default(), Samples::default());
    let warm = round(bench, &mut pair, watch, (burst / 20).clamp(5, 2000), Pace::Full, &mut Samples::default())?;
    let affordable = u32::try_from(u64::from(against.budget) * 1_000_000_000 / warm.max(1)).unwrap_or(u32::MAX);
    let burst = affordable.clamp(10, burst.max(10));
    let updates = affordable.clamp(10, (rate * against.seconds).max(10));
    let (few, mut one) = (affordable.clamp(5, ONE_BY_ONE), Samples::default());
    for _ in 0..against.common.runs {
        if against.part == Part::Fanout {
            one.floor.push(bench.apart(&mut pair.floor.0, &mut pair.floor.1, few, None)?);
            one.server.push(bench.apart(&mut pair.server.0, &mut pair.server.1, few, None)?);
        }
        round(bench, &mut pair, watch, updates, Pace::per_second(rate), &mut paced)?;
        if against.part == Part::Sparse {
            round(bench, &mut pair, watch, updates, Pace::per_second(rate).gathered(), &mut gathered)?;
        }
        round(bench, &mut pair, watch, burst, Pace::Full, &mut full)?;
    }
    let some = |updates, samples: &Samples| {
        (!samples.server.is_empty()).then(|| summary(against.part, updates, samples, &samples.floor))
    };
    Ok(Finding {
        server: against.name.clone(),
        version: against.version.clone(),
        from: against.from.clone(),
        pinned: !against.common.unpinned,
        part: against.part,
        clients,
        subscriptions: watch.each,
        topics: watch.bugs,
        rate,
        memory,
        one_by_one: some(few, &one),
        gathered: some(updates, &gathered),
        paced: summary(against.part, updates, &paced, &paced.floor),
        full: summary(against.part, burst, &full, &paced.floor),
        machine: Machine::this(),
    })
}

/// Connects and subscribes all clients, and looks at the server's memory before, between and after.
fn connect(bench: &mut Bench, target: Target, watch: Watch) -> Result<(MemoryEach, (Target, Vec<Worker>))> {
    let resident = |target: &Target| -> Result<f64> {
        std::thread::sleep(Duration::from_secs(1));
        Ok(Memory::of(target.pid())?.rss as f64)
    };
    let empty = resident(&target)?;
    let (mut workers, seconds) = bench.clients(target.address, &target.path, target.dialect, watch)?;
    let connected = resident(&target)?;
    order_all(&mut workers, |_| Order::Subscribe)?;
    let subscribed = resident(&target)?;
    let each = |bytes: f64| bytes / f64::from(bench.common.clients);
    let memory = MemoryEach {
        empty_mib: empty / 1_048_576.0,
        connected: target.dialect.subscribe(&[1]).map(|_| each(connected - empty)),
        subscribed: each(subscribed - empty),
        whole: each(subscribed),
        connect_s: seconds,
    };
    Ok((memory, (target, workers)))
}

/// Measures the floor and the server once each. Returns the server's processor time for one update, in nanoseconds.
fn round(bench: &mut Bench, pair: &mut Pair, watch: Watch, count: u32, pace: Pace, into: &mut Samples) -> Result<u64> {
    let phase = bench.phase(count, 1, watch.bugs);
    into.floor.push(bench.measure(&mut pair.floor.0, &mut pair.floor.1, &phase, pace)?);
    let phase = bench.phase(count, 1, watch.bugs);
    let broker = bench.broker_pid();
    let broker_ns = || broker.map(|pid| Cpu::of(pid).map(|cpu| cpu.ns)).transpose();
    let before = broker_ns()?;
    let sample = bench.measure(&mut pair.server.0, &mut pair.server.1, &phase, pace)?;
    // The broker's time includes publishing and confirming, which at full speed come before the rest.
    if let (Some(before), Some(after)) = (before, broker_ns()?) {
        into.broker_ns.push(after.saturating_sub(before) as f64);
    }
    let each = sample.cpu.ns / u64::from(count);
    into.server.push(sample);
    Ok(each)
}

fn summary(part: Part, updates: u32, found: &Samples, floor_paced: &[Sample]) -> Paced {
    // The time is divided by frames if all clients get each update, and by updates if only about two do.
    let us = |sample: &Sample| match part {
        Part::Fanout => sample.ns_per_frame() / 1000.0,
        Part::Sparse => sample.us_per_update(),
    };
    let of = |samples: &[Sample], figure: &dyn Fn(&Sample) -> f64| {
        Spread::of(&samples.iter().map(figure).collect::<Vec<_>>()).unwrap_or_default()
    };
    let over = |floor: &[Sample]| {
        let ratios = found.server.iter().zip(floor).map(|(server, floor)| us(server) / us(floor));
        Spread::of(&ratios.collect::<Vec<_>>()).unwrap_or_default()
    };
    let broker = found.broker_ns.iter().zip(&found.server).map(|(ns, sample)| us(sample) * ns / sample.cpu.ns as f64);
    let sum = |count: &dyn Fn(&Sample) -> u64| found.server.iter().map(count).sum();
    Paced {
        updates,
        frames_per_read: of(&found.server, &Sample::frames_per_read),
        floor_us: of(&found.floor, &us),
        cpu_us: of(&found.server, &us),
        broker_us: Spread::of(&broker.collect::<Vec<_>>()),
        ratio: over(&found.floor),
        ratio_to_paced_floor: over(floor_paced),
        floor_p50_ms: of(&found.floor, &|sample| sample.tally.latencies.quantile_us(0.5) / 1000.0),
        floor_p99_ms: of(&found.floor, &|sample| sample.tally.latencies.quantile_us(0.99) / 1000.0),
        p50_ms: of(&found.server, &|sample| sample.tally.latencies.quantile_us(0.5) / 1000.0),
        p99_ms: of(&found.server, &|sample| sample.tally.latencies.quantile_us(0.99) / 1000.0),
        updates_per_s: of(&found.server, &|sample| f64::from(sample.updates) / sample.seconds),
        waited_percent: of(&found.server, &|sample| sample.cpu.waited_ns as f64 * 100.0 / sample.cpu.ns.max(1) as f64),
        expected: sum(&|sample| sample.tally.expected),
        missing: sum(&|sample| sample.tally.left_out()),
        newest_missing: sum(&|sample| sample.tally.stale),
        repeated: sum(&|sample| sample.tally.repeated),
        disordered: sum(&|sample| sample.tally.out_of_order),
        unexpected: sum(&|sample| sample.tally.unexpected + sample.tally.strays),
        late: sum(&|sample| sample.tally.late),
        closed: found.server.last().map_or(0, |sample| sample.tally.closed),
    }
}
