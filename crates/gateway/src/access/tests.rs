//! A gatekeeper with a file of tokens and a secret.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bugfeed_runtime::health::Health;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::keys::KeysFrom;
use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const TOKEN: &str = "a-token-that-nobody-knows";

fn entry(name: &str, token: &str, more: &str) -> String {
    format!("[[token]]\nname = '{name}'\ntoken = '{token}'\nfeeds = '*'\nbugs = '*'\n{more}\n")
}

struct Bed {
    folder: TempDir,
    again: Arc<Notify>,
}

impl Bed {
    fn new(tokens: &str) -> Bed {
        let bed = Bed { folder: tempfile::tempdir().unwrap(), again: Arc::default() };
        fs::write(bed.folder.path().join("secret"), SECRET).unwrap();
        bed.write(tokens);
        bed
    }

    fn write(&self, tokens: &str) {
        fs::write(self.folder.path().join("tokens.toml"), tokens).unwrap();
    }

    fn options(&self) -> AccessOptions {
        AccessOptions {
            tokens: Some(self.folder.path().join("tokens.toml")),
            keys: Some(KeysOptions {
                public: None,
                secret: Some(self.folder.path().join("secret")),
                refresh: Duration::from_secs(600),
                retry: Duration::from_secs(30),
                max_age: Duration::from_secs(600),
            }),
            policy: Policy { leeway_s: 60, ..Policy::default() },
            ticket_key: None,
            wait: Duration::from_secs(10),
            again: Arc::clone(&self.again),
        }
    }

    fn keeper(&self) -> Gatekeeper {
        Gatekeeper::open(self.options(), nobody()).unwrap()
    }
}

fn nobody() -> Fetch {
    Fetch(Arc::new(|_| Box::pin(async { Err("there is no network here".to_owned()) })))
}

/// A token with these claims, signed with the secret.
fn signed(claims: &Value) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", part(br#"{"alg":"HS256","typ":"JWT"}"#), part(claims.to_string().as_bytes()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{message}.{}", part(ring::hmac::sign(&key, message.as_bytes()).as_ref()))
}

fn now_s() -> i64 {
    now_us() / 1_000_000
}

async fn check(keeper: &Gatekeeper, token: &str) -> Result<Arc<Grant>, Refused> {
    keeper.check(&Token::new(token)).await
}

#[tokio::test]
async fn tokens_of_the_file_and_signed_ones() {
    let file = entry("a", TOKEN, "") + &entry("old", "an-old-token-of-last-year", "expires = 2020-01-01T00:00:00Z");
    let keeper = Bed::new(&file).keeper();
    assert!(check(&keeper, TOKEN).await.is_ok_and(|grant| grant.id == Some(file::id_of(TOKEN))));
    let rights = json!({ "feeds": "*", "bugs": [1, 2] });
    for (token, want) in [
        (signed(&json!({ "exp": now_s() + 60, "bugfeed": rights })), Ok(())),
        (signed(&json!({ "exp": now_s() - 61, "bugfeed": rights })), Err(Refused::Expired)),
        (signed(&json!({ "exp": now_s() + 60, "nbf": now_s() + 120, "bugfeed": rights })), Err(Refused::NotYet)),
        (signed(&json!({ "exp": now_s() + 60, "aud": "another", "bugfeed": rights })), Err(Refused::Audience)),
        (signed(&json!({ "bugfeed": rights })), Err(Refused::NoExpiry)),
        (signed(&json!({ "exp": now_s() + 60 })), Err(Refused::Claims)),
        (signed(&json!({ "exp": "soon", "bugfeed": rights })), Err(Refused::Malformed)),
        (signed(&json!({ "exp": now_s() + 60, "bugfeed": rights })).replace("eyJ", "eyK"), Err(Refused::Malformed)),
        ("an-old-token-of-last-year".to_owned(), Err(Refused::Expired)),
        ("A-token-that-nobody-knows".to_owned(), Err(Refused::Unknown)),
        ("not.three".to_owned(), Err(Refused::Unknown)),
        (String::new(), Err(Refused::Malformed)),
        ("two words".to_owned(), Err(Refused::Malformed)),
        ("x".repeat(LONGEST + 1), Err(Refused::TooLong)),
        (format!("{}.{}.x", "x".repeat(4000), "y".repeat(4000)), Err(Refused::Malformed)),
    ] {
        assert_eq!(check(&keeper, &token).await.map(drop), want, "{token}");
    }
}

