//! Whether this process can do its work, part by part and feed by feed: what `/readyz` answers.
//!
//! Goes in: what each part and each feed reports about itself. Comes out: "ready" or not, and the reasons. One feed
//! that is down does not make the process unready: a gateway is ready when at least one of its feeds can be served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

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
}

#[derive(Debug)]
struct ReportedFeed {
    state: FeedState,
    notes: Vec<String>,
    aside: bool,
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
        self.reported().down.insert(part.to_owned(), reason.into());
    }

    /// The part works.
    pub fn up(&self, part: &str) {
        self.reported().down.remove(part);
    }

    /// The part does its work, but a person should look at it; `text` says why. The process stays ready.
    pub fn warn(&self, part: &str, text: impl Into<String>) {
        self.reported().warnings.insert(part.to_owned(), text.into());
    }

    /// There is nothing to look at any more.
    pub fn calm(&self, part: &str) {
        self.reported().warnings.remove(part);
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
        for (name, feed) in &reported.feeds {
            let reason = match &feed.state {
                FeedState::Up => None,
                FeedState::Starting(reason) | FeedState::Down(reason) => Some(reason),
            };
            lines.extend(reason.into_iter().chain(&feed.notes).map(|text| format!("feed {name}: {text}")));
        }
        Report { ready, lines }
    }

    fn reported(&self) -> std::sync::MutexGuard<'_, Reported> {
        self.reported.lock().expect("nobody panics holding it")
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
        self.health.reported().feeds.insert(self.name.clone(), ReportedFeed { state, notes, aside: self.aside });
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
