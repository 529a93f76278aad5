//! Everything worth telling an operator: one function for each notable event, which both logs and counts.
//!
//! Goes in: what happened. Comes out: log lines (tracing) and the metrics page. No bug numbers or client addresses ever
//! become metric labels, and what a peer can cause at will is counted but logged at debug level only.

use std::fmt::Display;
use std::net::IpAddr;

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::BadMessage;
use bugfeed_protocol::log_event::LogEvent;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{debug, error, info, warn};

use crate::gauges::Gauges;
use crate::timing::Timings;
use bugfeed_core::bus::Note;
use bugfeed_core::input::Tally;
use bugfeed_runtime::audit::Audit;
use bugfeed_runtime::http::ConnectionEvents;
use bugfeed_runtime::metrics::Register;

/// One label: which feed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FeedLabel {
    feed: String,
}

/// One label: why or which.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

type PerFeed = Family<FeedLabel, Counter>;
type PerKind = Family<KindLabel, Counter>;

/// The counters of one process.
#[derive(Debug, Default)]
pub struct Events {
    changes: PerFeed,
    repeated: PerFeed,
    late: PerFeed,
    missing: PerFeed,
    gaps: PerFeed,
    history_reads: PerFeed,
    history_failed: PerFeed,
    resumes: PerKind,
    poison: PerFeed,
    bus_up: Family<FeedLabel, Gauge>,
    bus_lost: PerFeed,
    feed_up: Family<FeedLabel, Gauge>,
    heads: PerFeed,
    connections: Gauge,
    accepted: Counter,
    refused_connections: PerKind,
    ended: PerKind,
    updates: PerKind,
    hot: Hot,
    lagged: Counter,
    conflated: Counter,
    all: Gauge,
    refused_commands: Counter,
    pub(crate) timings: Timings,
    pub(crate) gauges: Gauges,
    refused_access: PerKind,
    audit: Audit,
}

/// Counters of a family that are used too often to look them up in it each time.
#[derive(Debug, Default)]
struct Hot {
    live: Counter,
    caught_up: Counter,
}

fn feed(name: &str) -> FeedLabel {
    FeedLabel { feed: name.to_owned() }
}

impl Events {
    /// All counters at zero.
    pub fn new() -> Events {
        let mut events = Events::default();
        let updates = |kind| events.updates.get_or_create(&KindLabel { kind }).clone();
        events.hot = Hot { live: updates("live"), caught_up: updates("catch_up") };
        for (family, kinds) in [
            (&events.refused_connections, &["full", "accept"][..]),
            (&events.ended, &["silent", "stalled", "unfinished", "no_room"]),
            (&events.resumes, &["complete", "latest", "gap"]),
        ] {
            kinds.iter().for_each(|kind| drop(family.get_or_create(&KindLabel { kind })));
        }
        events
    }

    /// Counts the changes that a feed records in its replay cache. From now on all counters of the feed are shown, so that the
    /// first increase of each is seen as one.
    pub fn changes(&self, name: &str) -> Counter {
        for family in [
            &self.repeated,
            &self.late,
            &self.missing,
            &self.gaps,
            &self.history_reads,
            &self.history_failed,
            &self.poison,
            &self.bus_lost,
            &self.heads,
        ] {
            drop(family.get_or_create(&feed(name)));
        }
        drop(self.feed_up.get_or_create(&feed(name)));
        self.changes.get_or_create(&feed(name)).clone()
    }

    /// A change that was known came again.
    pub fn repeated(&self, name: &str) {
        self.repeated.get_or_create(&feed(name)).inc();
    }

    /// A change came after later ones.
    pub fn late(&self, name: &str) {
        self.late.get_or_create(&feed(name)).inc();
    }

    /// Numbers are missing; history is asked for them.
    pub fn hole(&self, name: &str, missing: Option<u64>, before: &impl Display) {
        self.missing.get_or_create(&feed(name)).inc_by(missing.unwrap_or(1));
        debug!(feed = name, missing, %before, event = %LogEvent::ChangesMissing, "changes are missing; asking history");
    }

