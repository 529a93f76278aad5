//! A process with webhooks, and its command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bugfeed::admin::{self, AdminCommand, Outcome, Screen};
use bugfeed::cli::Cli;
use bugfeed_core::endpoints::question::Since;
use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{Event, EventId, Trigger};
use bugfeed_core::hooks::lane::{Gate, Settings, World};
use bugfeed_core::hooks::processor::plan_lane;
use bugfeed_hooks::api::first_token::FirstToken;
use bugfeed_hooks::api::service::Doing;
use bugfeed_hooks::api::{Api, Check, Service};
use bugfeed_hooks::config::HooksConfig;
use bugfeed_hooks::receive::identity::Sha256;
use bugfeed_hooks::receive::mapped::Kept;
use bugfeed_hooks::receive::received::{
    Envelope, Failure, Proof, QuarantinedRequest, ReceivedItem, ReceivedRequest, RequestId, Share,
};
use bugfeed_hooks::store::apply::Plan;
use bugfeed_hooks::store::notes::Switch;
use bugfeed_hooks::store::{Look, Options, Store};
use bugfeed_protocol::{BugId, When};
use bugfeed_sql::DbUrl;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

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
    name = "gitlab"
    preset = "gitlab"
    secret = "s3cr3t"
"#;

struct Quiet(Arc<HooksConfig>);

impl Service for Quiet {
    fn config(&self) -> Arc<HooksConfig> {
        Arc::clone(&self.0)
    }

    fn keys_changed(&self) {}

    fn wake(&self) {}

    fn switched(&self, _: Switch, _: &str, _: bool) {}

    fn reconcile<'a>(&'a self, _: &'a str) -> Doing<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn test<'a>(&'a self, _: &'a str) -> Doing<'a, Vec<Check>> {
        Box::pin(async { Vec::new() })
    }

    fn sender(&self, _: &str) -> Value {
        Value::Null
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn begin(&self, _: &str, now_us: i64) -> Since {
        When::from_micros(now_us).map_or(Since::Unknown, Since::Time)
    }
}

pub struct Rig {
    pub dir: TempDir,
    pub store: Store,
    pub address: SocketAddr,
    count: Mutex<i64>,
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Said {
    pub outcome: Result<Outcome, String>,
    pub out: String,
    pub remarks: String,
}

impl Said {
    /// What a command that went well printed.
    pub fn good(self) -> String {
        assert_eq!(self.outcome, Ok(Outcome::Good), "{self:?}");
        self.out
    }

    /// The error, which names all of these.
    pub fn error(self, wants: &[&str]) {
        let error = self.outcome.expect_err(&self.out);
        for want in wants {
            assert!(error.contains(want), "no '{want}' in: {error}");
        }
        assert_eq!(self.out, "");
    }
}

/// Carries out a command line.
pub async fn run(args: &[&str]) -> Said {
    let all = std::iter::once("bugfeed").chain(args.iter().copied());
    let cli = Cli::read(all.map(Into::into)).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    let (mut out, mut remarks) = (Vec::new(), Vec::new());
    let mut screen = Screen { out: &mut out, remarks: &mut remarks };
    let command = AdminCommand::of(cli.command).unwrap();
    let outcome = admin::run(command, &mut screen).await.map_err(|error| error.to_string());
    Said { outcome, out: String::from_utf8(out).unwrap(), remarks: String::from_utf8(remarks).unwrap() }
}

pub fn now_us() -> i64 {
    When::from_system_time(std::time::SystemTime::now()).as_micros()
}

impl Rig {
    pub async fn start() -> Rig {
        let dir = TempDir::new().unwrap();
        let url: DbUrl = format!("sqlite://{}", dir.path().join("hooks.db").display()).parse().unwrap();
        let first = FirstToken::prepare(&dir.path().join("admin.token")).unwrap();
        let options = Options { first_token: Some(first.to_store(now_us())), ..Options::default() };
        let store = Store::open(&url, options).await.unwrap().store;
        first.settle(&store).await.unwrap().unwrap();
        for feed in ["default", "kde"] {
            store.serve_feed(feed, None).await.unwrap();
        }
        let config = HooksConfig::read("hooks.toml", CONFIG, &|_| Err("no file".to_owned())).unwrap();
        let api = Api::new(store.clone(), Arc::new(Quiet(Arc::new(config))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, api.routes()).await });
        Rig { dir, store, address, count: Mutex::new(0) }
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("admin.token")
    }

