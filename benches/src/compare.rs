//! The findings about several servers, and the tables made of them.

mod behind;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::procfs::Machine;
use crate::report::{median, short};

/// Which load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// All clients on one topic
    Fanout,
    /// Each client on a few topics of very many
    Sparse,
}

impl Part {
    /// What processor time is divided by: frames if all clients get each update, updates if only about two do.
    fn unit(self) -> &'static str {
        if self == Part::Fanout { "frame" } else { "update" }
    }
}

/// How updates come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    OneByOne,
    Paced,
    Gathered,
    Full,
}

const WAYS: [Way; 4] = [Way::OneByOne, Way::Paced, Way::Gathered, Way::Full];

impl Way {
    fn of(self, one: &Finding) -> Option<&Paced> {
        match self {
            Way::OneByOne => one.one_by_one.as_ref(),
            Way::Paced => Some(&one.paced),
            Way::Gathered => one.gathered.as_ref(),
            Way::Full => Some(&one.full),
        }
    }

    fn name(self, one: &Finding) -> String {
        match self {
            Way::OneByOne => "one by one".into(),
            Way::Paced => format!("{} updates/s", one.rate),
            Way::Gathered => format!("{} updates/s, those of 10 ms sent together", one.rate),
            Way::Full => "full speed".into(),
        }
    }
}

/// The median of several runs, and how far the runs were apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of these values; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        Some(Spread { median: median(values), min, max })
    }
}

/// Memory of the server's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryEach {
    /// Without clients, in MiB.
    pub empty_mib: f64,
    /// What each connection added before it had topics, in bytes; `None` if the handshake already names the topics.
    pub connected: Option<f64>,
    /// What each connection with its topics added, in bytes.
    pub subscribed: f64,
    /// The memory of the whole process, divided by the number of connections, in bytes.
    pub whole: f64,
    /// How long it took to connect all.
    pub connect_s: f64,
}

/// The findings at a fixed pace, or at full speed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Paced {
    /// Updates of one run.
    pub updates: u32,
    /// Frames that a client read at once. More than one means that updates were written together, or that clients were
    /// slow.
    pub frames_per_read: Spread,
    /// Processor time of the floor, for each frame or for each update, in microseconds.
    pub floor_us: Spread,
    /// Processor time of the server, in the same unit.
    pub cpu_us: Spread,
    /// Processor time of the server's broker, if it has one, in the same unit.
    pub broker_us: Option<Spread>,
    /// The server's time divided by the floor's, in the same run and at the same pace.
    pub ratio: Spread,
    /// The server's time divided by that of the floor at a fixed pace.
    pub ratio_to_paced_floor: Spread,
    /// Latency of the floor from sent to read, median, in milliseconds.
    pub floor_p50_ms: Spread,
    /// Latency of the floor from sent to read, 99th percentile, in milliseconds.
    pub floor_p99_ms: Spread,
    /// Latency of the server from sent to read, median, in milliseconds.
    pub p50_ms: Spread,
    /// Latency of the server from sent to read, 99th percentile, in milliseconds.
    pub p99_ms: Spread,
    /// Updates that arrived in a second.
    pub updates_per_s: Spread,
    /// How long the server waited for a busy processor, in percent of its processor time.
    pub waited_percent: Spread,
    /// Frames that should have arrived, in all runs.
    pub expected: u64,
    /// Frames that did not arrive.
    pub missing: u64,
    /// Pairs of client and topic whose newest update did not arrive.
    pub newest_missing: u64,
    /// Frames that arrived a second time.
    pub repeated: u64,
    /// Frames that arrived after a newer one.
    pub disordered: u64,
    /// Frames of topics that the client does not watch, or of an earlier run.
    pub unexpected: u64,
    /// Frames that arrived more than a second after they were sent.
    pub late: u64,
    /// Connections that the server closed.
    pub closed: u64,
}

impl Paced {
    /// Processor time of the server and of the broker that carries its messages, if it has one.
    fn with_broker(&self) -> Spread {
        let broker = self.broker_us.unwrap_or_default();
        let Spread { median, min, max } = self.cpu_us;
        Spread { median: median + broker.median, min: min + broker.min, max: max + broker.max }
    }
}