#[tokio::test]
async fn without_keys_nothing_signed_is_taken() {
    let bed = Bed::new(&entry("a", TOKEN, ""));
    let keeper = Gatekeeper::open(AccessOptions { keys: None, ..bed.options() }, nobody()).unwrap();
    let token = signed(&json!({ "exp": now_s() + 60, "bugfeed": { "feeds": "*", "bugs": "*" } }));
    assert_eq!(check(&keeper, &token).await, Err(Refused::Unknown));
    assert!(check(&keeper, TOKEN).await.is_ok());
}

#[tokio::test]
async fn a_ticket_stands_for_its_token() {
    let bed = Bed::new(&entry("a", TOKEN, ""));
    let keeper = bed.keeper();
    let grant = check(&keeper, TOKEN).await.unwrap();
    let ticket = keeper.give_ticket(&grant, "kde").unwrap();
    assert_eq!(keeper.take_ticket(&ticket, "kde"), Ok(Arc::clone(&grant)));
    assert_eq!(keeper.take_ticket(&ticket, "kde"), Err(Refused::Ticket));
    // The token expires before its ticket.
    let short = Grant { id: None, ends: bugfeed_protocol::When::from_micros(1), ..Grant::clone(&grant) };
    let ticket = keeper.give_ticket(&short, "kde").unwrap();
    assert_eq!(keeper.take_ticket(&ticket, "kde"), Err(Refused::Expired));
}

#[test]
fn what_cannot_be_read_at_the_start_is_an_error_that_names_the_option() {
    let bed = Bed::new("[[token]]\nname = 'secret'\ntoken = 'secret'\n");
    let error = Gatekeeper::open(bed.options(), nobody()).unwrap_err();
    assert!(error.starts_with("--tokens ") && error.contains("tokens.toml"), "{error}");
    let away = |change: &dyn Fn(&mut AccessOptions)| {
        let mut options = bed.options();
        options.tokens = None;
        change(&mut options);
        Gatekeeper::open(options, nobody()).unwrap_err()
    };
    let missing = bed.folder.path().join("missing");
    let error = away(&|options| options.tokens = Some(missing.clone()));
    assert!(error.starts_with("--tokens ") && error.contains("missing"), "{error}");
    let error = away(&|options| options.ticket_key = Some(missing.clone()));
    assert!(error.starts_with("--ticket-key-file "), "{error}");
    let error = away(&|options| {
        options.keys.as_mut().unwrap().public = Some(KeysFrom::File(missing.clone()));
    });
    assert!(error.starts_with("--jwt-keys "), "{error}");
}

/// The file is changed, broken and mended while the gatekeeper runs.
#[tokio::test]
async fn files_are_read_again_and_a_broken_one_leaves_the_one_before() {
    let bed = Bed::new(&entry("a", TOKEN, ""));
    let keeper = Arc::new(bed.keeper());
    let (health, stop) = (Health::new(), CancellationToken::new());
    let (told, mut tables) = tokio::sync::mpsc::unbounded_channel();
    let changed = move |table: Arc<Table>| {
        let told = told.clone();
        async move { told.send(table.len()).unwrap() }
    };
    let watching = tokio::spawn(Arc::clone(&keeper).watch(health.clone(), stop.clone(), changed));
    // It is noticed without a signal.
    bed.write(&(entry("a", TOKEN, "") + &entry("b", "another-long-token", "")));
    assert_eq!(tables.recv().await, Some(2));
    assert!(check(&keeper, "another-long-token").await.is_ok());
    bed.write("[[token]]\nbroken secret");
    bed.again.notify_one();
    let warned = async {
        while health.report().lines.is_empty() {
            tokio::task::yield_now().await;
        }
        health.report()
    };
    let report = warned.await;
    assert!(report.ready && report.lines[0].contains("--tokens"), "{report:?}");
    assert!(report.lines[0].contains("what was read before goes on") && !report.lines[0].contains("secret"));
    assert!(check(&keeper, TOKEN).await.is_ok());
    bed.write("");
    bed.again.notify_one();
    assert_eq!(tables.recv().await, Some(0));
    while !health.report().lines.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(check(&keeper, TOKEN).await, Err(Refused::Unknown));
    stop.cancel();
    watching.await.unwrap();
}

/// Log lines of each level, and what `Debug` shows.
#[tokio::test]
async fn nothing_shows_a_token() {
    let bed = Bed::new(&entry("a", TOKEN, ""));
    let keeper = bed.keeper();
    let shown = std::sync::Arc::new(Mutex::new(String::new()));
    let text = format!("{keeper:?} {:?} {:?}", bed.options(), Token::new(TOKEN));
    shown.lock().unwrap().push_str(&text);
    assert!(!text.contains(TOKEN) && !text.contains(SECRET), "{text}");
}
