//! The figures of attacks, as a table and as JSON.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::procfs::Machine;
use crate::report::{median, short};

/// What an attacker did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Strength {
    /// How long, in seconds.
    pub seconds: f64,
    /// Connections that it opened.
    pub opened: u64,
    /// Connections that the server closed.
    pub ended: u64,
    /// Those that wanted a WebSocket and did not get one.
    pub refused: u64,
    /// Those that had what they wanted.
    pub left: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
    /// Bytes that it read.
    pub received_bytes: u64,
    /// Processor time, in nanoseconds.
    pub cpu_ns: u64,
}

/// What was measured of one server in one turn.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Turn {
    /// From just before an update is published to the read of its frame, in ms: the median.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Processor time of the server, in % of one processor.
    pub cpu_percent: f64,
    /// The longest answer to /livez, in ms.
    pub livez_ms: f64,
    /// The longest answer to /readyz, in ms.
    pub readyz_ms: f64,
    /// Answers of /livez and /readyz that did not come or were not 200.
    pub not_ok: u32,
    /// The most resident memory, in MiB.
    pub rss_mib: f64,
    /// Updates of which a client did not get the newest one of its bug in time.
    pub lost: u64,
    /// Good clients whose connection the server closed, so far.
    pub closed: u64,
}

/// Both servers in the same seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Both {
    /// Which of the two was attacked.
    pub which: usize,
    /// The server that was attacked.
    pub attacked: Turn,
    /// The other one.
    pub other: Turn,
    /// What the attacker did.
    pub strength: Strength,
}

/// Everything about one attack.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Its name.
    pub attack: String,
    /// All turns, in order: first one server is attacked, then the other, and so on.
    pub turns: Vec<Both>,
    /// Resident memory before the first attack, in MiB.
    pub rss_before_mib: f64,
    /// … some time after the last one.
    pub rss_after_mib: Option<f64>,
    /// From SIGTERM during the attack until the process was gone, in seconds; `None` if it took too long.
    pub exit_s: Option<f64>,
    /// Why there are no more figures, if something failed.
    pub failed: Option<String>,
}

impl Figures {
    /// The median of one figure of the attacked servers.
    fn attacked(&self, of: fn(&Turn) -> f64) -> f64 {
        median(&self.turns.iter().map(|both| of(&both.attacked)).collect::<Vec<_>>())
    }

    /// The median of one figure of those that were not attacked.
    fn other(&self, of: fn(&Turn) -> f64) -> f64 {
        median(&self.turns.iter().map(|both| of(&both.other)).collect::<Vec<_>>())
    }

    fn most(&self, of: fn(&Turn) -> f64) -> f64 {
        self.turns.iter().map(|both| of(&both.attacked)).fold(0.0, f64::max)
    }

    fn sum(&self, of: fn(&Turn) -> u64) -> u64 {
        self.turns.iter().map(|both| of(&both.attacked)).sum()
    }

    /// For each pair of turns and each server: p99 when it is attacked, divided by p99 when the other one is.
    pub fn ratios(&self) -> Vec<f64> {
        let pairs = self.turns.chunks_exact(2);
        pairs.flat_map(|pair| (0..2).map(|at| pair[at].attacked.p99_ms / pair[1 - at].other.p99_ms)).collect()
    }

    fn ratio(&self) -> String {
        let ratios = self.ratios();
        let bound = |choose: fn(f64, f64) -> f64| ratios.iter().copied().reduce(choose).unwrap_or(f64::NAN);
        let (least, most) = (short(bound(f64::min)), short(bound(f64::max)));
        format!("{} ({least} – {most})", short(median(&ratios)))
    }

    /// Memory before, at most, and after, in MiB.
    fn memory(&self) -> String {
        let after = self.rss_after_mib.map_or("?".to_owned(), |mib| format!("{mib:.0}"));
        format!("{:.0} → {:.0} → {after}", self.rss_before_mib, self.most(|turn| turn.rss_mib))
    }

    /// What the attackers did in a second, in the median.
    fn attackers(&self) -> String {
        let rate = |of: fn(&Strength) -> u64| {
            let rates = self.turns.iter().map(|both| of(&both.strength) as f64 / both.strength.seconds);
            median(&rates.collect::<Vec<_>>())
        };
        let (opened, mib) = (rate(|did| did.opened), rate(|did| did.sent_bytes) / 1_048_576.0);
        format!("{} / {}", short(opened.round()), short(mib))
    }