    /// Whether changes can arrive on a feed.
    pub fn feed_is_up(&self, name: &str, up: bool) {
        self.feed_up.get_or_create(&feed(name)).set(i64::from(up));
    }

    /// Nothing can arrive any more. `known`: an earlier line said already that the connection is lost or not made yet,
    /// so this one is for debugging only.
    pub fn feed_stopped(&self, name: &str, reason: &str, known: bool) {
        if known {
            debug!(feed = name, reason, event = %LogEvent::FeedStopped, "nothing can arrive on this feed");
        } else {
            warn!(feed = name, reason, event = %LogEvent::FeedStopped, "nothing can arrive on this feed");
        }
    }

    /// Changes can arrive again.
    pub fn feed_flows(&self, name: &str) {
        info!(feed = name, event = %LogEvent::FeedFlows, "changes can arrive on this feed");
    }

    /// Something is odd with a feed that works. `text` is the note in words.
    pub fn feed_note(&self, name: &str, note: &Note, text: &str) {
        match note {
            Note::NoPublisher { .. } => warn!(feed = name, event = %LogEvent::NoPublisher, "{text}"),
            Note::TwoPublishers(..) => warn!(feed = name, event = %LogEvent::TwoPublishers, "{text}"),
            Note::HistoryAway { .. } => warn!(feed = name, event = %LogEvent::HistoryAway, "{text}"),
        }
    }

    /// A publisher said where it is.
    pub fn head_heard(&self, name: &str) {
        self.heads.get_or_create(&feed(name)).inc();
    }

    /// Heads cannot be heard.
    pub fn no_heads(&self, name: &str, reason: &impl Display) {
        warn!(feed = name, %reason, event = %LogEvent::HeadsNotHeard, "the publisher's heads cannot be heard; going on without, so that a silent feed is not noticed");
    }

    /// A durable queue was made with other properties.
    pub fn queue_differs(&self, name: &str, reason: &impl Display) {
        warn!(feed = name, %reason, event = %LogEvent::QueueDiffers, "the durable queue has other properties than this version would give it; it is used as it is. To have it made anew, stop this gateway, delete the queue, and start the gateway");
    }

    /// A head shows that changes are missing; they are looked for.
    pub fn head_differs(&self, name: &str, head: &impl Display) {
        warn!(feed = name, %head, event = %LogEvent::HeadDiffers, "the publisher's head is not what came here; binding the queue anew, and asking history");
    }

    /// A feed cannot be served, and a person must mend it; the others go on.
    pub fn feed_fault(&self, name: &str, reason: &impl Display) {
        error!(feed = name, %reason, event = %LogEvent::FeedFault, "this feed cannot be served; trying again from time to time");
    }

    /// History was read.
    pub fn history_read(&self, name: &str, read: u64) {
        self.history_reads.get_or_create(&feed(name)).inc();
        info!(feed = name, read, event = %LogEvent::HistoryRead, "history read");
    }

    /// History cannot be had.
    pub fn no_history(&self, name: &str, reason: &impl Display) {
        self.history_failed.get_or_create(&feed(name)).inc();
        warn!(feed = name, %reason, event = %LogEvent::HistoryFailed, "no history; what came while this gateway was away is unknown here, and clients are told 'gap'");
    }

    /// Continuity was lost: a hole that could not be filled, or a new epoch. The first of a minute is logged as a
    /// warning, the others (`quiet`) for debugging only, because two ledgers on one exchange cause gap after gap.
    pub fn gap(&self, name: &str, cursor: Option<&Cursor>, quiet: bool) {
        self.gaps.get_or_create(&feed(name)).inc();
        let after = cursor.map_or_else(|| "nothing known".to_owned(), ToString::to_string);
        if quiet {
            return debug!(feed = name, after, event = %LogEvent::ContinuityLost, "continuity lost once more");
        }
        warn!(
            feed = name,
            after,
            event = %LogEvent::ContinuityLost,
            "continuity lost: changes before this are missing or another ledger begins; clients are told 'gap'"
        );
    }

