//! What the receiver logs and counts: one function for each notable event, which does both.
//!
//! No bug, address, key or name that a sender made up ever becomes a label. What a sender can cause at will is logged a
//! few times a minute only.

use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::health::Health;
use bugfeed_runtime::metrics::Register;
use bugfeed_runtime::throttle::Throttle;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{error, info, warn};

use super::hush::Hush;
use super::intake::StoreAway;
use crate::config::HooksConfig;
use crate::receive::received::{QuarantinedRequest, ReceivedItem, ReceivedRequest, Share};
use crate::receive::spool::{Scan, Spool};
use crate::recurring::gauge;

/// The name of the store in the answer of `/readyz`.
const STORE: &str = "hooks store";
/// The name of the spool there.
const SPOOL: &str = "hooks spool";
/// The name of the sources there.
const SOURCES: &str = "hooks sources";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    source: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ItemLabels {
    source: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QuarantineLabels {
    share: &'static str,
    kept: &'static str,
}

/// The receiver's counters, and its words in log and readiness.
#[derive(Debug)]
pub struct ReceiverEvents {
    requests: Family<RequestLabels, Counter>,
    items: Family<ItemLabels, Counter>,
    quarantine: Family<QuarantineLabels, Counter>,
    spool_bytes: Gauge,
    spool_requests: Gauge,
    spooled: Counter,
    replayed: Counter,
    health: Health,
    refusals: Hush,
    not_kept: Hush,
    errored: Hush,
    lost: Throttle,
    aside: Throttle,
}

impl ReceiverEvents {
    /// All counters at zero. `health` is what `/readyz` reads.
    pub fn new(health: Health) -> ReceiverEvents {
        let few = || Throttle::new(5, Duration::from_secs(60));
        ReceiverEvents {
            requests: Family::default(),
            items: Family::default(),
            quarantine: Family::default(),
            spool_bytes: Gauge::default(),
            spool_requests: Gauge::default(),
            spooled: Counter::default(),
            replayed: Counter::default(),
            health,
            refusals: Hush::new(5),
            not_kept: Hush::new(1),
            errored: Hush::new(200),
            lost: few(),
            aside: few(),
        }
    }

    /// The configuration holds from now on. Warns of sources to which nobody can send.
    pub(super) fn configured(&self, config: &HooksConfig) {
        let mut names = Vec::new();
        for source in config.sources.iter().filter(|source| source.lacks_secret()) {
            let (name, advice) = (&source.name, source.secret_advice());
            warn!(source = name, advice, event = %LogEvent::HookNoSecret, "the sender can only sign, and the source has no secret; what it sends is refused");
            names.push(name.as_str());
        }
        if names.is_empty() {
            self.health.calm(SOURCES);
        } else {
            let fix = "their senders can only sign: add secret_file or path_key = true";
            self.health.warn(SOURCES, format!("without a secret: {}; {fix}", names.join(", ")));
        }
    }

    /// A request was answered. `source`: one of the configuration, or empty.
    pub(super) fn answered(&self, source: &str, result: &'static str) {
        self.requests.get_or_create(&RequestLabels { source: source.to_owned(), result }).inc();
    }

    /// An item has this state now, its first one.
    pub(super) fn item(&self, source: &str, state: &'static str) {
        self.items.get_or_create(&ItemLabels { source: source.to_owned(), state }).inc();
    }

    /// A request may not come in.
    pub(super) fn refused(&self, request: &QuarantinedRequest, is_kept: bool) {
        let kept = if is_kept { "yes" } else { "no" };
        self.quarantine.get_or_create(&QuarantineLabels { share: request.share.as_str(), kept }).inc();
        let envelope = &request.envelope;
        let (source, address, key) = (&envelope.source, envelope.address, envelope.key_id.as_deref());
        // A name that is not configured is whatever the sender likes.
        let known = if request.share == Share::UnknownSource { "" } else { source.as_str() };
        if self.refusals.admits(known) {
            let (reason, id) = (&request.failure.error, envelope.id);
            warn!(%id, source, %address, key, reason, is_kept, event = %LogEvent::HookRefused, "a request was refused and is in quarantine, if it was kept");
        }
        if !is_kept && request.share != Share::UnknownSource && self.not_kept.admits(source) {
            let share = request.share.as_str();
            error!(source, %address, key, share, event = %LogEvent::HookNotKept, "the sender's part of the quarantine is full: refused requests are lost");
        }
    }

    /// An item cannot be mapped.
    pub(super) fn errored(&self, request: &ReceivedRequest, item: &ReceivedItem) {
        if !self.errored.admits(&request.envelope.source) {
            return;
        }
        let (id, event) = (request.envelope.id, request.envelope.id.event(item.index));
        let reason = item.failure.as_ref().map_or("", |failure| failure.error.as_str());
        let source = &request.envelope.source;
        error!(%id, item = item.index, event_id = %event, source, reason, event = %LogEvent::HookErrored, "an item cannot be read as a change; it waits for another try");
    }

    /// Says what was left out of the log: for each source once a minute. To be called every few seconds.
    pub(crate) fn left_out(&self) {
        for (source, more) in self.refusals.left_out() {
            let source = shown(&source);
            warn!(source, more, event = %LogEvent::HookRefused, "so many more requests were refused in a minute and are not logged one by one");
        }
        for (source, more) in self.not_kept.left_out() {
            let source = shown(&source);
            error!(source, more, event = %LogEvent::HookNotKept, "so many more refused requests were lost in a minute and are not logged one by one");
        }
        for (source, more) in self.errored.left_out() {
            let source = shown(&source);
            error!(source, more, event = %LogEvent::HookErrored, "so many more items were errored in a minute and are not logged one by one");
        }
    }

    /// Neither store nor spool took a request; its sender was told 503.
    pub(super) fn lost(&self, source: &str, store: &str, spool: &str) {
        if !self.lost.is_quiet() {
            error!(source, store, spool, event = %LogEvent::HookNotTaken, "neither the store nor the spool took a request; its sender was told to try again");
        }
    }

    /// The store does not answer; the spool takes what comes.
    pub(super) fn store_away(&self, reason: &str) {
        warn!(reason, event = %LogEvent::SpoolBegun, "the store is away; what comes is spooled");
        self.health.warn(STORE, format!("away, requests are spooled: {reason}"));
    }

    /// The store has everything that was spooled.
    pub(super) fn store_back(&self, replayed: u64) {
        info!(replayed, event = %LogEvent::SpoolEmptied, "the store has everything that was spooled");
        self.health.calm(STORE);
    }

    /// The spool was opened.
    pub fn spool_opened(&self, scan: &Scan) {
        if scan.records > 0 {
            let records = scan.records;
            info!(records, event = %LogEvent::SpoolFound, "an earlier process has left requests in the spool");
        }
        if scan.torn_bytes > 0 {
            let bytes = scan.torn_bytes;
            warn!(bytes, event = %LogEvent::SpoolTornTail, "the end of the spool was not whole and was cut off; its senders were not answered");
        }
        self.spool_damaged(scan.damaged);
    }

    /// Records of the spool are not what was written.
    pub(super) fn spool_damaged(&self, records: u64) {
        if records > 0 {
            error!(records, event = %LogEvent::SpoolDamaged, "requests in the spool are damaged and were passed over");
        }
    }

    /// A file of the spool cannot be read or removed.
    pub(super) fn spool_unreadable(&self, error: &dyn std::fmt::Display) {
        if !self.aside.is_quiet() {
            error!(%error, event = %LogEvent::SpoolUnreadable, "a file of the spool cannot be read or removed; trying again");
        }
    }

    /// The store refuses a request while it takes others.
    pub(super) fn set_aside(&self, source: &str, why: &StoreAway, written: Result<&std::path::Path, &std::io::Error>) {
        match written {
            Ok(path) => {
                let file = path.display();
                error!(source, %why, %file, event = %LogEvent::SpoolSetAside, "the store does not take a request from the spool; it was put aside");
            }
            Err(error) => {
                error!(source, %why, %error, event = %LogEvent::SpoolSetAside, "the store does not take a request from the spool, and it cannot be put aside either");
            }
        }
    }

    /// A request went into the spool.
    pub(super) fn spooled(&self, spool: &Spool) {
        self.spooled.inc();
        self.spool_is(spool);
    }

    /// The store took so many requests from the spool.
    pub(super) fn replayed(&self, records: u64, spool: &Spool) {
        self.replayed.inc_by(records);
        self.spool_is(spool);
    }

    /// How full the spool is.
    pub(super) fn spool_is(&self, spool: &Spool) {
        self.spool_bytes.set(gauge(spool.bytes()));
        self.spool_requests.set(gauge(spool.records()));
        if spool.is_full() {
            self.health.down(SPOOL, "full: senders are told to try again later");
        } else {
            self.health.up(SPOOL);
        }
    }
}

/// A source in a line about several requests; the empty name stands for those that are not told apart.
fn shown(source: &str) -> &str {
    if source.is_empty() { "(not configured)" } else { source }
}

impl Register for ReceiverEvents {
    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("hooks");
        r.register("requests", "Requests received, by source and by how they were answered", self.requests.clone());
        r.register("items", "Items received, by source and first state", self.items.clone());
        r.register("quarantined", "Requests that may not come in, by share of the quarantine", self.quarantine.clone());
        r.register("spooled", "Requests that went into the spool", self.spooled.clone());
        r.register("replayed", "Requests that the store took from the spool", self.replayed.clone());
        r.register("spool_bytes", "Bytes in the spool", self.spool_bytes.clone());
        r.register("spool_requests", "Requests in the spool", self.spool_requests.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_without_its_secret_is_a_warning_until_it_has_one() {
        let health = Health::new();
        let events = ReceiverEvents::new(health.clone());
        let read = |secret: &str| {
            let text = format!("[[source]]\nname = \"forge\"\npreset = \"github\"\n{secret}\n");
            HooksConfig::read("x", &text, &|_| Err(String::new())).unwrap()
        };
        events.configured(&read(""));
        let report = health.report();
        assert!(report.ready && report.lines[0].starts_with("hooks sources: without a secret: forge;"), "{report:?}");
        events.configured(&read("secret = \"s\""));
        assert_eq!(health.report().lines, [""; 0]);
    }
}
