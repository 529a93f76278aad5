//! What senders send and what they are told, byte by byte: `golden/receiver/NAME.http`, a request and its answer. They are
//! what PROTOCOL.md shows. The receiver and the store are the real ones. `BUGFEED_GOLDEN=write` writes the answers anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bugfeed_hooks::receive::http::{Intake, KeyRow, ReceiverLimits};
use bugfeed_hooks::store::intake::{Desk, intake};
use bugfeed_hooks::store::{Options as StoreOptions, Store};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::store::Mode;
use crate::support::{Answer, Options, Rig, key, read, row};

/// Exchanges with a receiver that works, in the order in which they happen.
const ORDINARY: [&str; 47] = [
    "queued",
    "duplicate",
    "same-delivery",
    "same-time",
    "unreadable-date",
    "partly",
    "all-errored",
    "not-retryable",
    "empty-list",
    "ndjson",
    "broken-line",
    "not-json",
    "empty",
    "encoding",
    "too-many",
    "honest-too-many",
    "not-mapped",
    "other-project",
    "ignored",
    "connected",
    "github",
    "form",
    "form-without-field",
    "bugzilla",
    "private",
    "basic",
    "x-api-key",
    "x-secret-key",
    "public-path",
    "path-key",
    "curl",
    "no-key",
    "honest-no-key",
    "no-key-but-in-path",
    "unknown-source",
    "wrong-key",
    "no-form-of-a-key",
    "expired-key",
    "revoked-key",
    "key-of-another-source",
    "wrong-signature",
    "malformed-signature",
    "not-signed",
    "no-secret",
    "honest-stale-signature",
    "too-large",
    "honest-too-large",
];
/// Exchanges with a receiver that is in some trouble.
const TROUBLED: [&str; 9] = [
    "wrong-method",
    "broken",
    "spooled",
    "lost",
    "busy",
    "slow",
    "stopping",
    "honest-too-many-refused",
    "quarantine-full",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/receiver")
}

/// A request and its answer, as they stand in the file.
struct Exchange {
    name: &'static str,
    request: String,
    answer: String,
}

impl Exchange {
    fn read(name: &'static str) -> Exchange {
        let text = std::fs::read_to_string(folder().join(format!("{name}.http"))).unwrap();
        let (request, answer) = match text.find("\nHTTP/1.1 ") {
            Some(at) => (&text[..=at], &text[at + 1..]),
            None => (text.as_str(), ""),
        };
        Exchange { name, request: request.to_owned(), answer: answer.to_owned() }
    }

    /// The request as it is sent: with the headers that say nothing in the file.
    fn bytes(&self) -> Vec<u8> {
        let (head, body) = self.request.split_once("\n\n").unwrap_or((self.request.trim_end(), ""));
        let body = body.trim_end_matches('\n');
        let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
        lines.extend(["Host: hooks.example.org".to_owned(), "Connection: close".to_owned()]);
        if !head.contains("Content-Length") && !head.contains("Transfer-Encoding") {
            lines.push(format!("Content-Length: {}", body.len()));
        }
        format!("{}\r\n\r\n{body}", lines.join("\r\n")).into_bytes()
    }

    /// Compares, or writes.
    fn check(&self, answer: &Answer) {
        let mut text = format!("HTTP/1.1 {}\n", answer.head.lines().next().unwrap().split_once(' ').unwrap().1);
        for header in ["content-type", "retry-after", "allow"] {
            if let Some(value) = answer.header(header) {
                text.push_str(&format!("{header}: {value}\n"));
            }
        }
        text.push('\n');
        text.push_str(&plain_ids(&answer.body));
        if std::env::var_os("BUGFEED_GOLDEN").is_some_and(|word| word == "write") {
            let whole = format!("{}\n\n{text}", self.request.trim_end_matches('\n'));
            std::fs::write(folder().join(format!("{}.http", self.name)), whole).unwrap();
        } else {
            assert_eq!(text, self.answer, "{}; BUGFEED_GOLDEN=write writes these anew", self.name);
        }
    }

    /// The body of the answer.
    fn body(&self) -> &str {
        self.answer.split_once("\n\n").map_or("", |(_, body)| body.trim_end())
    }
}

/// The text with the identifiers in it replaced, in the order in which they come.
fn plain_ids(text: &str) -> String {
    let is_id = |word: &str| word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let mut known: Vec<String> = Vec::new();
    let mut plain = String::with_capacity(text.len());
    // They stand as members and, in words, in commands.
    for piece in text.split_inclusive(['"', '`', ' ']) {
        let word = piece.trim_end_matches(['"', '`', ' ']);
        if !is_id(word) {
            plain.push_str(piece);
            continue;
        }
        let place = known.iter().position(|id| id == word).unwrap_or_else(|| {
            known.push(word.to_owned());
            known.len() - 1
        });
        plain.push_str(&format!("01a1ee56-5e7b-774b-8000-{:012}{}", place + 1, &piece[word.len()..]));
    }
    plain
}

/// The keys that `golden/receiver/hooks.toml` tells of, besides the good one.
fn keys() -> Vec<KeyRow> {
    let only = |name: &str| Some(vec![name.to_owned()]);
    vec![
        row(&key(1)),
        KeyRow { feeds: only("red-feed"), ..row(&key(2)) },
        KeyRow { expires_us: Some(1), ..row(&key(3)) },
        KeyRow { is_revoked: true, ..row(&key(4)) },
        KeyRow { sources: only("urls"), ..row(&key(5)) },
    ]
}

