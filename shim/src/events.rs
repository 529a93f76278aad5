//! Every notable event: one function each, which both logs and counts.
//!
//! Goes in: what happened. Comes out: log lines (an outage is said once when it begins, about once a minute while it
//! lasts, and once when it ends), counters, and whether the shim is ready. Never logs a password or a line per row.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_protocol::{Cursor, When};
use bugfeed_runtime::health::Health;
use bugfeed_runtime::throttle::{Admitted, Throttle};
use tokio::sync::watch;

use crate::ledger::{NewEpoch, Recorded};
use crate::metrics::{PartLabel, ShimMetrics};

/// How often an outage that lasts is mentioned again.
const REMINDER: Duration = Duration::from_secs(60);
/// How many set-aside rows are logged one by one in a minute.
const SET_ASIDE_LINES: u32 = 10;

/// If this many rows, one after the other, are bad, the options probably name the wrong columns.
const ALL_BAD: usize = 10;

/// What the shim depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The right to write to the ledger.
    Lease,
    /// The change table's database.
    Source,
    /// Rows of the change table that cannot be read or deleted.
    Rows,
    /// The ledger's database.
    Ledger,
    /// The broker, or whatever takes the changes.
    Bus,
}

pub(crate) const PARTS: [Part; 5] = [Part::Lease, Part::Source, Part::Rows, Part::Ledger, Part::Bus];

impl Part {
    pub(crate) fn name(self) -> &'static str {
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
}

/// Whose turn it is to work on the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// It is the turn of the process with this name; this one waits.
    Waiting(String),
    /// It is this process's turn.
    Working,
}

/// What is wrong with rows of the change table.
#[derive(Debug, Default)]
pub(crate) struct RowTrouble<'a> {
    pub(crate) place: &'a str,
    /// How many recorded rows are still there although they were deleted.
    pub(crate) kept: usize,
    /// What the database said about one of them, if anything.
    pub(crate) refusal: Option<&'a str>,
    /// Some rows have no number by which they could be deleted.
    pub(crate) strays: bool,
    /// How many rows were set aside since the last good one.
    pub(crate) bad: usize,
    /// Why the last of them was set aside.
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
#[derive(Debug)]
pub struct Telemetry {
    turn: watch::Sender<Turn>,
    /// Counters since the start, and how things are.
    pub metrics: ShimMetrics,
    /// The readiness of the process. The shim reports each of its parts there.
    health: Health,
    /// The feed, where the process has several shims or other work: what is wrong with one of them does not make it unready.
    feed: Option<String>,
    outages: Mutex<[Outage; 5]>,
    set_aside_lines: Throttle,
}

fn place(feed: &str, part: Part) -> String {
    format!("publishing of feed {feed}: {}", part.name())
}

fn now_s() -> i64 {
    When::from_system_time(SystemTime::now()).as_micros() / 1_000_000
}

fn label(part: Part) -> PartLabel {
    PartLabel { part: part.name() }
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry::new(Health::new())
    }
}

impl Telemetry {
    /// Nothing has happened yet. `health` is the readiness of the process.
    pub fn new(health: Health) -> Telemetry {
        Telemetry::of(health, None)
    }

    /// The same for a shim that is not all of its process: what does not work is a warning that names the feed.
    pub fn of_feed(health: Health, feed: &str) -> Telemetry {
        Telemetry::of(health, Some(feed.to_owned()))
    }

    fn of(health: Health, feed: Option<String>) -> Telemetry {
        let metrics = ShimMetrics::default();
        for part in PARTS {
            drop(metrics.outages.get_or_create(&label(part)));
            metrics.up.get_or_create(&label(part)).set(1);
        }
        Telemetry {
            turn: watch::Sender::default(),
            metrics,
            health,
            feed,
            outages: Mutex::default(),
            set_aside_lines: Throttle::new(SET_ASIDE_LINES, REMINDER),
        }
    }

    /// The shim starts: it is not ready yet, which is no outage and is not logged.
    pub fn starting(&self) {
        let now = Some(Instant::now());
        let mut outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outages[Part::Lease as usize] = Outage { since: now, said: None };
        self.tell(Part::Lease, Some("starting"));
    }

    /// Tells readiness how a part is.
    fn tell(&self, part: Part, trouble: Option<&str>) {
        match (&self.feed, trouble) {
            (None, Some(reason)) => self.health.down(part.name(), reason),
            (None, None) => self.health.up(part.name()),
            (Some(feed), Some(reason)) => self.health.warn(&place(feed, part), reason),
            (Some(feed), None) => self.health.calm(&place(feed, part)),
        }
    }

