//! The counts of the clients, and the latencies of updates.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies from the moment an update was sent to the moment its frame was read, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// The longest latency that is recorded; longer ones count as one minute.
const LONGEST_NS: u64 = 60_000_000_000;

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Histogram::new_with_bounds(100, LONGEST_NS, 3).expect("constant bounds"))
    }
}

impl Latencies {
    /// Records one latency.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds the latencies of another worker.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// A quantile (0.5, 0.99, 1.0) in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

impl Serialize for Latencies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Latencies, D::Error> {
        let mut latencies = Latencies::default();
        for (ns, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latencies.0.saturating_record_n(ns, count);
        }
        Ok(latencies)
    }
}

/// What the clients counted in one phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Frames that should arrive: each update at each of its watchers.
    pub expected: u64,
    /// Frames of this phase that arrived.
    pub delivered: u64,
    /// Pairs of client and bug whose newest update did not arrive: these updates are lost for good.
    pub stale: u64,
    /// Frames that had arrived before.
    pub repeated: u64,
    /// Frames with an update older than one of the same bug that had arrived before.
    pub out_of_order: u64,
    /// Frames later than the limit.
    pub late: u64,
    /// Updates of bugs that the client does not watch, or that nobody published.
    pub unexpected: u64,
    /// Frames of an earlier phase.
    pub strays: u64,
    /// Connections that ended.
    pub closed: u64,
    /// Frames that arrived at clients which read slowly on purpose; they are in no other figure.
    pub slow_delivered: u64,
    /// read(2) calls that returned something.
    pub reads: u64,
    /// When the first frame was read, in nanoseconds of the machine's clock.
    pub first_ns: u64,
    /// When the last frame was read.
    pub last_ns: u64,
    /// The frames' latencies.
    pub latencies: Latencies,
}

impl Tally {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Tally) {
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.stale += other.stale;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
        self.late += other.late;
        self.unexpected += other.unexpected;
        self.strays += other.strays;
        self.closed += other.closed;
        self.slow_delivered += other.slow_delivered;
        self.reads += other.reads;
        self.first_ns = match (self.first_ns, other.first_ns) {
            (0, ns) | (ns, 0) => ns,
            (a, b) => a.min(b),
        };
        self.last_ns = self.last_ns.max(other.last_ns);
        self.latencies.add(&other.latencies);
    }

    /// Frames that did not arrive. A server that conflates for slow clients leaves out older updates of a bug on
    /// purpose; only [`Tally::stale`] counts lost ones.
    pub fn left_out(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_survive_the_way_between_processes() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.record(us * 1000);
        }
        let text = serde_json::to_string(&latencies).unwrap();
        let mut read: Latencies = serde_json::from_str(&text).unwrap();
        assert!((read.quantile_us(0.99) - 990.0).abs() < 2.0, "{}", read.quantile_us(0.99));
        read.add(&latencies);
        assert!((read.quantile_us(1.0) - 1000.0).abs() < 2.0);
    }
}
