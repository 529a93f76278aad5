//! A store, feeds, a receiver and an executor for each test.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bugfeed_core::endpoints::orders::{Order, carry_out};
use bugfeed_core::endpoints::policy::Policy;
use bugfeed_core::endpoints::question::{self, Answer, Ask, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::replay::{Replay, ReplayLimits, replay};
use bugfeed_core::sequencer::Sequencer;
use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};
use bugfeed_runtime::health::Health;
use bugfeed_runtime::watchdog::Watchdog;
use bugfeed_sql::{Db, DbUrl, Use};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::deliver::headers::UserHeaders;
use crate::deliver::sign::SigningSecret;
use crate::deliver::template::Link;
use crate::endpoints::{EndpointEvents, Endpoints, EndpointsOptions, EndpointsParts, FeedTap};
use crate::receive::signature::Stamped;
use crate::store::endpoints::{AttemptRow, EndpointId, FeedChoice, Settings, Stored};
use crate::store::{Options, Store};
use crate::test_server::Got;

/// Nothing in these tests may take longer. Planners look by themselves after 40 to 50 s, so what nobody told them shows.
const PATIENCE: Duration = Duration::from_secs(35);

/// Looks again and again until there is something.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(super) fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

pub(super) fn bugs(numbers: &[u64]) -> Watch {
    Watch::Bugs(numbers.iter().map(|number| bug(*number)).collect())
}

/// A feed of this process, of which a test says what changes.
pub(crate) struct Feed {
    name: Arc<str>,
    replay: Arc<Replay>,
    sequencer: Mutex<(Sequencer, u64)>,
    seen: watch::Sender<u64>,
    current: AtomicBool,
    breaks: AtomicU64,
    link: Option<Link>,
}

impl Feed {
    pub(crate) fn new(name: &str) -> Arc<Feed> {
        let (recorder, replay) = replay(ReplayLimits::default());
        let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
        sequencer.begin(epoch(name));
        Arc::new(Feed {
            name: name.into(),
            replay,
            sequencer: Mutex::new((sequencer, 0)),
            seen: watch::Sender::new(0),
            current: AtomicBool::new(true),
            breaks: AtomicU64::new(0),
            link: Link::parse("https://bugs.example.org/{bug}").ok(),
        })
    }

    /// A bug changes. Returns the number of the change.
    pub(crate) fn change(&self, number: u64) -> u64 {
        let mut sequencer = self.sequencer.lock().unwrap();
        sequencer.1 += 1;
        let now = When::from_system_time(SystemTime::now());
        let cursor = Some(self.cursor(sequencer.1));
        let message = BusMessage { change: Change { bug: bug(number), when: now }, cursor, after: None };
        sequencer.0.accept_gap(&message, None, now);
        let seq = sequencer.1;
        drop(sequencer);
        self.moves();
        seq
    }

    /// A change does not come: the one after it shows that something was missed.
    pub(crate) fn miss(&self) {
        self.sequencer.lock().unwrap().1 += 1;
    }

    pub(crate) fn set_current(&self, current: bool) {
        self.current.store(current, Ordering::SeqCst);
        self.moves();
    }

    fn moves(&self) {
        self.seen.send_modify(|seen| *seen += 1);
    }

    pub(crate) fn cursor(&self, seq: u64) -> Cursor {
        Cursor::new(epoch(&self.name), seq)
    }
}

fn epoch(name: &str) -> Epoch {
    Epoch::parse(&format!("epoch-{name}")).unwrap()
}

impl FeedTap for Feed {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ask(&self, ask: &Ask<'_>) -> Answer {
        match self.current.load(Ordering::SeqCst) {
            true => question::answer(&self.replay, ask),
            false => Answer::NotYet(None),
        }
    }

    fn seen(&self) -> watch::Receiver<u64> {
        self.seen.subscribe()
    }

    fn bugs_since(&self, pos: u64) -> Option<(Vec<BugId>, u64)> {
        let breaks = self.replay.breaks();
        let head = self.replay.head();
        (self.breaks.swap(breaks, Ordering::SeqCst) == breaks).then(|| (self.replay.bugs_after(pos), head))
    }

    fn head(&self) -> u64 {
        self.replay.head()
    }

    fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }
}

/// What outlives an executor.
pub(super) struct Place {
    pub(super) store: Store,
    pub(super) url: DbUrl,
    pub(super) feed: Arc<Feed>,
    pub(super) taps: watch::Sender<Vec<Arc<dyn FeedTap>>>,
    pub(super) ahead_us: Arc<AtomicI64>,
    pub(super) alerts: Arc<Mutex<Vec<(&'static str, String)>>>,
    pub(super) health: Health,
    _folder: TempDir,
}

impl Place {
    pub(super) async fn new() -> Place {
        let folder = TempDir::new().unwrap();
        let url: DbUrl = format!("sqlite://{}", folder.path().join("hooks.db").display()).parse().unwrap();
        // Several executors of a test share the file.
        let store = Store::open(&url, Options { works: false, ..Options::default() }).await.unwrap().store;
        let feed = Feed::new("kde");
        let taps = watch::Sender::new(vec![Arc::clone(&feed) as Arc<dyn FeedTap>]);
        Place {
            store,
            url,
            feed,
            taps,
            ahead_us: Arc::default(),
            alerts: Arc::default(),
            health: Health::new(),
            _folder: folder,
        }
    }

