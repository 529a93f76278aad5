//! What the executor of endpoints logs and counts, and whom it tells.
//!
//! Goes in: what happened. Comes out: log lines and alerts with the endpoint's id and server (never path, query or secret),
//! counters without a label by endpoint, warnings in readiness. What receivers can cause is throttled.

use std::collections::BTreeMap;
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
            store: Recurring::new(health, PART),
            lines: Throttle::new(1000, Duration::from_secs(60)),
            ours: Throttle::once_a_minute(),
        }
    }

    pub(super) fn set(&self, figures: &Figures) {
        for state in State::ALL.iter().map(|state| state.as_str()) {
            self.states.get_or_create(&InState { state }).set(gauge(figures.states.get(state).copied().unwrap_or(0)));
        }
        self.waiting.set(gauge(figures.waiting));
        self.lag.set(figures.lag_us / 1_000_000);
    }

    pub(super) fn in_flight(&self, number: usize) {
        self.in_flight.set(gauge(number));
    }

    pub(super) fn attempted(&self, outcome: Outcome, took: Duration) {
        let result = match outcome {
            Outcome::Success => "success",
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
    pub(super) fn tell(&self, id: &EndpointId, server: &str, event: Event, now_us: i64, raise: &Raise) {
        let quiet = self.lines.is_quiet();
        let at = |us: i64| When::from_micros(us).map_or_else(|| "some time".to_owned(), |when| when.to_string());
        match event {
            Event::Cooling(until_us) => {
                let seconds = (until_us - now_us) / 1_000_000;
                if !quiet {
                    warn!(endpoint = %id, server, seconds, event = %LogEvent::EndpointCooling, "deliveries to an endpoint failed; it is tried again later");
                }
                let text = format!("endpoint {id} ({server}) fails; it is tried again after {} UTC", at(until_us));
                raise("endpoint.cooling", id.as_str(), text);
            }
            Event::Disabled(bar) => {
                if !quiet {
                    error!(endpoint = %id, server, reason = bar.as_str(), event = %LogEvent::EndpointDisabled, "an endpoint is disabled until somebody enables it");
                }
                let text = format!(
                    "endpoint {id} ({server}) is disabled ({bar}) until somebody enables it or a test of it succeeds"
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
                    warn!(endpoint = %id, server, percent, event = %LogEvent::EndpointFailing, "an endpoint is on its way to being disabled");
                }
                let text = format!("endpoint {id} ({server}) fails: {percent} % of the way to being disabled");
                raise("endpoint.warning", &format!("{id} {percent}"), text);
            }
            Event::Gap => {
                if !quiet {
                    warn!(endpoint = %id, server, event = %LogEvent::EndpointGap, "an endpoint was told that changes may be missing");
                }
            }
        }
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