    /// A part does not work. May be called for every failed attempt.
    pub fn down(&self, part: Part, reason: &dyn std::fmt::Display) {
        let now = Instant::now();
        let mut outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let outage = &mut outages[part as usize];
        let began = outage.said.is_none();
        outage.since.get_or_insert(now);
        self.tell(part, Some(&reason.to_string()));
        self.metrics.up.get_or_create(&label(part)).set(0);
        if outage.said.is_some_and(|said| now.duration_since(said) < REMINDER) {
            return;
        }
        outage.said = Some(now);
        let (name, meanwhile) = (part.name(), part.meanwhile());
        drop(outages);
        if !began {
            tracing::warn!(part = name, event = %LogEvent::PartStillDown, "still not working: {reason}; {meanwhile}");
            return;
        }
        self.metrics.outages.get_or_create(&label(part)).inc();
        if part == Part::Lease {
            tracing::info!(event = %LogEvent::LeaseWaiting, "{reason}; {meanwhile}");
        } else {
            tracing::warn!(part = name, event = %LogEvent::PartDown, "{reason}; {meanwhile}");
        }
    }

    /// A part works. May be called for every success. Returns whether it was down before.
    pub fn up(&self, part: Part) -> bool {
        let mut outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let outage = std::mem::take(&mut outages[part as usize]);
        if outage.since.is_some() {
            self.tell(part, None);
            self.metrics.up.get_or_create(&label(part)).set(1);
        }
        drop(outages);
        let Some(since) = outage.since else { return false };
        if part != Part::Lease {
            tracing::info!(part = part.name(), after_s = since.elapsed().as_secs(), event = %LogEvent::PartUp, "works again");
        }
        true
    }

    /// Whether the last report about a part was that it does not work.
    pub fn is_down(&self, part: Part) -> bool {
        let outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outages[part as usize].since.is_some()
    }

    /// Whether every part works.
    ///
    /// # Errors
    /// The parts that do not work, in one line.
    pub fn ready(&self) -> Result<(), String> {
        let report = self.health.report();
        if report.ready { Ok(()) } else { Err(report.lines.join("; ")) }
    }

    /// Rows were recorded.
    pub(crate) fn recorded(&self, recorded: &Recorded) {
        self.metrics.recorded.inc_by(recorded.numbered as u64);
        self.metrics.unpublished.inc_by(i64::try_from(recorded.numbered).unwrap_or(i64::MAX));
        self.metrics.set_aside.inc_by(recorded.set_aside.len() as u64);
        for (row, reason) in &recorded.set_aside {
            match self.set_aside_lines.admit() {
                Admitted::Yes => tracing::warn!(row, event = %LogEvent::RowSetAside, "row set aside: {reason}"),
                Admitted::FirstTooMany => tracing::warn!(
                    event = %LogEvent::MoreRowsSetAside,
                    "more rows set aside; `bugfeed-shim status` lists them"
                ),
                Admitted::No => break,
            }
        }
        if recorded.numbered > 0 {
            tracing::debug!(count = recorded.numbered, head = recorded.head, event = %LogEvent::ChangesRecorded, "recorded");
        }
    }

    /// The change table was read, and so many rows were in it.
    pub(crate) fn looked(&self, rows: usize) {
        self.metrics.table_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        self.metrics.last_read.set(now_s());
    }

    /// The change table took an order to delete rows.
    pub(crate) fn deletes(&self) {
        self.metrics.last_delete.set(now_s());
    }

    /// Rows are known to be deleted.
    pub(crate) fn deleted(&self, count: usize) {
        self.metrics.deleted.inc_by(count as u64);
    }

    /// The tracker holds rows that are recorded; they are deleted later.
    pub(crate) fn rows_held(&self, count: usize) {
        tracing::debug!(count, event = %LogEvent::RowsHeld, "the tracker holds recorded rows; they are deleted later");
    }

    /// What is wrong with rows of the table at this moment; nothing, if there are no reasons in it.
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
        self.metrics.published.inc_by(count as u64);
        self.metrics.unpublished.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The bus takes changes again; so many are waiting to be published.
    pub(crate) fn catching_up(&self, waiting: u64) {
        tracing::info!(waiting, event = %LogEvent::BacklogPublishing, "publishing what was kept");
    }

    /// Old published changes were removed.
    pub(crate) fn pruned(&self, count: u64) {
        self.metrics.pruned.inc_by(count);
        tracing::debug!(count, event = %LogEvent::ChangesPruned, "removed old published changes from the ledger");
    }

    /// Tells whose turn it is, now and whenever that changes.
    pub fn turn(&self) -> watch::Receiver<Turn> {
        self.turn.subscribe()
    }

    /// Another process holds the lease.
    pub(crate) fn lease_held(&self, holder: &str) {
        self.down(Part::Lease, &format!("the ledger is held by {holder}"));
        self.metrics.active.set(0);
        self.turn.send_replace(Turn::Waiting(holder.to_owned()));
    }

    /// The lease is this process's.
    pub(crate) fn lease_mine(&self) {
        self.up(Part::Lease);
        self.metrics.active.set(1);
        self.turn.send_replace(Turn::Working);
    }

