//! Whether this process can do its work, part by part and feed by feed: what `/readyz` answers.
//!
//! Goes in: what each part and each feed reports about itself. Comes out: "ready" or not, and the reasons. One feed
//! that is down does not make the process unready: a gateway is ready when at least one of its feeds can be served.

mod incidents;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

pub use self::incidents::Incident;
use self::incidents::Incidents;
use crate::metrics::Register;
use crate::watchdog::{Pulse, Watchdog};

/// What the parts report. A clone shares the same reports.
#[derive(Clone, Debug, Default)]
pub struct Health {
    reported: Arc<Mutex<Reported>>,
    watchdog: Watchdog,
}

#[derive(Debug, Default)]
struct Reported {
    down: BTreeMap<String, String>,
    warnings: BTreeMap<String, String>,
    feeds: BTreeMap<String, ReportedFeed>,
    incidents: Incidents,
    watches: BTreeMap<String, Watch>,
}

/// Asked for a warning whenever somebody wants the report.
struct Watch(Box<dyn Fn() -> Option<String> + Send>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

#[derive(Debug)]
struct ReportedFeed {
    state: FeedState,
    notes: Vec<String>,
    aside: bool,
    since: SystemTime,
}

/// How a feed is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedReport {
    /// The feed's name.
    pub name: String,
    /// Its state.
    pub state: FeedState,
    /// What is odd with it.
    pub notes: Vec<String>,
    /// Since when it has been in this state.
    pub since: SystemTime,
}

/// What a feed reports about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// It is not yet known whether the feed can be served, so readiness waits for it.
    Starting(String),
    /// It is served.
    Up,
    /// It cannot be served, for this reason.
    Down(String),
}

/// What `/readyz` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether a load balancer should send clients here.
    pub ready: bool,
    /// One line for each problem.
    pub lines: Vec<String>,
}

impl Health {
    /// A process whose parts have not said anything is ready.
    pub fn new() -> Health {
        Health::default()
    }

    /// The same, with a watchdog that was set up before.
    pub fn watched_by(watchdog: Watchdog) -> Health {
        Health { watchdog, ..Health::default() }
    }

    /// What watches whether the parts live at all.
    pub fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// The part cannot do its work; `reason` is for people.
    pub fn down(&self, part: &str, reason: impl Into<String>) {
        let (mut reported, reason) = (self.reported(), reason.into());
        if !reported.down.contains_key(part) {
            reported.incidents.note(part, &reason);
        }
        reported.down.insert(part.to_owned(), reason);
    }

    /// The part works.
    pub fn up(&self, part: &str) {
        let mut reported = self.reported();
        if reported.down.remove(part).is_some() {
            reported.incidents.note(part, "works again");
        }
    }

    /// The part does its work, but a person should look at it; `text` says why. The process stays ready.
    pub fn warn(&self, part: &str, text: impl Into<String>) {
        let (mut reported, text) = (self.reported(), text.into());
        if !reported.warnings.contains_key(part) {
            reported.incidents.note(part, &text);
        }
        reported.warnings.insert(part.to_owned(), text);
    }

    /// Asks for a warning whenever the report is wanted, for what changes too often to be told each time. `look` must not wait.
    pub fn watch(&self, part: &str, look: impl Fn() -> Option<String> + Send + 'static) {
        self.reported().watches.insert(part.to_owned(), Watch(Box::new(look)));
    }

    /// There is nothing to look at any more.
    pub fn calm(&self, part: &str) {
        let mut reported = self.reported();
        if reported.warnings.remove(part).is_some() {
            reported.incidents.note(part, "nothing to look at any more");
        }
    }

    /// Registers a feed that will be served and has not begun. Call this before `/readyz` can be asked.
    pub fn feed(&self, name: &str) -> FeedHealth {
        self.begin(name, false)
    }

    /// Registers a feed without which this process does its work: what it reports are warnings.
    pub fn feed_aside(&self, name: &str) -> FeedHealth {
        self.begin(name, true)
    }

    fn begin(&self, name: &str, aside: bool) -> FeedHealth {
        let pulse = Arc::new(self.watchdog.pulse(format!("bus of feed {name}")));
        let health = FeedHealth { health: self.clone(), name: name.to_owned(), aside, pulse };
        health.set(FeedState::Starting("not yet connected".to_owned()), Vec::new());
        health
    }

    /// Whether this process is ready, and its problems.
    pub fn report(&self) -> Report {
        let reported = self.reported();
        let mut lines: Vec<_> = reported.down.iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
        let feeds = || reported.feeds.values().filter(|feed| !feed.aside).map(|feed| &feed.state);
        let ready = lines.is_empty()
            && !feeds().any(|state| matches!(state, FeedState::Starting(_)))
            && (feeds().next().is_none() || feeds().any(|state| *state == FeedState::Up));
        lines.extend(reported.warnings.iter().map(|(part, text)| format!("{part}: {text}")));
        let looked = reported.watches.iter().filter_map(|(part, watch)| Some(format!("{part}: {}", watch.0()?)));
        lines.extend(looked);
        for (name, feed) in &reported.feeds {
            let reason = match &feed.state {
                FeedState::Up => None,
                FeedState::Starting(reason) | FeedState::Down(reason) => Some(reason),
            };
            lines.extend(reason.into_iter().chain(&feed.notes).map(|text| format!("feed {name}: {text}")));
        }
        Report { ready, lines }
    }

