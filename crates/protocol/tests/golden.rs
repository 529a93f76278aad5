//! The exact bytes of every message on the wire: each file below `golden/` is produced or understood here, and shown in
//! PROTOCOL.md.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use bugfeed_protocol::bus::{self, BusMessage, Format, Head, Message};
use bugfeed_protocol::client::{self, Command, Refusal, Resume, WhichBugs, errors};
use bugfeed_protocol::server::{self, FeedState, Limits, Notice, Reply, Verdict};
use bugfeed_protocol::token::Token;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, Tag, When};

fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

fn when(text: &str) -> When {
    When::parse_utc(text).unwrap()
}

fn change() -> Change {
    Change { bug: bug(1234), when: when("2014-04-03T21:13:45") }
}

fn cursor(seq: u64) -> Cursor {
    Cursor::new(Epoch::parse("9f86d081884c7d65").unwrap(), seq).tagged(Tag::parse("5e3c9a01"))
}

/// Every golden file below a folder, by its name without `.json`.
fn files(folder: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
    let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

/// What the gateway sends where it wants tokens.
fn about_tokens() -> [(&'static str, Vec<u8>); 5] {
    let denied = |command, error| Reply::Denied { command, error }.encode();
    [
        ("goaway-token", Notice::TokenOver { reason: "token expired", cursor: Some(&cursor(130)) }.encode()),
        ("error-token-needed", denied("subscribe", errors::TOKEN_NEEDED)),
        ("error-token-bug", denied("subscribe", "this token is not for bug 7")),
        ("error-token-count", denied("subscribe", "this token may watch at most 100 bugs")),
        ("error-token-invalid", denied("hello", "invalid token: it has expired")),
    ]
}

#[test]
fn what_the_gateway_sends() {
    let update = |when| {
        let mut out = Vec::new();
        server::write_update(&mut out, Change { when, ..change() });
        out
    };
    let refused =
        |command: Option<&str>, error| Reply::Refused(&Refusal { command: command.map(str::to_owned), error }).encode();
    let reply = |command, bugs: &[BugId]| Reply::Bugs { command, bugs, all: false }.encode();
    let count = |command, count, replay, seq| {
        Reply::Count { command, count, all: false, replay, cursor: Some(&cursor(seq)) }.encode()
    };
    let all = |replay, seq| {
        Reply::Count { command: "subscribe", count: 1, all: true, replay, cursor: Some(&cursor(seq)) }.encode()
    };
    let mut update_modern = Vec::new();
    server::write_update_with_cursor(&mut update_modern, change(), &cursor(57));
    let hello = |expires| {
        Reply::Hello {
            version: "0.1.0",
            feed: "default",
            heartbeat_s: 30,
            cursor: Some(&cursor(88)),
            limits: Limits { subscriptions: 10_000, message_bytes: 262_144 },
            expires,
        }
        .encode()
    };
    let heartbeat = |paused| Notice::Heartbeat { cursor: Some(&cursor(91)), paused }.encode();
    let gap = |spread_ms| Notice::Gap { cursor: Some(&cursor(120)), spread_ms }.encode();
    let made: BTreeMap<String, String> = [
        ("hello", hello(None)),
        ("hello-expires", hello(Some(when("2026-11-27T12:00:00")))),
        ("subscribe-modern", count("subscribe", 2, None, 88)),
        ("subscribe-complete", count("subscribe", 2, Some(Verdict::Complete), 42)),
        ("subscribe-latest", count("subscribe", 2, Some(Verdict::Latest), 42)),
        ("subscribe-gap", count("subscribe", 2, Some(Verdict::Gap), 88)),
        ("unsubscribe-modern", count("unsubscribe", 1, None, 88)),
        ("subscribe-all", all(None, 88)),
        ("subscribe-all-complete", all(Some(Verdict::Complete), 42)),
        ("subscriptions-all", Reply::Bugs { command: "subscriptions", bugs: &[bug(5678)], all: true }.encode()),
        ("error-all-not-allowed", refused(Some("subscribe"), errors::ALL_NOT_ALLOWED)),
        ("update-modern", update_modern),
        ("heartbeat", heartbeat(false)),
        ("heartbeat-paused", heartbeat(true)),
        ("gap", gap(0)),
        ("gap-spread", gap(20_000)),
        ("feed-paused", Notice::Feed { state: FeedState::Paused, since: change().when }.encode()),
        ("feed-live", Notice::Feed { state: FeedState::Live, since: change().when }.encode()),
        ("goaway", Notice::GoAway { retry_after_ms: 2300, cursor: Some(&cursor(130)) }.encode()),
        ("error-invalid-cursor", refused(Some("subscribe"), errors::INVALID_CURSOR)),
        ("error-invalid-heartbeat", refused(Some("hello"), errors::INVALID_HEARTBEAT)),
        ("subscribe", reply("subscribe", &[bug(1234), bug(5678)])),
        ("unsubscribe", reply("unsubscribe", &[bug(5678)])),
        ("subscriptions", reply("subscriptions", &[bug(5678)])),
        ("version", Reply::Version("0.1.0").encode()),
        ("update", update(when("2014-04-03T21:13:45"))),
        ("update-fraction", update(when("2014-04-03T21:13:45.123456"))),
        ("error-invalid-command", refused(Some("nonsense"), errors::INVALID_COMMAND)),
        ("error-missing-bugs", refused(Some("subscribe"), errors::MISSING_BUGS)),
        ("error-invalid-bug", refused(Some("subscribe"), errors::INVALID_BUG)),
        ("error-invalid-since", refused(Some("subscribe"), errors::INVALID_SINCE)),
        ("error-too-many", refused(Some("subscribe"), errors::TOO_MANY)),
        ("error-not-json", refused(None, errors::NOT_JSON)),
        ("error-not-an-object", refused(None, errors::NOT_AN_OBJECT)),
        ("error-missing-command", refused(None, errors::MISSING_COMMAND)),
    ]
    .into_iter()
    .chain(about_tokens())
    .map(|(name, bytes)| (name.to_owned(), String::from_utf8(bytes).unwrap()))
    .collect();
    assert_eq!(made, files("server"));
}

#[test]
fn what_clients_send() {
    let bugs = || WhichBugs::These(vec![bug(1234), bug(5678)]);
    let all = || WhichBugs::All;
    let understood: BTreeMap<String, Command> =
        files("client").into_iter().map(|(name, text)| (name, client::parse(&text).unwrap())).collect();
    let want = [
        ("hello", Command::Hello { heartbeat_s: 30, token: None }),
        ("hello-token", Command::Hello { heartbeat_s: 30, token: Some(Token::new("TOKEN")) }),
        ("subscribe", Command::Subscribe { bugs: bugs(), since: None, resume: None }),
        ("subscribe-since", Command::Subscribe { bugs: bugs(), since: Some(change().when), resume: None }),
        ("subscribe-resume", Command::Subscribe { bugs: bugs(), since: None, resume: Some(Resume::From(cursor(42))) }),
        ("unsubscribe", Command::Unsubscribe { bugs: vec![bug(1234)].into() }),
        ("subscribe-all", Command::Subscribe { bugs: all(), since: None, resume: None }),
        (
            "subscribe-all-resume",
            Command::Subscribe { bugs: all(), since: None, resume: Some(Resume::From(cursor(42))) },
        ),
        ("unsubscribe-all", Command::Unsubscribe { bugs: all() }),
        ("subscriptions", Command::Subscriptions),
        ("version", Command::Version),
    ];
    assert_eq!(understood, want.map(|(name, command)| (name.to_owned(), command)).into());
}

#[test]
fn what_travels_on_the_bus() {
    let files = files("bus");
    let recorded = when("2014-04-03T21:13:46.5");
    let numbered = Numbered { change: change(), cursor: cursor(88), after: None, recorded };
    let after = Tag::parse("b07f11c2");
    for (name, format, exchange, after) in [
        ("native", Format::Native, "bugfeed.default", after),
        ("pulse", Format::Pulse, "exchange/bugzilla/simple", None),
    ] {
        let made = bus::encode(&Numbered { after, ..numbered.clone() }, format, exchange);
        assert_eq!(String::from_utf8(made.clone()).unwrap(), files[name], "{name}");
        assert_eq!(
            bus::decode(&made).unwrap(),
            BusMessage { change: change(), cursor: Some(cursor(88)), after },
            "{name}"
        );
    }
    let sent = Some(when("2014-04-03T21:13:47.001"));
    for (name, paused, sent) in [("head", None, sent), ("head-paused", Some("change table".to_owned()), None)] {
        let head = Head { cursor: cursor(88), interval_ms: 2000, paused, sent };
        assert_eq!(String::from_utf8(bus::encode_head(&head)).unwrap(), files[name], "{name}");
        assert_eq!(bus::decode_head(files[name].as_bytes()).unwrap(), head, "{name}");
    }
    let second = Change { bug: bug(5678), when: when("2014-04-03T21:13:45.123456") };
    let batch = [Numbered { after, ..numbered.clone() }, Numbered { change: second, cursor: cursor(89), ..numbered }];
    assert_eq!(String::from_utf8(bus::encode_batch(&batch)).unwrap(), files["batch"]);
    let read = bus::read(Some(bus::BATCH_TYPE), files["batch"].as_bytes()).unwrap();
    assert_eq!(read, Message::Batch(batch.into_iter().map(|numbered| Ok(BusMessage::from(numbered))).collect()));
    let foreign = bus::decode(files["foreign"].as_bytes()).unwrap();
    assert_eq!(foreign, BusMessage { change: change(), cursor: None, after: None });
    assert_eq!(files.len(), 6, "a file that nothing checks");
}

#[test]
fn the_specification_shows_every_message() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../PROTOCOL.md");
    let text = std::fs::read_to_string(path).unwrap();
    for folder in ["client", "server", "bus"] {
        for (name, message) in files(folder) {
            assert!(text.contains(&message), "PROTOCOL.md does not show {folder}/{name}: {message}");
        }
    }
}
