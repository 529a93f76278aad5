//! Who is told: log lines with the ids, and the targets of `[[notify]]`.
//!
//! Goes in: alerts of plans and of upkeep. Comes out: one log line for each errored event, and an alert for the notifier,
//! which decides how often people are told. Never waits.

use std::sync::{Arc, PoisonError, RwLock};

use bugfeed_core::hooks::action::Alert;
use bugfeed_core::hooks::event::{ErrorClass, Event, EventId, State};

use super::WorkEvents;
use crate::client::Client;
use crate::config::HooksConfig;
use crate::notify::{self, Counts, Notifier};
use crate::receive::received::{Accepted, Failure, QuarantinedRequest, ReceivedRequest};
use crate::tracker::Clock;

/// The notifier of the configuration of now.
pub(crate) struct Alerts {
    notifier: RwLock<Arc<Notifier>>,
    client: Client,
    clock: Clock,
    events: Arc<WorkEvents>,
}

impl Alerts {
    /// Starts the targets' tasks: to be called within a runtime.
    pub(crate) fn new(config: &HooksConfig, client: Client, clock: Clock, events: Arc<WorkEvents>) -> Alerts {
        let notifier = start(config, &client, &clock, &events, None);
        Alerts { notifier: RwLock::new(Arc::new(notifier)), client, clock, events }
    }

    /// Another configuration. What was told is not told again, and what waits for a target is still delivered.
    pub(crate) fn replace(&self, config: &HooksConfig) {
        let before = self.notifier();
        let notifier = start(config, &self.client, &self.clock, &self.events, Some(&before));
        *self.notifier.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(notifier);
        before.retire();
    }

    fn notifier(&self) -> Arc<Notifier> {
        Arc::clone(&self.notifier.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whoever wants to know.
    pub(crate) fn raise(&self, subject: &'static str, source: Option<&str>, cause: &str, text: String) {
        let source = source.map(Arc::from);
        self.notifier().raise(notify::Alert { subject, source, cause: cause.to_owned(), text });
    }

    /// Time has passed.
    pub(crate) fn tick(&self) {
        self.notifier().tick();
    }

    /// Sends the digest.
    pub(crate) fn digest(&self, lines: Vec<String>) {
        self.notifier().digest(lines);
    }

    /// What was counted for the digest since the last time.
    pub(crate) fn take_counts(&self) -> Counts {
        self.notifier().take_counts()
    }

    /// Takes counts back that could not be handed over.
    pub(crate) fn return_counts(&self, counts: Counts) {
        self.notifier().return_counts(counts);
    }

    /// A request is stored: those of its items that are erroneous. The receiver has logged each.
    pub(crate) fn arrived(&self, request: &ReceivedRequest, accepted: &Accepted) {
        let source = request.envelope.source.as_str();
        for (item, told) in request.items.iter().zip(&accepted.items).filter(|(_, told)| told.state == State::Errored) {
            let (id, reason) = (told.event, item.failure.as_ref().map_or("", |failure| failure.error.as_str()));
            let text = format!("event {id} (source {source}) failed: {reason}");
            self.raise("errored", Some(source), ErrorClass::Mapping.as_str(), text);
            if !told.is_retryable {
                self.not_kept(id, &format!(" (source {source})"), Some(source));
            }
        }
    }

    /// A refused request was not kept, because its part of the quarantine is full.
    pub(crate) fn not_quarantined(&self, request: &QuarantinedRequest) {
        let (source, share) = (request.envelope.source.as_str(), request.share.as_str());
        let text = format!(
            "the quarantine has no room for what is refused at source {source}, so it is lost: {}",
            request.failure.error
        );
        self.raise("quarantine", Some(source), share, text);
    }

    fn not_kept(&self, id: EventId, of: &str, source: Option<&str>) {
        let text = format!(
            "event {id}{of} cannot be tried again by itself, because its item was not kept; `bugfeed events show {id}` says what helps"
        );
        self.raise("not-kept", source, "not-retryable", text);
    }

    /// An alert of a plan. `event` is as it was before the plan.
    pub(crate) fn of_event(&self, alert: Alert, event: Option<&Event>, failure: Option<&Failure>, events: &WorkEvents) {
        let source = event.map(|event| &*event.source);
        let of = event.map_or_else(String::new, |event| {
            match event.bug {
                Some(bug) => format!(" of bug {bug} (source {}, feed {})", event.source, event.feed),
                // Then the feed is not known either.
                None => format!(" without a bug (source {})", event.source),
            }
        });
        let reason = failure.map_or("", |failure| failure.error.as_str());
        match alert {
            Alert::Errored { id, class } => {
                events.errored(id, class, event, reason);
                let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                self.raise("errored", source, class.as_str(), format!("event {id}{of} failed{why}"));
            }
            Alert::Expired(id) => {
                events.expired(id, event);
                self.raise("expired", source, "", format!("event {id}{of} failed until it expired, and was dropped"));
            }
            Alert::Poison(id) => {
                events.poison(id, event);
                let text = format!("event {id}{of} was put aside: three workers in a row were gone while they had it");
                self.raise("errored", source, "poison", text);
            }
            Alert::NotRetryable(id) => self.not_kept(id, &of, source),
        }
    }
}

fn start(
    config: &HooksConfig,
    client: &Client,
    clock: &Clock,
    events: &Arc<WorkEvents>,
    before: Option<&Notifier>,
) -> Notifier {
    let events = Arc::clone(events);
    let on_failure = Arc::new(move |undelivered: notify::Undelivered| events.undelivered(&undelivered));
    Notifier::start(&config.notify, client, Arc::clone(clock), on_failure, before)
}
