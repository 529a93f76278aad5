//! One measurement: a phase's updates through a server or the floor, and what it cost.

use std::time::Duration;

use anyhow::Result;

use crate::clock::Stamps;
use crate::load::Order;
use crate::load::tally::Tally;
use crate::load::worker::{Worker, finish_all, order_all};
use crate::plan::Phase;
use crate::procfs::Cpu;
use crate::publish::Pace;

/// A process that writes frames to clients: a server with its publisher, or the floor.
pub trait Source {
    /// The process that is measured.
    fn pid(&self) -> u32;

    /// Gets ready, before anything is counted.
    ///
    /// # Errors
    /// When it fails.
    fn prepare(&mut self, phase: &Phase, pace: Pace, stamps: &Stamps) -> Result<()>;

    /// Sends a phase's updates; returns when the last one is sent.
    ///
    /// # Errors
    /// When it fails.
    fn go(&mut self, phase: &Phase, pace: Pace, stamps: &Stamps) -> Result<()>;
}

/// The result of one measurement.
#[derive(Clone, Debug)]
pub struct Sample {
    /// How many updates were sent.
    pub updates: u32,
    /// Processor time of the measured process.
    pub cpu: Cpu,
    /// Processor time of the load processes.
    pub load_cpu: Cpu,
    /// From the first frame to the last, in seconds.
    pub seconds: f64,
    /// What the clients counted.
    pub tally: Tally,
}

impl Sample {
    /// Adds another measurement of the same kind.
    pub fn add(&mut self, other: &Sample) {
        self.updates += other.updates;
        for (sum, more) in [(&mut self.cpu, other.cpu), (&mut self.load_cpu, other.load_cpu)] {
            sum.ns += more.ns;
            sum.waited_ns += more.waited_ns;
        }
        self.seconds += other.seconds;
        // The clients are the same, so a closed connection must not be counted twice.
        let closed = self.tally.closed.max(other.tally.closed);
        self.tally.add(&other.tally);
        self.tally.closed = closed;
    }

    /// Frames that a client read at once. At a fixed pace, more than one means that the pace was not kept: the machine
    /// was busy, or the server is too slow. The figure then includes what the server saves by writing several frames at
    /// once.
    pub fn frames_per_read(&self) -> f64 {
        self.tally.delivered as f64 / self.tally.reads.max(1) as f64
    }

    /// Processor time for each frame delivered, in nanoseconds.
    pub fn ns_per_frame(&self) -> f64 {
        self.cpu.ns as f64 / self.tally.delivered.max(1) as f64
    }

    /// Processor time for each update, in microseconds.
    pub fn us_per_update(&self) -> f64 {
        self.cpu.ns as f64 / 1000.0 / f64::from(self.updates.max(1))
    }
}

/// A frame later than this is counted as late.
pub const LATE_MS: u64 = 1000;
/// How long the last frames of a phase may take.
const FINISH_MS: u64 = 120_000;

/// Measures one phase.
///
/// # Errors
/// When the server, its publisher or a load process fails.
pub fn measure(
    source: &mut dyn Source,
    workers: &mut [Worker],
    stamps: &Stamps,
    phase: &Phase,
    pace: Pace,
) -> Result<Sample> {
    let begin = Order::Begin { phase: *phase, stamps: stamps.path().to_owned(), late_ms: LATE_MS };
    order_all(workers, |_| begin.clone())?;
    source.prepare(phase, pace, stamps)?;
    // The pause lets the work that `prepare` caused end.
    std::thread::sleep(Duration::from_millis(100));
    let load_before = load_cpu(workers)?;
    let before = Cpu::of(source.pid())?;
    source.go(phase, pace, stamps)?;
    let tally = finish_all(workers, FINISH_MS)?;
    let cpu = Cpu::of(source.pid())?.since(before);
    let load_cpu = load_cpu(workers)?.since(load_before);
    let seconds = tally.last_ns.saturating_sub(tally.first_ns) as f64 / 1e9;
    Ok(Sample { updates: phase.count, cpu, load_cpu, seconds, tally })
}

fn load_cpu(workers: &[Worker]) -> Result<Cpu> {
    let mut sum = Cpu::default();
    for worker in workers {
        let cpu = Cpu::of(worker.pid())?;
        sum.ns += cpu.ns;
        sum.waited_ns += cpu.waited_ns;
    }
    Ok(sum)
}