    /// A number came again with another content: the ledger was set back or copied. This is logged as an error; for
    /// debugging only (`quiet`) if it is not the first of a minute, or happened before anybody was served here.
    pub fn forked(&self, name: &str, number: &impl Display, quiet: bool) {
        if quiet {
            return debug!(feed = name, %number, event = %LogEvent::NumberGivenTwice, "a number was given twice");
        }
        error!(
            feed = name,
            %number,
            event = %LogEvent::NumberGivenTwice,
            "this number was given before, to another change or in another history: the ledger was set back, or two shims \
             work on copies of one; stop one, and `bugfeed-shim new-epoch --yes` begins a numbering that cannot be confused (more within a minute are \
             only counted)"
        );
    }

    /// A message was not understood. The first of a minute is logged as a warning, the others (`quiet`) for debugging
    /// only.
    pub fn poison(&self, name: &str, body: &[u8], reason: &BadMessage, quiet: bool) {
        self.poison.get_or_create(&feed(name)).inc();
        let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        if quiet {
            debug!(feed = name, %reason, start, event = %LogEvent::MessageUnreadable, "message not understood; dropped");
        } else {
            warn!(feed = name, %reason, start, event = %LogEvent::MessageUnreadable, "message not understood; dropped (more within a minute are only counted)");
        }
    }

    /// The bus delivers.
    pub fn bus_up(&self, name: &str, place: &str) {
        self.bus_up.get_or_create(&feed(name)).set(1);
        info!(feed = name, place, event = %LogEvent::BusConnected, "connected to the bus");
    }

    /// The connection to the bus is gone, or could not be made. The `first` failure of an outage is logged as a
    /// warning, the others for debugging only.
    pub fn bus_down(&self, name: &str, reason: &impl Display, first: bool) {
        if self.bus_up.get_or_create(&feed(name)).set(0) == 1 {
            self.bus_lost.get_or_create(&feed(name)).inc();
        }
        if first {
            warn!(feed = name, %reason, event = %LogEvent::BusDown, "no connection to the bus; clients stay connected, retrying until it is back");
        } else {
            debug!(feed = name, %reason, event = %LogEvent::BusStillDown, "still no connection to the bus");
        }
    }

    /// A client is being served; call [`Events::disconnected`] when it is gone.
    pub fn connected(&self) {
        self.accepted.inc();
        self.connections.inc();
    }

    /// How many clients are connected.
    pub fn clients(&self) -> i64 {
        self.connections.get()
    }

    /// A client is gone.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// A peer broke a rule of the protocol and is closed.
    pub fn peer_fault(&self, kind: &'static str, detail: &impl Display) {
        self.ended.get_or_create(&KindLabel { kind }).inc();
        debug!(kind, %detail, event = %LogEvent::ClientFault, "closing a client that broke the protocol");
    }

    /// Somebody has shown no token, a bad one, or one for something else. Those who read the log may act on the address;
    /// of many in a minute only some are written.
    pub fn access_refused(&self, kind: &'static str, from: Option<IpAddr>) {
        self.refused_access.get_or_create(&KindLabel { kind }).inc();
        self.audit.access_refused(kind, from);
    }

