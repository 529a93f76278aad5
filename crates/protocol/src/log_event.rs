//! The stable names of log lines.
//!
//! Every log line of bugfeed has the field `event` with one of these names. Programs that read logs (alerts, tests)
//! should match the name; the wording of a line is for people and may change at any time. A name never changes its
//! meaning and is never reused for something else. `docs/events.md` lists them for operators; a test compares the two.

use std::fmt;

macro_rules! log_events {
    ($($variant:ident = $name:literal, $meaning:literal;)*) => {
        /// What a log line is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum LogEvent {
            $(#[doc = $meaning] $variant,)*
        }

        impl LogEvent {
            /// Every event, in the order of the document.
            pub const ALL: &[LogEvent] = &[$(LogEvent::$variant),*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(LogEvent::$variant => $name,)* }
            }

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(LogEvent::$variant => $meaning,)* }
            }
        }
    };
}

impl fmt::Display for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

log_events! {
    // Any process.
    VariableUnknown = "variable_unknown", "An environment variable looks like one of ours and is not.";
    LogDirectiveLeftOut = "log_directive_left_out", "`RUST_LOG` holds a directive that cannot be followed.";
    HangupIgnored = "hangup_ignored", "SIGHUP came; nothing changes.";
    OpenFilesLow = "open_files_low", "The limit on open files is below what `--max-connections` needs.";
    PartStuck = "part_stuck", "An essential part of the process (field `part`) is dead, or has given no sign of life for `--stuck-after-ms`; `/livez` says so.";
    PartLives = "part_lives", "A part that was stuck gives signs of life again.";
    StopForced = "stop_forced", "The process was told to end and did not in time; it ends at once, with exit code 124.";
    CertificateLoaded = "certificate_loaded", "The files of the certificate were read again; new connections get what is in them.";
    CertificateRefused = "certificate_refused", "The files of the certificate hold one that cannot be used; the one before stays.";
    SecretReadable = "secret_readable", "The file with a secret can be read by every user of the machine.";
    DatabaseUnverified = "database_unverified", "TLS to a database server is not fully verified, because its URL says so (`tls-verify`).";
    DatabaseTlsOptional = "database_tls_optional", "The URL of a database server on another machine asks for no TLS: nothing proves who answers.";
    // The shim's life.
    ShimStarted = "shim_started", "The shim has opened the change table and the ledger.";
    ShimStopping = "shim_stopping", "A signal asked the shim to end; it finishes what it has in hand.";
    ShimStopped = "shim_stopped", "The shim has ended in good order.";
    LeaseWaiting = "lease_waiting", "Another shim works on the ledger; this one waits for its turn.";
    LeaseTaken = "lease_taken", "This shim works on the ledger from now on.";
    LeaseLost = "lease_lost", "Another shim has taken over, or the ledger was set back; this one waits again.";
    // What the shim depends on.
    PartDown = "part_down", "Something that the shim needs (field `part`) does not work; it tries again.";
    PartStillDown = "part_still_down", "The same outage goes on; said about once a minute.";
    PartUp = "part_up", "The part works again.";
    BrokerConnected = "broker_connected", "The shim has a connection to the broker, or to the in-process bus; the end of history fits the ledger.";
    BacklogPublishing = "backlog_publishing", "Changes that waited for the broker are being published.";
    HeadsNotSent = "heads_not_sent", "The shim cannot tell gateways how far it has published.";
    HistoryRefused = "history_refused", "The broker gives the shim no history; changes flow without.";
    HistoryMadeAnew = "history_made_anew", "Somebody has deleted the history while the shim was connected; it begins anew.";
    HistoryNotCompared = "history_not_compared", "The end of history cannot be read, so it is not compared with the ledger.";
    HistoryOfOtherLedger = "history_of_other_ledger", "The last change in history is of another ledger.";
    LedgerSetBack = "ledger_set_back", "The ledger is an older state of itself; a new epoch begins, and clients are told `gap`.";
    // The change table.
    ChangesRecorded = "changes_recorded", "Rows got numbers in the ledger.";
    ChangesPruned = "changes_pruned", "Old published changes were removed from the ledger.";
    RowSetAside = "row_set_aside", "A row cannot be read as a change and was put aside.";
    MoreRowsSetAside = "more_rows_set_aside", "More rows than are logged one by one were put aside.";
    RowsHeld = "rows_held", "The tracker holds rows that are recorded; they are deleted later.";
    RowsVanished = "rows_vanished", "Somebody else deleted rows between reading and deleting them.";
    DatesOff = "dates_off", "Dates of rows do not fit this machine's clock.";
    DatesAreInstants = "dates_are_instants", "The date column holds instants, so `--timezone` is not needed.";
    IdNotUnique = "id_not_unique", "No unique index says that the id column means one row.";
    TableUpdatedInPlace = "table_updated_in_place", "The table's rows are updated in place: published once deleted.";
    ListenUseless = "listen_useless", "A pooler lets no notifications through, so `--listen` has no effect.";
    ListenFailed = "listen_failed", "Notifications of the database cannot be heard just now.";
    // The gateway's life.
    GatewayListens = "gateway_listens", "The gateway's ports are open.";
    GatewayDraining = "gateway_draining", "The gateway was asked to end and still accepts clients for `--drain-delay-ms`.";
    ClientsLeft = "clients_left", "Some clients did not go in time; the gateway ends without them.";
    SecondSignal = "second_signal", "A second signal came; the process ends at once.";
    // A feed of the gateway; the field `feed` names it.
    BusConnected = "bus_connected", "The gateway has a connection to the bus.";
    BusDown = "bus_down", "The connection to the bus is lost, or cannot be made; clients stay.";
    BusStillDown = "bus_still_down", "One more attempt to connect to the bus has failed.";
    FeedFlows = "feed_flows", "Changes can arrive on the feed again.";
    FeedStopped = "feed_stopped", "Nothing can arrive on the feed; the field `reason` says why.";
    FeedFault = "feed_fault", "The feed cannot be served until a person has mended something.";
    NoPublisher = "no_publisher", "No publisher was heard on the exchange of this feed since the gateway connected to it.";
    TwoPublishers = "two_publishers", "Two ledgers, or two copies of one, publish to the exchange of this feed.";
    HistoryAway = "history_away", "History cannot be read, and is left alone for a while; until then, missing changes are told as `gap`.";
    HeadsNotHeard = "heads_not_heard", "The gateway cannot hear how far the shim has published.";
    QueueDiffers = "queue_differs", "A gateway's durable queue exists with other properties than it would give it; it is used as it is.";
    HeadDiffers = "head_differs", "The shim has published what did not come here; the gateway looks for it.";
    ChangesMissing = "changes_missing", "Numbers are missing; history is asked for them.";
    HistoryRead = "history_read", "History was read to its end.";
    HistoryFailed = "history_failed", "History cannot be read.";
    ContinuityLost = "continuity_lost", "Changes are missing for good, or another ledger begins; clients are told `gap`.";
    NumberGivenTwice = "number_given_twice", "A number came with another meaning: a ledger was set back, or copied.";
    MessageUnreadable = "message_unreadable", "A message of the bus is not a change and was dropped.";
    // The gateway's clients.
    ClientRefused = "client_refused", "A client was turned away.";
    ClientAddressUnknown = "client_address_unknown", "A client's address is not known, so the limits for each address are off for it; said once.";
    ClientAddressUnclear = "client_address_unclear", "A proxy's headers contradict each other or cannot be read; said once.";
    ProxyNotNamed = "proxy_not_named", "A request that was forwarded came from an address that `--behind-proxy` does not name; said once.";
    AccessRefused = "access_refused", "Somebody has shown no token, a bad one, or one for something else; `kind` says why, `address` who.";
    TokensRead = "tokens_read", "The file with tokens (`--tokens`) was read again and holds from now on.";
    TokensRefused = "tokens_refused", "A file with tokens, keys or a secret was read again and is wrong; what was read before goes on.";
    TokenKeysAway = "token_keys_away", "The keys of `--jwt-keys` cannot be had; those that are known go on for a while.";
    ClientFault = "client_fault", "A client broke a rule of the protocol and is closed.";
    AcceptFailed = "accept_failed", "A connection could not be accepted.";
    // Webhooks that come in; the field `source` names who sends.
    HookRefused = "hook_refused", "A webhook came without a valid key or signature, or for an unknown source.";
    HookNotKept = "hook_not_kept", "The quarantine, or one sender's part of it, is full; refused requests are lost.";
    HookNoSecret = "hook_no_secret", "A source's sender can only sign, and the source has no secret: all it sends is refused.";
    HookErrored = "hook_errored", "An item of a webhook cannot be read as a change by its source's mapping.";
    HookNotTaken = "hook_not_taken", "Neither the store nor the spool took a webhook; its sender was answered 503.";
    SpoolBegun = "spool_begun", "The store of the hooks is away; what comes is spooled.";
    SpoolEmptied = "spool_emptied", "The store has everything that was spooled.";
    SpoolFound = "spool_found", "An earlier process has left webhooks in the spool; the store gets them now.";
    SpoolTornTail = "spool_torn_tail", "The end of the spool was not whole, because the process was killed while writing; it was cut off.";
    SpoolDamaged = "spool_damaged", "Webhooks in the spool are not what was written, and were passed over; where more than a torn end was cut off, it is in a file that ends in `.damaged`.";
    SpoolUnreadable = "spool_unreadable", "A file of the spool cannot be read or removed; it is left alone until the next start.";
    SpoolSetAside = "spool_set_aside", "The store takes other webhooks, but not this one of the spool; it was put into a file of its own.";
    SpoolFailed = "spool_failed", "The disk refused what was to be spooled.";
    // Events of webhooks, while they are worked on.
    FeedWithoutTable = "feed_without_table", "A received event is for a feed that has no change table here; it waits.";
    HooksWait = "hooks_wait", "The store of the hooks does not answer; received events wait.";
    HookTryFailed = "hook_try_failed", "A received event failed and waits for another try; the fields name event, source, bug and class.";
    HookExpired = "hook_expired", "A received event failed for seven days and was dropped.";
    HookPoison = "hook_poison", "Three workers in a row were gone while they had a received event; it was put aside.";
    HookUnreadable = "hook_unreadable", "A row of the hooks' events cannot be read; its event waits, and the others go on.";
    HooksHastened = "hooks_hastened", "Failed events are tried at once, because their cause may be mended.";
    HooksMissed = "hooks_missed", "The tracker has changes that no webhook has brought; they are announced now.";
    HooksListen = "hooks_listen", "The ports of `bugfeed hooks` are open.";
    HooksFirstToken = "hooks_first_token", "The store is new, and the first token for its API is in a file, or could not be written there.";
    HooksConfigRefused = "hooks_config_refused", "The configuration was read again and is wrong; the one before goes on.";
    HooksNoSource = "hooks_no_source", "The configuration names no source of webhooks; or `bugfeed hooks` has none, and only the source `plain`.";
    HooksFeedUnused = "hooks_feed_unused", "`--feed` of `bugfeed hooks` names a feed that no source sends to: it is only delivered to endpoints.";
    HooksFeedLater = "hooks_feed_later", "A source names a feed that the all-in-one serves after its next start only.";
    HooksRival = "hooks_rival", "Another ledger publishes to the exchange of a feed; the hooks publish nothing there until it is silent.";
    HooksRivalUnknown = "hooks_rival_unknown", "The broker does not let the hooks listen for other ledgers on a feed's exchange; they publish all the same.";
    HooksReloaded = "hooks_reloaded", "The configuration of the sources was read again and holds from now on.";
    HooksStopped = "hooks_stopped", "The hooks have ended in good order.";
    TrackerAway = "tracker_away", "A tracker fails and is asked more rarely; events that must be looked at wait.";
    TrackerBack = "tracker_back", "A tracker answers again.";
    ReconcileFailed = "reconcile_failed", "A tracker cannot be asked what changed; it is asked again later.";
    SenderTroubled = "sender_troubled", "A sender's own list of webhooks says that one is off, or has a backlog.";
    HookDeed = "hook_deed", "Somebody changed something through the API of the hooks; it is in their audit log too.";
    NotifyFailed = "notify_failed", "An alert could not be delivered to a target of `[[notify]]`.";
    // Endpoints.
    EndpointsWait = "endpoints_wait", "The store of the hooks does not answer; deliveries to endpoints wait.";
    EndpointCooling = "endpoint_cooling", "Deliveries to an endpoint failed; it is tried again later.";
    EndpointFailing = "endpoint_failing", "An endpoint is on its way to being disabled; `percent` says how far.";
    EndpointDisabled = "endpoint_disabled", "An endpoint is disabled, until somebody enables it or a test of it succeeds.";
    EndpointEnabled = "endpoint_enabled", "Somebody has enabled an endpoint that was disabled.";
    EndpointRecovered = "endpoint_recovered", "An endpoint that failed takes deliveries again.";
    EndpointNotSent = "endpoint_not_sent", "This process could not send to an endpoint, by no fault of its receiver: it counts nothing, and is tried again after 10 s.";
    EndpointGap = "endpoint_gap", "An endpoint was told that changes may be missing.";
    EndpointFeedUnserved = "endpoint_feed_unserved", "Endpoints have feeds that this process does not serve: of those, they are sent nothing.";
    EndpointsStopped = "endpoints_stopped", "Deliveries to endpoints have ended in good order.";
}
