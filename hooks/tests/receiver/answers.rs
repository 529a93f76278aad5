//! What senders are told, byte by byte: `golden/answers/NAME.http`. `BUGFEED_GOLDEN=write` writes the files anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bugfeed_hooks::receive::http::{KeyRow, ReceiverLimits};
use tokio::io::AsyncWriteExt as _;

use crate::store::Mode;
use crate::support::{Answer, Options, Rig, head, key, read, row};

/// The answers by name, as files.
#[derive(Default)]
struct Answers(BTreeMap<String, String>);

impl Answers {
    fn add(&mut self, name: &str, answer: &Answer) {
        let mut text = format!("HTTP/1.1 {}\n", answer.head.lines().next().unwrap().split_once(' ').unwrap().1);
        for header in ["content-type", "retry-after", "allow", "connection"] {
            // The tests' client asks that the connection be closed; the answer says so in all cases.
            if let Some(value) = answer.header(header).filter(|_| header != "connection") {
                text.push_str(&format!("{header}: {value}\n"));
            }
        }
        text.push('\n');
        text.push_str(&plain_ids(&answer.body));
        assert!(self.0.insert(name.to_owned(), text).is_none(), "{name} twice");
    }
}

/// The text with the identifiers in it replaced, in the order in which they come.
fn plain_ids(text: &str) -> String {
    let is_id = |word: &str| word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let mut known: Vec<String> = Vec::new();
    let parts = text.split('"').map(|word| {
        if !is_id(word) {
            return word.to_owned();
        }
        let place = known.iter().position(|id| id == word).unwrap_or_else(|| {
            known.push(word.to_owned());
            known.len() - 1
        });
        format!("01a1ee56-5e7b-774b-8000-{:012}", place + 1)
    });
    parts.collect::<Vec<_>>().join("\"")
}

