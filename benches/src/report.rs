//! Figures of several runs: medians and spread, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::measure::Sample;
use crate::procfs::Machine;
use crate::publish::Pace;

/// One figure, measured several times.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The figure's name.
    pub name: String,
    /// Its unit; empty for counts and ratios.
    pub unit: &'static str,
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All values, in the order of the runs.
    pub values: Vec<f64>,
}

/// The figures of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The sizes that were used.
    pub setting: String,
    /// The machine.
    pub machine: Machine,
    /// The figures.
    pub rows: Vec<Row>,
}

/// The median; for an even number of values, the mean of the two in the middle. NaN if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
    f64::midpoint(middle(sorted.len().saturating_sub(1) / 2), middle(sorted.len() / 2))
}

impl Report {
    /// An empty report.
    pub fn new(scenario: &str, setting: String) -> Report {
        Report { scenario: scenario.to_owned(), setting, machine: Machine::this(), rows: Vec::new() }
    }

    /// Adds a figure.
    pub fn row(&mut self, name: impl Into<String>, unit: &'static str, values: Vec<f64>) {
        let bound = |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose).unwrap_or(f64::NAN);
        let (min, max) = (bound(f64::min), bound(f64::max));
        self.rows.push(Row { name: name.into(), unit, median: median(&values), min, max, values });
    }

    /// Adds the same figure of each sample.
    pub fn of(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        samples: &[Sample],
        figure: impl Fn(&Sample) -> f64,
    ) {
        self.row(name, unit, samples.iter().map(figure).collect());
    }

    /// Adds the ratio of two figures of the same run.
    pub fn ratio(
        &mut self,
        name: impl Into<String>,
        over: &[Sample],
        under: &[Sample],
        figure: impl Fn(&Sample) -> f64,
    ) {
        self.row(name, "", over.iter().zip(under).map(|(over, under)| figure(over) / figure(under)).collect());
    }

    /// Adds, for each sample, what went wrong at the clients, and how noisy the machine was. At full speed, late frames
    /// are not reported, because lateness means nothing there.
    pub fn honesty(&mut self, prefix: &str, pace: Pace, samples: &[Sample]) {
        self.of(format!("{prefix}: frames expected"), "", samples, |sample| sample.tally.expected as f64);
        let mut wrong = |name: &str, count: fn(&Sample) -> u64| {
            // A count that is zero in all samples gets no line.
            if samples.iter().any(|sample| count(sample) > 0) {
                self.of(format!("{prefix}: {name}"), "", samples, |sample| count(sample) as f64);
            }
        };
        wrong("frames left out (newer ones came)", |sample| sample.tally.left_out());
        wrong("newest of a bug lost", |sample| sample.tally.stale);
        wrong("repeated", |sample| sample.tally.repeated);
        wrong("out of order", |sample| sample.tally.out_of_order);
        wrong("unexpected or stray", |sample| sample.tally.unexpected + sample.tally.strays);
        wrong("connections closed", |sample| sample.tally.closed);
        if pace != Pace::Full {
            wrong("later than 1 s", |sample| sample.tally.late);
        }
        self.of(format!("{prefix}: waited for a busy processor"), "% of its CPU", samples, |sample| {
            sample.cpu.waited_ns as f64 * 100.0 / sample.cpu.ns.max(1) as f64
        });
    }

    /// The figures as a person reads them.
    pub fn text(&self) -> String {
        let Machine { processor, cores, kernel, memory_gib, load } = &self.machine;
        let mut out = format!(
            "{}: {}\n{processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}, load average {load}\n",
            self.scenario, self.setting
        );
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        for Row { name, unit, median, min, max, values } in &self.rows {
            let runs =
                if values.len() > 1 { format!("   ({} – {})", short(*min), short(*max)) } else { String::new() };
            let figure = format!("{} {unit}", short(*median));
            writeln!(out, "  {name:width$}  {figure:>24}{runs}").expect("writing to a String cannot fail");
        }
        out
    }
}

/// A number, rounded to three or four significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        abs if abs >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        abs if abs >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, want) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0], 2.5), (&[5.0], 5.0)] {
            assert!((median(values) - want).abs() < f64::EPSILON);
        }
        assert!(median(&[]).is_nan());
    }
}
