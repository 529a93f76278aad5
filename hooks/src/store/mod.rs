//! The store: what was received, what became of it, and who may send, in one database.
//!
//! Goes in: received requests, and plans of the core. Comes out: durable rows, and the rows that the next decision
//! needs. It decides nothing: what an arriving item becomes, and what is done next, say
//! [`bugfeed_core::hooks::arrival`] and its neighbours. It never publishes: the change table that it fills belongs to a
//! shim.
//!
//! | part | what |
//! |---|---|
//! | `schema`, `migrate` | tables, versions, and that two processes do not migrate at once |
//! | `accept`, [`intake`] | arriving requests: many in one transaction |
//! | `lanes` | what is due, and the rows that decide about a lane |
//! | [`apply`], `changes` | plans as transactions; **`changes` has every statement that changes an event's state** |
//! | [`events`], `history`, [`requests`], [`traffic`], [`dead`], [`way`] | reading, for people and the API; matching of rows to numbers |
//! | [`keys`], [`tokens`], [`audit`], [`notes`], [`leases`] | who may what, who did what, what processes share |
//! | [`endpoints`] | where webhooks go out to, how far each receiver has got, what was tried |
//! | [`bodies`], [`quarantine`], `kept` | what is kept of requests, within bounds |
//! | [`retention`], [`prune`] | what is removed, in small steps |
//!
//! Three connections or pools: one that writes; one that reads for workers; one that reads for people, so that a long
//! list delays nothing else.

mod accept;
pub mod apply;
pub mod audit;
pub mod bodies;
mod cells;
pub mod change_table;
mod changes;
mod codes;
pub mod dead;
pub mod endpoints;
mod error;
pub mod events;
mod history;
pub mod intake;
mod kept;
pub mod keys;
pub mod known;
mod lanes;
pub mod leases;
mod lock;
mod migrate;
pub mod notes;
pub mod paced;
pub mod prune;
pub mod quarantine;
pub mod requests;
pub mod retention;
mod row;
mod schema;
pub mod tokens;
pub mod traffic;
pub mod way;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bugfeed_core::hooks::arrival::Duplicates;
use bugfeed_core::hooks::event::Event;
use bugfeed_core::hooks::lane::Settings;
use bugfeed_runtime::throttle::Throttle;
use bugfeed_sql::{Db, DbUrl, Use};
use jiff::tz::TimeZone;

pub use accept::Rule;
pub use error::StoreError;
pub use lanes::{Due, Look};
pub use row::StoredEvent;
use tokens::NewToken;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether missing tables are made, and old ones brought up to date.
    pub create: bool,
    /// Whether this process works on the store, as opposed to a command that looks at it. Only one process may work on
    /// an SQLite file.
    pub works: bool,
    /// The bounds of what is kept.
    pub bounds: Bounds,
    /// A token that is written if this call makes the store, in the transaction that makes it.
    pub first_token: Option<NewToken>,
    /// The zones of the dates in change tables of feeds, where they are not UTC: a table that was there before.
    pub zones: BTreeMap<String, TimeZone>,
}

impl Default for Options {
    fn default() -> Options {
        Options { create: true, works: true, bounds: Bounds::default(), first_token: None, zones: BTreeMap::new() }
    }
}

/// What is kept at most, besides events and requests ([`retention::Keep`] is for those).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of bodies. The oldest go first.
    pub body_bytes: i64,
    /// Kept items of each source.
    pub kept_items: i64,
    /// Bytes of the kept items of each source.
    pub kept_bytes: i64,
    /// Requests in each share of the quarantine.
    pub quarantined: i64,
    /// Bytes of each share of the quarantine.
    pub quarantined_bytes: i64,
    /// Requests in each share of the quarantine from one sender's address to one source.
    pub quarantined_of_sender: i64,
    /// Bytes of the log of attempts. The oldest go.
    pub attempt_bytes: i64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        const MIB: i64 = 1 << 20;
        Bounds {
            body_bytes: 64 * MIB,
            kept_items: 10_000,
            kept_bytes: 16 * MIB,
            quarantined: 1000,
            quarantined_bytes: 16 * MIB,
            quarantined_of_sender: 100,
            attempt_bytes: 64 * MIB,
        }
    }
}

/// The settings of an event's source, for its arrival.
pub type Rules = Arc<dyn Fn(&Event) -> Rule + Send + Sync>;

/// An open store. Clones share their connections.
#[derive(Clone)]
pub struct Store {
    /// Writes.
    db: Db,
    /// Reads for workers.
    lanes: Db,
    /// Reads for people.
    reader: Db,
    shared: Arc<Shared>,
}

/// What the clones share.
struct Shared {
    bounds: Bounds,
    /// The change table of each feed, by its name in SQL.
    tables: RwLock<BTreeMap<String, String>>,
    rules: RwLock<Rules>,
    zones: BTreeMap<String, TimeZone>,
    /// Bytes of bodies, as far as this process knows. Corrected by each look at the table.
    body_bytes: AtomicI64,
    /// Bytes of attempts, as far as this process knows. Corrected by each look at the table.
    attempt_bytes: AtomicI64,
    /// Lines about feeds whose table cannot be written.
    feed_lines: Throttle,
    /// Held as long as the store is open.
    lock: Option<lock::Lock>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("place", &self.place()).finish_non_exhaustive()
    }
}

/// An opened store, and whether it is new.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// This call made it, and wrote [`Options::first_token`].
    pub is_new: bool,
}

impl Store {
    /// Opens a store; makes it, or brings its tables up to date, if the options say so.
    ///
    /// # Errors
    /// When the database says no, a newer version made the tables, or another process uses the file.
    pub async fn open(url: &DbUrl, options: Options) -> Result<Opened, StoreError> {
        let lock = if options.works { lock::Lock::take(url)? } else { None };
        let write = Db::new(url, Use::Ledger { create: options.create }).advising(error::advice);
        let is_new = migrate::prepare(&write, &options).await?;
        // A file exists by now.
        let read = || Db::new(url, Use::Ledger { create: false }).advising(error::advice);
        let shared = Shared {
            bounds: options.bounds,
            tables: RwLock::default(),
            rules: RwLock::new(Arc::new(|_: &Event| Rule {
                settings: Settings::DEFAULT,
                duplicates: Duplicates::ByContent,
            })),
            zones: options.zones,
            body_bytes: AtomicI64::new(0),
            attempt_bytes: AtomicI64::new(0),
            feed_lines: Throttle::new(10, Duration::from_secs(60)),
            lock,
        };
        let store = Store { db: write, lanes: read(), reader: read(), shared: Arc::new(shared) };
        store.count_bodies().await?;
        store.read_tables().await?;
        Ok(Opened { store, is_new })
    }

    /// Says how arriving events are judged, from now on. Without this, by the defaults of the configuration.
    pub fn set_rules(&self, rules: Rules) {
        *self.shared.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    fn rules(&self) -> Rules {
        Arc::clone(&self.shared.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The database's address without a password.
    pub fn place(&self) -> &str {
        self.db.place()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.db.fetch("SELECT version FROM hooks_meta WHERE one = 1", &[]).await?;
        Ok(())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.db.close().await;
        self.lanes.close().await;
        self.reader.close().await;
    }
}

#[cfg(test)]
mod tests;