    /// Adds what a shard did.
    pub fn tally(&self, tally: &Tally) {
        let count = |family: &PerKind, kind, by| {
            if by > 0 {
                family.get_or_create(&KindLabel { kind }).inc_by(by);
            }
        };
        count(&self.ended, "silent", tally.silent);
        count(&self.ended, "stalled", tally.stalled);
        count(&self.ended, "unfinished", tally.unfinished);
        count(&self.ended, "no_room", tally.no_room);
        count(&self.ended, "token_expired", tally.token_expired);
        count(&self.ended, "token_needed", tally.token_needed);
        count(&self.ended, "token_revoked", tally.token_revoked);
        count(&self.refused_access, "command", tally.denied);
        count(&self.resumes, "complete", tally.complete);
        count(&self.resumes, "latest", tally.latest);
        count(&self.resumes, "gap", tally.gaps);
        if tally.all != 0 {
            self.all.inc_by(tally.all);
        }
        for (counter, by) in [
            (&self.hot.live, tally.live),
            (&self.hot.caught_up, tally.caught_up),
            (&self.lagged, tally.lagged),
            (&self.conflated, tally.conflated),
            (&self.refused_commands, tally.refused),
        ] {
            if by > 0 {
                counter.inc_by(by);
            }
        }
    }
}

impl Register for Events {
    fn register(&self, r: &mut Registry) {
        r.register("changes", "Changes taken from the bus, each once", self.changes.clone());
        r.register("changes_repeated", "Changes that came again and were dropped", self.repeated.clone());
        r.register("changes_late", "Changes that came after later ones", self.late.clone());
        r.register("changes_missing", "Numbers skipped when they should have come", self.missing.clone());
        r.register("gaps", "Times continuity was lost and clients were told so", self.gaps.clone());
        r.register("history_reads", "Times history was read to its end", self.history_reads.clone());
        r.register("history_failed", "Times history could not be read", self.history_failed.clone());
        r.register("resumes", "Resumes by verdict; gap counts notices too", self.resumes.clone());
        r.register("messages_poison", "Messages on the bus that no change could be read from", self.poison.clone());
        r.register("bus_up", "1 while connected to the bus", self.bus_up.clone());
        r.register("bus_lost", "Connections to the bus that were lost", self.bus_lost.clone());
        r.register("feed_up", "1 while changes can arrive on the feed", self.feed_up.clone());
        r.register("heads", "Times a publisher said where it is", self.heads.clone());
        r.register("connections", "Clients connected now", self.connections.clone());
        r.register("connections_accepted", "Clients accepted so far", self.accepted.clone());
        r.register("connections_refused", "Clients turned away, by reason", self.refused_connections.clone());
        r.register("sessions_ended", "Sessions ended by the gateway, by reason", self.ended.clone());
        r.register("updates_sent", "Updates written to clients, live or by a catch-up", self.updates.clone());
        r.register("sessions_lagged", "Times a client's socket took no more", self.lagged.clone());
        r.register(
            "catch_ups_conflated",
            "Catch-ups over the limit, cut to the newest change of each bug",
            self.conflated.clone(),
        );
        r.register("sessions_all", "Sessions that watch all bugs of their feed now", self.all.clone());
        r.register(
            "access_refused",
            "Times somebody was not let in, or not to what was asked for, by reason",
            self.refused_access.clone(),
        );
        r.register("commands_refused", "Commands answered with an error", self.refused_commands.clone());
        self.timings.register(r);
        r.register_collector(Box::new(self.gauges.clone()));
    }
}

impl ConnectionEvents for Events {
    fn accept_failed(&self, error: &std::io::Error, quiet: bool) {
        self.refused_connections.get_or_create(&KindLabel { kind: "accept" }).inc();
        if quiet {
            return debug!(%error, event = %LogEvent::AcceptFailed, "cannot accept a connection");
        }
        error!(%error, event = %LogEvent::AcceptFailed, "cannot accept connections; if it says 'too many open files', raise the limit (ulimit -n) or lower --max-connections");
    }

    fn turned_away(&self, kind: &'static str, from: Option<IpAddr>) {
        self.refused_connections.get_or_create(&KindLabel { kind }).inc();
        self.audit.turned_away(kind, from);
    }
}

/// The metrics page that shows only these counters.
#[cfg(test)]
pub(crate) fn page(events: &Events) -> String {
    bugfeed_runtime::metrics::Metrics::of(&[events]).page()
}
