//! The API on a port of its own, over a store of its own, with a service that notes what it is told.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bugfeed_core::endpoints::question::{Since, Told as NewestTold};
use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{Event, EventId, State, Trigger};
use bugfeed_core::hooks::lane::{Gate, Settings, World};
use bugfeed_core::hooks::processor::plan_lane;
use bugfeed_hooks::api::service::Doing;
use bugfeed_hooks::api::{Api, Check, Service};
use bugfeed_hooks::client::{Address, Client, Options as ClientOptions, Request};
use bugfeed_hooks::config::HooksConfig;
use bugfeed_hooks::deliver::template::Link;
use bugfeed_hooks::receive::identity::Sha256;
use bugfeed_hooks::receive::mapped::Kept;
use bugfeed_hooks::receive::received::{
    Envelope, Failure, Proof, QuarantinedRequest, ReceivedItem, ReceivedRequest, RequestId, Share,
};
use bugfeed_hooks::store::apply::Plan;
use bugfeed_hooks::store::endpoints::EndpointId;
use bugfeed_hooks::store::notes::Switch;
use bugfeed_hooks::store::tokens::{NewToken, RANDOM_BYTES, Scope, Token};
use bugfeed_hooks::store::{Look, Options, Store};
use bugfeed_protocol::{BugId, Cursor, When};
use bugfeed_sql::DbUrl;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// 2026-11-26T12:00:00: what was received, was received then.
pub const NOON_US: i64 = 1_795_694_400_000_000;
pub const SECOND_US: i64 = 1_000_000;

thread_local! {
    /// Of one test: each has a thread of its own.
    static TICKS: Cell<i64> = const { Cell::new(0) };
}

/// An hour after noon, and a millisecond later each time that somebody looks.
fn clock() -> i64 {
    NOON_US + 3600 * SECOND_US + 1000 * TICKS.replace(TICKS.get() + 1)
}

const CONFIG: &str = r#"
    [[source]]
    name = "plain"
    preset = "plain"
    bodies = "all"
    [[source]]
    name = "tracked"
    preset = "bugzilla"
    feed = "kde"
    tracker = "https://bugs.example.org"
    reconcile = "5m"
    [[source]]
    name = "signed"
    preset = "github"
    secret = "hidden-secret"
    feed = "kde"
    [[source]]
    name = "unsigned"
    preset = "github"
    feed = "kde"
    [[notify]]
    on = "all"
    url = "https://chat.example.org/hook/hidden-path"
"#;

/// What the API tells the process around it.
pub struct Told {
    config: Arc<HooksConfig>,
    pub words: Mutex<Vec<String>>,
    /// The cursors at which feeds are; of others nothing is known.
    pub heads: Mutex<BTreeMap<String, Cursor>>,
    /// Whether the feeds have changes after each cursor.
    pub has_after: Mutex<Option<bool>>,
    /// The newest change of each bug.
    pub newest: Mutex<Option<NewestTold>>,
    /// Whether the feeds know each cursor.
    pub knows: Mutex<Option<bool>>,
    /// The feeds that are served; none: those of the configuration.
    pub feeds: Mutex<Option<Vec<String>>>,
}

impl Told {
    fn note(&self, word: String) {
        self.words.lock().unwrap().push(word);
    }
}

impl Service for Told {
    fn config(&self) -> Arc<HooksConfig> {
        Arc::clone(&self.config)
    }

    fn keys_changed(&self) {
        self.note("keys".to_owned());
    }

    fn wake(&self) {
        self.note("wake".to_owned());
    }

    fn switched(&self, what: Switch, name: &str, is_on: bool) {
        self.note(format!("{what:?} {name} {is_on}"));
    }

    fn reconcile<'a>(&'a self, source: &'a str) -> Doing<'a, Result<(), Failure>> {
        self.note(format!("reconcile {source}"));
        Box::pin(async { Ok(()) })
    }

    fn test<'a>(&'a self, source: &'a str) -> Doing<'a, Vec<Check>> {
        let says = format!("the tracker of {source} answers");
        Box::pin(async { vec![Check { what: "tracker".to_owned(), is_good: true, says }] })
    }

    fn sender(&self, source: &str) -> Value {
        if source == "tracked" { json!({ "webhooks": 1 }) } else { Value::Null }
    }

    fn warnings(&self) -> Vec<String> {
        vec!["the spool holds 3 requests".to_owned()]
    }

    fn link(&self, feed: &str) -> Option<Link> {
        (feed == "kde").then(|| Link::parse("https://bugs.example.org/{bug}").unwrap())
    }

