//! The database in which hooks keep what they received, and what can happen to it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bugfeed_hooks::receive::key::{Key, RANDOM_BYTES};
use bugfeed_hooks::store::events::EventFilter;
use bugfeed_hooks::store::keys::{KeyScopes, StoredKey};
use bugfeed_hooks::store::requests::RequestFilter;
use bugfeed_hooks::store::{Options, Store, StoredEvent};
use bugfeed_protocol::{Numbered, When};
use bugfeed_shim::ledger::Ledger;
use bugfeed_sql::{Db, Use};
use bugfeed_testbed::signal::{Signal, descendants, send};
use bugfeed_testbed::{MariaDb, Postgres};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::receivers::Receivers;
use super::site::FEEDS;
use crate::real::soak::pause;

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    MariaDb,
    Postgres,
    Sqlite,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::MariaDb, Kind::Postgres, Kind::Sqlite];

    pub fn name(self) -> &'static str {
        match self {
            Kind::MariaDb => "mariadb",
            Kind::Postgres => "postgres",
            Kind::Sqlite => "sqlite",
        }
    }

    pub fn parse(text: &str) -> Kind {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        found.unwrap_or_else(|| panic!("'{text}' is no store; it may be mariadb, postgres or sqlite"))
    }

    /// Whether several processes may work on it.
    pub fn is_shared(self) -> bool {
        self != Kind::Sqlite
    }
}

/// A server of its own, or a file.
pub enum Database {
    MariaDb(Box<MariaDb>, String),
    Postgres(Box<Postgres>, String),
    Sqlite(PathBuf),
}

impl Database {
    /// None where the server is not installed.
    pub async fn start(kind: Kind, folder: &std::path::Path) -> Option<Database> {
        Some(match kind {
            Kind::MariaDb => {
                let server = Box::new(MariaDb::start_or_skip().await?);
                let name = server.create_database().await.unwrap();
                Database::MariaDb(server, name)
            }
            Kind::Postgres => {
                let server = Box::new(Postgres::start_or_skip().await?);
                let name = server.create_database().await.unwrap();
                Database::Postgres(server, name)
            }
            Kind::Sqlite => Database::Sqlite(folder.join("hooks.db")),
        })
    }

    pub fn url(&self) -> String {
        match self {
            Database::MariaDb(server, name) => server.url(name),
            Database::Postgres(server, name) => server.url(name),
            Database::Sqlite(path) => format!("sqlite://{}", path.display()),
        }
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Database::MariaDb(server, _) => server.pid(),
            Database::Postgres(server, _) => server.pid(),
            Database::Sqlite(_) => None,
        }
    }

    /// It stands still for a while; a file is locked by somebody else.
    pub async fn freeze(&self, length: Duration) {
        let Some(pid) = self.pid() else { return self.lock(length).await };
        // A database session of PostgreSQL is a process.
        let processes = || [pid].into_iter().chain(descendants(pid));
        processes().for_each(|pid| send(pid, Signal::STOP));
        pause(length).await;
        processes().for_each(|pid| send(pid, Signal::CONT));
    }

    async fn lock(&self, length: Duration) {
        let db = Db::new(&self.url().parse().unwrap(), Use::Ledger { create: false });
        // Where somebody writes for so long that this fails, that is fault enough.
        if let Ok(transaction) = db.begin().await {
            pause(length).await;
            drop(transaction);
        }
        db.close().await;
    }

    /// It is killed, and comes back after a while; a file is locked.
    pub async fn kill9(&mut self, away: Duration) {
        match self {
            Database::MariaDb(server, _) => {
                server.kill9().await;
                pause(away).await;
                server.start_again().await.unwrap();
            }
            Database::Postgres(server, _) => {
                server.kill9().await;
                pause(away).await;
                server.start_again().await.unwrap();
            }
            Database::Sqlite(_) => self.lock(away).await,
        }
    }

    /// It is stopped in good order, and comes back after a while; a file is locked.
    pub async fn restart(&mut self, away: Duration) {
        match self {
            Database::MariaDb(server, _) => {
                server.stop().await.unwrap();
                pause(away).await;
                server.start_again().await.unwrap();
            }
            Database::Postgres(server, _) => {
                server.stop().await.unwrap();
                pause(away).await;
                server.start_again().await.unwrap();
            }
            Database::Sqlite(_) => self.lock(away).await,
        }
    }

    /// The store in it, as a command sees it.
    pub async fn open(&self) -> Store {
        let options = Options { works: false, ..Options::default() };
        Store::open(&self.url().parse().unwrap(), options).await.unwrap().store
    }

    /// What the ledgers of the feeds have numbered.
    pub async fn ledgers(&self) -> anyhow::Result<[Vec<Numbered>; 2]> {
        let mut all = [Vec::new(), Vec::new()];
        for (feed, numbered) in FEEDS.iter().zip(&mut all) {
            let ledger = Ledger::open_existing(&self.url().parse()?, &format!("feed_{feed}_").parse()?).await?;
            loop {
                let after = numbered.last().map_or(0, |last: &Numbered| last.cursor.seq);
                let page = ledger.history(after, 1000).await?;
                if page.is_empty() {
                    break;
                }
                numbered.extend(page);
            }
            ledger.close().await;
        }
        Ok(all)
    }

    /// Makes the store, with a key and endpoints in it.
    pub async fn prepare(&self, seed: u64, receivers: &Receivers) -> Key {
        let mut bytes = [0; RANDOM_BYTES];
        SmallRng::seed_from_u64(seed).fill(&mut bytes);
        let key = Key::generate(&bytes);
        let stored = StoredKey {
            id: key.id().to_owned(),
            hash: key.hash(),
            previous: None,
            name: "bugzilla".to_owned(),
            owner: String::new(),
            scopes: KeyScopes::default(),
            created_us: When::from_system_time(SystemTime::now()).as_micros(),
            expires_us: None,
            used_us: None,
            revoked_us: None,
        };
        let store = self.open().await;
        store.add_key(&stored).await.unwrap();
        receivers.create(&store).await;
        store.close().await;
        key
    }
}

/// All events, by identifier.
pub async fn events(store: &Store) -> anyhow::Result<HashMap<String, StoredEvent>> {
    let (mut events, mut after) = (HashMap::new(), None);
    loop {
        let page = store.list_events(&EventFilter::default(), after, 1000).await?;
        events.extend(page.events.into_iter().map(|stored| (stored.event.id.to_string(), stored)));
        after = page.next;
        if after.is_none() {
            return Ok(events);
        }
    }
}

/// The identifiers of all requests.
pub async fn requests(store: &Store) -> anyhow::Result<std::collections::HashSet<String>> {
    let (mut requests, mut after) = (std::collections::HashSet::new(), None);
    loop {
        let page = store.requests(&RequestFilter::default(), after, 1000).await?;
        requests.extend(page.requests.into_iter().map(|stored| stored.envelope.id.to_string()));
        after = page.next;
        if after.is_none() {
            return Ok(requests);
        }
    }
}
