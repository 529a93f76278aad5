//! A feed of the all-in-one: its change table, its ledger, and the channel to the gateway in the same process.
//!
//! Goes in: a name. Comes out: a feed that is served. The feed `default` has the change table and the ledger that the
//! all-in-one always had; any other one has a table of its own in the same file, and ledger tables with a prefix of its own.

use std::sync::Arc;

use bugfeed_gateway::feed::Clock;
use bugfeed_hooks::store::change_table::table_of;
use bugfeed_shim::events::Telemetry;
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_shim::relay::{self, RelayOptions};
use bugfeed_shim::source::{self, Source, TableSpec};
use bugfeed_sql::DbUrl;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, watch};
use tracing::Instrument as _;

use super::all_in_one::{AllInOneOptions, FEED};
use super::hooks::numbers::{Follower, Matching, Noting};
use super::hooks::shims::prefix_of;
use super::in_process_bus;
use super::serving::Gateway;

/// An opened feed that is not served yet.
pub(super) struct LocalFeed {
    name: String,
    source: Source,
    ledger: Ledger,
}

impl LocalFeed {
    /// Opens the tables of a feed; makes those that are missing.
    ///
    /// # Errors
    /// When a file cannot be used, or two feeds would have one table.
    pub(super) async fn open(options: &AllInOneOptions, feed: &str) -> anyhow::Result<LocalFeed> {
        let (spec, zone, prefix) = if feed == FEED {
            (options.table.clone(), options.timezone.clone(), Prefix::default())
        } else {
            let table: bugfeed_sql::Name = table_of(feed).parse()?;
            if table.to_string() == options.table.table.to_string() {
                anyhow::bail!(
                    "--table {table} is the table of the feed '{feed}', which a source names; choose another one"
                );
            }
            (TableSpec { table, ..TableSpec::default() }, TimeZone::UTC, prefix_of(feed))
        };
        let tables = options.tables();
        source::init(&tables, &spec).await?;
        let source = Source::open(&tables, &spec, zone).await?;
        let ledger = Ledger::open(&DbUrl::sqlite_file(options.data_dir.join("ledger.db")), &prefix).await?;
        Ok(LocalFeed { name: feed.to_owned(), source, ledger })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Serves the feed. `wake` wakes its relay; what it publishes goes to `matching`, too.
    pub(super) fn start(
        self,
        gateway: &mut Gateway,
        clock: Clock,
        options: &AllInOneOptions,
        (telemetry, wake): (Arc<Telemetry>, Arc<Notify>),
        matching: watch::Receiver<Option<Matching>>,
    ) {
        let LocalFeed { name, source, ledger } = self;
        let pulse = gateway.health.watchdog().pulse(format!("relay of feed {name}"));
        // Each line of the log says which of the feeds it is about.
        let span = tracing::info_span!("shim", feed = name.as_str());
        let (ingest, health) = gateway.add_feed(&name, clock);
        let (publisher, bus) = in_process_bus::channel(options.serving.feed.replay.max);
        let (noted, published) = watch::channel(None);
        let mut publisher = Noting::new(publisher, noted);
        let follower = Follower { feed: name.into(), ledger: ledger.clone(), published, matching };
        let stop = gateway.inner_stop.clone();
        gateway.inner.spawn(bus.run(ingest, health, Arc::clone(&telemetry), stop.clone()));
        gateway.inner.spawn(follower.run(stop.clone()));
        let options = RelayOptions { poll_interval: options.poll_interval, wake, telemetry, ..RelayOptions::default() };
        let relaying = async move {
            let relayed = relay::run(&source, &ledger, &mut publisher, &options, stop).await;
            source.close().await;
            ledger.close().await;
            Ok(relayed?)
        };
        gateway.essential.spawn(pulse.keep(relaying).instrument(span));
    }
}
