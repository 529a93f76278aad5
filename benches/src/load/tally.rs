//! What clients counted, and how late updates were.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies from the moment an update was sent to the moment its frame was read, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// Longer ones are counted as a minute.
const LONGEST_NS: u64 = 60_000_000_000;

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Histogram::new_with_bounds(100, LONGEST_NS, 3).expect("constant bounds"))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds another's.
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

/// What happened in one phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Frames that should come: each update to each of its watchers.
    pub expected: u64,
    /// Frames of this phase that came.
    pub delivered: u64,
    /// Pairs of client and bug whose newest update did not come: these are lost for good.
    pub stale: u64,
    /// Frames that had come before.
    pub repeated: u64,
    /// Frames of an update older than one of the same bug that came before.
    pub out_of_order: u64,
    /// Frames later than the limit.
    pub late: u64,
    /// Updates of bugs that the client does not watch, or that nobody published.
    pub unexpected: u64,
    /// Frames of an earlier phase.
    pub strays: u64,
    /// Connections that ended.
    pub closed: u64,
    /// Frames that clients got which read slowly on purpose; they are in no other figure.
    pub slow_delivered: u64,
    /// read(2) calls that returned something.
    pub reads: u64,
    /// When the first frame was read, in nanoseconds of the machine's clock.
    pub first_ns: u64,
    /// When the last was.
    pub last_ns: u64,
    /// How late they were.
    pub latencies: Latencies,
}

impl Tally {
    /// Adds another worker's.
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

    /// Frames that did not come. A server that conflates for clients that are behind leaves out older ones of a bug;
    /// only what is [`Tally::stale`] is lost.
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
