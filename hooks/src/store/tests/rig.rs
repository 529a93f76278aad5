//! A store of its own for each test, and requests to put into it.

use std::sync::atomic::{AtomicI64, Ordering};

use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{Event, EventId, State, Trigger};
use bugfeed_core::hooks::lane::{Gate, LaneKey, Settings, World};
use bugfeed_core::hooks::processor::plan_lane;
use bugfeed_protocol::BugId;
use bugfeed_sql::{DbUrl, Value};
use bugfeed_testbed::{SqlServer, shared};
use tempfile::TempDir;

use crate::receive::identity::Sha256;
use crate::receive::mapped::Kept;
use crate::receive::received::{Envelope, Failure, ReceivedItem, ReceivedRequest, RequestId};
use crate::store::apply::Plan;
use crate::store::row::{StoredEvent, columns, read_all};
use crate::store::{Look, Options, Store};

/// 2026-11-26T12:00:00.
pub(super) const NOON_US: i64 = 1_795_694_400_000_000;
pub(super) const SECOND_US: i64 = 1_000_000;
/// How long a claim holds.
pub(super) const LEASE_US: i64 = 60 * SECOND_US;

pub(super) struct Rig {
    pub(super) url: DbUrl,
    pub(super) url_text: String,
    pub(super) store: Store,
    pub(super) dir: TempDir,
    /// Requests so far, so that each one is a millisecond later.
    count: AtomicI64,
}

impl Rig {
    pub(super) async fn sqlite() -> Rig {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite://{}", dir.path().join("hooks.db").display());
        Rig::at(url, dir, Options::default()).await
    }

    pub(super) async fn mariadb() -> Option<Rig> {
        Some(Rig::on(&shared::mariadb().await?).await)
    }

    pub(super) async fn postgres() -> Option<Rig> {
        Some(Rig::on(&shared::postgres().await?).await)
    }

    async fn on(server: &SqlServer) -> Rig {
        let name = server.create_database().await.unwrap();
        Rig::at(server.url(&name), TempDir::new().unwrap(), Options::default()).await
    }

    async fn at(url_text: String, dir: TempDir, options: Options) -> Rig {
        let url: DbUrl = url_text.parse().unwrap();
        let store = Store::open(&url, options).await.unwrap().store;
        store.serve_feed("f", None).await.unwrap();
        Rig { url, url_text, store, dir, count: AtomicI64::new(0) }
    }

    /// Another store in the same place, as another process has it.
    pub(super) async fn other(&self) -> Store {
        self.with(Options { works: false, ..Options::default() }).await
    }

    pub(super) async fn with(&self, options: Options) -> Store {
        let store = Store::open(&self.url, options).await.unwrap().store;
        store.serve_feed("f", None).await.unwrap();
        store
    }

    /// A request with these items, a millisecond after the one before.
    pub(super) fn request(&self, items: Vec<ReceivedItem>) -> ReceivedRequest {
        let at_us = NOON_US + 1000 * self.count.fetch_add(1, Ordering::Relaxed);
        request_at(at_us, items)
    }

    /// Stores one request with one item.
    pub(super) async fn arrive(&self, item: ReceivedItem) -> EventId {
        let request = self.request(vec![item]);
        self.store.accept(&[&request]).await.unwrap();
        request.envelope.id.event(0)
    }

    pub(super) async fn stored(&self, id: EventId) -> StoredEvent {
        self.store.detail(id).await.unwrap().unwrap().stored
    }

    pub(super) async fn state(&self, id: EventId) -> State {
        self.stored(id).await.event.progress.state
    }

    /// All events, in the order of their identifiers.
    pub(super) async fn all(&self) -> Vec<StoredEvent> {
        let sql = format!("SELECT {} FROM hooks_events ORDER BY id", columns(""));
        read_all(self.store.db.fetch(&sql, &[]).await.unwrap()).unwrap()
    }

    pub(super) async fn count(&self, what: &str) -> i64 {
        count(&self.store, what).await
    }

    /// The rows of the change table, as (id, bug).
    pub(super) async fn rows(&self) -> Vec<(i64, i64)> {
        let table = self.store.change_table("f").unwrap();
        let rows = self.store.db.fetch(&format!("SELECT id, bug_id FROM {table} ORDER BY id"), &[]).await.unwrap();
        rows.into_iter().map(|row| (row[0].int().unwrap(), row[1].int().unwrap())).collect()
    }

