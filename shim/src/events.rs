//! Every notable event: one function each, which both logs and counts.
//!
//! Goes in: what happened. Comes out: log lines (an outage is said once when it begins, about once a minute while it
//! lasts, and once when it ends), counters, and whether the shim is ready. Never logs a password or a line per row.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bugfeed_protocol::Cursor;
use tokio::sync::watch;

use crate::ledger::{NewEpoch, Recorded};

/// How often an outage that lasts is mentioned again.
const REMINDER: Duration = Duration::from_secs(60);
/// How many set-aside rows are logged one by one in a minute.
const SET_ASIDE_LINES: u32 = 10;

/// So many bad rows and not one good one are no accident.
const ALL_BAD: usize = 10;

/// What the shim depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The right to write to the ledger.
    Lease,
    /// The change table's database.
    Source,
    /// Rows of the change table that are in the way.
    Rows,
    /// The ledger's database.
    Ledger,
    /// The broker, or whatever takes the changes.
    Bus,
}

const PARTS: [Part; 5] = [Part::Lease, Part::Source, Part::Rows, Part::Ledger, Part::Bus];

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Lease => "lease",
            Part::Source => "change table",
            Part::Rows => "change table's rows",
            Part::Ledger => "ledger",
            Part::Bus => "bus",
        }
    }

    fn meanwhile(self) -> &'static str {
        match self {
            Part::Lease => "another shim works; this one waits for its turn",
            Part::Source => "trying again; changes wait in the table",
            Part::Rows => "trying again; the other rows flow on",
            Part::Ledger => "trying again; changes wait in the table",
            Part::Bus => "trying again; changes are kept in the ledger",
        }
    }
}

#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    said: Option<Instant>,
    reason: String,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Changes that got a number.
    pub recorded: AtomicU64,
    /// Rows that were set aside.
    pub set_aside: AtomicU64,
    /// Rows whose deletion is known.
    pub deleted: AtomicU64,
    /// Changes that are safely with the bus.
    pub published: AtomicU64,
    /// Published changes removed from the ledger.
    pub pruned: AtomicU64,
    /// Outages of the change table's database.
    pub source_outages: AtomicU64,
    /// Outages of the ledger's database.
    pub ledger_outages: AtomicU64,
    /// Outages of the bus.
    pub bus_outages: AtomicU64,
    /// Times this process began to work.
    pub terms: AtomicU64,
    /// Times the ledger was found to be set back.
    pub new_epochs: AtomicU64,
}

/// Whose turn it is to work on the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// Another process's, which is called so; this one waits.
    Waiting(String),
    /// This process's.
    Working,
}

/// What is in the way in the change table.
#[derive(Debug, Default)]
pub(crate) struct RowTrouble<'a> {
    pub(crate) place: &'a str,
    /// So many recorded rows are there although they were deleted.
    pub(crate) kept: usize,
    /// What the database said about one of them, if anything.
    pub(crate) refusal: Option<&'a str>,
    /// Some rows have no number by which they could be deleted.
    pub(crate) strays: bool,
    /// So many rows were set aside since the last good one.
    pub(crate) bad: usize,
    /// Why the last of them was.
    pub(crate) why: &'a str,
}

impl RowTrouble<'_> {
    fn reasons(&self) -> Vec<String> {
        let RowTrouble { place, kept, refusal, strays, bad, why } = self;
        let mut reasons = Vec::new();
        match refusal {
            _ if *kept == 0 => {}
            Some(refusal) => reasons.push(format!("{kept} recorded rows cannot be deleted: {refusal}")),
            None => reasons.push(format!(
                "{place}: {kept} recorded rows are still there after they were deleted without an error: a BEFORE DELETE \
                 trigger or row-level security keeps them; let the shim's user delete every row that it can read"
            )),
        }
        if *strays {
            reasons.push(format!(
                "{place}: some rows have no whole number as their id and are passed over; name the table's primary key \
                 with --id-column"
            ));
        }
        if *bad >= ALL_BAD {
            reasons.push(format!(
                "{place}: the last {bad} rows were all set aside, the last one because its {why}; are --bug-column and \
                 --when-column the right ones?"
            ));
        }
        reasons
    }
}