    pub(super) fn options(&self) -> EndpointsOptions {
        let ahead_us = Arc::clone(&self.ahead_us);
        let mut options = EndpointsOptions {
            within: Duration::from_secs(2),
            poll: Duration::from_millis(50),
            stop_grace: Duration::from_millis(500),
            is_alone: true,
            clock: Arc::new(move || {
                When::from_system_time(SystemTime::now()).as_micros() + ahead_us.load(Ordering::SeqCst)
            }),
            ..EndpointsOptions::default()
        };
        options.rules.allowed = vec!["127.0.0.0/8".parse().unwrap()];
        options
    }

    pub(super) fn start(&self) -> Endpoints {
        self.start_with(self.options())
    }

    pub(super) fn start_with(&self, options: EndpointsOptions) -> Endpoints {
        Endpoints::start(std::future::ready(self.store.clone()), self.taps.subscribe(), self.parts(options))
    }

    pub(super) fn parts(&self, options: EndpointsOptions) -> EndpointsParts {
        let alerts = Arc::clone(&self.alerts);
        EndpointsParts {
            watchdog: Watchdog::default(),
            options,
            events: Arc::new(EndpointEvents::new(self.health.clone())),
            raise: Arc::new(move |subject, _, text| alerts.lock().unwrap().push((subject, text))),
        }
    }

    /// The store as another process has it, to lock it.
    pub(super) fn db(&self) -> Db {
        Db::new(&self.url, Use::Ledger { create: false })
    }

    /// Makes an endpoint of the feed.
    pub(super) async fn endpoint(&self, url: &str, watch: Watch) -> EndpointId {
        self.endpoint_with(settings(url), Row::new(Policy::Classic, watch, ["kde".into()])).await
    }

    pub(super) async fn endpoint_with(&self, settings: Settings, row: Row) -> EndpointId {
        let id = EndpointId::new(rand::random());
        self.store.create_endpoint(&id, &settings, &row, None).await.unwrap();
        id
    }

    /// Gives an order, as the API does.
    pub(super) async fn order(&self, id: &EndpointId, order: Order) -> Stored {
        self.store.change_endpoint(id, None, |_, row| carry_out(row, &order)).await.unwrap().0
    }

    pub(super) async fn row(&self, id: &EndpointId) -> Row {
        self.store.endpoint(id).await.unwrap().unwrap().row
    }

    /// Waits until the cursor is stored.
    pub(super) async fn until_cursor(&self, id: &EndpointId, seq: u64) {
        until(&format!("cursor {seq}"), async || {
            let row = self.row(id).await;
            row.cursor("kde").filter(|cursor| cursor.seq >= seq).map(|_| ())
        })
        .await;
    }

    /// Waits until the row is so.
    pub(super) async fn until_row(&self, id: &EndpointId, what: &str, is_so: impl Fn(&Row) -> bool) -> Row {
        until(what, async || Some(self.row(id).await).filter(|row| is_so(row))).await
    }

    /// All attempts, oldest first.
    pub(super) async fn attempts(&self, id: &EndpointId) -> Vec<AttemptRow> {
        let mut attempts = self.store.attempts(id, None, 1000).await.unwrap();
        attempts.reverse();
        attempts
    }

    pub(super) fn subjects(&self) -> Vec<&'static str> {
        self.alerts.lock().unwrap().iter().map(|(subject, _)| *subject).collect()
    }
}

pub(super) fn secret(byte: u8) -> SigningSecret {
    SigningSecret::generate(&[byte; 32])
}

pub(super) fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        secret: secret(1),
        previous: None,
        headers: UserHeaders::read([("X-Own", "value")]).unwrap(),
        description: String::new(),
        feeds: FeedChoice::Named(vec!["kde".into()]),
        template: None,
        created_us: 0,
    }
}

/// The JSON of a request.
pub(super) fn json(got: &Got) -> Value {
    serde_json::from_str(&got.body).unwrap_or_else(|_| panic!("no JSON: {}", got.body))
}

/// The bugs of a request.
pub(super) fn told(got: &Got) -> Vec<u64> {
    let json = json(got);
    match json["changes"].as_array() {
        Some(changes) => changes.iter().map(|change| change["bug"].as_u64().unwrap()).collect(),
        None => json["bug"].as_u64().into_iter().collect(),
    }
}

/// The number of a request's cursor.
pub(super) fn number(got: &Got) -> u64 {
    Cursor::parse(json(got)["cursor"].as_str().unwrap()).unwrap().seq
}

/// Whether a request is signed with this secret.
pub(super) fn is_signed(got: &Got, secret: &SigningSecret) -> bool {
    let now = When::from_system_time(SystemTime::now());
    let stamped = Stamped::read(&got.headers, now).unwrap();
    stamped.fits(secret.key(), &[got.body.as_bytes()])
}