/// One server under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub server: String,
    /// Its version.
    pub version: String,
    /// Where it came from: a registry and the package's name, or how it was built.
    pub from: String,
    /// Whether the server was bound to one processor, and everything else to another.
    pub pinned: bool,
    /// The load.
    pub part: Part,
    /// Clients.
    pub clients: u32,
    /// Topics of each.
    pub subscriptions: u32,
    /// Topics in total.
    pub topics: u32,
    /// Updates a second, when they come at a fixed pace.
    pub rate: u32,
    /// Its memory, before any update.
    pub memory: MemoryEach,
    /// Each update sent when the one before has arrived; only measured if all clients have the same topic.
    pub one_by_one: Option<Paced>,
    /// At a pace, each update sent by itself.
    pub paced: Paced,
    /// At the same pace, what comes in 10 ms sent together, as `bugfeed-shim` does; only measured where clients have
    /// different topics.
    pub gathered: Option<Paced>,
    /// At full speed.
    pub full: Paced,
    /// The machine, with its load average at the end.
    pub machine: Machine,
}

/// Makes the tables of the findings in this file (one JSON object a line), or one JSON list of them.
///
/// # Errors
/// When the file cannot be read, or has no findings.
pub fn show(path: &Path, json: bool) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let found = text.lines().map(serde_json::from_str).collect::<Result<Vec<Finding>, _>>();
    let found = found.context("this is not what `against` prints")?;
    let Some(first) = found.first() else { bail!("nothing was measured") };
    if json {
        return Ok(serde_json::to_string_pretty(&found)? + "\n");
    }
    let Machine { processor, cores, kernel, memory_gib, .. } = &first.machine;
    let pinned = if first.pinned {
        "Server and floor on one processor, clients, publisher and broker on another"
    } else {
        "Nothing bound to a processor: server, clients, publisher and broker share all of them"
    };
    let mut out = format!("{processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}. {pinned}.\n");
    out += &format!("Load average {}.\n", loads(&found));
    memory(&mut out, &found)?;
    for part in [Part::Fanout, Part::Sparse] {
        let found: Vec<&Finding> = found.iter().filter(|one| one.part == part).collect();
        if let Some(first) = found.first() {
            costs(&mut out, first, &found)?;
        }
    }
    out += &behind::list(&found);
    Ok(out)
}

/// The smallest and the largest load average of one minute.
fn loads(found: &[Finding]) -> String {
    let loads: Vec<f64> = found.iter().filter_map(|one| load(one).parse().ok()).collect();
    Spread::of(&loads).map_or("unknown".into(), |all| format!("{} to {}", short(all.min), short(all.max)))
}

/// The load average of one minute, when a server's part was over.
fn load(one: &Finding) -> &str {
    one.machine.load.split(' ').next().unwrap_or_default()
}

/// A server's name, with its number of clients if the first one had another number.
fn named(one: &Finding, first: &Finding) -> String {
    let Finding { server, clients, .. } = one;
    if *clients == first.clients { server.clone() } else { format!("{server} ({clients} clients)") }
}

/// The load, in words.
fn title(one: &Finding) -> String {
    let Finding { clients, subscriptions, topics, .. } = one;
    match one.part {
        Part::Fanout => format!("{clients} clients on one topic"),
        Part::Sparse => format!("{clients} clients with {subscriptions} of {topics} topics, two clients an update"),
    }
}

/// The table of servers and their memory: one line for each. Its parts have different numbers of topics.
fn memory(out: &mut String, found: &[Finding]) -> Result<()> {
    let mut table = Table::new(&["server", "version", "from", "empty", "0 topics", "1 topic", "many topics"]);
    let kb = |bytes: f64| format!("{:.1} KB", bytes / 1000.0);
    let mut servers: Vec<&str> = Vec::new();
    for Finding { server, .. } in found {
        if !servers.contains(&server.as_str()) {
            servers.push(server);
        }
    }
    for server in servers {
        let of = |part| found.iter().find(|one| one.server == server && one.part == part);
        let Some(any) = of(Part::Fanout).or(of(Part::Sparse)) else { continue };
        let one = of(Part::Fanout).map(|one| &one.memory);
        table.row(vec![
            server.to_owned(),
            any.version.clone(),
            any.from.clone(),
            format!("{:.0} MiB", any.memory.empty_mib),
            one.and_then(|one| one.connected).map_or("–".into(), kb),
            one.map_or("–".into(), |one| kb(one.subscribed)),
            of(Part::Sparse).map_or("–".into(), |many| {
                format!("{} ({} × {})", kb(many.memory.subscribed), many.clients, many.subscriptions)
            }),
        ]);
    }
    out.push_str("\nMemory (RSS) that each idle connection adds to the server's process\n\n");
    Ok(out.write_str(&table.text())?)
}

