//! A service that serves on a port of its own, with a store of its own and a clock that a test sets ahead.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use bugfeed_core::hooks::event::State;
use bugfeed_protocol::{BugId, When};
use bugfeed_runtime::health::Health;
use bugfeed_runtime::http::{ConnectionEvents, ListenLimits, bind, serve};
use bugfeed_runtime::metrics::Metrics;
use bugfeed_sql::{Db, DbUrl, Use};
use bugfeed_testbed::{SqlServer, shared};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::HooksConfig;
use crate::receive::key::{Key, RANDOM_BYTES};
use crate::receive::spool::{OpenError, SpoolOptions};
use crate::service::{Hooks, HooksOptions, StartError};
use crate::store::events::EventFilter;
use crate::store::keys::{KeyScopes, StoredKey};
use crate::store::{Options, Store, StoreError, StoredEvent};
use crate::tracker::Clock;

/// Nothing in these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What outlives a service: the database, the spool's folder, the clock.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) url: DbUrl,
    pub(super) folder: PathBuf,
    /// Removes the folder in the end.
    _folder: Option<Arc<TempDir>>,
    pub(super) ahead_us: Arc<AtomicI64>,
    pub(super) key: Key,
    spool: String,
}

impl Place {
    pub(super) async fn sqlite() -> Place {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}", folder.path().join("hooks.db").display());
        Place::at(&url, folder).await
    }

    pub(super) async fn mariadb() -> Option<Place> {
        Some(Place::on(&shared::mariadb().await?).await)
    }

    pub(super) async fn postgres() -> Option<Place> {
        Some(Place::on(&shared::postgres().await?).await)
    }

    pub(super) async fn on(server: &SqlServer) -> Place {
        let name = server.create_database().await.unwrap();
        Place::at(&server.url(&name), TempDir::new().unwrap()).await
    }

    /// Makes the store, with a key in it.
    async fn at(url: &str, folder: TempDir) -> Place {
        let url: DbUrl = url.parse().unwrap();
        let key = Key::generate(&[1; RANDOM_BYTES]);
        let store = Store::open(&url, Options { works: false, ..Options::default() }).await.unwrap().store;
        let stored = StoredKey {
            id: key.id().to_owned(),
            hash: key.hash(),
            previous: None,
            name: "test".to_owned(),
            owner: String::new(),
            scopes: KeyScopes::default(),
            created_us: 0,
            expires_us: None,
            used_us: None,
            revoked_us: None,
        };
        store.add_key(&stored).await.unwrap();
        store.close().await;
        let (path, folder) = (folder.path().to_owned(), Some(Arc::new(folder)));
        Place { url, folder: path, _folder: folder, ahead_us: Arc::default(), key, spool: "spool".to_owned() }
    }

    /// The place that another process has made, with its store in an SQLite file.
    pub(super) fn of_another(folder: &str) -> Place {
        let url = format!("sqlite://{folder}/hooks.db").parse().unwrap();
        let (folder, key) = (PathBuf::from(folder), Key::generate(&[1; RANDOM_BYTES]));
        Place { url, folder, _folder: None, ahead_us: Arc::default(), key, spool: "spool".to_owned() }
    }

    /// The same store, seen from another machine.
    pub(super) fn elsewhere(&self) -> Place {
        Place { spool: "spool2".to_owned(), ..self.clone() }
    }

    /// The same, with a clock of its own that goes ahead by so many seconds.
    pub(super) fn elsewhere_ahead(&self, seconds: i64) -> Place {
        Place { ahead_us: Arc::new(AtomicI64::new(seconds * 1_000_000)), ..self.elsewhere() }
    }

    pub(super) fn clock(&self) -> Clock {
        let ahead_us = Arc::clone(&self.ahead_us);
        Arc::new(move || When::from_system_time(SystemTime::now()).as_micros() + ahead_us.load(Ordering::SeqCst))
    }

    pub(super) fn options(&self, config: &str) -> HooksOptions {
        let spool = SpoolOptions::new(self.folder.join(&self.spool));
        let mut options = HooksOptions::new(read(config), self.url.clone(), spool);
        options.clock = self.clock();
        options.limits.store_wait = Duration::from_millis(300);
        options.work.refresh = Duration::from_millis(100);
        options.work.switch_again = Duration::from_secs(1);
        options.work.stop_grace = Duration::from_millis(200);
        options
    }

    /// Starts a service, and waits until its store is open.
    pub(super) async fn start(&self, config: &str) -> Service {
        let service = self.start_with(self.options(config)).await;
        service.hooks.opened().await;
        service
    }

    /// Starts a service, once an earlier one has let go of the store and the spool.
    pub(super) async fn start_with(&self, options: HooksOptions) -> Service {
        let begin = std::time::Instant::now();
        loop {
            let health = Health::new();
            match Hooks::start(options.clone(), health.clone()).await {
                Ok(hooks) => return Service::serve(self.clone(), hooks, health, &options),
                Err(StartError::Store(StoreError::InUse { .. }) | StartError::Spool(OpenError::InUse(_)))
                    if begin.elapsed() < PATIENCE =>
                {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A connection to the store's database.
    pub(super) fn db(&self) -> Db {
        Db::new(&self.url, Use::Ledger { create: false })
    }
}

pub(super) fn read(config: &str) -> HooksConfig {
    HooksConfig::read("hooks.toml", config, &|_| Err("no file".to_owned())).unwrap_or_else(|error| panic!("{error}"))
}

/// A running service and its port.
pub(super) struct Service {
    pub(super) place: Place,
    pub(super) hooks: Hooks,
    pub(super) health: Health,
    pub(super) address: SocketAddr,
    db: Db,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

struct Silent;

impl ConnectionEvents for Silent {
    fn accept_failed(&self, _: &std::io::Error, _: bool) {}
    fn turned_away(&self, _: &'static str, _: Option<std::net::IpAddr>) {}
}

impl Service {
    fn serve(place: Place, hooks: Hooks, health: Health, options: &HooksOptions) -> Service {
        let listener = bind("listen", "127.0.0.1:0".parse().unwrap(), 64 * 1024).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ListenLimits {
            connections: 200,
            handshake_timeout: Duration::from_secs(10),
            send_buffer_bytes: 64 * 1024,
            unacknowledged_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        };
        let (stop, tracker) = (options.stop.clone(), options.connections.clone());
        let serving = tokio::spawn(serve(listener, hooks.routes(), limits, Arc::new(Silent), tracker, stop.clone()));
        let db = place.db();
        Service { place, hooks, health, address, db, stop, serving }
    }

    /// Ends in order.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.hooks.stop().await;
        self.db.close().await;
    }

    /// Sets the clock ahead.
    pub(super) fn ahead(&self, seconds: i64) {
        self.place.ahead_us.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
        self.hooks.wake();
    }

    /// Posts, and returns the states of the items.
    pub(super) async fn post(&self, source: &str, body: &str) -> Vec<String> {
        let json = self.post_json(source, body).await;
        let items = json["items"].as_array().cloned().unwrap_or_else(|| panic!("{json}"));
        items.iter().map(|item| item["state"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) async fn post_json(&self, source: &str, body: &str) -> Value {
        let answer = post(self.address, &self.place.key, source, body).await.expect("an answer");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Posts one item, and returns the status and the item's state.
    pub(super) async fn try_post(&self, source: &str, body: &str) -> (u16, String) {
        let (status, body) = exchange(self.address, &self.place.key, source, body).await.expect("an answer");
        let json: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        (status, json["items"][0]["state"].as_str().unwrap_or_default().to_owned())
    }

    /// The bugs of the rows of a feed's change table, in order.
    pub(super) async fn rows(&self, feed: &str) -> Vec<i64> {
        rows(&self.db, feed).await
    }

    /// Waits until a feed's change table has so many rows, and returns their bugs.
    pub(super) async fn until_rows(&self, feed: &str, count: usize) -> Vec<i64> {
        until(&format!("{count} rows"), async || {
            let rows = self.rows(feed).await;
            (rows.len() >= count).then_some(rows).ok_or_else(|| "fewer".to_owned())
        })
        .await
    }

    /// The newest events of a bug.
    pub(super) async fn events(&self, bug: u64) -> Vec<StoredEvent> {
        let filter = EventFilter { bug: BugId::new(bug), ..EventFilter::default() };
        let store = self.hooks.opened().await.0;
        store.list_events(&filter, None, 100).await.unwrap().events
    }

    /// Waits until the newest event of a bug is in this state, and returns it.
    pub(super) async fn until_state(&self, bug: u64, state: State) -> StoredEvent {
        until(&format!("bug {bug} {state}"), async || {
            let newest = self.events(bug).await.into_iter().next();
            let found = newest.as_ref().map(|stored| stored.event.progress.clone());
            newest.filter(|stored| stored.event.progress.state == state).ok_or_else(|| format!("{found:?}"))
        })
        .await
    }

    /// A counter of the metrics page, with its labels as they are written; 0 if it is not there.
    pub(super) fn counter(&self, name: &str) -> u64 {
        let page = Metrics::of(&[&self.hooks]).page();
        let line = page.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

pub(super) async fn rows(db: &Db, feed: &str) -> Vec<i64> {
    let sql = format!("SELECT bug_id FROM push_notify_{feed} ORDER BY id");
    // The table may not be there yet, or the database locked for a moment.
    let rows = db.fetch(&sql, &[]).await.unwrap_or_default();
    rows.into_iter().map(|row| row[0].int().unwrap()).collect()
}

/// Asks again and again until there is an answer.
pub(super) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begin = std::time::Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) => assert!(begin.elapsed() < PATIENCE, "{what}: {last}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Posts with the good key; `None` if the connection ends before the answer.
pub(super) async fn post(address: SocketAddr, key: &Key, source: &str, body: &str) -> Option<String> {
    let (status, body) = exchange(address, key, source, body).await?;
    assert_eq!(status, 200, "{body}");
    Some(body)
}

/// The status and the body of the answer.
async fn exchange(address: SocketAddr, key: &Key, source: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!(
        "POST /hooks/{source} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: \
         {}\r\n\r\n{body}",
        key.expose(),
        body.len()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("no answer").ok()?;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

pub(super) const PLAIN: &str = "[[source]]\nname = \"plain\"\npreset = \"plain\"\n";

/// A body for `plain`: these bugs, changed at this second of the day.
pub(super) fn changes(bugs: &[u64], second: i64) -> String {
    let when = When::from_micros(1_795_651_200_000_000 + second * 1_000_000).unwrap();
    let changes: Vec<String> = bugs.iter().map(|bug| format!("{{\"bug\":{bug},\"when\":\"{when}\"}}")).collect();
    format!("{{\"changes\":[{}]}}", changes.join(","))
}
