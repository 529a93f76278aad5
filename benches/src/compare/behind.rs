//! Says where bugfeed is not first. Goes in: the findings. Comes out: a list, one line for each figure in which another
//! server's median is better. It never leaves a figure out because its reason is known.

use std::fmt::Write as _;

use super::{Finding, Part, Spread, WAYS, Way, named, title, wrong};
use crate::report::short;

/// The name under which bugfeed is measured.
const OWN: &str = "bugfeed";
/// More frames than this in one read, where updates come at a pace, say that the pace was not kept.
const KEPT: f64 = 1.1;

/// A figure of several servers.
struct Figure<'a> {
    what: String,
    unit: &'static str,
    /// Whether a smaller value is better.
    small: bool,
    own: Spread,
    others: Vec<(&'a Finding, Spread, Option<Way>)>,
}

/// The list, with a heading; empty if bugfeed was not measured, or nothing else was.
pub(super) fn list(found: &[Finding]) -> String {
    let mut lines = String::new();
    let mut compared = 0;
    for part in [Part::Fanout, Part::Sparse] {
        let (own, others): (Vec<&Finding>, Vec<&Finding>) =
            found.iter().filter(|one| one.part == part).partition(|one| one.server == OWN);
        let Some(own) = own.first() else { continue };
        if others.is_empty() {
            continue;
        }
        let mut figures = memory(own, &others);
        for way in WAYS {
            figures.extend(costs(own, &others, way));
        }
        for figure in &figures {
            compared += 1;
            lines += &line(own, figure);
        }
    }
    match (compared, lines.is_empty()) {
        (0, _) => String::new(),
        (_, true) => format!("\nWhere {OWN} is not first: in none of {compared} figures.\n"),
        (_, false) => {
            format!("\nWhere {OWN} is not first ({} of {compared} figures)\n\n{lines}", lines.lines().count())
        }
    }
}

fn memory<'a>(own: &Finding, others: &[&'a Finding]) -> Vec<Figure<'a>> {
    let exactly = |value: f64| Spread { median: value, min: value, max: value };
    let topics = if own.part == Part::Fanout { "1 topic".into() } else { format!("{} topics", own.subscriptions) };
    let figure = |what: String, unit, of: &dyn Fn(&Finding) -> Option<f64>| {
        let others = others.iter().filter_map(|&one| Some((one, exactly(of(one)?), None))).collect();
        Some(Figure { what, unit, small: true, own: exactly(of(own)?), others })
    };
    let empty = (own.part == Part::Fanout)
        .then(|| figure("memory of an empty server".into(), "MiB", &|one| Some(one.memory.empty_mib)))
        .flatten();
    let each =
        figure(format!("memory of a connection with {topics}"), "KB", &|one| Some(one.memory.subscribed / 1000.0));
    empty.into_iter().chain(each).collect()
}

fn costs<'a>(own: &Finding, others: &[&'a Finding], way: Way) -> Vec<Figure<'a>> {
    let Some(at) = way.of(own) else { return Vec::new() };
    let name = format!("{}, {}", title(own), way.name(own));
    let unit = own.part.unit();
    let figure = |what: &str, unit, small, own: Spread, of: &dyn Fn(&super::Paced) -> Spread| {
        let others = others.iter().filter_map(|&one| Some((one, of(way.of(one)?), Some(way)))).collect();
        Figure { what: format!("{name}, {what}"), unit, small, own, others }
    };
    let mut figures = vec![figure(&format!("CPU by {unit}"), "µs", true, at.cpu_us, &|one| one.with_broker())];
    if at.broker_us.is_some() {
        let what = format!("CPU by {unit}, its broker counted");
        figures.push(figure(&what, "µs", true, at.with_broker(), &|one| one.with_broker()));
    }
    if way == Way::Full {
        figures.push(figure("updates a second", "/s", false, at.updates_per_s, &|one| one.updates_per_s));
    } else {
        figures.push(figure("p50", "ms", true, at.p50_ms, &|one| one.p50_ms));
        figures.push(figure("p99", "ms", true, at.p99_ms, &|one| one.p99_ms));
    }
    figures
}

/// One line about a figure; nothing if bugfeed is first.
fn line(first: &Finding, figure: &Figure<'_>) -> String {
    let (own, unit) = (figure.own, figure.unit);
    let better = |value: f64, than: f64| if figure.small { value < than } else { value > than };
    let mut before: Vec<_> = figure.others.iter().filter(|(_, one, _)| better(one.median, own.median)).collect();
    if before.is_empty() {
        return String::new();
    }
    let sign = if figure.small { 1.0 } else { -1.0 };
    before.sort_by(|(_, a, _), (_, b, _)| (sign * a.median).total_cmp(&(sign * b.median)));
    let mut text = format!("- {}: {} {unit}; before it:", figure.what, short(own.median));
    for (number, (one, spread, way)) in before.into_iter().enumerate() {
        let mut notes = Vec::new();
        if spread.max >= own.min && spread.min <= own.max {
            notes.push("the runs' spreads overlap".to_owned());
        }
        if let Some((way, at)) = way.and_then(|way| Some((way, way.of(one)?))) {
            if way != Way::Full && at.frames_per_read.median > KEPT {
                notes.push("several updates in one read: the pace was not kept".to_owned());
            }
            let wrong = wrong(at, way == Way::Full);
            if wrong != "nothing" {
                notes.push(wrong);
            }
        }
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        let comma = if number == 0 { "" } else { "," };
        write!(text, "{comma} {} {} {unit}{notes}", named(one, first), short(spread.median))
            .expect("writing to a String cannot fail");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::tests::finding;
    use super::*;

    #[test]
    fn first_everywhere() {
        let text = list(&[finding("bugfeed", 1.0), finding("other", 2.0)]);
        assert_eq!(text, "\nWhere bugfeed is not first: in none of 10 figures.\n");
        assert_eq!(list(&[finding("other", 2.0)]), "");
        assert_eq!(list(&[finding("bugfeed", 2.0)]), "");
    }

    #[test]
    fn every_figure_in_which_another_is_better() {
        let mut other = finding("other", 2.0);
        other.paced.cpu_us = Spread { median: 0.5, min: 0.5, max: 1.5 };
        other.paced.frames_per_read.median = 2.0;
        other.full.updates_per_s.median = 2_000_000.0;
        let mut best = finding("best", 2.0);
        best.paced.cpu_us = Spread { median: 0.25, min: 0.25, max: 0.25 };
        let text = list(&[finding("bugfeed", 1.0), other, best]);
        let want = "
Where bugfeed is not first (2 of 10 figures)

- 1000 clients on one topic, 10 updates/s, CPU by frame: 1 µs; before it: best 0.25 µs, other 0.50 µs (the runs' spreads \
                    overlap; several updates in one read: the pace was not kept)
- 1000 clients on one topic, full speed, updates a second: 1000000 /s; before it: other 2000000 /s
";
        assert_eq!(text, want);
    }
}