    /// Carries out a command line with the options for this process.
    pub async fn run(&self, args: &[&str]) -> Said {
        let (url, file) = (format!("http://{}/", self.address), self.token_file().display().to_string());
        let mut all = args.to_vec();
        all.extend(["--admin-url", &url, "--admin-token-file", &file]);
        run(&all).await
    }

    /// The same with `--json`: the objects that are printed.
    pub async fn json(&self, args: &[&str]) -> Vec<Value> {
        let mut all = args.to_vec();
        all.push("--json");
        self.run(&all).await.good().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn arrive(&self, items: Vec<ReceivedItem>) -> ReceivedRequest {
        let at_us = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            now_us() - 60_000_000 + 1000 * *count
        };
        let items = (0..).zip(items).map(|(index, item)| ReceivedItem { index, ..item }).collect();
        let envelope = Envelope {
            id: RequestId::new(at_us, rand::random()),
            source: "plain".to_owned(),
            received_us: at_us,
            address: "192.0.2.1".parse().unwrap(),
            key_id: Some("abcdef".to_owned()),
            path: "/hooks/plain".to_owned(),
            headers: vec![("User-Agent".to_owned(), "test\u{1b}[31m".to_owned())],
            size: 100,
            body_hash: Some(Sha256::of(b"body")),
            body: Some("{\"changes\":[{\"bug\":7}]}".into()),
            status: 200,
        };
        let request = ReceivedRequest {
            envelope,
            trigger: Trigger::Live,
            replays: None,
            failure: None,
            items,
            answered: Vec::new(),
        };
        self.store.accept(&[&request]).await.unwrap();
        request
    }

    /// A request to this source that nobody vouches for.
    pub async fn refuse(&self, source: &str) {
        let mut envelope = self.arrive(Vec::new()).await.envelope;
        (envelope.id, envelope.source) = (RequestId::new(now_us(), rand::random()), source.to_owned());
        envelope.received_us = now_us();
        let failure = Failure { error: "the key is not known".to_owned(), fix: "make one".to_owned() };
        let refused = QuarantinedRequest { envelope, share: Share::KnownSource, failure, proof: Proof::default() };
        self.store.quarantine(&refused).await.unwrap();
    }

    /// One item, and the identifier of its event.
    pub async fn event(&self, item: ReceivedItem) -> EventId {
        self.arrive(vec![item]).await.envelope.id.event(0)
    }

    /// Completes what is due.
    pub async fn work(&self) {
        let now_us = now_us();
        let look = Look { now_us, lease_us: 60_000_000, with_done: true };
        let due = self.store.due_lanes(&look, false, 1000).await.unwrap();
        let keys: Vec<_> = due.into_iter().map(|due| due.key).collect();
        let mut plans = Vec::new();
        for lane in self.store.lanes(&keys, &look).await.unwrap() {
            let source = |_: &Event| (Settings::DEFAULT, Gate::OPEN);
            let world = World { now_us, lease_us: 60_000_000, batch: 32, source: &source };
            plans.push(Plan { now_us, actions: plan_lane(&lane, &world), reasons: Vec::new() });
        }
        self.store.apply_many(&plans).await.unwrap();
    }
}

pub fn item(bug: u64, delivery: &str) -> ReceivedItem {
    ReceivedItem {
        index: 0,
        mapping: Mapping::Fits,
        failure: None,
        feed: "default".to_owned(),
        bug: BugId::new(bug),
        when_us: 1_795_694_400_000_000,
        is_dated: true,
        has_wrong_clock: false,
        kind: "edit\u{1b}[31m".to_owned(),
        project: None,
        delivery: Some(delivery.to_owned()),
        hash: Sha256::of(format!("{bug} {delivery}").as_bytes()),
        is_private: false,
        kept: None,
    }
}

pub fn failed(delivery: &str) -> ReceivedItem {
    ReceivedItem {
        mapping: Mapping::Failed,
        failure: Some(Failure { error: "there is no number of a bug".to_owned(), fix: "name it".to_owned() }),
        bug: None,
        kept: Some(Kept { item: "{\"title\":\"x\"}".to_owned(), headers: Vec::new() }),
        ..item(1, delivery)
    }
}
