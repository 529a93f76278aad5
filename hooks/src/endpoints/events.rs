//! What the executor of endpoints logs and counts, and whom it tells.
//!
//! Goes in: what happened. Comes out: log lines and alerts with the endpoint's id and server (never path, query or secret),
//! counters without a label by endpoint, warnings in readiness. What receivers can cause is throttled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::endpoints::endpoint::Event;
use bugfeed_core::endpoints::policy::{Outcome, State};
use bugfeed_protocol::When;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::metrics::Register;
use bugfeed_runtime::throttle::Throttle;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing::{error, info, warn};

use crate::recurring::{Recurring, gauge};
use crate::store::StoreError;
use crate::store::endpoints::EndpointId;

/// Hands an alert to whoever wants to know: a word of `[[notify]]`'s `on`, the cause, and a sentence. It must not block.
pub type Raise = Arc<dyn Fn(&'static str, &str, String) + Send + Sync>;

/// The name of the executor in the answer of `/readyz`.
const PART: &str = "endpoints";
/// The names under which it says there that endpoints fail, and that they have feeds which are not served.
const FAILING_PART: &str = "endpoints that fail";
const UNSERVED_PART: &str = "feeds of endpoints";

/// The bounds of how long attempts take, in seconds.
const SECONDS: [f64; 10] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

/// What is counted of all endpoints from time to time.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// How many there are in each state.
    pub(super) states: BTreeMap<&'static str, usize>,
    /// How many active ones are owed something, and have no request in flight.
    pub(super) waiting: usize,
    /// For how long the one has been waiting that has been waiting for the longest time, of the active ones.
    pub(super) lag_us: i64,
}

/// The endpoint that something is told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    /// Its id.
    pub(super) id: &'a EndpointId,
    /// Scheme, host and port.
    pub(super) server: &'a str,
    /// Why its last attempt failed.
    pub(super) cause: Option<&'a str>,
}

/// How many endpoints cool down or are disabled, in words; `None` if none.
fn failing(cooling: usize, disabled: usize) -> Option<String> {
    let words = |number: usize, one: &str, many: &str| {
        (number > 0).then(|| if number == 1 { format!("1 {one}") } else { format!("{number} {many}") })
    };
    let all = [words(cooling, "cools down", "cool down"), words(disabled, "is disabled", "are disabled")];
    let all: Vec<String> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| format!("{}; `bugfeed endpoints list` says why", all.join(", ")))
}

/// A span of time in whole seconds, rounded up.
fn whole_seconds(us: i64) -> i64 {
    us.max(0).saturating_add(999_999) / 1_000_000
}

/// A time as people write it, to the second, rounded up: what is to happen after it does not happen before.
pub(crate) fn to_second(us: i64) -> String {
    let up_us =
        us.div_euclid(1_000_000).saturating_add(i64::from(us.rem_euclid(1_000_000) > 0)).saturating_mul(1_000_000);
    When::from_micros(up_us)
        .map_or_else(|| "some time".to_owned(), |when| format!("{} UTC", when.to_string().replace('T', " ")))
}

/// The counters of the executor, and its words in log, alerts and readiness.
pub struct EndpointEvents {
    states: Family<InState, Gauge>,
    attempts: Family<OfResult, Counter>,
    seconds: Histogram,
    in_flight: Gauge,
    waiting: Gauge,
    lag: Gauge,
    store: Recurring,
    lines: Throttle,
    ours: Throttle,
    health: Health,
}

impl EndpointEvents {
    /// All counters at zero. `health` is what `/readyz` reads.
    pub fn new(health: Health) -> EndpointEvents {
        EndpointEvents {
            states: Family::default(),
            attempts: Family::default(),
            seconds: Histogram::new(SECONDS),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            lag: Gauge::default(),
            store: Recurring::new(health.clone(), PART),
            lines: Throttle::new(1000, Duration::from_secs(60)),
            ours: Throttle::once_a_minute(),
            health,
        }
    }

    pub(super) fn set(&self, figures: &Figures) {
        for state in State::ALL.iter().map(|state| state.as_str()) {
            self.states.get_or_create(&InState { state }).set(gauge(figures.states.get(state).copied().unwrap_or(0)));
        }
        let number = |state: State| figures.states.get(state.as_str()).copied().unwrap_or(0);
        match failing(number(State::Cooling), number(State::Disabled)) {
            Some(text) => self.health.warn(FAILING_PART, text),
            None => self.health.calm(FAILING_PART),
        }
        self.waiting.set(gauge(figures.waiting));
        self.lag.set(figures.lag_us / 1_000_000);
    }

    pub(super) fn in_flight(&self, number: usize) {
        self.in_flight.set(gauge(number));
    }

