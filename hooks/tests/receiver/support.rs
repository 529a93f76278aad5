//! A receiver that serves on a port of its own, and a client that sends bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_hooks::config::HooksConfig;
use bugfeed_hooks::receive::http::{Intake, KeyRow, KeyTable, Receiver, ReceiverEvents, ReceiverLimits, ReceiverParts};
use bugfeed_hooks::receive::key::{Key, RANDOM_BYTES};
use bugfeed_hooks::receive::spool::{OpenError, Spool, SpoolOptions};
use bugfeed_runtime::health::Health;
use bugfeed_runtime::http::{ConnectionEvents, ListenLimits, bind, serve};
use bugfeed_runtime::metrics::Metrics;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::{FakeStore, Mode};

pub(crate) const CONFIG: &str = r#"
    [[source]]
    name = "plain"
    preset = "plain"
    [[source]]
    name = "honest"
    preset = "plain"
    answers = "honest"
    [[source]]
    name = "urls"
    preset = "plain"
    path_key = true
    [[source]]
    name = "quiet"
    preset = "plain"
    bodies = "none"
    [[source]]
    name = "github"
    preset = "github"
    secret = "It's a Secret to Everybody"
    feed = { map = { "octo/hello" = "hello" }, else = "drop" }
    [[source]]
    name = "gitea"
    preset = "gitea"
    secret = "3f2b"
    [[source]]
    name = "gitlab"
    preset = "gitlab"
    secret = "a token of gitlab"
    [[source]]
    name = "signed"
    preset = "plain"
    answers = "honest"
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    [[source]]
    name = "projects"
    preset = "plain"
    feed = { from = "/project", map = { "red" = "red-feed", "blue" = "blue-feed" }, else = "drop" }
"#;

/// How a rig is made.
pub(crate) struct Options {
    pub(crate) config: String,
    /// The store; without it, one in memory.
    pub(crate) intake: Option<Arc<dyn Intake>>,
    pub(crate) limits: ReceiverLimits,
    pub(crate) head_time: Duration,
    pub(crate) mode: Mode,
    pub(crate) has_keys: bool,
    pub(crate) quarantine_room: usize,
    pub(crate) spool_bytes: u64,
    /// Whether the spool is replayed.
    pub(crate) replays: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            config: CONFIG.to_owned(),
            intake: None,
            limits: ReceiverLimits::default(),
            head_time: Duration::from_secs(10),
            mode: Mode::Up,
            has_keys: true,
            quarantine_room: 1000,
            spool_bytes: 16 * 1024 * 1024,
            replays: true,
        }
    }
}

/// A receiver, its store and its port.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<FakeStore>,
    pub(crate) keys: KeyTable,
    pub(crate) key: Key,
    pub(crate) receiver: Receiver,
    pub(crate) spool: Spool,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
    pub(crate) folder: Arc<TempDir>,
}

struct Silent;