    fn begin(&self, feed: &str, now_us: i64) -> Since {
        let head = self.heads.lock().unwrap().get(feed).cloned();
        head.map_or_else(|| Since::Time(When::from_micros(now_us).unwrap()), Since::Cursor)
    }

    fn has_after(&self, _feed: &str, _bug: BugId, _since: &Since) -> Option<bool> {
        *self.has_after.lock().unwrap()
    }

    fn addresses<'a>(&'a self, host: &'a str) -> Doing<'a, Result<Vec<IpAddr>, String>> {
        let found = if host == "localhost" { vec![IpAddr::from([127, 0, 0, 1])] } else { Vec::new() };
        Box::pin(async { Ok(found) })
    }

    fn newest(&self, _feed: &str, _bug: BugId) -> Option<NewestTold> {
        self.newest.lock().unwrap().clone()
    }

    fn knows(&self, _feed: &str, _cursor: &Cursor) -> Option<bool> {
        *self.knows.lock().unwrap()
    }

    fn feeds(&self) -> Vec<String> {
        let known = || self.config.feeds().into_iter().map(str::to_owned).collect();
        self.feeds.lock().unwrap().clone().unwrap_or_else(known)
    }

    fn endpoint_changed(&self, id: &EndpointId) {
        self.note(format!("endpoint {id}"));
    }
}

pub struct Rig {
    pub dir: TempDir,
    pub store: Store,
    pub told: Arc<Told>,
    /// A token with all scopes.
    pub token: Token,
    address: SocketAddr,
    client: Client,
    count: AtomicI64,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub headers: hyper::HeaderMap,
}

impl Answer {
    /// The body of an answer that is no refusal.
    pub fn good(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }

    /// Makes sure that it is a refusal with this status, whose error has this text, and that it says what to do.
    pub fn refused(&self, status: u16, want: &str) {
        let error = self.body["error"].as_str().unwrap_or_default();
        assert_eq!(self.status, status, "{self:?}");
        assert!(error.contains(want), "no '{want}' in: {error}");
        assert!(self.body["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{self:?}");
        assert_eq!(self.body.as_object().unwrap().len(), 2, "{self:?}");
    }
}

impl Rig {
    pub async fn start() -> Rig {
        let dir = TempDir::new().unwrap();
        let url: DbUrl = format!("sqlite://{}", dir.path().join("hooks.db").display()).parse().unwrap();
        let token = Token::generate(&[5; RANDOM_BYTES]);
        let scopes = Scope::ALL.to_vec();
        let first = NewToken { token: token.clone(), name: "first".to_owned(), scopes, created_us: NOON_US };
        let options = Options { first_token: Some(first), ..Options::default() };
        let store = Store::open(&url, options).await.unwrap().store;
        for feed in ["default", "kde"] {
            store.serve_feed(feed, None).await.unwrap();
        }
        let config = HooksConfig::read("hooks.toml", CONFIG, &|_| Err("no file".to_owned())).unwrap();
        let told = Told {
            config: Arc::new(config),
            words: Mutex::default(),
            heads: Mutex::default(),
            has_after: Mutex::default(),
            newest: Mutex::default(),
            knows: Mutex::default(),
            feeds: Mutex::default(),
        };
        let told = Arc::new(told);
        let api = Api::with_clock(store.clone(), Arc::clone(&told) as Arc<dyn Service>, clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = api.routes();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let client = Client::new(ClientOptions::default());
        Rig { dir, store, told, token, address, client, count: AtomicI64::new(0) }
    }

    /// What the service was told since this was asked last.
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.words.lock().unwrap())
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(&self.token, Method::GET, path, "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(&self.token, Method::POST, path, &body.to_string()).await
    }

