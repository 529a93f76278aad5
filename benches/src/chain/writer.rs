//! The tracker: a process that writes rows into a change table.
//!
//! Goes in: [`Order`]s, one JSON line each, on standard input. Comes out: rows, the time at which each was written in the
//! file of times, and one [`Answer`] for each order on standard output. It keeps its connection until standard input ends, so
//! that what the connection costs the database is not counted twice or missed.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bugfeed_sql::{Db, DbUrl, Use};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::clock::{Stamps, exact_sleeps, now_ns, sleep_until};
use crate::load::{Answer, say};
use crate::plan::{Phase, mix};

/// An order to a writer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// From now on, write into this database.
    Open(String),
    /// Write the rows of a phase.
    Write {
        /// The updates.
        phase: Phase,
        /// Nanoseconds from one update to the next, on the average; 0 for full speed.
        every_ns: u64,
        /// How many rows are written in one transaction.
        together: u32,
        /// The file of times.
        stamps: PathBuf,
    },
}

/// Runs as a writer until standard input ends.
///
/// # Errors
/// When standard input or output fail.
pub fn run() -> Result<()> {
    exact_sleeps();
    let mut writer = Writer { runtime: Builder::new_current_thread().enable_all().build()?, db: None };
    for line in std::io::stdin().lock().lines() {
        let began = now_ns();
        match writer.order(serde_json::from_str(&line?)?) {
            Ok(()) => say(&Answer::Done { seconds: (now_ns() - began) as f64 / 1e9 })?,
            Err(error) => say(&Answer::Failed(format!("{error:#}")))?,
        }
    }
    Ok(())
}

struct Writer {
    runtime: Runtime,
    db: Option<Db>,
}

impl Writer {
    fn order(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Open(url) => {
                // A pool of connections has tasks of its own.
                let _inside = self.runtime.enter();
                self.db = Some(Db::new(&url.parse::<DbUrl>()?, Use::Setup { create: false }));
                Ok(())
            }
            Order::Write { phase, every_ns, together, stamps } => self.write(&phase, every_ns, together, &stamps),
        }
    }

    fn write(&mut self, phase: &Phase, every_ns: u64, together: u32, stamps: &Path) -> Result<()> {
        let db = self.db.as_ref().context("no database yet")?;
        let stamps = Stamps::open_to_write(stamps)?;
        let start = now_ns();
        let transaction_ns = every_ns * u64::from(together);
        for (number, first) in phase.indices().step_by(together as usize).enumerate() {
            if every_ns > 0 {
                // Transactions come at uneven times, because even ones could keep step with the shim's looks.
                let uneven_ns = mix(u64::from(first)) % transaction_ns;
                sleep_until(start + number as u64 * transaction_ns + uneven_ns);
            }
            let indices = first..phase.end().min(first + together);
            let values: Vec<String> = indices.clone().map(|index| value(phase, index)).collect();
            let sql = format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES {}", values.join(","));
            let now = now_ns();
            for index in indices {
                stamps.put(index, now)?;
            }
            self.runtime.block_on(db.execute(&sql, &[]))?;
        }
        Ok(())
    }
}

fn value(phase: &Phase, index: u32) -> String {
    let change = phase.change(index);
    format!("({},'{}')", change.bug, change.when.to_string().replace('T', " "))
}