    /// Plans and carries out what is due now, until nothing more is; questions are not answered.
    pub(super) async fn work(&self, now_us: i64) {
        work(&self.store, now_us, Settings::DEFAULT).await;
    }
}

pub(super) async fn count(store: &Store, what: &str) -> i64 {
    let rows = store.db.fetch(&format!("SELECT COUNT(*) FROM {what}"), &[]).await.unwrap();
    rows[0][0].int().unwrap()
}

/// A look at this time, at everything.
pub(super) fn look(now_us: i64) -> Look {
    Look { now_us, lease_us: LEASE_US, with_done: true }
}

/// Plans a lane under these settings.
pub(super) async fn plan(store: &Store, key: &LaneKey, now_us: i64, settings: Settings) -> Plan {
    let lane = store.lane(key, &look(now_us)).await.unwrap();
    let source = move |_: &Event| (settings, Gate::OPEN);
    let world = World { now_us, lease_us: LEASE_US, batch: 32, source: &source };
    Plan { now_us, actions: plan_lane(&lane, &world), reasons: Vec::new() }
}

pub(super) async fn work(store: &Store, now_us: i64, settings: Settings) {
    for _ in 0..1000 {
        let mut due = store.due_lanes(&look(now_us), false, 100).await.unwrap();
        due.extend(store.due_lanes(&look(now_us), true, 100).await.unwrap());
        if due.is_empty() {
            return;
        }
        let mut plans = Vec::new();
        for due in due {
            plans.push(plan(store, &due.key, now_us, settings).await);
        }
        store.apply_many(&plans).await.unwrap();
    }
    panic!("there is always something due");
}

pub(super) fn request_at(at_us: i64, items: Vec<ReceivedItem>) -> ReceivedRequest {
    let items = (0..).zip(items).map(|(index, item)| ReceivedItem { index, ..item }).collect();
    ReceivedRequest {
        envelope: envelope(at_us),
        trigger: Trigger::Live,
        replays: None,
        failure: None,
        items,
        answered: Vec::new(),
    }
}

pub(super) fn envelope(at_us: i64) -> Envelope {
    Envelope {
        id: RequestId::new(at_us, rand::random()),
        source: "s".to_owned(),
        received_us: at_us,
        address: "192.0.2.1".parse().unwrap(),
        key_id: Some("abcdef".to_owned()),
        path: "/hooks/s".to_owned(),
        headers: vec![("User-Agent".to_owned(), "test".to_owned())],
        size: 100,
        body_hash: Some(Sha256::of(b"body")),
        body: None,
        status: 200,
    }
}

/// An item of this bug that changed at noon and so many seconds, under this delivery id. The content follows from
/// these.
pub(super) fn item(bug: u64, second: i64, delivery: &str) -> ReceivedItem {
    ReceivedItem {
        index: 0,
        mapping: Mapping::Fits,
        failure: None,
        feed: "f".to_owned(),
        bug: BugId::new(bug),
        when_us: NOON_US + second * SECOND_US,
        is_dated: true,
        has_wrong_clock: false,
        kind: "edit".to_owned(),
        project: None,
        delivery: (!delivery.is_empty()).then(|| delivery.to_owned()),
        hash: Sha256::of(format!("{bug} {second} {delivery}").as_bytes()),
        is_private: false,
        kept: None,
    }
}

/// An item that the mapping failed for.
pub(super) fn failed(delivery: &str, kept: Option<&str>) -> ReceivedItem {
    ReceivedItem {
        mapping: Mapping::Failed,
        failure: Some(Failure { error: "no bug".to_owned(), fix: "name it".to_owned() }),
        bug: None,
        kept: kept.map(|item| Kept { item: item.to_owned(), headers: vec![("X-Event".to_owned(), "e".to_owned())] }),
        ..item(1, 0, delivery)
    }
}

pub(super) fn lane_of(bug: u64) -> LaneKey {
    LaneKey::Bug("f".into(), BugId::new(bug).unwrap())
}

/// A text of a query's first column.
pub(super) async fn texts(store: &Store, sql: &str) -> Vec<String> {
    let rows = store.db.fetch(sql, &[]).await.unwrap();
    rows.into_iter().filter_map(|row| row.into_iter().next().and_then(Value::into_text)).collect()
}