    /// This process works from now on.
    pub(crate) fn lease_taken(&self, ledger: &str, head: &Cursor, unpublished: u64) {
        self.metrics.terms.inc();
        self.metrics.unpublished.set(i64::try_from(unpublished).unwrap_or(i64::MAX));
        let epoch = head.epoch.as_str();
        tracing::info!(ledger, epoch, head = head.seq, unpublished, event = %LogEvent::LeaseTaken, "working on this ledger");
    }

    /// There is a new connection to the bus, and the end of the bus's history fits this ledger. `end` is `None` if there
    /// is no history (or it could not be read), `Some(None)` if history is empty.
    pub(crate) fn connected(&self, place: &str, end: Option<Option<&Cursor>>) {
        let history = match end {
            // Where it should be there and cannot be read, there is a warning.
            None => "none (normal in the all-in-one, and with --history false)".to_owned(),
            Some(None) => "empty".to_owned(),
            Some(Some(end)) => format!("ends with {end}"),
        };
        tracing::info!(place, history, event = %LogEvent::BrokerConnected, "connected; changes can be published");
    }

    /// The end of the broker's history could not be read.
    pub(crate) fn not_compared(&self, reason: &dyn std::fmt::Display) {
        tracing::warn!(
            event = %LogEvent::HistoryNotCompared,
            "the end of the history cannot be read: {reason}; going on without comparing it with the ledger. Should the \
             ledger have been set back, gateways notice by the tags, and clients are told 'gap'"
        );
    }

    /// The history ends with a change of another ledger.
    pub(crate) fn other_ledger(&self, found: &Cursor, place: &str) {
        tracing::warn!(
            %found,
            event = %LogEvent::HistoryOfOtherLedger,
            "{place}: the last change there is of another ledger. That is as it should be where this ledger is new; \
             otherwise two shims with two ledgers publish to one exchange, and clients are told 'gap' again and again: give \
             each its own --exchange, or one --ledger"
        );
    }

    /// The ledger was set back, and begins a new epoch.
    pub(crate) fn new_epoch(&self, ledger: &str, why: &str, done: &NewEpoch) {
        self.metrics.new_epochs.inc();
        let NewEpoch { former, epoch, unpublished } = done;
        tracing::error!(
            ledger,
            %former,
            %epoch,
            unpublished,
            event = %LogEvent::LedgerSetBack,
            "THIS LEDGER WAS SET BACK (a copy was restored, or another server took over that was behind): {why}. Numbers \
             would have been given twice, so a new epoch begins. The {unpublished} changes that were not published keep \
             waiting and have new numbers; what was recorded after the copy and never published is lost, so clients are told \
             'gap' and ask the tracker. If a second machine works with a copy of this ledger, stop it"
        );
    }

    /// The part because of which no change of the tracker can arrive, if there is one: the shim cannot read the table,
    /// cannot use the ledger, or cannot publish changes. (Even then the broker may take the head that says so.)
    pub fn paused(&self) -> Option<&'static str> {
        let outages = self.outages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        [Part::Source, Part::Ledger, Part::Bus]
            .into_iter()
            .find(|part| outages[*part as usize].since.is_some())
            .map(Part::name)
    }

    /// The lease is not this process's any more.
    pub(crate) fn lease_lost(&self) {
        self.metrics.active.set(0);
        tracing::warn!(
            event = %LogEvent::LeaseLost,
            "another shim has taken over this ledger, or it was set back; this one waits for its turn again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_shims_only_warns() {
        let health = Health::new();
        let telemetry = Telemetry::of_feed(health.clone(), "kde");
        telemetry.starting();
        telemetry.down(Part::Bus, &"connection refused");
        let lines = ["publishing of feed kde: bus: connection refused", "publishing of feed kde: lease: starting"];
        assert_eq!((health.report().ready, health.report().lines), (true, lines.map(str::to_owned).to_vec()));
        assert!(telemetry.up(Part::Bus) && telemetry.up(Part::Lease));
        assert!(health.report().lines.is_empty());
    }

    #[test]
    fn readiness_names_what_does_not_work() {
        let health = Health::new();
        let telemetry = Telemetry::new(health.clone());
        assert!(health.report().ready);
        telemetry.down(Part::Bus, &"connection refused");
        telemetry.down(Part::Bus, &"no queue");
        telemetry.down(Part::Source, &"gone");
        assert_eq!(health.report().lines, ["bus: no queue", "change table: gone"]);
        let outages = telemetry.metrics.outages.get_or_create(&label(Part::Bus)).get();
        assert_eq!(outages, 1, "one outage, however many attempts");
        assert!(telemetry.up(Part::Bus));
        assert!(!telemetry.up(Part::Bus));
        assert!(telemetry.up(Part::Source));
        assert!(health.report().ready);
    }
}
