//! Signed tokens, and an issuer whose keys change and cannot be had for a while.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bugfeed_testbed::eventually;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{ask, bearer, with_token};
use crate::support::{SOON, Serve, get};

fn part(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A key of an issuer, and its name.
struct Key(Ed25519KeyPair, &'static str);

impl Key {
    fn new(seed: u8, name: &'static str) -> Key {
        Key(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(), name)
    }

    fn public(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.1, "x": part(self.0.public_key().as_ref()) })
    }

    fn sign(&self, claims: &Value) -> String {
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.1 }).to_string();
        let message = format!("{}.{}", part(head.as_bytes()), part(claims.to_string().as_bytes()));
        format!("{message}.{}", part(self.0.sign(message.as_bytes()).as_ref()))
    }
}

/// Claims that are good for a minute, with these changes.
pub(super) fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "exp": now_s() + 60, "aud": ["account", "bugfeed"], "iss": "https://login.example.org/",
        "bugfeed": { "feeds": "*", "bugs": "*" }
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// Serves the set of keys over HTTP; `None`: answers 503.
async fn issuer(set: Arc<Mutex<Option<Value>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let body = set.lock().unwrap().clone();
            let status = if body.is_some() { "200 OK" } else { "503 Service Unavailable" };
            let body = body.map(|body| body.to_string()).unwrap_or_default();
            let length = body.len();
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

async fn status(serve: &Serve, token: &str) -> (u16, Option<String>) {
    let (status, _, body) = ask(serve.clients, "GET /changes?bugs=1", &bearer(token)).await;
    (status, body["error"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn keys_of_an_issuer_that_change_and_are_away() {
    let (old, new) = (Key::new(1, "old"), Key::new(2, "new"));
    let set = Arc::new(Mutex::new(Some(json!({ "keys": [old.public()] }))));
    let url = issuer(Arc::clone(&set)).await;
    let policy = ["--jwt-audience", "bugfeed", "--jwt-issuer", "https://login.example.org/"];
    let often = ["--jwt-keys-retry-s", "1", "--jwt-keys-refresh-s", "1"];
    let serve = Serve::start(&[&["--jwt-keys", &url][..], &policy, &often].concat()).await;
    let good = old.sign(&claims(&json!({})));
    assert_eq!(status(&serve, &good).await.0, 200);
    for (changes, want) in [
        (json!({ "exp": now_s() - 61 }), "it has expired"),
        (json!({ "nbf": now_s() + 90 }), "it is not valid yet (nbf)"),
        (json!({ "aud": "account" }), "it is for another audience (aud)"),
        (json!({ "iss": "https://login.example.com/" }), "it is from another issuer (iss)"),
        (json!({ "exp": null }), "it does not say when it expires (exp)"),
    ] {
        let refused = status(&serve, &old.sign(&claims(&changes))).await;
        assert_eq!(refused, (401, Some(format!("invalid token: {want}"))), "{changes}");
    }
    let forged = Key::new(3, "old").sign(&claims(&json!({})));
    assert_eq!(status(&serve, &forged).await, (401, Some("invalid token: its signature does not fit".to_owned())));
    let none = format!("{}.{}.", part(br#"{"alg":"none"}"#), good.split('.').nth(1).unwrap());
    assert_eq!(
        status(&serve, &none).await,
        (401, Some("invalid token: its algorithm is not that of the key".to_owned()))
    );

    // The issuer changes its key: the first token that names it has the issuer asked.
    *set.lock().unwrap() = Some(json!({ "keys": [new.public()] }));
    let fresh = new.sign(&claims(&json!({})));
    let taken = async || if status(&serve, &fresh).await.0 == 200 { Ok(()) } else { Err("refused") };
    eventually(SOON, "the new key", taken).await.unwrap();
    let refused = async || if status(&serve, &good).await.0 == 401 { Ok(()) } else { Err("let in") };
    eventually(SOON, "the end of the old key", refused).await.unwrap();

    // The issuer is away: what is known goes on, and somebody is told.
    *set.lock().unwrap() = None;
    let warned = async || {
        let (status, body) = get(serve.admin, "/readyz").await;
        if status == 200 && body.contains("--jwt-keys") { Ok(body) } else { Err(body) }
    };
    let warning = eventually(SOON, "a warning", warned).await.unwrap();
    assert!(warning.contains("it answers 503") && warning.contains("are good for"), "{warning}");
    assert_eq!(status(&serve, &fresh).await.0, 200);
}

#[tokio::test]
async fn keys_that_were_never_had_are_no_fault_of_the_client() {
    let url = issuer(Arc::default()).await;
    let serve = Serve::start(&["--jwt-keys", &url]).await;
    let token = Key::new(1, "k").sign(&json!({ "exp": now_s() + 60, "bugfeed": { "feeds": "*", "bugs": "*" } }));
    let (status, head, body) = ask(serve.clients, "GET /changes?bugs=1", &bearer(&token)).await;
    assert!(status == 503 && head.contains("retry-after: 5"), "{head} {body}");
    let mut client = serve.client().await;
    client.send(json!({ "command": "hello", "token": token }).to_string()).await;
    assert_eq!(client.close_code().await, 1013);
}

#[tokio::test]
async fn a_signed_token_ends_its_session_when_it_expires() {
    let key = Key::new(1, "k");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, json!({ "keys": [key.public()] }).to_string()).unwrap();
    let options = ["--jwt-keys", file.to_str().unwrap(), "--jwt-audience", "bugfeed", "--jwt-leeway-s", "0"];
    let serve = Serve::start(&options).await;
    let bugs = json!({ "feeds": ["default"], "bugs": [1], "max_subscriptions": 1 });
    let mut client = with_token(&serve, &key.sign(&claims(&json!({ "exp": now_s() + 2, "bugfeed": bugs })))).await;
    client.subscribe(&[1]).await;
    assert!(client.ask(r#"{"command":"subscribe","bugs":2}"#).await.contains("this token is not for bug 2"));
    let begun = std::time::Instant::now();
    assert_eq!(client.close_code().await, 4401);
    assert!(begun.elapsed() < Duration::from_secs(5));
}