    pub async fn call(&self, token: &Token, method: Method, path: &str, body: &str) -> Answer {
        let value = format!("Bearer {}", token.expose());
        self.send(method, path, &[(AUTHORIZATION, &value)], body).await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(HeaderName, &str)], body: &str) -> Answer {
        let to = Address::parse(&format!("http://{}/api{path}", self.address)).unwrap();
        let mut request = Request::get(to);
        request.method = method;
        request.body = body.to_owned().into();
        request.longest_body = 64 << 20;
        for (name, value) in headers {
            request = request.with(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        let response = self.client.send(request).await.unwrap();
        if response.headers.get("content-type").is_some_and(|kind| kind == "application/json") {
            assert!(response.body.ends_with(b"\n"), "people read answers in a terminal");
        }
        let body = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
        Answer { status: response.status.as_u16(), body, headers: response.headers }
    }

    /// A token with these scopes only.
    pub async fn token_with(&self, scopes: &[Scope]) -> Token {
        let token = Token::generate(&rand::random::<[u8; RANDOM_BYTES]>());
        let scopes = scopes.to_vec();
        let new = NewToken { token: token.clone(), name: "less".to_owned(), scopes, created_us: NOON_US };
        self.store.add_token(&new).await.unwrap();
        token
    }

    /// The audit log, oldest first: who, what, to what.
    pub async fn audited(&self) -> Vec<String> {
        let mut deeds = self.store.audited(None, 1000).await.unwrap();
        deeds.reverse();
        deeds.into_iter().map(|deed| format!("{} {} {}", deed.who, deed.deed, deed.subject)).collect()
    }

    /// A request with these items, a millisecond after the one before.
    pub fn request(&self, items: Vec<ReceivedItem>) -> ReceivedRequest {
        request_at(NOON_US + 1000 * self.count.fetch_add(1, Ordering::Relaxed), items)
    }

    /// Stores one request with one item.
    pub async fn arrive(&self, item: ReceivedItem) -> EventId {
        let request = self.request(vec![item]);
        self.store.accept(&[&request]).await.unwrap();
        request.envelope.id.event(0)
    }

    pub async fn state(&self, id: EventId) -> State {
        self.store.event(id).await.unwrap().unwrap().progress.state
    }

    /// Plans and carries out what is due now.
    pub async fn work(&self, now_us: i64) {
        let look = Look { now_us, lease_us: 60 * SECOND_US, with_done: true };
        loop {
            let mut due = self.store.due_lanes(&look, false, 1000).await.unwrap();
            due.extend(self.store.due_lanes(&look, true, 1000).await.unwrap());
            if due.is_empty() {
                return;
            }
            let keys: Vec<_> = due.into_iter().map(|due| due.key).collect();
            let mut plans = Vec::new();
            for lane in self.store.lanes(&keys, &look).await.unwrap() {
                let source = move |_: &Event| (Settings::DEFAULT, Gate::OPEN);
                let world = World { now_us, lease_us: 60 * SECOND_US, batch: 32, source: &source };
                plans.push(Plan { now_us, actions: plan_lane(&lane, &world), reasons: Vec::new() });
            }
            self.store.apply_many(&plans).await.unwrap();
        }
    }
}

pub fn request_at(at_us: i64, items: Vec<ReceivedItem>) -> ReceivedRequest {
    let items = (0..).zip(items).map(|(index, item)| ReceivedItem { index, ..item }).collect();
    let envelope = envelope(at_us);
    ReceivedRequest { envelope, trigger: Trigger::Live, replays: None, failure: None, items, answered: Vec::new() }
}

pub fn envelope(at_us: i64) -> Envelope {
    Envelope {
        id: RequestId::new(at_us, rand::random()),
        source: "plain".to_owned(),
        received_us: at_us,
        address: "192.0.2.1".parse().unwrap(),
        key_id: Some("abcdef".to_owned()),
        path: "/hooks/plain".to_owned(),
        headers: vec![
            ("User-Agent".to_owned(), "test".to_owned()),
            ("X-Person".to_owned(), "hidden-person".to_owned()),
            ("Content-Type".to_owned(), "application/json".to_owned()),
        ],
        size: 100,
        body_hash: Some(Sha256::of(b"body")),
        body: None,
        status: 200,
    }
}

/// An item of this bug that changed at noon and so many seconds, under this delivery id.
pub fn item(bug: u64, second: i64, delivery: &str) -> ReceivedItem {
    ReceivedItem {
        index: 0,
        mapping: Mapping::Fits,
        failure: None,
        feed: "default".to_owned(),
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

/// An item that the mapping failed for, and that is kept.
pub fn failed(delivery: &str) -> ReceivedItem {
    ReceivedItem {
        mapping: Mapping::Failed,
        failure: Some(Failure { error: "there is no number of a bug".to_owned(), fix: "name it".to_owned() }),
        bug: None,
        kept: Some(Kept {
            item: "{\"title\":\"hidden-title\"}".to_owned(),
            headers: vec![("X-Event".to_owned(), "e".to_owned())],
        }),
        ..item(1, 0, delivery)
    }
}

/// A request in quarantine with this body.
pub fn suspect(at_us: i64, body: &str, proof: Proof) -> QuarantinedRequest {
    let mut envelope = envelope(at_us);
    envelope.body = Some(body.to_owned().into());
    let failure = Failure { error: "the key is not known".to_owned(), fix: "make one".to_owned() };
    QuarantinedRequest { envelope, share: Share::KnownSource, failure, proof }
}