    /// What matters most, in one line.
    pub fn line(&self) -> String {
        match &self.failed {
            Some(failed) => format!("{}: failed: {failed}", self.attack),
            None => format!("{}: p99 {} times that of the control", self.attack, self.ratio()),
        }
    }

    fn cells(&self) -> Vec<String> {
        if let Some(failed) = &self.failed {
            let mut cells = vec![self.attack.clone(), format!("failed: {}", failed.lines().next().unwrap_or_default())];
            cells.resize(HEADS.len(), String::new());
            return cells;
        }
        let both = |of: fn(&Turn) -> f64| format!("{} / {}", short(self.attacked(of)), short(self.other(of)));
        let (lost, closed) = (self.sum(|turn| turn.lost), self.sum(|turn| turn.closed));
        vec![
            self.attack.clone(),
            both(|turn| turn.p99_ms),
            self.ratio(),
            both(|turn| turn.p50_ms),
            both(|turn| turn.max_ms),
            both(|turn| turn.cpu_percent.round()),
            self.memory(),
            both(|turn| turn.livez_ms),
            both(|turn| turn.readyz_ms),
            self.sum(|turn| u64::from(turn.not_ok)).to_string(),
            self.exit_s.map_or("**too long**".to_owned(), short),
            self.attackers(),
            format!("{lost} / {closed}"),
        ]
    }
}

const HEADS: [&str; 13] = [
    "attack",
    "p99, ms",
    "ratio",
    "p50, ms",
    "longest, ms",
    "CPU, %",
    "RSS, MiB",
    "/livez, ms",
    "/readyz, ms",
    "not 200",
    "exit, s",
    "connections/s / MiB/s",
    "lost / closed",
];

/// The figures of all attacks.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// The sizes.
    pub setting: String,
    /// The machine, and its load before all this.
    pub machine: Machine,
    /// The attacks.
    pub attacks: Vec<Figures>,
}

impl Page {
    /// For people: Markdown, whose columns stand below each other.
    pub fn text(&self) -> String {
        let Machine { processor, cores, kernel, memory_gib, load } = &self.machine;
        let mut out = format!(
            "{}; {processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}, load average {load}.\n\n",
            self.setting
        );
        let rows: Vec<Vec<String>> =
            std::iter::once(HEADS.map(str::to_owned).to_vec()).chain(self.attacks.iter().map(Figures::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
        for (number, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(out, "| {cell:width$} ");
            }
            out.push_str("|\n");
            if number == 0 {
                widths.iter().for_each(|width| out.push_str(&format!("|{}", "-".repeat(width + 2))));
                out.push_str("|\n");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(which: usize, attacked: f64, other: f64) -> Both {
        let turn = |p99_ms| Turn { p99_ms, ..Turn::default() };
        Both {
            which,
            attacked: turn(attacked),
            other: turn(other),
            strength: Strength { seconds: 1.0, ..Strength::default() },
        }
    }

    #[test]
    fn each_server_is_compared_with_itself() {
        // Server 0 is attacked (30) while server 1 is not (20); then server 1 is attacked (40) while server 0 is not (10).
        let figures = Figures {
            attack: "x".to_owned(),
            turns: vec![both(0, 30.0, 20.0), both(1, 40.0, 10.0)],
            ..Figures::default()
        };
        assert_eq!(figures.ratios(), [3.0, 2.0]);
        assert_eq!(figures.ratio(), "2.50 (2 – 3)");
        let page = Page { setting: "s".to_owned(), machine: Machine::this(), attacks: vec![figures] };
        let text = page.text();
        assert!(text.contains("| x      | 35 / 15 | 2.50 (2 – 3) |"), "{text}");
        assert!(text.contains("**too long**"), "{text}");
    }

    #[test]
    fn what_failed_has_a_row_too() {
        let failed = Figures { attack: "x".to_owned(), failed: Some("gone\nmore".to_owned()), ..Figures::default() };
        assert_eq!(failed.cells().len(), HEADS.len());
        assert_eq!(failed.cells()[1], "failed: gone");
    }
}