/// The shim's logs, counters and readiness. Shared by everything in one shim.
#[derive(Debug, Default)]
pub struct Telemetry {
    turn: watch::Sender<Turn>,
    /// Counters since the start.
    pub counters: Counters,
    outages: Mutex<[Outage; 5]>,
    set_aside_lines: Mutex<Option<(Instant, u32)>>,
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl Telemetry {
    /// Not ready yet, and nothing to be said about it.
    pub fn starting(&self) {
        let now = Some(Instant::now());
        let mut outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outages[Part::Lease as usize] = Outage { since: now, said: None, reason: "starting".to_owned() };
    }

    /// A part does not work. May be called for every failed attempt.
    pub fn down(&self, part: Part, reason: &dyn std::fmt::Display) {
        let now = Instant::now();
        let mut outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let outage = &mut outages[part as usize];
        let began = outage.said.is_none();
        outage.reason = reason.to_string();
        outage.since.get_or_insert(now);
        if outage.said.is_some_and(|said| now.duration_since(said) < REMINDER) {
            return;
        }
        outage.said = Some(now);
        let (name, meanwhile) = (part.name(), part.meanwhile());
        drop(outages);
        if !began {
            tracing::warn!(part = name, "still not working: {reason}; {meanwhile}");
            return;
        }
        match part {
            Part::Lease => tracing::info!("{reason}; {meanwhile}"),
            Part::Source => add(&self.counters.source_outages, 1),
            Part::Rows => {}
            Part::Ledger => add(&self.counters.ledger_outages, 1),
            Part::Bus => add(&self.counters.bus_outages, 1),
        }
        if part != Part::Lease {
            tracing::warn!(part = name, "{reason}; {meanwhile}");
        }
    }

    /// A part works. May be called for every success. Returns whether it did not before.
    pub fn up(&self, part: Part) -> bool {
        let mut outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let outage = std::mem::take(&mut outages[part as usize]);
        drop(outages);
        let Some(since) = outage.since else { return false };
        if part != Part::Lease {
            tracing::info!(part = part.name(), after_s = since.elapsed().as_secs(), "works again");
        }
        true
    }

    /// Whether a part was last said not to work.
    pub fn is_down(&self, part: Part) -> bool {
        let outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outages[part as usize].since.is_some()
    }

    /// Whether every part works; otherwise what does not, in one line.
    ///
    /// # Errors
    /// The reason.
    pub fn ready(&self) -> Result<(), String> {
        let outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reasons: Vec<String> = PARTS
            .iter()
            .filter(|part| outages[**part as usize].since.is_some())
            .map(|part| format!("{}: {}", part.name(), outages[*part as usize].reason))
            .collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
    }

    /// Rows were recorded.
    pub(crate) fn recorded(&self, recorded: &Recorded) {
        add(&self.counters.recorded, recorded.numbered);
        add(&self.counters.set_aside, recorded.set_aside.len());
        for (row, reason) in &recorded.set_aside {
            if !self.may_log_set_aside() {
                break;
            }
            tracing::warn!(row, "row set aside: {reason}");
        }
        if recorded.numbered > 0 {
            tracing::debug!(count = recorded.numbered, head = recorded.head, "recorded");
        }
    }

    fn may_log_set_aside(&self) -> bool {
        let now = Instant::now();
        let mut lines = self.set_aside_lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (since, count) = match *lines {
            Some((since, count)) if now.duration_since(since) < REMINDER => (since, count + 1),
            _ => (now, 1),
        };
        *lines = Some((since, count));
        if count == SET_ASIDE_LINES + 1 {
            tracing::warn!("more rows set aside; `bugfeed-shim status` lists them");
        }
        count <= SET_ASIDE_LINES
    }

    /// Rows are known to be deleted.
    pub(crate) fn deleted(&self, count: usize) {
        add(&self.counters.deleted, count);
    }

    /// The tracker holds rows that are recorded; they are deleted later.
    pub(crate) fn rows_held(&self, count: usize) {
        tracing::debug!(count, "the tracker holds recorded rows; they are deleted later");
    }

    /// What is in the way in the table, as it is now.
    pub(crate) fn rows(&self, trouble: &RowTrouble<'_>) {
        let reasons = trouble.reasons();
        if reasons.is_empty() {
            self.up(Part::Rows);
        } else {
            self.down(Part::Rows, &reasons.join("; "));
        }
    }

    /// Changes are safely with the bus.
    pub(crate) fn published(&self, count: usize) {
        add(&self.counters.published, count);
    }

    /// The bus takes changes again, and so many wait for it.
    pub(crate) fn catching_up(&self, waiting: u64) {
        tracing::info!(waiting, "publishing what was kept");
    }

    /// Old published changes were removed.
    pub(crate) fn pruned(&self, count: u64) {
        self.counters.pruned.fetch_add(count, Ordering::Relaxed);
        tracing::debug!(count, "removed old published changes from the ledger");
    }

    /// Whose turn it is, from now on.
    pub fn turn(&self) -> watch::Receiver<Turn> {
        self.turn.subscribe()
    }

    /// Another process holds the lease.
    pub(crate) fn lease_held(&self, holder: &str) {
        self.down(Part::Lease, &format!("the ledger is held by {holder}"));
        self.turn.send_replace(Turn::Waiting(holder.to_owned()));
    }

    /// The lease is this process's.
    pub(crate) fn lease_mine(&self) {
        self.up(Part::Lease);
        self.turn.send_replace(Turn::Working);
    }

    /// This process works from now on.
    pub(crate) fn lease_taken(&self, ledger: &str, head: &Cursor, unpublished: u64) {
        add(&self.counters.terms, 1);
        let epoch = head.epoch.as_str();
        tracing::info!(ledger, epoch, head = head.seq, unpublished, "working on this ledger");
    }

    /// There is a new connection to the broker, and what its history ends with fits this ledger. The last is none where
    /// there is no history, and none within where it is empty.
    pub(crate) fn connected(&self, place: &str, end: Option<Option<&Cursor>>) {
        let history = match end {
            None => "off, or could not be read".to_owned(),
            Some(None) => "empty".to_owned(),
            Some(Some(end)) => format!("ends with {end}"),
        };
        tracing::info!(place, history, "connected to the broker");
    }

    /// What the broker's history ends with is not known.
    pub(crate) fn not_compared(&self, reason: &dyn std::fmt::Display) {
        tracing::warn!(
            "the end of the history cannot be read: {reason}; going on without comparing it with the ledger. Should the \
             ledger have been set back, gateways notice by the tags, and clients are told 'gap'"
        );
    }

    /// The history ends with a change of another ledger.
    pub(crate) fn other_ledger(&self, found: &Cursor, place: &str) {
        tracing::warn!(
            %found,
            "{place}: the last change there is of another ledger. That is as it should be where this ledger is new; \
             otherwise two shims with two ledgers publish to one exchange, and clients are told 'gap' again and again: give \
             each its own --exchange, or one --ledger"
        );
    }

    /// The ledger was set back, and begins a new epoch.
    pub(crate) fn new_epoch(&self, ledger: &str, why: &str, done: &NewEpoch) {
        add(&self.counters.new_epochs, 1);
        let NewEpoch { former, epoch, unpublished } = done;
        tracing::error!(
            ledger,
            %former,
            %epoch,
            unpublished,
            "THIS LEDGER WAS SET BACK (a copy was restored, or another server took over that was behind): {why}. Numbers \
             would have been given twice, so a new epoch begins. The {unpublished} changes that were not published keep \
             waiting and have new numbers; what was recorded after the copy and never published is lost, so clients are told \
             'gap' and ask the tracker. If a second machine works with a copy of this ledger, stop it"
        );
    }

    /// The part whose outage means that nothing of the tracker can arrive: the shim can read nothing, or the broker takes
    /// nothing of what it publishes, though it takes this word.
    pub fn paused(&self) -> Option<&'static str> {
        let outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        [Part::Source, Part::Ledger, Part::Bus]
            .into_iter()
            .find(|part| outages[*part as usize].since.is_some())
            .map(Part::name)
    }

    /// The lease is not this process's any more.
    pub(crate) fn lease_lost(&self) {
        tracing::warn!(
            "another shim has taken over this ledger, or it was set back; this one waits for its turn again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_does_not_work() {
        let telemetry = Telemetry::default();
        assert_eq!(telemetry.ready(), Ok(()));
        telemetry.down(Part::Bus, &"connection refused");
        telemetry.down(Part::Bus, &"no queue");
        telemetry.down(Part::Source, &"gone");
        assert_eq!(telemetry.ready(), Err("change table: gone; bus: no queue".to_owned()));
        assert_eq!(telemetry.counters.bus_outages.load(Ordering::Relaxed), 1, "one outage, however many attempts");
        assert!(telemetry.up(Part::Bus));
        assert!(!telemetry.up(Part::Bus));
        assert!(telemetry.up(Part::Source));
        assert_eq!(telemetry.ready(), Ok(()));
    }
}