fn costs(out: &mut String, first: &Finding, found: &[&Finding]) -> Result<()> {
    for way in WAYS {
        if way.of(first).is_none() {
            continue;
        }
        writeln!(out, "\n{}, {}: CPU by {}\n", title(first), way.name(first), first.part.unit())?;
        let full = way == Way::Full;
        let mut titles = vec!["server", "CPU", "spread", "floor", "ratio"];
        titles.extend(if full { &["updates/s"][..] } else { &["p50, p99", "floor's p50, p99"] });
        titles.extend(["frames/read", "frames", "what went wrong", "load"]);
        let mut table = Table::new(&titles);
        for one in found {
            let Some(at) = way.of(one) else { continue };
            let server = named(one, first);
            let us = |us: f64| format!("{} µs", short(us));
            let spread = |of: &Spread| format!("{} – {}", short(of.min), short(of.max));
            let ms = |p50: &Spread, p99: &Spread| format!("{}, {} ms", short(p50.median), short(p99.median));
            let (cpu, floor, ratio) = (us(at.cpu_us.median), us(at.floor_us.median), short(at.ratio.median));
            let mut row = vec![server.clone(), cpu, spread(&at.cpu_us), floor, ratio];
            if full {
                row.push(format!("{:.0}", at.updates_per_s.median));
            } else {
                row.extend([ms(&at.p50_ms, &at.p99_ms), ms(&at.floor_p50_ms, &at.floor_p99_ms)]);
            }
            let together = short(at.frames_per_read.median);
            row.extend([together, at.expected.to_string(), wrong(at, full), load(one).to_owned()]);
            table.row(row);
            if let Some(broker) = at.broker_us {
                let all = at.with_broker().median;
                let mut row = vec![format!("{server} and its broker"), us(all), format!("broker {}", spread(&broker))];
                row.extend([String::new(), short(all / at.floor_us.median)]);
                row.resize(titles.len(), String::new());
                table.row(row);
            }
        }
        out.push_str(&table.text());
    }
    Ok(())
}

/// The counts of things that should not happen, as text.
fn wrong(at: &Paced, full: bool) -> String {
    let late = if full { 0 } else { at.late };
    let counts = [
        (at.missing, "missing"),
        (at.newest_missing, "newest missing"),
        (at.repeated, "repeated"),
        (at.disordered, "out of order"),
        (at.unexpected, "unexpected"),
        (late, "later than 1 s"),
        (at.closed, "closed"),
    ];
    let found: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if found.is_empty() { "nothing".into() } else { found.join(", ") }
}

/// A table in Markdown, aligned so that it is readable as plain text.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new(head: &[&str]) -> Table {
        Table(vec![head.iter().map(|&cell| cell.to_owned()).collect()])
    }

    fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    fn text(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (number, row) in self.0.iter().enumerate() {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            out += &format!("| {} |\n", cells.join(" | "));
            if number == 0 {
                let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
                out += &format!("| {} |\n", rules.join(" | "));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One topic, every cost being `cost`, and everything faster the cheaper it is.
    pub(super) fn finding(server: &str, cost: f64) -> Finding {
        let all = |value: f64| Spread { median: value, min: value, max: value };
        let (cost, one) = (all(cost), all(1.0));
        let at = Paced {
            updates: 10,
            frames_per_read: one,
            floor_us: one,
            cpu_us: cost,
            broker_us: None,
            ratio: cost,
            ratio_to_paced_floor: cost,
            floor_p50_ms: one,
            floor_p99_ms: one,
            p50_ms: cost,
            p99_ms: cost,
            updates_per_s: all(1_000_000.0 / cost.median),
            waited_percent: one,
            expected: 10,
            missing: 0,
            newest_missing: 0,
            repeated: 0,
            disordered: 0,
            unexpected: 0,
            late: 0,
            closed: 0,
        };
        Finding {
            server: server.into(),
            version: "1".into(),
            from: "here".into(),
            pinned: true,
            part: Part::Fanout,
            clients: 1000,
            subscriptions: 1,
            topics: 1,
            rate: 10,
            memory: MemoryEach {
                empty_mib: cost.median,
                connected: None,
                subscribed: cost.median,
                whole: cost.median,
                connect_s: 1.0,
            },
            one_by_one: Some(at.clone()),
            gathered: None,
            paced: at.clone(),
            full: at,
            machine: Machine::this(),
        }
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&["a", "µs"]);
        table.row(vec!["long".to_owned(), "1".to_owned()]);
        assert_eq!(table.text(), "| a    | µs |\n| ---- | -- |\n| long | 1  |\n");
    }

    #[test]
    fn spreads() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[1.0, 4.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }
}