async fn taken(answers: &mut Answers) {
    let rig = Rig::new().await;
    let first = r#"{"changes":[{"id":"d1","bug":1234,"when":"2026-05-20T14:20:00Z"}]}"#;
    answers.add("queued", &rig.post("/hooks/plain", first).await);
    answers.add("duplicate", &rig.post("/hooks/plain", first).await);
    let other = first.replace("20:00Z", "21:00Z");
    answers.add("same-delivery", &rig.post("/hooks/plain", other).await);
    let same_time = r#"{"bug":1234,"when":"2026-05-20T14:20:00Z","kind":"comment"}"#;
    answers.add("same-time", &rig.post("/hooks/plain", same_time).await);
    let partly = r#"{"changes":[{"bug":5},{"bug":"five"},{"bug":6,"private":true}]}"#;
    answers.add("partly", &rig.post("/hooks/plain", partly).await);
    answers.add("all-errored", &rig.post("/hooks/plain", r#"{"bug":"five"}"#).await);
    answers.add("not-retryable", &rig.post("/hooks/quiet", r#"{"bug":"five"}"#).await);
    answers.add("empty-list", &rig.post("/hooks/plain", r#"{"changes":[]}"#).await);
    answers.add("broken-line", &rig.post("/hooks/plain", "{\"bug\":7}\n{\"bug\":\n").await);
    answers.add("not-json", &rig.post("/hooks/plain", "bug=7").await);
    let many = format!(r#"{{"changes":[{}]}}"#, vec![r#"{"bug":1}"#; 501].join(","));
    answers.add("too-many", &rig.post("/hooks/plain", &many).await);
    answers.add("honest-too-many", &rig.post("/hooks/honest", &many).await);
    answers.add("not-mapped", &rig.post("/hooks/projects", r#"{"bug":8,"project":"green"}"#).await);
    let red = key(2);
    rig.keys.replace(vec![row(&rig.key), KeyRow { feeds: Some(vec!["red-feed".to_owned()]), ..row(&red) }]);
    let bearer = format!("Bearer {}", red.expose());
    let body = r#"{"bug":9,"project":"blue"}"#;
    answers.add("other-project", &rig.post_with("/hooks/projects", &[("Authorization", &bearer)], body).await);
    let token = ("X-Gitlab-Token", "a token of gitlab");
    let event = ("X-Gitlab-Event", "Push Hook");
    answers.add("ignored", &rig.post_with("/hooks/gitlab", &[token, event], r#"{"object_kind":"push"}"#).await);
    let body = r#"{"zen":"Keep it simple.","hook_id":1}"#;
    // The signature of this body.
    let tag = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"It's a Secret to Everybody"),
        body.as_bytes(),
    );
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = [("X-GitHub-Event", "ping"), ("X-Hub-Signature-256", &format!("sha256={hex}"))];
    answers.add("connected", &rig.post_with("/hooks/github", &headers, body).await);
}

async fn refused(answers: &mut Answers) {
    let limits = ReceiverLimits { quarantine_per_minute: 20, ..ReceiverLimits::default() };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    let body = r#"{"bug":1}"#;
    answers.add("no-key", &rig.post_with("/hooks/plain", &[], body).await);
    answers.add("honest-no-key", &rig.post_with("/hooks/honest", &[], body).await);
    answers.add("no-key-but-in-path", &rig.post_with("/hooks/plain/x", &[], body).await);
    answers.add("unknown-source", &rig.post("/hooks/nobody", body).await);
    answers.add("wrong-key", &rig.post_with("/hooks/plain", &[("X-Api-Key", key(7).expose())], body).await);
    answers.add("no-form-of-a-key", &rig.post_with("/hooks/plain", &[("X-Api-Key", "hunter2")], body).await);
    for (name, bad) in [
        ("expired-key", KeyRow { expires_us: Some(1), ..row(&rig.key) }),
        ("revoked-key", KeyRow { is_revoked: true, ..row(&rig.key) }),
        ("key-of-another-source", KeyRow { sources: Some(vec!["urls".to_owned()]), ..row(&rig.key) }),
    ] {
        rig.keys.replace(vec![bad]);
        answers.add(name, &rig.post("/hooks/plain", body).await);
    }
    let forged = [("X-GitHub-Event", "ping"), ("X-Hub-Signature-256", "sha256=00")];
    answers.add("wrong-signature", &rig.post_with("/hooks/github", &forged, body).await);
    answers.add("not-signed", &rig.post_with("/hooks/github", &forged[..1], body).await);
    let stale = [("webhook-id", "m"), ("webhook-timestamp", "1614265330"), ("webhook-signature", "v1,AAAA")];
    let mut answer = rig.post_with("/hooks/signed", &stale, body).await;
    let (before, rest) = answer.body.split_once("webhook-timestamp is ").unwrap();
    answer.body = format!("{before}webhook-timestamp is 400000000{}", &rest[rest.find(" s ").unwrap()..]);
    answers.add("honest-stale-signature", &answer);
    for _ in 0..19 {
        rig.post_with("/hooks/honest", &[], body).await;
    }
    answers.add("honest-too-many-refused", &rig.post_with("/hooks/honest", &[], body).await);
    for _ in 0..20 {
        rig.post_with("/hooks/plain", &[], body).await;
    }
    answers.add("quarantine-full", &rig.post_with("/hooks/plain", &[], body).await);
    let text = b"GET /hooks/plain HTTP/1.1\r\nHost: h\r\n\r\n";
    answers.add("wrong-method", &rig.send(text).await);
}

async fn not_taken(answers: &mut Answers) {
    let rig = Rig::with(Options { mode: Mode::Away, spool_bytes: 10_000, replays: false, ..Options::default() }).await;
    let body = r#"{"changes":[{"bug":1},{"bug":"one"}]}"#;
    answers.add("spooled", &rig.post("/hooks/plain", body).await);
    let full = loop {
        let answer = rig.post("/hooks/plain", body).await;
        if answer.status != 200 {
            break answer;
        }
    };
    answers.add("lost", &full);
    let limits = ReceiverLimits {
        body_time: Duration::from_millis(250),
        place_wait: Duration::from_millis(50),
        body_bytes: 100_000,
        memory_bytes: 50_000,
        file_from_bytes: 300_000,
        ..ReceiverLimits::default()
    };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    for (name, source) in [("too-large", "plain"), ("honest-too-large", "honest")] {
        answers.add(name, &rig.post(&format!("/hooks/{source}"), " ".repeat(100_001)).await);
    }
    answers.add("busy", &rig.post("/hooks/plain", " ".repeat(60_000)).await);
    let bearer = format!("Bearer {}", rig.key.expose());
    let mut stream = rig.connect().await;
    stream.write_all(&head("/hooks/plain", &[("Authorization", &bearer)], "Content-Length: 9")).await.unwrap();
    answers.add("slow", &read(&mut stream).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_senders_are_told() {
    let mut answers = Answers::default();
    taken(&mut answers).await;
    refused(&mut answers).await;
    not_taken(&mut answers).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/answers");
    if std::env::var_os("BUGFEED_GOLDEN").is_some_and(|word| word == "write") {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in &answers.0 {
            std::fs::write(folder.join(format!("{name}.http")), text).unwrap();
        }
        return;
    }
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let files: BTreeMap<String, String> = files
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    assert_eq!(answers.0.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    for (name, text) in &answers.0 {
        assert_eq!(text, &files[name], "{name}; BUGFEED_GOLDEN=write writes these anew");
    }
}
