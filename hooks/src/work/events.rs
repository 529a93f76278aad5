//! What the executor logs and counts, and what it says in readiness.
//!
//! Goes in: what happened. Comes out: log lines with the ids of events, counters by source (never by bug), warnings. What
//! others can cause is throttled.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bugfeed_core::hooks::action::Question;
use bugfeed_core::hooks::event::{ErrorClass, Event, EventId};
use bugfeed_core::hooks::outcome::Outcome;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::metrics::Register;
use bugfeed_runtime::throttle::{Admitted, Throttle};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tracing::{error, info, warn};

use crate::notify::Undelivered;
use crate::recurring::{Recurring, gauge};
use crate::store::StoreError;
use crate::tracker::{SenderHook, Trouble};

/// The name of the executor in the answer of `/readyz`.
const WORK: &str = "hooks work";
/// The name of the sources' mappings there.
const MAPPINGS: &str = "hooks mappings";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSource {
    source: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfClass {
    source: String,
    class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfAnswer {
    source: String,
    answer: &'static str,
}

/// The executor's counters, and its words in log and readiness.
#[derive(Debug)]
pub struct WorkEvents {
    completed: Family<OfSource, Counter>,
    errored: Family<OfClass, Counter>,
    expired: Family<OfSource, Counter>,
    missed: Family<OfSource, Counter>,
    asked: Family<OfAnswer, Counter>,
    stale: Counter,
    retained: Counter,
    backlog: Gauge,
    dead_letters: Gauge,
    health: Health,
    store: Recurring,
    error_lines: Throttle,
    expired_lines: Throttle,
    feed_lines: Throttle,
    undelivered: Throttle,
    reconciling: Throttle,
    /// What senders last said of their own webhooks, by source.
    senders: Mutex<HashMap<String, Value>>,
}

impl WorkEvents {
    /// All counters at zero. `health` is what `/readyz` reads.
    pub fn new(health: Health) -> WorkEvents {
        WorkEvents {
            completed: Family::default(),
            errored: Family::default(),
            expired: Family::default(),
            missed: Family::default(),
            asked: Family::default(),
            stale: Counter::default(),
            retained: Counter::default(),
            backlog: Gauge::default(),
            dead_letters: Gauge::default(),
            store: Recurring::new(health.clone(), WORK),
            health,
            error_lines: Throttle::new(1000, Duration::from_secs(60)),
            expired_lines: Throttle::new(1000, Duration::from_secs(60)),
            feed_lines: Throttle::new(10, Duration::from_secs(60)),
            undelivered: Throttle::new(10, Duration::from_secs(60)),
            reconciling: Throttle::new(10, Duration::from_secs(300)),
            senders: Mutex::default(),
        }
    }

    pub(super) fn announced(&self, source: &str) {
        self.completed.get_or_create(&of(source)).inc();
    }

    pub(super) fn stale(&self) {
        self.stale.inc();
    }

    pub(super) fn retained(&self, rows: u64) {
        self.retained.inc_by(rows);
    }

    pub(super) fn asked(&self, source: &str, what: Question, outcome: &Outcome) {
        if what == Question::Look {
            let answer = match outcome {
                Outcome::Visible => "visible",
                Outcome::Private => "private",
                Outcome::NotVisible => "not_visible",
                _ => "failed",
            };
            self.asked.get_or_create(&OfAnswer { source: source.to_owned(), answer }).inc();
        }
    }

    /// The store does what it should.
    pub(super) fn store_works(&self) {
        self.store.goes();
    }

    /// The store does not answer. While the spool takes what comes, this is a warning.
    pub(crate) fn store_failed(&self, reason: &StoreError) {
        if self.store.comes(format!("events wait: {reason}")) {
            warn!(%reason, event = %LogEvent::HooksWait, "the store does not answer; events wait");
        }
    }

    /// All that these sources sent lately failed, and waits.
    pub(super) fn failing(&self, sources: &[&str]) {
        match sources {
            [] => self.health.calm(MAPPINGS),
            sources => {
                let look = "bugfeed dead-letters shows why";
                self.health
                    .warn(MAPPINGS, format!("of all that came last only errors from: {}; {look}", sources.join(", ")));
            }
        }
    }

    /// The change table of a feed cannot be made; `None`: it is there.
    pub(super) fn feed(&self, feed: &str, trouble: Option<&StoreError>) {
        let part = format!("hooks feed {feed}");
        let Some(reason) = trouble else { return self.health.calm(&part) };
        self.health.warn(&part, format!("its change table cannot be made, so its events wait: {reason}"));
        if !self.feed_lines.is_quiet() {
            error!(feed, %reason, event = %LogEvent::FeedWithoutTable, "the change table of a feed cannot be made; its events wait");
        }
    }

    /// An event failed: one error line.
    pub(super) fn errored(&self, id: EventId, class: ErrorClass, of_event: Option<&Event>, reason: &str) {
        let source = source_of(of_event);
        self.errored.get_or_create(&OfClass { source: source.to_owned(), class: class.as_str() }).inc();
        match self.error_lines.admit() {
            Admitted::Yes => {
                let (feed, bug) = (feed_of(of_event), bug_of(of_event));
                error!(event_id = %id, source, feed, bug, class = class.as_str(), reason, event = %LogEvent::HookTryFailed, "a received event failed; it is tried again");
            }
            Admitted::FirstTooMany => {
                error!(event = %LogEvent::HookTryFailed, "more events fail than are logged one by one");
            }
            Admitted::No => {}
        }
    }

    pub(super) fn expired(&self, id: EventId, of_event: Option<&Event>) {
        let source = source_of(of_event);
        self.expired.get_or_create(&of(source)).inc();
        match self.expired_lines.admit() {
            Admitted::Yes => {
                let (feed, bug) = (feed_of(of_event), bug_of(of_event));
                error!(event_id = %id, source, feed, bug, event = %LogEvent::HookExpired, "a received event failed until it expired, and was dropped");
            }
            Admitted::FirstTooMany => {
                error!(event = %LogEvent::HookExpired, "more events expire than are logged one by one");
            }
            Admitted::No => {}
        }
    }

    pub(super) fn poison(&self, id: EventId, of_event: Option<&Event>) {
        let source = source_of(of_event);
        error!(event_id = %id, source, event = %LogEvent::HookPoison, "three workers in a row were gone while they had this event; it was put aside");
    }

    pub(super) fn hastened(&self, class: ErrorClass, source: Option<&str>, count: usize) {
        info!(class = class.as_str(), source, count, event = %LogEvent::HooksHastened, "dead letters are tried at once, because their cause may be mended");
    }

    pub(super) fn tracker_away(&self, source: &str, reason: &str) {
        self.health.warn(&part(source), format!("its tracker does not answer: {reason}"));
        warn!(source, reason, event = %LogEvent::TrackerAway, "the tracker fails and is asked more rarely; events of its source wait");
    }

    pub(super) fn tracker_back(&self, source: &str) {
        self.health.calm(&part(source));
        info!(source, event = %LogEvent::TrackerBack, "the tracker answers");
    }

    pub(super) fn missed(&self, source: &str, count: u64) {
        self.missed.get_or_create(&of(source)).inc_by(count);
        warn!(source, count, event = %LogEvent::HooksMissed, "changes that no webhook has brought were found at the tracker");
    }

    pub(super) fn reconciled(&self, source: &str, project: &str, trouble: Option<&str>) {
        let part = format!("{} reconciling {project}", part(source));
        match trouble {
            None => self.health.calm(&part),
            Some(reason) => {
                self.health.warn(&part, format!("its tracker cannot be asked what changed: {reason}"));
                if !self.reconciling.is_quiet() {
                    warn!(source, project, reason, event = %LogEvent::ReconcileFailed, "the tracker cannot be asked what changed");
                }
            }
        }
    }

    pub(super) fn undelivered(&self, undelivered: &Undelivered) {
        if !self.undelivered.is_quiet() {
            let Undelivered { target, subject, reason, is_final } = undelivered;
            warn!(target_name = %target, subject, reason, is_final, event = %LogEvent::NotifyFailed, "an alert could not be delivered");
        }
    }

    /// Something that people should look at at a sender.
    pub(super) fn sender(&self, source: &str, trouble: Option<&str>) {
        let part = format!("{} sender", part(source));
        match trouble {
            None => self.health.calm(&part),
            Some(text) => {
                self.health.warn(&part, text);
                error!(source, text, event = %LogEvent::SenderTroubled, "the sender's own list of webhooks says that something is wrong");
            }
        }
    }

    /// What a sender said of its own webhooks.
    pub(super) fn sender_said(&self, source: &str, said: &Result<Vec<SenderHook>, Trouble>) {
        let hook = |hook: &SenderHook| {
            let SenderHook { id, name, enabled, backlog } = hook;
            json!({ "id": id, "name": name, "enabled": enabled, "backlog": backlog })
        };
        let said = match said {
            Ok(hooks) => json!({ "webhooks": hooks.iter().map(hook).collect::<Value>() }),
            Err(trouble) => json!({ "error": trouble.reason }),
        };
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).insert(source.to_owned(), said);
    }

    /// What a sender last said of its own webhooks; null if nothing.
    pub(crate) fn sender_state(&self, source: &str) -> Value {
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.get(source).cloned().unwrap_or_default()
    }

    pub(super) fn figures(&self, backlog: u64, dead_letters: u64) {
        self.backlog.set(gauge(backlog));
        self.dead_letters.set(gauge(dead_letters));
    }

    /// Lines of the daily digest.
    pub(super) fn digest(&self) -> Vec<String> {
        vec![
            format!("events that are due: {}", self.backlog.get()),
            format!("dead letters: {}", self.dead_letters.get()),
        ]
    }
}

fn part(source: &str) -> String {
    format!("hooks source {source}")
}

fn of(source: &str) -> OfSource {
    OfSource { source: source.to_owned() }
}

fn source_of(event: Option<&Event>) -> &str {
    event.map_or("", |event| &event.source)
}

/// Without a bug, the feed is not known either.
fn feed_of(event: Option<&Event>) -> Option<&str> {
    event.filter(|event| event.bug.is_some()).map(|event| &*event.feed)
}

fn bug_of(event: Option<&Event>) -> Option<u64> {
    event.and_then(|event| event.bug).map(bugfeed_protocol::BugId::get)
}

impl Register for WorkEvents {
    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("hooks");
        r.register("completed", "Events whose row is in the change table, by source", self.completed.clone());
        r.register("errored", "Tries of events that failed, by source and class", self.errored.clone());
        r.register("expired", "Events that failed until they expired", self.expired.clone());
        r.register("missed", "Changes that no webhook has brought, found at the tracker", self.missed.clone());
        r.register("asked", "Questions to trackers whether a bug is visible", self.asked.clone());
        r.register("stale", "Plans that another worker was quicker with", self.stale.clone());
        r.register("removed_rows", "Rows that were removed because they were old", self.retained.clone());
        r.register("backlog", "Events that are due", self.backlog.clone());
        r.register("dead_letters", "Events that wait for another try, up to 100,000", self.dead_letters.clone());
    }
}