    /// How each feed is.
    pub fn feeds(&self) -> Vec<FeedReport> {
        let reported = self.reported();
        let report = |(name, feed): (&String, &ReportedFeed)| FeedReport {
            name: name.clone(),
            state: feed.state.clone(),
            notes: feed.notes.clone(),
            since: feed.since,
        };
        reported.feeds.iter().map(report).collect()
    }

    /// What began or ended last: the newest first, and only so many.
    pub fn incidents(&self) -> Vec<Incident> {
        self.reported().incidents.newest()
    }

    fn reported(&self) -> std::sync::MutexGuard<'_, Reported> {
        self.reported.lock().expect("nobody panics holding it")
    }
}

impl Register for Health {
    fn register(&self, registry: &mut Registry) {
        self.watchdog.register(registry);
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for Health {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ready = ConstGauge::new(i64::from(self.report().ready));
        let help = "1 while this process can do its work; /readyz says why not.";
        ready.encode(encoder.encode_descriptor("ready", help, None, ready.metric_type())?)
    }
}

/// Where one feed reports its state, and the loop that feeds it that it lives.
#[derive(Clone, Debug)]
pub struct FeedHealth {
    health: Health,
    name: String,
    aside: bool,
    pulse: Arc<Pulse>,
}

impl FeedHealth {
    /// Where the loop that feeds it gives signs of life.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Sets the feed's state, and notes for people.
    pub fn set(&self, state: FeedState, notes: Vec<String>) {
        let mut reported = self.health.reported();
        let known = reported.feeds.get(&self.name).filter(|known| known.state == state).map(|known| known.since);
        if known.is_none() {
            let text = match &state {
                FeedState::Up => "changes can arrive",
                FeedState::Starting(reason) | FeedState::Down(reason) => reason,
            };
            reported.incidents.note(&format!("feed {}", self.name), text);
        }
        let since = known.unwrap_or_else(SystemTime::now);
        let feed = ReportedFeed { state, notes, aside: self.aside, since };
        reported.feeds.insert(self.name.clone(), feed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_shown_and_leaves_the_process_ready() {
        let health = Health::new();
        health.warn("store", "it is away");
        let report = health.report();
        assert_eq!((report.ready, report.lines), (true, vec!["store: it is away".to_owned()]));
        health.calm("store");
        assert_eq!(health.report(), Report { ready: true, lines: Vec::new() });
        health.watch("connections", || Some("all places are taken".to_owned()));
        health.watch("memory", || None);
        let report = health.report();
        assert_eq!((report.ready, report.lines), (true, vec!["connections: all places are taken".to_owned()]));
    }

    #[test]
    fn ready_when_no_part_complains() {
        let health = Health::new();
        assert_eq!(health.report(), Report { ready: true, lines: Vec::new() });
        health.down("gateway", "shutting down");
        health.clone().down("relay", "no table");
        health.down("gateway", "still shutting down");
        let report = health.report();
        assert_eq!(
            (report.ready, report.lines),
            (false, vec!["gateway: still shutting down".into(), "relay: no table".into()])
        );
        health.up("gateway");
        health.up("relay");
        health.up("relay");
        assert!(health.report().ready);
    }

    #[test]
    fn a_feed_aside_is_shown_and_leaves_the_process_ready() {
        let health = Health::new();
        let aside = health.feed_aside("kde");
        let report = health.report();
        assert_eq!((report.ready, report.lines), (true, vec!["feed kde: not yet connected".to_owned()]));
        aside.set(FeedState::Down("no broker".to_owned()), Vec::new());
        assert!(health.report().ready);
        aside.set(FeedState::Up, Vec::new());
        assert_eq!(health.report(), Report { ready: true, lines: Vec::new() });
        let _needed = health.feed("gnome");
        assert!(!health.report().ready, "the one aside does not stand for it");
    }

    /// The process must not be "ready" before the feeds have reported.
    #[test]
    fn ready_when_some_feed_is_served_and_none_is_awaited() {
        let health = Health::new();
        let (one, two) = (health.feed("one"), health.feed("two"));
        assert_eq!(health.report().lines, ["feed one: not yet connected", "feed two: not yet connected"]);
        assert!(!health.report().ready);
        one.set(FeedState::Up, vec!["nobody was heard".to_owned()]);
        assert!(!health.report().ready, "the other one may be served in a moment");
        two.set(FeedState::Down("no broker".to_owned()), Vec::new());
        let report = health.report();
        assert_eq!(
            (report.ready, report.lines),
            (true, vec!["feed one: nobody was heard".into(), "feed two: no broker".into()])
        );
        one.set(FeedState::Down("no broker".to_owned()), Vec::new());
        assert!(!health.report().ready);
        two.set(FeedState::Up, Vec::new());
        assert!(health.report().ready);
        health.down("gateway", "shutting down");
        assert!(!health.report().ready);
    }
}