    pub(super) fn attempted(&self, outcome: Outcome, took: Duration) {
        let result = match outcome {
            Outcome::Success | Outcome::Partly => "success",
            Outcome::Refused | Outcome::Busy { .. } | Outcome::Gone => "client_error",
            Outcome::Server { .. } => "server_error",
            Outcome::Redirect | Outcome::Fault | Outcome::Forbidden | Outcome::Nameless | Outcome::Ours => "fault",
        };
        if outcome == Outcome::Ours && !self.ours.is_quiet() {
            error!(event = %LogEvent::EndpointNotSent, "this process cannot send to endpoints, for example for want of file descriptors; it tries again every 10 s");
        }
        self.attempts.get_or_create(&OfResult { result }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// The store does what it should.
    pub(super) fn store_works(&self) {
        self.store.goes();
    }

    /// The store does not answer. What was sent and not stored is sent again in the worst case, so this is a warning.
    pub(super) fn store_failed(&self, reason: &StoreError) {
        if self.store.comes(format!("deliveries to endpoints wait: {reason}")) {
            warn!(%reason, event = %LogEvent::EndpointsWait, "the store does not answer; deliveries to endpoints wait");
        }
    }

    /// What the planner of an endpoint says.
    pub(super) fn tell(&self, who: Who<'_>, event: Event, now_us: i64, raise: &Raise) {
        let (quiet, Who { id, server, cause }) = (self.lines.is_quiet(), who);
        let why = cause.map_or(String::new(), |cause| format!(": {cause}"));
        match event {
            Event::Cooling(until_us) => {
                let seconds = whole_seconds(until_us - now_us);
                if !quiet {
                    warn!(endpoint = %id, server, seconds, cause, event = %LogEvent::EndpointCooling, "deliveries to an endpoint failed; it is tried again later");
                }
                let text =
                    format!("endpoint {id} ({server}) fails{why}; it is tried again after {}", to_second(until_us));
                raise("endpoint.cooling", id.as_str(), text);
            }
            Event::Disabled(bar) => {
                if !quiet {
                    error!(endpoint = %id, server, reason = bar.as_str(), cause, event = %LogEvent::EndpointDisabled, "an endpoint is disabled until somebody enables it");
                }
                let text = format!(
                    "endpoint {id} ({server}) is disabled ({bar}){why}; it stays so until somebody enables it or a test of it \
                     succeeds"
                );
                raise("endpoint.disabled", id.as_str(), text);
            }
            Event::Recovered => {
                if !quiet {
                    info!(endpoint = %id, server, event = %LogEvent::EndpointRecovered, "an endpoint that failed takes deliveries again");
                }
                raise("endpoint.recovered", id.as_str(), format!("endpoint {id} ({server}) takes deliveries again"));
            }
            Event::Warning(percent) => {
                if !quiet {
                    warn!(endpoint = %id, server, percent, cause, event = %LogEvent::EndpointFailing, "an endpoint is on its way to being disabled");
                }
                let text = format!("endpoint {id} ({server}) fails: {percent} % of the way to being disabled{why}");
                raise("endpoint.warning", &format!("{id} {percent}"), text);
            }
            Event::Gap => {
                if !quiet {
                    warn!(endpoint = %id, server, event = %LogEvent::EndpointGap, "an endpoint was told that changes may be missing");
                }
            }
        }
    }

    /// Feeds that endpoints have, and that this process does not serve; told when they change.
    pub(super) fn unserved(&self, feeds: &BTreeSet<Arc<str>>) {
        if feeds.is_empty() {
            return self.health.calm(UNSERVED_PART);
        }
        let names: Vec<&str> = feeds.iter().map(|name| &**name).collect();
        let names = names.join(", ");
        warn!(feeds = names, event = %LogEvent::EndpointFeedUnserved, "endpoints have feeds that are not served here: of those, they are sent nothing");
        let text = format!("not served here, so endpoints that have them are sent nothing of them: {names}");
        self.health.warn(UNSERVED_PART, text);
    }

    /// Somebody has enabled what was disabled.
    pub(super) fn enabled(&self, id: &EndpointId, server: &str, raise: &Raise) {
        info!(endpoint = %id, server, event = %LogEvent::EndpointEnabled, "an endpoint that was disabled is enabled");
        raise("endpoint.enabled", id.as_str(), format!("endpoint {id} ({server}) was disabled, and is enabled again"));
    }

    /// The executor has ended.
    pub(super) fn stopped(&self) {
        info!(event = %LogEvent::EndpointsStopped, "deliveries to endpoints have ended in good order");
    }
}

impl fmt::Debug for EndpointEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointEvents")
    }
}

impl Register for EndpointEvents {
    fn register(&self, registry: &mut Registry) {
        registry.register("endpoints", "Endpoints that this process serves, by state", self.states.clone());
        let r = registry.sub_registry_with_prefix("endpoint");
        r.register("attempts", "Attempts to deliver to endpoints, by result", self.attempts.clone());
        r.register("attempt_seconds", "How long attempts took", self.seconds.clone());
        r.register("in_flight", "Attempts under way", self.in_flight.clone());
        r.register(
            "waiting",
            "Active endpoints that are owed something and are not being sent it",
            self.waiting.clone(),
        );
        r.register("lag_seconds", "Since when an active endpoint is owed something, the longest", self.lag.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_the_second_and_never_too_early() {
        let told: Vec<String> = [0, 1, 1_000_000, 1_000_001].into_iter().map(to_second).collect();
        let want = [
            "1970-01-01 00:00:00 UTC",
            "1970-01-01 00:00:01 UTC",
            "1970-01-01 00:00:01 UTC",
            "1970-01-01 00:00:02 UTC",
        ];
        assert_eq!(told, want);
        assert_eq!([whole_seconds(600_000_000), whole_seconds(599_999_999), whole_seconds(-1)], [600, 600, 0]);
    }

    #[test]
    fn endpoints_that_fail_are_a_warning_while_they_do() {
        let health = Health::new();
        let events = EndpointEvents::new(health.clone());
        let states = |cooling, disabled| BTreeMap::from([("cooling", cooling), ("disabled", disabled)]);
        for (cooling, disabled, want) in
            [(2, 1, "2 cool down, 1 is disabled"), (1, 0, "1 cools down"), (0, 3, "3 are disabled")]
        {
            events.set(&Figures { states: states(cooling, disabled), ..Figures::default() });
            let report = health.report();
            assert!(report.ready && report.lines[0].contains(want), "{report:?}");
        }
        events.set(&Figures::default());
        events.unserved(&BTreeSet::from(["kde".into()]));
        assert_eq!(health.report().lines.len(), 1);
        assert!(health.report().lines[0].contains("kde"));
        events.unserved(&BTreeSet::new());
        assert!(health.report().lines.is_empty());
    }
}
