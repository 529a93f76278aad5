//! The figures of the whole way, as Markdown and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::servers::Database;
use crate::load::tally::Tally;
use crate::procfs::Machine;
use crate::report::short;

/// What each process used, in nanoseconds of a processor, or in microseconds for each change.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Used<T> {
    /// The shim.
    pub shim: T,
    /// The database's server, the tracker's INSERTs included if they were written meanwhile.
    pub database: T,
    /// The broker.
    pub broker: T,
    /// The gateway.
    pub gateway: T,
    /// The clients.
    pub clients: T,
    /// The tracker.
    pub tracker: T,
}

impl Used<u64> {
    /// What was used since an earlier reading, divided.
    pub fn since(self, earlier: Used<u64>, divisor: f64) -> Used<f64> {
        let each = |of: fn(Used<u64>) -> u64| of(self).saturating_sub(of(earlier)) as f64 / divisor;
        Used {
            shim: each(|used| used.shim),
            database: each(|used| used.database),
            broker: each(|used| used.broker),
            gateway: each(|used| used.gateway),
            clients: each(|used| used.clients),
            tracker: each(|used| used.tracker),
        }
    }
}

/// Nothing changes: what is used anyway.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Where the table is.
    pub database: Database,
    /// Which build.
    pub build: &'static str,
    /// Thousandths of one processor.
    pub permille: Used<f64>,
    /// The load average of the last minute.
    pub load: f64,
}

/// From the table to clients.
#[derive(Clone, Debug, Serialize)]
pub struct ToClients {
    /// Where the table is.
    pub database: Database,
    /// Which build.
    pub build: &'static str,
    /// Changes a second that were written; `None` if all were there before.
    pub rate: Option<u32>,
    /// How many changes.
    pub changes: u32,
    /// From the first change to the last frame, in seconds.
    pub seconds: f64,
    /// Microseconds for each change.
    pub cpu_us: Used<f64>,
    /// From just before the INSERT to the read of the frame, in milliseconds: the median. At full speed it means nothing.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// What the clients counted; its latencies are in nanoseconds.
    pub tally: Tally,
    /// The load average of the last minute.
    pub load: f64,
}

/// From the table to the broker's confirmation.
#[derive(Clone, Debug, Serialize)]
pub struct ToBroker {
    /// Where the table is.
    pub database: Database,
    /// Which build.
    pub build: &'static str,
    /// Where the ledger is.
    pub ledger: Database,
    /// Further options of the shim.
    pub options: String,
    /// Queues that take everything, beside the history.
    pub queues: u32,
    /// Different bugs.
    pub bugs: u32,
    /// How many changes.
    pub changes: u32,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Microseconds for each change.
    pub cpu_us: Used<f64>,
    /// The load average of the last minute.
    pub load: f64,
}

/// A gateway starts, and reads the history before it is ready.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// Which build.
    pub build: &'static str,
    /// Further options of the shim that has written it.
    pub options: String,
    /// How many changes it holds.
    pub changes: u32,
    /// From the start of the process until it is ready, in seconds.
    pub seconds: f64,
    /// Microseconds of the gateway for each change.
    pub cpu_us: f64,
    /// The load average of the last minute.
    pub load: f64,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The sizes.
    pub setting: String,
    /// Without changes.
    pub idle: Vec<Idle>,
    /// To clients.
    pub to_clients: Vec<ToClients>,
    /// To the broker.
    pub to_broker: Vec<ToBroker>,
    /// Starts of gateways.
    pub histories: Vec<History>,
}

impl Report {
    /// For programs.
    ///
    /// # Errors
    /// Never in practice.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let Machine { processor, cores, kernel, memory_gib, .. } = &self.machine;
        let mut out =
            format!("{processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}, nothing pinned. {}\n", self.setting);
        self.idle_table(&mut out).expect("writing to a String cannot fail");
        self.client_table(&mut out).expect("writing to a String cannot fail");
        self.broker_table(&mut out).expect("writing to a String cannot fail");
        self.history_table(&mut out).expect("writing to a String cannot fail");
        out
    }

    fn history_table(&self, out: &mut String) -> std::fmt::Result {
        if self.histories.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nA gateway starts and reads the history:\n")?;
        writeln!(
            out,
            "| build | options of the shim | changes | ready after, s | its CPU a change, µs | load average |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|")?;
        for History { build, options, changes, seconds, cpu_us, load } in &self.histories {
            let (seconds, cpu_us) = (short(*seconds), short(*cpu_us));
            writeln!(out, "| {build} | {options} | {changes} | {seconds} | {cpu_us} | {load} |")?;
        }
        Ok(())
    }

    fn idle_table(&self, out: &mut String) -> std::fmt::Result {
        if self.idle.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\nNothing changes, % of one core:\n\n| table | build | shim | database | broker | gateway | load average |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for Idle { database, build, permille, load } in &self.idle {
            let [shim, db, broker, gateway] = [permille.shim, permille.database, permille.broker, permille.gateway]
                .map(|permille| short(permille / 10.0));
            let name = database.name();
            writeln!(out, "| {name} | {build} | {shim} | {db} | {broker} | {gateway} | {load} |")?;
        }
        Ok(())
    }

    fn client_table(&self, out: &mut String) -> std::fmt::Result {
        if self.to_clients.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\nTable → clients, µs of CPU a change:\n\n| table | build | changes/s | shim + broker + gateway | shim | database | \
             broker | gateway | clients | tracker | p50 ms | p99 ms | left out | wrong | load average |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.to_clients {
            let used = row.cpu_us;
            let rate = match row.rate {
                Some(rate) => rate.to_string(),
                None => format!("full speed: {}", short(f64::from(row.changes) / row.seconds)),
            };
            let late = |ms: f64| if row.rate.is_some() { short(ms) } else { String::new() };
            let tally = &row.tally;
            let wrong = tally.stale + tally.repeated + tally.out_of_order + tally.unexpected + tally.closed;
            writeln!(
                out,
                "| {} | {} | {rate} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {wrong} | {} |",
                row.database.name(),
                row.build,
                short(used.shim + used.broker + used.gateway),
                short(used.shim),
                short(used.database),
                short(used.broker),
                short(used.gateway),
                short(used.clients),
                short(used.tracker),
                late(row.p50_ms),
                late(row.p99_ms),
                tally.left_out(),
                row.load
            )?;
        }
        Ok(())
    }

    fn broker_table(&self, out: &mut String) -> std::fmt::Result {
        if self.to_broker.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\nTable → confirmed by the broker, µs of CPU a change:\n\n| table | ledger | build | options | queues | bugs | changes/s | \
             shim + broker | shim | database | broker | load average |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.to_broker {
            let used = row.cpu_us;
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.database.name(),
                row.ledger.name(),
                row.build,
                row.options,
                row.queues,
                row.bugs,
                short(f64::from(row.changes) / row.seconds),
                short(used.shim + used.broker),
                short(used.shim),
                short(used.database),
                short(used.broker),
                row.load
            )?;
        }
        Ok(())
    }
}