fn config() -> String {
    std::fs::read_to_string(folder().join("hooks.toml")).unwrap()
}

async fn rig(options: Options) -> Rig {
    let rig = Rig::with(Options { config: config(), ..options }).await;
    rig.keys.replace(keys());
    rig
}

/// A receiver with a store on a file, and the task of the store.
async fn rig_with_store(dir: &TempDir) -> (Rig, CancellationToken) {
    let url = bugfeed_sql::DbUrl::sqlite_file(dir.path().join("hooks.db"));
    let store = Store::open(&url, StoreOptions::default()).await.unwrap().store;
    let (handle, task) = intake(&store);
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    let desk: Arc<dyn Intake> = Arc::new(Desk { intake: handle, store });
    (rig(Options { intake: Some(desk), ..Options::default() }).await, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_senders_are_told() {
    let dir = TempDir::new().unwrap();
    let (rig, stop) = rig_with_store(&dir).await;
    for name in ORDINARY {
        let exchange = Exchange::read(name);
        let mut answer = rig.send(&exchange.bytes()).await;
        if let Some((before, rest)) = answer.body.split_once("webhook-timestamp is ") {
            // How old it is depends on the day.
            answer.body = format!("{before}webhook-timestamp is 400000000{}", &rest[rest.find(" s ").unwrap()..]);
        }
        exchange.check(&answer);
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_senders_are_told_in_trouble() {
    for name in TROUBLED {
        let exchange = Exchange::read(name);
        let mut answer = troubled(name, &exchange.bytes()).await;
        // The tests do not wait so long.
        answer.body = answer.body.replace("within 0.25 s", "within 30 s");
        exchange.check(&answer);
    }
}

/// Brings a receiver into the trouble of that name, and sends the request.
async fn troubled(name: &str, request: &[u8]) -> Answer {
    let away = || Options { mode: Mode::Away, spool_bytes: 10_000, replays: false, ..Options::default() };
    let limits = ReceiverLimits {
        body_time: Duration::from_millis(250),
        place_wait: Duration::from_millis(50),
        memory_bytes: 50_000,
        stop_grace: Duration::from_millis(50),
        quarantine_per_minute: 5,
        ..ReceiverLimits::default()
    };
    match name {
        "spooled" => rig(away()).await.send(request).await,
        "lost" => {
            let rig = rig(away()).await;
            loop {
                let answer = rig.send(request).await;
                if answer.status != 200 {
                    return answer;
                }
            }
        }
        "stopping" => {
            let limits = ReceiverLimits { memory_bytes: 500_000, body_time: Duration::from_secs(30), ..limits };
            let rig = rig(Options { limits, ..Options::default() }).await;
            let mut stream = rig.connect().await;
            stream.write_all(request).await.unwrap();
            // The receiver asks for the body: so it has read the head, and waits.
            let mut asked = [0; 25];
            stream.read_exact(&mut asked).await.unwrap();
            rig.stop.cancel();
            read(&mut stream).await
        }
        "honest-too-many-refused" | "quarantine-full" => {
            let rig = rig(Options { limits, ..Options::default() }).await;
            for _ in 0..5 {
                rig.send(request).await;
            }
            rig.send(request).await
        }
        "busy" => rig(Options { limits, ..Options::default() }).await.send(request).await,
        _ => {
            let limits = ReceiverLimits { memory_bytes: 500_000, ..limits };
            rig(Options { limits, ..Options::default() }).await.send(request).await
        }
    }
}

#[test]
fn every_file_is_an_exchange() {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let files: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|end| end == "http"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let names: BTreeSet<String> = ORDINARY.into_iter().chain(TROUBLED).map(str::to_owned).collect();
    assert_eq!(files, names);
}

/// PROTOCOL.md shows an answer as a whole, or all of its words; and it shows no other answer.
#[test]
fn the_specification_shows_every_answer() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../PROTOCOL.md")).unwrap();
    let exchanges: Vec<Exchange> = ORDINARY.into_iter().chain(TROUBLED).map(Exchange::read).collect();
    for exchange in &exchanges {
        let body = exchange.body();
        if text.contains(body) {
            continue;
        }
        let json: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
        if let Some(error) = json["error"].as_str() {
            assert!(text.contains(error), "PROTOCOL.md does not say what is told in {}: {error}", exchange.name);
        }
        for item in json["items"].as_array().into_iter().flatten() {
            let words = [&item["state"], &item["reason"]].into_iter().filter_map(Value::as_str);
            let links = ["duplicate_of", "same_delivery_as", "same_time_as", "retryable"];
            for word in words.chain(links.into_iter().filter(|name| !item[*name].is_null())) {
                assert!(text.contains(&format!("`{word}`")), "PROTOCOL.md does not tell `{word}` of {}", exchange.name);
            }
        }
    }
    for shown in text.lines().map(str::trim).filter(|line| line.contains("\"request\":\"")) {
        let body = &shown[shown.find('{').unwrap()..];
        assert!(exchanges.iter().any(|exchange| exchange.body() == body), "no file has the answer {body}");
    }
}