impl ConnectionEvents for Silent {
    fn accept_failed(&self, _: &std::io::Error, _: bool) {}
    fn turned_away(&self, _: &'static str, _: Option<std::net::IpAddr>) {}
}

/// The key whose random bytes are all this one.
pub(crate) fn key(byte: u8) -> Key {
    Key::generate(&[byte; RANDOM_BYTES])
}

pub(crate) fn row(key: &Key) -> KeyRow {
    let (id, hash) = (key.id().to_owned(), key.hash());
    KeyRow { id, hash, previous: None, sources: None, feeds: None, expires_us: None, is_revoked: false }
}

/// Opens the spool, once the thread of an earlier one has let it go.
pub(crate) fn open_spool(folder: &Path, max_bytes: u64) -> Spool {
    loop {
        let options = SpoolOptions { max_bytes, ..SpoolOptions::new(folder) };
        match Spool::open(options) {
            Ok((spool, _)) => return spool,
            Err(OpenError::InUse(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Rig {
    pub(crate) async fn new() -> Rig {
        Rig::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Rig {
        Rig::in_folder(options, Arc::new(TempDir::new().unwrap())).await
    }

    pub(crate) async fn in_folder(options: Options, folder: Arc<TempDir>) -> Rig {
        collect_logs();
        let config = HooksConfig::read("test", &options.config, &|_| Err("no file".to_owned())).unwrap();
        let store = Arc::new(FakeStore::new(options.mode, options.quarantine_room));
        let (keys, key, health) = (KeyTable::new(), key(1), Health::new());
        if options.has_keys {
            keys.replace(vec![row(&key)]);
        }
        let events = Arc::new(ReceiverEvents::new(health.clone()));
        let metrics = Metrics::of(&[&*events]);
        let spool = open_spool(folder.path(), options.spool_bytes);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let receiver = Receiver::new(ReceiverParts {
            config: Arc::new(config),
            intake: options.intake.unwrap_or_else(|| Arc::clone(&store) as Arc<dyn Intake>),
            keys: keys.clone(),
            spool: spool.clone(),
            body_folder: folder.path().to_owned(),
            limits: options.limits,
            events,
            tracker: tracker.clone(),
            stop: stop.clone(),
        });
        let listener = bind("listen", "127.0.0.1:0".parse().unwrap(), 64 * 1024).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ListenLimits {
            connections: 200,
            handshake_timeout: options.head_time,
            send_buffer_bytes: 64 * 1024,
            unacknowledged_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        };
        let serving = serve(listener, receiver.routes(), limits, Arc::new(Silent), tracker.clone(), stop.clone());
        tokio::spawn(serving);
        if options.replays {
            let (receiver, stop) = (receiver.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = receiver.replay_spool() => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Rig { address, store, keys, key, receiver, spool, health, metrics, stop, tracker, folder }
    }

    /// Posts JSON with the good key.
    pub(crate) async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.post_with(path, &[("Authorization", &format!("Bearer {}", self.key.expose()))], body).await
    }

    pub(crate) async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        self.send(&request(path, headers, body.as_ref())).await
    }

    /// Sends bytes, and reads until the other end closes.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        // An answer may come, and the connection be closed, before all is sent.
        let _ = stream.write_all(bytes).await;
        read(&mut stream).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A counter of the metrics page, with its labels as they are written; 0 if it is not there.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let page = self.metrics.page();
        let line = page.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

/// A request with `Content-Length`, after which the connection ends.
pub(crate) fn request(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = head(path, headers, &format!("Content-Length: {}", body.len()));
    bytes.extend_from_slice(body);
    bytes
}

/// The head of a request; `framing` is the header that says how long the body is.
pub(crate) fn head(path: &str, headers: &[(&str, &str)], framing: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}{framing}\r\n\r\n").into_bytes()
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Reads an answer until the other end closes.
pub(crate) async fn read(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    let ended = reading.expect("no answer in 20 s");
    let text = String::from_utf8(bytes).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { panic!("no answer: {ended:?} {text:?}") };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// `result`, and the states of the items.
    pub(crate) fn states(&self) -> (String, Vec<String>) {
        let json = self.json();
        let items = json["items"].as_array().cloned().unwrap_or_default();
        let states = items.iter().map(|item| item["state"].as_str().unwrap().to_owned()).collect();
        (json["result"].as_str().unwrap().to_owned(), states)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    #[track_caller]
    pub(crate) fn is(&self, status: u16, result: &str, states: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        let (found, found_states) = self.states();
        assert_eq!(
            (found.as_str(), found_states),
            (result, states.iter().map(|s| (*s).to_owned()).collect()),
            "{self:?}"
        );
    }
}

/// What all tests of this process have logged.
static LOGS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Logs;

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGS.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn collect_logs() {
    // Another test of this process may have done it.
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Logs).try_init();
}

pub(crate) fn logs() -> String {
    String::from_utf8_lossy(&LOGS.lock().unwrap()).into_owned()
}
