//! Figures beside their targets, as a table in a page: `--page FILE`.
//!
//! Goes in: the figures of a run, and what each should be. Comes out: Markdown, and the page with the table between its two
//! marks replaced.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::report::{Report, short};

/// A figure: its name, its unit, and its value.
pub type Figure = (String, &'static str, f64);

/// The figures of a run, in order.
#[derive(Debug, Default)]
pub struct Figures(pub Vec<Figure>);

impl Figures {
    /// Adds a figure.
    pub fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.0.push((name.into(), unit, value));
    }

    /// Adds p50, p95, p99 and the longest of these times, which are in milliseconds.
    pub fn latencies(&mut self, name: &str, mut times: Vec<f64>) {
        times.sort_by(f64::total_cmp);
        for (word, percent) in [("p50", 50.0), ("p95", 95.0), ("p99", 99.0), ("longest", 100.0)] {
            self.add(format!("{name}, {word}"), "ms", percentile(&times, percent));
        }
    }
}

/// The value below which so many of a hundred lie; NaN if there are none.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
    let place = (last as f64 * percent / 100.0).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

const BEGIN: &str = "<!-- figures: written by benches/run";
const END: &str = "<!-- end of the figures -->";

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// So much, or more.
    AtLeast(f64),
    /// So much, or less.
    AtMost(f64),
}

/// A figure with a target: its name, the words for it, and the target. A name that ends in a blank stands for all figures that
/// begin with it and end in `, p99`; then the worst one counts.
pub type Aim = (&'static str, &'static str, Target);

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtLeast(least) => format!("≥ {}", short(least)),
            Target::AtMost(most) => format!("≤ {}", short(most)),
        }
    }
}

/// The value of a figure, or the worst of several.
fn value(figures: &[Figure], name: &str) -> Option<(f64, &'static str)> {
    let fits = |figure: &&Figure| {
        if name.ends_with(' ') { figure.0.starts_with(name) && figure.0.ends_with(", p99") } else { figure.0 == name }
    };
    figures.iter().filter(fits).map(|(_, unit, value)| (*value, *unit)).max_by(|a, b| a.0.total_cmp(&b.0))
}

/// The table, and all figures below it.
pub fn table(aims: &[Aim], figures: &[Figure], report: &Report) -> String {
    let machine = &report.machine;
    let mut out = format!(
        "{}; {}, {} cores, {} GiB, Linux {}, load average {}.\n\n| | target | | reached |\n|---|---|---|---|\n",
        report.setting, machine.processor, machine.cores, machine.memory_gib, machine.kernel, machine.load
    );
    for (name, words, target) in aims {
        let Some((value, unit)) = value(figures, name) else { continue };
        let is_met = if target.is_met(value) { "yes" } else { "**no**" };
        let _ = writeln!(out, "| {words} | {} {unit} | {} {unit} | {is_met} |", target.text(), short(value));
    }
    out.push_str("\nAll figures of that run:\n\n| | |\n|---|---|\n");
    for (name, unit, value) in figures {
        let _ = writeln!(out, "| {name} | {} {unit} |", short(*value));
    }
    out
}

/// Replaces the table in a page.
///
/// # Errors
/// The page cannot be read or written, or has no marks.
pub fn write(page: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let replaced = replace(&text, table).with_context(|| format!("{} has no place for the figures", page.display()))?;
    std::fs::write(page, replaced).with_context(|| format!("cannot write {}", page.display()))
}

fn replace(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (mark, rest) = rest.split_once('\n')?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{mark}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_page_is_replaced() {
        let page = format!("a\n{BEGIN} x -->\nold\n{END}\nb\n");
        assert_eq!(replace(&page, "new\n").unwrap(), format!("a\n{BEGIN} x -->\nnew\n{END}\nb\n"));
        assert_eq!(replace("no marks", "new"), None);
    }

    #[test]
    fn the_worst_of_several_counts() {
        let figure = |name: &str, value| (name.to_owned(), "ms", value);
        let figures =
            [figure("list 100 of all, p99", 3.0), figure("list 100 of a bug, p99", 70.0), figure("next due, p99", 1.0)];
        assert_eq!(value(&figures, "list 100 of "), Some((70.0, "ms")));
        assert_eq!(value(&figures, "absent"), None);
        let aims = [
            ("list 100 of ", "lists, the slowest kind, p99", Target::AtMost(50.0)),
            ("next due, p99", "the next due lanes, p99", Target::AtMost(50.0)),
        ];
        let table = table(&aims, &figures, &Report::new("hooks-store", "3 events".to_owned()));
        assert!(table.contains("| lists, the slowest kind, p99 | ≤ 50 ms | 70 ms | **no** |"), "{table}");
        assert!(table.contains("| the next due lanes, p99 | ≤ 50 ms | 1 ms | yes |"), "{table}");
    }
}
