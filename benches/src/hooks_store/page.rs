//! The figures beside their targets, as a table in a page: `--page docs/hooks-bench.md`.
//!
//! Goes in: the figures of a run. Comes out: Markdown, and the page with the table between its two marks replaced.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Figure;
use crate::report::{Report, short};

const BEGIN: &str = "<!-- figures: written by benches/run hooks-store --page -->";
const END: &str = "<!-- end of the figures -->";

/// What a figure should be.
#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// Figures with a target. A name that ends in a blank stands for all that begin with it; then the worst one counts.
const TARGETS: &[(&str, &str, Target)] = &[
    ("single requests", "single requests, durable before the answer", Target::AtLeast(3000.0)),
    ("single request at a pace, p99", "… p99 at 3000 in a second", Target::AtMost(20.0)),
    ("road: single POSTs", "single POSTs over HTTP, durable before the answer", Target::AtLeast(3000.0)),
    ("road: single POST at a pace, p99", "… p99 at 3000 in a second", Target::AtMost(20.0)),
    ("bulk: accepted and completed", "bulk: accepted and completed in the store", Target::AtLeast(10_000.0)),
    ("road: NDJSON, in the change table", "NDJSON over HTTP, through to the change table", Target::AtLeast(10_000.0)),
    ("size: row of an event", "a row of an event, without indexes", Target::AtMost(300.0)),
    ("list 100 of ", "lists and filters, the slowest kind, p99", Target::AtMost(50.0)),
    ("next due, p99", "the next due lanes, p99", Target::AtMost(50.0)),
    ("retention: a write beside it, longest", "the longest write beside retention", Target::AtMost(50.0)),
];

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
pub(super) fn table(figures: &[Figure], report: &Report) -> String {
    let machine = &report.machine;
    let mut out = format!(
        "{}; {}, {} cores, {} GiB, Linux {}, load average {}.\n\n| | target | | reached |\n|---|---|---|---|\n",
        report.setting, machine.processor, machine.cores, machine.memory_gib, machine.kernel, machine.load
    );
    for (name, words, target) in TARGETS {
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
pub(super) fn write(page: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let replaced = replace(&text, table).with_context(|| format!("{} has no place for the figures", page.display()))?;
    std::fs::write(page, replaced).with_context(|| format!("cannot write {}", page.display()))
}

fn replace(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_page_is_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replace(&page, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replace("no marks", "new"), None);
    }

    #[test]
    fn the_worst_of_several_counts() {
        let figure = |name: &str, value| (name.to_owned(), "ms", value);
        let figures =
            [figure("list 100 of all, p99", 3.0), figure("list 100 of a bug, p99", 70.0), figure("next due, p99", 1.0)];
        assert_eq!(value(&figures, "list 100 of "), Some((70.0, "ms")));
        assert_eq!(value(&figures, "absent"), None);
        let table = table(&figures, &Report::new("hooks-store", "3 events".to_owned()));
        assert!(table.contains("| lists and filters, the slowest kind, p99 | ≤ 50 ms | 70 ms | **no** |"), "{table}");
        assert!(table.contains("| the next due lanes, p99 | ≤ 50 ms | 1 ms | yes |"), "{table}");
    }
}
